"""Authentication of clients, and their permissions."""

from __future__ import annotations

import bcrypt
import pytest

from node.errors import ConfigError
from node.server.auth import ANONYMOUS, BEARER, OPERATOR, Authenticator, Check, Identity, Permissions, User


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def outcome(authenticator: Authenticator, **options: object) -> Identity | None:
    """Return the result of a CONNECT, after its bcrypt check if there is one."""
    found = authenticator.begin({key.rstrip("_"): value for key, value in options.items()})
    return found.run() if isinstance(found, Check) else found


def test_without_users_and_token_any_client_may_connect() -> None:
    authenticator = Authenticator()
    assert not authenticator.required
    assert outcome(authenticator, user="who", pass_="ever") is ANONYMOUS


def test_a_user_needs_the_right_password() -> None:
    """AUT-01, AUT-02."""
    authenticator = Authenticator([User("ann", "s3cret")])
    assert authenticator.required
    assert outcome(authenticator, user="ann", pass_="s3cret") == Identity("ann")
    for options in (
        {"user": "ann", "pass_": "S3cret"},
        {"user": "ann"},
        {"user": "bob", "pass_": "s3cret"},
        {"user": "ann", "pass_": 5},
        {"user": ["ann"], "pass_": "s3cret"},
        {"user": "ann", "pass_": "\ud800"},
        {"auth_token": "s3cret"},
        {},
    ):
        assert outcome(authenticator, **options) is None


def test_only_the_token_is_accepted() -> None:
    """AUT-02."""
    authenticator = Authenticator(token="tok")
    assert outcome(authenticator, auth_token="tok") is BEARER
    assert outcome(authenticator, auth_token="tick") is None
    assert outcome(authenticator, auth_token="") is None
    assert outcome(authenticator, user="tok", pass_="tok") is None


@pytest.mark.parametrize("users", [[], [User("ann", "s3cret")], [User("ann", hashed("s3cret"))]])
def test_the_operator_token_is_accepted_in_every_mode(users: list[User]) -> None:
    authenticator = Authenticator(users, operator_token="operators only")
    assert outcome(authenticator, auth_token="operators only") is OPERATOR
    assert authenticator.required == bool(users)
    assert outcome(authenticator, auth_token="operators") is (None if users else ANONYMOUS)
    assert Authenticator(users, operator_token="operators only").still_knows(OPERATOR, authenticator)
    assert not Authenticator(users, operator_token="another").still_knows(OPERATOR, authenticator)
    assert outcome(Authenticator(users), auth_token="") is (None if users else ANONYMOUS)


def test_a_bcrypt_password_is_compared_once_in_a_thread() -> None:
    """AUT-07. A second connection with the same password costs no second comparison."""
    authenticator = Authenticator([User("ann", hashed("s3cret"), Permissions())])
    first = authenticator.begin({"user": "ann", "pass": "s3cret"})
    assert isinstance(first, Check)
    queued = authenticator.begin({"user": "ann", "pass": "s3cret"})
    assert first.run() == Identity("ann", Permissions())
    assert isinstance(queued, Check)
    assert queued.run() == Identity("ann", Permissions())
    assert authenticator.begin({"user": "ann", "pass": "s3cret"}) == Identity("ann", Permissions())
    assert outcome(authenticator, user="ann", pass_="other") is None


def test_bcrypt_hashes_of_other_programs_work() -> None:
    """AUT-07. ``$2a$`` and ``$2y$`` are computed alike; a token may be hashed too."""
    for prefix in ("$2a$", "$2y$"):
        assert outcome(Authenticator(token=prefix + hashed("tok")[4:]), auth_token="tok") is BEARER


def test_a_password_longer_than_bcrypt_supports_is_truncated() -> None:
    authenticator = Authenticator([User("ann", hashed("x" * 72))])
    assert outcome(authenticator, user="ann", pass_="x" * 500) == Identity("ann")


def test_an_unknown_name_takes_as_long_as_a_wrong_password() -> None:
    authenticator = Authenticator([User("ann", hashed("s3cret"))])
    found = authenticator.begin({"user": "bob", "pass": "s3cret"})
    assert isinstance(found, Check)
    assert found.run() is None
    assert isinstance(authenticator.begin({"user": "eve", "pass": "s3cret"}), Check)
    assert authenticator.begin({"user": "bob", "pass": "s3cret"}) is None, (
        "remembered, as a wrong password is"
    )


def test_clients_without_credentials_can_be_mapped_to_a_user() -> None:
    authenticator = Authenticator([User("guest", "x"), User("ann", "y")], no_auth_user="guest")
    assert outcome(authenticator) == Identity("guest")
    assert not outcome(authenticator).proven, "no secret was presented"
    assert outcome(authenticator, user="ann", pass_="y").proven
    assert outcome(authenticator, user="ann", pass_="y") == Identity("ann")
    assert outcome(authenticator, user="ann", pass_="x") is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: Authenticator([User("a", "1"), User("a", "2")]),
        lambda: Authenticator([User("a", "1")], no_auth_user="b"),
        lambda: User("a", "$2b$04$short"),
        lambda: User("a", "$2b$04$" + "!" * 53),
        lambda: Authenticator(token="$2b$nonsense"),
        lambda: Permissions(publish_allow=(b"a..b",)),
    ],
)
def test_invalid_settings_are_refused_at_start(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]


def test_secrets_are_not_shown() -> None:
    assert "s3cret" not in repr(User("ann", "s3cret"))


def test_publish_permissions() -> None:
    """AUT-05: a plain list means allow; deny overrides allow."""
    permissions = Permissions(publish_allow=(b"a.>", b"b"), publish_deny=(b"a.secret.*",))
    for _ in range(2):  # computed, then remembered
        assert permissions.may_publish(b"a.b.c")
        assert permissions.may_publish(b"b")
        assert not permissions.may_publish(b"c")
        assert not permissions.may_publish(b"a.secret.x")
    assert Permissions(publish_deny=(b"x",)).may_publish(b"y")
    assert not Permissions(publish_allow=()).may_publish(b"y")


def test_subscribe_permissions_apply_to_whole_patterns() -> None:
    """AUT-06: a pattern wider than the allowed ones is denied; denied patterns within it are returned."""
    permissions = Permissions(subscribe_allow=(b"a.*", b"_INBOX.>"), subscribe_deny=(b"a.secret", b"x"))
    assert permissions.may_subscribe(b"a.b")
    assert permissions.may_subscribe(b"a.*")
    assert not permissions.may_subscribe(b"a.>")
    assert not permissions.may_subscribe(b"a.secret")
    assert permissions.denied_within(b"a.*") == (b"a.secret",)
    assert permissions.denied_within(b"_INBOX.x.*") == ()


def test_an_identity_is_valid_only_with_unchanged_password_and_permissions() -> None:
    """After a reload, clients that authenticated with a password that has changed are disconnected."""
    before = Authenticator([User("ann", "s3cret")])
    ann = outcome(before, user="ann", pass_="s3cret")
    assert ann is not None
    assert Authenticator([User("ann", "s3cret"), User("bob", "x")]).still_knows(ann, before)
    assert not Authenticator([User("ann", "another")]).still_knows(ann, before)
    assert not Authenticator([User("ann", "s3cret", Permissions(publish_allow=(b"foo",)))]).still_knows(
        ann, before
    )
    assert not Authenticator([User("bob", "s3cret")]).still_knows(ann, before)
