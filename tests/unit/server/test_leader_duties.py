"""Commands that a ready leader proposes: ticks, reachability of clients, expired channels (R15, R16, R20)."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

import pytest
from conversation import EPOCH_NS, SECOND, Conversation

from node.core.commands import (
    ANY_EPOCH,
    NOTHING_UNWRITTEN,
    ChannelExpire,
    ClientAway,
    ClientBack,
    ClientReachable,
    ClientRemove,
    ClientUnreachable,
    ClientUnresponsive,
    ColdStart,
    HeartbeatMissed,
    LeaderCommand,
    SessionEnd,
    SubscriptionAway,
    SubscriptionBack,
    SubscriptionReachable,
    SubscriptionUnreachable,
    Tick,
    Unwritten,
)
from node.server import presence
from node.server.clock import TIME_SURE_NS, ClusterClock, WallClock
from node.server.delivery_progress import FORMER_EPOCH
from node.server.interest import InterestChange
from node.server.leader_duties import (
    ASKED_MAX,
    LOOK_AT_LEAST_S,
    LOOK_EVERY_S,
    REPEAT_S,
    SETTLE_NS,
    TICK_LATE_NS,
    UNREACHABLE_NS,
    LeaderDuties,
)
from node.server.presence import Presence, Where
from node.server.steps import STEP

TERM = 1
GRACE_S = 3.0
STEP_S = LOOK_EVERY_S
SURE_S = TIME_SURE_NS / SECOND


class FakeRequests:
    """Heartbeats that are neither answered nor missed, unless the inbox is in ``answering``."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answering: set[str] = set()
        """Inboxes whose clients answer."""

    def ask(
        self, inbox: str, answered: Callable[[], None], missed: Callable[[], None], timeout_s: float
    ) -> None:
        self.asked.append(inbox)
        if inbox in self.answering:
            answered()


class FakeLosses:
    """How far deliveries were written, set by the test."""

    def __init__(self) -> None:
        self.written: dict[Where, int] = {}

    def unwritten(
        self, before: Iterable[Where | None], now: Where | None, now_ns: int, reachable_ns: int
    ) -> Unwritten:
        return Unwritten(min(self.written_at_end(where, ()) for where in before), 0, 0)

    def written_at_end(self, where: Where | None, linked: Container[str]) -> int:
        return NOTHING_UNWRITTEN if where is None else self.written.get(where, NOTHING_UNWRITTEN)


ALL_WRITTEN = Unwritten(NOTHING_UNWRITTEN, 0, 0)


