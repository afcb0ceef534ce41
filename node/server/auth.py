"""Who may connect, and what they may publish and subscribe to.

Modes: nobody is asked; one token; users, each with a password and perhaps permissions. A secret is
stored as plain text, compared in constant time, or as a bcrypt hash. A bcrypt comparison is slow on
purpose (tens to hundreds of milliseconds), so ``begin`` hands it back as a `Check` that the shell
runs in a worker thread; a password that was right once is remembered as a keyed digest, so that a
thousand clients which come back after a failover don't queue for the processor; so are the last wrong ones.

Plain objects without I/O.

Source: the NATS client protocol, "Authentication and permissions".
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from node.errors import ConfigError
from node.protocol.subjects import covers, matches, overlap, valid_subject

BCRYPT_PREFIXES = ("$2a$", "$2b$", "$2x$", "$2y$")
BCRYPT_PASSWORD_SIZE_MAX = 72
"""Bytes. bcrypt ignores what is behind them; the library refuses to be given more."""

WRONG_KEPT_MAX = 4096
"""Wrong passwords that are remembered, as digests: they are refused without being compared again."""

DECISIONS_CACHED_MAX = 8192
"""Subjects a set of permissions remembers its answer for. All are forgotten when it is full."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a user may publish to and subscribe to.

    ``None`` for an allow list means everything, an empty one nothing. A deny list wins over it.
    """

    publish_allow: tuple[bytes, ...] | None = None
    publish_deny: tuple[bytes, ...] = ()
    subscribe_allow: tuple[bytes, ...] | None = None
    subscribe_deny: tuple[bytes, ...] = ()
    _may_publish: dict[bytes, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        patterns = (
            *(self.publish_allow or ()),
            *self.publish_deny,
            *(self.subscribe_allow or ()),
            *self.subscribe_deny,
        )
        wrong = [pattern for pattern in patterns if not valid_subject(pattern)]
        if wrong:
            raise ConfigError([f"permissions: {pattern!r} is no valid subject pattern" for pattern in wrong])

    def may_publish(self, subject: bytes) -> bool:
        """Cost: a dictionary hit for a subject asked about lately."""
        allowed = self._may_publish.get(subject)
        if allowed is None:
            if len(self._may_publish) >= DECISIONS_CACHED_MAX:
                self._may_publish.clear()
            allowed = self._may_publish[subject] = _allowed(
                subject, self.publish_allow, self.publish_deny, matches
            )
        return allowed

    def may_subscribe(self, pattern: bytes) -> bool:
        """Every subject of ``pattern`` is in one allowed pattern, and not all of them are denied."""
        return _allowed(pattern, self.subscribe_allow, self.subscribe_deny, covers)

    def denied_within(self, pattern: bytes) -> tuple[bytes, ...]:
        """Denied patterns that an allowed subscription to ``pattern`` would otherwise hear a part of."""
        return tuple(deny for deny in self.subscribe_deny if overlap(deny, pattern))


def _allowed(subject: bytes, allow: tuple[bytes, ...] | None, deny: tuple[bytes, ...], within: Any) -> bool:
    if allow is not None and not any(within(pattern, subject) for pattern in allow):
        return False
    return not any(within(pattern, subject) for pattern in deny)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a connection belongs to. An empty name: nobody in particular."""

    name: str = ""
    permissions: Permissions | None = None
    """``None``: everything is permitted."""

    proven: bool = field(default=False, compare=False)
    """A secret was shown, and was right: it isn't merely whom this node takes everybody for."""

    is_operator: bool = field(default=False, compare=False)
    """It was the operator token."""


ANYBODY = Identity()
BEARER = Identity(proven=True)
"""Who has the token."""
OPERATOR = Identity(proven=True, is_operator=True)
"""Who has the operator token."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may connect. ``password`` is plain text or a bcrypt hash."""

    name: str
    password: str = field(repr=False)
    permissions: Permissions | None = None

    def __post_init__(self) -> None:
        _refuse_bad_hash(f"user {self.name}", self.password)


def is_hashed(secret: str) -> bool:
    """``secret`` is stored as a bcrypt hash."""
    return secret.startswith(BCRYPT_PREFIXES)


def _refuse_bad_hash(who: str, secret: str) -> None:
    if is_hashed(secret):
        import bcrypt  # only where there are hashes

        try:
            # Only the salt and the cost are read before the work starts: a hash that is broken
            # there is found now and not when somebody can't get in. Cost 4 keeps it short.
            bcrypt.hashpw(b"", (secret[:4] + "04" + secret[6:29]).encode())
        except ValueError as error:
            raise ConfigError([f"{who}: not a bcrypt hash: {error}"]) from error
        if len(secret) != 60:
            raise ConfigError([f"{who}: not a bcrypt hash: {len(secret)} characters, expected 60"])


def _same(expected: str, given: str) -> bool:
    """Plain texts compared in a time that tells nothing, not even their lengths."""
    return hmac.compare_digest(
        hashlib.sha256(expected.encode("utf-8", "surrogatepass")).digest(),
        hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest(),
    )


