"""Which servers of somebody else's NATS cluster there are, who we are there, and whom we say it to.

The servers that were given are tried by turns, and those they tell of (``connect_urls``). One that was only
told of is shown our credentials over TLS whose certificates are checked, or where they were to be shown
anyway: on a host that was given, or on this machine. Else it isn't tried. Who shows credentials to whomever
a server names shows them to whoever can speak for a server.

Plain objects without I/O, but for reading certificates.
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
"""A server that tells of more is not believed."""


def servers(config: NatsServer) -> list[ServerURL]:
    """Where to connect, and as whom.

    Raises:
        ConfigError: a secret isn't where it should be.
    """
    user = config.user or ""
    password = config.password.reveal() if config.password else ""
    token = config.token.reveal() if config.token else ""
    return [
        url if url.user or url.token else replace(url, user=user, password=password, token=token)
        for url in config.urls
    ]


def trust(config: NatsTLS) -> ssl.SSLContext:
    """How a server is known, and we to it.

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
    """Those to try, by turns.

    Args:
        given: in this order first. The credentials of who tells of another are used for that.
        is_checked: over TLS, who a server is is made sure of.
    """

    def __init__(self, given: Iterable[ServerURL], *, is_checked: bool) -> None:
        self._servers = list(given)
        self._is_checked = is_checked
        self._hosts = {server.host for server in self._servers}
        self._passed_over: set[ServerURL] = set()
        """Told of, but not to be shown our credentials."""

    def next(self) -> ServerURL:
        """Whose turn it is."""
        server = self._servers.pop(0)
        self._servers.append(server)
        return server

    def put_last(self, server: ServerURL) -> None:
        """Try this one after all the others: its connection was lost."""
        self._servers.sort(key=lambda each: (each.host, each.port) == (server.host, server.port))

    def known(self) -> set[ServerURL]:
        """All that are tried."""
        return set(self._servers)

    def learn(self, info: Mapping[str, Any], teller: ServerURL) -> None:
        """Take up other servers of the same NATS cluster, to be tried when this one is gone.

        Args:
            info: what the server has said.
            teller: that server, and whether it was reached over TLS: then so are the others.
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
            return  # told once
        self._passed_over.add(server)
        log.warning(
            "NATS server %s, which %s tells of, is not tried: our credentials would go there unprotected",
            server,
            teller,
        )
