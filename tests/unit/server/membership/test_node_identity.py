"""With whom a node starts, and whose its data is."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.config.model import Cluster, Node
from node.config.values import Address
from node.core.state import State
from node.errors import IdentityError, UnavailableError
from node.raft.identity import Identity
from node.raft.journal import Journal
from node.raft.membership import Member, Membership
from node.raft.ports import EntryType
from node.server.membership.bootstrap import Invitation
from node.server.membership.node_identity import (
    bootstrap_node,
    claim_log,
    first_members,
    initial_voters,
    invited,
    is_untouched,
    keep_name,
    learnt,
    members_at,
    refuse_removed,
)
from node.simulator.disk import SimulatedDisk

THREE = Membership.initial_voters(["n1", "n2", "n3"])
WITH_LEARNER = THREE.with_learner("n4", "h:6")


def test_an_edited_file_changes_no_members() -> None:
    """Who founded the cluster is kept; only a directory that knows nothing goes by the file."""
    identity = bootstrap_node("shop", "n1", THREE)
    assert first_members(identity, Membership.initial_voters(["n1", "n2", "n3", "n4", "n5"])) == (0, THREE)
    assert first_members(None, THREE) == (0, THREE)
    assert first_members(Identity("shop", "f", "t", "n1"), THREE) == (0, THREE)


def test_an_invited_node_starts_with_the_members_of_the_invitation() -> None:
    """Its directory gets an id of its own."""
    identity = invited("shop", "n4", Invitation("f", 12, WITH_LEARNER))
    assert first_members(identity, Membership.initial_voters(["n4"])) == (12, WITH_LEARNER)
    assert identity.cluster_uuid == "f"
    assert len(identity.directory) > 20
    assert identity.directory != invited("shop", "n4", Invitation("f", 12, WITH_LEARNER)).directory


def test_a_node_that_bootstraps_alone_names_its_address_and_is_joinable() -> None:
    """A file's nodes found together, and let nobody in who asks."""
    nodes = {"n1": Node(Address("h", 1), peer=Address("h", 2))}
    assert initial_voters(Cluster(nodes=nodes), "n1") == Membership.initial_voters(["n1"])
    alone = initial_voters(Cluster(nodes=nodes, bootstrap=True), "n1")
    assert alone == Membership((Member("n1", "h:2", True, ""),), joinable=True)
    assert first_members(bootstrap_node("shop", "n1", alone), THREE) == (0, alone)


def test_a_name_that_was_drawn_is_kept(tmp_path: Path) -> None:
    keep_name(str(tmp_path / "d" / "node_id"), "ab12")
    assert (tmp_path / "d" / "node_id").read_text() == "ab12"


def test_a_joined_node_keeps_its_directory_id() -> None:
    assert invited("shop", "n4", Invitation("f", 12, WITH_LEARNER), "drawn").directory == "drawn"


def test_identity_is_completed_from_the_state() -> None:
    state = State(cluster_uuid="f", cluster_tag="tag")
    assert learnt(None, "shop", "n1", state) == Identity("shop", "f", "tag", "n1")
    identity = learnt(invited("shop", "n4", Invitation("f", 12, WITH_LEARNER)), "shop", "n4", state)
    assert (identity.cluster_uuid, identity.cluster_tag, bool(identity.directory)) == ("f", "tag", True)
    with pytest.raises(IdentityError, match="another cluster UUID"):
        learnt(Identity("shop", "g", "tag", "n1"), "shop", "n1", state)


def test_recovered_data_is_the_old_clusters_until_the_log_says_otherwise() -> None:
    recovered = Identity("new", "g", "tag", "n1", directory="d", recovered_from="f")
    assert learnt(recovered, "new", "n1", State(cluster_uuid="f", cluster_tag="tag")) is recovered
    done = learnt(recovered, "new", "n1", State(cluster_uuid="g", cluster_tag="tag"))
    assert done == Identity("new", "g", "tag", "n1", directory="d")
    joined = invited("new", "n4", Invitation("g", 12, WITH_LEARNER))
    assert learnt(joined, "new", "n4", State(cluster_uuid="f", cluster_tag="tag")) is joined


def test_the_recovered_log_is_claimed_once() -> None:
    """Also if the process dies before or after. Members that come later stay."""
    disk = SimulatedDisk(random.Random(1))
    journal = Journal.open(disk)
    journal.append(1, 0, b"\x00")
    journal.append(2, 3, b"\x01x")
    recovered = Identity("new", "g", "tag", "n2", directory="d", recovered_from="f")
    claim_log(journal, Identity("shop", "f", "tag", "n2"))
    assert journal.membership is None
    claim_log(journal, recovered)
    alone = Membership((Member("n2", "", True, "d"),))
    assert journal.membership == (3, alone.encode())
    assert journal.durable_index == 3
    claim_log(journal, recovered)
    assert journal.last_index == 3
    more = alone.with_learner("n5", "h:1")
    journal.append(4, 4, bytes([EntryType.MEMBERSHIP]) + more.encode())
    claim_log(journal, recovered)
    assert journal.membership == (4, more.encode())
    journal.close()


class Engine:
    def __init__(self, membership: Membership, index: int, *, changing: bool = False) -> None:
        self.membership, self.membership_index, self.is_changing = membership, index, changing


def test_a_removed_node_does_not_start() -> None:
    """If that is certain: a change that isn't committed may come to nothing."""
    refuse_removed(Engine(THREE, 0), "n2", 0)
    refuse_removed(Engine(THREE.without("n2"), 9, changing=True), "n2", 0)
    refuse_removed(Engine(THREE.without("n2"), 9), "n2", 10)
    with pytest.raises(IdentityError, match="n2 was removed from this cluster, by entry 9"):
        refuse_removed(Engine(THREE.without("n2"), 9), "n2", 0)


def test_a_cluster_that_others_have_left_is_not_untouched() -> None:
    """A node that was removed and turns up doesn't end the last one, as one that founded the same would."""
    alone = Membership.initial_voters(["n1"])
    engine = Past()
    for membership, index, expected in ((alone, 0, True), (THREE, 0, False), (alone, 12, False)):
        engine.membership, engine.membership_index = membership, index
        assert is_untouched(engine) is expected


@dataclass
class Past:
    """An engine and its log: since entry 40 there are three members, before there were four."""

    membership = THREE
    membership_index = 40
    first_index: int = 1
    first_readable: int = 1

    def membership_at(self, _index: int) -> Membership:
        return WITH_LEARNER


def test_membership_at_an_entry() -> None:
    """A log that begins behind it doesn't say; nor one that has only terms of what a snapshot took the place
    of, though it knows them."""
    assert members_at(Past(), Past(), 39) == WITH_LEARNER
    assert members_at(Past(), Past(first_index=50), 40) == THREE
    assert members_at(Past(), Past(first_index=30, first_readable=31), 30) == WITH_LEARNER
    for log in (Past(first_index=31), Past(first_index=1, first_readable=32)):
        with pytest.raises(UnavailableError, match="since entry 30, which the log no longer has"):
            members_at(log, log, 30)