class Leader:
    """The duties of a leader over a core, with a table of interest and one clock for everything."""

    def __init__(self, *clients: str, **settings: Any) -> None:
        self.talk = Conversation(**settings)
        self.talk.connect("me", *clients)
        self.now = 10.0
        self.complete = True
        self.removed: set[str] = set()
        self.requests = FakeRequests()
        self.linked = {"n2"}
        self.losses = FakeLosses()
        self.table: dict[bytes, Where] = {}
        self.by_pattern: Where | None = None
        """A connection that subscribes to every subject."""
        self.asked = 0
        """Number of look-ups of an inbox."""
        self.proposed: list[LeaderCommand] = []
        clock = ClusterClock(lambda: round(self.now * SECOND))
        clock.received(round(self.now * SECOND))
        clock.lead()
        self.presence = Presence(self, clock.now)
        for client in ("me", *clients):
            self.reachable(f"hb.{client}")
        self.talk.now = self.now
        self.wall_ahead_ns = 0
        self.wall_clock = WallClock(
            lambda: round(self.now * SECOND),
            lambda: EPOCH_NS + round(self.now * SECOND) + self.wall_ahead_ns,
        )
        self.duties = LeaderDuties(
            lambda: self.talk.state,
            propose=self.proposed.append,
            presence=self.presence,
            complete=lambda: self.complete,
            requests=self.requests,
            clock=clock,
            wall_clock=self.wall_clock,
            monotonic_s=lambda: self.now,
            term=TERM,
            is_member=lambda node: node not in self.removed,
            losses=self.losses,
            linked=self.linked,
            node="n1",
        )
        self.pump()

    def where(self, subject: bytes) -> Where | None:
        self.asked += 1
        return self.table.get(subject)

    def where_any(self, subject: bytes) -> Where | None:
        return self.table.get(subject) or self.by_pattern

    def receives(self, subject: bytes, where: Where) -> bool:
        return where in (self.table.get(subject), self.by_pattern)

    def reachable(self, *inboxes: str, node: str = "n1", epoch: int = 1) -> None:
        for inbox in inboxes:
            before = self.table.get(inbox.encode())
            self.table[inbox.encode()] = (node, epoch)
            change = InterestChange(inbox.encode(), b"", before[1] if before else 0, epoch)
            self.presence.changed(node, [change])

    def lost(self, *inboxes: str) -> None:
        for inbox in inboxes:
            node, epoch = self.table.pop(inbox.encode())
            self.presence.changed(node, [InterestChange(inbox.encode(), b"", epoch, 0)])

    def subscribe(self, inbox: str, **options: Any) -> None:
        self.talk.subscribe(inbox, **options)
        self.reachable(inbox)

    def pump(self) -> None:
        """Call `pump` like the driver: again at once while a check is running."""
        self.duties.pump()
        while self.duties._full_check is not None or self.duties._quick_check is not None:
            self.duties.pump()

    def wait(self, seconds: float) -> list[LeaderCommand]:
        """Let time pass in steps, like the driver. Returns what was proposed; nothing is applied."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + STEP_S)
            self.pump()
        found, self.proposed[:] = list(self.proposed), []
        return found

    def apply(self, *commands: LeaderCommand) -> None:
        answer = self.talk.say(leader_commands=list(commands), at=self.now)
        self.presence.acted(answer.effects.returned, self.talk.state.time_ns)
        self.duties.applied()

    def generation(self, client: str = "me") -> tuple[int, int]:
        return self.talk.state.clients[client].generation


def ns(seconds: float) -> int:
    return round(seconds * SECOND)


# --- bystanders ------------------------------------------------------------------------------------


def test_a_bystander_is_not_the_client() -> None:
    """R15: a dead client is unreachable after the grace period although another client subscribes to all."""
    leader = Leader()
    leader.subscribe("A", queue="q")
    leader.wait(1)
    leader.by_pattern = ("n2", 9)
    leader.lost("hb.me", "A")
    since = ns(leader.now)
    assert leader.wait(2.9) == []
    assert leader.wait(0.3) == [ClientUnreachable(TERM, "me", leader.generation(), since, NOTHING_UNWRITTEN)]
    assert leader.requests.asked == ["hb.me"], "asked once whether it is there"


def test_a_bystander_does_not_keep_a_subscription() -> None:
    leader = Leader()
    leader.subscribe("A", queue="q")
    leader.wait(1)
    leader.by_pattern = ("n2", 9)
    leader.lost("A")
    assert [type(found) for found in leader.wait(3.3)] == [SubscriptionUnreachable]


def test_a_bystander_makes_no_client_reachable_at_a_cold_start() -> None:
    """R14: messages of a returning durable were sent to the bystander, and waited for their AckWait."""
    leader = Leader()
    leader.subscribe("A", durable="d")
    leader.lost("hb.me", "A")
    leader.by_pattern = ("n2", 9)
    leader.wait(1)
    leader.apply(ColdStart(TERM))
    assert leader.wait(2) == []
    leader.reachable("hb.me", "A", epoch=2)
    assert {type(found) for found in leader.wait(0.2)} == {ClientReachable, SubscriptionReachable}


def test_a_client_that_subscribes_by_a_pattern_is_found_by_its_reply() -> None:
    """R15: it replies to a heartbeat. Then its connection counts for its subscriptions too."""
    leader = Leader()
    leader.requests.answering = {"hb.me"}
    leader.subscribe("A", queue="q")
    leader.wait(1)
    leader.by_pattern = ("n1", 1)
    leader.lost("hb.me", "A")
    assert leader.wait(10) == []
    assert leader.presence.get("hb.me").where == ("n1", 1)
    assert leader.presence.get("A").where == ("n1", 1)
    leader.by_pattern = None
    leader.presence.dirty = True
    assert [type(found) for found in leader.wait(3.3)] == [ClientUnreachable]


def test_many_clients_are_asked_over_several_checks() -> None:
    """A hundred in each full check: a bystander comes while thousands of clients are dead."""
    clients = [f"c{number}" for number in range(2 * ASKED_MAX)]
    leader = Leader(*clients)
    leader.by_pattern = ("n2", 9)
    leader.lost(*(f"hb.{client}" for client in clients))
    leader.pump()
    leader.wait(0.1)
    assert 0 < len(leader.requests.asked) <= ASKED_MAX
    leader.wait(3)
    assert len(leader.requests.asked) == len(clients)


# --- heartbeats -----------------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_client_whose_connection_closed_misses_its_heartbeat_at_once(node: str) -> None:
    """HBT-02: without this, the leader waited for the timeout of 10 s although the connection had closed."""
    leader = Leader(heartbeat_interval_ns=SECOND // 2, heartbeat_fail_count=0)
    leader.reachable("hb.me", node=node)
    leader.wait(0.2)
    leader.lost("hb.me")
    assert ClientRemove(TERM, "me", leader.generation()) in leader.wait(0.7)
    assert leader.requests.asked == []


@pytest.mark.parametrize("why", ["its node is lost", "interest is incomplete", "a bystander", "a new leader"])
def test_a_client_that_may_be_connected_is_asked(why: str) -> None:
    """R15: it may be reconnecting, or may receive the request by a pattern."""
    leader = Leader(heartbeat_interval_ns=SECOND // 2, heartbeat_fail_count=0)
    leader.wait(0.2)
    match why:
        case "its node is lost":
            leader.reachable("hb.me", node="n3")
            leader.wait(0.1)
        case "interest is incomplete":
            leader.complete = False
        case "a bystander":
            leader.by_pattern = ("n2", 9)
        case _:
            leader.presence.scan([])
            leader.table.clear()
    if leader.table:
        leader.lost("hb.me")
    assert leader.wait(0.7) == []
    assert leader.requests.asked


def test_a_client_that_returns_gets_a_heartbeat_at_once() -> None:
    """HBT-06: it missed a heartbeat while reconnecting, and is unresponsive until it replies to one."""
    leader = Leader(heartbeat_interval_ns=2 * SECOND)
    leader.requests.answering = {"hb.me"}
    leader.wait(0.2)
    leader.lost("hb.me")
    (missed,) = leader.wait(2.2)
    assert isinstance(missed, HeartbeatMissed)
    leader.apply(missed)
    leader.reachable("hb.me", epoch=2)
    assert ClientUnresponsive(TERM, "me", leader.generation(), False) in leader.wait(0.3)


# --- ticks ----------------------------------------------------------------------------------------


def test_a_tick_is_proposed_after_a_deadline_and_never_before() -> None:
    """R20: a little late, so that one Tick covers close deadlines."""
    leader = Leader()
    leader.subscribe("in", wait=5)
    leader.talk.publish(at=leader.now)
    sent = leader.now
    assert Tick(TERM) not in leader.wait(5.0)
    leader.now = sent + 5 + TICK_LATE_NS / SECOND - 0.001
    leader.duties.pump()
    assert Tick(TERM) not in leader.proposed
    leader.now += 0.001
    leader.duties.pump()
    assert leader.proposed.count(Tick(TERM)) == 1
    assert TICK_LATE_NS <= 15_000_000


def test_pump_returns_the_time_of_the_next_call() -> None:
    """Without other events, the driver sleeps until the earliest deadline."""
    leader = Leader()
    leader.subscribe("in", wait=1)
    leader.talk.publish(at=leader.now)
    leader.wait(0.9)
    asked = leader.duties.pump()
    assert abs(asked - (10.0 + 1 + TICK_LATE_NS / SECOND)) < 1e-6


def test_one_tick_at_a_time() -> None:
    """R20: the next Tick waits until the last one is applied."""
    leader = Leader()
    leader.subscribe("in", wait=1)
    leader.talk.publish(at=leader.now)
    assert leader.wait(3.0).count(Tick(TERM)) == 1
    leader.apply(Tick(TERM))
    assert Tick(TERM) in leader.wait(1.1)


def test_a_tick_follows_at_once_while_work_is_left() -> None:
    """R19: while anything is marked."""
    leader = Leader()
    leader.subscribe("in", mif=5000)
    leader.talk.publish(600, at=leader.now)  # an entry sends 500 to a subscription
    assert leader.talk.state.marked
    assert leader.wait(STEP_S) == [Tick(TERM)]
    leader.apply(Tick(TERM))
    assert not leader.talk.state.marked
    assert leader.wait(STEP_S) == []


def test_ticks_for_message_age_come_at_most_once_a_second() -> None:
    """R20, LIM-03: a channel whose messages expire continuously costs one entry a second."""
    leader = Leader(max_age_ns=SECOND)
    leader.talk.publish(at=leader.now)
    ticks = 0
    for _ in range(3):
        for command in leader.wait(1.0):
            ticks += command == Tick(TERM)
            leader.apply(command)
            leader.talk.publish(at=leader.now)
    assert 1 <= ticks <= 3


def test_message_age_follows_the_median_of_the_clocks() -> None:
    """LIM-03, R13: timestamps follow the median. A leader whose own clock was some seconds behind kept
    messages for that much longer."""
    leader = Leader(max_age_ns=SECOND)
    leader.wall_ahead_ns = -8 * SECOND
    for peer in ("n2", "n3"):
        leader.wall_clock.report(peer, EPOCH_NS + round(leader.now * SECOND))
    leader.talk.publish(at=leader.now)
    assert Tick(TERM) in leader.wait(1.5)


def test_an_idle_cluster_needs_no_tick() -> None:
    leader = Leader()
    leader.subscribe("in")
    assert leader.wait(20.0) == []


def test_a_channel_that_was_idle_for_too_long_expires() -> None:
    """I4, INA-01, R16: the command names the generation; it is repeated only if it isn't applied."""
    leader = Leader(max_inactivity_ns=2 * SECOND)
    leader.talk.publish(at=leader.now)
    generation = leader.talk.state.channels["foo"].generation
    found = leader.wait(2.0 + LOOK_AT_LEAST_S)
    assert ChannelExpire(TERM, "foo", generation) in found
    assert len(found) == 1
    leader.apply(*found)
    assert leader.wait(3.0) == []


