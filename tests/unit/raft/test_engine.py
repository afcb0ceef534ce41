"""The engine without faults: electing, replicating, committing, applying; one node and several."""

from __future__ import annotations

import math
import random

import pytest

from node.errors import NodeError, RemoteProtocolError, UnavailableError
from node.raft.engine import Engine
from node.raft.ports import Limits, Role, Timing
from node.simulator.journal import MemoryJournal, Tape


def test_node_alone_commits_only_what_is_on_its_disk(group) -> None:
    """A group of one leads at once after its timer, and its own fsync is the majority (PS-14)."""
    alone = group("a")["a"]
    assert alone.engine.role is Role.FOLLOWER
    alone.group.now = alone.engine.next_deadline()
    alone.engine.tick()
    assert alone.engine.role is Role.LEADER
    assert not alone.engine.is_ready  # its no-op isn't durable
    alone.flush()
    assert alone.engine.is_ready
    index = alone.write(b"one")
    alone.engine.tick()
    assert alone.applied == []
    alone.flush()
    assert alone.applied == [(index, alone.engine.term, b"one")]
    assert alone.engine.next_deadline() == math.inf


def test_node_alone_commits_while_it_always_writes(group) -> None:
    """Entries whose flush is done commit although later ones are written meanwhile."""
    alone = group("a").elect("a")
    alone.write(b"one")
    flush = alone.journal.begin_flush()
    alone.write(b"two")
    flush.run()
    alone.journal.end_flush(flush)
    alone.engine.on_durable()
    assert alone.payloads() == [b"one"]


@pytest.mark.parametrize("names", ["abc", "abcde"])
def test_batches_are_applied_everywhere_in_order(group, names: str) -> None:
    table = group(names)
    leader = table.elect("b")
    leader.write(b"one", b"two")
    table.settle()
    leader.write(b"three")
    table.settle()
    for member in table.members.values():
        assert member.payloads() == [b"one", b"two", b"three"]
        assert [index for index, _, _ in member.applied] == [3, 4, 5]
        assert member.received.passed == [(2, leader.engine.term)]  # the no-op of the term
        assert member.engine.leader == "b"
        assert member.engine.applied_index == member.engine.commit_index == member.engine.last_index == 5


def test_followers_hear_of_a_commit_at_once(group) -> None:
    """The commit index is sent without waiting for a heartbeat: the clock does not advance."""
    table = group("abc")
    table.elect("a").write(b"x")
    before = table.now
    table.settle()
    assert table.now == before
    assert table["c"].payloads() == [b"x"]


