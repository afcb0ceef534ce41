"""The streaming service behind somebody else's NATS server: what stands in for ``routing`` then.

Services become subscriptions at that server, publishes go to it, and of who listens to what nothing
can be seen. What can be known of a client is whether it answers:

* A request (a heartbeat, a duplicate check) that nobody listens to comes back at once as a 503, if the server
  has headers. That client counts as absent (rule R15), and is asked again and again until it answers.
* When the connection is new, every client is asked. One is absent until it answers, nobody having been told
  that its inbox is gone. If somebody listens and doesn't answer within ``PROBE_S``, that may be a bystander
  who listens to everything: the client is asked again, like one that nobody listens for.
* A server without headers tells nothing: while it is connected everyone is present, and missed heartbeats
  decide, as they do of clients that hang.
* While it isn't connected everyone is absent, and nobody misses heartbeats: `Requests` is suspended.

A request nobody heard is sent again, with the same reply subject, for as long as anybody may still wait for
its answer: a client that reconnects within the heartbeat's time-out has missed none.

A plain object without I/O. `external_nats_link` gives it an `Outlet` for as long as a connection stands.
Answers that are published while none does are kept for the next, up to ``BUFFER_BYTES_MAX``; more are
dropped, like what is on its way when a connection breaks. Requests are not kept but asked again, deliveries
made again.

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
"""Of what is published while there is no connection; and of requests that wait."""

_INBOXES = (b"_INBOX.", b"_STAN.acks.")
"""Where nearly every answer goes. What this node serves there takes no harm from one."""

PROBE_S = 0.5
"""A client that doesn't answer for so long, though somebody listens, is asked again."""

AGAIN_MIN_S, AGAIN_MAX_S = 0.25, 4.0
"""When somebody that nobody hears is asked again; the pause doubles from the first to the second."""

ASKED_S = 60.0
"""How long a request is remembered whose answer hasn't come; longer than anybody waits for one."""

ASKED_MAX = 65_536
"""Requests remembered at a time. More go out all the same, but their answers tell nothing."""

PAYLOAD_MAX = 8 * 1024 * 1024
"""Bytes of a message that comes in. One must fit into an entry of the log; a longer one is dropped."""

ENVELOPE_SIZE_MAX = message_size(2**64 - 1, 2**63 - 1, 0) + len(redelivered(b"", 2**32 - 1))
"""Bytes that a delivery has beyond the message's body."""

TOO_LONG_TOLD_MAX = 256
"""Messages too long for the server that are told of in the log, of one connection."""


class Outlet(Protocol):
    """The connection to the NATS server, as far as it is needed here."""

    @property
    def epoch(self) -> int:
        """Grows from connection to connection."""

    @property
    def has_headers(self) -> bool:
        """Requests that nobody listens to come back."""

    @property
    def max_payload(self) -> int:
        """Bytes. The server would end the connection for a longer one."""

    @property
    def writable(self) -> bool: ...

    @property
    def closed(self) -> bool: ...

    def write(self, data: bytes) -> None: ...


class Inbox:
    """A client's subscription, which can't be seen: what is sent goes out, if anybody is there or not."""

    __slots__ = ("_routing", "connection")

    def __init__(self, routing: ExternalNatsRouting, connection: Outlet) -> None:
        self._routing = routing
        self.connection = connection

    def deliver(self, subject: bytes, payload: bytes) -> None:
        """Send one message."""
        self._routing.publish(None, subject, b"", b"", payload, to_services=False)


@dataclass(slots=True)
class _Asked:
    """A request that is out."""

    inbox: bytes
    data: bytes
    sent_s: float
    until_s: float
    is_unheard: bool = False
    """Nobody listened when it was last sent."""
    pause_s: float = AGAIN_MIN_S


