"""What the bare library does in the situations that the engine handles otherwise.

Each test shows a defect, by the id that `test_engine_safety` and `test_engine_liveness` use. When
one of them fails, the library is not the audited one, and the correction it motivates needs a
second look; that is all it means.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pysyncobj import SyncObj, SyncObjConf, syncobj
from pysyncobj.journal import MemoryJournal
from pysyncobj.node import Node
from pysyncobj.transport import Transport


class Clock:
    now = 100.0


class Wire(Transport):
    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self.sent.append((node.id, message))
        return True

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for _, message in self.sent if message["type"] == kind]


class Stock(SyncObj):
    """The library as it is, apart from the wire and from what a command does."""

    def __init__(self, clock: Clock, names: str, **conf: Any) -> None:
        self.clock, self.wire = clock, Wire()
        self.applied: list[bytes] = []
        settings: dict[str, Any] = {"raftMinTimeout": 0.4, "raftMaxTimeout": 0.6} | conf
        super().__init__(
            Node(names[0]),
            [Node(name) for name in names[1:]],
            conf=SyncObjConf(autoTick=False, useFork=False, pollerType="select", **settings),
            nodeClass=Node,
            transport=self.wire,
        )
        self.nodes = {node.id: node for node in self.otherNodes}
        for node in self.nodes.values():
            self.wire._onNodeConnected(node)

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        if command[:1] == b"\x00":
            self.applied.append(command[1:])

    def hear(self, peer: str, kind: str, **fields: Any) -> None:
        self.wire._onMessageReceived(self.nodes[peer], {"type": kind, **fields})

    def private(self, name: str) -> Any:
        return self.__dict__[f"_SyncObj__{name}"]

    def log(self) -> list[tuple[bytes, int, int]]:
        return self.private("raftLog")[:]

    def lead(self, *voters: str) -> None:
        self.clock.now += 1
        self.doTick(0)
        for voter in voters or tuple(self.nodes):
            self.hear(voter, "response_vote", term=self.raftCurrentTerm)
        assert self._isLeader()
        self.wire.sent.clear()

    def follow(self, *entries: tuple[bytes, int, int], commit: int = 0, term: int = 1) -> None:
        """Take entries after entry 1 of a leader b."""
        self.hear(
            "b",
            "append_entries",
            term=term,
            commit_index=commit,
            entries=list(entries),
            prevLogIdx=1,
            prevLogTerm=0,
        )


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stock]]:
    clock = Clock()
    monkeypatch.setattr(syncobj, "monotonicTime", lambda: clock.now)
    logging.disable(logging.CRITICAL)
    yield lambda names="abc", **conf: Stock(clock, names, **conf)
    logging.disable(logging.NOTSET)


def _entries(first: int, last: int, term: int = 1) -> list[tuple[bytes, int, int]]:
    return [(b"\x00%d" % index, index, term) for index in range(first, last + 1)]


def test_s1_copy_of_an_earlier_frame_removes_committed_entries(stock) -> None:
    follower = stock()
    follower.follow(*_entries(2, 11), commit=11)
    follower.follow(*_entries(2, 5), commit=11)
    assert follower.log()[-1][1] == 5


def test_s2_heartbeat_without_a_place_commits_a_divergent_write(stock) -> None:
    former = stock()
    former.lead()
    told: list[Any] = []
    former._applyCommand(b"never replicated", lambda result, error: told.append(error), 0)
    former.doTick(0)
    former.hear("b", "append_entries", term=9, commit_index=50, serialized=None)
    former.doTick(0)
    assert former.applied == [b"never replicated"]
    assert told == [0]  # success


def test_s3_stored_commit_index_beyond_the_log_commits_new_entries(
    stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = MemoryJournal()
    for command, index, term in _entries(1, 89):
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


def test_s5_ack_of_an_earlier_term_counts_beyond_the_log(stock) -> None:
    leader = stock("abcde")
    leader.lead()
    leader.hear("b", "next_node_idx", next_node_idx=21, reset=False, success=True)
    leader._applyCommand(b"x", None, 0)
    leader.doTick(0)
    leader.hear("c", "next_node_idx", next_node_idx=leader.log()[-1][1] + 1, reset=False, success=True)
    leader.doTick(0)
    assert leader.applied == [b"x"]  # two of five have it


def test_s8_three_membership_changes_at_once_are_accepted(stock) -> None:
    leader = stock(dynamicMembershipChange=True)
    leader.lead()
    leader.hear("b", "next_node_idx", next_node_idx=leader.log()[-1][1] + 1, reset=False, success=True)
    leader.doTick(0)
    leader.addNodeToCluster(Node("d"))
    leader.addNodeToCluster(Node("e"))
    leader.removeNodeFromCluster(Node("b"))
    leader.doTick(0)
    assert sorted(node.id for node in leader.otherNodes) == ["c", "d", "e"]


def test_s11_one_voter_elects_by_voting_twice(stock) -> None:
    candidate = stock("abcde")
    candidate.clock.now += 1
    candidate.doTick(0)
    for _ in range(2):
        candidate.hear("b", "response_vote", term=candidate.raftCurrentTerm)
    assert candidate._isLeader()


def test_s12_append_with_a_hole_is_taken(stock) -> None:
    follower = stock()
    follower.follow((b"\x00", 2, 1), (b"\x00", 4, 1))
    assert [index for _, index, _ in follower.log()] == [1, 2, 4]


def test_s13_entry_is_applied_again_after_an_error(stock) -> None:
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


def test_s19_leftovers_are_committed_only_because_appends_delete_them(stock) -> None:
    """The commit index goes up to the end of the log, whatever the frame has verified."""
    follower = stock()
    follower.follow(*_entries(2, 5))
    follower.hear("c", "append_entries", term=2, commit_index=40, serialized=None)
    assert follower.raftCommitIndex == 5


def test_l1_every_refusal_of_a_burst_is_obeyed(stock) -> None:
    leader = stock()
    leader.lead()
    for following in (177, 178, 178):
        leader.hear("b", "next_node_idx", next_node_idx=following, reset=True, success=False)
    assert leader.private("raftNextIndex")[leader.nodes["b"]] == 178


def test_l4_next_beyond_the_leaders_log_is_asked_for_ever(stock) -> None:
    leader = stock()
    leader.lead()
    leader.hear("b", "next_node_idx", next_node_idx=151, reset=True, success=False)
    for _ in range(3):
        leader.clock.now += 0.2
        leader.doTick(0)
    probes = [message["prevLogIdx"] for to, message in leader.wire.sent if to == "b"]
    assert probes == [None, None, None]


def test_l5_the_past_is_not_answered(stock) -> None:
    leader = stock()
    leader.lead()
    leader.hear("b", "append_entries", term=0, commit_index=0, entries=[], prevLogIdx=1, prevLogTerm=0)
    leader.hear("b", "request_vote", term=0, last_log_index=0, last_log_term=0)
    assert leader.wire.sent == []


def test_l6_out_of_date_node_deposes_a_healthy_leader(stock) -> None:
    leader = stock()
    leader.lead()
    leader.hear("b", "request_vote", term=41, last_log_index=0, last_log_term=0)
    assert not leader._isLeader()
    assert leader.raftCurrentTerm == 41


def test_l7_leader_without_a_quorum_campaigns_at_once(stock) -> None:
    leader = stock(leaderFallbackTimeout=1.0)
    leader.lead()
    term = leader.raftCurrentTerm
    leader.clock.now += 1.5
    leader.doTick(0)
    assert leader.raftCurrentTerm == term
    leader.doTick(0)
    assert leader.raftCurrentTerm == term + 1


def test_p2_partial_ack_sends_everything_in_flight_again(stock) -> None:
    leader = stock(appendEntriesBatchSizeBytes=300, appendEntriesPeriod=0.05)
    leader.lead()
    for _ in range(6):
        leader._applyCommand(b"." * 200, None, 0)
    leader.doTick(0)
    leader.clock.now += 0.1
    leader.doTick(0)
    before = [message["prevLogIdx"] for message in leader.wire.of("append_entries")]
    leader.wire.sent.clear()
    leader.hear("b", "next_node_idx", next_node_idx=before[0] + 3, reset=False, success=True)
    leader.clock.now += 0.1
    leader.doTick(0)
    again = [message["prevLogIdx"] for to, message in leader.wire.sent if to == "b"]
    assert set(again) & set(before)
