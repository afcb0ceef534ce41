"""The membership value: changes, bytes, refusals."""

from __future__ import annotations

import msgpack
import pytest

from node.errors import RefusedError, RemoteProtocolError
from node.raft.membership import MEMBERS_MAX, Member, Membership

THREE = Membership.initial_voters(["c", "a", "b"])


def test_initial_voters_are_in_order_of_names() -> None:
    assert THREE.names == THREE.voters == ("a", "b", "c")
    assert THREE.learners == ()
    assert THREE.get("b") == Member("b", "", True, "")
    assert THREE.get("d") is None
    assert Membership.initial_voters(["a", "b", "c"]) == THREE


def test_node_enters_as_a_learner_and_becomes_a_voter() -> None:
    learning = THREE.with_learner("aa", "host:6222")
    assert learning.names == ("a", "aa", "b", "c")
    assert (learning.learners, learning.is_voter("aa")) == (("aa",), False)
    assert learning.copies() == THREE.copies()
    moved = learning.with_learner("aa", "other:6222")
    assert moved.get("aa") == Member("aa", "other:6222", False, "")
    voting = moved.with_voter("aa", "d1")
    assert voting.get("aa") == Member("aa", "other:6222", True, "d1")
    assert voting.copies() - THREE.copies() == {("aa", "d1")}
    assert voting.without("aa") == THREE == learning.without("aa")


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RefusedError, match="a is a voting member already"):
        THREE.with_learner("a", "host:1")
    with pytest.raises(RefusedError, match="a is a voting member already"):
        THREE.with_voter("a", "d")
    with pytest.raises(RefusedError, match="d is not a member"):
        THREE.with_voter("d", "d")
    with pytest.raises(RefusedError, match="d is not a member"):
        THREE.without("d")
    with pytest.raises(RefusedError, match="only voting member"):
        Membership.initial_voters("a").with_learner("b", "host:1").without("a")
    with pytest.raises(RefusedError, match="not a valid name"):
        THREE.with_learner("", "host:1")
    with pytest.raises(RefusedError, match="not a valid address"):
        THREE.with_learner("d", "host\n:1")
    with pytest.raises(RefusedError, match="not a valid directory id"):
        THREE.with_learner("d", "host:1").with_voter("d", "x" * 65)
    full = Membership.initial_voters(f"n{number}" for number in range(MEMBERS_MAX))
    with pytest.raises(RefusedError, match="64 are allowed"):
        full.with_learner("one", "more:1")


def test_bytes_and_back() -> None:
    membership = THREE.with_learner("d", "[::1]:6222").with_voter("d", "ab12").with_learner("é", "h:1")
    assert Membership.decode(membership.encode()) == membership


def test_whether_nodes_join_by_themselves_is_kept() -> None:
    """It is set at bootstrap; without it the bytes are those of format 1."""
    alone = Membership((Member("a", "host:1", True, ""),), joinable=True)
    later = alone.with_learner("b", "host:2", "ab12").with_voter("b", "ab12").without("a")
    assert later.joinable
    assert Membership.decode(later.encode()) == later
    assert Membership.initial_voters("a").with_learner("b", "host:2").encode().startswith(b"\x92\x01")


def test_a_learner_let_in_with_a_directory_votes_with_no_other() -> None:
    learning = THREE.with_learner("d", "host:1", "ab12")
    assert learning.with_voter("d", "ab12").get("d") == Member("d", "host:1", True, "ab12")
    with pytest.raises(RefusedError, match="another directory"):
        learning.with_voter("d", "cd34")


@pytest.mark.parametrize(
    "value",
    [
        7,
        [],
        [1],
        [2, []],
        [2, [["a", "", True, ""]]],
        [2, [["a", "", True, ""]], 1.5],
        [3, [["a", "", True, ""]], True],
        [1, []],
        [1, [["a", "", True]]],
        [1, [["a", "", 1, ""]]],
        [1, [["a", "", False, ""]]],
        [1, [["b", "", True, ""], ["a", "", True, ""]]],
        [1, [["a", "", True, ""], ["a", "", True, ""]]],
        [1, [["a", "x" * 301, True, ""]]],
        [1, [[f"n{number:03}", "", True, ""] for number in range(65)]],
    ],
)
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        Membership.decode(msgpack.packb(value))


@pytest.mark.parametrize("data", [b"", b"\x92\x01", b"\xc1", bytes(1_000_000), b"\xdf\xff\xff\xff\xff"])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Membership.decode(data)