# --- reachable clients ----------------------------------------------------------------------------


def test_a_client_without_a_connection_is_unreachable_after_the_grace_period() -> None:
    """R15: 3 s, longer than the clients' pause before a reconnect, counted from when it disconnected."""
    leader = Leader()
    leader.wait(1.0)
    leader.lost("hb.me")
    gone = leader.now
    assert leader.wait(GRACE_S - STEP_S) == []
    assert leader.wait(LOOK_AT_LEAST_S + 2 * STEP_S) == [
        ClientUnreachable(TERM, "me", leader.generation(), ns(gone), NOTHING_UNWRITTEN)
    ]


def test_a_client_that_returns_in_time_is_not_unreachable() -> None:
    leader = Leader()
    leader.wait(1.0)
    leader.lost("hb.me")
    leader.wait(2.0)
    leader.reachable("hb.me")
    assert leader.wait(2 * GRACE_S) == []


def test_a_new_leader_restarts_the_grace_period() -> None:
    """R15: from when every connected member has sent its whole interest; before that, clients are missing."""
    leader = Leader()
    leader.duties.stop()
    leader.table.clear()
    leader.complete = False
    leader.presence.changed("n1", [])
    leader.duties = LeaderDuties(
        lambda: leader.talk.state,
        propose=leader.proposed.append,
        presence=leader.presence,
        complete=lambda: leader.complete,
        requests=FakeRequests(),
        clock=leader.duties._clock,
        wall_clock=leader.duties._wall_clock,
        monotonic_s=lambda: leader.now,
        term=TERM,
        is_member=lambda node: True,
        losses=leader.losses,
        linked=(),
        node="n1",
    )
    assert leader.wait(3 * GRACE_S) == []
    leader.complete = True
    assert leader.wait(GRACE_S - STEP_S) == []
    assert [type(command) for command in leader.wait(LOOK_AT_LEAST_S + 2 * STEP_S)] == [ClientUnreachable]


