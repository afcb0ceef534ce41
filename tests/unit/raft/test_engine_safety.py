"""Each safety defect of the library (PS-1 to PS-20), and what the engine does instead.

`test_stock_safety` shows what the unmodified library does in the same situation.
"""

from __future__ import annotations

import pytest

from node.errors import CorruptionError, NodeError, RemoteProtocolError
from node.raft.frames import Ack, Alive, Append, PreVote, Vote, VoteRequest
from node.raft.ports import Limits, Role


def _append(term: int, prev: tuple[int, int], commit: int, *entries: tuple[int, int, bytes]):
    return Append(term, *prev, commit, list(entries), True, None).encode()


def _sent(table, sender: str, kind: str) -> list:
    return [message for name, _, message in table.wire if name == sender and message["type"] == kind]


def test_ps_1_copy_of_an_earlier_frame_removes_nothing(group) -> None:
    """A resent frame, cut at another place, contains only entries of the log, and removes none after them."""
    table = group("abc")
    follower = table["b"]
    entries = [(index, 1, b"\x01%d" % index) for index in range(2, 12)]
    follower.engine.receive("a", _append(1, (1, 0), 0, *entries))
    follower.engine.receive("a", _append(1, (11, 1), 11))
    follower.flush()
    follower.engine.receive("a", _append(1, (1, 0), 11, *entries[:4]))
    follower.engine.receive("a", _append(1, (5, 1), 11, *entries[4:8]))
    assert follower.engine.last_index == 11
    table.wire.clear()
    follower.engine.receive("a", _append(1, (1, 0), 11, *entries[:4]))
    assert _sent(table, "b", "ack")[0]["match"] == 5  # what the frame verified, no more


def test_ps_1_real_conflict_above_commit_is_resolved(group) -> None:
    table = group("abc")
    follower = table["b"]
    follower.engine.receive(
        "a", _append(1, (1, 0), 2, (2, 1, b"\x01x"), (3, 1, b"\x01dead"), (4, 1, b"\x01dead"))
    )
    follower.engine.receive("c", _append(2, (2, 1), 3, (3, 2, b"\x01live")))
    assert follower.log() == [(1, 0), (2, 1), (3, 2)]
    follower.engine.tick()
    assert follower.payloads() == [b"x", b"live"]


def test_ps_2_heartbeat_without_a_place_commits_nothing(group) -> None:
    """A former leader with uncommitted entries receives the heartbeat of a leader that can't name an entry of
    its log."""
    table = group("abc")
    former = table.elect("a")
    table.isolate("a")
    former.write(b"never replicated")
    former.flush()
    former.engine.receive("b", Alive(term=9, commit=50, heartbeat_payload=None).encode())
    former.engine.tick()
    assert former.applied == []
    assert former.engine.commit_index == 2
    assert former.received.commits[-1] == (50, 9)  # told, for what wants to catch up first


def test_ps_3_commit_index_starts_where_the_state_is(group) -> None:
    """Entries that are not known to be committed are not applied at the start."""
    table = group("abc")
    follower = table["b"]
    follower.engine.receive("a", _append(1, (1, 0), 3, (2, 1, b"\x01x"), (3, 1, b"\x01y"), (4, 1, b"\x01z")))
    follower.flush()
    follower.stored = 2
    restarted = table.restart("b")
    restarted.engine.tick()
    assert restarted.engine.commit_index == restarted.engine.applied_index == 2
    assert restarted.engine.last_index == 4


def test_ps_3_state_beyond_the_log_is_refused(group) -> None:
    table = group("abc")
    table["b"].stored = 7
    with pytest.raises(CorruptionError, match="applied entry 7"):
        table["b"].start()


def test_ps_4_ack_waits_for_the_disk(group) -> None:
    table = group("abc")
    follower = table["b"]
    follower.flush()
    follower.engine.receive("a", _append(1, (1, 0), 0, (2, 1, b"\x01x")))
    assert _sent(table, "b", "ack") == []
    follower.flush()
    assert [ack["match"] for ack in _sent(table, "b", "ack")] == [2]