class ExternalNatsRouting:
    """What ``replica`` needs of routing, over one connection to a NATS server.

    In a cluster one node at a time *serves*: the leader, from when it is ready (`open`) until it loses its
    office (`close`). Only it subscribes to what clients send; `serving` says in which queue group and what
    becomes of requests at a change of leader. All nodes subscribe to their own reply inboxes. A follower
    takes every client to be connected to the leader (`follow`): when another leads, all inboxes have moved,
    and what clients may have missed is sent again (rule R15).

    Args:
        node: this node's name.
        clock: monotonic seconds.
        nuid: 22 characters nobody can guess.
        clients: the heartbeat inboxes of all clients there are.
        inboxes: the same, and those of all subscriptions that are online.
        is_clustered: whether this node has peers.
        may_take: whether a request that comes in now is this node's, for sure. One that comes in while it is
            not waits until it is, or until `close`.
        may_deliver: whether this node delivers what it applies. Not if another leads already, though this
            node has not been closed yet: that one delivers, too.
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
        """Whether it is known when a client's connection closes."""
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
        """The queue group in which clients' requests are subscribed to."""
        self._held: deque[nats.Msg] = deque()
        self._held_bytes = 0
        self._is_open = False
        self._followed: tuple[str, int] | None = None
        """Which node serves, and in which term, while this one doesn't."""
        self._stuck = False
        self._services: dict[bytes, InternalSubscription] = {}
        self._sid = 0
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._dropping = False
        self._too_long: set[tuple[bytes, int]] = set()
        """Inbox and sequence of what this connection can't deliver."""
        self._asked: dict[bytes, _Asked] = {}
        self._awaited: dict[bytes, bytes] = {}
        """Heartbeat inboxes nobody is known to listen to, and the reply subject of what was asked there."""
        self._prefix = b"_INBOX." + nuid().encode() + b"."
        self._probes = 0
        self.dropped = 0
        """Messages that were not sent: too long for the server, or too many while it was away."""
        self.in_msgs = self.in_bytes = self.out_msgs = self.out_bytes = 0
        self.inserts = 0
        self.removes = 0
        self.serve(self._prefix + b"*", _ignore, announce=True)

    # --- what replica and its parts need ----------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """This node serves."""
        return self._is_open

    @property
    def subscription_count(self) -> int:
        """What this node has subscribed to."""
        return len(self._services)

    @property
    def body_size_max(self) -> int | None:
        """Bytes of a published message's body that can be delivered; None: not connected, nobody knows."""
        return None if self._outlet is None else max(self._outlet.max_payload - ENVELOPE_SIZE_MAX, 1)

    def serve(self, pattern: bytes, handler: Handler, *, announce: bool = False) -> InternalSubscription:
        """See `Routing.serve`. Once `open`, or else then, it is subscribed to at the server.

        With ``announce`` it is this node's own inbox: every node of a cluster subscribes to its own.
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
        """Whether it is to be subscribed to at the server now."""
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
        """Send a message. Whether anybody wants it isn't known: counts as one."""
        if not literal(subject) or (reply and not literal(reply)):
            return 0  # a client may have named anything as its inbox; the server would end the connection
        if not (to_services or subject.startswith(_INBOXES)) and self.is_served(subject):
            return 0  # the server would bring it back
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
        """One of this node's services takes ``subject``."""
        return any(matches(service.pattern, subject) for service in self._services.values())

    def is_held_up(self, _source: object) -> bool:
        """No client is connected here."""
        return False

    def local_receivers(self, inbox: bytes) -> Sequence[Inbox]:
        """Whoever listens there, once for all of them; nobody while there is no connection.

        Nobody, too, before this node serves: what it applies then may have been delivered before it stopped
        (R4).
        """
        if self._inbox is None or not self._is_open or not self.may_deliver():
            return ()
        return (self._inbox,) if literal(inbox) else ()

    def reachable(self, subject: bytes) -> bool:
        """As far as is known, somebody listens to ``subject``."""
        return self.where(subject) is not None

    def where(self, subject: bytes) -> tuple[str, int] | None:
        """This node and the present connection, unless nobody is known to listen to ``subject``.

        While another node serves: that node and its term, for every subject.
        """
        if not self._is_open:
            return self._followed
        if self._outlet is None or self._stuck or subject in self._awaited:
            return None
        return self.node, self._outlet.epoch

    where_any = where
    """Nothing of who subscribes to what can be seen: whoever answers is heard."""

    def reachable_by_owner(self, _inbox: bytes) -> bool:
        """Return True: an answer leaves for the server, or is kept for the next connection, by `publish`.

        So a node that stops keeps no answers of its own: its clients stay where they are connected.
        """
        return True

    def hears(self, subject: bytes, where: tuple[str, int]) -> bool:
        """Return True unless nobody is known to listen there through the present connection."""
        return self.where(subject) == where

    def matching(self, _subject: bytes) -> Sequence[Any]:
        """Return the clients' subscriptions at this node: none, they are at the NATS server."""
        return ()

    def set_stuck(self, _connection: object, stuck: bool) -> None:
        """The server takes nothing any more, or does again (R3)."""
        self._stuck = stuck
        self._changed()

    def complete(self, _peer: str) -> bool:
        """Other nodes have no clients of their own."""
        return True

    works = False
    """Nothing goes in steps: see `routing.Routing.works`."""

    def work(self) -> float | None:
        """There is nothing to do."""
        return None

    def flush(self) -> None:
        """Nobody else is told."""

    def tick(self) -> None:
        """Once a second or so: forgets what nobody can still wait for."""
        now = self._clock()
        for reply in [reply for reply, asked in self._asked.items() if asked.until_s <= now]:
            del self._asked[reply]
        if self._awaited:
            known = {inbox.encode() for inbox in self._clients()}
            for inbox in [inbox for inbox in self._awaited if inbox not in known]:
                del self._awaited[inbox]

    # --- the connection ---------------------------------------------------------------------------

    def open(self, queue: bytes = b"") -> None:
        """The node can serve: subscribe, here and on every connection to come, in this queue group."""
        if not self._is_open:
            self.follow(None)
            self._queue = queue
            self._is_open = True
            self._begin()

    def close(self) -> None:
        """This node no longer serves: another one does, or nobody. The connection stays.

        Requests that still wait are another node's: they are dropped, unless `may_take` says otherwise.
        """
        if not self._is_open:
            return
        self.take_held()
        if self._held:
            log.info(
                "%d requests came in after this node could still be sure to lead: dropped", len(self._held)
            )
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
        """The node of this name serves, in this term; None: none is known. For who does not serve itself."""
        if self._is_open or leader == self._followed:
            return
        before, self._followed = self._followed, leader
        if before is not None:
            self._notify_gone(*before)
        if leader is not None:
            self._changed()

    def up(self, outlet: Outlet) -> None:
        """A connection stands, and is the one from now on."""
        assert self._outlet is None
        self._outlet = outlet
        self._inbox = Inbox(self, outlet)
        self._stuck = self._dropping = False
        self._too_long.clear()
        for sid, service in self._services.items() if self._is_clustered else ():
            if service.announced:
                self._subscribe(outlet, sid, service)
        if self._is_clustered:  # answers to what came in here while this node served
            self._send_kept(outlet)
        self._begin()

    def down(self, outlet: Outlet) -> None:
        """That connection is gone. What it had not written may be lost."""
        if self._outlet is not outlet:
            return
        self._outlet = self._inbox = None
        self._awaited.clear()
        self._asked.clear()
        if self._is_open:
            self._notify_gone(self.node, outlet.epoch)

    def _notify_gone(self, node: str, epoch: int) -> None:
        """Nobody is heard any more through what stood for all clients' connections."""
        if self.on_interest_change is not None:
            gone = [InterestChange(inbox.encode(), b"", epoch, 0) for inbox in self._inboxes()]
            self.on_interest_change(node, gone)

    def received(self, message: nats.Msg) -> None:
        """The server sent a message."""
        self.in_msgs += 1
        self.in_bytes += len(message.payload)
        service = self._services.get(message.sid)
        asked = self._asked.get(message.subject)
        if message.headers.startswith(b"NATS/1.0 503") and not message.payload:
            if asked is not None:
                asked.is_unheard = True
                self._absent(asked.inbox, message.subject)
            return
        if asked is not None:
            del self._asked[message.subject]
            self._present(asked.inbox)
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
        """Handle requests that had to wait, if they are this node's now. Returns whether there were any."""
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
            self.dropped += 1  # its client sees a time-out
            return
        self._held.append(message)
        self._held_bytes += len(message.payload)

    def beat(self) -> None:
        """Several times a second: asks those again that nobody heard."""
        outlet, now = self._outlet, self._clock()
        if outlet is None:
            return
        for asked in self._asked.values():
            if asked.is_unheard and now - asked.sent_s >= asked.pause_s:
                asked.is_unheard, asked.sent_s = False, now
                asked.pause_s = min(2 * asked.pause_s, AGAIN_MAX_S)
                outlet.write(asked.data)
        for inbox, reply in list(self._awaited.items()):
            probe = self._asked.get(reply)
            if probe is None:
                self._probe(inbox)
            elif now - probe.sent_s >= PROBE_S:
                probe.is_unheard = True

    def _probe(self, inbox: bytes) -> None:
        """Ask a client whether it is there; it answers like to a heartbeat."""
        self._probes += 1
        reply = self._prefix + b"%d" % self._probes
        if self.publish(None, inbox, reply, b"", b"", to_services=False) and reply in self._asked:
            self._awaited[inbox] = reply
        else:
            self._awaited.pop(inbox, None)  # it can't be asked: heartbeats decide

    def _begin(self) -> None:
        """Both open and connected: subscribe, send what was kept, ask who is there."""
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

    def _absent(self, inbox: bytes, reply: bytes) -> None:
        if inbox not in self._awaited and self._outlet is not None and self._is_open:
            self._awaited[inbox] = reply
            self._changed([InterestChange(inbox, b"", self._outlet.epoch, 0)])

    def _present(self, inbox: bytes) -> None:
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
                log.warning("no NATS server for long: answers to clients are dropped now")
            return
        self._buffer.append(data)
        self._buffered_bytes += len(data)

    def _drop_too_long(self, subject: bytes, payload: bytes, size_max: int) -> None:
        """A delivery is tried again at each AckWait: it is told once of each message and inbox."""
        self.dropped += 1
        try:
            found = decode_message(payload)
        except RemoteProtocolError:
            found = None
        key = (subject, found.seq if found is not None else len(payload))
        if key in self._too_long or len(self._too_long) > TOO_LONG_TOLD_MAX:
            return
        self._too_long.add(key)
        if len(self._too_long) > TOO_LONG_TOLD_MAX:
            log.error("dropped: many messages are too long for the server; no more are told of")
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
    """That an answer came is all that counts."""
