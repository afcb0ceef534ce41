"""NATS subjects and patterns, channel names, client IDs; and the interest in subjects.

A subject consists of tokens separated by ``.``. In a pattern, the token ``*`` matches exactly one token, and
``>`` as the last token matches one or more. Within a longer token both are ordinary characters. A subject
without these two tokens is *literal*.

NATS subjects are ``bytes``, as on the wire: they need not be UTF-8. Channel names and client IDs come from
protobuf strings, are replicated and shown, and are ``str``.

Source: the NATS client protocol, "Subjects"; the streaming protocol, "Names".
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from functools import lru_cache
from typing import Generic, TypeVar

CHANNEL_NAME_SIZE_MAX = 255
"""Bytes of UTF-8. A channel name is also the tail of a NATS subject, which must fit into a control line."""

NAME_SIZE_MAX = 1024
"""Bytes of a name that a streaming client chooses: client ID, connection ID, guid, durable name, queue group,
inbox. Each is kept in memory and replicated as long as its object exists. Applications use a few dozen
bytes."""

MATCHES_CACHED_MAX = 4096
"""Number of cached subjects of an ``Interest``. A full cache is cleared."""

_SUBJECT = re.compile(rb"[^\s.]+(?:\.[^\s.]+)*")
_CHANNEL = re.compile(r"[^\s\x00-\x1f\x7f-\x9f/*>.]+(?:\.[^\s\x00-\x1f\x7f-\x9f/*>.]+)*")
_CLIENT_ID = re.compile(r"[a-zA-Z0-9_-]+")

T = TypeVar("T", bound=Hashable)


def valid_subject(subject: bytes) -> bool:
    """Return whether it can be subscribed to: no empty token, no white space, ``>`` only as last token."""
    if _SUBJECT.fullmatch(subject) is None:
        return False
    return b">" not in subject or b">" not in subject.split(b".")[:-1]


def literal(subject: bytes) -> bool:
    """Return whether clients may publish to it: a valid subject without wildcard tokens."""
    if _SUBJECT.fullmatch(subject) is None:
        return False
    return (b"*" not in subject and b">" not in subject) or not has_wildcard(subject)


def has_wildcard(subject: bytes) -> bool:
    """Return whether a token is ``*`` or ``>``."""
    tokens = subject.split(b".")
    return b"*" in tokens or b">" in tokens


def matches(pattern: bytes, subject: bytes) -> bool:
    """Return whether ``pattern`` matches ``subject``, whose tokens are all taken literally."""
    wanted, tokens = pattern.split(b"."), subject.split(b".")
    if wanted[-1] == b">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
    elif len(tokens) != len(wanted):
        return False
    return all(want in (b"*", token) for want, token in zip(wanted, tokens, strict=False))


def covers(pattern: bytes, narrower: bytes) -> bool:
    """Return whether every subject that matches ``narrower`` also matches ``pattern``.

    For permissions: a user with ``a.*`` must not subscribe to ``a.>``.
    """
    wanted, others = pattern.split(b"."), narrower.split(b".")
    if wanted[-1] == b">":
        wanted.pop()
        if len(others) <= len(wanted):
            return False
    elif len(others) != len(wanted) or others[-1] == b">":
        return False
    return all(
        want == other or (want == b"*" and other != b">")
        for want, other in zip(wanted, others, strict=False)
    )  # fmt: skip


def overlap(pattern: bytes, other: bytes) -> bool:
    """Return whether a subject matches both patterns.

    For permissions: a user denied ``a.b`` must not receive it by ``a.*``.
    """
    left, right = pattern.split(b"."), other.split(b".")
    for want, have in zip(left, right, strict=False):
        if b">" in (want, have):
            return True
        if want != have and b"*" not in (want, have):
            return False
    return len(left) == len(right)


def valid_channel(name: str) -> bool:
    """Return whether a channel may have this name.

    Not empty, no empty token, no ``/``, ``*`` or ``>`` anywhere, no white space or control character, at most
    255 bytes of UTF-8. (The reference accepts white space and any length; such a channel can't be published
    to, because its name is not part of a valid NATS subject.)
    """
    return len(name) <= CHANNEL_NAME_SIZE_MAX and _valid_channel(name)


@lru_cache(maxsize=1024)  # called for every message; the caller has checked the length of the name
def _valid_channel(name: str) -> bool:
    return _CHANNEL.fullmatch(name) is not None and len(name.encode()) <= CHANNEL_NAME_SIZE_MAX


def valid_client_id(client_id: str) -> bool:
    """Return whether it is one to ``NAME_SIZE_MAX`` ASCII letters, digits, ``-`` and ``_``."""
    return len(client_id) <= NAME_SIZE_MAX and _CLIENT_ID.fullmatch(client_id) is not None


def is_too_long(name: str) -> bool:
    """Return whether a name of a streaming client has more than ``NAME_SIZE_MAX`` bytes of UTF-8."""
    return len(name) > NAME_SIZE_MAX or (not name.isascii() and len(name.encode()) > NAME_SIZE_MAX)


class _Level(Generic[T]):
    """A node of the trie of wildcard patterns: the possible continuations of a prefix of tokens."""

    __slots__ = ("any_one", "any_tail", "here", "tokens")

    def __init__(self) -> None:
        self.tokens: dict[bytes, _Level[T]] = {}
        self.any_one: _Level[T] | None = None
        self.here: dict[T, int] = {}
        """Values whose pattern ends here, each with its insertion number."""
        self.any_tail: dict[T, int] = {}
        """Values whose pattern continues with ``>`` and ends."""

    def child(self, token: bytes) -> _Level[T] | None:
        return self.any_one if token == b"*" else self.tokens.get(token)

    def add_child(self, token: bytes) -> _Level[T]:
        level: _Level[T] = _Level()
        if token == b"*":
            self.any_one = level
        else:
            self.tokens[token] = level
        return level

    def drop_child(self, token: bytes) -> None:
        if token == b"*":
            self.any_one = None
        else:
            del self.tokens[token]

    @property
    def is_empty(self) -> bool:
        return not (self.tokens or self.here or self.any_tail or self.any_one)


class Interest(Generic[T]):
    """Maps subjects to the values of all matching patterns.

    Literal patterns, by far the most, are in a dictionary, the others in a trie by token. The matches of
    recent subjects are cached: a change of a literal pattern invalidates one of them, a change of a wildcard
    pattern all. No method recurses, because a control line can hold two thousand tokens.
    """

    def __init__(self) -> None:
        self._literals: dict[bytes, dict[T, int]] = {}
        self._root: _Level[T] = _Level()
        self._cached: dict[bytes, list[T]] = {}
        self._inserted = 0
        self._size = 0

    def __len__(self) -> int:
        """The number of pairs of a pattern and a value."""
        return self._size

    def insert(self, pattern: bytes, value: T) -> None:
        """Add ``value`` under ``pattern``; an existing pair keeps its position."""
        if has_wildcard(pattern):
            values = self._wildcard_values(pattern)
            self._cached.clear()
        else:
            values = self._literals.setdefault(pattern, {})
            self._cached.pop(pattern, None)
        if value not in values:
            self._inserted += 1
            self._size += 1
            values[value] = self._inserted

    def remove(self, pattern: bytes, value: T) -> None:
        """Remove ``value`` from ``pattern``.

        Raises:
            KeyError: it is not there.
        """
        if has_wildcard(pattern):
            self._remove_wildcard(pattern, value)
            self._cached.clear()
        else:
            values = self._literals[pattern]
            del values[value]
            if not values:
                del self._literals[pattern]
            self._cached.pop(pattern, None)
        self._size -= 1

    def match(self, subject: bytes) -> list[T]:
        """Return the values of all matching patterns, oldest insertion first, once per pattern.

        The caller must not change the list. It is not changed here either, so the caller may iterate over it
        while the interest changes.
        """
        found = self._cached.get(subject)
        if found is None:
            if len(self._cached) >= MATCHES_CACHED_MAX:
                self._cached.clear()
            found = self._cached[subject] = self.find(subject)
        return found

    def exactly(self, subject: bytes) -> Iterable[T]:
        """Return the values of the literal pattern ``subject``, oldest insertion first."""
        return self._literals.get(subject, ())

    def find(self, subject: bytes) -> list[T]:
        """Like `match` without the cache, for subjects that are looked up once or cached by the caller.

        The list belongs to the caller.
        """
        numbered = list(self._literals.get(subject, {}).items())
        if self._root.is_empty:
            return [value for value, _ in numbered]
        levels = [self._root]
        for token in subject.split(b"."):
            deeper: list[_Level[T]] = []
            for level in levels:
                numbered += level.any_tail.items()
                if (child := level.tokens.get(token)) is not None:
                    deeper.append(child)
                if level.any_one is not None:
                    deeper.append(level.any_one)
            levels = deeper
            if not levels:
                break
        for level in levels:
            numbered += level.here.items()
        numbered.sort(key=lambda pair: pair[1])
        return [value for value, _ in numbered]

    def _wildcard_values(self, pattern: bytes) -> dict[T, int]:
        tokens = pattern.split(b".")
        tail = tokens[-1] == b">"
        level = self._root
        for token in tokens[:-1] if tail else tokens:
            level = level.child(token) or level.add_child(token)
        return level.any_tail if tail else level.here

    def _remove_wildcard(self, pattern: bytes, value: T) -> None:
        tokens = pattern.split(b".")
        tail = tokens[-1] == b">"
        if tail:
            tokens.pop()
        path = [self._root]
        for token in tokens:
            level = path[-1].child(token)
            if level is None:
                raise KeyError(pattern)
            path.append(level)
        values = path[-1].any_tail if tail else path[-1].here
        del values[value]
        while tokens and path.pop().is_empty:  # remove empty levels
            path[-1].drop_child(tokens.pop())
