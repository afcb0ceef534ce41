"""Convert the configured users, tokens and permissions into an `Authenticator`."""

from __future__ import annotations

from collections.abc import Iterable

from node.config import model
from node.server.auth import Authenticator, Permissions, User


def authenticator(clients: model.Clients, operator_token: str = "") -> Authenticator:
    """Return an `Authenticator` for the users, tokens and permissions in ``clients``.

    It also accepts ``operator_token``, unless that is empty.

    Raises:
        ConfigError: a secret can't be found where the configuration says it is, or a password looks like a
            bcrypt hash and is none.
    """
    users = [User(user.user, user.password.reveal(), permissions(user.permissions)) for user in clients.users]
    if clients.user is not None and clients.password is not None:
        users.append(User(clients.user, clients.password.reveal()))
    token = clients.token.reveal() if clients.token else ""
    return Authenticator(
        users, token=token, no_auth_user=clients.no_auth_user or "", operator_token=operator_token
    )


def permissions(given: model.Permissions | None) -> Permissions | None:
    """Return the permissions with their subjects encoded as bytes, as in the NATS protocol."""
    if given is None:
        return None
    publish, subscribe = given.publish, given.subscribe
    return Permissions(
        publish_allow=None if publish.allow is None else _encoded(publish.allow),
        publish_deny=_encoded(publish.deny),
        subscribe_allow=None if subscribe.allow is None else _encoded(subscribe.allow),
        subscribe_deny=_encoded(subscribe.deny),
    )


def _encoded(subjects: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(subject.encode() for subject in subjects)
