"""The read index alone (R4, R14); ``test_replica`` tests it together with the other parts."""

from __future__ import annotations

from typing import Any

import pytest

from node.server.read_index import NEVER, ReadIndex

GAP_S = 0.125
LAG_S = 0.25
TERM = 4


class Engine:
    """An engine whose position the test sets."""

    def __init__(self) -> None:
        self.term = self.applied_term = TERM
        self.is_ready = False
        self.commit_index = self.applied_index = self.last_index = 0


class Node:
    """A follower of n2, with a clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.bootstrapped = True
        self.told: list[str] = []
        self.sent: list[tuple[str, Any]] = []
        self.engine = Engine()
        self.read_index = ReadIndex(
            links_up={"n2", "n3"},
            send=lambda peer, frame: self.sent.append((peer, frame)),
            monotonic_s=lambda: self.now_s,
            gap_s=GAP_S,
            lag_s=LAG_S,
            bootstrapped=lambda: self.bootstrapped,
            held=lambda: self.told.append("held"),
            caught_up=lambda: self.told.append("caught up"),
        )
        self.read_index.attach(self.engine)
        self.read_index.role_changed(TERM, "n2", still_leads=False)

    def apply(self, index: int) -> None:
        self.engine.applied_index = index
        self.read_index.applied_batch(index)
        self.read_index.applied_to(index, self.engine.applied_term)


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_new_process_accepts_the_first_commit_index(node: Node) -> None:
    """A process that has just started has no old frames in its buffers, so it needs no request."""
    node.read_index.commit_learned(10)
    node.apply(9)
    assert not node.read_index.done
    node.apply(10)
    assert node.read_index.done
    assert node.told == ["caught up"]
    assert node.sent == []


def test_entries_applied_before_the_report_are_enough(node: Node) -> None:
    node.apply(10)
    node.read_index.commit_learned(10)
    assert node.read_index.done


def test_an_entry_of_an_earlier_term_proves_nothing(node: Node) -> None:
    """Only an entry of the leader's own term shows what is committed."""
    node.engine.applied_term = TERM - 1
    node.read_index.commit_learned(10)
    node.apply(10)
    assert not node.read_index.done
    node.engine.applied_term = TERM
    node.apply(11)
    assert node.read_index.done


def test_no_client_is_served_before_bootstrap(node: Node) -> None:
    node.bootstrapped = False
    node.read_index.commit_learned(2)
    node.apply(2)
    assert not node.read_index.done
    node.bootstrapped = True
    node.apply(3)
    assert node.read_index.done


def test_a_pause_of_the_leaders_frames_is_a_gap(node: Node) -> None:
    node.read_index.commit_learned(0)
    node.now_s += GAP_S
    node.read_index.leader_frame()
    assert node.read_index.done
    node.now_s += GAP_S + 0.001
    node.read_index.leader_frame()
    assert not node.read_index.done
    assert node.told == ["caught up", "held"]
    assert node.sent == [("n2", ("where", 1))]


def test_missing_entries_are_a_gap(node: Node) -> None:
    """It receives the leader's frames, but its answers are lost: it gets no entries, or old ones later."""
    node.read_index.commit_learned(0)
    for _ in range(6):
        node.read_index.commit_learned(10)
        assert node.read_index.done
        node.now_s += LAG_S / 5
    node.read_index.commit_learned(10)
    assert not node.read_index.done
    node.read_index.answered("n2", 1, TERM, 20)
    node.apply(10)
    assert not node.read_index.done
    node.apply(20)
    assert node.told == ["caught up", "held", "caught up"]


def test_a_node_that_applies_a_little_later_is_not_behind(node: Node) -> None:
    """However many entries there are, and however long it takes."""
    node.read_index.commit_learned(0)
    for commit in range(1, 1000, 10):
        node.read_index.commit_learned(commit)
        node.now_s += LAG_S * 0.9
        node.read_index.commit_learned(commit + 5)
        node.apply(commit)
    assert node.told == ["caught up"]


def test_commit_indexes_are_ignored_while_the_state_is_replaced(node: Node) -> None:
    node.read_index.suspend()
    node.read_index.answered("n2", 1, TERM, 10)
    node.apply(10)
    assert not node.read_index.done
    node.read_index.resume()
    node.read_index.commit_learned(10)
    assert node.read_index.done


def test_a_suspended_leader_proves_that_it_leads(node: Node) -> None:
    node.read_index.role_changed(TERM, "n1", still_leads=False)
    node.engine.is_ready, node.engine.last_index = True, 20
    node.read_index.first_entry_applied()
    assert node.read_index.done
    node.read_index.hold()
    node.read_index.prove()
    node.read_index.role_changed(TERM, "n1", still_leads=True)
    node.read_index.first_entry_applied()
    node.apply(20)
    assert not node.read_index.done, "entries from before it stood still"
    node.apply(21)
    assert node.read_index.done


def test_a_node_has_served_after_a_later_entry(node: Node) -> None:
    """R14: older entries don't show that clients were served."""
    node.engine.last_index = 12
    node.read_index.commit_learned(10)
    for index in (10, 11, 12):
        node.apply(index)
    assert node.read_index.done
    assert not node.read_index.has_served
    node.apply(13)
    assert node.read_index.has_served


def test_it_repeats_the_request_until_it_is_answered(node: Node) -> None:
    assert node.read_index.pump(node.now_s) == NEVER
    node.read_index.hold()
    assert node.read_index.pump(node.now_s) == node.now_s + GAP_S
    node.now_s += GAP_S
    node.read_index.pump(node.now_s)
    assert node.sent == [("n2", ("where", 1))] * 2
    node.read_index.answered("n2", 1, TERM, 10)
    assert node.read_index.pump(node.now_s) == NEVER
