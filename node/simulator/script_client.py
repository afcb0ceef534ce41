"""A client that a script controls: it sends and receives bytes, and reports everything it receives.

It subscribes as the public clients do: to a heartbeat inbox, to one for the acknowledgements of its
publishes, to one for replies, and to one for each subscription. The inbox of a subscription stays subscribed
after the subscription has ended, so that later deliveries would be noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

from node.protocol import nats, nats_replies
from node.protocol import streaming as stan
from node.server.connection import Connection
from node.simulator.expected_membership import CLUSTER_ID
from node.simulator.sim_node import SimNode
from node.simulator.world import World

TRAVEL_S = 0.0002
"""Time that bytes take between a client and its node."""
ROAM_S = 0.1
"""Time that a roaming client waits before it connects again."""

OPTIONS = {"verbose": False, "pedantic": False, "protocol": 1, "headers": True, "no_responders": True}


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message that arrived at a subscription's inbox."""

    at_s: float
    client: str
    consumer: Consumer
    message: stan.Message


@dataclass(frozen=True, slots=True)
class Stored:
    """An acknowledged publish."""

    at_s: float
    client: str
    guid: str


@dataclass(frozen=True, slots=True)
class Remark:
    """Any other event of a client, as text; ``subject`` is the client or one of its subscriptions."""

    at_s: float
    client: str
    subject: str
    text: str


Event: TypeAlias = Delivered | Stored | Remark


@dataclass(slots=True, eq=False)
class Consumer:
    """A subscription, as its client sees it."""

    handle: str
    channel: str
    inbox: str
    acks: bool = False
    """Acknowledge each message as soon as it arrives."""
    quiet: bool = False
    """Record deliveries, but don't print them."""
    data: bool = False
    """Print deliveries with their payload."""
    ack_inbox: str = ""
    earlier_ack_inboxes: list[str] = field(default_factory=list)
    received: list[stan.Message] = field(default_factory=list)


