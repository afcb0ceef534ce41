"""A hostile client: floods, long names, many groups, many client IDs, garbage, and unanswered heartbeats.

Its requests must cost nothing but its own connection. It uses its own channel, so other clients receive the
same as without it; and while there are no faults, their publishes are answered in the usual time
(`ClusterChecker.stored`). All sizes are those of `scaled_bounds`: a long name has a hundred bytes, a flood
has a few kilobytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from node.protocol import nats
from node.protocol import streaming as stan
from node.protocol.positions import StartPosition
from node.simulator.scaled_bounds import MESSAGE_BYTES_MAX, NAME_BYTES_MAX
from node.simulator.sim_messages import message_of
from node.simulator.sim_wire import DELAY_S, Wire

if TYPE_CHECKING:
    from node.simulator.cluster import Cluster

CHANNEL = "hostile"
ACTION_EVERY_S = 0.4
IDS_MAX = 15
"""Maximum number of streaming clients that it registers: more would make runs slow."""


class HostileClient:
    """Has one connection at a time, and reconnects after it was disconnected.

    Args:
        cluster: the attacked cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._rng = cluster.world.stream("hostile")
        self._wire: Wire | None = None
        self._session = 0
        self._number = 0
        self._ids: list[str] = []
        self._flow_s = 0.0
        self._stopped = False
        self._actions: tuple[Callable[[], bytes], ...] = (
            self._pings,
            self._unrouted,
            self._invalid,
            self._connects,
            self._acks,
            self._groups,
            self._registers,
            self._registers,
            self._subscribes,
            self._subscribes,
            self._publishes,
            self._oversize,
            self._garbage,
        )

    def start(self) -> None:
        """Start after a random delay."""
        self._world.after(self._rng.uniform(1.5, 2.5), self._do)

    def stop(self) -> None:
        """Disconnect for good."""
        self._stopped = True
        if self._wire is not None and not self._wire.connection.closed:
            self._wire.connection.abort("the client has left")

    # --- the connection: the interface that `Wire` uses ------------------------------------------------

    @property
    def reading(self) -> bool:
        """Whether it reads now: only sometimes, which builds a backlog."""
        return self._rng.random() < 0.7

    def holds(self, session: int) -> bool:
        """Return True if ``session`` is its current connection."""
        return self._session == session and self._wire is not None

    def lost(self, session: int) -> None:
        """Record that it was disconnected. It reconnects with its next action."""
        if session == self._session:
            self._world.counts["hostile client cut off"] += 1
            self._wire = None

    def arrived(self, session: int, data: bytes) -> None:
        """Ignore all replies."""

    def _do(self) -> None:
        if self._stopped:
            return
        self._world.after(self._rng.expovariate(1 / ACTION_EVERY_S), self._do)
        if self._wire is None:
            nodes = [node for node in self._cluster.nodes if node.serves and node.replica.caught_up]
            if not nodes:
                return
            self._session += 1
            node = self._rng.choice(nodes)
            self._wire = Wire(self._world, self._rng, self, node, self._session)
            self._wire.connection = node.accept(self._wire)
            self._wire.output()
            self._send(nats.connect({"verbose": False, "protocol": 1, "headers": True}) + nats.PING)
        action = self._rng.choice(self._actions)
        self._world.counts[f"hostile: {action.__name__.strip('_')}"] += 1
        self._world.record(f"the hostile client: {action.__name__.strip('_')}")
        self._send(action())

    def _send(self, data: bytes) -> None:
        wire = self._wire
        assert wire is not None
        self._flow_s = max(self._flow_s + 1e-7, self._world.now + self._rng.uniform(*DELAY_S))

        def arrive() -> None:
            if not wire.connection.closed:
                wire.arrive(data, None)

        self._world.after(self._flow_s - self._world.now, arrive)

    # --- actions ----------------------------------------------------------------------------------

    def _many(self) -> int:
        return self._rng.choice((20, 60, 200))

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _name(self) -> str:
        """Return a name around the maximum length, or far above it."""
        size = self._rng.choice((8, NAME_BYTES_MAX - 1, NAME_BYTES_MAX, NAME_BYTES_MAX + 1, 400))
        return f"h{self._next()}-".ljust(size, "x")

    def _pings(self) -> bytes:
        return nats.PING * (4 * self._many())

    def _unrouted(self) -> bytes:
        return nats.pub(b"nobody.listens", b"", b"") * self._many()

    def _invalid(self) -> bytes:
        return b"SUB in..valid 9\r\n" * self._many()

    def _connects(self) -> bytes:
        return nats.connect({"verbose": True, "protocol": 1}) * (self._many() // 4)

    def _acks(self) -> bytes:
        """Send acks to inboxes that don't exist."""
        inbox = f"_STAN.ack.{self._cluster.cluster_id}.{self._name()}".encode()
        return b"".join(
            nats.pub(inbox, b"", stan.encode_ack(stan.Ack(CHANNEL, seq))) for seq in range(self._many())
        )

    def _groups(self) -> bytes:
        """Create more queue groups on one subject than a frame may name, and publish messages to them."""
        subs = (nats.sub(b"groups", self._name().encode(), b"g%d" % n) for n in range(self._many() // 10))
        return b"".join(subs) + nats.pub(b"groups", b"", b"for each of them") * 3

    def _registers(self) -> bytes:
        """Register a streaming client that answers no heartbeat."""
        if len(self._ids) >= IDS_MAX:
            return nats.PING
        name = self._name()
        self._ids.append(name)
        inbox = f"_INBOX.{name}.{self._name()}"
        request = stan.ConnectRequest(name, inbox, 1, name.encode(), 5, 88)
        return self._request("_STAN.discover", stan.encode_connect(request))

    def _subscribes(self) -> bytes:
        if not self._ids:
            return nats.PING
        request = stan.SubscriptionRequest(
            self._rng.choice(self._ids),
            CHANNEL,
            self._rng.choice(("", "q", self._name())),
            f"_INBOX.{self._name()}",
            3,
            1,
            self._rng.choice(("", "d", self._name())),
            StartPosition.FIRST,
        )
        return self._request("_STAN.sub", stan.encode_subscription(request))

    def _publishes(self) -> bytes:
        """Publish more to its own channel than an origin keeps, possibly with an unregistered client ID."""
        found = []
        client = self._rng.choice([*self._ids, "nobody"])
        for _ in range(self._many() // 4):
            guid = f"hostile/{self._next()}"
            data = message_of(guid, sized=True)
            request = stan.PublishRequest(client, guid, CHANNEL, "", data, client.encode())
            subject = f"_STAN.pub.{self._cluster.cluster_id}.{CHANNEL}".encode()
            found.append(nats.pub(subject, b"_INBOX.hostile", stan.encode_publish(request)))
        return b"".join(found)

    def _oversize(self) -> bytes:
        return nats.pub(b"nobody.listens", b"", b"." * (MESSAGE_BYTES_MAX + 1000))

    def _garbage(self) -> bytes:
        return self._rng.randbytes(300) + b"\r\n"

    def _request(self, subject: str, payload: bytes) -> bytes:
        return nats.pub(f"{subject}.{self._cluster.cluster_id}".encode(), b"_INBOX.hostile", payload)