def test_a_command_is_proposed_once_and_again_if_it_is_not_applied() -> None:
    """R16: the entry may be lost with its term; a repeated command changes nothing."""
    leader = Leader()
    leader.lost("hb.me")
    found = leader.wait(GRACE_S + REPEAT_S / 2)
    assert len(found) == 1
    assert leader.wait(REPEAT_S + LOOK_AT_LEAST_S) == found
    leader.apply(*found)
    assert leader.wait(5.0) == []


def test_a_returning_client_is_proposed_with_the_time_since_when_it_may_have_missed_messages() -> None:
    """R15: messages first sent after it disconnected are due at once."""
    leader = Leader()
    leader.wait(1.0)
    leader.lost("hb.me")
    gone = leader.now
    leader.apply(*leader.wait(GRACE_S + LOOK_AT_LEAST_S))
    leader.wait(REPEAT_S + STEP_S)
    leader.reachable("hb.me", epoch=2)
    reachable = leader.now + SURE_S
    assert leader.wait(2 * STEP_S) == [
        ClientReachable(TERM, "me", leader.generation(), ns(gone), ns(reachable), *ALL_WRITTEN, "n1", 2)
    ]


def test_a_client_that_returns_just_after_it_was_found_unreachable_does_not_wait() -> None:
    """Unreachable and reachable are two commands: one proposed just before doesn't delay the other."""
    leader = Leader()
    leader.wait(1.0)
    leader.lost("hb.me")
    gone = leader.now
    leader.apply(*leader.wait(GRACE_S + LOOK_AT_LEAST_S))
    assert leader.talk.state.clients["me"].unreachable
    leader.reachable("hb.me", epoch=2)
    reachable = leader.now + SURE_S
    assert leader.wait(2 * STEP_S) == [
        ClientReachable(TERM, "me", leader.generation(), ns(gone), ns(reachable), *ALL_WRITTEN, "n1", 2)
    ]


