"""Plans by subject: where messages go, worked out once and remembered until interest changes.

A plan is found by its subject in one look-up. When a pattern comes or goes, all that it may match have to be
forgotten. Every client that connects brings one, ``_INBOX.<its own>.*``, and that must cost neither the
inboxes of all others their plans nor a look at all of them. So subjects of three tokens and more also stand
together by their first two. (Shorter ones are matched by no pattern that begins with two literal tokens.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.protocol.subjects import has_wildcard

if TYPE_CHECKING:
    from node.server.subscriptions import Plan

PLANS_MAX = 32_768
"""Subjects whose plans are remembered. All are forgotten when it is full."""

SUBJECT_MAX = 512
"""Bytes of a subject whose plan is remembered: any channel's or inbox's. A control line has room for eight
times as many, and so would a client have that thinks of another one each time."""

PLANS_SEARCHED_MAX = 4096
"""With more plans than this a pattern that begins otherwise makes all forgotten: none are looked for."""


class Plans(dict[bytes, "Plan"]):
    """The plans that are remembered, by subject."""

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        super().__init__()
        self._heads: dict[bytes, dict[bytes, None]] = {}
        """Subjects of three tokens and more, by their first two."""

    def remember(self, subject: bytes, plan: Plan) -> None:
        """Keep a plan, at the cost of all others if there are too many; not that of a very long subject."""
        if len(subject) > SUBJECT_MAX:
            return
        if len(self) >= PLANS_MAX:
            self.clear()
        self[subject] = plan
        head = _head(subject)
        if head:
            self._heads.setdefault(head, {})[subject] = None

    def forget(self, pattern: bytes) -> None:
        """Interest in ``pattern`` changed: the plans it may concern are made again when needed."""
        if not has_wildcard(pattern):
            self._drop(pattern)
            return
        prefix = _literal_prefix(pattern)
        head = _head(prefix)
        if not head and len(self) > PLANS_SEARCHED_MAX:
            self.clear()
            return
        among = self._heads.get(head, {}) if head else self
        for subject in [subject for subject in among if subject.startswith(prefix)]:
            self._drop(subject)

    def clear(self) -> None:
        super().clear()
        self._heads.clear()

    def _drop(self, subject: bytes) -> None:
        if self.pop(subject, None) is None:
            return
        head = _head(subject)
        if head:
            beside = self._heads[head]
            del beside[subject]
            if not beside:
                del self._heads[head]


def _head(subject: bytes) -> bytes:
    """The first two tokens of a subject that has more, else nothing."""
    first = subject.find(b".")
    second = subject.find(b".", first + 1)
    return subject[:second] if first >= 0 and second >= 0 else b""


def _literal_prefix(pattern: bytes) -> bytes:
    """What every subject that matches ``pattern`` begins with."""
    tokens: list[bytes] = []
    for token in pattern.split(b"."):
        if token in (b"*", b">"):
            tokens.append(b"")
            break
        tokens.append(token)
    return b".".join(tokens)
