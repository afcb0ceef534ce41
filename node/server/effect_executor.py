"""Execute the effects of each entry that concern this node (rules R2, R3).

Every node puts payloads into the store. A node sends replies to the requests it is the origin of, and
deliveries to inboxes that its own clients subscribe to.

A delivery is stored as *numbers* (subscription, sequences, entry index) until the connection has capacity for
it. Only then is it turned into bytes. Messages that were acknowledged, redelivered or dropped by a limit in
the meantime are skipped. Replies, except those that open a client or subscription, wait until the deliveries
are written (``reply_order``). Replies to a connection whose outbox is full queue behind its deliveries.

A plain object. There is no await between two effects of an entry, because clients rely on their order.
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
"""Maximum messages fetched from the store at a time, so that a full connection wastes few reads."""

CHUNK_BYTES = 64 * 1024
"""Maximum bytes fetched at a time, unless one message is larger. The bytes written between two checks of a
connection's capacity must not exceed what its outbox may hold (``outbox``)."""


class Messages(Protocol):
    """The part of the store used here."""

    def put(self, channel: int, first: int, messages: list[bytes]) -> None: ...
    def drop(self, channel: int, up_to: int) -> None: ...
    def drop_channel(self, channel: int) -> None: ...
    def get_many(self, channel: int, seqs: Sequence[int]) -> list[bytes | None]: ...


class Connection(delivery_progress.Connection, reply_order.Connection, Protocol):
    """The part of a client connection used here."""

    @property
    def writable(self) -> bool: ...
    @property
    def closed(self) -> bool: ...


class Receiver(Protocol):
    """A client's NATS subscription to an inbox, on this node."""

    @property
    def connection(self) -> Connection: ...
    def deliver(self, subject: bytes, payload: bytes) -> None: ...


class Queued(NamedTuple):
    """A delivery that waits for capacity of its connection."""

    deliver: Deliver
    inbox: bytes
    receiver: Receiver


class Answer(NamedTuple):
    """A reply that is queued behind deliveries of its connection."""

    inbox: bytes
    payload: bytes


class Backlog:
    """Deliveries and replies that wait for capacity of one connection."""

    __slots__ = ("answers", "items", "moved_at")

    def __init__(self, now_s: float) -> None:
        self.items: deque[Queued | Answer] = deque()
        self.answers = 0
        """Number of items that are replies."""
        self.moved_at = now_s

    def first_entry(self) -> int | None:
        """Return the entry that decided the first waiting delivery; None if there is none."""
        return next((item.deliver.entry for item in self.items if isinstance(item, Queued)), None)


GROUPS_LOOKED_AT = 256
"""Maximum number of sendable groups checked when the replies of an entry are sent."""

ANSWERS_MAX = 16_384
"""Maximum replies queued behind the deliveries of one connection. Further ones are sent ahead of them."""


TIME_UNKNOWN_NS = 1 << 62
"""Used as the time of a client's first read while the node has not caught up since its start: later than
every entry the node has yet to apply."""

STUCK_S = 5.0
"""A connection whose backlog has not moved for this long counts as not listening (R3, R15)."""


