"""A streaming client in a simulated world: it sends bytes, reconnects, and records everything it receives.

It behaves as the public clients do: after a lost connection it waits, connects to any node, and subscribes
to the same inboxes again. It sends nothing to the streaming service, where its session still exists. A
request to the service times out after two seconds. If a subscribe request times out, the client later closes
that subscription.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from node.protocol import nats
from node.protocol import streaming as stan
from node.protocol.positions import StartPosition
from node.server.connection import Connection
from node.simulator.sim_messages import message_of
from node.simulator.sim_wire import DELAY_S, Wire

if TYPE_CHECKING:
    from node.simulator.cluster import Cluster
    from node.simulator.reference_model import ReferenceModel
    from node.simulator.sim_node import SimNode

RECONNECT_S = (0.05, 0.5)
TIMEOUT_S = 2.0
"""Timeout of a request to the streaming service."""

BURSTS = (1, 1, 1, 1, 1, 1, 1, 2, 5, 30)
"""The number of messages that a publisher sends at once is drawn from these."""


@dataclass(frozen=True, slots=True)
class Habits:
    """The behaviour of a client."""

    channel: str = "foo"
    """The channel it subscribes to."""
    publishes_every_s: float = 0.0
    """Mean time between two bursts of publishes, as if each had one message; 0: it does not publish."""
    publishes_to: tuple[str, ...] = ("foo",)
    subscribes: bool = True
    queue: str = ""
    durable: str = ""
    ack_wait_s: int = 2
    max_in_flight: int = 16
    acks: float = 0.9
    """Probability that it acknowledges a delivery."""


class Received(NamedTuple):
    """The last delivery of a sequence."""

    data: bytes
    redeliveries: int
    at_s: float
    session: int
    """Number of the client's connection that it received through."""


@dataclass(slots=True)
class Seen:
    """The deliveries of one subscription since its subscribe request."""

    inbox: str
    messages: dict[int, Received] = field(default_factory=dict)
    highest_new: int = 0
    """The highest sequence that received without the redelivered flag."""


