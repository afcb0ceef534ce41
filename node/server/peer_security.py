"""Builds the authentication of peer links from the configuration (``cluster.peer_security``)."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from node.config.model import Config
from node.errors import ConfigError
from node.raft.certificates import MemberCertificates
from node.raft.secret import checked, default_paths, obtain
from node.raft.security import MutualTLS, Plaintext, Security, SharedSecret

log = logging.getLogger("stanchion.peers")


def peer_security(config: Config, name: str, members: MemberCertificates | None = None) -> Security:
    """Make the security of node ``name``'s peer links.

    Args:
        config: the configuration of this node (``Config.for_node``).
        name: the node's name.
        members: where the certificates of members are recorded; only used with mutual TLS.

    Raises:
        ConfigError: certificates or the peer secret can't be used.
    """
    security = config.cluster.peer_security
    if security.mode == "mtls":
        assert security.ca is not None
        assert security.cert is not None
        assert security.key is not None
        return MutualTLS(name, security.ca, security.cert, security.key, members)
    if security.mode == "secret":
        return SharedSecret(lambda: _peer_secret(config))
    log.warning(
        "cluster.peer_security.mode is none: any process on this machine can be a node of this cluster. "
        "Use none only during a rolling upgrade from a release without peer secrets; remove the line when "
        "all nodes are upgraded"
    )
    try:
        return SharedSecret(lambda: _peer_secret(config), required=False)
    except ConfigError as error:
        log.warning("%s; nodes that require proofs will refuse this one", error)
        return Plaintext()


def _peer_secret(config: Config) -> str:
    """Return the configured secret, or else this user's; create that one if it doesn't exist."""
    configured = config.cluster.peer_security.secret
    if configured is not None:
        return checked(configured.reveal(), "cluster.peer_security.secret")
    data = config.store.dir if config.store.store == "file" else None
    path, text = obtain(default_paths(os.environ, _home(), data))
    log.info("peers authenticate with the secret in %s", path)
    return text


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # neither HOME nor an entry for the user
        return None