def test_an_inbox_that_moved_is_proposed_as_reachable_too() -> None:
    """R15: it was never unreachable, but messages lost with its old connection needn't wait for AckWait."""
    leader = Leader()
    leader.wait(1.0)
    leader.reachable("hb.me", epoch=2)
    moved = leader.now
    found = leader.wait(2 * STEP_S)
    assert found == [
        ClientReachable(TERM, "me", leader.generation(), ns(moved), ns(moved + SURE_S), *ALL_WRITTEN, "n1", 2)
    ]
    leader.apply(*found)
    assert leader.wait(5.0) == []


def test_messages_sent_before_a_late_check_are_not_missed() -> None:
    """R15: a follower checks twice a second, a busy node less often; its client gets messages meanwhile."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.lost("hb.me", "in")
    leader.now += 0.5
    leader.reachable("hb.me", "in", epoch=2)
    reachable = leader.now + SURE_S
    leader.now += 1.0
    (back,) = leader.wait(2 * STEP_S)
    assert isinstance(back, ClientReachable)
    assert back.back_ns == ns(reachable)


def just_started() -> Leader:
    """It has no interest of any client when it begins to lead, and had none before."""
    leader = Leader()
    del leader.table[b"hb.me"]
    leader.presence._inboxes.clear()
    leader.presence._gone_others.clear()
    leader.talk.state.clients["me"].reachable_at = ("n1", ANY_EPOCH)
    leader.wait(1.0)
    return leader


def test_a_client_that_returned_to_a_restarted_node_was_unreachable_for_a_new_leader() -> None:
    """R15: the node's session shows that it was restarted after the client had registered there (R5).

    What the process before had not written died with that.
    """
    leader = just_started()
    leader.losses.written["n1", FORMER_EPOCH] = 4
    leader.talk.state.sessions["n1"].id = (leader.talk.index + 1, 1)
    leader.reachable("hb.me", epoch=2)
    (found,) = leader.wait(2 * STEP_S)
    assert isinstance(found, ClientReachable)
    assert found.written == 4


def test_a_client_that_never_left_was_not_unreachable_for_a_new_leader() -> None:
    """R10: without this, each leader elected just after its start redelivered messages long before their
    AckWait."""
    leader = just_started()
    leader.reachable("hb.me", epoch=1)
    assert leader.wait(5.0) == []


def test_a_returning_client_is_waited_for_until_its_inboxes_are_reachable() -> None:
    """It subscribes to the inboxes of its subscriptions a moment after its heartbeat inbox."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.lost("hb.me", "in")
    leader.wait(0.5)
    leader.reachable("hb.me", epoch=2)
    assert leader.wait(SETTLE_NS / SECOND / 2) == []
    leader.reachable("in", epoch=2)
    assert [type(command) for command in leader.wait(2 * STEP_S)] == [ClientReachable]


def test_a_returning_client_misses_messages_until_its_last_inbox_is_reachable() -> None:
    """R15: not only until its heartbeat inbox is: messages sent to the other inboxes meanwhile are lost."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.lost("hb.me", "in")
    leader.wait(0.5)
    leader.reachable("hb.me", epoch=2)
    assert leader.wait(SETTLE_NS / SECOND / 2) == []
    client_ns = leader.presence.get("hb.me").reachable_since_ns
    leader.reachable("in", epoch=2)
    (back,) = leader.wait(2 * STEP_S)
    assert isinstance(back, ClientReachable)
    assert back.back_ns == leader.presence.get("in").reachable_since_ns > client_ns


def test_a_returning_client_is_waited_for_only_for_a_limited_time() -> None:
    """A client may have closed a subscription while it was disconnected."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.lost("hb.me", "in")
    leader.wait(0.5)
    leader.reachable("hb.me", epoch=2)
    (back,) = leader.wait(SETTLE_NS / SECOND + 3 * STEP_S)
    assert isinstance(back, ClientReachable)
    assert back.back_ns == UNREACHABLE_NS, "what is sent to the other inbox doesn't arrive yet"


