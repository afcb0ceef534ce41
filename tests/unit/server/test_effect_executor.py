"""Effects to I/O: the order of an entry's effects, and deliveries that stay numbers (R2, R3, R4)."""

from __future__ import annotations

from typing import Any

from conversation import SECOND, Answer, Conversation, publishes

from node.core.commands import ChannelExpire, NewTerm
from node.core.effects import Replies
from node.protocol.streaming import Message, decode_message
from node.server.clock import TIME_SURE_NS
from node.server.effect_executor import (
    CHUNK,
    CHUNK_BYTES,
    STUCK_S,
    TIME_UNKNOWN_NS,
    EffectExecutor,
)
from node.server.reply_order import GROUP_WAIT_MAX_S, GROUP_WAIT_S, LATE_ROUNDS, WRITE_WAIT_S
from node.store.memory import MemoryStore


class Connection:
    """A client's connection with capacity for a number of messages."""

    def __init__(self, capacity: int = 1000, epoch: int = 1) -> None:
        self.capacity = capacity
        self.closed = False
        self.epoch = epoch
        self.written = self.outbox_bytes = 0
        self.watched = False

    @property
    def writable(self) -> bool:
        return self.capacity > 0


class Inbox:
    """A client's subscription on this node, which records what arrived in order with all other output."""

    def __init__(self, connection: Connection, left: list[object]) -> None:
        self.connection = connection
        self._left = left
        self.got: list[Message] = []

    def deliver(self, subject: bytes, payload: bytes) -> None:
        message = decode_message(payload)
        self.connection.capacity -= 1
        self.connection.outbox_bytes += len(payload)
        self.got.append(message)
        self._left.append((subject.decode(), message.seq))

    @property
    def seqs(self) -> list[int]:
        return [message.seq for message in self.got]


class Node:
    """An effect executor over a core; the effects of every entry are executed at once."""

    def __init__(self, *inboxes: str, capacity: int = 1000, **settings: Any) -> None:
        self.talk = Conversation(**settings)
        self.store = MemoryStore()
        self.left: list[object] = []
        self.now = 0.0
        self.connection = Connection(capacity)
        self.inboxes = {inbox: Inbox(self.connection, self.left) for inbox in inboxes}
        self.executor = EffectExecutor(
            lambda: self.talk.state,
            self.store,
            receivers=lambda inbox: [self.inboxes[inbox.decode()]] if inbox.decode() in self.inboxes else [],
            reply=self.left.append,
            clock=lambda: self.now,
        )
        self.executes(self.talk.connect("me"))

    def executes(self, answer: Answer) -> Answer:
        self.executor.execute(answer.effects)
        return answer

    def writes(self, connection: Connection | None = None) -> None:
        """Let the socket take the contents of the outbox."""
        connection = connection or self.connection
        connection.written += connection.outbox_bytes
        connection.outbox_bytes = 0
        if connection.watched:
            connection.watched = False
            self.executor.order.check()

    def rounds(self) -> None:
        """Run one round of the loop, as at ``next_deadline``."""
        for _ in range(LATE_ROUNDS):
            deadline_s = self.executor.order.next_deadline()
            assert deadline_s is not None
            self.now = max(self.now, deadline_s)
            self.executor.order.tick()

    def answers(self) -> int:
        """Number of groups of replies that were sent."""
        return sum(isinstance(one, Replies) for one in self.left)

    def subscribes(self, inbox: str, **options: Any) -> Inbox:
        self.executes(self.talk.subscribe(inbox, **options))
        self.left.clear()
        return self.inboxes.get(inbox, Inbox(self.connection, []))


def test_opening_replies_then_deliveries_then_the_rest() -> None:
    """R2, SUB-11, PUB-09: a client knows its ack inbox before the first message, and sees its message
    before the ack of its publish."""
    node = Node("in")
    node.left.clear()
    node.executes(node.talk.say(node.talk.subscription("in"), *publishes()))
    assert node.answers() == 1, "the message has not been written yet"
    node.writes()
    opened, delivered, others = node.left
    assert isinstance(opened, Replies)
    assert delivered == ("in", 1)
    assert isinstance(others, Replies)


