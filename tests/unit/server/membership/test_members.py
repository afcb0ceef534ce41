"""Members become links, and what the log says of this node itself ends it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from node.config.values import Address
from node.errors import ConfigError, IdentityError
from node.raft.identity import Identity
from node.raft.membership import Membership
from node.raft.security import Plaintext
from node.server.membership.bootstrap import Bootstrap
from node.server.membership.members import Members, parse

FILE = {f"n{i}": Address("127.0.0.1", 6000 + i) for i in (1, 2, 3)}
THREE = Membership.initial_voters(FILE)
WITH_LEARNER = THREE.with_learner("n4", "127.0.0.1:6004")


class Node:
    """n1, or another, and its transport."""

    def __init__(
        self,
        name: str = "n1",
        *,
        directory: str = "",
        since: int = 0,
        configured: Mapping[str, Address] = FILE,
        routed: bool = False,
    ) -> None:
        identity = Identity("test", "f", "tag", name, directory)
        self.bootstrap = Bootstrap(name, "test", list(FILE), identity, "c:1", lambda: None)
        self.removed_by: list[int] = []
        self.changes = 0
        self.links: dict[str, str] = {}
        self.dropped: list[tuple[str, str]] = []
        self.sets = 0
        self.up: set[str] = set()
        self.members = Members(
            name,
            configured,
            self.bootstrap,
            directory=directory,
            since=since,
            removed=self.removed_by.append,
            changed=self._changed,
            routed=routed,
        )
        self.members.attach(self, Plaintext())

    def _changed(self) -> None:
        self.changes += 1

    def set_members(self, peers: Mapping[str, Any]) -> None:
        self.sets += 1
        self.links = {name: str(address) for name, address in peers.items()}

    def notify_refused(self, explanation: Any, refused: Any) -> None:
        self.refused = refused

    def is_up(self, peer: str, _link: str) -> bool:
        return peer in self.up

    def drop(self, peer: str, link: str, reason: str) -> None:
        self.dropped.append((peer, link))

    def hears(self, peer: str, membership: Membership, index: int, *, directory: str = "") -> None:
        identity = Identity("test", "f", "tag", peer, directory)
        other = Bootstrap(peer, "test", list(FILE), identity, f"{peer}:1", lambda: None)
        other.set_membership(membership, index)
        self.bootstrap.check_hello("raft", {**other.hello("raft"), "node": peer})


def test_links_follow_the_membership() -> None:
    """The file's addresses before the log's; a member that leaves is linked until it knows."""
    node = Node()
    assert node.members.names == ("n1", "n2", "n3")
    node.members.membership_changed(THREE, 0)
    assert node.links == {"n2": "127.0.0.1:6002", "n3": "127.0.0.1:6003"}
    node.members.membership_changed(WITH_LEARNER, 10)
    assert node.links == {"n2": "127.0.0.1:6002", "n3": "127.0.0.1:6003", "n4": "127.0.0.1:6004"}
    node.members.membership_changed(WITH_LEARNER.without("n2"), 20)
    assert set(node.links) == {"n2", "n3", "n4"}
    assert node.members.names == ("n1", "n3", "n4")
    node.members.membership_changed(THREE.without("n2"), 30)
    assert node.links["n4"] == "127.0.0.1:6004", "which only the log of before says"
    node.members.membership_committed(WITH_LEARNER.without("n2"), 20)
    node.members.member_left("n2")
    node.members.member_left("n4")
    assert set(node.links) == {"n3"}
    assert node.changes == 6
    assert node.removed_by == []


def test_members_are_found_on_routes(caplog: pytest.LogCaptureFixture) -> None:
    """The file comes first; who is linked is where it is, whatever is said; nobody is missed aloud."""
    configured = {"n1": FILE["n1"], "n3": FILE["n3"]}
    node = Node(configured=configured, routed=True)
    node.members.membership_changed(THREE, 0)
    assert node.links == {"n2": "None", "n3": "127.0.0.1:6003"}  # n2 may dial meanwhile
    assert "add it to the file" not in caplog.text
    node.members.found("n2", FILE["n2"])
    node.members.found("n3", Address("127.0.0.1", 1))
    assert node.links == {"n2": "127.0.0.1:6002", "n3": "127.0.0.1:6003"}
    assert node.members.addresses() == {"n2": FILE["n2"], "n3": FILE["n3"]}
    node.up.add("n2")
    node.members.found("n2", Address("127.0.0.1", 2))
    assert node.links["n2"] == "127.0.0.1:6002"
    node.up.clear()
    node.members.found("n2", Address("127.0.0.1", 2))
    assert node.links["n2"] == "127.0.0.1:2"


def test_a_change_that_is_undone_undoes_the_links() -> None:
    node = Node()
    node.members.membership_changed(WITH_LEARNER, 10)
    node.members.membership_changed(THREE, 0)
    node.members.member_left("n4")
    assert set(node.links) == {"n2", "n3"}


def test_an_address_in_the_file_wins() -> None:
    """A node that moves is in the file of every node, and not in the log."""
    node = Node()
    moved = THREE.without("n3").with_learner("n3", "127.0.0.1:9")
    node.members.membership_changed(moved, 10)
    assert node.links["n3"] == "127.0.0.1:6003"


@pytest.mark.parametrize("peer", ["", "10.0.0.1:6004"])
def test_an_unreachable_member_is_logged_once(peer: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without TLS only the loopback counts, whatever the log says."""
    node = Node()
    node.members.membership_changed(THREE.with_learner("n4", peer), 10)
    assert node.links["n4"] == "None"
    said = len(caplog.records)
    assert "n4" in caplog.text
    node.members.look()
    assert (node.sets, len(caplog.records)) == (1, said)