def test_an_inbox_that_returns_later_than_its_client_gets_its_own_command() -> None:
    """R15: messages sent to it after its client's return, and before its own, are due at once."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.lost("hb.me", "in")
    gone = leader.now
    leader.wait(0.5)
    leader.reachable("hb.me", epoch=2)
    leader.apply(*leader.wait(SETTLE_NS / SECOND + 3 * STEP_S))
    leader.wait(0.5)
    leader.reachable("in", epoch=2)
    reachable, sub = leader.now + SURE_S, leader.talk.find("in")
    found = leader.wait(2 * STEP_S)
    assert found == [
        SubscriptionReachable(TERM, sub.id, sub.generation, ns(gone), ns(reachable), *ALL_WRITTEN, "n1", 2)
    ]
    leader.apply(*found)
    assert leader.wait(1.0) == []


def test_an_inbox_without_a_subscriber_does_not_make_other_inboxes_miss_messages() -> None:
    """R15: a client whose subscription request timed out may have subscribed again, to another inbox."""
    leader = Leader()
    leader.subscribe("left")
    leader.subscribe("in")
    leader.wait(1.0)
    leader.lost("left")
    leader.apply(*leader.wait(GRACE_S + LOOK_AT_LEAST_S))
    assert leader.talk.find("left").unreachable
    leader.reachable("hb.me", "in", epoch=2)
    reachable = leader.now + SURE_S
    (back,) = leader.wait(SETTLE_NS / SECOND + 3 * STEP_S)
    assert isinstance(back, ClientReachable)
    assert back.back_ns == ns(reachable)
    leader.apply(back)
    leader.wait(1.0)
    leader.reachable("left", epoch=2)
    assert [type(command) for command in leader.wait(2 * STEP_S)] == [SubscriptionReachable]


def test_one_inbox_of_a_client_can_move_by_itself() -> None:
    """R15: messages lost with its old connection are due although its client is reachable."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.reachable("in", epoch=2)
    moved = leader.now
    sub = leader.talk.find("in")
    found = leader.wait(2 * STEP_S)
    assert found == [
        SubscriptionReachable(
            TERM, sub.id, sub.generation, ns(moved), ns(moved + SURE_S), *ALL_WRITTEN, "n1", 2
        )
    ]
    leader.apply(*found)
    assert leader.wait(5.0) == []


def test_one_inbox_of_a_client_can_be_unreachable_by_itself() -> None:
    """R15: a client that unsubscribed on the NATS level only, or whose connection is stuck."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.lost("in")
    gone = leader.now
    found = leader.wait(GRACE_S + LOOK_AT_LEAST_S)
    sub = leader.talk.find("in")
    assert found == [SubscriptionUnreachable(TERM, sub.id, sub.generation, ns(gone), NOTHING_UNWRITTEN)]
    leader.apply(*found)
    leader.wait(REPEAT_S + STEP_S)
    leader.reachable("in", epoch=2)
    reachable = leader.now + SURE_S
    assert leader.wait(2 * STEP_S) == [
        SubscriptionReachable(TERM, sub.id, sub.generation, ns(gone), ns(reachable), *ALL_WRITTEN, "n1", 2)
    ]


def test_an_unreachable_inbox_does_not_return_with_its_client() -> None:
    """R15: it was unreachable by itself before its client was, and still is."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.lost("in")
    leader.apply(*leader.wait(GRACE_S + LOOK_AT_LEAST_S))
    assert leader.talk.find("in").unreachable
    leader.reachable("hb.me", epoch=2)
    found = leader.wait(SETTLE_NS / SECOND + 3 * STEP_S)
    assert [type(command) for command in found] == [ClientReachable]


def test_offline_durables_are_not_unreachable() -> None:
    """D44: no client is expected to subscribe to their inboxes."""
    leader = Leader()
    leader.subscribe("in", durable="d")
    leader.talk.close("in")
    leader.lost("in")
    assert leader.wait(2 * GRACE_S) == []