class SimClient:
    """One client with one subscription or one stream of publishes, or both."""

    def __init__(self, cluster: Cluster, name: str, habits: Habits) -> None:
        self.name = name
        self.habits = habits
        self.published: dict[str, str] = {}
        """The channel of each publish, by GUID."""
        self.published_s: dict[str, float] = {}
        self.stored: set[str] = set()
        self.refused: set[str] = set()
        self.received: set[int] = set()
        """The sequences received by any of its subscriptions."""
        self.deliveries = 0
        self.seen = Seen("")
        self.quiet = False
        self.dead = False
        self.noticed_s = 0.0
        """When the last node notices the loss of a connection of this client."""
        self.registered = False
        self.subscribed = False
        self.closings = 0
        """How often it sent a close request."""
        self.connected_s = 0.0
        self._closing = False
        self._reading = True
        self._cluster = cluster
        self._world = cluster.world
        self._rng = cluster.world.stream(name)
        self._session = 0
        self._connection: Connection | None = None
        self._node: SimNode | None = None
        self._wire: Wire | None = None
        self._parser = nats.ClientParser()
        self._ack_inbox = b""
        self._lost_inboxes: list[str] = []
        self._asked: dict[bytes, Callable[[bytes], None]] = {}
        self._numbers = 0
        self._flow_s = 0.0
        self._publishing = False

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.closed

    @property
    def node(self) -> SimNode | None:
        """The node it connected to last."""
        return self._node

    @property
    def reading(self) -> bool:
        return self._reading

    def holds(self, session: int) -> bool:
        """Return True if ``session`` is its current connection."""
        return session == self._session and self._connection is not None

    @property
    def conn_id(self) -> bytes:
        """A new ID for each new registration."""
        return f"conn-{self.name}-{self.closings}".encode()

    @property
    def _heartbeats(self) -> str:
        return f"_INBOX.{self.name}.hb{self.closings}"

    # --- connection -------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect to a random node that accepts clients; retry later if there is none."""
        if self.dead or self._connection is not None:
            return
        nodes = [node for node in self._cluster.nodes if node.serves and node.replica.caught_up]
        if not nodes:
            self._world.after(RECONNECT_S[1], self.connect)
            return
        self._session += 1
        self._node = self._rng.choice(nodes)
        self._parser = nats.ClientParser()
        wire = self._wire = Wire(self._world, self._rng, self, self._node, self._session)
        self._connection = wire.connection = self._node.accept(wire)
        self.connected_s = self._world.now
        wire.output()
        options = {"verbose": False, "pedantic": False, "protocol": 1, "headers": True, "no_responders": True}
        self._send(nats.connect(options) + nats.PING)
        self._listen(1, self._heartbeats)
        self._listen(2, f"_INBOX.{self.name}.r.*")
        self._listen(3, f"_INBOX.{self.name}.acks")
        if self.seen.inbox:
            self._listen(4, self.seen.inbox)
        self._world.record(f"{self.name} connects to {self._node.name}")
        if self._closing:
            self.close()
        self._go_on()

    def _listen(self, sid: int, inbox: str) -> None:
        self._send(nats.sub(inbox.encode(), b"", str(sid).encode()))

    def _go_on(self) -> None:
        """Send the next request: registration, or subscription."""
        if self._closing or not self.connected:
            return
        if not self.registered:
            self._register()
        elif self.habits.subscribes and not self.subscribed:
            self._subscribe()

    def lost(self, session: int) -> None:
        """Handle the end of connection ``session``."""
        if session == self._session and self._connection is not None:
            self._connection = None
            self._asked.clear()
            if not self.dead:
                self._world.after(self._rng.uniform(*RECONNECT_S), self.connect)

    def drop(self, *, unnoticed_s: float = 0.0) -> None:
        """Break the connection. The node notices at once or after ``unnoticed_s``."""
        connection, node = self._connection, self._node
        if connection is None or node is None:
            return

        def notice() -> None:
            node.now_or_when_resumed(lambda: connection.abort("the client has left"))

        self.noticed_s = max(self.noticed_s, self._world.now + unnoticed_s)
        self._world.after(unnoticed_s, notice)
        self.lost(self._session)

    def die(self, *, unnoticed_s: float = 0.0) -> None:
        """Disconnect for good."""
        self._world.record(f"{self.name} dies")
        self.dead = True
        self.drop(unnoticed_s=unnoticed_s)

    def restart_for(self, reference: ReferenceModel) -> int:
        """Restart the application with the ID of another cluster.

        Returns how many of its acknowledged publishes are lost.
        """
        self.drop()
        self._closing = False
        self.closings += 1
        self.registered = self.subscribed = False
        self.seen = Seen("")
        self._lost_inboxes.clear()
        last = len(reference.log(self.habits.channel)) - 1
        self.received = {seq for seq in self.received if seq <= last}
        before = len(self.stored)
        self.stored = {guid for guid in self.stored if guid.encode() in reference.stored}
        return before - len(self.stored)

    def stop_reading(self, seconds: float) -> None:
        """Leave incoming bytes in the socket for a while."""
        self._world.record(f"{self.name} does not read for {seconds:.2f} s")
        self._reading = False
        self._world.after(seconds, self.read_on)

    def read_on(self) -> None:
        self._reading = True

    def _send(self, data: bytes, read: Callable[[SimNode], None] | None = None) -> None:
        wire, session = self._wire, self._session
        if wire is None or self._connection is None:
            return

        def arrive() -> None:
            if session == self._session and not wire.connection.closed:
                wire.arrive(data, read)

        # Bytes of one connection stay in order.
        self._flow_s = max(self._flow_s + 1e-7, self._world.now + self._rng.uniform(*DELAY_S))
        self._world.after(self._flow_s - self._world.now, arrive)

    def arrived(self, session: int, data: bytes) -> None:
        """Handle bytes of connection ``session``."""
        if session != self._session or self._connection is None:
            return
        self._parser.feed(data)
        while ops := self._parser.ops():
            for op in ops:
                if isinstance(op, nats.Msg):
                    self._message(op)
                elif isinstance(op, nats.Ping):
                    self._send(nats.PONG)

    # --- the streaming session --------------------------------------------------------------------

    def _request(
        self, subject: str, payload: bytes, answered: Callable[[bytes], None], timed_out: Callable[[], None]
    ) -> None:
        self._numbers += 1
        reply = f"_INBOX.{self.name}.r.{self._numbers}".encode()
        self._asked[reply] = answered
        self._send(nats.pub(f"{subject}.{self._cluster.cluster_id}".encode(), reply, payload))
        session = self._session

        def late() -> None:
            if session == self._session and self._asked.pop(reply, None) is not None:
                timed_out()

        self._world.after(TIMEOUT_S, late)

    def _register(self) -> None:
        request = stan.ConnectRequest(self.name, self._heartbeats, 1, self.conn_id, 5, 88)

        def answered(payload: bytes) -> None:
            error = stan.decode_connect_response(payload).error
            if error:
                self._cluster.checker.refused(self, "registration", error)
                self._world.after(1.0, self._go_on)
                return
            self.registered = True
            self._go_on()
            if self.habits.publishes_every_s and not self._publishing:
                self._publishing = True
                self._publish()

        self._request("_STAN.discover", stan.encode_connect(request), answered, self._go_on)

    def _subscribe(self) -> None:
        habits = self.habits
        if self.seen.inbox:
            self._lost_inboxes.append(self.seen.inbox)
            self._send(nats.unsub(b"4", None))
        self._numbers += 1
        seen = self.seen = Seen(f"_INBOX.{self.name}.m{self._numbers}")
        self._listen(4, seen.inbox)
        self._ack_inbox = b""
        request = stan.SubscriptionRequest(
            self.name,
            habits.channel,
            habits.queue,
            seen.inbox,
            habits.max_in_flight,
            habits.ack_wait_s,
            habits.durable,
            StartPosition.FIRST,
        )

        def answered(payload: bytes) -> None:
            if seen is not self.seen:
                return  # a newer subscribe request replaces this one, and will close it
            response = stan.decode_subscription_response(payload)
            if response.error:
                # Usually an earlier request was applied although it timed out, and holds the durable.
                self._cluster.checker.refused(self, "subscription", response.error)
                self._close_lost()
                self._world.after(0.3, self._go_on)
                return
            self._ack_inbox = response.ack_inbox.encode()
            self.subscribed = True
            self._close_lost()

        self._request("_STAN.sub", stan.encode_subscription(request), answered, self._go_on)

    def _close_lost(self) -> None:
        """Close timed-out subscriptions by message inbox, as public clients do."""
        for inbox in self._lost_inboxes[-10:]:
            request = stan.UnsubscribeRequest(self.name, self.habits.channel, inbox)
            self._request("_STAN.subclose", stan.encode_unsubscribe(request), _ignore, _nothing)

    def end_subscription(self, *, for_good: bool) -> None:
        """Close the subscription, or unsubscribe if ``for_good``, and subscribe again soon."""
        if not (self.subscribed and self.connected) or self._closing:
            return
        self._world.record(f"{self.name} {'unsubscribes' if for_good else 'closes its subscription'}")
        self.subscribed = False
        request = stan.UnsubscribeRequest(self.name, self.habits.channel, self._ack_inbox.decode())
        pause_s = self._rng.uniform(0, 1.5)

        def answered(_payload: bytes) -> None:
            self._world.after(pause_s, self._go_on)

        subject = "_STAN.unsub" if for_good else "_STAN.subclose"
        self._request(subject, stan.encode_unsubscribe(request), answered, self._go_on)

    def close(self) -> None:
        """Send a close request, and register again after a while as a new client with the same ID."""
        if not (self.registered and self.connected):
            return
        self._world.record(f"{self.name} closes")
        self._closing = True
        pause_s = self._rng.uniform(0, 1.5)

        def closed(_payload: bytes = b"") -> None:
            self._closing = False
            self.closings += 1
            self.registered = self.subscribed = False
            self.seen = Seen("")
            self._lost_inboxes.clear()
            connection = self._connection
            if connection is not None:
                self.drop()
                self._world.after(pause_s, self.connect)

        self._request("_STAN.close", stan.encode_close(stan.CloseRequest(self.name)), closed, closed)

    def _publish(self) -> None:
        habits = self.habits
        bursts = BURSTS if self._cluster.scaled else (1,)
        every_s = habits.publishes_every_s * sum(bursts) / len(bursts)
        self._world.after(self._rng.expovariate(1 / every_s), self._publish)
        if self.quiet or self.dead or self._closing or not (self.connected and self.registered):
            return
        self._send(b"".join(self._new_publish() for _ in range(self._rng.choice(bursts))))

    def _new_publish(self) -> bytes:
        guid = f"{self.name}/{self._session}/{len(self.published)}"
        channel = self.published[guid] = self._rng.choice(self.habits.publishes_to)
        self.published_s[guid] = self._world.now
        data = message_of(guid, sized=self._cluster.scaled)
        request = stan.PublishRequest(self.name, guid, channel, "", data, self.conn_id)
        subject = f"_STAN.pub.{self._cluster.cluster_id}.{channel}".encode()
        return nats.pub(subject, f"_INBOX.{self.name}.acks".encode(), stan.encode_publish(request))

    def _message(self, message: nats.Msg) -> None:
        tail = message.subject.rpartition(b".")[2]
        if tail.startswith(b"hb"):
            if message.reply:
                self._send(nats.pub(message.reply, b"", b""))
        elif tail == b"acks":
            if not message.headers:
                ack = stan.decode_pub_ack(message.payload)
                self._cluster.checker.stored(self, ack.guid, ack.error)
                (self.refused if ack.error else self.stored).add(ack.guid)
        elif message.subject == self.seen.inbox.encode():
            self._delivery(message.payload)
        elif not message.headers:
            answered = self._asked.pop(message.subject, None)
            if answered is not None:
                answered(message.payload)

    def _delivery(self, payload: bytes) -> None:
        message = stan.decode_message(payload)
        seq, seen = message.seq, self.seen
        self.deliveries += 1
        self.received.add(seq)
        self._cluster.checker.received(self, seen, message)
        seen.messages[seq] = Received(message.data, message.redelivery_count, self._world.now, self._session)
        if not message.redelivered:
            seen.highest_new = seq
        if self.quiet or self._rng.random() < self.habits.acks:
            at_once = self.quiet or self._rng.random() < 0.7
            delay = 0.0 if at_once else self._rng.uniform(0, self.habits.ack_wait_s)
            self._world.after(delay, lambda: self._ack(seen, seq))

    def _ack(self, seen: Seen, seq: int) -> None:
        if seen is self.seen and self._ack_inbox and self.connected:
            ack = stan.encode_ack(stan.Ack(self.habits.channel, seq))
            received = self._cluster.checker.ack_received
            self._send(nats.pub(self._ack_inbox, b"", ack), lambda node: received(node, seen.inbox, seq))


def _ignore(_payload: bytes) -> None:
    """Ignore the reply: it doesn't matter whether the subscription existed."""


def _nothing() -> None:
    """Do nothing: the close is repeated after the next subscribe request."""
