"""Liveness and performance defects of the library (PS-21 to PS-39), and what the engine does instead."""

from __future__ import annotations

from typing import Any

import pytest

from node.raft.frames import Append, PreVoteRequest, Refusal, VoteRequest
from node.raft.ports import Limits, Role


def _sent(table, sender: str, kind: str, to: str | None = None) -> list:
    return [
        message
        for name, receiver, message in table.wire
        if name == sender and message["type"] == kind and to in {None, receiver}
    ]


def test_ps_21_divergence_and_a_long_lag_are_caught_up_at_once(group) -> None:
    """One divergent entry and many frames of lag cause no burst of refusals and no wait for a heartbeat."""
    table = group("abc", Limits(frame_bytes=100))
    table.elect("a")
    table.isolate("a")
    table["a"].write(*[b"divergent"] * 3)
    table["a"].flush()
    table.wire.clear()
    table.advance(2.0)
    leader = next(table[name] for name in "bc" if table[name].engine.is_ready)
    for number in range(200):
        leader.write(b"%d" % number)
    table.settle()
    table.heal()
    for peer in "bc":
        table[peer].engine.disconnected("a")
        table[peer].engine.connected("a")
    before = table.now
    table.settle()
    assert table["a"].payloads() == leader.payloads()
    assert table.now == before


def test_ps_21_stale_refusals_of_a_burst_are_ignored(group) -> None:
    table = group("abc", Limits(frame_bytes=1))
    leader = table.elect("a")
    table.isolate("b")
    leader.write(*[b"x"] * 4)
    table.deliver()
    term = leader.engine.term
    for refused in (3, 4, 5):
        leader.engine.receive("b", Refusal(term, refused, 3).encode())
    probes = _sent(table, "a", "append", to="b")
    assert [probe["prev"] for probe in probes] == [2]


def test_ps_22_entry_beyond_the_frame_limit_travels_whole(group) -> None:
    table = group("abc")
    payload = bytes(range(256)) * 4096
    table.elect("a").write(payload)
    table.settle()
    assert table["c"].payloads() == [payload]


def test_ps_23_refusal_skips_a_whole_term(group) -> None:
    table = group("abc")
    follower = table["b"]
    dead = [(index, 1, b"\x01dead") for index in range(3, 30)]
    follower.engine.receive("a", Append(1, 1, 0, 2, [(2, 1, b"\x01x"), *dead], True, None).encode())
    follower.flush()
    table.wire.clear()
    follower.engine.receive("c", Append(2, 20, 2, 2, [], True, None).encode())
    follower.flush()
    refusal = _sent(table, "b", "refusal")[0]
    assert (refusal["refused"], refusal["next"]) == (20, 3)  # never into what is committed


def test_ps_24_frame_from_before_the_logs_beginning_is_taken(group) -> None:
    """Entries that the follower has dropped are committed: only the rest of the frame matters."""
    table = group("abc")
    leader = table.elect("a")
    leader.write(*[b"%d" % number for number in range(10)])
    table.settle()
    follower = table["b"]
    follower.journal.drop_before(9)
    assert follower.journal.first_index == 9
    term = leader.engine.term
    entries = [(index, term, b"\x01%d" % (index - 3)) for index in range(5, 14)]
    table.wire.clear()
    follower.engine.receive("a", Append(term, 4, term, 13, entries, True, None).encode())
    follower.flush()
    assert _sent(table, "b", "ack")[0]["match"] == 13
    assert follower.payloads()[-1] == b"10"