class ScriptedClient:
    """One client and its connection, if it has one.

    Args:
        world: the simulated world.
        name: its name in the script.
        on_event: called with each event.
        next_node: returns the node that a roaming client connects to; None: no node accepts clients now.
    """

    def __init__(
        self,
        world: World,
        name: str,
        on_event: Callable[[Event], None],
        next_node: Callable[[SimNode | None], SimNode | None],
    ) -> None:
        self.name = name
        self.client_id = name
        self.conn_id = f"conn-{name}".encode()
        self.heartbeat_inbox = f"_INBOX.{name}.hb"
        self.answers = True
        """Whether it answers heartbeats."""
        self.shows_heartbeats = False
        self.roams = False
        """Whether it connects to another node when its connection is lost."""
        self.quiet = False
        """Don't print disconnects, reconnects and acknowledged publishes."""
        self.consumers: dict[str, Consumer] = {}
        """By message inbox."""
        self.guids: dict[str, bool] = {}
        """The GUIDs of its publishes, and whether each was acknowledged."""
        self.response = stan.ConnectResponse()
        """The last response to a connect request."""
        self._world = world
        self._on_event = on_event
        self._next_node = next_node
        self._node: SimNode | None = None
        self._connection: Connection | None = None
        self._session = 0
        self._raw = False
        self._frozen: list[Callable[[], None]] | None = None
        self._parser = nats.ClientParser()
        self._handshakes = 0
        self._sids: dict[bytes, str] = {}
        self._asked: dict[str, tuple[str, Callable[[bytes], None]]] = {}
        self._numbers = count(1)
        self._guid_numbers = count(1)

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def node(self) -> SimNode | None:
        """The node it is or was last connected to."""
        return self._node

    def report(self, text: str, subject: str = "") -> None:
        """Report an event as text."""
        self._on_event(Remark(self._world.now, self.name, subject or self.name, text))

    # --- its connection -----------------------------------------------------------------------------

    def open(self, node: SimNode, *, raw: bool = False) -> None:
        """Connect. A ``raw`` client sends nothing by itself, and also reports INFO."""
        self._session += 1
        self._node, self._raw = node, raw
        self._parser, self._sids = nats.ClientParser(), {}
        wire = _Wire(self, node, self._session)
        self._connection = wire.connection = node.accept(wire)
        wire.output()
        if not raw:
            self._handshakes = 1
            self.send(nats.connect(OPTIONS) + nats.PING)
            for inbox in (self.heartbeat_inbox, f"_STAN.acks.{self.name}", f"_INBOX.{self.name}.r.*"):
                self.listen(inbox)
            for inbox in self.consumers:
                self.listen(inbox)

    def listen(self, inbox: str) -> None:
        """Subscribe to one of its inboxes."""
        if inbox and inbox not in self._sids.values():
            sid = b"%d" % (900 + len(self._sids))
            self._sids[sid] = inbox
            self.send(nats.sub(inbox.encode(), b"", sid))

    def drop(self, *, roams: bool = False) -> None:
        """Break the connection. The node notices at once."""
        connection, node = self._connection, self._node
        assert connection is not None
        assert node is not None
        self.roams = roams
        self._frozen = None
        node.now_or_when_resumed(lambda: connection.abort("the client has left"))
        self.lost(self._session, "")

    def lost(self, session: int, reason: str) -> None:
        """Handle the end of connection ``session``."""
        if session != self._session or self._connection is None:
            return
        self._connection = None
        self._asked.clear()
        if reason and not self.quiet:
            self.report("disconnected")
        if self.roams:
            self._world.after(ROAM_S, self._roam)

    def _roam(self) -> None:
        if self._connection is None:
            node = self._next_node(self._node)
            if node is None:
                self._world.after(ROAM_S, self._roam)
            else:
                self.open(node)
                if not self.quiet:
                    self.report("connected again")

    def freeze(self) -> None:
        """Neither read nor write until `thaw`; the connection stays open."""
        self._frozen = []

    def thaw(self) -> None:
        """Continue with everything that arrived meanwhile."""
        held, self._frozen = self._frozen or [], None
        for call in held:
            call()

    def send(self, data: bytes) -> None:
        """Send bytes to the node. Bytes of one connection stay in order."""
        if self._frozen is not None:
            self._frozen.append(lambda: self.send(data))
            return
        connection, node = self._connection, self._node
        if connection is None or node is None:
            return

        def arrive() -> None:
            if not connection.closed and node.up:
                node.now_or_when_resumed(read)

        def read() -> None:
            connection.received(data)
            while connection.resting:
                connection.go_on()

        self._world.after(TRAVEL_S, arrive)

    def arrived(self, session: int, data: bytes) -> None:
        """Handle bytes from the node."""
        if session != self._session or self._connection is None:
            return
        if self._frozen is not None:
            self._frozen.append(lambda: self.arrived(session, data))
            return
        self._parser.feed(data)
        while ops := self._parser.ops():
            for op in ops:
                self._operation(op)

    def _operation(self, op: nats_replies.Reply) -> None:
        match op:
            case nats.Msg(sid=sid) if sid in self._sids:
                self._message(op)
            case nats.Msg():
                self.report(_message_line(op))
            case nats.Err(text=text):
                self.report(f"-ERR '{text}'")
            case nats.Info(fields=fields) if self._raw:
                self.report(f"INFO with {', '.join(fields)}")
            case nats.Ok():
                self.report("+OK")
            case nats.Pong():
                if self._handshakes:
                    self._handshakes = 0
                else:
                    self.report("PONG")
            case nats.Ping():
                self.send(nats.PONG)

    # --- the streaming service ----------------------------------------------------------------------

    def request(self, subject: str, payload: bytes, answered: Callable[[bytes], None]) -> None:
        """Send a request to the streaming service. ``subject`` includes the cluster ID."""
        reply = f"_INBOX.{self.name}.r.{next(self._numbers)}"
        self._asked[reply] = (subject, answered)
        self.send(nats.pub(subject.encode(), reply.encode(), payload))

    def connect(self, request: stan.ConnectRequest, cluster_id: str = CLUSTER_ID) -> None:
        """Send a connect request."""

        def answered(payload: bytes) -> None:
            self.response = stan.decode_connect_response(payload)
            error = self.response.error
            self.report(f"refused: {error}" if error else "connected")

        self.request(f"_STAN.discover.{cluster_id}", stan.encode_connect(request), answered)

    def subscribe(self, consumer: Consumer, request: stan.SubscriptionRequest) -> None:
        """Subscribe with an inbox that was not used before."""
        self.consumers[consumer.inbox] = consumer
        self.listen(consumer.inbox)

        def answered(payload: bytes) -> None:
            response = stan.decode_subscription_response(payload)
            if response.error:
                self.report(f"refused: {response.error}", consumer.handle)
            else:
                consumer.ack_inbox = response.ack_inbox
                self.report("subscribed", consumer.handle)

        self.request(f"_STAN.sub.{CLUSTER_ID}", stan.encode_subscription(request), answered)

    def publish(
        self, request: stan.PublishRequest, *, suffix: str | None = None, acknowledged: bool = True
    ) -> None:
        """Publish. ``suffix`` replaces the channel in the NATS subject."""
        self.guids[request.guid] = False
        subject = f"_STAN.pub.{CLUSTER_ID}.{request.channel if suffix is None else suffix}"
        reply = f"_STAN.acks.{self.name}" if acknowledged else ""
        self.send(nats.pub(subject.encode(), reply.encode(), stan.encode_publish(request)))

    def new_guid(self) -> str:
        return f"{self.name}-{next(self._guid_numbers)}"

    def ack(self, inbox: str, channel: str, seq: int) -> None:
        """Send an ack. It has no reply."""
        self.send(nats.pub(inbox.encode(), b"", stan.encode_ack(stan.Ack(channel, seq))))

    def _message(self, message: nats.Msg) -> None:
        subject = message.subject.decode()
        if subject == self.heartbeat_inbox:
            if self.shows_heartbeats:
                self.report(f"heartbeat of {len(message.payload)} bytes, to be answered")
            if message.reply and self.answers:
                self.send(nats.pub(message.reply, b"", b""))
        elif subject == f"_STAN.acks.{self.name}":
            self._publish_answered(message)
        elif subject in self.consumers:
            self._delivery(self.consumers[subject], stan.decode_message(message.payload))
        elif subject in self._asked:
            to, answered = self._asked.pop(subject)
            if message.headers:
                self.report(f"no responders for {to}")
            else:
                answered(message.payload)

    def _publish_answered(self, message: nats.Msg) -> None:
        if message.headers:
            self.report("no responders for its publishes")
            return
        guid, error = stan.decode_pub_ack(message.payload)
        if error:
            self.report(f"publish refused: {error}")
        elif self.guids.get(guid):
            self.report(f"!! {guid} is acknowledged twice")
        else:
            self.guids[guid] = True
            if not self.quiet:
                self._on_event(Stored(self._world.now, self.name, guid))

    def _delivery(self, consumer: Consumer, message: stan.Message) -> None:
        self._on_event(Delivered(self._world.now, self.name, consumer, message))
        consumer.received.append(message)
        if consumer.acks and consumer.ack_inbox:
            self.ack(consumer.ack_inbox, consumer.channel, message.seq)