def test_nothing_is_proposed_after_the_term() -> None:
    """R16: stopped leader duties ignore replies."""
    leader = Leader()
    leader.duties.stop()
    leader.duties.opened("me")
    leader.duties.opened("unknown")
    leader.duties.heartbeats.beat()
    assert leader.proposed == []


# --- very many inboxes ----------------------------------------------------------------------------


@pytest.fixture
def costly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make full checks very rare, as with very many inboxes."""
    monkeypatch.setattr(presence, "SCAN_COST_S", 1000.0)


@pytest.mark.usefixtures("costly")
def test_changes_are_noticed_between_two_full_checks() -> None:
    """R15: a client is unreachable after the grace period, and reachable at once with its subscriptions."""
    leader = Leader("you")
    leader.subscribe("A")
    leader.duties.pump()
    leader.lost("hb.me", "A")
    gone_ns = round(leader.now * SECOND)
    assert leader.wait(GRACE_S - 0.6) == []
    away = leader.wait(1.2)
    assert [(type(found), found.gone_since_ns) for found in away] == [(ClientUnreachable, gone_ns)]
    leader.apply(*away)
    leader.wait(1)
    leader.reachable("hb.me", "A", node="n2", epoch=7)
    back = leader.wait(2 * LOOK_EVERY_S)
    assert [(type(found), found.gone_since_ns) for found in back] == [(ClientReachable, gone_ns)]


@pytest.mark.usefixtures("costly")
def test_an_inbox_that_goes_and_returns_is_noticed_between_two_full_checks() -> None:
    leader = Leader()
    leader.subscribe("A")
    leader.presence.dirty = True
    list(leader.duties._check_all(leader.now))  # once in ages, behind the subscription
    leader.lost("A")
    away = leader.wait(GRACE_S + 0.6)
    assert [type(found) for found in away] == [SubscriptionUnreachable]
    leader.apply(*away)
    leader.reachable("A", epoch=2)
    assert [type(found) for found in leader.wait(2 * LOOK_EVERY_S)] == [SubscriptionReachable]


@pytest.mark.usefixtures("costly")
def test_a_returning_client_is_waited_for_between_two_full_checks() -> None:
    leader = Leader()
    leader.subscribe("A")
    leader.presence.dirty = True
    list(leader.duties._check_all(leader.now))
    leader.reachable("hb.me", node="n2", epoch=5)
    assert leader.wait(0.1) == []
    leader.reachable("A", node="n2", epoch=5)
    assert [type(found) for found in leader.wait(2 * LOOK_EVERY_S)] == [ClientReachable]


def test_a_new_client_does_not_start_a_full_check() -> None:
    """2,000 inboxes, and one more every 50 ms: full checks don't run 20 times a second."""
    leader = Leader()
    leader.talk.checked = False
    for number in range(2000):
        leader.subscribe(f"I{number}")
    leader.wait(1)
    leader.asked = 0
    for number in range(40):
        leader.subscribe(f"J{number}")
        leader.wait(LOOK_EVERY_S)
    assert leader.asked < 6 * 2100 + 40 * 10


def test_a_full_check_of_very_many_inboxes_runs_in_steps() -> None:
    """A full check of 100,000 inboxes took 4 s, in which the leader sent no heartbeats."""
    leader = Leader()
    leader.talk.checked = False
    for number in range(2000):
        leader.subscribe(f"I{number}")
    leader.wait(1)
    for number in range(2000):
        leader.lost(f"I{number}")
    leader.presence.dirty = True
    leader.now += 10
    pumps = 0
    while True:
        leader.asked = 0
        leader.duties.pump()
        assert leader.asked <= 4 * STEP
        pumps += 1
        if leader.duties._full_check is None and leader.duties._quick_check is None:
            break
    assert pumps > 2000 // STEP
    found = leader.wait(GRACE_S + 2 * LOOK_AT_LEAST_S)
    assert len([command for command in found if isinstance(command, SubscriptionUnreachable)]) >= 2000


def test_a_removed_node_has_no_session() -> None:
    """R5: it ends when the node is no longer a member; the command is repeated if it isn't applied."""
    leader = Leader()
    ((node, session),) = leader.talk.state.sessions.items()
    assert not any(isinstance(command, SessionEnd) for command in leader.wait(2.0))
    leader.removed.add(node)
    found = [command for command in leader.wait(1.1) if isinstance(command, SessionEnd)]
    assert set(found) == {SessionEnd(TERM, node, session.id)}
    leader.talk.say(leader_commands=found)
    assert leader.talk.state.sessions == {}
    assert not any(isinstance(command, SessionEnd) for command in leader.wait(3.0))


