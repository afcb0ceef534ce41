"""Replaces ``routing`` for a streaming service behind an external NATS server.

Services become subscriptions at that server, and publishes go to it. Its subscriptions can't be seen. A
client is known only by its answers:

* A request (a heartbeat, a duplicate check) without a subscriber comes back at once as a 503, if the server
  supports headers. Then the client is unreachable (rule R15), and the request is repeated until the client
  answers.
* On a new connection every client gets a probe. A client is unreachable until it answers, but nothing is
  reported about its inbox. If there is a subscriber but no answer within ``PROBE_S``, the subscriber may be
  one that receives all subjects: the probe is repeated, as if there were none.
* A server without headers reports nothing: while it is connected every client is reachable, and missed
  heartbeats decide, as they do for clients that hang.
* Without a connection every client is unreachable, and no heartbeat counts as missed: `Requests` is
  suspended.

A request without a subscriber is repeated, with the same reply subject, for as long as its answer may be
awaited. So a client that reconnects within the heartbeat's timeout has missed no heartbeat.

A plain object without I/O. `external_nats.link` gives it an `Outlet` for each connection. Answers that are
published without a connection are kept for the next one, up to ``BUFFER_BYTES_MAX``; more are dropped, like
data in transit when a connection breaks. Requests are not kept but repeated, and deliveries are made again.

Source: the NATS client protocol, "Headers and no-responders".
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from node.errors import RemoteProtocolError
from node.protocol import nats
from node.protocol.message import message_size, redelivered
from node.protocol.streaming import decode_message
from node.protocol.subjects import literal, matches, valid_subject
from node.server.interest import InterestChange
from node.server.subscriptions import Handler, InternalSubscription

log = logging.getLogger("stanchion.external")

BUFFER_BYTES_MAX = 8 * 1024 * 1024
"""Limit for the answers kept while there is no connection, and for the requests that wait."""

_INBOXES = (b"_INBOX.", b"_STAN.acks.")
"""Prefixes of the subjects of nearly all answers. This node's services there are not harmed by an answer."""

PROBE_S = 0.5
"""A probe with a subscriber but without an answer is repeated after this time."""

AGAIN_MIN_S, AGAIN_MAX_S = 0.25, 4.0
"""Pause before a request without a subscriber is repeated; doubles from the first to the second."""

ASKED_S = 60.0
"""How long an unanswered request is remembered; longer than any wait for its answer."""

ASKED_MAX = 65_536
"""Most requests that are remembered. Further ones are sent too, but their answers show nothing."""

PAYLOAD_MAX = 8 * 1024 * 1024
"""Largest incoming message, in bytes. It must fit into a log entry; a longer one is dropped."""

ENVELOPE_SIZE_MAX = message_size(2**64 - 1, 2**63 - 1, 0) + len(redelivered(b"", 2**32 - 1))
"""Bytes of a delivery in addition to the message's body."""

TOO_LONG_LOGGED_MAX = 256
"""Messages too long for the server that are logged, for each connection."""


class Outlet(Protocol):
    """The connection to the NATS server, as used here."""

    @property
    def epoch(self) -> int:
        """Increases with each connection."""

    @property
    def has_headers(self) -> bool:
        """Requests without a subscriber come back."""

    @property
    def max_payload(self) -> int:
        """In bytes. The server would close the connection for a longer message."""

    @property
    def writable(self) -> bool: ...

    @property
    def closed(self) -> bool: ...

    def write(self, data: bytes) -> None: ...


class Inbox:
    """A client's subscription at the external server. Messages are sent whether or not it exists."""

    __slots__ = ("_routing", "connection")

    def __init__(self, routing: ExternalNatsRouting, connection: Outlet) -> None:
        self._routing = routing
        self.connection = connection

    def deliver(self, subject: bytes, payload: bytes) -> None:
        """Send one message."""
        self._routing.publish(None, subject, b"", b"", payload, to_services=False)


@dataclass(slots=True)
class _Asked:
    """A request that waits for its answer."""

    inbox: bytes
    data: bytes
    sent_s: float
    until_s: float
    is_unreceived: bool = False
    """It had no subscriber when it was last sent."""
    pause_s: float = AGAIN_MIN_S


