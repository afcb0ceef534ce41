"""What a leader does to let members in and out, step by step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from node.errors import ConfigError, ConflictError, RefusedError, UnavailableError
from node.raft.membership import Member, Membership
from node.server.administration.asking import GIVE_UP_S
from node.server.membership.bootstrap import pack_membership
from node.server.membership.reconfiguration import HAND_OVER_S, PROGRESS_S, STEP_S, Reconfigurer

THREE = Membership.initial_voters(["n1", "n2", "n3"])


@dataclass
class Peer:
    name: str
    match: int = 100
    connected: bool = True
    state: str = "replicate"


class Leader:
    """n1 leads; entries commit when the test says so."""

    def __init__(self, membership: Membership = THREE) -> None:
        self.now_s = 50.0
        self.last_index = 100
        self.peers = {name: Peer(name) for name in membership.names if name != "n1"}
        self.directories: dict[str, str] = {}
        self.stopped = False
        self.transfers = 0
        self.ready = True
        self.reconfiguration = Reconfigurer(
            "n1",
            self,
            self,
            directory=lambda peer: self.directories.get(peer, ""),
            check_address=self._check_address,
            kick=lambda: None,
        )
        self.reconfiguration.changed(membership)
        self.reconfiguration.is_committed(membership)

    # the engine

    def peer_states(self) -> list[Peer]:
        return list(self.peers.values())

    def caught_up(self, name: str) -> bool:
        return self.peers[name].match >= self.last_index - 5

    def change_membership(self, new: Membership) -> int:
        if not self.ready:
            raise UnavailableError("n1 is not a ready leader")
        if self.in_force != self.reconfiguration.committed:
            raise ConflictError("not committed yet")
        self.last_index += 1
        for name in new.names:
            if name != "n1":
                self.peers.setdefault(name, Peer(name, match=0, connected=False))
        self.reconfiguration.changed(new)
        return self.last_index

    def transfer_leadership(self) -> bool:
        self.transfers += 1
        return False

    # ordering

    def stop(self) -> None:
        self.stopped = True

    def resume(self) -> None:
        self.stopped = False

    # the test

    def _check_address(self, text: str) -> None:
        if ":" not in text:
            raise ConfigError([f"{text!r} is no address"])

    @property
    def in_force(self) -> Membership:
        assert self.reconfiguration.in_force is not None
        return self.reconfiguration.in_force

    def commit(self) -> None:
        self.reconfiguration.is_committed(self.in_force, self.last_index)
        self.pump()

    def pump(self, after_s: float = 0.0) -> float:
        self.now_s += after_s
        return self.reconfiguration.pump(self.now_s)

    def add(self, name: str = "n4", peer: str = "h:6", **fields: Any) -> list[Any]:
        answers: list[Any] = []
        self.reconfiguration.add({"name": name, "peer": peer, **fields}, answers.append)
        self.pump()
        return answers

    def join(self, name: str = "n4", peer: str = "h:6", directory: str = "x") -> list[Any]:
        answers: list[Any] = []
        self.reconfiguration.join({"name": name, "peer": peer, "directory": directory}, answers.append)
        self.pump()
        return answers

    def remove(self, name: str, **fields: Any) -> list[Any]:
        answers: list[Any] = []
        self.reconfiguration.remove({"name": name, **fields}, answers.append)
        self.pump()
        return answers

    def comes(self, name: str = "n4", match: int = 100, directory: str = "x") -> None:
        self.peers[name] = Peer(name, match)
        self.directories[name] = directory
        self.pump()


def test_a_joining_node_is_a_learner_before_it_votes() -> None:
    """Each step is told, and the answer comes when its vote is committed."""
    leader = Leader()
    answers = leader.add()
    assert leader.in_force.learners == ("n4",)
    leader.comes()
    assert leader.in_force.learners == ("n4",), "not before the first change is committed"
    leader.peers["n4"].match = 20
    leader.commit()
    assert leader.in_force.learners == ("n4",), "nor before it has caught up"
    leader.peers["n4"].match = 99
    leader.pump()
    assert leader.in_force == THREE.with_learner("n4", "h:6").with_voter("n4", "x")
    assert {"ok"} not in [answer.keys() for answer in answers]
    leader.commit()
    assert answers == [
        {"progress": "n4 is being added, at h:6"},
        {"progress": "n4 catches up: it has 20 of 101 entries"},
        {"progress": "n4 has caught up"},
        {"ok": {"name": "n4", "role": "voter", "changed": True}},
    ]
    assert leader.pump() == float("inf")


def test_add_without_wait_is_answered_when_the_node_is_a_learner() -> None:
    """And it votes all the same once it has caught up."""
    leader = Leader()
    answers = leader.add(wait=False)
    leader.commit()
    assert answers[-1] == {"ok": {"name": "n4", "role": "learner", "changed": True}}
    leader.comes()
    assert leader.in_force.is_voter("n4")


def test_progress_asks_to_start_an_unreachable_node() -> None:
    """Told once, and again now and then if it changes; an empty node has no directory yet."""
    leader = Leader()
    answers = leader.add()
    leader.commit()
    assert "start it, with an empty directory: it does not answer at h:6" in answers[-1]["progress"]
    leader.comes(directory="")
    count = len(answers)
    for _ in range(20):
        assert leader.pump(STEP_S) == leader.now_s + STEP_S
    assert len(answers) == count
    leader.comes(match=1)
    assert "1 of 101" in answers[-1]["progress"]
    leader.peers["n4"].match = 2
    leader.pump(PROGRESS_S / 2)
    assert "1 of 101" in answers[-1]["progress"]
    leader.pump(PROGRESS_S)
    assert "2 of 101" in answers[-1]["progress"]


def test_adding_twice_is_adding_once() -> None:
    leader = Leader()
    assert leader.add("n2") == [{"ok": {"name": "n2", "role": "voter", "changed": False}}]
    first = leader.add()
    leader.commit()
    second = leader.add()
    leader.comes()
    leader.commit()
    assert first[-1] == {"ok": {"name": "n4", "role": "voter", "changed": True}}
    assert second[-1] == first[-1]


def test_a_learner_may_be_given_another_address() -> None:
    """The one that was said first may have been wrong, and then it never comes."""
    leader = Leader()
    leader.add(wait=False)
    leader.commit()
    leader.add(peer="h:7")
    member = leader.in_force.get("n4")
    assert member is not None
    assert member.peer == "h:7"


def test_changes_wait_for_one_another() -> None:
    leader = Leader()
    first, second = leader.add("n4", wait=False), leader.add("n5", wait=False)
    assert leader.in_force.names == ("n1", "n2", "n3", "n4")
    assert second == [{"progress": "waiting for another change of members to be committed"}]
    leader.commit()
    assert first[-1]["ok"]["role"] == "learner"
    leader.commit()
    assert second[-1]["ok"]["role"] == "learner"


def test_no_promotion_that_would_stop_the_cluster() -> None:
    """Of four three are needed: the newcomer makes three with two that are there, and not with one."""
    leader = Leader()
    leader.add()
    leader.commit()
    leader.peers["n2"].connected = leader.peers["n3"].connected = False
    leader.comes()
    assert not leader.in_force.is_voter("n4")
    leader.peers["n2"].connected = True
    leader.pump()
    assert leader.in_force.is_voter("n4")


def test_a_follower_is_removed() -> None:
    leader = Leader()
    answers = leader.remove("n3")
    assert leader.in_force.names == ("n1", "n2")
    assert answers == [{"progress": "n3 is being removed"}]
    assert leader.reconfiguration.names == {"n1", "n2", "n3"}, "as long as it may come to nothing"
    leader.commit()
    assert answers[-1] == {"ok": {"name": "n3", "role": "none", "changed": True}}
    assert leader.reconfiguration.names == {"n1", "n2"}
    assert leader.remove("n3") == [{"ok": {"name": "n3", "role": "none", "changed": False}}]


def test_a_leader_hands_over_before_it_is_removed() -> None:
    """The next one is asked. If there is none, it goes on leading."""
    leader = Leader()
    answers = leader.remove("n1")
    assert answers == [{"progress": "n1 leads: it hands over first"}]
    assert leader.stopped
    leader.pump(0.01)
    assert leader.transfers == 2
    assert leader.in_force == THREE
    leader.pump(HAND_OVER_S)
    assert "no node took over" in answers[-1]["error"]
    assert not leader.stopped
    again = leader.remove("n1")
    leader.reconfiguration.stop()
    leader.pump()
    assert len(again) == 1, "whoever asked asks the next leader"


@pytest.mark.parametrize(("name", "dead"), [("n2", "n3"), ("n1", "n3")])
def test_a_removal_that_would_stop_the_cluster_is_refused(name: str, dead: str) -> None:
    leader = Leader()
    leader.peers[dead].connected = False
    (answer,) = leader.remove(name)
    assert f"without {name} there are 2 voters" in answer["error"]
    assert leader.in_force == THREE
    assert leader.remove(dead) == [{"progress": f"{dead} is being removed"}]


def test_the_last_one_stays() -> None:
    (answer,) = Leader(Membership.initial_voters(["n1"])).remove("n1")
    assert answer == {"error": "n1 is the only voting member"}


def test_only_a_stopped_node_is_replaced_under_its_own_name() -> None:
    leader = Leader()
    with pytest.raises(RefusedError, match="n2 is running, with its directory: stop it first"):
        leader.remove("n2", absent=True)
    leader.peers["n2"].connected = False
    assert leader.remove("n2", absent=True) == [{"progress": "n2 is being removed"}]


def test_a_request_that_comes_to_nothing_is_forgotten() -> None:
    """The learner stays: it may still come."""
    leader = Leader()
    answers = leader.add()
    leader.commit()
    leader.pump(GIVE_UP_S)
    assert answers[-1] == {"error": "not done within 600 s; n4 is left as it is"}
    count = len(answers)
    leader.comes()
    assert leader.in_force.is_voter("n4")
    assert len(answers) == count


def test_a_request_ends_when_its_caller_no_longer_waits() -> None:
    leader = Leader()
    answers = leader.add(within=30)
    leader.commit()
    leader.pump(29)
    assert "error" not in answers[-1]
    leader.pump(1)
    assert answers[-1] == {"error": "not done within 30 s; n4 is left as it is"}


def test_the_same_request_again_is_the_one_under_way() -> None:
    """Its time begins anew, and both are told."""
    leader = Leader()
    first = leader.add(within=30)
    leader.commit()
    leader.pump(29)
    second = leader.add(within=30)
    assert second == [first[-1]]
    leader.pump(29)
    assert leader.reconfiguration._requests[1:] == []
    leader.comes()
    leader.commit()
    done = {"ok": {"name": "n4", "role": "voter", "changed": True}}
    assert (first[-1], second[-1]) == (done, done)


def test_a_node_removed_meanwhile_is_not_added_again() -> None:
    leader = Leader()
    added = leader.add()
    leader.commit()
    leader.remove("n4")
    leader.pump()
    assert added[-1] == {"error": "n4 was removed again"}


@pytest.mark.parametrize(
    "fields", [{"name": "a b", "peer": "h:1"}, {"name": "n4"}, {"peer": "h:1"}, {"name": "n4", "peer": "h"}]
)
def test_nodes_that_can_not_be_added(fields: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        Leader().reconfiguration.add(fields, lambda answer: None)


def test_a_leader_no_more_leaves_it_to_the_next() -> None:
    leader = Leader()
    leader.ready = False
    answers = leader.add()
    assert answers == []
    assert leader.in_force == THREE


def test_members_as_the_leader_sees_them() -> None:
    leader = Leader()
    leader.add(wait=False)
    leader.peers["n3"].connected = False
    answers: list[Any] = []
    leader.reconfiguration.view({}, answers.append)
    view = answers[0]["ok"]
    assert (view["leader"], view["last"], view["settled"]) == ("n1", 101, False)
    shown = [
        (m["name"], m["role"], m["peer"], m["leads"], m["connected"], m["match"]) for m in view["members"]
    ]
    assert shown == [
        ("n1", "voter", "", True, True, 101),
        ("n2", "voter", "", False, True, 100),
        ("n3", "voter", "", False, False, 100),
        ("n4", "learner", "h:6", False, False, 0),
    ]


# --- joining --------------------------------------------------------------------------------------

OPEN = Membership((Member("n1", "h:1", True, ""),), joinable=True)


def test_a_join_is_answered_when_it_is_committed() -> None:
    """It is told with which membership, and since which entry; asking again changes nothing."""
    leader = Leader(OPEN)
    answers = leader.join()
    assert leader.in_force == OPEN.with_learner("n4", "h:6", "x")
    assert answers == []
    leader.commit()
    told = {"ok": {"membership": pack_membership(101, leader.in_force)}}
    assert answers == [told]
    assert leader.join() == [told], "the answer was lost, or this leader follows one that died"
    assert leader.last_index == 101
    leader.comes(directory="y")
    assert leader.in_force.learners == ("n4",), "another directory doesn't vote under its name"
    leader.comes(directory="x")
    assert leader.in_force.voters == ("n1", "n4")
    assert leader.in_force.joinable


def test_several_nodes_join_one_after_the_other() -> None:
    leader = Leader(OPEN)
    answers = [leader.join(name, f"h:{name[1:]}", name) for name in ("n4", "n5", "n6")]
    for _ in range(3):
        leader.commit()
    assert ["ok" in each[-1] for each in answers] == [True, True, True]
    assert leader.in_force.learners == ("n4", "n5", "n6")


def test_a_name_that_another_directory_has_is_declined() -> None:
    """Of a voter, of a learner that asked before, and of one that runs although an operator added it."""
    leader = Leader(OPEN)
    leader.join("n4", "h:4", "d4")
    leader.commit()
    leader.add("n5", "h:5", wait=False)
    leader.commit()
    leader.directories["n5"] = "d5"
    for name in ("n1", "n4", "n5"):
        (answer,) = leader.join(name, "h:9", "other")
        assert f"stanchion cluster replace {name} {name}" in answer["ok"]["declined"]
    assert leader.in_force.get("n4") == Member("n4", "h:4", False, "d4")


def test_one_that_was_added_and_never_came_may_ask() -> None:
    """Or asks from another address than before: it is still the same directory."""
    leader = Leader(OPEN)
    leader.add("n4", "h:4", wait=False)
    leader.commit()
    leader.join("n4", "h:5", "x")
    leader.commit()
    leader.join("n4", "h:6", "x")
    leader.commit()
    assert leader.in_force.get("n4") == Member("n4", "h:6", False, "x")


def test_a_join_of_a_node_removed_meanwhile_is_declined() -> None:
    leader = Leader(OPEN)
    answers = leader.join()
    leader.pump()
    leader.reconfiguration.changed(OPEN)
    leader.pump()
    assert answers == [{"ok": {"declined": "n4 was removed again"}}]


@pytest.mark.parametrize(
    ("membership", "name", "peer", "why"),
    [
        (THREE, "n4", "h:6", "not bootstrapped for joining.*stanchion cluster add n4 --peer h:6"),
        (OPEN, "n 4", "h:6", "can't be the name"),
        (OPEN, "n4", "nowhere", "is no address"),
    ],
)
def test_joins_that_are_declined_at_once(membership: Membership, name: str, peer: str, why: str) -> None:
    (answer,) = Leader(membership).join(name, peer)
    assert re.search(why, answer["ok"]["declined"])
