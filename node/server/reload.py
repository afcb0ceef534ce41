"""SIGHUP: applies a changed configuration to a running node.

Users, the log level and the certificates of peers belong to this node and change at once. Limits and
streaming settings belong to the whole cluster: they are proposed as one command (R23). Everything else needs
a restart; the log lists those options. A configuration with errors changes nothing.
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
    """Read the configuration again and apply it as far as possible without a restart."""
    if node.launch.reload is None:
        log.warning("SIGHUP: this node was started without a configuration file: nothing to reload")
        return
    try:
        config = await trio.to_thread.run_sync(node.launch.reload)
        access = authenticator(config.clients, operator_token(config))
        if node.security is not None:
            await trio.to_thread.run_sync(node.security.reload)
    except ConfigError as error:
        for problem in error.problems:
            log.error("SIGHUP: %s", problem)
        log.error("SIGHUP: the configuration has errors, nothing was changed")
        return
    old = node.config
    before, node.context.authenticator = node.context.authenticator, access
    for connection in list(node.clients.connections.values()):
        identity = connection.identity
        if identity is not None and not access.still_knows(identity, before):
            connection.close("no longer authorized by the configuration", AUTHORIZATION_VIOLATION)
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
    changed = node.settings_sync.different()
    if changed:
        node.settings_sync.propose(only_if_unset=False)
        log.info("SIGHUP: proposed to the cluster: %s", ", ".join(changed))
    waiting = restart_needed(node.config, config)
    if waiting:
        log.warning("SIGHUP: these options take effect when this node is restarted: %s", ", ".join(waiting))
    log.info("SIGHUP: configuration reloaded")


def restart_needed(old: Any, new: Any, path: str = "") -> list[str]:
    """Return the paths of the options in which two configurations differ."""
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
