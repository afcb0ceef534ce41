"""A term that elections can't have reached is ignored, unless a majority shows it."""

from __future__ import annotations

import logging

import pytest

from node.raft.frames import (
    Ack,
    Alive,
    Append,
    PreVote,
    PreVoteRequest,
    Refusal,
    Stale,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from node.raft.ports import Role
from node.raft.terms import LEAP_MAX, term_of

FAR = (1 << 63) - 1
END = (1 << 64) - 1

POISON = [
    Append(FAR, 1, 0, 0, [], True, None),
    Alive(FAR, 0, None),
    Ack(FAR, 1, None),
    Refusal(FAR, 1, 1, None),
    Stale(FAR),
    Stale(END),
    VoteRequest(FAR, 99, 99, True),
    Vote(FAR),
    PreVoteRequest(FAR, 99, 99),
    PreVote(1, False, FAR),
    TimeoutNow(FAR),
]


@pytest.mark.parametrize("frame", POISON, ids=lambda frame: f"{type(frame).__name__}-{term_of(frame)}")
def test_one_frame_of_a_far_term_neither_deposes_a_leader_nor_ends_elections(group, frame) -> None:
    table = group("abc")
    leader = table.elect("a")
    term = leader.engine.term
    for name in "ab":
        table[name].engine.receive("c", frame.encode())
    table.settle()
    assert (leader.engine.role, leader.engine.term) == (Role.LEADER, term)
    assert table["b"].engine.term == term
    table.isolate("a")
    table.advance(3)
    leaders = [name for name in "bc" if table[name].engine.role is Role.LEADER]
    assert leaders
    assert table[leaders[0]].engine.term < term + 10


def test_far_term_is_not_there_after_a_restart(group) -> None:
    table = group("abc")
    table.elect("a")
    table["b"].engine.receive("c", Stale(FAR).encode())
    table["b"].flush()
    assert table.restart("b").engine.term == table["a"].engine.term


def test_term_within_the_bound_is_believed_at_once(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    leader.engine.receive("b", Stale(leader.engine.term + LEAP_MAX).encode())
    assert leader.engine.role is Role.FOLLOWER


def test_term_that_a_majority_shows_is_believed(group) -> None:
    """b was away while the others reached that term: they are two of three."""
    table = group("abc")
    table["b"].engine.receive("a", Append(FAR, 1, 0, 0, [], True, None).encode())
    assert table["b"].engine.term == 0
    table["b"].engine.receive("c", PreVote(1, False, FAR).encode())
    table["b"].engine.receive("a", Append(FAR, 1, 0, 0, [], True, None).encode())
    assert (table["b"].engine.term, table["b"].engine.leader) == (FAR, "a")


def test_hellos_show_terms(group) -> None:
    """A learner receives frames of the leader only; the hellos of the other nodes show their terms."""
    table = group("abc")
    learner = table.join("d")
    learner.engine.receive("a", Append(FAR, 1, 0, 0, [], True, None).encode())
    assert learner.engine.term == 0
    for name in "ac":
        learner.engine.disconnected(name)
        learner.engine.connected(name, None, FAR)
    learner.engine.receive("a", Append(FAR, 1, 0, 0, [], True, None).encode())
    assert learner.engine.term == FAR


def test_what_a_connection_showed_ends_with_it(group) -> None:
    table = group("abc")
    table["b"].engine.receive("c", Stale(FAR).encode())
    table["b"].engine.disconnected("c")
    table["b"].engine.connected("c")
    table["b"].engine.receive("a", Stale(FAR).encode())
    assert table["b"].engine.term == 0


def test_other_copy_of_the_log_is_no_evidence(group) -> None:
    """c connects with a directory that is not the voter's."""
    table = group("abc")
    table["b"].engine.disconnected("c")
    table["b"].engine.connected("c", "another", FAR)
    table["b"].engine.receive("a", Stale(FAR).encode())
    assert table["b"].engine.term == 0


def test_cluster_with_poisoned_directories_elects_again(group) -> None:
    """As an earlier release left it: every directory is in the last term that it could write."""
    table = group("abc")
    for name in "abc":
        table[name].journal.set_term(FAR, None)
        table[name].flush()
        table.restart(name)
    leader = table.elect("a")
    assert leader.engine.term == FAR + 1
    leader.write(b"on it goes")
    table.settle()
    assert leader.payloads() == [b"on it goes"]
    table.isolate("a")
    table.advance(3)
    assert any(table[name].engine.role is Role.LEADER and table[name].engine.term > FAR + 1 for name in "bc")


def test_one_poisoned_directory_stops_nobody_else(group, caplog: pytest.LogCaptureFixture) -> None:
    table = group("abc")
    table["c"].journal.set_term(FAR, "b")
    table["c"].flush()
    table.restart("c")
    leader = table.elect("a")
    with caplog.at_level(logging.ERROR, "stanchion.raft"):
        table.advance(30)
    leader.write(b"without c")
    table.settle()
    assert leader.engine.role is Role.LEADER
    assert table["b"].engine.commit_index == leader.engine.commit_index == leader.engine.last_index
    complaints = [record.getMessage() for record in caplog.records if "c sent term" in record.getMessage()]
    assert len(complaints) == 2  # once by a, once by b
    assert "stanchion cluster replace c c" in complaints[0]
