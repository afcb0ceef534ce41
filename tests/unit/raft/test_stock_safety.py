"""What the bare library does where the engine does otherwise: what is lost, or true on one node only.

Each test shows a defect, by its id in docs/raft-engine.md. When one of them fails, the library is not the
audited one, and the repair it motivates needs a second look; that is all it means. `test_repairs` says
which tests show the repair.
"""

from __future__ import annotations

import gzip
import os
import pickle
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pysyncobj import syncobj
from pysyncobj.journal import FileJournal, MemoryJournal
from pysyncobj.node import Node
from pysyncobj.serializer import Serializer
from pysyncobj.transport import TCPTransport
from stock_library import Connection, entries

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
"""The library reads term and vote from a file that it doesn't close."""


def test_ps_1_copy_of_an_earlier_frame_removes_committedentries(stock) -> None:
    follower = stock()
    follower.follow(*entries(2, 11), commit=11)
    follower.follow(*entries(2, 5), commit=11)
    assert follower.log()[-1][1] == 5


def test_ps_2_heartbeat_without_a_place_commits_a_divergent_write(stock) -> None:
    former = stock()
    former.lead()
    told: list[Any] = []
    former._applyCommand(b"never replicated", lambda result, error: told.append(error), 0)
    former.doTick(0)
    former.hear("b", "append_entries", term=9, commit_index=50, serialized=None)
    former.doTick(0)
    assert former.applied == [b"never replicated"]
    assert told == [0]  # success


