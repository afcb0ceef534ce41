"""Who may form a cluster, and who must not start (raft S17)."""

from __future__ import annotations

from typing import Any

import pytest

from node.errors import IdentityError
from node.raft.identity import Identity
from node.server.founding import Founding

MEMBERS = ("n1", "n2", "n3")


class Member:
    """A node that says hello."""

    def __init__(
        self,
        name: str,
        *,
        founding_id: str | None = None,
        cluster: str = "test",
        members: tuple[str, ...] = MEMBERS,
    ) -> None:
        identity = None if founding_id is None else Identity(cluster, founding_id, "tag", name)
        self.name = name
        self.admissions = 0
        self.founding = Founding(name, cluster, members, identity, f"{name}:4222", self._admitted)
        self.founding.start()

    def _admitted(self) -> None:
        self.admissions += 1

    @property
    def admitted(self) -> bool:
        return self.admissions == 1

    def hello(self) -> dict[str, Any]:
        return {**self.founding.hello("raft"), "node": self.name}

    def hears(self, *others: Member) -> None:
        for other in others:
            self.founding.check_hello("raft", other.hello())


def test_a_cluster_is_founded_when_all_have_met_empty() -> None:
    """Two of three are not enough: the third may have the state of years."""
    n1, n2, n3 = (Member(name) for name in MEMBERS)
    n1.hears(n2)
    assert not n1.admitted
    n1.hears(n3)
    assert n1.admitted
    assert n1.founding.refused is None


def test_who_comes_last_is_admitted_by_having_been_met() -> None:
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
    """raft S17: its name was met, its nonce wasn't: it is one that lost its directory since."""
    n1, n2, n3 = (Member(name) for name in MEMBERS)
    n1.hears(n2, n3)
    again = Member("n3")
    again.hears(n1)
    assert not again.admitted
    assert again.founding.refused is not None


def test_an_empty_node_among_others_with_state_is_refused() -> None:
    """raft S17: it would vote a second time and acknowledge what it no longer has. An operator decides."""
    n3 = Member("n3")
    n3.hears(Member("n1", founding_id="f"))
    assert not n3.admitted
    assert "stanchion cluster replace" in str(n3.founding.refused)
    assert "n3 has an empty directory" in str(n3.founding.refused)


def test_a_node_with_state_waits_for_nobody() -> None:
    n1 = Member("n1", founding_id="f")
    assert n1.admissions == 0  # it need not be admitted
    n1.hears(Member("n2"), Member("n3"))
    assert n1.founding.refused is None


def test_a_node_alone_founds_at_once() -> None:
    assert Member("n1", members=("n1",)).admitted


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        ({"wire": 99}, "wire version"),
        ({"cluster": "other"}, "belongs to cluster 'other'"),
        ({"founding": "g"}, "another founding"),
    ],
)
def test_strangers_are_refused_by_name(hello: dict[str, Any], why: str) -> None:
    """CLU-20: two clusters on one network don't interfere, whatever they are called."""
    n1 = Member("n1", founding_id="f")
    with pytest.raises(IdentityError, match=why):
        n1.founding.check_hello("raft", {**Member("n2", founding_id="f").hello(), **hello})


def test_what_a_hello_tells_is_kept() -> None:
    n1 = Member("n1")
    n1.hears(Member("n2"))
    assert n1.founding.client_addresses == {"n2": "n2:4222"}
    assert set(n1.founding.machine_versions) == {"n2"}


def test_the_identity_is_told_once_it_is_known() -> None:
    n1 = Member("n1", members=("n1",))
    assert n1.hello()["founding"] == ""
    n1.founding.identify(Identity("test", "f", "tag", "n1"))
    assert n1.hello()["founding"] == "f"
    assert "tag" not in n1.hello().values()  # R18: it is nobody's business but the clients'
