"""Effects to I/O: the part of every entry's effects that concerns this node (rules R2, R3).

Payloads go to the store on every node. Replies go to the requests this node is the origin of.
Deliveries go to the inboxes this node's own clients listen on, and stay *numbers* (subscription,
sequences, entry index) until the connection has room for them: only then are they turned into
bytes, and whatever is no longer true by then (acknowledged, redelivered since, dropped by a limit)
is skipped. Answers that are no part of opening wait until the deliveries have left (``reply_order``); those
to a connection without room stand behind its deliveries.

A plain object. No await between two effects of an entry: their order is a promise to clients.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

from node.core.effects import Deliver, Drop, Effects, Replies
from node.core.state import Group, State, Subscription
from node.protocol.message import message, redelivered
from node.server import delivery_progress, reply_order
from node.server.clock import TIME_SURE_NS
from node.server.delivery_progress import DeliveryProgress
from node.server.reply_order import ReplyOrder

CHUNK = 128
"""Messages fetched from the store at a time, so that a full connection wastes few reads."""

CHUNK_BYTES = 64 * 1024
"""Of so many bytes, unless one message is larger: what goes into a connection between two looks at its room
must not be more than it may hold (``outbox``)."""


class Messages(Protocol):
    """What is needed of the store."""

    def put(self, channel: int, first: int, messages: list[bytes]) -> None: ...
    def drop(self, channel: int, up_to: int) -> None: ...
    def drop_channel(self, channel: int) -> None: ...
    def get_many(self, channel: int, seqs: Sequence[int]) -> list[bytes | None]: ...


class Connection(delivery_progress.Connection, reply_order.Connection, Protocol):
    """What is needed of a client's connection."""

    @property
    def writable(self) -> bool: ...
    @property
    def closed(self) -> bool: ...


class Receiver(Protocol):
    """A client's subscription to an inbox, on this node."""

    @property
    def connection(self) -> Connection: ...
    def deliver(self, subject: bytes, payload: bytes) -> None: ...


class Queued(NamedTuple):
    """A delivery that waits for room on its connection."""

    deliver: Deliver
    inbox: bytes
    receiver: Receiver


class Answer(NamedTuple):
    """An answer to a request that stands behind deliveries on its connection."""

    inbox: bytes
    payload: bytes


class Backlog:
    """What one connection has not had room for yet."""

    __slots__ = ("answers", "items", "moved_at")

    def __init__(self, now_s: float) -> None:
        self.items: deque[Queued | Answer] = deque()
        self.answers = 0
        """How many of the items are answers."""
        self.moved_at = now_s

    def first_entry(self) -> int | None:
        """The entry that decided the first delivery; None if only answers are left."""
        return next((item.deliver.entry for item in self.items if isinstance(item, Queued)), None)


GROUPS_LOOKED_AT = 256
"""Groups with something left to send that are looked at when an entry is answered."""

ANSWERS_MAX = 16_384
"""Answers that stand behind the deliveries of one connection. More of them overtake the deliveries."""


TIME_UNKNOWN_NS = 1 << 62
"""When a client came to a node that has not caught up since its start: later than all it has yet to apply."""

STUCK_S = 5.0
"""A connection whose backlog has not moved for so long counts as not listening (R3, R15)."""


