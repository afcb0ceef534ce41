"""A streaming client in a simulated world: it speaks bytes, reconnects, and remembers all it saw.

It behaves as the public clients do: after a lost connection it waits, connects to some node, subscribes
to the same inboxes again and says nothing to the streaming service, whose session it still has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from node.protocol import nats
from node.protocol import streaming as stan
from node.protocol.positions import StartPosition
from node.server.connection import Connection

if TYPE_CHECKING:
    from node.simulator.cluster import Cluster
    from node.simulator.sim_node import SimNode

RECONNECT_S = 0.5
DELAY_S = (0.0002, 0.002)


@dataclass(frozen=True, slots=True)
class Habits:
    """What a client does."""

    channel: str = "foo"
    publishes_every_s: float = 0.0
    """0: it does not publish."""
    subscribes: bool = True
    queue: str = ""
    durable: str = ""
    ack_wait_s: int = 2
    max_in_flight: int = 16
    acks: float = 0.9
    """How likely it acknowledges a delivery."""


@dataclass(slots=True)
class Received:
    """One delivery, as the client saw it."""

    seq: int
    data: bytes
    redelivered: bool
    count: int
    at_s: float
    session: int
    """Which of the client's connections it came through."""


@dataclass(slots=True)
class Consumer:
    """What a subscribing client has seen."""

    received: list[Received] = field(default_factory=list)
    acked_s: dict[int, float] = field(default_factory=dict)


