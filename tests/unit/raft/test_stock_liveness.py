"""What the bare library does where the engine does otherwise: what takes too long, or never ends.

Each test shows a defect, by its id in docs/raft-engine.md. When one of them fails, the library is not the
audited one, and the repair it motivates needs a second look; that is all it means. `test_repairs` says
which tests show the repair.
"""

from __future__ import annotations

from typing import Any

import pytest
from pysyncobj import FAIL_REASON
from pysyncobj.node import Node
from stock_library import entries


def test_ps_21_every_refusal_of_a_burst_is_obeyed(stock) -> None:
    leader = stock()
    leader.lead()
    for following in (177, 178, 178):
        leader.hear("b", "next_node_idx", next_node_idx=following, reset=True, success=False)
    assert leader.private("raftNextIndex")[leader.nodes["b"]] == 178


def test_ps_22_large_entry_ends_twice(stock) -> None:
    """The library searches for the end in the command, but chunks its pickle, which is longer."""
    leader = stock(appendEntriesBatchSizeBytes=1000)
    leader.lead()
    leader.propose(b"." * 4990)
    leader.wait()
    sent = [said.get("transmission") for to, said in leader.wire.sent if to == "b"]
    assert sent.count("finish") == 2


def test_ps_23_goes_back_one_entry_a_round(stock) -> None:
    follower = stock()
    follower.follow(*entries(2, 50))
    place, asked = 50, []
    for _ in range(10):
        place_of = {"prevLogIdx": place, "prevLogTerm": 2}
        follower.hear("b", "append_entries", term=2, commit_index=0, entries=[], **place_of)
        answer = follower.wire.of("next_node_idx")[-1]
        assert not answer["success"]
        asked.append(place)
        place = answer["next_node_idx"] - 1
    assert asked == list(range(50, 40, -1))


def test_ps_24_next_beyond_the_leaders_log_is_asked_for_ever(stock) -> None:
    leader = stock()
    leader.lead()
    leader.hear("b", "next_node_idx", next_node_idx=151, reset=True, success=False)
    for _ in range(3):
        leader.clock.now += 0.2
        leader.doTick(0)
    probes = [message["prevLogIdx"] for to, message in leader.wire.sent if to == "b"]
    assert probes == [None, None, None]


def test_ps_25_the_past_is_not_answered(stock) -> None:
    leader = stock()
    leader.lead()
    leader.hear("b", "append_entries", term=0, commit_index=0, entries=[], prevLogIdx=1, prevLogTerm=0)
    leader.hear("b", "request_vote", term=0, last_log_index=0, last_log_term=0)
    assert leader.wire.sent == []


def test_ps_26_out_of_date_node_deposes_a_healthy_leader(stock) -> None:
    leader = stock()
    leader.lead()
    leader.hear("b", "request_vote", term=41, last_log_index=0, last_log_term=0)
    assert not leader._isLeader()
    assert leader.raftCurrentTerm == 41


def test_ps_27_leader_without_a_quorum_campaigns_at_once(stock) -> None:
    leader = stock(leaderFallbackTimeout=1.0)
    leader.lead()
    term = leader.raftCurrentTerm
    leader.clock.now += 1.5
    leader.doTick(0)
    assert leader.raftCurrentTerm == term
    leader.doTick(0)
    assert leader.raftCurrentTerm == term + 1


def test_ps_28_vote_is_not_given_again_to_whom_it_was_given(stock) -> None:
    voter = stock()
    for _ in range(2):
        voter.hear("b", "request_vote", term=5, last_log_index=1, last_log_term=0)
    assert len(voter.wire.of("response_vote")) == 1


def test_ps_29_who_proposed_what_was_overwritten_hears_nothing(stock) -> None:
    former = stock()
    former.lead()
    told = former.propose(b"lost")
    former.hear(
        "b",
        "append_entries",
        term=9,
        commit_index=2,
        entries=[(b"\0other", 2, 9)],
        prevLogIdx=1,
        prevLogTerm=0,
    )
    for _ in range(3):
        former.wait(0.01)
    assert former.applied == [b"other"]
    assert former.last == 2
    assert told == []


def test_ps_30_handing_over_is_refused_under_load(stock) -> None:
    leader = stock()
    leader.lead()
    answers: list[int] = []
    for _ in range(10):
        leader.has("b", leader.last)
        leader.propose(b"one more")
        leader.transferLeadership("b", lambda result, error: answers.append(error))
    assert answers == [FAIL_REASON.REQUEST_DENIED] * 10


def test_ps_31_follower_that_waits_for_a_snapshot_is_written_to_without_pause(
    stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = stock()
    leader.follow(*entries(2, 20))
    leader.lead()
    leader.private("raftLog").deleteEntriesTo(10)
    leader.hear("b", "next_node_idx", next_node_idx=2, reset=True, success=False)
    leader.private("serializer")._Serializer__pid = 1  # another process writes the snapshot meanwhile
    send = leader.wire.send

    def slow(node: Node, message: dict[str, Any]) -> bool:
        leader.clock.now += 1e-4
        return send(node, message)

    monkeypatch.setattr(leader.wire, "send", slow)
    leader.wait()
    assert len([to for to, _ in leader.wire.sent if to == "b"]) > 500  # in one round


def test_ps_32_entries_wait_for_the_period(stock) -> None:
    leader = stock()
    leader.lead()
    leader.wait()
    leader.wire.sent.clear()
    leader.propose(b"x")
    for _ in range(9):
        leader.wait(0.01)
    assert leader.wire.sent == []
    leader.wait(0.02)
    assert [said["entries"] for said in leader.wire.of("append_entries")] != []


def test_ps_33_node_campaigns_when_one_connection_is_back(stock) -> None:
    lonely = stock()
    for node in lonely.nodes.values():
        lonely.wire._onNodeDisconnected(node)
    lonely.wait(10)
    assert lonely.raftCurrentTerm == 0
    lonely.wire._onNodeConnected(lonely.nodes["b"])
    lonely.doTick(0)
    assert lonely.raftCurrentTerm == 1


def test_ps_34_log_goes_that_a_connected_follower_is_about_to_need(stock) -> None:
    leader = stock()
    leader.lead()
    leader.has("c", 1)
    leader.propose(*[b"x"] * 50)
    leader.has("b", leader.last)
    leader.doTick(0)
    leader.forceLogCompaction()
    for _ in range(2):
        leader.doTick(0)
    assert leader.private("raftMatchIndex")[leader.nodes["c"]] == 1
    assert leader.log()[0][1] > 40