def test_payloads_are_stored_on_every_node() -> None:
    """Every node stores every message; only the client's node delivers it."""
    node = Node()
    node.subscribes("elsewhere")
    node.executes(node.talk.publish(2))
    channel = node.talk.state.channels["foo"].id
    assert [decode_message(data or b"").seq for data in node.store.get_many(channel, [1, 2])] == [1, 2]
    assert node.executor.delivered == 0


def test_a_redelivery_is_marked_and_counted() -> None:
    """D7, D8: only in the bytes sent; the stored message is unchanged."""
    node = Node("in")
    inbox = node.subscribes("in", wait=1)
    node.executes(node.talk.publish())
    node.executes(node.talk.tick(at=1.0))
    node.executes(node.talk.tick(at=2.0))
    assert [(m.seq, m.redelivered, m.redelivery_count) for m in inbox.got] == [
        (1, False, 0), (1, True, 1), (1, True, 2),
    ]  # fmt: skip
    stored = node.store.get(node.talk.state.channels["foo"].id, 1)
    assert not decode_message(stored or b"").redelivered


def test_deliveries_without_capacity_wait_as_numbers() -> None:
    """R3: bytes are made in order and only while there is capacity, the rest when there is again."""
    node = Node("in", capacity=1)
    inbox = node.subscribes("in", mif=1000)
    node.executes(node.talk.publish(3 * CHUNK))
    node.executes(node.talk.publish())
    assert inbox.seqs == [*range(1, CHUNK + 1)]  # capacity is checked once per chunk
    node.connection.capacity = CHUNK + 1
    node.executor.drained(node.connection)
    assert inbox.seqs == [*range(1, 3 * CHUNK + 1)]
    node.connection.capacity = 10
    node.executor.drained(node.connection)
    node.executes(node.talk.publish())  # nothing waits any more: straight through
    assert inbox.seqs == [*range(1, 3 * CHUNK + 3)]


