"""Who may form a cluster, and who must not start (PS-17)."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from node.errors import IdentityError, RemoteProtocolError
from node.protocol.peer import WIRE_VERSION, decode_body
from node.raft.identity import Identity
from node.raft.links import CollisionError
from node.raft.membership import Membership
from node.server.membership.bootstrap import Bootstrap, Invitation, pack_membership, unpack_membership

MEMBERS = ("n1", "n2", "n3")
DEEP = decode_body(bytes([WIRE_VERSION]) + b"\x91" * 1000 + b"\x01")
"""As deep as a hello may say it, and too deep for ``repr``."""


class Member:
    """A node that says hello."""

    def __init__(
        self,
        name: str,
        *,
        cluster_uuid: str | None = None,
        cluster: str = "test",
        members: tuple[str, ...] = MEMBERS,
        directory: str = "",
        membership: Membership | None = None,
    ) -> None:
        identity = None if cluster_uuid is None else Identity(cluster, cluster_uuid, "tag", name, directory)
        self.name = name
        self.admissions = 0
        self.bootstrap = Bootstrap(name, cluster, members, identity, f"{name}:4222", self._admitted)
        self.bootstrap.start()
        if membership is not None:
            self.bootstrap.set_membership(membership, len(membership.members))
            self.bootstrap.settled(membership, len(membership.members))

    def _admitted(self) -> None:
        self.admissions += 1

    @property
    def admitted(self) -> bool:
        return self.admissions == 1

    def hello(self) -> dict[str, Any]:
        return {**self.bootstrap.hello("raft"), "node": self.name}

    def hears(self, *others: Member) -> None:
        for other in others:
            self.bootstrap.check_hello("raft", other.hello())


def test_a_cluster_is_bootstrapped_when_all_are_connected_and_empty() -> None:
    """Two of three are not enough: the third may have the state of years."""
    n1, n2, n3 = (Member(name) for name in MEMBERS)
    n1.hears(n2)
    assert not n1.admitted
    n1.hears(n3)
    assert n1.admitted
    assert n1.bootstrap.refused is None


def test_last_bootstrapping_node_is_admitted_because_others_met_it() -> None:
    """The others notice the founding first and aren't empty any more; they say whom they met."""
    n1, n2, n3 = (Member(name) for name in MEMBERS)
    n1.hears(n2, n3)
    n2.hears(n1, n3)
    assert n1.admitted
    assert n2.admitted
    assert not n1.hello()["empty"]
    n3.hears(n1, n2)
    assert n3.admitted


def test_a_second_empty_process_was_not_met() -> None:
    """PS-17: its name was met, its nonce wasn't: it is one that lost its directory since."""
    n1, n2, n3 = (Member(name) for name in MEMBERS)
    n1.hears(n2, n3)
    again = Member("n3")
    again.hears(n1)
    assert not again.admitted
    assert again.bootstrap.refused is not None


def test_an_empty_node_among_others_with_state_is_refused() -> None:
    """PS-17: it would vote a second time and acknowledge what it no longer has. An operator decides."""
    n3 = Member("n3")
    n3.hears(Member("n1", cluster_uuid="f"))
    assert not n3.admitted
    assert "stanchion cluster replace" in str(n3.bootstrap.refused)
    assert "n3 has an empty directory" in str(n3.bootstrap.refused)


def test_a_node_with_state_waits_for_no_other_node() -> None:
    n1 = Member("n1", cluster_uuid="f")
    assert n1.admissions == 0  # it need not be admitted
    n1.hears(Member("n2"), Member("n3"))
    assert n1.bootstrap.refused is None


def test_a_node_alone_founds_at_once() -> None:
    assert Member("n1", members=("n1",)).admitted


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        ({"wire": 99}, "wire version"),
        ({"cluster": "other"}, "belongs to cluster 'other'"),
        ({"founding": "g"}, "its cluster UUID differs"),
    ],
)
def test_strangers_are_refused_by_name(hello: dict[str, Any], why: str) -> None:
    """CLU-20: two clusters on one network don't interfere, whatever they are called."""
    n1 = Member("n1", cluster_uuid="f")
    with pytest.raises(IdentityError, match=why):
        n1.bootstrap.check_hello("raft", {**Member("n2", cluster_uuid="f").hello(), **hello})


