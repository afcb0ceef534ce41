"""Catching up by itself (R4, R14); ``test_replica`` has it among the other parts."""

from __future__ import annotations

from typing import Any

import pytest

from node.server.read_index import NEVER, ReadIndex

GAP_S = 0.125
LAG_S = 0.25
TERM = 4


class Engine:
    """Is where the test says it is."""

    def __init__(self) -> None:
        self.term = self.applied_term = TERM
        self.is_ready = False
        self.commit_index = self.applied_index = self.last_index = 0


class Node:
    """One that follows n2, on a clock that the test moves."""

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


def test_a_process_that_starts_believes_the_first_frame(node: Node) -> None:
    """Nothing can have waited in a buffer of a process that has just begun: nobody need be asked."""
    node.read_index.commit_learned(10)
    node.apply(9)
    assert not node.read_index.done
    node.apply(10)
    assert node.read_index.done
    assert node.told == ["caught up"]
    assert node.sent == []


def test_what_it_had_applied_already_is_enough(node: Node) -> None:
    node.apply(10)
    node.read_index.commit_learned(10)
    assert node.read_index.done


def test_an_entry_of_an_earlier_term_proves_nothing(node: Node) -> None:
    """What is committed is known only from an entry of the leader's own term on."""
    node.engine.applied_term = TERM - 1
    node.read_index.commit_learned(10)
    node.apply(10)
    assert not node.read_index.done
    node.engine.applied_term = TERM
    node.apply(11)
    assert node.read_index.done


def test_nobody_is_served_before_the_cluster_is_founded(node: Node) -> None:
    node.bootstrapped = False
    node.read_index.commit_learned(2)
    node.apply(2)
    assert not node.read_index.done
    node.bootstrapped = True
    node.apply(3)
    assert node.read_index.done


def test_a_silence_of_the_leader_is_a_gap(node: Node) -> None:
    node.read_index.commit_learned(0)
    node.now_s += GAP_S
    node.read_index.leader_frame()
    assert node.read_index.done
    node.now_s += GAP_S + 0.001
    node.read_index.leader_frame()
    assert not node.read_index.done
    assert node.told == ["caught up", "held"]
    assert node.sent == [("n2", ("where", 1))]


def test_entries_that_do_not_come_are_a_gap(node: Node) -> None:
    """It hears the leader and isn't heard: nothing is sent to it, and what it gets later is old."""
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


def test_who_applies_a_little_later_is_not_behind(node: Node) -> None:
    """However much there is, and however long it goes on."""
    node.read_index.commit_learned(0)
    for commit in range(1, 1000, 10):
        node.read_index.commit_learned(commit)
        node.now_s += LAG_S * 0.9
        node.read_index.commit_learned(commit + 5)
        node.apply(commit)
    assert node.told == ["caught up"]


def test_nothing_is_learnt_while_the_state_is_replaced(node: Node) -> None:
    node.read_index.suspend()
    node.read_index.answered("n2", 1, TERM, 10)
    node.apply(10)
    assert not node.read_index.done
    node.read_index.resume()
    node.read_index.commit_learned(10)
    assert node.read_index.done


def test_a_leader_that_stood_still_proves_that_it_leads(node: Node) -> None:
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


def test_warm_is_who_applied_what_was_proposed_since(node: Node) -> None:
    """R14: entries that were there already say nothing of whether clients were served."""
    node.engine.last_index = 12
    node.read_index.commit_learned(10)
    for index in (10, 11, 12):
        node.apply(index)
    assert node.read_index.done
    assert not node.read_index.has_served
    node.apply(13)
    assert node.read_index.has_served


def test_it_asks_until_it_is_answered(node: Node) -> None:
    assert node.read_index.pump(node.now_s) == NEVER
    node.read_index.hold()
    assert node.read_index.pump(node.now_s) == node.now_s + GAP_S
    node.now_s += GAP_S
    node.read_index.pump(node.now_s)
    assert node.sent == [("n2", ("where", 1))] * 2
    node.read_index.answered("n2", 1, TERM, 10)
    assert node.read_index.pump(node.now_s) == NEVER