class EffectExecutor:
    """Does what entries ask, on this node.

    Args:
        state: the replicated state.
        messages: the store.
        receivers: this node's client subscriptions on an inbox.
        reply: told this node's replies, in order.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        state: Callable[[], State],
        messages: Messages,
        *,
        receivers: Callable[[bytes], Sequence[Receiver]],
        reply: Callable[[Replies], None],
        clock: Callable[[], float],
    ) -> None:
        self._state = state
        self._messages = messages
        self._receivers = receivers
        self._reply = reply
        self.send_answer: Callable[[bytes, bytes], None] = lambda _inbox, _payload: None
        """Sends an answer (inbox, payload) that stood behind deliveries."""
        self._clock = clock
        self._backlogs: dict[Connection, Backlog] = {}
        self._accepted_ns: dict[Connection, int] = {}
        self._translated: dict[Connection, int] = {}
        """The same by the clock of the leader of ``_translated_term``, whose first entry is still to come."""
        self._translated_term = 0
        self.held = False
        """After a gap in this process's life nothing is delivered before it has caught up (R4)."""
        self.order: ReplyOrder = ReplyOrder(
            clock, sendable=lambda: self._state().sendable, full_connections=self._backlogs
        )
        self.progress = DeliveryProgress(clock)
        self._written: dict[Connection, int] = {}
        """Connections into whose outbox deliveries are being put, and the entry that decided those."""
        self.delivered = 0
        self.delivered_bytes = 0

    def execute(self, effects: Effects) -> None:
        """Everything ``effects`` ask of this node, in the order of R2."""
        for stored in effects.stored:
            _, _, first, timestamp_ns, bodies = stored
            self._messages.put(
                stored.channel,
                first,
                [message(seq, timestamp_ns, body) for seq, body in enumerate(bodies, first)],
            )
        for dropped in effects.dropped:
            if isinstance(dropped, Drop):
                self._messages.drop(dropped.channel, dropped.up_to)
            else:
                self._messages.drop_channel(dropped.channel)
        for replies in effects.opened:
            self._reply(replies)
        if effects.began_term is not None and self._translated:
            self._translate()
        decided_ns = self._state().time_ns
        was_full = {*self._backlogs} if effects.deliveries else self._backlogs.keys()
        for deliver in effects.deliveries:
            self._deliver(deliver, decided_ns)
        writes = {one: one.written + one.outbox_bytes for one in self._written}
        self._note_handed()
        self._reply_behind(effects, writes, was_full)

    def _reply_behind(
        self, effects: Effects, writes: Mapping[Connection, int], was_full: Collection[Connection]
    ) -> None:
        """Answer when the deliveries of this entry, and the rest of its bursts, have left (R2)."""
        full = [one for one in self._backlogs if one not in was_full] if effects.deliveries else []
        groups = self._sent_in_part(effects) if self._state().sendable else []
        if not (writes or full or groups or self.order.waits) or self.held:
            for replies in effects.replies:
                self._reply(replies)
        elif effects.replies:
            waiting = effects.replies

            def answer() -> None:
                for replies in waiting:
                    self._reply(replies)

            self.order.after(answer, writes=writes.items(), full=full, groups=groups)
        else:
            self.order.sent(writes.items(), full)

    def _sent_in_part(self, effects: Effects) -> list[tuple[Group, int]]:
        """The groups to which this entry sent a part of what it stored, and the sequence they are to reach.

        Only those that were level with the log before, or are waited for already: another may have a million
        messages to catch up with. At most ``GROUPS_LOOKED_AT`` are looked at.
        """
        ends = {one.channel: (one.first, one.first + len(one.bodies) - 1) for one in effects.stored}
        found = []
        for group in islice(self._state().sendable.values(), GROUPS_LOOKED_AT):
            first, last = ends.get(group.channel.id, (0, 0))
            if group.cursor < last and (first - 1 <= group.cursor or self.order.awaits(group)):
                found.append((group, last))
        return found

    def answer_behind(self, inbox: bytes, payload: bytes) -> bool:
        """Have an answer sent behind the deliveries that wait for room on its connection.

        Returns:
            False if there are none, or too many answers wait: then it is to be sent now.
        """
        if not self._backlogs:
            return False
        receivers = self._receivers(inbox)
        backlog = self._backlogs.get(receivers[0].connection) if len(receivers) == 1 else None
        if backlog is None or backlog.answers >= ANSWERS_MAX:
            return False
        backlog.items.append(Answer(inbox, payload))
        backlog.answers += 1
        return True

    def accepted(self, connection: Connection, time_ns: int) -> None:
        """A client was here at ``time_ns`` of cluster time, when it first said something.

        What was decided before that, its node of then may have delivered, so this one, which may only
        now come to apply it, must not: without its flag it would pass for another message. What the
        client did miss is due at once as soon as its move is noticed (R15), or after its AckWait.
        """
        if not connection.closed:
            self._accepted_ns.setdefault(connection, time_ns)

    def learn_time(self, now_ns: int) -> None:
        """Cluster time is known now: clients that came before (``TIME_UNKNOWN_NS``) count from here on."""
        for connection, accepted_ns in self._accepted_ns.items():
            if accepted_ns == TIME_UNKNOWN_NS:
                self._accepted_ns[connection] = now_ns

    def time_went_back(self, by_ns: int, term: int) -> None:
        """Cluster time is earlier than this node thought until now: the leader of ``term`` knew less of it.

        What that leader decides would count as decided before clients came that came just before it led. So
        when its first entry is performed, the times at which those came are told by its clock. Entries of
        earlier leaders, which may come before that one, go by the clock of then.
        """
        by_ns -= TIME_SURE_NS
        if by_ns > 0:
            before = self._translated if self._translated_term == term else {}
            self._translated_term = term
            self._translated = {
                connection: before.get(connection, accepted_ns) - by_ns
                for connection, accepted_ns in self._accepted_ns.items()
            }

    def _translate(self) -> None:
        """Go by the clock of the leader whose first entry is being performed."""
        if self._state().term >= self._translated_term:
            for connection, accepted_ns in self._translated.items():
                if connection in self._accepted_ns:
                    self._accepted_ns[connection] = accepted_ns
            self._translated = {}

    def replace(self, messages: Messages) -> None:
        """A snapshot has brought another store."""
        self._messages = messages

    def resume(self, resumed: Callable[[], None]) -> None:
        """This node has caught up: deliver what is still true of what was held (R4).

        ``resumed`` is called when that has left: answers that were held may follow.
        """
        self.held = False
        connections = list(self._backlogs)
        for connection in connections:
            self.drained(connection)
        writes = {one: one.written + one.outbox_bytes for one in connections if not one.closed}
        if writes or self.order.waits:
            self.order.after(resumed, writes=writes.items(), full=(), groups=())
        else:
            resumed()

    def redeliver_skipped(self, since: int) -> None:
        """After a snapshot: deliver what was assigned, to clients here, in the entries it skipped.

        Args:
            since: index of the last entry this node had performed.
        """
        for subscription in self._state().subscriptions.values():
            by_entry: dict[int, list[int]] = {}
            for seq, record in subscription.unacked.items():
                if record.entry > since:
                    by_entry.setdefault(record.entry, []).append(seq)
            for entry, seqs in sorted(by_entry.items()):
                sent_at_ns = subscription.unacked[seqs[0]].sent_at_ns + subscription.group.stood_ns
                self._deliver(Deliver(subscription.id, tuple(seqs), entry), sent_at_ns)  # type: ignore[arg-type]
                self._note_handed()

    def stuck(self, now_s: float) -> list[Connection]:
        """Connections whose backlog has not moved for ``STUCK_S``."""
        return [c for c, backlog in self._backlogs.items() if now_s - backlog.moved_at >= STUCK_S]

    def drained(self, connection: Connection) -> None:
        """``connection`` has room again."""
        backlog = self._backlogs.get(connection)
        if backlog is None or self.held:
            return
        items = backlog.items
        while items and connection.writable and not connection.closed:
            queued = items.popleft()
            if isinstance(queued, Answer):
                backlog.answers -= 1
                self.send_answer(queued.inbox, queued.payload)
                continue
            self._written[connection] = queued.deliver.entry
            rest = self._write(queued)
            self._note_handed()
            backlog.moved_at = self._clock()
            if rest is not None:
                items.appendleft(rest)
        if not items or connection.closed:
            self._backlogs.pop(connection, None)  # what was written may have ended it: then it is forgotten

    def report(self) -> tuple[Any, ...]:
        """Return how far deliveries were written, as `DeliveryProgress.take` does."""
        waiting = (
            (connection, entry)
            for connection, backlog in self._backlogs.items()
            if (entry := backlog.first_entry()) is not None
        )
        return self.progress.take(self._state().applied, waiting)

    def forget(self, connection: Connection) -> None:
        """``connection`` has ended: what was not written to it is unacked, and comes again."""
        backlog = self._backlogs.pop(connection, None)
        waits = self._written.pop(connection, None)  # what was just put into its outbox may have ended it
        if backlog is not None and waits is None:
            waits = backlog.first_entry()
        self.progress.ended(connection, waits, self._state().applied)
        self._accepted_ns.pop(connection, None)
        self._translated.pop(connection, None)
        self.order.forget(connection)

    def _note_handed(self) -> None:
        if self._written:
            for connection, entry in self._written.items():
                self.progress.handed(connection, entry)
            self._written.clear()

    def _deliver(self, deliver: Deliver, decided_ns: int) -> None:
        subscription = self._state().subscriptions.get(deliver.subscription)
        if subscription is None:
            return
        inbox = subscription.inbox.encode()
        for receiver in self._receivers(inbox):
            queued = Queued(deliver, inbox, receiver)
            connection = receiver.connection
            if decided_ns < self._accepted_ns.get(connection, 0):
                continue
            backlog = self._backlogs.get(connection)
            if backlog is None and connection.writable and not self.held:
                self._written[connection] = deliver.entry
                rest = self._write(queued)
                if rest is None:
                    continue
                queued = rest
            if backlog is None:
                backlog = self._backlogs[connection] = Backlog(self._clock())
            backlog.items.append(queued)

    def _write(self, queued: Queued) -> Queued | None:
        """Turn a delivery into bytes while there is room; what is left of it, or None."""
        deliver, inbox, receiver = queued
        subscription = self._state().subscriptions.get(deliver.subscription)
        if subscription is None or not subscription.online or subscription.inbox.encode() != inbox:
            return None  # closed since, or resumed with another inbox: nothing more is sent to this one
        seqs, connection, log = deliver.seqs, receiver.connection, subscription.channel.log
        start = 0
        while start < len(seqs) and not connection.closed:
            if not connection.writable:
                return Queued(deliver._replace(seqs=seqs[start:]), inbox, receiver)
            chunk = seqs[start : start + CHUNK]
            chunk = chunk[: log.count_within(chunk, CHUNK_BYTES)]
            self._write_chunk(subscription, deliver.entry, chunk, inbox, receiver)
            start += len(chunk)
        return None

    def _write_chunk(
        self, subscription: Subscription, entry: int, seqs: Sequence[int], inbox: bytes, receiver: Receiver
    ) -> None:
        unacked, send = subscription.unacked, receiver.deliver
        payloads = self._messages.get_many(subscription.channel.id, seqs)
        for seq, payload in zip(seqs, payloads, strict=True):
            record = unacked.get(seq)
            if payload is None or record is None or record.entry != entry:
                continue  # dropped by a limit; acknowledged; or redelivered since, perhaps to another
            count = record.deliveries - 1
            send(inbox, redelivered(payload, count) if count else payload)
            self.delivered += 1
            self.delivered_bytes += len(payload)