@pytest.mark.parametrize(
    ("hello", "refused"),
    [
        ({"founding": "", "empty": False}, None),
        ({"founding": "", "empty": True}, None),
        ({"founding": "", "empty": False, "directory": "x"}, IdentityError),
        ({"founding": "", "empty": False, "node": "n4"}, IdentityError),
        ({"founding": None}, RemoteProtocolError),
        ({"founding": 0, "empty": True}, RemoteProtocolError),
        ({"founding": "g", "empty": True}, IdentityError),
        ({"founding": "f", "empty": None}, RemoteProtocolError),
        ({"cluster": None}, IdentityError),
    ],
)
def test_only_a_bootstrapping_node_may_lack_the_cluster_uuid(
    hello: dict[str, Any], refused: type[Exception] | None
) -> None:
    """It was stopped before it applied what was drawn, and has to learn it. Who was added was told."""
    n1 = Member("n1", cluster_uuid="f", membership=WITH_LEARNER)
    said = {**Member("n2", cluster_uuid="f").hello(), **hello}
    if refused is None:
        n1.bootstrap.check_hello("raft", said)
    else:
        with pytest.raises(refused):
            n1.bootstrap.check_hello("raft", said)


def test_client_address_of_a_hello_is_recorded() -> None:
    n1 = Member("n1")
    n1.hears(Member("n2"))
    assert n1.bootstrap.client_addresses == {"n2": "n2:4222"}


def test_hello_has_the_cluster_uuid_once_it_is_set() -> None:
    n1 = Member("n1", members=("n1",))
    assert n1.hello()["founding"] == ""
    n1.bootstrap.identify(Identity("test", "f", "tag", "n1"))
    assert n1.hello()["founding"] == "f"
    assert "tag" not in n1.hello().values()  # R18: it is nobody's business but the clients'


THREE = Membership.initial_voters(MEMBERS)
WITH_LEARNER = THREE.with_learner("n4", "h:6")
FOUR = (*MEMBERS, "n4")


def test_an_empty_node_that_was_added_is_invited() -> None:
    """It learns whose data it will get, and where everybody is. It isn't part of a founding."""
    n1 = Member("n1", cluster_uuid="f", membership=WITH_LEARNER)
    n4 = Member("n4", members=FOUR)
    n1.hears(n4)  # which it may: it has nothing to lose yet
    n4.hears(n1)
    assert n4.admitted
    assert n4.bootstrap.refused is None
    assert n4.bootstrap.invitation is not None
    assert n4.bootstrap.invitation.cluster_uuid == "f"
    assert n4.bootstrap.invitation.membership == WITH_LEARNER
    assert n4.bootstrap.invitation.index == 4
    n4.hears(Member("n2", cluster_uuid="f", membership=WITH_LEARNER))
    assert n4.admissions == 1


@pytest.mark.parametrize("cluster_uuid", ["", None])
def test_no_invitation_without_a_cluster_uuid(cluster_uuid: str | None) -> None:
    n1 = Member("n1", cluster_uuid=cluster_uuid, membership=WITH_LEARNER)
    n4 = Member("n4", members=FOUR)
    n4.hears(n1)
    assert n4.bootstrap.invitation is None


def test_an_empty_node_with_the_name_of_a_voter_is_not_invited() -> None:
    """PS-17: it has promised something, and has forgotten what."""
    n3 = Member("n3")
    n3.hears(Member("n1", cluster_uuid="f", membership=THREE))
    assert n3.bootstrap.invitation is None
    assert "stanchion cluster replace n3 NEW" in str(n3.bootstrap.refused)


def test_refusal_of_a_non_member_says_how_to_add_it() -> None:
    """Added never, or removed: the answer is the same."""
    n1 = Member("n1", cluster_uuid="f", membership=THREE)
    for name in ("n4", "n5"):
        with pytest.raises(IdentityError, match=f"{name} is not a member .* stanchion cluster add {name}"):
            n1.hears(Member(name, cluster_uuid="f"))
    with pytest.raises(IdentityError, match="n4 is not a member"):
        n1.hears(Member("n4"))
    n1.bootstrap.set_membership(THREE, 3, leaving=["n4"])
    n1.hears(Member("n4", cluster_uuid="f"))


def test_a_voter_comes_with_its_directory_and_no_other() -> None:
    """A voter that lost its disk may have been invited again, by a node that didn't know that it votes."""
    n1 = Member("n1", cluster_uuid="f", membership=WITH_LEARNER.with_voter("n4", "x"))
    n1.hears(Member("n4", cluster_uuid="f", directory="x"))
    assert n1.bootstrap.directory("n4") == "x"
    for directory in ("", "y"):
        with pytest.raises(IdentityError, match="n4 has another directory"):
            n1.hears(Member("n4", cluster_uuid="f", directory=directory))
    with pytest.raises(IdentityError, match="n2 has another directory"):
        n1.hears(Member("n2", cluster_uuid="f", directory="z"))
    n1.hears(Member("n2", cluster_uuid="f"))


