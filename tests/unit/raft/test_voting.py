"""Elections as frames: which are answered, which are ignored, which start a campaign."""

from __future__ import annotations

from node.raft.frames import PreVoteRequest, Stale, TimeoutNow, VoteRequest
from node.raft.ports import Role


def test_order_to_take_over_counts_only_from_the_present_leader(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    term = leader.engine.term
    table["b"].engine.receive("c", TimeoutNow(term).encode())
    table["b"].engine.receive("a", TimeoutNow(term - 1).encode())
    assert table["b"].engine.role is Role.FOLLOWER
    table["b"].engine.receive("a", TimeoutNow(term).encode())
    assert table["b"].engine.role is Role.CANDIDATE


def test_requested_election_passes_stickiness(group) -> None:
    """The leader asked for it, so nodes in contact with the leader vote nevertheless."""
    table = group("abc")
    leader = table.elect("a")
    term = leader.engine.term
    table["c"].engine.receive("b", VoteRequest(term + 1, 99, term, transfer=True).encode())
    assert table["c"].journal.voted_for == "b"
    leader.engine.receive("b", VoteRequest(term + 1, 99, term, transfer=True).encode())
    assert leader.engine.role is Role.FOLLOWER


def test_later_term_is_believed_whoever_speaks_of_it(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    leader.engine.receive("b", Stale(9).encode())
    assert (leader.engine.role, leader.engine.term) == (Role.FOLLOWER, 9)
    assert leader.received.roles[-1] == (Role.FOLLOWER, 9, None, "b sent the later term 9")


def test_leader_grants_no_pre_vote(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    table.now += 5
    table.wire.clear()
    leader.engine.receive("b", PreVoteRequest(9, 99, 9).encode())
    leader.flush()
    answers = [message for _, _, message in table.wire if message["type"] == "prevoted"]
    assert [answer["granted"] for answer in answers] == [False]
