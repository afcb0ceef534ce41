"""Authenticate client connections, and check what they may publish and subscribe to.

There are three modes: no authentication; one token; users, each with a password and optional permissions.

A secret is stored as plain text, which is compared in constant time, or as a bcrypt hash. A bcrypt comparison
is slow on purpose (tens to hundreds of milliseconds). So ``begin`` returns it as a `Check`, which the caller
runs in a worker thread. Correct passwords are remembered as keyed digests, so that a thousand clients that
reconnect after a failover don't queue for the processor. The last wrong passwords are remembered too.

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
"""Bytes. bcrypt ignores all further bytes; the library rejects longer passwords."""

WRONG_KEPT_MAX = 4096
"""Maximum number of wrong passwords remembered, as digests. They are refused without another comparison."""

DECISIONS_CACHED_MAX = 8192
"""Maximum number of cached decisions, one per subject, of one set of permissions. A full cache is cleared."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subject patterns that a user may publish to and subscribe to.

    An allow list of ``None`` allows every subject, an empty one allows none. A deny list overrides the allow
    list.
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
        """Return True if the user may publish to ``subject``.

        Cost: one dictionary lookup if the decision is cached.
        """
        allowed = self._may_publish.get(subject)
        if allowed is None:
            if len(self._may_publish) >= DECISIONS_CACHED_MAX:
                self._may_publish.clear()
            allowed = self._may_publish[subject] = _allowed(
                subject, self.publish_allow, self.publish_deny, matches
            )
        return allowed

    def may_subscribe(self, pattern: bytes) -> bool:
        """Return True if one allowed pattern covers ``pattern`` and no denied pattern covers all of it."""
        return _allowed(pattern, self.subscribe_allow, self.subscribe_deny, covers)

    def denied_within(self, pattern: bytes) -> tuple[bytes, ...]:
        """Return the denied patterns that overlap ``pattern``: messages on them must be filtered out."""
        return tuple(deny for deny in self.subscribe_deny if overlap(deny, pattern))


def _allowed(subject: bytes, allow: tuple[bytes, ...] | None, deny: tuple[bytes, ...], within: Any) -> bool:
    if allow is not None and not any(within(pattern, subject) for pattern in allow):
        return False
    return not any(within(pattern, subject) for pattern in deny)


@dataclass(frozen=True, slots=True)
class Identity:
    """The authenticated identity of a connection. The name is empty without a user."""

    name: str = ""
    permissions: Permissions | None = None
    """``None``: everything is permitted."""

    proven: bool = field(default=False, compare=False)
    """The client has presented a correct secret: this is not just the default identity."""

    is_operator: bool = field(default=False, compare=False)
    """The secret was the operator token."""


ANONYMOUS = Identity()
"""A client of a node that has no authentication."""
BEARER = Identity(proven=True)
"""A client that has presented the token."""
OPERATOR = Identity(proven=True, is_operator=True)
"""A client that has presented the operator token."""


@dataclass(frozen=True, slots=True)
class User:
    """A user who may connect. ``password`` is plain text or a bcrypt hash."""

    name: str
    password: str = field(repr=False)
    permissions: Permissions | None = None

    def __post_init__(self) -> None:
        _refuse_bad_hash(f"user {self.name}", self.password)


def is_hashed(secret: str) -> bool:
    """Return True if ``secret`` is a bcrypt hash."""
    return secret.startswith(BCRYPT_PREFIXES)


def _refuse_bad_hash(owner: str, secret: str) -> None:
    if is_hashed(secret):
        import bcrypt  # only where there are hashes

        try:
            # bcrypt reads the salt and the cost before it starts hashing. So a hash whose salt or cost is
            # broken is found now, and not when a client can't log in. Cost 4 keeps this short.
            bcrypt.hashpw(b"", (secret[:4] + "04" + secret[6:29]).encode())
        except ValueError as error:
            raise ConfigError([f"{owner}: not a bcrypt hash: {error}"]) from error
        if len(secret) != 60:
            raise ConfigError([f"{owner}: not a bcrypt hash: {len(secret)} characters, expected 60"])


def _same(expected: str, given: str) -> bool:
    """Compare two plain texts in a time that doesn't depend on their contents or lengths."""
    return hmac.compare_digest(
        hashlib.sha256(expected.encode("utf-8", "surrogatepass")).digest(),
        hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest(),
    )


