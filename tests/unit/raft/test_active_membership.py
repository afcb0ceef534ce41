"""The effects of a membership on the parts of an engine, without an engine."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from node.raft.active_membership import Reconfiguration
from node.raft.membership import Membership
from node.raft.ports import Role


class Parts:
    """Records the membership that a reconfiguration passes on."""

    def __init__(self, **progress_by_peer: Any) -> None:
        self.progress_by_peer = progress_by_peer
        self.role = Role.LEADER
        self.matches: dict[str, int] = {}
        self.counts = False

    def set_members(self, peers: Any, voters: Any, *, since: int) -> None:
        """See `progress.Replicator`."""

    def set_voters(self, voters: Any, *, counts: bool) -> None:
        """See `pysyncobj_adapter.Library` and `election.Election`."""
        if isinstance(voters, Mapping) and all(type(value) is int for value in voters.values()):
            self.matches, self.counts = dict(voters), counts


def reconfiguration(parts: Parts, placed: tuple[int, Membership] | None = None, name: str = "a") -> Any:
    journal: Any = SimpleNamespace(membership=None if placed is None else (placed[0], placed[1].encode()))
    either: Any = parts
    return Reconfiguration(
        name=name,
        directory="",
        initial_voters=Membership.initial_voters("abc"),
        journal=journal,
        election=either,
        library=either,
        replicator=either,
    )


def test_acks_of_another_copy_of_the_log_are_not_counted() -> None:
    """A peer with a voter's name and another directory, or a learner that becomes a voter elsewhere, is not
    this copy."""
    parts = Parts(b=SimpleNamespace(match=7, counts=True), c=SimpleNamespace(match=9, counts=False))
    reconfiguration(parts)
    assert parts.matches == {"b": 7, "c": 0}
    assert parts.counts


@pytest.mark.parametrize(("commit", "over"), [(8, False), (9, True), (10, True)])
def test_a_leader_that_was_removed_goes_when_its_removal_is_committed(commit: int, over: bool) -> None:
    """It does not wait for the entry after that: there may never be one."""
    parts = Parts(b=SimpleNamespace(match=9, counts=True), c=SimpleNamespace(match=9, counts=True))
    left = reconfiguration(parts, (9, Membership.initial_voters("abc").without("a")))
    assert left.is_removed(commit) is over
    assert not parts.counts


def test_a_leader_that_is_a_voter_does_not_go() -> None:
    parts = Parts(b=SimpleNamespace(match=9, counts=True), c=SimpleNamespace(match=9, counts=True))
    assert not reconfiguration(parts).is_removed(99)
