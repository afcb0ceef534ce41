"""Heartbeats: when they are sent, and the effect of a missed one (streaming protocol, "Heartbeats")."""

from __future__ import annotations

from collections.abc import Callable

from conversation import Conversation

from node.core.commands import ClientRemove, ClientUnresponsive, HeartbeatMissed, LeaderCommand
from node.server.heartbeats import Heartbeats

INTERVAL_S = 30.0
FAIL_COUNT = 10


class Asked:
    """Heartbeats that were sent and have neither been answered nor missed yet."""

    def __init__(self) -> None:
        self.open: list[tuple[str, Callable[[], None], Callable[[], None]]] = []

    def ask(
        self, inbox: str, answered: Callable[[], None], missed: Callable[[], None], timeout_s: float
    ) -> None:
        assert timeout_s == 10.0
        self.open.append((inbox, answered, missed))

    @property
    def inboxes(self) -> list[str]:
        return [inbox for inbox, _, _ in self.open]

    def answer(self) -> None:
        self.open.pop(0)[1]()

    def miss(self) -> None:
        self.open.pop(0)[2]()


class Leader:
    """A leader's heartbeats over a core, at a time the test sets."""

    def __init__(self, *clients: str, talk: Conversation | None = None) -> None:
        self.talk = Conversation() if talk is None else talk
        if clients:
            self.talk.connect(*clients)
        self.gone: set[str] = set()
        self.now = 1000.0
        self.asked = Asked()
        self.proposed: list[LeaderCommand] = []
        self.heartbeats = Heartbeats(
            lambda: self.talk.state,
            self.asked,
            self.proposed.append,
            1,
            lambda: self.now,
            is_gone=lambda client: client.id in self.gone,
        )
        for client in self.talk.state.clients.values():
            self.heartbeats.register(client)

    def later(self, seconds: float = INTERVAL_S) -> None:
        self.now += seconds
        self.heartbeats.beat()

    def generation(self, client: str) -> tuple[int, int]:
        return self.talk.state.clients[client].generation

    def apply(self) -> None:
        """Apply the proposed commands."""
        proposed, self.proposed[:] = list(self.proposed), []
        self.talk.say(leader_commands=proposed)


def test_every_client_gets_one_heartbeat_per_interval() -> None:
    """HBT-01: the first one interval after registration, the next one interval after each reply."""
    leader = Leader("a", "b")
    assert leader.heartbeats.next_deadline() == 1000.0 + INTERVAL_S
    leader.later(INTERVAL_S - 1)
    assert leader.asked.inboxes == []
    leader.later(1)
    assert leader.asked.inboxes == ["hb.a", "hb.b"]
    leader.later()  # neither has answered: no client gets a second heartbeat meanwhile
    assert leader.asked.inboxes == ["hb.a", "hb.b"]
    leader.asked.answer()
    leader.later()
    assert leader.asked.inboxes == ["hb.b", "hb.a"]
    assert leader.proposed == []


def test_the_first_miss_makes_unresponsive_and_a_reply_clears_it() -> None:
    """D15, D25, D29: one missed heartbeat makes a client unresponsive, one reply ends that."""
    leader = Leader("a")
    leader.later()
    leader.asked.miss()
    assert leader.proposed == [HeartbeatMissed(1, "a", leader.generation("a"), 1)]
    leader.apply()
    assert leader.talk.state.clients["a"].unresponsive
    leader.later()
    leader.asked.miss()
    assert leader.proposed == [HeartbeatMissed(1, "a", leader.generation("a"), 2)]
    leader.apply()
    leader.later()
    leader.asked.answer()
    assert leader.proposed == [ClientUnresponsive(1, "a", leader.generation("a"), False)]
    leader.apply()
    leader.later()
    leader.asked.answer()
    assert leader.proposed == []