class Check:
    """A bcrypt comparison that is still to be made, in a worker thread.

    Args:
        authenticator: who remembers the outcome.
        hashed: the stored hash.
        given: what the client sent.
        identity: whom it would be; ``None`` if nobody, and only the time is to be spent.
        name: the user's, as the client gave it.
    """

    __slots__ = ("_authenticator", "_given", "_hashed", "_identity", "_name")

    def __init__(
        self, authenticator: Authenticator, hashed: str, given: str, identity: Identity | None, name: str
    ) -> None:
        self._name = name
        self._authenticator = authenticator
        self._hashed = hashed
        self._given = given
        self._identity = identity

    @property
    def by(self) -> Authenticator:
        """Who had it made."""
        return self._authenticator

    @property
    def user(self) -> str:
        """Whose password it is said to be; empty for a token, or for an unknown name."""
        return self._identity.name if self._identity is not None else ""

    @property
    def key(self) -> tuple[Authenticator, bytes]:
        """Equal for comparisons with the same outcome."""
        return self._authenticator, self._authenticator.digest_of(self._name, self._hashed, self._given)

    def run(self) -> Identity | None:
        """Compare. Takes long; touches nothing but a dictionary, so any thread may call it."""
        if self._identity is not None and self._authenticator.knows(self._hashed, self._given):
            return self._identity  # another connection was here first while this one queued
        import bcrypt

        password = self._given.encode("utf-8", "surrogatepass")[:BCRYPT_PASSWORD_SIZE_MAX]
        right = bcrypt.checkpw(password, self._hashed.encode())
        if not right or self._identity is None:
            self._authenticator.remember_wrong(self._name, self._hashed, self._given)
            return None
        self._authenticator.remember(self._hashed, self._given)
        return self._identity


class Authenticator:
    """Decides whose connection it is from the options of its CONNECT.

    Args:
        users: who may connect, each name once.
        token: what anybody may connect with; plain or bcrypt; empty for none.
        no_auth_user: the user of those who give neither name nor token; empty for none.
        operator_token: what an operator may connect with, whatever else is asked for; plain; empty for none.

    Raises:
        ConfigError: a name twice, or a ``no_auth_user`` that isn't there.
    """

    def __init__(
        self,
        users: Sequence[User] = (),
        *,
        token: str = "",
        no_auth_user: str = "",
        operator_token: str = "",
    ) -> None:
        self._users = {user.name: user for user in users}
        self._token = token
        self._no_auth_user = no_auth_user
        self._operator_token = operator_token
        self._key = secrets.token_bytes(32)
        self._right: dict[str, bytes] = {}
        self._wrong: dict[bytes, None] = {}
        self._changing = threading.Lock()
        self._dummy_hash = next((user.password for user in users if is_hashed(user.password)), "")
        if len(self._users) != len(users):
            raise ConfigError(["users: every name may be there only once"])
        if no_auth_user and no_auth_user not in self._users:
            raise ConfigError([f"no_auth_user: there is no user {no_auth_user!r}"])
        _refuse_bad_hash("token", token)

    @property
    def required(self) -> bool:
        """Clients must identify themselves."""
        return bool(self._users or self._token)

    def begin(self, options: Mapping[str, Any]) -> Identity | Check | None:
        """Whose CONNECT this is; ``None``: refused. A `Check` has the answer after its ``run``.

        Args:
            options: of the CONNECT; ``user``, ``pass`` and ``auth_token`` are read, if they are texts.
        """
        name, password, token = (_text(options, key) for key in ("user", "pass", "auth_token"))
        if self._operator_token and token and _same(self._operator_token, token):
            return OPERATOR
        if not self.required:
            return ANYBODY
        if self._token and token:
            return self._compare(self._token, token, BEARER, "")
        if not (name or password or token) and self._no_auth_user:
            guest = self._users[self._no_auth_user]
            return Identity(guest.name, guest.permissions)
        user = self._users.get(name)
        if user is not None:
            return self._compare(user.password, password, _identity(user), name)
        # An unknown name takes as long as a wrong password, so that names can't be found by timing.
        return self._compare(self._dummy_hash, password, None, name) if self._dummy_hash else None

    def still_knows(self, identity: Identity, before: Authenticator) -> bool:
        """Whether who ``before`` took for ``identity`` would still be taken for it, with the same rights."""
        if identity.is_operator:
            return self._operator_token == before._operator_token
        if not self.required:
            return True
        if not identity.name:
            return bool(self._token) and self._token == before._token
        user = self._users.get(identity.name)
        return user is not None and user == before._users.get(identity.name)

    def _compare(
        self, stored: str, given: str, identity: Identity | None, name: str
    ) -> Identity | Check | None:
        if not is_hashed(stored):
            return identity if _same(stored, given) else None
        if identity is not None and self.knows(stored, given):
            return identity
        if self.digest_of(name, stored, given) in self._wrong:
            return None
        return Check(self, stored, given, identity, name)

    def knows(self, hashed: str, given: str) -> bool:
        """``given`` was right for ``hashed`` before."""
        right = self._right.get(hashed)
        return right is not None and hmac.compare_digest(right, self._digest(given))

    def remember(self, hashed: str, given: str) -> None:
        """``given`` is right for ``hashed``."""
        self._right[hashed] = self._digest(given)

    def remember_wrong(self, name: str, hashed: str, given: str) -> None:
        """``given`` is wrong for ``hashed``: repeating it costs nothing. The last ones are kept."""
        with self._changing:
            self._wrong[self.digest_of(name, hashed, given)] = None
            if len(self._wrong) > WRONG_KEPT_MAX:
                del self._wrong[next(iter(self._wrong))]

    def digest_of(self, name: str, hashed: str, given: str) -> bytes:
        """Of a comparison. By the name that was given, known or not, so that times tell nothing of it."""
        text = "\0".join((name, hashed, given))
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256")

    def _digest(self, given: str) -> bytes:
        return hmac.digest(self._key, given.encode("utf-8", "surrogatepass"), "sha256")


def _identity(user: User) -> Identity:
    return Identity(user.name, user.permissions, proven=True)


def _text(options: Mapping[str, Any], key: str) -> str:
    value = options.get(key)
    return value if isinstance(value, str) else ""
