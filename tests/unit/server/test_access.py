"""Conversion of the configured users, token and permissions into an authenticator."""

from __future__ import annotations

import pytest

from node.config import model
from node.config.values import Secret
from node.errors import ConfigError
from node.server.access import authenticator
from node.server.auth import Identity


def user(name: str, password: str, permissions: model.Permissions | None = None) -> model.User:
    return model.User(name, Secret("text", password), permissions)


def test_no_authentication_without_users_and_token() -> None:
    assert not authenticator(model.Clients()).required


def test_a_single_user_and_a_token() -> None:
    only = authenticator(model.Clients(user="ann", password=Secret("text", "hunter2")))
    assert isinstance(only.begin({"user": "ann", "pass": "hunter2"}), Identity)
    assert only.begin({"user": "ann", "pass": "hunter"}) is None
    token = authenticator(model.Clients(token=Secret("text", "hunter2")))
    assert isinstance(token.begin({"auth_token": "hunter2"}), Identity)
    assert token.begin({}) is None


def test_users_have_their_permissions() -> None:
    granted = model.Permissions(
        publish=model.Subjects(allow=("_STAN.>",), deny=("_STAN.close.>",)),
        subscribe=model.Subjects(allow=()),
    )
    access = authenticator(model.Clients(users=(user("ann", "a", granted), user("bob", "b"))))
    ann, bob = access.begin({"user": "ann", "pass": "a"}), access.begin({"user": "bob", "pass": "b"})
    assert isinstance(ann, Identity)
    assert isinstance(bob, Identity)
    assert ann.permissions is not None
    assert [ann.permissions.may_publish(s) for s in (b"_STAN.pub.a", b"_STAN.close.a", b"x")] == [
        True,
        False,
        False,
    ]
    assert not ann.permissions.may_subscribe(b"_INBOX.>")
    assert bob.permissions is None


def test_a_client_without_credentials_is_the_no_auth_user() -> None:
    access = authenticator(model.Clients(users=(user("guest", "g"),), no_auth_user="guest"))
    found = access.begin({})
    assert isinstance(found, Identity)
    assert found.name == "guest"


def test_a_missing_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_VARIABLE is not set"):
        authenticator(model.Clients(token=Secret("environment", "NO_SUCH_VARIABLE")))