def test_members_that_only_others_know_are_linked() -> None:
    """Its log will tell; but perhaps one of them leads, and nobody else would send it the log."""
    node = Node()
    node.members.membership_changed(THREE, 0)
    node.members.look()
    assert node.sets == 1
    node.hears("n2", WITH_LEARNER.with_voter("n4", "x"), 12)
    node.members.look()
    assert node.links["n4"] == "127.0.0.1:6004"
    node.hears("n4", WITH_LEARNER.with_voter("n4", "x"), 12, directory="x")


def test_a_removed_node_ends_when_that_is_committed() -> None:
    node = Node("n2")
    node.members.membership_changed(THREE.without("n2"), 10)
    assert node.removed_by == []
    assert set(node.links) == {"n1", "n3"}
    node.members.membership_committed(THREE.without("n2"), 10)
    assert node.removed_by == [10]


def told(by: str, membership: Membership, index: int, bootstrap: str = "f") -> dict[str, Any]:
    """What a member says whom it refuses."""
    other = Bootstrap(by, "test", list(FILE), Identity("test", bootstrap, "tag", by), f"{by}:1", lambda: None)
    other.settled(membership, index)
    return other.explanation({"founding": bootstrap})


def test_a_node_removed_while_it_was_down_stops() -> None:
    """By a member, of its own cluster, and of what came after it; not by one that is behind."""
    node = Node("n4", directory="x", since=20)
    member = WITH_LEARNER.with_voter("n4", "x")
    node.members.membership_changed(member, 25)
    node.members.membership_committed(member, 25)
    for by, statement in (
        ("n1", {}),
        ("n1", told("n1", THREE, 15)),
        ("n1", told("n1", member, 40)),
        ("n9", told("n9", THREE, 40)),
        ("n1", told("n1", THREE, 40, bootstrap="g")),
    ):
        node.refused(by, statement)
        assert node.removed_by == []
    node.refused("n1", told("n1", THREE, 40))
    assert node.removed_by == [40]
    node.refused("n1", told("n1", WITH_LEARNER.with_voter("n4", "y"), 60))
    assert node.removed_by == [40, 60]


def test_a_removal_before_the_node_was_added_is_ignored() -> None:
    """It was restarted. What others know of the time before it came is not about it."""
    node = Node("n4", directory="x", since=20)
    node.members.membership_changed(WITH_LEARNER.with_voter("n4", "x"), 50)
    node.refused("n1", told("n1", THREE, 15))
    assert node.removed_by == []
    node.refused("n1", told("n1", THREE, 40))
    assert node.removed_by == [40], "and its entry 50 was never committed"


def test_log_entries_before_the_node_was_added_are_ignored() -> None:
    """n2 was added, removed and added again: the third has all of that in its log."""
    node = Node("n2", directory="y", since=30)
    earlier = THREE.without("n2").with_learner("n2", "").with_voter("n2", "x")
    for index, membership in ((10, earlier), (20, THREE.without("n2"))):
        node.members.membership_changed(membership, index)
        node.members.membership_committed(membership, index)
    assert node.removed_by == []
    mine = THREE.without("n2").with_learner("n2", "")
    node.members.membership_changed(mine, 30)
    node.members.membership_changed(mine.with_voter("n2", "y"), 40)
    with pytest.raises(IdentityError, match="another directory than this one"):
        node.members.membership_changed(mine.with_voter("n2", "z"), 40)


def test_a_node_added_again_must_be_empty() -> None:
    """Added again, n2 would never vote with the directory it founded the cluster with."""
    node = Node("n2")
    node.members.membership_changed(THREE, 0)
    with pytest.raises(IdentityError, match="Start it with an empty directory"):
        node.members.membership_changed(THREE.without("n2").with_learner("n2", ""), 9)


def test_links_with_another_of_the_name_are_cut() -> None:
    """It was let in by a node that lagged behind, which now knows better."""
    node = Node()
    node.members.membership_changed(WITH_LEARNER, 10)
    node.hears("n4", WITH_LEARNER, 10, directory="y")
    node.members.membership_changed(WITH_LEARNER.with_voter("n4", "x"), 12)
    assert node.dropped == [("n4", "raft"), ("n4", "route")]


@pytest.mark.parametrize(
    "text", ["", "h", "h:", ":1", "h:0", "h:65536", "h:x", "h:²", "0.0.0.0:6001", "[::]:1"]
)
def test_invalid_addresses(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


def test_addresses() -> None:
    assert parse("h:1") == Address("h", 1)
    assert parse("[::1]:2") == Address("::1", 2)
    node = Node()
    node.members.check_address("localhost:1")
    with pytest.raises(ConfigError, match="without TLS"):
        node.members.check_address("10.0.0.1:1")
    addresses: Iterable[Any] = [parse("127.0.0.1:1")]
    Plaintext().check_addresses(addresses)
