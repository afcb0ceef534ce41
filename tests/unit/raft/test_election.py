"""Timer, pre-votes, stickiness and quorum, without an engine around them."""

from __future__ import annotations

import math
import random

from node.raft.election import Election
from node.raft.ports import Timing

TIMING = Timing(election_min_s=0.3, election_max_s=0.6, heartbeat_s=0.05)


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def _election(peers: str = "bc") -> tuple[Election, Clock]:
    clock = Clock()
    return Election(timing=TIMING, clock=clock, rng=random.Random(1), peers=list(peers)), clock


def test_timer_ends_between_the_two_timeouts() -> None:
    election, clock = _election()
    waits = set()
    for _ in range(50):
        election.rearm()
        waits.add(election.deadline - clock.now)
    assert min(waits) >= 0.3
    assert max(waits) <= 0.6
    assert len(waits) > 40


def test_a_single_node_does_not_wait() -> None:
    """A single server is ready when it has read its disk, without an election timeout."""
    election, clock = _election("")
    clock.now += 1
    election.rearm()
    assert election.deadline == clock.now
    assert election.expired()


def test_a_node_without_a_known_leader_tries_again_sooner() -> None:
    """After a leader's death a failed first attempt must not cost a full election timeout."""
    clock = Clock()
    timing = Timing(election_min_s=1.0, election_max_s=1.5, heartbeat_s=0.075)
    election = Election(timing=timing, clock=clock, rng=random.Random(1), peers=["b", "c"])

    def timeout_s() -> float:
        election.rearm()
        return election.deadline - clock.now

    assert 0.45 <= timeout_s() <= 0.675
    election.ask(2)
    assert 0.9 <= timeout_s() <= 1.35
    election.ask(2)
    assert 1.0 <= timeout_s() <= 1.5
    election.leader_contacted()
    assert 1.0 <= timeout_s() <= 1.5
    election.lost_leader()
    assert election.deadline - clock.now <= 0.15
    assert 0.45 <= timeout_s() <= 0.675


def test_rearming_takes_authority_back() -> None:
    election, _ = _election()
    election.authorise(transfer=False)
    election.rearm()
    assert not election.authorised


def test_leader_is_heard_for_the_shortest_timeout() -> None:
    election, clock = _election()
    assert not election.has_leader_contact()
    election.leader_contacted()
    clock.now += 0.29
    assert election.has_leader_contact()
    clock.now += 0.02
    assert not election.has_leader_contact()


def test_pre_votes_of_another_round_dont_count() -> None:
    election, _ = _election("bcde")
    election.ask(7)
    assert not election.pre_voted("b", 6)
    assert not election.pre_voted("b", 7)
    assert not election.pre_voted("b", 7)  # one peer, one vote
    assert election.pre_voted("c", 7)


def test_hearing_a_leader_ends_the_round() -> None:
    election, _ = _election()
    election.ask(7)
    election.leader_contacted()
    assert not election.pre_voted("b", 7)


def test_lost_connection_ends_the_wait_after_heartbeats() -> None:
    election, clock = _election()
    election.leader_contacted()
    election.rearm()
    election.lost_leader()
    assert 0.05 <= election.deadline - clock.now <= 0.1
    assert not election.has_leader_contact()


def test_quorum_is_a_majority_heard_recently() -> None:
    election, clock = _election("bcde")
    election.leading()
    clock.now += 0.5
    election.contact("b")
    clock.now += 0.2
    assert not election.has_quorum()
    election.contact("c")
    assert election.has_quorum()
    assert round(election.contact_age("b"), 3) == 0.2


def test_own_standstill_counts_against_nobody() -> None:
    election, clock = _election()
    election.leading()
    clock.now += 9.0
    assert not election.has_quorum()
    election.ignore_pause(9.0)
    assert election.has_quorum()


def test_alone_is_a_majority() -> None:
    election, clock = _election("")
    clock.now += 9.0
    assert election.has_quorum()


def test_own_question_counts_for_a_heartbeat() -> None:
    election, clock = _election()
    election.ask(7)
    assert election.asks(7)
    assert not election.asks(8)
    clock.now += 0.06
    assert not election.asks(7)


def test_giving_way_is_short_and_ends_the_own_round() -> None:
    election, clock = _election()
    election.deadline = clock.now
    election.ask(7)
    election.yield_to_candidate()
    assert 0.09 < election.deadline - clock.now < 0.11
    assert not election.pre_voted("b", 7)
    election.deadline = clock.now + 5
    election.yield_to_candidate()
    assert election.deadline == clock.now + 5


# --- another electorate -------------------------------------------------------------------------------


def test_only_voters_are_counted() -> None:
    election, _ = _election("bcd")
    election.set_voters("bc", counts=True)
    election.ask(2)
    assert not election.pre_voted("d", 2)
    assert election.pre_voted("b", 2)
    election.campaigning()
    assert not election.voted("d")
    assert election.voted("b")


def test_a_node_that_does_not_vote_does_not_count_itself() -> None:
    """Of four other voters three are needed, of three two."""
    election, clock = _election("bcde")
    election.set_voters("bcde", counts=False)
    election.ask(2)
    assert [election.pre_voted(peer, 2) for peer in "bcd"] == [False, False, True]
    election.leading()
    clock.now += 0.5
    election.contact("b")
    election.contact("c")
    clock.now += 0.5
    assert not election.has_quorum()
    election.set_voters("bcd", counts=False)
    assert election.has_quorum()


def test_answers_of_another_electorate_are_forgotten() -> None:
    election, _ = _election("bc")
    election.ask(2)
    election.set_voters("bcd", counts=True)
    assert not election.pre_voted("b", 2)


def test_new_voter_counts_as_heard_and_an_old_one_as_before() -> None:
    election, clock = _election("b")
    election.leading()
    clock.now += 1
    assert not election.has_quorum()
    election.set_voters("bc", counts=True)
    assert election.has_quorum()
    assert election.contact_age("b") == 1
    election.forget("b")
    assert election.contact_age("b") == math.inf


def test_a_majority_is_as_fresh_as_its_stalest_member() -> None:
    """A leader's majority is only as recent as its oldest needed contact; a single node always has one."""
    election, clock = _election("bcde")
    election.leading()
    clock.now += 0.1
    election.contact("b")
    clock.now += 0.1
    election.contact("c")
    assert math.isclose(election.majority_age_s(), 0.1)  # itself, c, and b 0.1 s ago
    clock.now += 1.0
    assert math.isclose(election.majority_age_s(), 1.1)
    assert _election("")[0].majority_age_s() == 0.0


def test_a_campaign_begins_without_votes() -> None:
    """PS-11: a voter of an earlier campaign votes again in this one, and is counted once."""
    election, _ = _election()
    election.campaigning()
    assert election.voted("b")
    assert not election.voted("b")
    election.campaigning()
    assert election.voted("b")