def test_a_reply_clears_a_miss_that_is_not_applied_yet() -> None:
    """HBT-03, HBT-06: after a ping the reply may arrive before the miss is in the log. The client then stayed
    unresponsive for an interval, and nothing was redelivered to it."""
    leader = Leader("a")
    leader.later()
    leader.asked.miss()
    leader.heartbeats.pinged("a")
    leader.later(0)
    leader.asked.answer()
    leader.apply()
    assert not leader.talk.state.clients["a"].unresponsive


def test_a_client_that_subscribed_is_unresponsive_again_after_the_next_miss() -> None:
    """D46, R15: subscribing clears the flag although no heartbeat was answered; the next miss sets it."""
    leader = Leader("a")
    leader.later()
    leader.asked.miss()
    leader.apply()
    leader.talk.subscribe("in", "a")
    assert not leader.talk.state.clients["a"].unresponsive
    leader.later()
    leader.asked.miss()
    leader.apply()
    assert leader.talk.state.clients["a"].unresponsive


def test_a_client_is_removed_after_one_miss_too_many() -> None:
    """HBT-02, HBT-03: with the defaults after the eleventh miss in a row; a reply restarts the count."""
    leader = Leader("a")

    def miss(times: int) -> None:
        for _ in range(times):
            leader.later()
            leader.asked.miss()

    miss(FAIL_COUNT)
    leader.later()
    leader.asked.answer()
    miss(FAIL_COUNT)
    assert not any(isinstance(command, ClientRemove) for command in leader.proposed)
    miss(1)
    assert leader.proposed[-1] == ClientRemove(1, "a", leader.generation("a"))
    leader.apply()
    leader.later()
    assert leader.asked.inboxes == []
    assert leader.heartbeats.next_deadline() is None


def test_a_new_leader_continues_the_count_of_misses() -> None:
    """HBT-05: otherwise clients that are gone would stay for ever if elections are frequent.

    It counts no miss before it has sent a heartbeat, so no client is declared dead because of an election.
    """
    leader = Leader("a")
    for _ in range(FAIL_COUNT):
        leader.later()
        leader.asked.miss()
        leader.apply()
    leader.heartbeats.stop()
    assert leader.talk.state.clients["a"].missed == FAIL_COUNT
    next_one = Leader(talk=leader.talk)
    assert next_one.proposed == []
    next_one.later()
    next_one.asked.miss()
    assert [type(command) for command in next_one.proposed] == [ClientRemove]


def test_a_reply_ends_the_count_for_the_next_leader_too() -> None:
    leader = Leader("a")
    leader.later()
    leader.asked.miss()
    leader.apply()
    leader.later()
    leader.asked.answer()
    leader.apply()
    assert leader.talk.state.clients["a"].missed == 0


def test_a_new_leader_sends_a_heartbeat_one_interval_after_the_last_miss() -> None:
    """With an election every 20 s no leader would ever count a miss at an interval of 30 s."""
    leader = Leader("a", "b", "c")
    leader.talk.say(leader_commands=[HeartbeatMissed(1, "a", leader.generation("a"), 1)], at=100)
    leader.talk.away("b", 95)
    leader.talk.tick(at=120)
    next_one = Leader(talk=leader.talk)
    next_one.later(4.9)
    assert next_one.asked.inboxes == []
    next_one.later(0.2)
    assert next_one.asked.inboxes == ["hb.b"], "unreachable for as long"
    next_one.later(5)
    assert next_one.asked.inboxes == ["hb.b", "hb.a"]
    next_one.later(INTERVAL_S)
    assert next_one.asked.inboxes == ["hb.b", "hb.a", "hb.c"]


def test_a_client_whose_connection_has_closed_misses_at_once() -> None:
    """The Go server's request is answered with "no responders" at once, without a timeout."""
    leader = Leader("a", "b")
    leader.gone = {"a"}
    leader.later()
    assert leader.asked.inboxes == ["hb.b"]
    assert leader.proposed == [HeartbeatMissed(1, "a", leader.generation("a"), 1)]
    for _ in range(FAIL_COUNT):
        leader.apply()
        leader.later()
    assert leader.proposed == [ClientRemove(1, "a", leader.generation("a"))]


