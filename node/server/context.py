"""State shared by all client connections of a node: limits, INFO, routing and the streaming service.

Source: the NATS client protocol, "INFO fields", "CONNECT options", "Liveness and slow consumers".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from node.protocol.nats import ProtocolViolation, info
from node.server.auth import Authenticator
from node.server.routing import Routing

if TYPE_CHECKING:
    from node.server.connection import Connection

NATS_VERSION = "2.9.25"
"""The version of the NATS server whose features clients may expect, headers included."""

PROTOCOL_MAX = 1
"""The newest client protocol. Version 1 allows INFO at any time."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits of each client connection."""

    max_payload: int = 1024 * 1024
    """Maximum bytes of one message, headers included. A larger one closes the connection."""

    max_control_line: int = 4096
    """Maximum bytes of one line. A longer one closes the connection."""

    max_connections: int = 65_536
    """Maximum connections of one node. A further one gets an error and is closed."""

    max_subscriptions: int = 0
    """Maximum subscriptions of one connection. A further one is refused. 0: no limit."""

    pending_soft: int = 1024 * 1024
    """Bytes in the outbox from which on the connection is not ``writable``."""

    max_pending: int = 64 * 1024 * 1024
    """Maximum bytes in the outbox. More closes the connection as a slow consumer."""

    write_deadline_s: float = 10.0
    """Maximum time of one write of at most 256 KiB. A longer one closes the connection as a slow consumer."""

    ping_interval_s: float = 120.0
    """A PING is sent when the connection has been idle for this long."""

    ping_max: int = 2
    """Maximum number of unanswered PINGs. When one more is due, the connection is closed as stale."""

    auth_timeout_s: float = 2.0
    """Maximum time from the end of the TLS handshake to the CONNECT, if credentials are required."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The fields of INFO that never change while the node runs. Empty strings are left out."""

    server_id: str
    """Unique for each start of the process."""

    server_name: str
    host: str
    port: int
    version: str = NATS_VERSION
    """``x.y.z``: the C client parses three numbers."""

    go: str = ""
    """Free text about the runtime; metric exporters show it."""

    cluster: str = ""
    git_commit: str = ""
    headers: bool = True
    tls_required: bool = False
    tls_available: bool = False
    tls_verify: bool = False


class Service(Protocol):
    """The events that connections report to the streaming service, which also delivers messages.

    The service receives its requests through ``Routing.serve``.
    """

    def read_done(self, connection: Connection) -> None:
        """Called when a read buffer has been carried out, also if that closed the connection."""

    def drained(self, connection: Connection) -> None:
        """Called when the connection is writable again."""

    def wrote(self, connection: Connection) -> None:
        """Called when bytes of a ``watched`` connection were written."""

    def closed(self, connection: Connection) -> None:
        """Called when the connection has ended and its subscriptions are removed."""


class Context:
    """State shared by all connections of a node.

    Args:
        routing: receives publishes and subscriptions.
        service: notified of read buffers, writes and ended connections.
        info: the constant fields of INFO.
        clock: monotonic seconds; only differences are used.
        limits: limits of each connection.
        authenticator: checks the credentials of clients.
        node_ready: returns True if clients may be served (R4). When it becomes true, call
            ``Connection.release`` on every connection.
    """

    __slots__ = (
        "authenticator",
        "clock",
        "connect_urls",
        "info",
        "lame_duck",
        "limits",
        "node_ready",
        "routing",
        "service",
    )

    def __init__(
        self,
        *,
        routing: Routing,
        service: Service,
        info: ServerInfo,
        clock: Callable[[], float],
        limits: ClientLimits | None = None,
        authenticator: Authenticator | None = None,
        node_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self.routing = routing
        self.service = service
        self.info = info
        self.clock = clock
        self.limits = limits or ClientLimits()
        self.authenticator = authenticator or Authenticator()
        self.node_ready = node_ready
        self.connect_urls: tuple[str, ...] = ()
        """``host:port`` of every node that accepts clients. As many as fit into INFO are announced."""
        self.lame_duck = False
        """INFO announces that this node is about to stop."""

    def info_line(self, cid: int, ip: str) -> bytes:
        """Return the INFO line: at most 4,096 bytes, which is all that the Node.js client reads."""
        server = self.info
        fields: dict[str, Any] = {
            "server_id": server.server_id,
            "server_name": server.server_name,
            "version": server.version,
            "proto": PROTOCOL_MAX,
            "host": server.host,
            "port": server.port,
            "headers": server.headers,
            "max_payload": self.limits.max_payload,
            "client_id": cid,
            "client_ip": ip,
        }
        optional: dict[str, Any] = {
            "go": server.go,
            "cluster": server.cluster,
            "git_commit": server.git_commit,
            "auth_required": self.authenticator.required,
            "tls_required": server.tls_required,
            "tls_available": server.tls_available,
            "tls_verify": server.tls_verify,
            "ldm": self.lame_duck,
            "connect_urls": list(self.connect_urls),
        }
        fields.update((key, value) for key, value in optional.items() if value)
        return info(fields)


class ClientOptions(NamedTuple):
    """The options of a CONNECT, without credentials. The defaults apply if no CONNECT was sent."""

    verbose: bool = True
    pedantic: bool = True
    echo: bool = True
    headers: bool = False
    no_responders: bool = False
    protocol: int = 0
    name: str = ""
    lang: str = ""
    version: str = ""

    @staticmethod
    def parse(options: dict[str, Any]) -> ClientOptions:
        """Parse the options of a CONNECT. Absent and null options get the default, unknown ones are ignored.

        Raises:
            ProtocolViolation: a value has the wrong type.
        """
        found: dict[str, Any] = {}
        for key, default in ClientOptions._field_defaults.items():
            value = options.get(key)
            if value is None:
                continue
            if type(value) is not type(default):
                raise ProtocolViolation(f"CONNECT with a {type(value).__name__} as {key}")
            found[key] = value
        return ClientOptions(**found)
