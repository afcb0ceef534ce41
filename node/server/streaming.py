"""The streaming service of a node: turns requests into commands, and outcomes into replies.

A request arrives as an ordinary NATS message on one of seven subjects, or as an acknowledgement under the
cluster's tag. It is decoded and checked for errors that make it invalid in any state (R26). Everything else
becomes a command of this node's session (``origin``) and is decided in ``apply``. The outcome comes back as
an effect and is sent as a reply.

Order: requests of one connection get serials in the order they arrived. The acknowledgements of one read are
gathered by subscription, but always precede a close, an unsubscribe or a disconnect that the client sent
after them.

*Names* given by a client have at most ``NAME_SIZE_MAX`` bytes. A request that would register or create
something with a longer name is refused here. Earlier releases had no limit: what they registered can still be
used and closed.

A client must not use as its inbox a subject that a service subscribes to (of this node or of another
cluster). The service would answer heartbeats in its place, and the client would never be found unresponsive.
Such clients of earlier releases may be in the state, so nothing that is sent to a subject of a client's
choice reaches a service either (``to_services``).

A plain object without I/O.

Source: the streaming protocol, sections 1 and 3 to 9.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from node.core import refusals
from node.core.commands import (
    ANY_GENERATION,
    Acked,
    ClientCheck,
    ClientClose,
    ClientKeep,
    ClientOpen,
    ClientReplace,
    Publish,
    SubscriptionClose,
    SubscriptionOpen,
    SubscriptionReplace,
    Unsubscribe,
)
from node.core.effects import ClientOpened, DurableTaken, Outcome, Probing, Refused, SubscriptionOpened
from node.core.state import State
from node.core.versions import too_new
from node.errors import RemoteProtocolError
from node.protocol import streaming as stan
from node.protocol.message import message_body
from node.protocol.positions import StartPosition
from node.protocol.subjects import (
    NAME_SIZE_MAX,
    is_too_long,
    literal,
    valid_channel,
    valid_client_id,
)
from node.server.clock import ClusterClock
from node.server.moving import MovingReplies
from node.server.origin import Origin
from node.server.requests import Requests
from node.server.unknown_acks import UnknownAcks
from node.units import MILLISECOND, SECOND, Generation

log = logging.getLogger("stanchion.streaming")

PROBE_S = 0.5
"""How long a registered client has to answer when another client connects with its ID (R17)."""

RETRY_NS = 250 * MILLISECOND
"""If a client opens the same durable again after this time, it no longer waits for the first answer."""

PAYLOAD_SIZE_MAX = 8 * 1024 * 1024
"""Maximum bytes of a request: the largest ``clients.max_payload``. A node of another cluster could send a
longer one."""

PUBLISH_OVERHEAD = 32
"""Maximum bytes of an encoded publish besides its names and its body."""

ACK_INBOX_SIZE_MAX = 128
"""Bytes. Ack inboxes have about 50."""

ACKS_GATHERED_MAX = 4096
"""Acknowledgements gathered from one read. At the maximum they are submitted: a command of a few dozen KB."""

CLIENTS_PER_CONNECTION_MAX = 1000
"""Maximum number of client IDs that one connection has registered. Applications register one or a few."""

RESERVED = (b"_STAN.", b"_STANCHION.")
"""Prefixes of the service's own subjects, whether this node serves them or not."""

START_POSITIONS = frozenset(int(position) for position in StartPosition)


