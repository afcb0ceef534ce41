"""What a ready leader proposes on its own: ticks, who is absent, what has expired (R15, R16, R20)."""

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


class Nobody:
    """Heartbeats that nobody answers and nobody misses, unless told otherwise."""

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


class Known:
    """What nodes have said of their deliveries."""

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
    """A keeper over a core, a table of interest, and one clock for everything."""

    def __init__(self, *clients: str, **settings: Any) -> None:
        self.talk = Conversation(**settings)
        self.talk.connect("me", *clients)
        self.now = 10.0
        self.complete = True
        self.removed: set[str] = set()
        self.requests = Nobody()
        self.linked = {"n2"}
        self.known = Known()
        self.table: dict[bytes, Where] = {}
        self.by_pattern: Where | None = None
        """Somebody who hears everything."""
        self.asked = 0
        """How often anybody asked where an inbox is heard."""
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
        self.leader_commands = LeaderDuties(
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
            losses=self.known,
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
        """As the driver does, at once again while there is more to look at."""
        self.leader_commands.pump()
        while self.leader_commands._full_check is not None or self.leader_commands._quick_check is not None:
            self.leader_commands.pump()

    def wait(self, seconds: float) -> list[LeaderCommand]:
        """Let time pass in steps as the driver would; what was proposed, nothing applied."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + STEP_S)
            self.pump()
        found, self.proposed[:] = list(self.proposed), []
        return found

    def apply(self, *commands: LeaderCommand) -> None:
        answer = self.talk.say(leader_commands=list(commands), at=self.now)
        self.presence.acted(answer.effects.returned, self.talk.state.time_ns)
        self.leader_commands.applied()

    def generation(self, client: str = "me") -> tuple[int, int]:
        return self.talk.state.clients[client].generation


def ns(seconds: float) -> int:
    return round(seconds * SECOND)


# --- bystanders ------------------------------------------------------------------------------------


def test_a_bystander_is_not_the_client() -> None:
    """R15: somebody subscribes to everything. The dead client is absent after the grace all the same."""
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


def test_nobody_is_back_for_a_bystander_at_a_cold_start() -> None:
    """R14: what a returning durable holds was sent to whoever listened, and waited for AckWait."""
    leader = Leader()
    leader.subscribe("A", durable="d")
    leader.lost("hb.me", "A")
    leader.by_pattern = ("n2", 9)
    leader.wait(1)
    leader.apply(ColdStart(TERM))
    assert leader.wait(2) == []
    leader.reachable("hb.me", "A", epoch=2)
    assert {type(found) for found in leader.wait(0.2)} == {ClientReachable, SubscriptionReachable}


def test_a_client_that_hears_its_inboxes_by_a_pattern_shows_that_it_does() -> None:
    """R15: it answers when it is asked; its connection then counts for its subscriptions too."""
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


def test_many_clients_are_asked_by_and_by() -> None:
    """A hundred in a look: a bystander comes while thousands of clients are dead."""
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
    """HBT-02: it waited out the time-out, 10 s, although its connection had closed."""
    leader = Leader(heartbeat_interval_ns=SECOND // 2, heartbeat_fail_count=0)
    leader.reachable("hb.me", node=node)
    leader.wait(0.2)
    leader.lost("hb.me")
    assert ClientRemove(TERM, "me", leader.generation()) in leader.wait(0.7)
    assert leader.requests.asked == []


@pytest.mark.parametrize("why", ["its node is lost", "interest is incomplete", "a bystander", "a new leader"])
def test_a_client_that_may_be_there_is_asked(why: str) -> None:
    """R15: it is reconnecting, perhaps; or somebody might answer."""
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


def test_one_that_is_back_is_asked_at_once() -> None:
    """HBT-06: it missed a heartbeat while it was reconnecting, and is silent until it answers one."""
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


def test_a_tick_is_proposed_after_a_deadline_never_before() -> None:
    """R20: a little late, so that neighbours go together."""
    leader = Leader()
    leader.subscribe("in", wait=5)
    leader.talk.publish(at=leader.now)
    sent = leader.now
    assert Tick(TERM) not in leader.wait(5.0)
    leader.now = sent + 5 + TICK_LATE_NS / SECOND - 0.001
    leader.leader_commands.pump()
    assert Tick(TERM) not in leader.proposed
    leader.now += 0.001
    leader.leader_commands.pump()
    assert leader.proposed.count(Tick(TERM)) == 1
    assert TICK_LATE_NS <= 15_000_000


def test_the_keeper_says_when_it_wants_to_be_called() -> None:
    """It sleeps until the earliest deadline, whoever else is quiet."""
    leader = Leader()
    leader.subscribe("in", wait=1)
    leader.talk.publish(at=leader.now)
    leader.wait(0.9)
    asked = leader.leader_commands.pump()
    assert abs(asked - (10.0 + 1 + TICK_LATE_NS / SECOND)) < 1e-6


def test_one_tick_at_a_time() -> None:
    """R20: the next waits until the last is applied."""
    leader = Leader()
    leader.subscribe("in", wait=1)
    leader.talk.publish(at=leader.now)
    assert leader.wait(3.0).count(Tick(TERM)) == 1
    leader.apply(Tick(TERM))
    assert Tick(TERM) in leader.wait(1.1)


def test_work_left_over_is_ticked_at_once() -> None:
    """R19: while anything is marked."""
    leader = Leader()
    leader.subscribe("in", mif=5000)
    leader.talk.publish(600, at=leader.now)  # an entry sends 500 to a subscription
    assert leader.talk.state.marked
    assert leader.wait(STEP_S) == [Tick(TERM)]
    leader.apply(Tick(TERM))
    assert not leader.talk.state.marked
    assert leader.wait(STEP_S) == []


def test_age_is_ticked_at_most_once_a_second() -> None:
    """R20, LIM-03: a channel whose messages age all the time costs an entry a second."""
    leader = Leader(max_age_ns=SECOND)
    leader.talk.publish(at=leader.now)
    ticks = 0
    for _ in range(3):
        for command in leader.wait(1.0):
            ticks += command == Tick(TERM)
            leader.apply(command)
            leader.talk.publish(at=leader.now)
    assert 1 <= ticks <= 3


def test_age_is_what_the_majority_says() -> None:
    """LIM-03, R13: entries are dated by the median. A leader whose own clock was a few seconds behind it
    let messages stay for so much longer."""
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
    """I4, INA-01, R16: with the generation that is meant; again only if nothing came of it."""
    leader = Leader(max_inactivity_ns=2 * SECOND)
    leader.talk.publish(at=leader.now)
    generation = leader.talk.state.channels["foo"].generation
    found = leader.wait(2.0 + LOOK_AT_LEAST_S)
    assert ChannelExpire(TERM, "foo", generation) in found
    assert len(found) == 1
    leader.apply(*found)
    assert leader.wait(3.0) == []


# --- who is absent --------------------------------------------------------------------------------


def test_a_client_nobody_hears_is_absent_after_the_grace() -> None:
    """R15: 3 s, above the clients' pause before they reconnect; since when it went, not since now."""
    leader = Leader()
    leader.wait(1.0)
    leader.lost("hb.me")
    gone = leader.now
    assert leader.wait(GRACE_S - STEP_S) == []
    assert leader.wait(LOOK_AT_LEAST_S + 2 * STEP_S) == [
        ClientUnreachable(TERM, "me", leader.generation(), ns(gone), NOTHING_UNWRITTEN)
    ]


def test_one_that_is_back_in_time_is_not_absent() -> None:
    leader = Leader()
    leader.wait(1.0)
    leader.lost("hb.me")
    leader.wait(2.0)
    leader.reachable("hb.me")
    assert leader.wait(2 * GRACE_S) == []


def test_a_new_leader_gives_the_grace_anew() -> None:
    """R15: from when every connected member has sent its whole interest: till then it hears too few."""
    leader = Leader()
    leader.leader_commands.stop()
    leader.table.clear()
    leader.complete = False
    leader.presence.changed("n1", [])
    leader.leader_commands = LeaderDuties(
        lambda: leader.talk.state,
        propose=leader.proposed.append,
        presence=leader.presence,
        complete=lambda: leader.complete,
        requests=Nobody(),
        clock=leader.leader_commands._clock,
        wall_clock=leader.leader_commands._wall_clock,
        monotonic_s=lambda: leader.now,
        term=TERM,
        is_member=lambda node: True,
        losses=leader.known,
        linked=(),
        node="n1",
    )
    assert leader.wait(3 * GRACE_S) == []
    leader.complete = True
    assert leader.wait(GRACE_S - STEP_S) == []
    assert [type(command) for command in leader.wait(LOOK_AT_LEAST_S + 2 * STEP_S)] == [ClientUnreachable]


def test_a_finding_is_proposed_once_and_again_if_nothing_comes_of_it() -> None:
    """R16: the entry may have died with its term, or not; twice changes nothing."""
    leader = Leader()
    leader.lost("hb.me")
    found = leader.wait(GRACE_S + REPEAT_S / 2)
    assert len(found) == 1
    assert leader.wait(REPEAT_S + LOOK_AT_LEAST_S) == found
    leader.apply(*found)
    assert leader.wait(5.0) == []


def test_one_that_comes_back_says_since_when_it_may_have_missed_something() -> None:
    """R15: what was first sent after it went is due at once."""
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


def test_one_that_comes_back_just_after_it_was_found_absent_does_not_wait() -> None:
    """Away and back are two findings: the one that was proposed a moment ago doesn't hold up the other."""
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


def test_an_inbox_that_merely_moved_is_back_too() -> None:
    """R15: it was never absent, but what went into the dead connection needn't wait for AckWait."""
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


def test_what_was_sent_before_a_late_look_is_not_said_to_be_missed() -> None:
    """R15: a follower looks twice a second, a busy node less often; its client gets messages meanwhile."""
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
    """It hears nobody when it begins to lead, and has heard nobody before."""
    leader = Leader()
    del leader.table[b"hb.me"]
    leader.presence._inboxes.clear()
    leader.presence._gone_others.clear()
    leader.talk.state.clients["me"].reachable_at = ("n1", ANY_EPOCH)
    leader.wait(1.0)
    return leader


def test_a_new_leader_takes_one_that_came_back_to_another_process_of_its_node_for_one_that_was_away() -> None:
    """R15: the node was started anew since the client registered there, which its session tells (R5).

    What the process before had not written died with that.
    """
    leader = just_started()
    leader.known.written["n1", FORMER_EPOCH] = 4
    leader.talk.state.sessions["n1"].id = (leader.talk.index + 1, 1)
    leader.reachable("hb.me", epoch=2)
    (found,) = leader.wait(2 * STEP_S)
    assert isinstance(found, ClientReachable)
    assert found.written == 4


def test_a_new_leader_does_not_take_one_that_never_left_for_one_that_was_away() -> None:
    """R10: each new leader that had just been started sent again what it had not seen itself, long before its
    AckWait."""
    leader = just_started()
    leader.reachable("hb.me", epoch=1)
    assert leader.wait(5.0) == []


def test_a_returning_client_is_waited_for_until_its_inboxes_are_heard() -> None:
    """Its subscriptions come a moment after its heartbeat inbox: not before them."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.lost("hb.me", "in")
    leader.wait(0.5)
    leader.reachable("hb.me", epoch=2)
    assert leader.wait(SETTLE_NS / SECOND / 2) == []
    leader.reachable("in", epoch=2)
    assert [type(command) for command in leader.wait(2 * STEP_S)] == [ClientReachable]


def test_what_it_missed_ends_when_the_last_of_its_inboxes_is_heard() -> None:
    """R15: not when its heartbeat inbox is: what was sent to another one meanwhile has arrived nowhere."""
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


def test_it_is_not_waited_for_any_longer_than_that() -> None:
    """A client may have given up a subscription while it was away."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.lost("hb.me", "in")
    leader.wait(0.5)
    leader.reachable("hb.me", epoch=2)
    (back,) = leader.wait(SETTLE_NS / SECOND + 3 * STEP_S)
    assert isinstance(back, ClientReachable)
    assert back.back_ns == UNREACHABLE_NS, "what is sent to the other inbox doesn't arrive yet"


def test_an_inbox_that_comes_later_than_its_client_is_found_by_itself() -> None:
    """R15: what was sent to it after its client's return, and before it came, is due at once."""
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


def test_an_inbox_that_nobody_subscribes_to_any_more_does_not_make_the_others_miss_anything() -> None:
    """R15: a client whose first subscription was answered too late has another, and never hears the first."""
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
    """R15: what went into its dead connection is due, though its client is heard."""
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


def test_one_inbox_of_a_client_can_be_absent_by_itself() -> None:
    """R15: a client that unsubscribed on the NATS level only, or whose connection takes nothing."""
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


def test_an_inbox_nobody_hears_does_not_come_back_with_its_client() -> None:
    """R15: it was absent by itself before its client went, and still is."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.lost("in")
    leader.apply(*leader.wait(GRACE_S + LOOK_AT_LEAST_S))
    assert leader.talk.find("in").unreachable
    leader.reachable("hb.me", epoch=2)
    found = leader.wait(SETTLE_NS / SECOND + 3 * STEP_S)
    assert [type(command) for command in found] == [ClientReachable]


def test_offline_durables_are_nobodys_absence() -> None:
    """D44: they are waited for, by nobody in particular."""
    leader = Leader()
    leader.subscribe("in", durable="d")
    leader.talk.close("in")
    leader.lost("in")
    assert leader.wait(2 * GRACE_S) == []


def test_nothing_is_found_after_the_term() -> None:
    """R16: a keeper that is stopped takes no answer any more."""
    leader = Leader()
    leader.leader_commands.stop()
    leader.leader_commands.opened("me")
    leader.leader_commands.opened("nobody")
    leader.leader_commands.heartbeats.beat()
    assert leader.proposed == []


# --- very many inboxes ----------------------------------------------------------------------------


@pytest.fixture
def costly(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were so many inboxes that a look at all of them is for once in ages."""
    monkeypatch.setattr(presence, "SCAN_COST_S", 1000.0)


@pytest.mark.usefixtures("costly")
def test_what_changes_is_noticed_between_two_looks_at_all() -> None:
    """R15: who goes is absent after the grace, who comes back is so at once, with its subscriptions."""
    leader = Leader("you")
    leader.subscribe("A")
    leader.leader_commands.pump()
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
def test_one_inbox_that_goes_and_comes_is_noticed_between_two_looks_at_all() -> None:
    leader = Leader()
    leader.subscribe("A")
    leader.presence.dirty = True
    list(leader.leader_commands._check_all(leader.now))  # once in ages, behind the subscription
    leader.lost("A")
    away = leader.wait(GRACE_S + 0.6)
    assert [type(found) for found in away] == [SubscriptionUnreachable]
    leader.apply(*away)
    leader.reachable("A", epoch=2)
    assert [type(found) for found in leader.wait(2 * LOOK_EVERY_S)] == [SubscriptionReachable]


@pytest.mark.usefixtures("costly")
def test_who_settles_is_waited_for_between_two_looks_at_all() -> None:
    leader = Leader()
    leader.subscribe("A")
    leader.presence.dirty = True
    list(leader.leader_commands._check_all(leader.now))
    leader.reachable("hb.me", node="n2", epoch=5)
    assert leader.wait(0.1) == []
    leader.reachable("A", node="n2", epoch=5)
    assert [type(found) for found in leader.wait(2 * LOOK_EVERY_S)] == [ClientReachable]


def test_who_comes_does_not_have_everybody_looked_at_again() -> None:
    """2,000 inboxes, one more every 50 ms: all are looked at now and then, not 20 times a second."""
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


def test_a_look_at_very_many_goes_in_steps() -> None:
    """A look at 100,000 inboxes took 4 s, in which the leader was silent."""
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
        leader.leader_commands.pump()
        assert leader.asked <= 4 * STEP
        pumps += 1
        if leader.leader_commands._full_check is None and leader.leader_commands._quick_check is None:
            break
    assert pumps > 2000 // STEP
    found = leader.wait(GRACE_S + 2 * LOOK_AT_LEAST_S)
    assert len([command for command in found if isinstance(command, SubscriptionUnreachable)]) >= 2000


def test_a_removed_node_has_no_session() -> None:
    """R5: it ends once the node is no member; proposed again if nothing came of it."""
    leader = Leader()
    ((node, session),) = leader.talk.state.sessions.items()
    assert not any(isinstance(command, SessionEnd) for command in leader.wait(2.0))
    leader.removed.add(node)
    found = [command for command in leader.wait(1.1) if isinstance(command, SessionEnd)]
    assert set(found) == {SessionEnd(TERM, node, session.id)}
    leader.talk.say(leader_commands=found)
    assert leader.talk.state.sessions == {}
    assert not any(isinstance(command, SessionEnd) for command in leader.wait(3.0))


# --- how far a connection was served ---------------------------------------------------------------


def test_a_finding_says_how_far_the_lost_connection_was_served() -> None:
    """R10, R15: what its node had not written yet is due at once when the client is heard elsewhere."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.known.written["n1", 1] = 7
    leader.reachable("hb.me", "in", node="n2", epoch=2)
    (found,) = leader.wait(2 * STEP_S)
    assert isinstance(found, ClientReachable)
    assert found.written == 7


def test_of_two_connections_lost_in_a_row_the_first_counts() -> None:
    """R15: nobody has acted on the first move yet, so what was lost then is lost still."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.known.written.update({("n1", 1): 7, ("n2", 2): 9})
    leader.reachable("hb.me", node="n2", epoch=2)
    leader.wait(STEP_S)
    leader.lost("hb.me", "in")
    leader.wait(STEP_S)
    leader.reachable("hb.me", "in", node="n3", epoch=3)
    (found,) = leader.wait(2 * STEP_S)
    assert isinstance(found, ClientReachable)
    assert found.written == 7


def test_where_the_log_says_it_is_counts_more_than_what_this_leader_saw() -> None:
    """R15: this leader was started after the client had moved, and after the last leader had acted on another
    of its moves."""
    leader = Leader()
    leader.wait(1.0)
    leader.known.written.update({("n3", 7): 5})
    leader.apply(ClientReachable(TERM, "me", leader.generation(), ns(1.0), ns(1.0), *ALL_WRITTEN, "n3", 7))
    leader.presence.dirty = True
    (found,) = leader.wait(2 * STEP_S)
    assert isinstance(found, ClientReachable)
    assert (found.written, found.node, found.epoch) == (5, "n1", 1)
    leader.apply(found)
    assert leader.wait(5.0) == []


def test_a_leader_that_saw_nothing_knows_where_a_client_was_registered() -> None:
    """R15: the client has moved since, and neither the leader of then nor its node lives."""
    leader = Leader()
    leader.wait(1.0)
    leader.known.written["n9", ANY_EPOCH] = 4
    leader.talk.state.clients["me"].reachable_at = ("n9", ANY_EPOCH)
    leader.presence.dirty = True
    (found,) = leader.wait(2 * STEP_S)
    assert isinstance(found, ClientReachable)
    assert (found.written, found.node, found.epoch) == (4, "n1", 1)


def test_who_is_away_is_said_to_have_been_served_so_far() -> None:
    """R15: kept in the state, for the next leader may not know."""
    leader = Leader()
    leader.subscribe("in")
    leader.wait(1.0)
    leader.known.written["n1", 1] = 7
    leader.lost("in")
    (inbox,) = leader.wait(GRACE_S + LOOK_AT_LEAST_S)
    leader.lost("hb.me")
    (client,) = leader.wait(GRACE_S + LOOK_AT_LEAST_S)
    assert isinstance(inbox, SubscriptionUnreachable)
    assert isinstance(client, ClientUnreachable)
    assert (inbox.written, client.written) == (7, 7)


def test_the_same_finding_is_not_another_when_more_was_written() -> None:
    """R16: reports go on coming in while the entry is on its way."""
    leader = Leader()
    leader.wait(1.0)
    leader.known.written["n1", 1] = 7
    leader.lost("hb.me")
    assert len(leader.wait(GRACE_S + LOOK_AT_LEAST_S)) == 1
    leader.known.written["n1", 1] = 8
    assert leader.wait(REPEAT_S / 4) == []


def test_in_version_1_findings_say_only_since_when() -> None:
    """R24: a member may run the older release, which does not know the others."""
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