def test_large_messages_are_written_a_few_at_a_time() -> None:
    """R3: capacity is also checked by bytes. Without this, 128 messages of 1 MB were sent at once, twice what
    a connection may hold, and its client was disconnected as a slow consumer."""
    node = Node("in", capacity=1)
    inbox = node.subscribes("in", mif=1000)
    node.executes(node.talk.say(*publishes(CHUNK, size=CHUNK_BYTES // 4)))
    assert inbox.seqs == [1, 2, 3]
    node.connection.capacity = 1
    node.executor.drained(node.connection)
    assert inbox.seqs == [1, 2, 3, 4, 5, 6]
    node.connection.capacity = 1000
    node.executor.drained(node.connection)
    assert inbox.seqs == [*range(1, CHUNK + 1)]
    node.executes(node.talk.say(*publishes(2, size=2 * CHUNK_BYTES)))
    assert inbox.seqs[CHUNK:] == [CHUNK + 1, CHUNK + 2]


def test_a_connection_may_end_while_it_is_written_to() -> None:
    """A write may exceed its limit: then the connection is already forgotten when the write returns.

    The node stopped on it, for a backlog that was there no more.
    """
    node = Node("in", capacity=0)
    inbox = node.subscribes("in", mif=1000)
    node.executes(node.talk.publish(3 * CHUNK))
    deliver = inbox.deliver

    def cut_off(subject: bytes, payload: bytes) -> None:
        deliver(subject, payload)
        node.connection.closed = True
        node.executor.forget(node.connection)

    inbox.deliver = cut_off  # type: ignore[method-assign]
    node.connection.capacity = 10_000
    node.executor.drained(node.connection)
    assert len(inbox.seqs) <= CHUNK, "nothing more is read for it"
    assert node.executor.stuck(1000.0) == []


def test_messages_acknowledged_while_waiting_are_not_sent() -> None:
    """R3: another node's copy of the same message may have been acknowledged while this one waited."""
    node = Node("in", capacity=0)
    inbox = node.subscribes("in", mif=100)
    node.executes(node.talk.publish(3))
    node.executes(node.talk.ack("in", 2))
    node.connection.capacity = 10
    node.executor.drained(node.connection)
    assert inbox.seqs == [1, 3]


def test_messages_redelivered_while_waiting_are_sent_once() -> None:
    """R3: the record contains a later entry's index, so the earlier delivery is skipped."""
    node = Node("in", capacity=0)
    inbox = node.subscribes("in", mif=100, wait=1)
    node.executes(node.talk.publish(2))
    node.executes(node.talk.tick(at=1.0))  # both again, while 2 still waits
    node.connection.capacity = 10
    node.executor.drained(node.connection)
    assert [(m.seq, m.redelivery_count) for m in inbox.got] == [(1, 1), (2, 1)]


def test_messages_dropped_by_a_limit_while_waiting_are_skipped() -> None:
    """R3, DEL-08: the payload is no longer in the log."""
    node = Node("in", capacity=0)
    inbox = node.subscribes("in", mif=100)
    node.executes(node.talk.publish(3))
    node.store.drop(node.talk.state.channels["foo"].id, 2)
    node.connection.capacity = 10
    node.executor.drained(node.connection)
    assert inbox.seqs == [3]


def test_nothing_is_sent_to_a_closed_subscription() -> None:
    """UNS-08: deliveries that waited for capacity when it was closed are discarded."""
    node = Node("in", capacity=0)
    inbox = node.subscribes("in", mif=100)
    node.executes(node.talk.publish(3))
    node.executes(node.talk.close("in"))
    node.connection.capacity = 10
    node.executor.drained(node.connection)
    assert inbox.seqs == []


def test_nothing_is_sent_to_the_inbox_a_durable_had_before() -> None:
    """A durable resumed with another inbox: deliveries waiting for the old inbox aren't sent to it."""
    node = Node("old", "new", capacity=0)
    old = node.subscribes("old", durable="d", mif=100)
    node.executes(node.talk.publish(3))
    node.executes(node.talk.close("old"))
    node.executes(node.talk.subscribe("new", durable="d", mif=100))
    node.connection.capacity = 10
    node.executor.drained(node.connection)
    assert old.seqs == []
    assert node.inboxes["new"].seqs == [1, 2, 3]


def test_messages_the_resume_has_not_redelivered_yet_are_not_sent() -> None:
    """UNS-08, R19: one entry redelivers 500; the records of the others still refer to the old inbox."""
    node = Node("old", "new", capacity=0)
    old = node.subscribes("old", durable="d", mif=1000)
    node.executes(node.talk.publish(600))
    node.executes(node.talk.tick())
    node.executes(node.talk.close("old"))
    node.executes(node.talk.subscribe("new", durable="d", mif=1000))
    node.connection.capacity = 10_000
    node.executor.drained(node.connection)
    assert old.seqs == []
    assert node.inboxes["new"].seqs == [*range(1, 501)]
    node.executes(node.talk.tick())
    assert node.inboxes["new"].seqs == [*range(1, 601)]


def test_a_dead_connections_backlog_is_forgotten() -> None:
    """Its unwritten messages are unacked and will be redelivered."""
    node = Node("in", capacity=0)
    inbox = node.subscribes("in", mif=100)
    node.executes(node.talk.publish(3))
    node.executor.forget(node.connection)
    node.connection.capacity = 10
    node.executor.drained(node.connection)
    assert inbox.seqs == []


def test_a_connection_that_does_not_move_is_stuck() -> None:
    """R3, R15: after 5 s it counts as not listening; its backlog isn't sent a second time."""
    node = Node("in", capacity=0)
    node.subscribes("in", mif=100)
    node.executes(node.talk.publish(3))
    assert node.executor.stuck(STUCK_S - 0.1) == []
    assert node.executor.stuck(STUCK_S) == [node.connection]
    node.now = 6.0
    node.connection.capacity = 1
    node.executor.drained(node.connection)
    assert node.executor.stuck(STUCK_S + 1) == []


def test_a_slow_connection_is_not_stuck() -> None:
    """R3: the time counts from the last delivery that it took."""
    node = Node("in", capacity=0)
    node.subscribes("in", mif=1000)
    node.executes(node.talk.publish(3 * CHUNK))
    node.now = STUCK_S - 1
    node.connection.capacity = 1
    node.executor.drained(node.connection)
    assert node.executor.stuck(STUCK_S) == []
    assert node.executor.stuck(2 * STUCK_S - 1) == [node.connection]


def test_new_deliveries_do_not_overtake_waiting_ones() -> None:
    """DEL-05: capacity that was not announced yet isn't used for later deliveries."""
    node = Node("in", capacity=0)
    inbox = node.subscribes("in", mif=100)
    node.executes(node.talk.publish(2))
    node.connection.capacity = 100
    node.executes(node.talk.publish())
    node.executor.drained(node.connection)
    assert inbox.seqs == [1, 2, 3]


def test_while_held_nothing_is_delivered() -> None:
    """R4: after a gap this node first applies what it missed, then executes effects that are still valid."""
    node = Node("in")
    inbox = node.subscribes("in", mif=100)
    node.executor.held = True
    node.executes(node.talk.publish(3))
    node.executor.drained(node.connection)
    assert inbox.seqs == []
    node.executes(node.talk.ack("in", 1, 2))
    node.executor.resume(lambda: node.left.append("resumed"))
    assert inbox.seqs == [3]


def test_deliveries_of_entries_skipped_by_a_snapshot_are_made() -> None:
    """R6: the entry index of each record shows which ones were skipped on this node."""
    node = Node("in")
    inbox = node.subscribes("in", mif=100)
    node.executes(node.talk.publish(2))
    since = node.talk.index
    skipped = [node.talk.publish(2), node.talk.publish(1)]
    for answer in skipped:
        for stored in answer.effects.stored:  # the snapshot brought the payloads
            node.executor.execute(type(answer.effects)(answer.effects.index, stored=[stored]))
    node.executor.redeliver_skipped(since)
    assert inbox.seqs == [1, 2, 3, 4, 5]


def test_a_snapshot_brings_another_store() -> None:
    node = Node("in")
    inbox = node.subscribes("in")
    node.executor.replace(MemoryStore())
    node.executes(node.talk.publish())
    assert inbox.seqs == [1]
    assert node.store.get(node.talk.state.channels["foo"].id, 1) is None


def test_dropped_messages_and_channels_leave_the_store() -> None:
    """Every node executes Drop and DropChannel."""
    node = Node(max_msgs=2, max_inactivity_ns=SECOND)
    node.executes(node.talk.publish(5))
    channel = node.talk.state.channels["foo"]
    assert [seq for seq in range(1, 6) if node.store.get(channel.id, seq)] == [4, 5]
    node.executes(node.talk.say(leader_commands=[ChannelExpire(1, "foo", channel.generation)], at=2.0))
    assert node.store.get(channel.id, 5) is None


def test_deliveries_decided_before_a_client_came_are_skipped() -> None:
    """A lagging node applies entries whose effects other nodes executed before the client moved to it.

    The simulator saw such a message twice, the second time without its flag: from the node the client
    had been at, and again from a node that was cut off meanwhile.
    """
    node = Node("in")
    inbox = node.subscribes("in", mif=100)
    node.talk.now = 1.0
    lagging = node.talk.publish(2)
    node.executor.accepted(node.connection, round(1.5 * SECOND))
    node.executes(lagging)
    assert inbox.seqs == []
    node.talk.now = 2.0
    node.executes(node.talk.publish())
    assert inbox.seqs == [3]
    node.executor.forget(node.connection)
    node.connection.closed = True
    node.executor.accepted(node.connection, 0)  # the read in which it ended: nothing is kept of it
    assert not node.executor._accepted_ns


def test_deliveries_of_a_leader_whose_time_is_behind_are_not_skipped() -> None:
    """R12: a new leader's cluster time may be behind that of this node when the client came."""
    node = Node("in")
    inbox = node.subscribes("in", mif=100)
    node.executor.accepted(node.connection, 5 * SECOND)
    node.executor.time_went_back(3 * SECOND, 2)
    node.executes(node.talk.publish(at=4.0))
    assert inbox.seqs == [], "an earlier leader decided that before the client came"
    node.talk.term = 2
    node.executes(node.talk.say(leader_commands=[NewTerm(2, node.talk.index)], at=4.1))
    node.executes(node.talk.publish(at=4.2))
    assert inbox.seqs == [2]


def test_a_leaders_time_is_not_used_before_its_first_entry() -> None:
    """In the simulator a message came twice, the second time unflagged: as above, with a term in between."""
    node = Node("in")
    inbox = node.subscribes("in", mif=100)
    node.executor.accepted(node.connection, 5 * SECOND)
    node.executor.time_went_back(3 * SECOND, 3)
    node.talk.term = 2
    node.executes(node.talk.say(leader_commands=[NewTerm(2, node.talk.index)], at=4.1))
    node.executes(node.talk.publish(at=4.2))
    assert inbox.seqs == []


def test_a_delayed_frame_does_not_change_the_time() -> None:
    node = Node("in")
    inbox = node.subscribes("in")
    node.executor.accepted(node.connection, 5 * SECOND)
    node.executor.time_went_back(TIME_SURE_NS, 2)
    node.talk.term = 2
    node.executes(node.talk.say(leader_commands=[NewTerm(2, node.talk.index)], at=4.1))
    node.executes(node.talk.publish(at=5.0 - 0.001))
    assert inbox.seqs == []


def test_the_time_of_a_connection_that_ended_is_forgotten() -> None:
    node = Node("in")
    node.executor.accepted(node.connection, 5 * SECOND)
    node.executor.time_went_back(3 * SECOND, 2)
    node.executor.forget(node.connection)
    assert not node.executor._translated
    assert not node.executor._accepted_ns


# --- how far deliveries were written (R10, R15) ----------------------------------------------------


def test_deliveries_in_the_outbox_or_the_backlog_are_not_written() -> None:
    node = Node("in", capacity=1)
    node.subscribes("in", mif=1000)
    node.executes(node.talk.publish(CHUNK))
    first = node.talk.index
    node.executes(node.talk.publish())
    assert node.executor.report() == (node.talk.index, [[1, first - 1]], [])
    node.connection.written, node.connection.outbox_bytes = node.connection.outbox_bytes, 0
    assert node.executor.report() == (node.talk.index, [[1, first]], []), "the second waits for capacity"
    node.connection.capacity = 10
    node.executor.drained(node.connection)
    assert node.executor.report() == (node.talk.index, [[1, first]], []), "the second is in the outbox"
    node.connection.written, node.connection.outbox_bytes = 1 << 20, 0
    assert node.executor.report() == (node.talk.index, [], [])


def test_unwritten_deliveries_of_an_ended_connection_are_reported() -> None:
    node = Node("in", capacity=1)
    node.subscribes("in", mif=1000)
    node.executes(node.talk.publish(CHUNK))
    first = node.talk.index
    node.connection.written, node.connection.outbox_bytes = node.connection.outbox_bytes, 0
    node.executes(node.talk.publish())
    node.executor.forget(node.connection)
    assert node.executor.report()[1:] == ([], [[1, first]])


def test_a_delivery_that_ends_its_connection_is_not_written() -> None:
    """A slow consumer: its outbox, including the last delivery, is discarded."""
    node = Node("in")
    inbox = node.subscribes("in")
    node.executes(node.talk.publish())
    node.connection.written, node.connection.outbox_bytes = 1 << 20, 0

    def deliver(_subject: bytes, _payload: bytes) -> None:
        node.connection.closed = True
        node.executor.forget(node.connection)

    inbox.deliver = deliver  # type: ignore[method-assign]
    before = node.talk.index
    node.executes(node.talk.publish())
    node.executes(node.talk.tick())
    assert node.executor.report() == (node.talk.index, [], [[1, before]])
    assert not node.executor.progress._marks


# --- replies behind deliveries (R2) -----------------------------------------------------------------


def test_a_publish_is_answered_when_its_messages_are_written_to_all_connections() -> None:
    """CLI-02: a program that publishes on one connection and reads on another has all by the last reply."""
    node = Node("a", "b")
    other = Connection(epoch=2)
    node.inboxes["b"].connection = other
    for inbox in ("a", "b"):
        node.subscribes(inbox)
    node.writes()
    node.writes(other)
    node.left.clear()
    node.executes(node.talk.publish())
    assert node.answers() == 0
    node.writes(other)
    assert node.answers() == 0
    node.writes()
    assert node.answers() == 1


def test_replies_keep_their_order() -> None:
    """Replies of a later entry that waits for nothing don't overtake."""
    node = Node("a")
    node.subscribes("a", mif=1)
    node.left.clear()
    node.executes(node.talk.publish())
    node.executes(node.talk.publish())
    assert node.answers() == 0
    node.writes()
    assert node.answers() == 2


def test_a_client_that_does_not_read_delays_no_other_client() -> None:
    """It is waited for once, and then only after its outbox was empty again."""
    node = Node("a")
    node.subscribes("a")
    node.left.clear()
    node.executes(node.talk.publish())
    node.now += WRITE_WAIT_S
    node.rounds()
    assert node.answers() == 1
    node.executes(node.talk.publish())
    assert node.answers() == 2, "it is known to be slow"
    node.writes()
    node.executes(node.talk.publish())
    assert node.answers() == 2, "it is quick again"
    node.connection.closed = True
    node.executor.forget(node.connection)
    assert node.answers() == 3


def test_a_burst_is_answered_when_all_its_messages_are_sent() -> None:
    """R19: the entry that stores 1,200 messages sends 500 of them."""
    node = Node("a")
    node.connection.capacity = 10_000
    node.subscribes("a", mif=5000)
    node.left.clear()
    node.executes(node.talk.say(*publishes(1200)))
    node.writes()
    assert node.answers() == 0
    for _ in range(2):
        assert node.answers() == 0
        node.executes(node.talk.say())
        node.writes()
    assert len(node.inboxes["a"].got) == 1200
    assert node.answers() >= 1


def test_a_burst_is_waited_for_only_for_a_limited_time() -> None:
    node = Node("a")
    node.connection.capacity = 10_000
    node.subscribes("a", mif=5000)
    node.left.clear()
    node.executes(node.talk.say(*publishes(1200)))
    node.writes()
    node.now += GROUP_WAIT_S
    node.rounds()
    assert node.answers() == 1
    node.executes(node.talk.publish())
    node.writes()
    assert node.answers() == 2


def test_a_burst_is_answered_when_its_last_part_is_written() -> None:
    """Entries that send the rest have no replies of their own, but their messages may be in outboxes."""
    node = Node("a")
    node.connection.capacity = 10_000
    node.subscribes("a", mif=5000)
    node.left.clear()
    node.executes(node.talk.say(*publishes(1200)))
    node.writes()
    node.executes(node.talk.say())
    node.writes()
    node.executes(node.talk.say())
    assert len(node.inboxes["a"].got) == 1200
    assert node.answers() == 0, "the last 200 are not written"
    node.writes()
    assert node.answers() == 1


def test_a_burst_is_waited_for_while_its_parts_are_being_sent() -> None:
    """On a slow disk an entry may take longer than the wait, and a burst takes several."""
    node = Node("a")
    node.connection.capacity = 10_000
    node.subscribes("a", mif=5000)
    node.left.clear()
    node.executes(node.talk.say(*publishes(2000)))
    for _ in range(2):
        node.writes()
        node.now += GROUP_WAIT_S * 0.9
        for _ in range(LATE_ROUNDS + 1):
            node.executor.order.tick()
        assert node.answers() == 0
        node.executes(node.talk.say())
    node.writes()
    node.now = GROUP_WAIT_MAX_S
    node.rounds()
    assert node.answers() == 1, "but not for ever"


def test_a_reply_queues_behind_waiting_deliveries_of_its_connection() -> None:
    """PUB-09: also if deliveries wait for capacity."""
    node = Node("a")
    node.subscribes("a")
    node.connection.capacity = 0
    node.executes(node.talk.publish(3))
    sent: list[object] = []
    node.executor.send_answer = lambda inbox, payload: sent.append((payload, node.inboxes["a"].seqs[-1]))
    assert node.executor.answer_behind(b"a", b"answer")
    assert not node.executor.answer_behind(b"elsewhere", b"answer")
    node.connection.capacity = 10
    node.executor.drained(node.connection)
    assert sent == [(b"answer", 3)]
    assert not node.executor.answer_behind(b"a", b"answer"), "nothing waits any more"


def test_a_client_that_came_before_cluster_time_was_available_is_sent_nothing_old() -> None:
    """R25: another node may have delivered what was decided before this node caught up."""
    node = Node("in")
    inbox = node.subscribes("in")
    node.executor.accepted(node.connection, TIME_UNKNOWN_NS)
    node.executes(node.talk.publish())
    assert inbox.seqs == []
    node.executor.learn_time(node.talk.state.time_ns)
    node.executes(node.talk.publish())
    assert inbox.seqs == [2]