class Routing(Protocol):
    """The part of routing that is needed here."""

    def serve(self, pattern: bytes, handler: Callable[..., None], *, announce: bool = False) -> Any: ...
    def publish(
        self,
        source: None,
        subject: bytes,
        reply: bytes,
        headers: bytes,
        payload: bytes,
        *,
        to_services: bool = True,
    ) -> int: ...
    def is_served(self, subject: bytes) -> bool: ...
    def local_receivers(self, inbox: bytes) -> Sequence[Any]: ...
    def where(self, subject: bytes) -> tuple[str, int] | None: ...
    def reachable_by_owner(self, inbox: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects of one cluster's service. Source: the streaming protocol, section 1."""

    discover: str
    pings: str
    publish: str
    subscribe: str
    unsubscribe: str
    subscription_close: str
    close: str

    @classmethod
    def of(cls, cluster_id: str, discover_prefix: str = "_STAN.discover") -> Subjects:
        return cls(
            discover=f"{discover_prefix}.{cluster_id}",
            pings=f"{discover_prefix}.{cluster_id}.pings",
            publish=f"_STAN.pub.{cluster_id}",
            subscribe=f"_STAN.sub.{cluster_id}",
            unsubscribe=f"_STAN.unsub.{cluster_id}",
            subscription_close=f"_STAN.subclose.{cluster_id}",
            close=f"_STAN.close.{cluster_id}",
        )


class Streaming:
    """The service on one node.

    Args:
        subjects: the subjects of this cluster.
        state: the replicated state, for reading only.
        origin: this node's session.
        routing: delivers requests and sends replies.
        requests: sends a client a request, to find out whether it is alive.
        clock: cluster time.
        leader_known: returns whether a leader is known now.
        client_pinged: called for the leader when an unresponsive client has pinged (HBT-06).
        nuid: makes the random part of ack inboxes (R18).
    """

    def __init__(
        self,
        subjects: Subjects,
        *,
        state: Callable[[], State],
        origin: Origin,
        routing: Routing,
        requests: Requests,
        clock: ClusterClock,
        leader_known: Callable[[], bool],
        client_pinged: Callable[[str], None],
        nuid: Callable[[], str],
    ) -> None:
        self._subjects = subjects
        self._state = state
        self._origin = origin
        self._routing = routing
        self._requests = requests
        self._clock = clock
        self._leader_known = leader_known
        self._client_pinged = client_pinged
        self._nuid = nuid
        self._opening: dict[tuple[str, str, str], tuple[str, int]] = {}
        """Durables (client, channel, name) being opened: the ack inbox it will have, and since when."""
        self._acks: dict[tuple[str, bytes], dict[int, None]] = {}
        self._ack_count = 0
        self.unknown_acks = UnknownAcks()
        self._registered: dict[object, dict[str, bool]] = {}
        """Client IDs by the connection that requested them; True once they are registered."""
        self._registered_checked_ns = 0
        self._channel_start = len(subjects.publish) + 1
        self._ack_handle: Any = None
        self._held: list[tuple[bytes, bytes]] | None = None  # answers to publishes, while deliveries are held
        self.body_size_max: Callable[[], int | None] | None = None
        """Returns the largest body that can be delivered, if an external NATS server limits it."""
        self.answer_behind: Callable[[bytes, bytes], bool] = lambda _inbox, _payload: False
        """Queues an answer behind waiting deliveries of the same connection; False if there are none."""
        self.moving: MovingReplies | None = None
        """Sends all answers while this node stops, because clients leave it before they are answered."""
        self.publishes_refused = ""
        """The error for publishers while the cluster's disks are nearly full; else empty."""
        self.published = 0
        self.published_bytes = 0
        origin.publish_answered = self._publish_answered
        serve = routing.serve
        serve(subjects.discover.encode(), self._on_connect)
        serve(subjects.pings.encode(), self._on_ping)
        serve(subjects.publish.encode() + b".>", self._on_publish)
        serve(subjects.subscribe.encode(), self._on_subscribe)
        serve(subjects.unsubscribe.encode(), self._on_unsubscribe)
        serve(subjects.subscription_close.encode(), self._on_subscription_close)
        serve(subjects.close.encode(), self._on_close)

    def bootstrapped(self) -> None:
        """Subscribe to acknowledgements once the cluster has its tag (R18)."""
        if self._ack_handle is None and self._state().cluster_tag:
            pattern = f"_INBOX.{self._state().cluster_tag}.*"
            self._ack_handle = self._routing.serve(pattern.encode(), self._on_ack)

    def hold(self) -> None:
        """Hold answers to publishes, because deliveries are held until this node has caught up (R4).

        Otherwise a client that publishes and subscribes on one connection would get the acknowledgement
        before the message (PUB-09).
        """
        if self._held is None:
            self._held = []

    @property
    def holds_answers(self) -> bool:
        """True if answers wait until this node has caught up."""
        return bool(self._held)

    def resume(self) -> None:
        """Send the held answers: the held deliveries have been sent."""
        held, self._held = self._held, None
        for reply, payload in held or ():
            self._send(reply, payload)

    def read_done(self, _connection: object = None) -> None:
        """Submit the requests of one read as one batch."""
        self._submit_acks()
        self._origin.flush()

    def closed(self, connection: object) -> None:
        """Forget a client's connection: it has ended. Its client IDs stay registered."""
        self._registered.pop(connection, None)

    # --- publishing and acknowledging -------------------------------------------------------------

    def _on_publish(self, _source: object, subject: bytes, reply: bytes, payload: bytes) -> None:
        try:
            if len(payload) > PAYLOAD_SIZE_MAX:
                raise RemoteProtocolError(f"a publish of {len(payload)} bytes")
            request = stan.decode_publish(payload)
        except RemoteProtocolError:
            self._reply(reply, stan.encode_pub_ack("", refusals.INVALID_PUBLISH))
            return
        channel = request.channel
        if (
            not request.guid
            or subject[self._channel_start :] != channel.encode()  # else permissions could be bypassed
            or not valid_channel(channel)
            or not self._may_publish(request)
        ):
            self._reply(reply, stan.encode_pub_ack(request.guid, refusals.INVALID_PUBLISH))
            return
        if self.publishes_refused:
            self._reply(reply, stan.encode_pub_ack(request.guid, self.publishes_refused))
            return
        body = message_body(channel, request.reply, request.data)
        if self.body_size_max is not None and len(body) > (self.body_size_max() or sys.maxsize):
            self._reply(reply, stan.encode_pub_ack(request.guid, refusals.MESSAGE_TOO_LONG))
            return
        self.published += 1
        self.published_bytes += len(payload)
        client_id, conn_id = "" if request.conn_id else request.client_id, request.conn_id
        self._origin.submit_publish(
            Publish(client_id, conn_id, channel, body),
            (reply, request.guid),
            len(body) + len(subject) + len(client_id) + len(conn_id) + PUBLISH_OVERHEAD,
        )

    def _may_publish(self, request: stan.PublishRequest) -> bool:
        """Return False if no state can contain the client, or if the guid is too long."""
        if len(request.guid) > NAME_SIZE_MAX:
            return False
        conn_id, client_id = request.conn_id, request.client_id
        if conn_id:
            return len(conn_id) <= NAME_SIZE_MAX or conn_id in self._state().by_conn
        return bool(client_id) and client_id.isascii() and not self._is_too_long_client(client_id)

    def _is_too_long_client(self, client_id: str) -> bool:
        """Return True if the ID is too long and no earlier release has registered it."""
        return is_too_long(client_id) and client_id not in self._state().clients

    def _publish_answered(self, pending: tuple[Any, ...], outcome: Outcome) -> None:
        reply, guid = pending
        if _may_be_answered(reply):
            text = outcome.text if type(outcome) is Refused else ""
            payload = stan.encode_pub_ack(guid, text)
            if self._held is None:
                self._send(reply, payload)
            else:
                self._held.append((reply, payload))

    def _on_ack(self, _source: object, subject: bytes, _reply: bytes, payload: bytes) -> None:
        try:
            channel, seq = stan.decode_ack(payload)
        except RemoteProtocolError:
            return  # an ack is never answered, not even a malformed one
        if not seq or len(subject) > ACK_INBOX_SIZE_MAX or not valid_channel(channel):
            return
        key = (channel, subject)
        seqs = self._acks.get(key)
        if seqs is None:
            self._acks[key] = {seq: None}
        else:
            seqs[seq] = None
        self._ack_count += 1
        if self._ack_count >= ACKS_GATHERED_MAX:
            self._submit_acks()

    def _submit_acks(self) -> None:
        if not self._acks:
            return
        acks, self._acks = self._acks, {}
        self._ack_count = 0
        known = self._state().by_ack_inbox
        for (channel, inbox), seqs in acks.items():
            name = inbox.decode("utf-8", "replace")
            subscription = known.get(name)
            acked = Acked(channel, name, list(seqs))
            if subscription is not None and subscription.channel.name != channel:
                # An inbox belongs to one subscription for ever, so this ack is invalid in any later state.
                self.unknown_acks.dropped += len(seqs)
            elif subscription is None and self._leader_known():
                # This node may be behind the node that delivered the message (R26).
                self.unknown_acks.hold(acked, self._clock.now())
            else:
                self._origin.submit(acked)

    def opened(self, ack_inbox: str) -> None:
        """Submit the acknowledgements held for this ack inbox: an entry has opened its subscription."""
        for acked in self.unknown_acks.opened(ack_inbox):
            self._origin.submit(acked)
        self._origin.flush()

    def replaced(self) -> None:
        """Submit the acknowledgements held for the subscriptions of a snapshot's state."""
        if self.unknown_acks:
            for acked in self.unknown_acks.replaced(self._state().by_ack_inbox):
                self._origin.submit(acked)
            self._origin.flush()

    # --- clients ----------------------------------------------------------------------------------

    def _on_connect(self, source: object, _subject: bytes, reply: bytes, payload: bytes) -> None:
        try:
            request = stan.decode_connect(payload)
        except RemoteProtocolError:
            request = None
        if (
            request is None
            or not self._may_be_asked(request.heartbeat_inbox)
            or len(request.conn_id) > NAME_SIZE_MAX
        ):
            self._reply(reply, _connect_error(refusals.INVALID_CONNECT))
            return
        if not valid_client_id(request.client_id):
            self._reply(reply, _connect_error(refusals.INVALID_CLIENT_ID))
            return
        registered = self._registered_by(source)
        if len(registered) >= CLIENTS_PER_CONNECTION_MAX and request.client_id not in registered:
            self._reply(reply, _connect_error(refusals.TOO_MANY_CLIENTS))
            return
        registered.setdefault(request.client_id, False)
        command = ClientOpen(
            request.client_id,
            request.conn_id,
            request.heartbeat_inbox,
            request.protocol,
            request.ping_interval_s,
            request.ping_max_out,
            self._valid_until(),
        )

        self._submit(command, partial(self._connect_decided, command, registered, reply))

    def _connect_decided(
        self, command: ClientOpen, registered: dict[str, bool], reply: bytes, outcome: Outcome
    ) -> None:
        """Answer a request to connect. ``registered``: the client IDs of its connection."""
        if isinstance(outcome, Probing):
            self._probe(outcome, command, partial(self._connect_decided, command, registered, reply))
        elif isinstance(outcome, ClientOpened):
            registered[command.client_id] = True
            self._reply(reply, self._connected(command))
        elif isinstance(outcome, Refused):
            if not registered.get(command.client_id, True):
                del registered[command.client_id]
            if outcome.text:
                self._reply(reply, _connect_error(outcome.text))

    def _registered_by(self, source: object) -> dict[str, bool]:
        """Return the client IDs of a connection. Requests not from a client of this node are not counted.

        If a connection seems to have too many, those that ended without its request are removed, at most once
        a second.
        """
        if source is None:
            return {}
        registered = self._registered.setdefault(source, {})
        now_ns = self._clock.now()
        if len(registered) >= CLIENTS_PER_CONNECTION_MAX and now_ns - self._registered_checked_ns >= SECOND:
            self._registered_checked_ns = now_ns
            clients = self._state().clients
            for client_id in [name for name, has in registered.items() if has and name not in clients]:
                del registered[client_id]
        return registered

    def _connected(self, request: ClientOpen) -> bytes:
        subjects = self._subjects
        pings = request.protocol >= 1
        return stan.encode_connect_response(
            stan.ConnectResponse(
                pub_prefix=subjects.publish,
                sub_requests=subjects.subscribe,
                unsub_requests=subjects.unsubscribe,
                close_requests=subjects.close,
                sub_close_requests=subjects.subscription_close,
                ping_requests=subjects.pings if pings else "",
                ping_interval_s=request.ping_interval_s if pings else 0,
                ping_max_out=request.ping_max_out if pings else 0,
                protocol=1,
            )
        )

    def _probe(self, taken: Probing, request: ClientOpen, answer: Callable[[Outcome], None]) -> None:
        """Ask the client that has the ID. It has 500 ms to answer, whoever subscribes to its inbox (R17)."""

        def keep() -> None:
            self._submit(ClientKeep(taken.client_id, taken.generation), answer)
            self.read_done()

        def replace() -> None:
            replaced = ClientReplace(
                taken.client_id,
                taken.generation,
                request.conn_id,
                request.heartbeat_inbox,
                request.protocol,
                request.ping_interval_s,
                request.ping_max_out,
                request.valid_until_ns,
            )
            self._submit(replaced, answer)
            self.read_done()

        self._requests.ask(taken.inbox, keep, replace, PROBE_S)

    def _on_ping(self, _source: object, _subject: bytes, reply: bytes, payload: bytes) -> None:
        if not payload or not reply:
            return
        try:
            conn_id = stan.decode_ping(payload).conn_id
        except RemoteProtocolError:
            return
        if not conn_id:
            return
        client = self._state().by_conn.get(conn_id)
        if client is None and len(conn_id) > NAME_SIZE_MAX:
            self._pinged(reply, Refused(refusals.CLIENT_REPLACED))
            return
        if client is None:
            self._submit(ClientCheck(conn_id), lambda outcome: self._pinged(reply, outcome))
            return
        if self._leader_known():
            self._reply(reply, b"")
        if client.unresponsive:
            self._client_pinged(client.id)

    def _pinged(self, reply: bytes, outcome: Outcome) -> None:
        text = outcome.text if isinstance(outcome, Refused) else ""
        if text not in (refusals.NO_LEADER, refusals.STOPPING):  # an error makes a client give up
            self._reply(reply, stan.encode_ping_response(text))

    def _on_close(self, source: object, _subject: bytes, reply: bytes, payload: bytes) -> None:
        try:
            client_id = stan.decode_close(payload).client_id
        except RemoteProtocolError:
            self._reply(reply, stan.encode_close_response(refusals.INVALID_CLOSE))
            return
        if self._is_too_long_client(client_id):
            self._reply(reply, stan.encode_close_response(refusals.UNKNOWN_CLIENT_ID))
            return

        def answer(outcome: Outcome) -> None:
            text = outcome.text if isinstance(outcome, Refused) else ""
            if not text:
                self._registered.get(source, {}).pop(client_id, None)
            self._reply(reply, stan.encode_close_response(text))

        self._submit(ClientClose(client_id, self._generation_at(source, client_id)), answer)

    def _generation_at(self, source: object, client_id: str) -> Generation:
        """Return the generation of the client that asks: the present one if its heartbeats go there."""
        client = self._state().clients.get(client_id)
        if client is not None and source is not None:
            for receiver in self._routing.local_receivers(client.heartbeat_inbox.encode()):
                if receiver.connection is source:
                    return client.generation
        return ANY_GENERATION

    # --- subscriptions ----------------------------------------------------------------------------

    def _on_subscribe(self, _source: object, _subject: bytes, reply: bytes, payload: bytes) -> None:
        try:
            request = stan.decode_subscription(payload)
        except RemoteProtocolError:
            self._reply(reply, _subscription_error(refusals.INVALID_SUBSCRIBE))
            return
        refusal = self._refuse_subscription(request)
        if not refusal and not self._state().cluster_tag:
            refusal = refusals.NO_LEADER  # acknowledgements are not recognised without the tag (R18)
        if refusal:
            self._reply(reply, _subscription_error(refusal))
            return
        opened = SubscriptionOpen(
            request.client_id,
            request.channel,
            request.queue,
            request.durable,
            request.inbox,
            f"_INBOX.{self._state().cluster_tag}.{self._nuid()}",
            request.max_in_flight,
            request.ack_wait_s * SECOND,
            request.start,
            request.start_seq,
            request.start_delta_ns,
            self._valid_until(),
        )

        durable = (request.client_id, request.channel, request.durable)
        is_durable = bool(request.durable) and not request.queue
        command = self._retried(durable, opened) if is_durable else opened

        self._submit(command, partial(self._subscribe_decided, opened, command.ack_inbox, reply))

    def _subscribe_decided(
        self, opened: SubscriptionOpen, ack_inbox: str, reply: bytes, outcome: Outcome
    ) -> None:
        """Answer a request to subscribe. ``ack_inbox`` is that of the submitted command."""
        if opened.durable and not opened.queue:
            durable = (opened.client_id, opened.channel, opened.durable)
            if self._opening.get(durable, ("", 0))[0] == ack_inbox:
                del self._opening[durable]
        if isinstance(outcome, SubscriptionOpened):
            self._reply(reply, stan.encode_subscription_response(outcome.ack_inbox))
        elif isinstance(outcome, DurableTaken):
            self._replace(outcome, opened, partial(self._subscribe_decided, opened, ack_inbox, reply), reply)
        elif isinstance(outcome, Refused) and outcome.text:
            self._reply(reply, _subscription_error(outcome.text))

    def _retried(
        self, durable: tuple[str, str, str], command: SubscriptionOpen
    ) -> SubscriptionOpen | SubscriptionReplace:
        """Let a second attempt replace the first, whose answer the client no longer waits for.

        Only if the durable has been opening for ``RETRY_NS``: earlier the second request is a duplicate.
        """
        now_ns = self._clock.now()
        first, since_ns = self._opening.setdefault(durable, (command.ack_inbox, now_ns))
        if now_ns - since_ns < RETRY_NS or too_new(SubscriptionReplace, self._state().version):
            return command
        self._opening[durable] = (command.ack_inbox, since_ns)
        return SubscriptionReplace(*command, replaces=first)

    def _replace(
        self,
        taken: DurableTaken,
        command: SubscriptionOpen,
        answer: Callable[[Outcome], None],
        reply: bytes,
    ) -> None:
        """Replace a durable that is online if its inbox has no subscriber; else refuse a duplicate."""
        if self._routing.where(taken.inbox.encode()) is not None:
            self._reply(reply, _subscription_error(refusals.DUPLICATE_DURABLE))
            return
        self._submit(SubscriptionReplace(*command, replaces=taken.ack_inbox), answer)
        self.read_done()

    def _on_unsubscribe(self, _source: object, _subject: bytes, reply: bytes, payload: bytes) -> None:
        self._end_subscription(reply, payload, for_good=True)

    def _on_subscription_close(self, _source: object, _subject: bytes, reply: bytes, payload: bytes) -> None:
        self._end_subscription(reply, payload, for_good=False)

    def _end_subscription(self, reply: bytes, payload: bytes, *, for_good: bool) -> None:
        try:
            request = stan.decode_unsubscribe(payload)
        except RemoteProtocolError:
            self._reply(reply, stan.encode_unsubscribe_response(refusals.INVALID_UNSUBSCRIBE))
            return

        def answer(outcome: Outcome) -> None:
            text = outcome.text if isinstance(outcome, Refused) else ""
            if text or not isinstance(outcome, Refused):
                self._reply(reply, stan.encode_unsubscribe_response(text))

        client_id, channel, inbox, durable = request
        refusal = self._refuse_end(request)
        if refusal:
            self._reply(reply, stan.encode_unsubscribe_response(refusal))
        elif for_good:
            self._submit(Unsubscribe(client_id, channel, inbox, durable, self._valid_until()), answer)
        else:
            self._submit(SubscriptionClose(client_id, channel, inbox), answer)

    # --- shared -----------------------------------------------------------------------------------

    def _submit(self, command: Any, answer: Callable[[Outcome], None]) -> None:
        self._submit_acks()  # what was acknowledged before this request counts before it
        self._origin.submit(command, answer)

    def _valid_until(self) -> int:
        return self._clock.now() + self._state().settings.request_timeout_ns

    def _reply(self, reply: bytes, payload: bytes) -> None:
        if _may_be_answered(reply):
            self._send(reply, payload)

    def _send(self, reply: bytes, payload: bytes) -> None:
        if self.moving is not None:
            self.moving.send(reply, payload)
        elif not self.answer_behind(reply, payload):
            self.send_now(reply, payload)

    def send_now(self, reply: bytes, payload: bytes) -> None:
        """Send an answer without waiting for earlier deliveries on its connection."""
        self._routing.publish(None, reply, b"", b"", payload, to_services=False)

    def expect_moves(self) -> None:
        """Keep answers to unreachable clients until they connect to other nodes: this node stops."""

        def send(inbox: bytes, payload: bytes) -> None:
            self._routing.publish(None, inbox, b"", b"", payload, to_services=False)

        if self.moving is None:
            self.moving = MovingReplies(self._routing.reachable_by_owner, send)

    def _may_be_asked(self, inbox: str) -> bool:
        """Return True if ``inbox`` is valid and no service subscribes to it.

        A service would answer every heartbeat in the client's place.
        """
        if is_too_long(inbox):
            return False
        subject = inbox.encode()
        return literal(subject) and not subject.startswith(RESERVED) and not self._routing.is_served(subject)

    def _refuse_subscription(self, request: stan.SubscriptionRequest) -> str:
        """Return the error of a request that is invalid in any state; else an empty string.

        The order is that of the protocol (section 5.1, checks 2 to 7 and 9).
        """
        if not request.client_id:
            return refusals.CLIENT_ID_MISSING
        if request.ack_wait_s < 1:
            return refusals.INVALID_ACK_WAIT
        if request.max_in_flight < 1:
            return refusals.INVALID_MAX_IN_FLIGHT
        if request.start not in START_POSITIONS:
            return refusals.INVALID_START
        if not valid_channel(request.channel):
            return refusals.INVALID_SUBJECT
        if self._is_too_long_client(request.client_id):
            return refusals.UNKNOWN_CLIENT_ID
        if (
            not self._may_be_asked(request.inbox)
            or is_too_long(request.queue)
            or is_too_long(request.durable)
        ):
            return refusals.INVALID_SUBSCRIBE
        return ""

    def _refuse_end(self, request: stan.UnsubscribeRequest) -> str:
        """Return the error if no state can contain the subscription to end; else an empty string."""
        client_id, channel, inbox, durable = request
        if not valid_channel(channel):
            return refusals.UNKNOWN_CHANNEL
        if is_too_long(inbox):
            return refusals.INVALID_SUBSCRIPTION
        if is_too_long(durable) and not self._is_known_durable(channel, client_id, durable):
            return refusals.INVALID_SUBSCRIPTION
        if self._is_too_long_client(client_id):
            return refusals.UNKNOWN_CLIENT_ID
        return ""

    def _is_known_durable(self, channel: str, client_id: str, durable: str) -> bool:
        known = self._state().channels.get(channel)
        return known is not None and (client_id, durable) in known.durables


def _may_be_answered(reply: bytes) -> bool:
    """Return False for subjects of the service itself.

    An answer contains text of the requester. Sent to the subject for closing clients, the answer to a publish
    would be a request to close the client whose ID is the guid, which permissions may forbid.
    """
    return bool(reply) and (not reply.startswith(RESERVED) or reply.startswith(b"_STAN.acks."))


def _connect_error(text: str) -> bytes:
    return stan.encode_connect_response(stan.ConnectResponse(error=text))


def _subscription_error(text: str) -> bytes:
    return stan.encode_subscription_response(error=text)
