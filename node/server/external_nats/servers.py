"""The servers of an external NATS cluster to connect to, and the credentials for each of them.

The configured servers are tried in turn, and those that they announce (``connect_urls``). An announced server
gets our credentials only over TLS with verified certificates, or if they would go there anyway: on a
configured host, or on this machine. Otherwise it is not tried, because a forged announcement could obtain the
credentials.

Plain objects without I/O, except for reading certificates.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from node.config.model import NatsServer, NatsTLS
from node.config.values import Address, ServerURL
from node.errors import ConfigError

log = logging.getLogger("stanchion.external")

SERVERS_MAX = 64
"""Most servers; further announced ones are ignored."""


def servers(config: NatsServer) -> list[ServerURL]:
    """Return the configured servers, with the credentials for each.

    Raises:
        ConfigError: a secret can't be read.
    """
    user = config.user or ""
    password = config.password.reveal() if config.password else ""
    token = config.token.reveal() if config.token else ""
    return [
        url if url.user or url.token else replace(url, user=user, password=password, token=token)
        for url in config.urls
    ]


def trust(config: NatsTLS) -> ssl.SSLContext:
    """Return the TLS settings to verify servers, and our certificate for them.

    Raises:
        ConfigError: the certificates can't be used.
    """
    try:
        context = ssl.create_default_context(cafile=str(config.ca) if config.ca else None)
        if config.skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            log.warning("the NATS server's certificate is not checked (skip_verify)")
        if config.cert is not None and config.key is not None:
            context.load_cert_chain(config.cert, config.key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError([f"streaming.nats_server.tls: the certificates can't be used: {error}"]) from error
    return context


class Servers:
    """The servers to try, in turn.

    Args: given: tried first, in this order. A server that another one announces gets the credentials of that
        one. is_checked: the certificates of TLS servers are verified.
    """

    def __init__(self, given: Iterable[ServerURL], *, is_checked: bool) -> None:
        self._servers = list(given)
        self._is_checked = is_checked
        self._hosts = {server.host for server in self._servers}
        self._passed_over: set[ServerURL] = set()
        """Announced servers that must not get our credentials."""

    def next(self) -> ServerURL:
        """Return the server to try next."""
        server = self._servers.pop(0)
        self._servers.append(server)
        return server

    def put_last(self, server: ServerURL) -> None:
        """Try this server after all the others, because its connection was lost."""
        self._servers.sort(key=lambda each: (each.host, each.port) == (server.host, server.port))

    def known(self) -> set[ServerURL]:
        """Return all servers that are tried."""
        return set(self._servers)

    def learn(self, info: Mapping[str, Any], teller: ServerURL) -> None:
        """Add other servers of the same NATS cluster, to be tried when this one is lost.

        Args:
            info: the INFO of the server.
            teller: the server, and whether it was reached over TLS: then so are the others.
        """
        for url in info.get("connect_urls") or ():
            host, colon, port = str(url).rpartition(":")
            if not (colon and port.isdigit() and 0 < int(port) < 65536):
                continue
            server = replace(teller, host=host.strip("[]"), port=int(port))
            known = {(each.host, each.port) for each in self._servers}
            if (server.host, server.port) in known or len(known) >= SERVERS_MAX:
                continue
            if self._may_know_us(server):
                self._servers.append(server)
            else:
                self._pass_over(server, teller)

    def _may_know_us(self, server: ServerURL) -> bool:
        if not (server.user or server.token) or server.host in self._hosts:
            return True
        return (server.is_tls and self._is_checked) or Address(server.host, server.port).is_loopback

    def _pass_over(self, server: ServerURL, teller: ServerURL) -> None:
        if server in self._passed_over or len(self._passed_over) >= SERVERS_MAX:
            return  # logged once
        self._passed_over.add(server)
        log.warning(
            "NATS server %s, announced by %s, is not tried: our credentials would be sent there unprotected",
            server,
            teller,
        )