class Check:
    """A pending bcrypt comparison, to be run in a worker thread.

    Args:
        authenticator: remembers the result.
        hashed: the stored hash.
        given: the password or token that the client sent.
        identity: the identity that a correct secret proves. ``None`` for an unknown user: the comparison then
            only takes as long as any other.
        name: the user name that the client sent.
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
        """The authenticator that created this check."""
        return self._authenticator

    @property
    def user(self) -> str:
        """Name of the user whose password is compared; empty for a token or an unknown user."""
        return self._identity.name if self._identity is not None else ""

    @property
    def key(self) -> tuple[Authenticator, bytes]:
        """A key that is equal for comparisons with the same result."""
        return self._authenticator, self._authenticator.digest_of(self._name, self._hashed, self._given)

    def run(self) -> Identity | None:
        """Run the comparison. Return the proven identity, or None if the secret is wrong.

        This takes long. Any thread may call it, because it changes nothing but a dictionary.
        """
        if self._identity is not None and self._authenticator.knows(self._hashed, self._given):
            return self._identity  # another connection proved the same secret while this one queued
        import bcrypt

        password = self._given.encode("utf-8", "surrogatepass")[:BCRYPT_PASSWORD_SIZE_MAX]
        right = bcrypt.checkpw(password, self._hashed.encode())
        if not right or self._identity is None:
            self._authenticator.remember_wrong(self._name, self._hashed, self._given)
            return None
        self._authenticator.remember(self._hashed, self._given)
        return self._identity


class Authenticator:
    """Decides the identity of a connection from the options of its CONNECT.

    Args:
        users: the users that may connect; each name once.
        token: any client may connect with it; plain text or bcrypt hash; empty: no token.
        no_auth_user: the user of clients that send neither name nor token; empty: no such user.
        operator_token: an operator may connect with it, in every mode; plain text; empty: no such token.

    Raises:
        ConfigError: a user name occurs twice, or ``no_auth_user`` isn't a user.
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
            raise ConfigError(["users: a name occurs more than once"])
        if no_auth_user and no_auth_user not in self._users:
            raise ConfigError([f"no_auth_user: there is no user {no_auth_user!r}"])
        _refuse_bad_hash("token", token)

    @property
    def required(self) -> bool:
        """True if clients must authenticate."""
        return bool(self._users or self._token)

    def begin(self, options: Mapping[str, Any]) -> Identity | Check | None:
        """Return the identity of a CONNECT, None if it is refused, or a `Check` whose ``run`` decides.

        Args:
            options: options of the CONNECT. ``user``, ``pass`` and ``auth_token`` are read if they are
                strings.
        """
        name, password, token = (_text(options, key) for key in ("user", "pass", "auth_token"))
        if self._operator_token and token and _same(self._operator_token, token):
            return OPERATOR
        if not self.required:
            return ANONYMOUS
        if self._token and token:
            return self._compare(self._token, token, BEARER, "")
        if not (name or password or token) and self._no_auth_user:
            default = self._users[self._no_auth_user]
            return Identity(default.name, default.permissions)
        user = self._users.get(name)
        if user is not None:
            return self._compare(user.password, password, _identity(user), name)
        # An unknown name takes as long as a wrong password, so that timing doesn't reveal user names.
        return self._compare(self._dummy_hash, password, None, name) if self._dummy_hash else None

    def still_knows(self, identity: Identity, before: Authenticator) -> bool:
        """Return True if ``identity``, established by ``before``, is still valid with the same rights."""
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
        """Return True if ``given`` is remembered as correct for ``hashed``."""
        right = self._right.get(hashed)
        return right is not None and hmac.compare_digest(right, self._digest(given))

    def remember(self, hashed: str, given: str) -> None:
        """Remember ``given`` as correct for ``hashed``."""
        self._right[hashed] = self._digest(given)

    def remember_wrong(self, name: str, hashed: str, given: str) -> None:
        """Remember ``given`` as wrong for ``hashed``, so that repeating it costs no comparison."""
        with self._changing:
            self._wrong[self.digest_of(name, hashed, given)] = None
            if len(self._wrong) > WRONG_KEPT_MAX:
                del self._wrong[next(iter(self._wrong))]

    def digest_of(self, name: str, hashed: str, given: str) -> bytes:
        """Return the digest of a comparison.

        It includes the name that the client sent, so that response times don't reveal whether that user
        exists.
        """
        text = "\0".join((name, hashed, given))
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256")

    def _digest(self, given: str) -> bytes:
        return hmac.digest(self._key, given.encode("utf-8", "surrogatepass"), "sha256")


def _identity(user: User) -> Identity:
    return Identity(user.name, user.permissions, proven=True)


def _text(options: Mapping[str, Any], key: str) -> str:
    value = options.get(key)
    return value if isinstance(value, str) else ""