class EffectExecutor:
    """Executes the effects of entries on this node.

    Args:
        state: returns the replicated state.
        messages: the store.
        receivers: returns this node's client subscriptions to an inbox.
        reply: called with this node's replies, in order.
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
        """Sends a reply (inbox, payload) that was queued behind deliveries."""
        self._clock = clock
        self._backlogs: dict[Connection, Backlog] = {}
        self._accepted_ns: dict[Connection, int] = {}
        """Cluster time when the first read of a connection had been handled."""
        self._translated: dict[Connection, int] = {}
        """``_accepted_ns`` in the cluster time of the leader of ``_translated_term``, to be used when the
        first entry of that leader is executed."""
        self._translated_term = 0
        self.held = False
        """True while nothing is delivered: the process has started or was paused, and has not caught up
        (R4)."""
        self.order: ReplyOrder = ReplyOrder(
            clock, sendable=lambda: self._state().sendable, full_connections=self._backlogs
        )
        self.progress = DeliveryProgress(clock)
        self._written: dict[Connection, int] = {}
        """Connections whose outbox has just received deliveries, with the entry that decided these."""
        self.delivered = 0
        self.delivered_bytes = 0

    def execute(self, effects: Effects) -> None:
        """Execute the part of ``effects`` that concerns this node, in the order of R2."""
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
        self._report_handed_over()
        self._reply_behind(effects, writes, was_full)

    def _reply_behind(
        self, effects: Effects, writes: Mapping[Connection, int], was_full: Collection[Connection]
    ) -> None:
        """Send the replies when the deliveries of this entry and the rest of its bursts are written (R2)."""
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
        """Return groups that were sent only a part of what this entry stored, with the sequence to wait for.

        Only groups count that had been sent everything before, or that replies already wait for: another
        group may be a million messages behind. At most ``GROUPS_LOOKED_AT`` groups are checked.
        """
        ends = {one.channel: (one.first, one.first + len(one.bodies) - 1) for one in effects.stored}
        found = []
        for group in islice(self._state().sendable.values(), GROUPS_LOOKED_AT):
            first, last = ends.get(group.channel.id, (0, 0))
            if group.cursor < last and (first - 1 <= group.cursor or self.order.awaits(group)):
                found.append((group, last))
        return found

    def answer_behind(self, inbox: bytes, payload: bytes) -> bool:
        """Queue a reply behind the deliveries that wait for capacity of its connection.

        Returns:
            False if no deliveries wait, or too many replies do: then the caller must send it now.
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
        """Note that a read of ``connection`` was handled at cluster time ``time_ns``. The first call counts.

        Deliveries decided before that time are skipped on this connection. The client's previous node may
        have sent them, and this node, which may apply the entry only now, would send them again without the
        redelivered flag. Messages that the client did miss are due as soon as its move is noticed (R15), or
        after their AckWait.
        """
        if not connection.closed:
            self._accepted_ns.setdefault(connection, time_ns)

    def learn_time(self, now_ns: int) -> None:
        """Set the time of clients noted with ``TIME_UNKNOWN_NS`` to ``now_ns``: cluster time is available."""
        for connection, accepted_ns in self._accepted_ns.items():
            if accepted_ns == TIME_UNKNOWN_NS:
                self._accepted_ns[connection] = now_ns

    def time_went_back(self, by_ns: int, term: int) -> None:
        """Convert the times of clients: the cluster time of the leader of ``term`` is ``by_ns`` earlier.

        Otherwise deliveries that this leader decides would be skipped for clients that connected shortly
        before it became leader. The converted times are used from the leader's first entry on. Entries of
        earlier leaders may be executed before that one; they are compared with the old times.
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
        """Use the converted times if the entry being executed is the first of the new leader."""
        if self._state().term >= self._translated_term:
            for connection, accepted_ns in self._translated.items():
                if connection in self._accepted_ns:
                    self._accepted_ns[connection] = accepted_ns
            self._translated = {}

    def replace(self, messages: Messages) -> None:
        """Use another store, which a snapshot has brought."""
        self._messages = messages

    def resume(self, resumed: Callable[[], None]) -> None:
        """Deliver the held messages that are still valid: this node has caught up (R4).

        ``resumed`` is called when they are written. Then held replies may follow.
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
        """Deliver messages that entries skipped by a snapshot assigned to clients of this node.

        Args:
            since: index of the last entry whose effects this node had executed.
        """
        for subscription in self._state().subscriptions.values():
            by_entry: dict[int, list[int]] = {}
            for seq, record in subscription.unacked.items():
                if record.entry > since:
                    by_entry.setdefault(record.entry, []).append(seq)
            for entry, seqs in sorted(by_entry.items()):
                sent_at_ns = subscription.unacked[seqs[0]].sent_at_ns + subscription.group.stood_ns
                self._deliver(Deliver(subscription.id, tuple(seqs), entry), sent_at_ns)  # type: ignore[arg-type]
                self._report_handed_over()

    def stuck(self, now_s: float) -> list[Connection]:
        """Return the connections whose backlog has not moved for ``STUCK_S``."""
        return [c for c, backlog in self._backlogs.items() if now_s - backlog.moved_at >= STUCK_S]

    def drained(self, connection: Connection) -> None:
        """Write from the backlog of ``connection``, which has capacity again."""
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
            self._report_handed_over()
            backlog.moved_at = self._clock()
            if rest is not None:
                items.appendleft(rest)
        if not items or connection.closed:
            self._backlogs.pop(connection, None)  # `forget` may have done so, if writing has ended it

    def report(self) -> tuple[Any, ...]:
        """Return how far deliveries were written, as `DeliveryProgress.take` does."""
        waiting = (
            (connection, entry)
            for connection, backlog in self._backlogs.items()
            if (entry := backlog.first_entry()) is not None
        )
        return self.progress.take(self._state().applied, waiting)

    def forget(self, connection: Connection) -> None:
        """Forget ``connection``, which has ended. Its unwritten messages are unacked and redelivered."""
        backlog = self._backlogs.pop(connection, None)
        waits = self._written.pop(connection, None)  # filling its outbox may have ended the connection
        if backlog is not None and waits is None:
            waits = backlog.first_entry()
        self.progress.ended(connection, waits, self._state().applied)
        self._accepted_ns.pop(connection, None)
        self._translated.pop(connection, None)
        self.order.forget(connection)

    def _report_handed_over(self) -> None:
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
        """Turn a delivery into bytes while the connection has capacity. Returns the rest of it, or None."""
        deliver, inbox, receiver = queued
        subscription = self._state().subscriptions.get(deliver.subscription)
        if subscription is None or not subscription.online or subscription.inbox.encode() != inbox:
            return None  # closed since, or resumed with another inbox: nothing more is sent to this inbox
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
                continue  # dropped by a limit, acknowledged, or redelivered since
            count = record.deliveries - 1
            send(inbox, redelivered(payload, count) if count else payload)
            self.delivered += 1
            self.delivered_bytes += len(payload)