def test_ps_3_stored_commit_index_beyond_the_log_commits_newentries(
    stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = MemoryJournal()
    for command, index, term in entries(1, 89):
        journal.add(command, index, term)
    monkeypatch.setattr(journal, "getRaftCommitIndex", lambda: 100, raising=False)
    monkeypatch.setattr(syncobj, "createJournal", lambda name: journal)
    leader = stock()
    leader.doTick(0)
    leader.lead()
    told: list[Any] = []
    leader._applyCommand(b"x", lambda result, error: told.append(error), 0)
    leader.doTick(0)
    leader.doTick(0)
    assert told == [0]
    assert set(leader.private("raftMatchIndex").values()) == {0}  # no follower has anything


def test_ps_4_vote_is_forgotten_with_the_power_and_given_twice(
    stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is synced: term and vote, written beside the log, may be missing on the disk."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    voter = stock(journalFile=str(tmp_path / "log"))
    voter.hear("b", "request_vote", term=5, last_log_index=1, last_log_term=0)
    (tmp_path / "log.meta").unlink()
    again = stock(journalFile=str(tmp_path / "log"))
    again.hear("c", "request_vote", term=5, last_log_index=1, last_log_term=0)
    assert [(to, said["term"]) for of in (voter, again) for to, said in of.wire.sent] == [("b", 5), ("c", 5)]
    assert synced == []


def test_ps_5_ack_of_an_earlier_term_counts_beyond_the_log(stock) -> None:
    leader = stock("abcde")
    leader.lead()
    leader.hear("b", "next_node_idx", next_node_idx=21, reset=False, success=True)
    leader._applyCommand(b"x", None, 0)
    leader.doTick(0)
    leader.hear("c", "next_node_idx", next_node_idx=leader.log()[-1][1] + 1, reset=False, success=True)
    leader.doTick(0)
    assert leader.applied == [b"x"]  # two of five have it


def test_ps_6_snapshot_that_could_not_be_loaded_is_acknowledged(stock) -> None:
    follower = stock()
    for chunk in ((b"no snapshot", True, False), (b"", False, True)):
        follower.hear("b", "append_entries", term=1, commit_index=50, serialized=chunk)
    assert [answer["success"] for answer in follower.wire.of("next_node_idx")] == [True]
    assert follower.last == 1


def test_ps_7_chunk_that_was_lost_is_not_missed() -> None:
    receiver = Serializer(None, 5, False, None, None, None)
    assert not receiver.setTransmissionData((b"first", True, False))
    # the second is lost with its connection
    assert not receiver.setTransmissionData((b"third", False, False))
    assert receiver.setTransmissionData((b"", False, True))  # complete


def test_ps_8_three_membership_changes_at_once_are_accepted(stock) -> None:
    leader = stock(dynamicMembershipChange=True)
    leader.lead()
    leader.hear("b", "next_node_idx", next_node_idx=leader.log()[-1][1] + 1, reset=False, success=True)
    leader.doTick(0)
    leader.addNodeToCluster(Node("d"))
    leader.addNodeToCluster(Node("e"))
    leader.removeNodeFromCluster(Node("b"))
    leader.doTick(0)
    assert sorted(node.id for node in leader.otherNodes) == ["c", "d", "e"]


def test_ps_9_agreed_members_are_forgotten_at_a_restart(stock, tmp_path: Path) -> None:
    """With d and e there are five: two of them are no majority."""
    before = stock(dynamicMembershipChange=True, journalFile=str(tmp_path / "log"))
    before.lead()
    before.has("b", before.last)
    before.doTick(0)
    for name in "de":
        before.addNodeToCluster(Node(name))
    before.doTick(0)
    assert len(before.otherNodes) == 4
    after = stock(dynamicMembershipChange=True, journalFile=str(tmp_path / "log"))
    after.lead("b")


def test_ps_10_snapshot_takes_the_state_back_in_time(stock) -> None:
    follower = stock()
    follower.follow(*entries(2, 20), commit=20)
    follower.doTick(0)
    old = gzip.compress(pickle.dumps(({}, (b"\x00", 5, 1), (b"\x00", 4, 1), set())))
    for chunk in ((old, True, False), (b"", False, True)):
        follower.hear("b", "append_entries", term=1, commit_index=20, serialized=chunk)
    assert (follower.raftLastApplied, follower.last) == (5, 5)


def test_ps_11_one_voter_elects_by_voting_twice(stock) -> None:
    candidate = stock("abcde")
    candidate.clock.now += 1
    candidate.doTick(0)
    for _ in range(2):
        candidate.hear("b", "response_vote", term=candidate.raftCurrentTerm)
    assert candidate._isLeader()


def test_ps_12_append_with_a_hole_is_taken(stock) -> None:
    follower = stock()
    follower.follow((b"\x00", 2, 1), (b"\x00", 4, 1))
    assert [index for _, index, _ in follower.log()] == [1, 2, 4]


def test_ps_13_entry_is_applied_again_after_an_error(stock) -> None:
    alone = stock("a")
    alone.clock.now += 1
    alone.doTick(0)

    def fail(result: Any, error: Any) -> None:
        raise ValueError("of the client")

    alone._applyCommand(b"once", fail, 0)
    alone.doTick(0)
    with pytest.raises(ValueError, match="of the client"):
        alone.doTick(0)
    alone.doTick(0)
    assert alone.applied == [b"once", b"once"]


def test_ps_14_node_alone_says_yes_before_its_disk_has_anything(
    stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(FileJournal, "flush", lambda self: written.append("flush"))
    monkeypatch.setattr(os, "fsync", lambda file: written.append("fsync"))
    alone = stock("a", journalFile=str(tmp_path / "log"))
    alone.wait(1)
    told = alone.propose(b"x")
    alone.doTick(0)
    assert told == [0]  # success
    assert written == []


def test_ps_15_kill_in_a_compaction_leaves_almost_nothing(
    stock_journal: Callable[[], FileJournal], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    journal = stock_journal()
    for entry in entries(1, 900):
        journal.add(*entry)
    rewritten = count(1)
    add = FileJournal.add

    def killed(*args: Any) -> None:
        if next(rewritten) > 5:
            raise Killed
        add(*args)

    monkeypatch.setattr(FileJournal, "add", killed)
    with pytest.raises(Killed):
        journal.deleteEntriesTo(100)
    assert len(stock_journal()) == 5


def test_ps_16_leader_is_ready_with_nothing_applied(stock) -> None:
    """Ten entries may have been committed and acknowledged to clients by the previous leader."""
    leader = stock()
    leader.follow(*entries(2, 11), commit=0)
    leader.lead()
    leader.doTick(0)
    assert leader.isReady()
    assert leader._isLeader()
    assert leader.applied == []


def test_ps_17_node_that_lost_its_directory_votes_and_acknowledges_again(stock, tmp_path: Path) -> None:
    voter = stock(journalFile=str(tmp_path / "log"))
    voter.hear("b", "request_vote", term=5, last_log_index=1, last_log_term=0)
    (tmp_path / "new").mkdir()
    empty = stock(journalFile=str(tmp_path / "new" / "log"))
    empty.hear("c", "request_vote", term=5, last_log_index=1, last_log_term=0)
    assert [to for of in (voter, empty) for to, _ in of.wire.sent] == ["b", "c"]
    empty.follow(*entries(2, 3), term=6)
    assert empty.wire.of("next_node_idx")[-1]["success"]


def test_ps_18_stranger_reads_the_whole_log(stock) -> None:
    transport = TCPTransport(stock(), None, [])
    leader = stock()
    transport.setOnReadonlyNodeConnectedCallback(leader.wire._onReadonlyNodeConnected)
    leader.lead()
    transport._onIncomingMessageReceived(Connection(), "readonly")
    leader.propose(b"secret")
    leader.wait()
    sent = [said["entries"] for to, said in leader.wire.sent if to == "0"]
    assert b"\0secret" in [command for batch in sent for command, _, _ in batch]


def test_ps_18_strangers_votes_count(stock) -> None:
    candidate = stock("abcde")
    candidate.wait(1)
    for name in "xy":
        vote = {"type": "response_vote", "term": candidate.raftCurrentTerm}
        candidate.wire._onMessageReceived(Node(name), vote)
    assert candidate._isLeader()


def test_ps_19_leftovers_are_committed_only_because_appends_delete_them(stock) -> None:
    """The commit index advances to the end of the log, whatever the frame has verified."""
    follower = stock()
    follower.follow(*entries(2, 5))
    follower.hear("c", "append_entries", term=2, commit_index=40, serialized=None)
    assert follower.raftCommitIndex == 5


def test_ps_20_commit_index_goes_down(stock) -> None:
    follower = stock()
    follower.follow(*entries(2, 11), commit=11)
    assert follower.raftCommitIndex == 11
    follower.follow(*entries(2, 5), commit=0)
    assert follower.raftCommitIndex == 5