def test_a_peer_with_a_later_membership_is_accepted_with_another_directory() -> None:
    """n3 left and was added again, empty, while n1 was away: by n1's log it is the founder that votes."""
    n1 = Member("n1", cluster_uuid="f", membership=THREE)
    later = THREE.without("n3").with_learner("n3", "h:1").with_voter("n3", "y")
    n3 = Member("n3", cluster_uuid="f", membership=later, directory="y")
    n1.bootstrap.set_membership(THREE, 0)
    n3.bootstrap.set_membership(later, 9)
    n1.hears(n3)
    assert n1.bootstrap.set_membership(THREE.with_learner("n4", "h:1"), 5) == []
    n1.hears(n3)
    assert n1.bootstrap.set_membership(THREE, 9) == ["n3"]  # as far as it said, and it isn't so
    with pytest.raises(IdentityError, match="n3 has another directory"):
        n1.hears(n3)
    n1.bootstrap.set_membership(THREE, 0)
    lost = Member("n3", cluster_uuid="f", membership=later, directory="z")
    lost.bootstrap.set_membership(later, 9)
    with pytest.raises(IdentityError, match="n3 has another directory"):
        n1.hears(lost)


def test_a_peer_with_a_later_membership_stays_linked_while_the_log_catches_up() -> None:
    """n3 isn't known here when it comes: by n1's log it was just removed. Then the log adds one of its name,
    which was replaced since, and only in the end the one that came."""
    none = THREE.without("n3")
    earlier = none.with_learner("n3", "h:1").with_voter("n3", "d1")
    later = none.with_learner("n3", "h:1").with_voter("n3", "d2")
    n1 = Member("n1", cluster_uuid="f", membership=none)
    n1.bootstrap.set_membership(none, 10)
    n3 = Member("n3", cluster_uuid="f", directory="d2")
    n3.bootstrap.set_membership(later, 40)
    n1.hears(n3)
    for index, membership in ((20, earlier), (30, none), (40, later), (50, later.without("n2"))):
        assert n1.bootstrap.set_membership(membership, index) == [], index
    assert n1.bootstrap.set_membership(earlier, 60) == ["n3"]


def test_an_invitation_is_a_committed_membership() -> None:
    """An entry that isn't may be undone, and is no place in the log to begin with. Who is told of one comes
    again a little later."""
    n1 = Member("n1", cluster_uuid="f", membership=THREE)
    n1.bootstrap.set_membership(WITH_LEARNER, 12)
    n4 = Member("n4", members=FOUR)
    with pytest.raises(CollisionError, match="has not yet seen"):
        n4.hears(n1)
    assert (n4.admitted, n4.bootstrap.refused) == (False, None)
    n1.bootstrap.settled(WITH_LEARNER, 12)
    n1.bootstrap.set_membership(WITH_LEARNER.with_learner("n5", "h:7"), 15)
    n4.hears(n1)
    assert n4.bootstrap.invitation == Invitation("f", 12, WITH_LEARNER)


def test_a_joining_node_is_identified_by_its_directory() -> None:
    """Another with an empty directory isn't let in under its name, nor one with another directory."""
    asked = THREE.with_learner("n4", "h:6", "x")
    n1 = Member("n1", cluster_uuid="f", membership=asked)
    n4 = Member("n4", members=FOUR)
    n4.hears(n1)
    assert n4.bootstrap.invitation is None
    assert n4.bootstrap.refused is not None
    n1.hears(Member("n4", cluster_uuid="f", directory="x"))
    with pytest.raises(IdentityError, match="n4 has another directory"):
        n1.hears(Member("n4", cluster_uuid="f", directory="y"))


def test_a_refusal_contains_the_committed_membership() -> None:
    """Only somebody of the same founding, and it believes nobody else."""
    n1 = Member("n1", cluster_uuid="f", membership=THREE)
    n1.bootstrap.set_membership(WITH_LEARNER, 9)
    n4 = Member("n4", cluster_uuid="f", directory="x")
    told = n1.bootstrap.explanation(n4.hello())
    assert n4.bootstrap.statement(told) == (3, THREE)
    assert Member("n4", cluster_uuid="g").bootstrap.statement(told) is None
    assert Member("n4", cluster_uuid="f", cluster="other").bootstrap.statement(told) is None
    assert Member("n4").bootstrap.statement(told) is None
    for stranger in (Member("n4", cluster_uuid="g"), Member("n4"), Member("n4", cluster_uuid="")):
        assert n1.bootstrap.explanation(stranger.hello()) == {}
    assert Member("n2", cluster_uuid="f").bootstrap.explanation(n4.hello()) == {}
    with pytest.raises(RemoteProtocolError):
        n4.bootstrap.statement({**told, "settled": b"nonsense"})