def test_ps_24_follower_with_a_longer_log_is_asked_within_the_leaders(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    table.wire.clear()
    leader.engine.disconnected("b")
    leader.engine.connected("b")
    leader.engine.receive("b", Refusal(leader.engine.term, leader.engine.last_index, 151).encode())
    assert all(probe["prev"] <= leader.engine.last_index for probe in _sent(table, "a", "append"))


def test_ps_25_leader_of_the_past_is_told_and_steps_down(group) -> None:
    table = group("abc")
    old = table.elect("a")
    table.isolate("a")
    old.engine._election.ignore_pause(10.0)
    table.now += 0.31
    table["c"].engine._election.rearm()
    table["b"].engine._election.deadline = table.now
    table["b"].engine.tick()
    table.settle()
    assert table["b"].engine.is_ready
    assert old.engine.role is Role.LEADER
    table.heal()
    old.write(b"late")
    table.settle()
    assert old.engine.role is Role.FOLLOWER
    assert old.engine.term == table["b"].engine.term


def test_ps_25_candidate_of_the_past_is_told(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    table.wire.clear()
    leader.engine.receive("c", VoteRequest(0, 9, 9, transfer=False).encode())
    assert _sent(table, "a", "stale")[0]["term"] == leader.engine.term


def test_ps_26_node_that_was_cut_off_deposes_nobody(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    term = leader.engine.term
    table.isolate("c")
    table.advance(5.0)
    assert table["c"].engine.term == term  # asking beforehand costs no term
    table.heal()
    table.advance(2.0)
    assert leader.engine.is_ready
    assert leader.engine.term == term
    assert table["c"].engine.leader == "a"


def test_ps_26_vote_request_is_ignored_while_a_leader_is_heard(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    table.advance(0.05)
    term = leader.engine.term
    for name in "ab":
        table[name].engine.receive("c", VoteRequest(term + 40, 99, 99, transfer=False).encode())
    assert leader.engine.is_ready
    assert table["b"].engine.term == term


@pytest.mark.parametrize(("index", "term", "granted"), [(3, 1, True), (2, 1, False), (9, 0, False)])
def test_ps_26_pre_vote_compares_logs_and_changes_nothing(
    group, index: int, term: int, granted: bool
) -> None:
    table = group("abc")
    table.elect("a").write(b"x")
    table.settle()
    table.isolate("a")
    asked = table["b"]
    table.now += 0.31
    before = (asked.engine.term, asked.journal.written)
    asked.engine.receive("c", PreVoteRequest(2, index, term).encode())
    assert _sent(table, "b", "prevoted")[0]["granted"] is granted
    assert (asked.engine.term, asked.journal.written) == before


def test_ps_26_pre_vote_refusal_teaches_a_later_term(group) -> None:
    table = group("abc")
    table["b"].journal.set_term(7, None)
    table["b"].flush()
    late = table.restart("b")
    assert late.engine.term == 7
    asking = table["a"]
    asking.engine._election.deadline = table.now
    asking.engine.tick()
    table.settle()
    assert asking.engine.term == 7


def test_ps_27_leader_that_lost_its_majority_does_not_campaign_at_once(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    table.isolate("a")
    table.advance(0.5)
    assert leader.engine.role is Role.LEADER
    while leader.engine.role is Role.LEADER:
        table.advance(0.01)
    assert leader.engine.leader is None
    assert leader.engine.next_deadline() - table.now >= 0.29


def test_ps_28_vote_is_repeated_for_the_same_candidate(group) -> None:
    table = group("abc")
    voter = table["c"]
    for _ in range(2):
        voter.engine.receive("a", VoteRequest(1, 1, 0, transfer=False).encode())
        voter.flush()
    assert len(_sent(table, "c", "voted", to="a")) == 2


def test_ps_30_leadership_is_handed_over_when_the_successor_has_everything(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    leader.write(b"x")
    assert not leader.engine.transfer_leadership("b")  # not yet
    table.settle()
    before = table.now
    assert leader.engine.transfer_leadership("b")
    table.settle()
    assert table["b"].engine.is_ready
    assert leader.engine.role is Role.FOLLOWER
    assert table["c"].engine.leader == "b"
    assert table.now == before
    assert "a transferred leadership" in [cause for *_, cause in table["b"].received.roles]
    assert table["b"].engine.was_handed_over
    assert not leader.engine.was_handed_over
    assert leader.engine.is_successor("b", table["b"].engine.term)
    assert not leader.engine.is_successor("c", table["b"].engine.term)
    assert not leader.engine.is_successor("b", table["b"].engine.term + 1)


def test_ps_30_anybody_who_has_everything_will_do(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    table.isolate("b")
    leader.write(b"x")
    table.settle()
    assert leader.engine.transfer_leadership()
    table.settle()
    assert table["c"].engine.is_ready


def test_ps_30_follower_and_lonely_leader_hand_nothing_over(group) -> None:
    table = group("abc")
    table.elect("a")
    assert not table["b"].engine.transfer_leadership()
    alone = group("a").elect("a")
    assert not alone.engine.transfer_leadership()


def test_ps_30_order_that_came_to_nothing_leaves_no_authority(group) -> None:
    """Without a connection the asked node can't campaign now, and must not campaign because of it later."""
    table = group("abc")
    leader = table.elect("a")
    assert leader.engine.transfer_leadership("b")
    asked = table["b"]
    for peer in "ac":
        asked.engine._library.disconnect(peer)
    table.deliver()
    assert asked.engine.role is Role.FOLLOWER
    asked.engine.connected("a")
    asked.engine.tick()
    assert asked.engine.role is Role.FOLLOWER


def test_ps_31_peer_that_needs_a_snapshot_costs_one_frame_a_heartbeat(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    table.isolate("c")
    leader.write(*[b"x"] * 50)
    table.settle()
    leader.journal.drop_before(45)
    table.heal()
    leader.engine.disconnected("c")
    leader.engine.connected("c")
    assert leader.received.snapshots == ["c"]
    table.wire.clear()
    table.now = leader.engine.next_deadline()
    leader.engine.tick()
    assert len(_sent(table, "a", "alive", to="c")) == 1
    assert _sent(table, "a", "append", to="c") == []
    assert leader.received.snapshots == ["c"]  # called for again only after a while
    table.advance(2.5)
    assert leader.received.snapshots == ["c", "c"]
    assert table["c"].engine.leader == "a"
    follower = table["c"]
    assert follower.engine.offered_snapshot(45, leader.engine.term)
    follower.engine.snapshot_installed(45, leader.engine.term, (44, leader.engine.term))
    table.settle()
    assert follower.engine.applied_index == leader.engine.applied_index
    assert len(follower.applied) == 52 - 45


def test_ps_32_entry_leaves_when_it_is_proposed(group) -> None:
    """It is committed when the ack arrives, without a tick."""
    table = group("abc")
    leader = table.elect("a")
    table.settle()
    now = table.now
    leader.write(b"x")
    assert len(_sent(table, "a", "append", to="b")) == 1
    table.settle()
    assert [table[name].payloads() for name in "abc"] == [[b"x"]] * 3
    assert table.now == now


def test_ps_33_node_without_connections_waits(group) -> None:
    table = group("abc")
    lonely = table["c"]
    for peer in "ab":
        lonely.engine.disconnected(peer)
    for _ in range(5):
        table.now = lonely.engine.next_deadline()
        lonely.engine.tick()
    assert lonely.engine.term == 0
    assert list(table.wire) == []


def test_ps_35_entries_are_read_once_to_be_sent(group, monkeypatch: pytest.MonkeyPatch) -> None:
    table = group("abc", Limits(frame_bytes=1000, window_bytes=10_000))
    leader = table.elect("a")
    table.isolate("c")
    leader.write(*[b"." * 100] * 1000)
    table.settle()
    read: list[int] = []
    window = leader.journal.read

    def counted(index: int, max_bytes: int) -> list[Any]:
        entries = window(index, max_bytes)
        read.append(len(entries))
        return entries

    monkeypatch.setattr(leader.journal, "read", counted)
    table.heal()
    table.advance(0.2)
    assert len(table["c"].applied) == 1000
    assert 1000 <= sum(read) < 1100


def test_ps_36_partial_ack_sends_nothing_twice(group) -> None:
    table = group("abc", Limits(frame_bytes=1))
    leader = table.elect("a")
    leader.write(b"1", b"2", b"3", b"4")
    frames = _sent(table, "a", "append", to="b")
    assert [frame["prev"] for frame in frames] == [2, 3, 4, 5]
    table.deliver(1)
    table["b"].flush()
    table.wire = type(table.wire)(item for item in table.wire if item[0] == "b")
    table.deliver()
    assert _sent(table, "a", "append", to="b") == []


def test_ps_37_payloads_are_loaded_to_be_applied_and_not_to_be_committed(
    group, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = group("abc")
    leader = table.elect("a")
    table.settle()
    loaded: list[int] = []
    payload_at = leader.journal.payload_at
    monkeypatch.setattr(leader.journal, "payload_at", lambda index: loaded.append(index) or payload_at(index))
    first = leader.write(*[b"x"] * 100) - 99
    table.settle()
    assert loaded == list(range(first, first + 100))


def test_ps_38_window_bounds_what_is_on_the_way(group) -> None:
    table = group("abc", Limits(frame_bytes=100, window_bytes=1000))
    leader = table.elect("a")
    leader.write(*[b"." * 99] * 50)
    assert len(_sent(table, "a", "append", to="b")) == 10
    table.settle()
    assert len(table["b"].applied) == 50


def test_ps_39_peers_at_the_same_place_share_a_frame(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    leader.write(b"x")
    to_b, to_c = _sent(table, "a", "append", to="b"), _sent(table, "a", "append", to="c")
    assert to_b[0] is to_c[0]


def test_broken_connection_to_the_leader_shortens_the_wait(group) -> None:
    """If the majority lost its connection, a successor leads after a few heartbeats."""
    table = group("abc")
    table.elect("a")
    table.advance(0.1)
    table.isolate("a")
    for name in "bc":
        table[name].engine.disconnected("a")
    table.advance(0.2)
    assert any(table[name].engine.is_ready for name in "bc")


def test_one_broken_connection_to_the_leader_deposes_nobody(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    term = leader.engine.term
    table.advance(0.1)
    table.cut |= {("a", "b"), ("b", "a")}
    table["b"].engine.disconnected("a")
    table.advance(3.0)
    assert leader.engine.is_ready
    assert leader.engine.term == term


def test_node_that_stood_still_hears_what_arrived_first(group) -> None:
    table = group("abc")
    table.elect("a")
    follower = table["b"].engine
    table.now += 5.0
    follower.paused(5.0)
    follower.tick()
    assert follower.leader == "a"
    assert table.wire == type(table.wire)()


def test_leader_that_stood_still_asks_its_peers_before_it_gives_up(group) -> None:
    table = group("abc")
    leader = table.elect("a").engine
    table.now += 5.0
    leader.paused(5.0)
    leader.tick()
    assert leader.role is Role.LEADER
    table.isolate("a")
    table.advance(0.7)
    assert leader.role is Role.FOLLOWER


def test_answers_to_a_lost_connection_are_forgotten(group) -> None:
    table = group("abc")
    follower = table["b"]
    follower.flush()
    follower.engine.receive("a", Append(1, 1, 0, 0, [(2, 1, b"\x01x")], True, None).encode())
    follower.engine.disconnected("a")
    follower.flush()
    assert _sent(table, "b", "ack") == []


def test_two_nodes_that_ask_at_the_same_moment_do_not_split_the_votes(group) -> None:
    """Both lost their leader at the same moment: only one of them gets the other's pre-vote."""
    table = group("abc")
    table.elect("a")
    table.isolate("a")
    table.now += 0.31
    for name in "bc":
        table[name].engine._election.deadline = table.now
        table[name].engine.tick()
    table.settle()
    assert [table[name].engine.role for name in "bc"] == [Role.FOLLOWER, Role.LEADER]


def test_the_longer_log_goes_first(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    table.cut |= {("a", "c")}
    leader.write(b"x")
    table.deliver()
    table.isolate("a")
    table.now += 0.31
    for name in "bc":
        table[name].flush()
        table[name].engine._election.deadline = table.now
        table[name].engine.tick()
    table.settle()
    assert table["b"].engine.role is Role.LEADER


def test_a_node_that_receives_no_answers_does_not_keep_others_from_asking(group) -> None:
    """The frames of c arrive, but c receives none: b lets it go first for a moment, then asks itself."""
    table = group("abcde")
    table.elect("a")
    table.isolate("a")
    table.cut |= {(name, "c") for name in table.names}
    table.advance(3.0)
    leaders = [name for name in "bde" if table[name].engine.is_ready]
    assert len(leaders) == 1
