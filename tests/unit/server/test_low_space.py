"""Publishes are refused while no majority of the voters has free disk space."""

from __future__ import annotations

from typing import Any

from node.server.low_space import LowSpace


class Node:
    def __init__(self, *voters: str) -> None:
        self.voters = list(voters)
        self.sent: list[tuple[str, Any]] = []
        self.texts: list[str] = []
        self.low_space = LowSpace(
            "n1",
            lambda: self.voters,
            send=lambda peer, value: self.sent.append((peer, value)),
            refuse=self.texts.append,
        )

    def link(self, *peers: str, **hello: Any) -> None:
        for peer in peers:
            self.low_space.peer_up(peer, hello)


def test_a_single_node_decides_by_its_own_disk() -> None:
    node = Node("n1")
    node.low_space.looked(is_low=False)
    assert node.texts == []
    node.low_space.looked(is_low=True)
    node.low_space.looked(is_low=True)
    node.low_space.looked(is_low=False)
    assert node.texts == ["stan: no space left: the disk of n1 is nearly full", ""]


def test_a_minority_without_space_refuses_nothing() -> None:
    node = Node("n1", "n2", "n3")
    node.link("n2", "n3", low_space=False)
    node.low_space.looked(is_low=True)
    assert node.texts == []
    node.low_space.received("n2", is_low=True)
    assert node.texts == ["stan: no space left: the disks of n1, n2 are nearly full"]
    node.low_space.received("n2", is_low=False)
    assert node.texts[-1] == ""


def test_an_unlinked_voter_does_not_count_as_having_space() -> None:
    """n3 is down, and n2 alone is no majority."""
    node = Node("n1", "n2", "n3")
    node.link("n2", "n3", low_space=False)
    node.low_space.looked(is_low=True)
    node.low_space.peer_down("n3")
    assert node.texts == ["stan: no space left: the disk of n1 is nearly full"]
    node.link("n3", low_space=False)
    assert node.texts[-1] == ""


def test_a_lost_quorum_without_low_space_refuses_nothing() -> None:
    node = Node("n1", "n2", "n3")
    node.low_space.looked(is_low=False)
    assert node.texts == []


def test_learners_do_not_count() -> None:
    node = Node("n1", "n2", "n3")
    node.link("n2", "n3", "n4", low_space=True)
    node.low_space.received("n2", is_low=False)
    node.low_space.looked(is_low=False)
    assert node.low_space.refusal == ""
    node.voters.append("n4")
    node.low_space.looked(is_low=False)
    assert node.low_space.refusal == "stan: no space left: the disks of n3, n4 are nearly full"


def test_changes_are_sent_to_members_that_support_the_frame() -> None:
    """An earlier release would drop the link because of an unknown frame."""
    node = Node("n1", "n2", "n3")
    node.link("n2", low_space=False)
    node.link("n3")
    node.low_space.looked(is_low=True)
    node.low_space.looked(is_low=True)
    node.low_space.looked(is_low=False)
    assert node.sent == [("n2", ("space", True)), ("n2", ("space", False))]
    node.low_space.looked(is_low=True)
    node.low_space.peer_down("n2")
    node.link("n2", low_space=False)
    assert node.sent[-1] == ("n2", ("space", True))


def test_an_unlinked_sender_is_ignored() -> None:
    node = Node("n1")
    node.low_space.received("n9", is_low=True)
    assert node.low_space.refusal == ""