class SimClient:
    """One client with one subscription or one stream of publishes, or both."""

    def __init__(self, cluster: Cluster, name: str, habits: Habits) -> None:
        self.name = name
        self.habits = habits
        self.seen = Consumer()
        self.published: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.quiet = False
        self.registered = False
        self.subscribed = False
        self._cluster = cluster
        self._world = cluster.world
        self._session = 0
        self._connection: Connection | None = None
        self._node: SimNode | None = None
        self._parser = nats.ClientParser()
        self._ack_inbox = b""
        self._asked: dict[bytes, Callable[[bytes], None]] = {}
        self._numbers = 0
        self._flow_s = 0.0
        self._reading = True

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.closed

    # --- connection -------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect to some node that takes clients; again later if there is none."""
        nodes = [node for node in self._cluster.nodes if node.serves and node.replica.caught_up]
        if not nodes:
            self._world.after(RECONNECT_S, self.connect)
            return
        self._session += 1
        self._node = self._world.rng.choice(nodes)
        self._parser = nats.ClientParser()
        wire = _Wire(self, self._session)
        self._connection = self._node.accept(wire)
        wire.output()
        options = {"verbose": False, "pedantic": False, "protocol": 1, "headers": True, "no_responders": True}
        self._send(nats.connect(options) + nats.PING)
        for number, subject in enumerate(self._inboxes(), 1):
            self._send(nats.sub(subject, b"", str(number).encode()))
        self._world.note(f"{self.name} connects to {self._node.name}")
        if not self.registered:
            self._register()
        elif self.habits.subscribes and not self.subscribed:
            self._subscribe()

    def _inboxes(self) -> list[bytes]:
        name = self.name.encode()
        return [b"_INBOX." + name + suffix for suffix in (b".hb", b".msg", b".r.*", b".acks")]

    def lost(self, session: int) -> None:
        if session == self._session and self._connection is not None:
            self._connection = None
            self._asked.clear()
            self._world.after(self._world.rng.uniform(0.05, RECONNECT_S), self.connect)

    def drop(self) -> None:
        """The network between client and node breaks."""
        if self._connection is not None and self._node is not None:
            connection = self._connection
            self._node.now_or_when_resumed(lambda: connection.close("the client has left"))
            self.lost(self._session)

    def _send(self, data: bytes) -> None:
        connection, node, session = self._connection, self._node, self._session
        if connection is None or node is None:
            return

        def arrive() -> None:
            if session == self._session and not connection.closed and node.up:
                node.now_or_when_resumed(lambda: connection.received(data))

        # Bytes of one connection stay in order.
        self._flow_s = max(self._flow_s + 1e-7, self._world.now + self._world.rng.uniform(*DELAY_S))
        self._world.after(self._flow_s - self._world.now, arrive)

    def arrived(self, session: int, data: bytes) -> None:
        if session != self._session:
            return
        self._parser.feed(data)
        while ops := self._parser.ops():
            for op in ops:
                if isinstance(op, nats.Msg):
                    self._message(op)
                elif isinstance(op, nats.Ping):
                    self._send(nats.PONG)

    # --- the streaming session --------------------------------------------------------------------

    def _request(self, subject: str, payload: bytes, answered: Callable[[bytes], None]) -> None:
        self._numbers += 1
        reply = f"_INBOX.{self.name}.r.{self._numbers}".encode()
        self._asked[reply] = answered
        self._send(nats.pub(subject.encode(), reply, payload))

    def _register(self) -> None:
        request = stan.ConnectRequest(
            self.name, f"_INBOX.{self.name}.hb", 1, f"conn-{self.name}".encode(), 5, 88
        )
        session = self._session

        def answered(payload: bytes) -> None:
            error = stan.decode_connect_response(payload).error
            assert not error, f"{self.name}: {error}"
            self.registered = True
            if self.habits.subscribes:
                self._subscribe()
            if self.habits.publishes_every_s:
                self._publish()

        self._request("_STAN.discover.test-cluster", stan.encode_connect(request), answered)
        self._world.after(2.0, lambda: self._again(session, lambda: self.registered, self._register))

    def _subscribe(self) -> None:
        habits = self.habits
        request = stan.SubscriptionRequest(
            self.name,
            habits.channel,
            habits.queue,
            f"_INBOX.{self.name}.msg",
            habits.max_in_flight,
            habits.ack_wait_s,
            habits.durable,
            StartPosition.FIRST,
        )
        session = self._session

        def answered(payload: bytes) -> None:
            response = stan.decode_subscription_response(payload)
            if response.error and "duplicate durable" in response.error:
                # An earlier request was applied, its answer lost with the connection: close that one.
                self._close_lost()
                return
            assert not response.error, f"{self.name}: {response.error}"
            self._ack_inbox = response.ack_inbox.encode()
            self.subscribed = True

        self._request("_STAN.sub.test-cluster", stan.encode_subscription(request), answered)
        self._world.after(2.0, lambda: self._again(session, lambda: self.subscribed, self._subscribe))

    def _close_lost(self) -> None:
        """As public clients do after a subscribe request timed out: close by message inbox."""
        request = stan.UnsubscribeRequest(self.name, self.habits.channel, f"_INBOX.{self.name}.msg")
        self._request("_STAN.subclose.test-cluster", stan.encode_unsubscribe(request), lambda _payload: None)

    def _again(self, session: int, done: Callable[[], bool], again: Callable[[], None]) -> None:
        if session == self._session and self._connection is not None and not done():
            again()

    def _publish(self) -> None:
        habits = self.habits
        self._world.after(self._world.rng.expovariate(1 / habits.publishes_every_s), self._publish)
        if self.quiet or not self.connected:
            return
        guid = f"{self.name}-{len(self.published)}"
        data = guid.encode()
        self.published[guid] = data
        request = stan.PublishRequest(self.name, guid, habits.channel, "", data, f"conn-{self.name}".encode())
        subject = f"_STAN.pub.test-cluster.{habits.channel}".encode()
        self._send(nats.pub(subject, f"_INBOX.{self.name}.acks".encode(), stan.encode_publish(request)))

    def _message(self, message: nats.Msg) -> None:
        tail = message.subject.rpartition(b".")[2]
        if tail == b"hb":
            if message.reply:
                self._send(nats.pub(message.reply, b"", b""))
        elif tail == b"acks":
            if not message.headers:
                ack = stan.decode_pub_ack(message.payload)
                assert not ack.error, f"{self.name}: {ack.error}"
                self._cluster.checker.stored(self, ack.guid)
                self.stored[ack.guid] = self.published[ack.guid]
        elif tail == b"msg":
            self._delivery(message.payload)
        elif not message.headers:
            answered = self._asked.pop(message.subject, None)
            if answered is not None:
                answered(message.payload)

    def _delivery(self, payload: bytes) -> None:
        message = stan.decode_message(payload)
        received = Received(
            message.seq,
            message.data,
            message.redelivered,
            message.redelivery_count,
            self._world.now,
            self._session,
        )
        self._cluster.checker.received(self, received)
        self.seen.received.append(received)
        if self.quiet or self._world.chance(self.habits.acks):
            delay = 0.0 if self._world.chance(0.7) else self._world.rng.uniform(0, self.habits.ack_wait_s)
            self._world.after(delay, lambda: self._ack(message.seq))

    def _ack(self, seq: int) -> None:
        if self._ack_inbox and self.connected:
            self.seen.acked_s.setdefault(seq, self._world.now)
            self._send(nats.pub(self._ack_inbox, b"", stan.encode_ack(stan.Ack(self.habits.channel, seq))))


class _Wire:
    """Moves what a node writes to a client."""

    def __init__(self, client: SimClient, session: int) -> None:
        self._client = client
        self._session = session
        self._scheduled = False
        self._at_s = 0.0

    def output(self) -> None:
        """See `connection.Driver`."""
        client, world = self._client, self._client._world
        connection = client._connection
        if connection is None or client._session != self._session:
            return
        if connection.closed:
            world.after(0.001, lambda: client.lost(self._session))
            return
        if not self._scheduled:
            self._scheduled = True
            world.after(0.0, self._write)

    def _write(self) -> None:
        self._scheduled = False
        client, world = self._client, self._client._world
        connection = client._connection
        if connection is None or client._session != self._session:
            return
        data = b"".join(connection.take())
        connection.sent(len(data))
        self._at_s = max(self._at_s + 1e-7, world.now + world.rng.uniform(*DELAY_S))
        world.after(self._at_s - world.now, lambda: client.arrived(self._session, data))

    def input(self) -> None:
        """See `connection.Driver`: what came while reading was stopped has been kept."""