def test_ps_4_vote_waits_for_the_disk_and_is_given_once(group) -> None:
    """After a power failure a vote that was sent is still stored; one that was not sent may be given to
    another candidate."""
    table = group("abc")
    voter = table["c"]
    voter.flush()
    voter.engine.receive("a", VoteRequest(1, 1, 0, transfer=False).encode())
    assert _sent(table, "c", "voted") == []
    voter.flush()
    assert len(_sent(table, "c", "voted")) == 1
    restarted = table.restart("c")
    table.wire.clear()
    restarted.engine.receive("b", VoteRequest(1, 1, 0, transfer=False).encode())
    restarted.flush()
    assert _sent(table, "c", "voted") == []


def test_ps_4_vote_request_waits_for_the_own_vote(group) -> None:
    table = group("abc")
    for member in table.members.values():
        member.flush()
    candidate = table["a"]
    candidate.engine._election.deadline = table.now
    candidate.engine.tick()
    table.deliver()
    assert candidate.engine.role is Role.CANDIDATE
    assert _sent(table, "a", "vote") == []
    candidate.flush()
    assert len(_sent(table, "a", "vote")) == 2


def test_ps_4_entries_and_heartbeats_wait_for_nothing(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    leader.engine.propose(b"x")
    leader.engine.replicate()
    assert leader.journal.durable < leader.journal.written
    assert len(_sent(table, "a", "append")) == 2


def test_ps_5_ack_of_an_earlier_leadership_counts_for_nothing(group) -> None:
    table = group("abcde")
    leader = table.elect("a")
    term = leader.engine.term
    table.isolate("a")
    leader.write(b"x")
    leader.flush()
    for peer in "bc":
        leader.engine.receive(peer, Ack(term - 1, 3).encode())
    leader.engine.tick()
    assert leader.applied == []


def test_ps_5_ack_of_more_than_there_is_breaks_the_protocol(group) -> None:
    leader = group("abc").elect("a")
    with pytest.raises(RemoteProtocolError, match="acknowledged entry 99"):
        leader.engine.receive("b", Ack(leader.engine.term, 99).encode())
    leader.write(b"x")  # the engine lives on, the connection doesn't


def test_ps_6_snapshot_is_acknowledged_when_the_log_durably_stands_on_it(group) -> None:
    table = group("abc")
    follower = table["b"]
    follower.flush()
    follower.engine.receive("a", _append(3, (1, 0), 0, (2, 1, b"\x01divergent")))
    follower.flush()
    assert follower.engine.offered_snapshot(50, 3)
    follower.engine.suspend_applying()
    table.wire.clear()
    follower.engine.snapshot_installed(50, 3, (49, 2))
    assert _sent(table, "b", "ack") == []
    assert follower.log() == [(49, 2), (50, 3)]
    follower.flush()
    assert _sent(table, "b", "ack")[0]["match"] == 50
    follower.engine.receive("a", _append(3, (50, 3), 51, (51, 3, b"\x01after")))
    follower.engine.tick()
    assert follower.applied == [(51, 3, b"after")]


def test_ps_6_older_snapshot_over_a_newer_state_stops_the_node(group) -> None:
    table = group("abc")
    table.elect("a").write(b"x", b"y")
    table.settle()
    with pytest.raises(CorruptionError, match="installed over"):
        table["b"].engine.snapshot_installed(3, 1, (2, 1))


def test_ps_8_membership_entries_are_not_the_librarys(group) -> None:
    """The library's own membership commands change nothing and stop a node that would apply one."""
    follower = group("abc")["b"]
    follower.engine.receive("a", _append(1, (1, 0), 0, (2, 1, b"\x03[add, x]")))
    assert [state.name for state in follower.engine.peer_states()] == ["a", "c"]
    follower.engine.receive("a", _append(1, (2, 1), 2))
    with pytest.raises(CorruptionError, match="unknown type"):
        follower.engine.tick()


def test_what_is_no_membership_is_not_even_appended(group) -> None:
    follower = group("abc")["b"]
    with pytest.raises(RemoteProtocolError, match="a membership that is not"):
        follower.engine.receive("a", _append(1, (1, 0), 0, (2, 1, b"\x02whatever")))
    assert follower.engine.last_index == 1


def test_ps_10_offered_snapshot_of_what_the_log_has_is_not_taken(group) -> None:
    """The log is kept; the content of the snapshot is known to be committed, and the leader gets an ack."""
    table = group("abc")
    follower = table["b"]
    follower.engine.receive("a", _append(1, (1, 0), 0, (2, 1, b"\x01x"), (3, 1, b"\x01y"), (4, 1, b"\x01z")))
    follower.flush()
    table.wire.clear()
    assert not follower.engine.offered_snapshot(3, 1)
    assert _sent(table, "b", "ack")[0]["match"] == 3
    assert follower.engine.next_deadline() <= table.now
    follower.engine.tick()
    assert follower.payloads() == [b"x", b"y"]
    assert not follower.engine.offered_snapshot(2, 1)
    assert follower.engine.commit_index == 3
    assert follower.log()[-1] == (4, 1)


def test_ps_11_one_voter_has_one_vote(group) -> None:
    table = group("abcde")
    candidate = table["a"]
    candidate.flush()
    candidate.engine._election.deadline = table.now
    candidate.engine.tick()
    for peer in "bc":
        candidate.engine.receive(peer, PreVote(1, granted=True, current=0).encode())
    assert candidate.engine.role is Role.CANDIDATE
    for _ in range(3):
        candidate.engine.receive("b", Vote(1).encode())
    assert candidate.engine.role is Role.CANDIDATE
    candidate.engine.receive("c", Vote(1).encode())
    assert candidate.engine.role is Role.LEADER


def test_ps_12_append_with_a_hole_breaks_the_protocol(group) -> None:
    follower = group("abc")["b"]
    with pytest.raises(RemoteProtocolError, match="can't follow entry 2"):
        follower.engine.receive("a", _append(1, (1, 0), 0, (2, 1, b"\x01x"), (4, 1, b"\x01y")))
    assert follower.engine.last_index == 1


@pytest.mark.parametrize("error", [ValueError("broken state"), RemoteProtocolError("of somebody else")])
def test_ps_13_failed_apply_stops_the_engine_for_good(group, error: Exception) -> None:
    """The entry is neither applied again nor skipped."""
    alone = group("a").elect("a")
    calls = []

    def fail(index: int, term: int, payload: bytes) -> None:
        calls.append(index)
        raise error

    alone.on_apply = fail
    alone.write(b"x")
    with pytest.raises(type(error)):
        alone.flush()
    for _ in range(2):
        with pytest.raises(NodeError, match="the raft engine stopped"):
            alone.engine.tick()
    assert calls == [3]
    assert alone.engine.applied_index == 2


def test_ps_14_leader_counts_itself_when_its_disk_is_done(group) -> None:
    """With one follower disconnected, leader and other follower are the majority: both must be durable."""
    table = group("abc")
    leader = table.elect("a")
    table.isolate("c")
    leader.write(b"x")
    table.deliver()
    table["b"].flush()
    table.deliver()
    leader.engine.tick()
    assert leader.engine.peer_states()[0].match == 3
    assert leader.applied == []
    leader.flush()
    assert leader.payloads() == [b"x"]


def test_ps_16_leader_is_ready_when_everything_before_its_term_is_applied(group) -> None:
    table = group("abc")
    for member in table.members.values():
        member.flush()
    leader = table["a"]
    leader.engine._election.deadline = table.now
    leader.engine.tick()
    table.deliver()
    leader.flush()
    table.deliver()
    for peer in "bc":
        table[peer].flush()
    table.deliver()
    assert leader.engine.role is Role.LEADER
    assert not leader.engine.is_ready
    table.settle()
    assert leader.engine.is_ready


def test_ps_19_commit_ends_where_the_frame_ends(group) -> None:
    """Entries of an earlier leader after the verified ones are not committed by a higher commit index."""
    table = group("abc")
    follower = table["b"]
    follower.engine.receive("a", _append(1, (1, 0), 0, (2, 1, b"\x01x"), (3, 1, b"\x01left over")))
    follower.engine.receive("c", _append(2, (2, 1), 40))
    follower.engine.tick()
    assert follower.payloads() == [b"x"]
    assert follower.engine.commit_index == 2


def test_ps_20_conflict_with_what_is_committed_stops_the_node(group) -> None:
    table = group("abc")
    follower = table["b"]
    follower.engine.receive("a", _append(1, (1, 0), 3, (2, 1, b"\x01x"), (3, 1, b"\x01y")))
    with pytest.raises(CorruptionError, match="committed entry 3"):
        follower.engine.receive("c", _append(2, (2, 1), 3, (3, 2, b"\x01other")))
    with pytest.raises(NodeError, match="the raft engine stopped"):
        follower.engine.tick()
    assert follower.log()[-1] == (3, 1)


def test_two_leaders_of_a_term_stop_the_node(group) -> None:
    follower = group("abc")["b"]
    follower.engine.receive("a", _append(1, (1, 0), 0))
    with pytest.raises(CorruptionError, match="two leaders"):
        follower.engine.receive("c", _append(1, (1, 0), 0))


def test_broken_disk_of_a_follower_is_reported(group) -> None:
    """It lost entries that it acknowledged in this term, and refuses repeatedly."""
    table = group("abc")
    leader = table.elect("a")
    leader.write(b"x")
    table.settle()
    follower = table["b"]
    del follower.tape.operations[1:]  # its disk is back at the first day
    table.restart("b")
    table.advance(0.5)
    assert leader.received.lost == [("b", 3, 1)]
    assert leader.engine.peer_states()[0].state == "lost"
    assert table.wire == type(table.wire)()


def test_applying_stands_still_while_a_snapshot_replaces_the_state(group) -> None:
    table = group("abc")
    follower = table["b"]
    follower.engine.receive("a", _append(1, (1, 0), 2, (2, 1, b"\x01x")))
    follower.engine.suspend_applying()
    follower.engine.tick()
    assert follower.applied == []
    assert follower.engine.next_deadline() > table.now
    follower.engine.resume_applying()
    follower.engine.tick()
    assert follower.payloads() == [b"x"]


def test_snapshot_of_what_arrived_in_the_log_meanwhile_keeps_the_log(group) -> None:
    table = group("abc", Limits(frame_bytes=1))
    follower = table["b"]
    assert follower.engine.offered_snapshot(3, 1)
    follower.engine.suspend_applying()
    follower.engine.receive("a", _append(1, (1, 0), 4, (2, 1, b"\x01x"), (3, 1, b"\x01y"), (4, 1, b"\x01z")))
    follower.engine.snapshot_installed(3, 1, (2, 1))
    follower.engine.tick()
    assert follower.payloads() == [b"z"]
    assert follower.log()[0] == (1, 0)


@pytest.mark.parametrize("kind", ["apply_command", "apply_command_response", "timeout_now", "request_vote"])
def test_ps_45_messages_of_the_library_are_none(group, kind: str) -> None:
    """A peer's message in the library's own format has no effect."""
    table = group("abc")
    leader = table.elect("a")
    table.settle()
    with pytest.raises(RemoteProtocolError, match="unknown type"):
        leader.engine.receive("b", {"type": kind, "term": 9, "command": b"\x03x", "request_id": 1})
    assert (leader.engine.is_ready, leader.engine.last_index) == (True, 2)
