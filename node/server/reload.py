"""SIGHUP: what of a changed configuration takes effect in a node that runs.

Users, the log's level and the peers' certificates are this node's own, and change at once. Limits and
the streaming settings belong to the whole cluster: they are proposed to it, as one command (R23). For
everything else the node has to be started again, and says so. A configuration with mistakes changes
nothing.
"""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final

import trio

from node.config.values import Secret
from node.errors import ConfigError
from node.protocol.nats_replies import AUTHORIZATION_VIOLATION
from node.server.access import authenticator
from node.server.operator_token import operator_token

if TYPE_CHECKING:
    from node.server.node import Node

log = logging.getLogger("stanchion.node")

_CREDENTIALS: Final = ("users", "user", "password", "token", "no_auth_user", "operator_token")


async def reload(node: Node) -> None:
    """Read the configuration again and go by it as far as that is possible."""
    if node.launch.reload is None:
        log.warning("SIGHUP: this node was started without a file, so there is nothing to read again")
        return
    try:
        config = await trio.to_thread.run_sync(node.launch.reload)
        access = authenticator(config.clients, operator_token(config))
        if node.security is not None:
            await trio.to_thread.run_sync(node.security.reload)
    except ConfigError as error:
        for problem in error.problems:
            log.error("SIGHUP: %s", problem)
        log.error("SIGHUP: nothing was changed")
        return
    old = node.config
    before, node.context.authenticator = node.context.authenticator, access
    for connection in list(node.clients.connections.values()):
        identity = connection.identity
        if identity is not None and not access.still_knows(identity, before):
            connection.close("the configuration no longer lets it in", AUTHORIZATION_VIOLATION)
    if node.launch.relevel is not None:
        node.launch.relevel(config)
    node.config = replace(
        old,
        limits=config.limits,
        streaming=replace(
            config.streaming,
            discover_prefix=old.streaming.discover_prefix,
            nats_server=old.streaming.nats_server,
        ),
        clients=replace(old.clients, **{name: getattr(config.clients, name) for name in _CREDENTIALS}),
        logging=replace(old.logging, level=config.logging.level),
    )
    changed = node.agreement.different()
    if changed:
        node.agreement.propose(only_if_unset=False)
        log.info("SIGHUP: proposed to the cluster: %s", ", ".join(changed))
    waiting = restart_needed(node.config, config)
    if waiting:
        log.warning("SIGHUP: takes effect when this node is started again: %s", ", ".join(waiting))
    log.info("SIGHUP: the configuration was read again")


def restart_needed(old: Any, new: Any, path: str = "") -> list[str]:
    """The options, by their paths, in which two configurations differ."""
    different: list[str] = []
    for field in fields(new):
        key = f"{path}{field.name.removesuffix('_ns')}"
        was, now = getattr(old, field.name), getattr(new, field.name)
        if was == now:
            continue
        if type(was) is type(now) and hasattr(now, "__dataclass_fields__") and not isinstance(now, Secret):
            different += restart_needed(was, now, f"{key}.")
        else:
            different.append(key)
    return different