# --- how far deliveries were written ---------------------------------------------------------------


def test_a_command_says_how_far_deliveries_to_the_lost_connection_were_written() -> None:
    """R10, R15: messages its node had not written are due at once when the client is reachable elsewhere."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.losses.written["n1", 1] = 7
    leader.reachable("hb.me", "in", node="n2", epoch=2)
    (found,) = leader.wait(2 * STEP_S)
    assert isinstance(found, ClientReachable)
    assert found.written == 7


def test_the_first_of_two_lost_connections_counts() -> None:
    """R15: the first move is not in the log yet, so messages lost then are still lost."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.losses.written.update({("n1", 1): 7, ("n2", 2): 9})
    leader.reachable("hb.me", node="n2", epoch=2)
    leader.wait(STEP_S)
    leader.lost("hb.me", "in")
    leader.wait(STEP_S)
    leader.reachable("hb.me", "in", node="n3", epoch=3)
    (found,) = leader.wait(2 * STEP_S)
    assert isinstance(found, ClientReachable)
    assert found.written == 7


def test_the_connection_in_the_log_overrides_what_this_leader_saw() -> None:
    """R15: this leader was started after the client had moved, and after the last leader had recorded another
    move."""
    leader = Leader()
    leader.wait(1.0)
    leader.losses.written.update({("n3", 7): 5})
    leader.apply(ClientReachable(TERM, "me", leader.generation(), ns(1.0), ns(1.0), *ALL_WRITTEN, "n3", 7))
    leader.presence.dirty = True
    (found,) = leader.wait(2 * STEP_S)
    assert isinstance(found, ClientReachable)
    assert (found.written, found.node, found.epoch) == (5, "n1", 1)
    leader.apply(found)
    assert leader.wait(5.0) == []


def test_a_new_leader_uses_the_node_that_registered_a_client() -> None:
    """R15: the client has moved since, and both the previous leader and the client's node are dead."""
    leader = Leader()
    leader.wait(1.0)
    leader.losses.written["n9", ANY_EPOCH] = 4
    leader.talk.state.clients["me"].reachable_at = ("n9", ANY_EPOCH)
    leader.presence.dirty = True
    (found,) = leader.wait(2 * STEP_S)
    assert isinstance(found, ClientReachable)
    assert (found.written, found.node, found.epoch) == (4, "n1", 1)


def test_an_unreachable_client_is_proposed_with_how_far_deliveries_were_written() -> None:
    """R15: it is kept in the state, because the next leader may have no report."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.losses.written["n1", 1] = 7
    leader.lost("in")
    (inbox,) = leader.wait(GRACE_S + LOOK_AT_LEAST_S)
    leader.lost("hb.me")
    (client,) = leader.wait(GRACE_S + LOOK_AT_LEAST_S)
    assert isinstance(inbox, SubscriptionUnreachable)
    assert isinstance(client, ClientUnreachable)
    assert (inbox.written, client.written) == (7, 7)


def test_a_command_is_the_same_when_more_was_written() -> None:
    """R16: reports continue to arrive while the entry is being committed."""
    leader = Leader()
    leader.wait(1.0)
    leader.losses.written["n1", 1] = 7
    leader.lost("hb.me")
    assert len(leader.wait(GRACE_S + LOOK_AT_LEAST_S)) == 1
    leader.losses.written["n1", 1] = 8
    assert leader.wait(REPEAT_S / 4) == []


def test_in_version_1_commands_contain_only_the_time() -> None:
    """R24: a member may run an older release without the newer commands."""
    leader = Leader(version=1)
    leader.subscribe("in")
    leader.wait(1.0)
    leader.lost("in")
    found = leader.wait(GRACE_S + LOOK_AT_LEAST_S)
    leader.apply(*found)
    leader.reachable("in", epoch=2)
    found += leader.wait(2 * STEP_S)
    leader.lost("hb.me")
    found += leader.wait(GRACE_S + LOOK_AT_LEAST_S)
    leader.apply(found[-1])
    leader.reachable("hb.me", epoch=3)
    found += leader.wait(SETTLE_NS / SECOND + 3 * STEP_S)
    kinds = dict.fromkeys(type(each) for each in found)
    assert list(kinds) == [SubscriptionAway, SubscriptionBack, ClientAway, ClientBack]