class ExternalNatsRouting:
    """The routing that ``replica`` uses, over one connection to a NATS server.

    In a cluster one node at a time *serves*: the leader, from when it is ready (`open`) until it is no longer
    the leader (`close`). Only it subscribes to the clients' requests; `serving` chooses the queue group and
    handles requests at a change of leader. All nodes subscribe to their own reply inboxes. A follower treats
    every client as connected to the leader (`follow`): at a change of leader all inboxes move, and what
    clients may have missed is sent again (rule R15).

    Args:
        node: this node's name.
        clock: monotonic seconds.
        nuid: returns 22 random characters that can't be guessed.
        clients: returns the heartbeat inboxes of all clients.
        inboxes: returns the same, and the inboxes of all online subscriptions.
        is_clustered: whether this node has peers.
        may_take: whether this node certainly may handle an incoming request now. Until then it waits, or
            until `close`.
        may_deliver: whether this node delivers what it applies. Not if another node leads already, although
            this node has not been closed yet: the other one delivers too.
    """

    def __init__(
        self,
        node: str,
        *,
        clock: Callable[[], float],
        nuid: Callable[[], str],
        clients: Callable[[], Iterable[str]],
        inboxes: Callable[[], Iterable[str]],
        is_clustered: bool = False,
        may_take: Callable[[], bool] = lambda: True,
        may_deliver: Callable[[], bool] = lambda: True,
    ) -> None:
        self.node = node
        self.sees_connections = False
        """Whether the end of a client's connection can be seen."""
        self.on_interest_change: Callable[[str, list[InterestChange]], None] | None = None
        self._clock = clock
        self._clients = clients
        self._inboxes = inboxes
        self._outlet: Outlet | None = None
        self._inbox: Inbox | None = None
        self._is_clustered = is_clustered
        self.may_take = may_take
        self.may_deliver = may_deliver
        self._queue = b""
        """The queue group of the subscriptions to clients' requests."""
        self._held: deque[nats.Msg] = deque()
        self._held_bytes = 0
        self._is_open = False
        self._followed: tuple[str, int] | None = None
        """The node that serves, and its term, while this one doesn't."""
        self._stuck = False
        self._services: dict[bytes, InternalSubscription] = {}
        self._sid = 0
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._dropping = False
        self._too_long: set[tuple[bytes, int]] = set()
        """Inbox and sequence of messages that this connection can't deliver."""
        self._asked: dict[bytes, _Asked] = {}
        self._awaited: dict[bytes, bytes] = {}
        """Heartbeat inboxes that are unreachable, and the reply subject of the request sent there."""
        self._prefix = b"_INBOX." + nuid().encode() + b"."
        self._probes = 0
        self.dropped = 0
        """Messages that were not sent: too long for the server, or too many without a connection."""
        self.in_msgs = self.in_bytes = self.out_msgs = self.out_bytes = 0
        self.inserts = 0
        self.removes = 0
        self.serve(self._prefix + b"*", _ignore, announce=True)

    # --- what replica and its parts need ----------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Return True if this node serves."""
        return self._is_open

    @property
    def subscription_count(self) -> int:
        """Return the number of this node's subscriptions."""
        return len(self._services)

    @property
    def body_size_max(self) -> int | None:
        """Bytes of a published message's body that can be delivered; None without a connection."""
        return None if self._outlet is None else max(self._outlet.max_payload - ENVELOPE_SIZE_MAX, 1)

    def serve(self, pattern: bytes, handler: Handler, *, announce: bool = False) -> InternalSubscription:
        """See `Routing.serve`. The subscription is made at the server, when this node is `open`.

        With ``announce`` it is this node's own inbox, to which every node of a cluster subscribes at once.
        """
        assert valid_subject(pattern)
        self._sid += 1
        sid = b"%d" % self._sid
        service = InternalSubscription(pattern, handler, announce, lambda _ended: self._ended(sid))
        self._services[sid] = service
        self.inserts += 1
        if self._outlet is not None and self._is_wanted(service):
            self._subscribe(self._outlet, sid, service)
        return service

    def _ended(self, sid: bytes) -> None:
        service = self._services.pop(sid)
        self.removes += 1
        if self._outlet is not None and self._is_wanted(service):
            self._outlet.write(nats.unsub(sid))

    def _is_wanted(self, service: InternalSubscription) -> bool:
        """Return True if it must be subscribed to at the server now."""
        return self._is_open or (self._is_clustered and service.announced)

    def _subscribe(self, outlet: Outlet, sid: bytes, service: InternalSubscription) -> None:
        outlet.write(nats.sub(service.pattern, b"" if service.announced else self._queue, sid))

    def publish(
        self,
        source: None,
        subject: bytes,
        reply: bytes,
        headers: bytes,
        payload: bytes,
        *,
        to_services: bool = True,
    ) -> int:
        """Send a message. Returns 1 if it was sent, because its subscribers can't be seen."""
        if not literal(subject) or (reply and not literal(reply)):
            return 0  # a client may name any text as its inbox; the server would close the connection
        if not (to_services or subject.startswith(_INBOXES)) and self.is_served(subject):
            return 0  # the server would send it back to this node
        outlet = self._outlet
        if outlet is not None and len(payload) + len(headers) > outlet.max_payload:
            self._drop_too_long(subject, payload, outlet.max_payload)
            return 0
        data = nats.hpub(subject, reply, headers, payload) if headers else nats.pub(subject, reply, payload)
        if reply and len(self._asked) < ASKED_MAX:
            now = self._clock()
            self._asked[reply] = _Asked(subject, data, now, now + ASKED_S)
        if outlet is not None:
            self.out_msgs += 1
            self.out_bytes += len(payload)
            outlet.write(data)
        elif not reply:
            self._keep(data)
        return 1

    def is_served(self, subject: bytes) -> bool:
        """Return True if one of this node's services takes ``subject``."""
        return any(matches(service.pattern, subject) for service in self._services.values())

    def is_held_up(self, _source: object) -> bool:
        """Return False: no client is connected to this node."""
        return False

    def local_receivers(self, inbox: bytes) -> Sequence[Inbox]:
        """Return one receiver for all subscribers; none without a connection, or before this node serves.

        What a node applies before it serves may have been delivered before it stopped (R4).
        """
        if self._inbox is None or not self._is_open or not self.may_deliver():
            return ()
        return (self._inbox,) if literal(inbox) else ()

    def reachable(self, subject: bytes) -> bool:
        """Return True unless ``subject`` is known to have no subscriber."""
        return self.where(subject) is not None

    def where(self, subject: bytes) -> tuple[str, int] | None:
        """Return this node and its connection's epoch; None if ``subject`` is known to have no subscriber.

        While another node serves: that node and its term, for every subject.
        """
        if not self._is_open:
            return self._followed
        if self._outlet is None or self._stuck or subject in self._awaited:
            return None
        return self.node, self._outlet.epoch

    where_any = where
    """The same: a subscriber of any owner counts, because subscribers can't be seen."""

    def reachable_by_owner(self, _inbox: bytes) -> bool:
        """Return True: `publish` sends an answer to the server, or keeps it for the next connection.

        So a node that stops keeps no answers of its own: its clients stay connected to the server.
        """
        return True

    def receives(self, subject: bytes, where: tuple[str, int]) -> bool:
        """Return True unless ``subject`` is known to have no subscriber on the connection ``where``."""
        return self.where(subject) == where

    def matching(self, _subject: bytes) -> Sequence[Any]:
        """Return the clients' subscriptions at this node: none, they are at the NATS server."""
        return ()

    def set_stuck(self, _connection: object, stuck: bool) -> None:
        """Record whether the server reads (R3)."""
        self._stuck = stuck
        self._changed()

    def complete(self, _peer: str) -> bool:
        """Return True: other nodes have no clients of their own."""
        return True

    works = False
    """No work is done in steps: see `routing.Routing.works`."""

    def work(self) -> float | None:
        """Return None: there is no work."""
        return None

    def flush(self) -> None:
        """Do nothing: no other node is informed."""

    def tick(self) -> None:
        """Forget requests whose answers are no longer awaited. To be called about once a second."""
        now = self._clock()
        for reply in [reply for reply, asked in self._asked.items() if asked.until_s <= now]:
            del self._asked[reply]
        if self._awaited:
            inboxes = {inbox.encode() for inbox in self._clients()}
            for inbox in [inbox for inbox in self._awaited if inbox not in inboxes]:
                del self._awaited[inbox]

    # --- the connection ---------------------------------------------------------------------------

    def open(self, queue: bytes = b"") -> None:
        """Start to serve: subscribe in this queue group, now and on every later connection."""
        if not self._is_open:
            self.follow(None)
            self._queue = queue
            self._is_open = True
            self._begin()

    def close(self) -> None:
        """Stop to serve; the connection stays. Another node serves, or none.

        Waiting requests are dropped, because they are another node's, unless `may_take` still allows them.
        """
        if not self._is_open:
            return
        self.take_held()
        if self._held:
            log.info("%d requests arrived when this node was not certain to lead: dropped", len(self._held))
        self._held.clear()
        self._held_bytes = 0
        outlet = self._outlet
        if outlet is not None:
            for sid, service in self._services.items():
                if not service.announced:
                    outlet.write(nats.unsub(sid))
            self._notify_gone(self.node, outlet.epoch)
        self._awaited.clear()
        self._is_open = False

    def follow(self, leader: tuple[str, int] | None) -> None:
        """Set the node that serves and its term; None if there is none. Ignored while this node serves."""
        if self._is_open or leader == self._followed:
            return
        before, self._followed = self._followed, leader
        if before is not None:
            self._notify_gone(*before)
        if leader is not None:
            self._changed()

    def up(self, outlet: Outlet) -> None:
        """Use a new connection."""
        assert self._outlet is None
        self._outlet = outlet
        self._inbox = Inbox(self, outlet)
        self._stuck = self._dropping = False
        self._too_long.clear()
        for sid, service in self._services.items() if self._is_clustered else ():
            if service.announced:
                self._subscribe(outlet, sid, service)
        if self._is_clustered:  # answers to requests that this node accepted while it served
            self._send_kept(outlet)
        self._begin()

    def down(self, outlet: Outlet) -> None:
        """Handle the end of a connection. What it had not written may be lost."""
        if self._outlet is not outlet:
            return
        self._outlet = self._inbox = None
        self._awaited.clear()
        self._asked.clear()
        if self._is_open:
            self._notify_gone(self.node, outlet.epoch)

    def _notify_gone(self, node: str, epoch: int) -> None:
        """Report that no inbox is reachable any more over a connection that stood for all clients."""
        if self.on_interest_change is not None:
            gone = [InterestChange(inbox.encode(), b"", epoch, 0) for inbox in self._inboxes()]
            self.on_interest_change(node, gone)

    def received(self, message: nats.Msg) -> None:
        """Handle a message from the server."""
        self.in_msgs += 1
        self.in_bytes += len(message.payload)
        service = self._services.get(message.sid)
        asked = self._asked.get(message.subject)
        if message.headers.startswith(b"NATS/1.0 503") and not message.payload:
            if asked is not None:
                asked.is_unreceived = True
                self._set_unreachable(asked.inbox, message.subject)
            return
        if asked is not None:
            del self._asked[message.subject]
            self._set_reachable(asked.inbox)
        if len(message.payload) > PAYLOAD_MAX:
            self._drop(f"{len(message.payload)} bytes on {message.subject.decode(errors='replace')} came in")
        elif service is None:
            return
        elif service.announced:
            service.handler(None, message.subject, message.reply, message.payload)
        elif self.may_take():
            self.take_held()
            service.handler(None, message.subject, message.reply, message.payload)
        elif self._is_open:
            self._hold(message)

    def take_held(self) -> bool:
        """Handle waiting requests, if this node may take them now. Returns whether there were any."""
        count = len(self._held)
        while self._held and self.may_take():
            message = self._held.popleft()
            self._held_bytes -= len(message.payload)
            service = self._services.get(message.sid)
            if service is not None:
                service.handler(None, message.subject, message.reply, message.payload)
        return len(self._held) < count

    def _hold(self, message: nats.Msg) -> None:
        if self._held_bytes + len(message.payload) > BUFFER_BYTES_MAX:
            self.dropped += 1  # its client gets a timeout
            return
        self._held.append(message)
        self._held_bytes += len(message.payload)

    def beat(self) -> None:
        """Repeat requests that had no subscriber. To be called several times a second."""
        outlet, now = self._outlet, self._clock()
        if outlet is None:
            return
        for asked in self._asked.values():
            if asked.is_unreceived and now - asked.sent_s >= asked.pause_s:
                asked.is_unreceived, asked.sent_s = False, now
                asked.pause_s = min(2 * asked.pause_s, AGAIN_MAX_S)
                outlet.write(asked.data)
        for inbox, reply in list(self._awaited.items()):
            probe = self._asked.get(reply)
            if probe is None:
                self._probe(inbox)
            elif now - probe.sent_s >= PROBE_S:
                probe.is_unreceived = True

    def _probe(self, inbox: bytes) -> None:
        """Send a client a probe, which it answers like a heartbeat."""
        self._probes += 1
        reply = self._prefix + b"%d" % self._probes
        if self.publish(None, inbox, reply, b"", b"", to_services=False) and reply in self._asked:
            self._awaited[inbox] = reply
        else:
            self._awaited.pop(inbox, None)  # it can't be probed: heartbeats decide

    def _begin(self) -> None:
        """When both open and connected: subscribe, send kept answers, probe the clients."""
        outlet = self._outlet
        if outlet is None or not self._is_open:
            return
        for sid, service in self._services.items():
            if not (self._is_clustered and service.announced):
                self._subscribe(outlet, sid, service)
        self._send_kept(outlet)
        if outlet.has_headers:
            for inbox in self._clients():
                self._probe(inbox.encode())
        self._changed()

    def _send_kept(self, outlet: Outlet) -> None:
        kept, self._buffer, self._buffered_bytes = self._buffer, [], 0
        for data in kept:
            outlet.write(data)

    def _set_unreachable(self, inbox: bytes, reply: bytes) -> None:
        if inbox not in self._awaited and self._outlet is not None and self._is_open:
            self._awaited[inbox] = reply
            self._changed([InterestChange(inbox, b"", self._outlet.epoch, 0)])

    def _set_reachable(self, inbox: bytes) -> None:
        if self._awaited.pop(inbox, None) is not None:
            self._changed()

    def _changed(self, changes: list[InterestChange] | None = None) -> None:
        if self.on_interest_change is not None:
            self.on_interest_change(self.node, changes or [])

    def _keep(self, data: bytes) -> None:
        if self._buffered_bytes + len(data) > BUFFER_BYTES_MAX:
            self.dropped += 1
            if not self._dropping:
                self._dropping = True
                log.warning("no connection to a NATS server: further answers to clients are dropped")
            return
        self._buffer.append(data)
        self._buffered_bytes += len(data)

    def _drop_too_long(self, subject: bytes, payload: bytes, size_max: int) -> None:
        """Log a dropped delivery, once for each message and inbox, because it is repeated at each AckWait."""
        self.dropped += 1
        try:
            found = decode_message(payload)
        except RemoteProtocolError:
            found = None
        key = (subject, found.seq if found is not None else len(payload))
        if key in self._too_long or len(self._too_long) > TOO_LONG_LOGGED_MAX:
            return
        self._too_long.add(key)
        if len(self._too_long) > TOO_LONG_LOGGED_MAX:
            log.error("dropped: many messages are too long for the server; further ones are not logged")
            return
        what = f"message {found.seq} of channel {found.channel}, " if found is not None else ""
        where = subject.decode(errors="replace")
        log.error(
            "dropped: %s%d bytes for %s: too long for the server, whose max_payload is %d",
            what, len(payload), where, size_max,
        )  # fmt: skip

    def _drop(self, what: str) -> None:
        self.dropped += 1
        log.error("dropped: %s", what)


def _ignore(_source: Any, _subject: bytes, _reply: bytes, _payload: bytes) -> None:
    """Do nothing: only the arrival of the answer counts, which `received` has recorded."""