def test_majority_is_enough(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    table.isolate("c")
    leader.write(b"x")
    table.settle()
    assert leader.payloads() == [b"x"] == table["b"].payloads()
    assert table["c"].payloads() == []
    table.heal()
    table.advance(0.2)
    assert table["c"].payloads() == [b"x"]


def test_only_the_leader_proposes(group) -> None:
    table = group("abc")
    table.elect("a")
    with pytest.raises(UnavailableError):
        table["b"].engine.propose(b"x")


def test_empty_batch_is_a_batch(group) -> None:
    table = group("abc")
    table.elect("a").write(b"")
    table.settle()
    assert table["b"].payloads() == [b""]


def test_survivors_elect_and_go_on(group) -> None:
    table = group("abc")
    table.elect("a").write(b"x")
    table.settle()
    table.isolate("a")
    table.advance(2.0)
    leaders = [name for name in "bc" if table[name].engine.is_ready]
    assert len(leaders) == 1
    table[leaders[0]].write(b"y")
    table.settle()
    assert table["b"].payloads() == [b"x", b"y"] == table["c"].payloads()
    assert table["a"].engine.role is not Role.LEADER  # it noticed by itself: check-quorum
    table.heal()
    table.advance(1.0)
    assert table["a"].payloads() == [b"x", b"y"]


def test_restarted_node_goes_on_where_its_store_was(group) -> None:
    """Commit and applied index come from the store; later entries are received from the leader."""
    table = group("abc")
    leader = table.elect("a")
    leader.write(b"x", b"y", b"z")
    table.settle()
    table["c"].stored = 4
    restarted = table.restart("c")
    assert restarted.engine.commit_index == restarted.engine.applied_index == 4
    restarted.applied.clear()
    table.advance(0.2)
    assert restarted.payloads() == [b"z"]


def test_whole_group_restarts(group) -> None:
    table = group("abc")
    table.elect("a").write(b"x")
    table.settle()
    for name in "abc":
        table.restart(name).applied.clear()
    table.advance(3.0)
    for name in "abc":
        assert table[name].payloads() == [b"x"]


def test_roles_are_told_with_their_cause(group) -> None:
    table = group("abc")
    table.elect("a")
    term = table["a"].engine.term
    told = table["a"].received.roles
    assert told[-1][:3] == (Role.LEADER, term, "a")
    assert "elected" in told[-1][3]
    assert table["b"].received.roles[-1] == (Role.FOLLOWER, term, "a", "a leads")
    table.isolate("a")
    table.advance(1.0)
    assert (Role.FOLLOWER, term, None, "no acks of a majority") in told


def test_notes_ride_on_frames(group) -> None:
    table = group("abc")
    table.elect("a")
    assert ("b", "from follower b") in table["a"].received.follower_payloads  # on votes and acks
    assert ("a", "from leader a") in table["c"].received.leader_payloads


def test_votes_carry_heartbeat_payloads(group) -> None:
    """A candidate receives the heartbeat payloads of its voters before it leads."""
    table = group("abc")
    table.settle()
    table["a"].engine._election.deadline = table.now
    table["a"].engine.tick()
    table.deliver()
    assert table["a"].engine.role is Role.CANDIDATE
    assert {peer for peer, _ in table["a"].received.follower_payloads} == {"b", "c"}


def test_followers_learn_the_leaders_commit_index(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    leader.write(b"x")
    table.settle()
    assert table["b"].received.commits[-1] == (3, leader.engine.term)


def test_commit_when_elected_is_what_was_known_then(group) -> None:
    table = group("abc")
    table.elect("a").write(b"x")
    table.settle()
    table.isolate("a")
    table.advance(2.0)
    successor = next(table[name] for name in "bc" if table[name].engine.is_ready)
    assert successor.engine.commit_when_elected == 3


def test_idle_leader_sleeps_a_heartbeat_and_a_follower_an_election_timeout(group) -> None:
    table = group("abc")
    leader = table.elect("a").engine
    table.advance(0.01)
    assert 0 < leader.next_deadline() - table.now <= 0.05
    table.advance(1.0)
    assert table["b"].engine.next_deadline() - table.now > 0.2


def test_long_backlog_is_applied_in_slices(group) -> None:
    """A tick returns after ``apply_s`` and requests the next one at once."""
    table = group("a", Limits(apply_s=0.01))
    alone = table.elect("a")

    def slow(index: int, term: int, payload: bytes) -> None:
        table.now += 0.004

    alone.on_apply = slow
    for number in range(8):
        alone.engine.propose(b"%d" % number)
    alone.flush()
    assert 0 < len(alone.applied) < 8
    while alone.engine.next_deadline() <= table.now:
        alone.engine.tick()
    assert len(alone.applied) == 8


def test_peer_states_say_who_has_what(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    table.isolate("c")
    leader.write(b"x")
    table.settle()
    states = {state.name: state for state in leader.engine.peer_states()}
    assert (states["b"].match, states["b"].state, states["b"].inflight_bytes) == (3, "replicate", 0)
    assert states["c"].match == 2
    assert states["c"].inflight_bytes == 2
    assert states["b"].contact_age_s == 0
    assert table["b"].engine.peer_states()[0].contact_age_s is None


def test_unknown_nodes_are_refused(group) -> None:
    """PS-18: the library would send the whole log to an unknown node."""
    table = group("abc")
    with pytest.raises(RemoteProtocolError, match="not a member"):
        table["a"].engine.receive("mallory", {"type": "ack"})


def test_members_must_make_sense() -> None:
    with pytest.raises(NodeError, match="every name once"):
        Engine(
            node="d",
            members=["a", "b", "c"],
            journal=MemoryJournal(Tape()),
            applied=0,
            timing=Timing(),
            clock=lambda: 0.0,
            rng=random.Random(1),
            send=lambda to, message: None,
            apply=lambda index, term, payload: None,
            listener=object(),
        )