def _message_line(message: nats.Msg) -> str:
    kind = "HMSG" if message.headers else "MSG"
    reply = f" {message.reply.decode()}" if message.reply else ""
    headers = f" {message.headers.decode().split(chr(13))[0]}" if message.headers else ""
    text = message.payload.decode(errors="replace")
    payload = f'"{text}"' if text.isprintable() else f"{len(text)} bytes"
    return f"{kind} {message.subject.decode()} {message.sid.decode()}{reply}{headers} {payload}"


class _Wire:
    """Transfers the output of a node to a client."""

    connection: Connection

    def __init__(self, client: ScriptedClient, node: SimNode, session: int) -> None:
        self._client = client
        self._node = node
        self._session = session
        self._scheduled = False

    def output(self) -> None:
        """See `connection.Driver`."""
        if not self._scheduled:
            self._scheduled = True
            self._client._world.after(0.0, lambda: self._node.now_or_when_resumed(self._write))
        if not self._node.up:
            self._client._world.after(TRAVEL_S, self._ended)

    def _write(self) -> None:
        self._scheduled = False
        connection = self.connection
        data = b"".join(connection.take())
        connection.sent(len(data))
        world, client = self._client._world, self._client
        world.after(TRAVEL_S, lambda: client.arrived(self._session, data))
        if connection.closed:
            world.after(TRAVEL_S, self._ended)

    def _ended(self) -> None:
        self._client.lost(self._session, self.connection.close_reason)

    def input(self) -> None:
        """See `connection.Driver`. Input that arrived while reading was paused is already buffered."""