def test_in_version_1_only_the_leader_counts_misses() -> None:
    """R24."""
    leader = Leader(talk=Conversation(version=1))
    leader.talk.connect("a")
    leader.heartbeats.register(leader.talk.state.clients["a"])
    leader.later()
    leader.asked.miss()
    assert leader.proposed == [ClientUnresponsive(1, "a", leader.generation("a"), True)]
    leader.apply()
    leader.later()
    leader.asked.miss()
    assert leader.proposed == [], "it is unresponsive already"


def test_replies_after_the_term_are_ignored() -> None:
    """R16: commands of a leader are valid in its term only."""
    leader = Leader("a", "b")
    leader.later()
    leader.heartbeats.stop()
    leader.asked.miss()
    leader.asked.answer()
    assert leader.proposed == []


def test_a_ping_of_an_unresponsive_client_sends_a_heartbeat_at_once() -> None:
    """HBT-06: so that the client is not unresponsive for long after it has reconnected."""
    leader = Leader("a")
    leader.heartbeats.pinged("a")
    leader.later(0)
    assert leader.asked.inboxes == []  # it missed nothing
    leader.later()
    leader.asked.miss()
    leader.heartbeats.pinged("a")
    leader.heartbeats.pinged("unknown")
    leader.later(0)
    assert leader.asked.inboxes == ["hb.a"]
    leader.asked.answer()
    leader.later(INTERVAL_S - 1)
    assert leader.asked.inboxes == []  # the heartbeat that was due before the ping is not sent in addition


def test_a_client_registered_again_has_a_new_count() -> None:
    """R16: the misses of the client it replaced don't count."""
    leader = Leader("a")
    leader.later()
    leader.asked.miss()
    leader.apply()
    leader.talk.leave("a")
    leader.talk.connect("a")
    leader.heartbeats.register(leader.talk.state.clients["a"])
    leader.later()
    assert leader.asked.inboxes == ["hb.a"]
    leader.asked.miss()
    assert leader.proposed == [HeartbeatMissed(1, "a", leader.generation("a"), 1)]


def test_a_client_that_closed_in_between_is_forgotten() -> None:
    leader = Leader("a", "b")
    leader.talk.leave("a")
    leader.later()
    assert leader.asked.inboxes == ["hb.b"]


def test_a_client_that_moved_gets_its_heartbeat_again() -> None:
    """D25: the request was lost with its node; a miss would hold back redeliveries for an interval."""
    leader = Leader("a", "b")
    leader.later()
    assert leader.asked.inboxes == ["hb.a", "hb.b"]
    client = leader.talk.state.clients["a"]
    leader.heartbeats.moved(client)
    leader.later(0.0)
    assert leader.asked.inboxes == ["hb.a", "hb.b", "hb.a"]
    leader.asked.miss()
    assert leader.proposed == [], "the first request means nothing any more"
    leader.asked.open.pop(0)
    leader.asked.answer()
    leader.later()
    assert leader.asked.inboxes == ["hb.a"]


def test_a_client_that_missed_heartbeats_and_moved_gets_one_at_once() -> None:
    leader = Leader("a")
    leader.later()
    leader.asked.miss()
    leader.apply()
    leader.heartbeats.moved(leader.talk.state.clients["a"])
    leader.later(0.0)
    leader.asked.answer()
    assert leader.proposed == [ClientUnresponsive(1, "a", leader.generation("a"), False)]


def test_a_client_that_moved_without_misses_keeps_its_interval() -> None:
    leader = Leader("a")
    leader.heartbeats.moved(leader.talk.state.clients["a"])
    leader.later(0.0)
    assert leader.asked.inboxes == []
