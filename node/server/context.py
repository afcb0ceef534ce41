"""What all client connections of a node share: limits, what INFO says, and whom they tell.

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
"""The version of the NATS server whose features clients may expect of us, headers included."""

PROTOCOL_MAX = 1
"""The newest client protocol: 1 knows INFO at any time."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What one client may do and use."""

    max_payload: int = 1024 * 1024
    """Bytes of one message, headers included. More closes the connection."""

    max_control_line: int = 4096
    """Bytes of one line. More closes the connection."""

    max_connections: int = 65_536
    """Of one node. One more is told so and closed."""

    max_subscriptions: int = 0
    """Of one connection. One more is refused. 0: no limit."""

    pending_soft: int = 1024 * 1024
    """Bytes in the outbox from which on the connection is not ``writable``."""

    max_pending: int = 64 * 1024 * 1024
    """Bytes in the outbox; more closes the connection as a slow consumer."""

    write_deadline_s: float = 10.0
    """For one write of at most 256 KiB. Longer closes the connection as a slow consumer."""

    ping_interval_s: float = 120.0
    """A PING follows so long a silence."""

    ping_max: int = 2
    """PINGs that may be unanswered. When one more is due the connection is closed as stale."""

    auth_timeout_s: float = 2.0
    """For the CONNECT, where credentials are wanted. From the end of the TLS handshake."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What INFO says of this node and never changes while it runs. Empty texts are left out."""

    server_id: str
    """Unique for each start of the process."""

    server_name: str
    host: str
    port: int
    version: str = NATS_VERSION
    """``x.y.z``: the C client reads three numbers."""

    go: str = ""
    """Free text about the runtime; exporters show it."""

    cluster: str = ""
    git_commit: str = ""
    headers: bool = True
    tls_required: bool = False
    tls_available: bool = False
    tls_verify: bool = False


class Service(Protocol):
    """The streaming service, which also delivers. It gets its messages through ``Routing.serve``."""

    def read_done(self, connection: Connection) -> None:
        """Everything in one read buffer was carried out; also if that closed the connection."""

    def drained(self, connection: Connection) -> None:
        """The connection is writable again."""

    def wrote(self, connection: Connection) -> None:
        """Something was written to a connection that is ``watched``."""

    def closed(self, connection: Connection) -> None:
        """The connection has ended; its subscriptions are gone."""


class Context:
    """What all connections of a node share.

    Args:
        routing: where publishes go.
        service: told of buffers and ends.
        info: what INFO says.
        clock: monotonic seconds; nothing but differences is used.
        limits: of every connection.
        authenticator: who may connect.
        node_ready: clients may be served (R4). When it turns true, ``Connection.release`` is to
            be called on every connection.
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
        """``host:port`` of every node that takes clients. As many as fit are announced."""
        self.lame_duck = False
        """This node is about to leave."""

    def info_line(self, cid: int, ip: str) -> bytes:
        """At most 4,096 bytes, the most that the Node client reads."""
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
    """What a CONNECT says, but for credentials. The defaults hold where there was none."""

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
        """Read a CONNECT. Absent and null mean the default; what isn't known is ignored.

        Raises:
            ProtocolViolation: a value is of the wrong type.
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
