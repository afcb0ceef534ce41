"""Nodes compare their state digests (R30)."""

from __future__ import annotations

from typing import Any

import pytest

from node.core.state import State
from node.errors import CorruptionError, RemoteProtocolError
from node.server.divergence import REMEMBERED, DivergenceCheck


class Nodes:
    """Nodes whose frames arrive when the test calls `arrive`."""

    def __init__(self, *names: str, voters: tuple[str, ...] | None = None) -> None:
        self.frames: list[tuple[str, str, Any]] = []
        self.links: set[str] = set(names)
        self.nodes = {
            name: DivergenceCheck(
                name,
                voters=lambda: names if voters is None else voters,
                peers=lambda name=name: sorted(self.links - {name}),  # type: ignore[misc]
                send=lambda peer, frame, name=name: self.frames.append((name, peer, frame)),  # type: ignore[misc]
            )
            for name in names
        }

    def apply(self, name: str, index: int, digest: bytes = b"right") -> None:
        self.nodes[name].applied(State(milestone=(index, digest)))

    def arrive(self) -> list[str]:
        """Deliver everything that was sent. Returns the nodes that stop."""
        stopped = []
        frames, self.frames = self.frames, []
        for sender, peer, (kind, milestones) in frames:
            assert kind == "state"
            try:
                self.nodes[peer].frame(sender, milestones)
            except CorruptionError:
                stopped.append(peer)
        return sorted(set(stopped))


def test_equal_nodes_continue() -> None:
    nodes = Nodes("n1", "n2", "n3")
    for index in (4096, 8192):
        for name in ("n1", "n2", "n3"):
            nodes.apply(name, index)
        assert nodes.arrive() == []
    assert nodes.nodes["n1"].agreed == 8192


def test_a_node_that_differs_stops(caplog: pytest.LogCaptureFixture) -> None:
    nodes = Nodes("n1", "n2", "n3")
    nodes.apply("n1", 4096)
    nodes.apply("n3", 4096, b"wrong")
    assert nodes.arrive() == [], "one against one: a third will tell"
    assert {record.levelname for record in caplog.records} == {"CRITICAL"}
    nodes.apply("n2", 4096)
    assert nodes.arrive() == ["n3"]
    with pytest.raises(CorruptionError, match=r"that of n1, n2, a majority.*cluster replace n3 NEW"):
        nodes.nodes["n3"].frame("n1", [(4096, b"right")])


def test_a_lagging_node_stops_when_it_reaches_the_milestone() -> None:
    """The others' milestones are remembered, and sent again when its link comes up."""
    nodes = Nodes("n1", "n2", "n3")
    nodes.links.discard("n3")
    for index in (4096, 8192, 12288):
        for name in ("n1", "n2"):
            nodes.apply(name, index)
    assert nodes.arrive() == []
    for name in ("n1", "n2"):
        nodes.nodes[name].peer_up("n3")
    assert nodes.arrive() == []
    nodes.apply("n3", 4096)
    with pytest.raises(CorruptionError, match="after entry 8192"):
        nodes.apply("n3", 8192, b"wrong")


def test_without_a_majority_of_equal_digests_all_nodes_stop() -> None:
    """Two nodes that differ stop too, because either may be right."""
    nodes = Nodes("n1", "n2")
    nodes.apply("n1", 4096)
    nodes.apply("n2", 4096, b"wrong")
    assert nodes.arrive() == ["n1", "n2"]


def test_five_nodes_wait_for_a_majority() -> None:
    names = ("n1", "n2", "n3", "n4", "n5")
    nodes = Nodes(*names)
    for name in ("n1", "n2"):
        nodes.apply(name, 4096)
    for name in ("n4", "n5"):
        nodes.apply(name, 4096, b"wrong")
    assert nodes.arrive() == []
    nodes.apply("n3", 4096)
    assert nodes.arrive() == ["n4", "n5"]


def test_a_learner_does_not_count_for_the_majority(caplog: pytest.LogCaptureFixture) -> None:
    """It stops if it differs; if voters differ, its digest doesn't count."""
    nodes = Nodes("n1", "n2", "n3", "n4", voters=("n1", "n2", "n3"))
    for name in ("n1", "n2", "n3"):
        nodes.apply(name, 4096)
    nodes.apply("n4", 4096, b"wrong")
    assert nodes.arrive() == ["n4"]


def test_a_single_node_compares_nothing() -> None:
    nodes = Nodes("n1")
    nodes.apply("n1", 4096)
    assert nodes.frames == []


def test_a_snapshot_clears_the_own_digests() -> None:
    nodes = Nodes("n1", "n2", "n3")
    for name in ("n1", "n2"):
        nodes.apply(name, 4096)
        nodes.apply(name, 8192)
    nodes.apply("n3", 4096, b"never compared")
    nodes.nodes["n3"].replaced()
    nodes.apply("n3", 8192)
    assert nodes.arrive() == []


def test_memory_is_bounded() -> None:
    nodes = Nodes("n1", "n2")
    for number in range(1, 3 * REMEMBERED):
        nodes.apply("n1", 4096 * number)
    nodes.frames.clear()
    nodes.nodes["n1"].peer_up("n2")
    ((_, _, (_, milestones)),) = nodes.frames
    assert len(milestones) == REMEMBERED
    nodes.nodes["n1"].forget(["n1"])
    assert nodes.arrive() == []


@pytest.mark.parametrize("garbage", [[1], [(0, b"x")], [("4096", b"x")], [(4096, "x")], [(4096, b"x", 1)]])
def test_garbage_is_refused(garbage: list[Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        Nodes("n1", "n2").nodes["n1"].frame("n2", garbage)