def test_bootstrapping_an_existing_cluster_alone_is_refused() -> None:
    """The first node of a cluster that others have joined: it knows none of them, but they dial it."""
    identity = Identity("test", "f", "tag", "n2")
    n2 = Bootstrap("n2", "test", ["n1", "n2"], identity, "n2:4222", lambda: None)
    hello = {**n2.hello("raft"), "node": "n2"}
    empty = Bootstrap("n2", "test", ["n1", "n2"], None, "n2:4222", lambda: None).hello("raft")
    n1 = Bootstrap("n1", "test", ["n1"], None, "n1:4222", lambda: None, alone=True)
    for other in ({**hello, "cluster": "other"}, {**empty, "node": "n2"}):
        assert n1.explanation(other) == {}
        assert n1.refused is None
    n1.explanation(hello)
    assert "n1 has an empty directory, but n2 has the state of cluster 'test'" in str(n1.refused)
    together = Bootstrap("n1", "test", ["n1", "n3"], None, "n1:4222", lambda: None)
    together.explanation(hello)
    assert together.refused is None, "it is no member there, as far as the file says"


def test_peers_with_another_directory_are_returned() -> None:
    """It was let in while this node lagged behind; now its log says that the name has another directory."""
    n1 = Member("n1", cluster_uuid="f", membership=WITH_LEARNER)
    n1.hears(Member("n4", cluster_uuid="f", directory="y"), Member("n2", cluster_uuid="f"))
    assert n1.bootstrap.set_membership(WITH_LEARNER, 4) == []
    assert n1.bootstrap.set_membership(WITH_LEARNER.with_voter("n4", "y"), 5) == []
    assert n1.bootstrap.set_membership(WITH_LEARNER.with_voter("n4", "x"), 5) == ["n4"]


def test_records_of_removed_members_are_dropped() -> None:
    """Clients aren't sent to a removed node."""
    n1 = Member("n1", cluster_uuid="f", membership=THREE)
    n1.hears(Member("n2", cluster_uuid="f"), Member("n3", cluster_uuid="f"))
    n1.bootstrap.set_membership(THREE.without("n3"), 4, leaving=["n3"])
    assert set(n1.bootstrap.client_addresses) == {"n2", "n3"}
    n1.bootstrap.set_membership(THREE.without("n3"), 4)
    assert set(n1.bootstrap.client_addresses) == {"n2"}


def test_a_later_membership_is_learned_from_members() -> None:
    """Else it refused the very leader whose log would tell it that there is such a member."""
    n3 = Member("n3", cluster_uuid="f", membership=THREE)
    n4 = Member("n4", cluster_uuid="f", membership=WITH_LEARNER.with_voter("n4", "x"), directory="x")
    n3.hears(Member("n2", cluster_uuid="f", membership=WITH_LEARNER))
    assert n3.bootstrap.newer == WITH_LEARNER
    assert n3.bootstrap.linked == {"n1", "n2", "n4"}
    n3.hears(n4)
    n3.bootstrap.set_membership(THREE.without("n1"), 9)
    assert n3.bootstrap.newer is None
    with pytest.raises(IdentityError, match="n4 is not a member"):
        n3.hears(n4)


def test_members_of_an_identity_are_read_back() -> None:
    assert unpack_membership(pack_membership(7, WITH_LEARNER)) == (7, WITH_LEARNER)
    for wrong in ("", "7", "x:00", "7:xy", "7:00"):
        with pytest.raises(IdentityError, match="has no valid membership"):
            unpack_membership(wrong)


def test_an_empty_node_invites_no_node() -> None:
    """What it takes for the membership is only its file."""
    n1 = Member("n1", membership=WITH_LEARNER)
    assert n1.hello()["members"] == b""
    with pytest.raises(RemoteProtocolError):
        Member("n4").bootstrap.check_hello(
            "raft", {**Member("n1", cluster_uuid="f").hello(), "members": b"x"}
        )


@pytest.mark.parametrize(
    "said",
    [
        {"wire": DEEP},
        {"cluster": DEEP},
        {"founding": DEEP},
        {"nonce": DEEP},
        {"directory": DEEP},
        {"met": DEEP},
    ],
)
def test_a_hello_however_deep_is_taken_or_refused(said: dict[str, Any]) -> None:
    """What fails otherwise would be taken for this node's own failure."""
    for ours in (Member("n1"), Member("n1", cluster_uuid="f", membership=Membership.initial_voters(MEMBERS))):
        with contextlib.suppress(IdentityError, RemoteProtocolError):
            ours.bootstrap.check_hello("raft", {**Member("n2").hello(), **said})
