"""Mutations of membership rules, used by the tests of engines alone and of whole nodes."""

from __future__ import annotations

import pytest

from node.raft.active_membership import Reconfiguration
from node.raft.engine import Engine
from node.raft.progress import Replicator


def members_count_when_they_are_committed(patch: pytest.MonkeyPatch) -> None:
    """Use a membership only once it is committed: two majorities may then be disjoint."""
    applies = Engine.library_applies

    def follow(self: Reconfiguration) -> None:
        placed = self._journal.membership_at(self._library.commit)
        if placed != self._placed:
            self._placed = placed
            self.membership, self.index = self._read(placed)
            self._adopt()

    def apply_and_follow(self: Engine, index: int, payload: bytes) -> None:
        applies(self, index, payload)
        self._reconfiguration.follow()

    patch.setattr(Reconfiguration, "follow", follow)
    patch.setattr(Engine, "library_applies", apply_and_follow)


def changes_overlap(patch: pytest.MonkeyPatch) -> None:
    check = Reconfiguration.check
    patch.setattr(Reconfiguration, "check", lambda self, new, commit: check(self, new, 1 << 60))


def learners_count(patch: pytest.MonkeyPatch) -> None:
    """Count learners for a majority like voters."""

    def adopt(self: Reconfiguration) -> None:
        others = [name for name in self.membership.names if name != self._name]
        self._votes = True
        self._replicator.set_members(others, dict.fromkeys(others, ""), since=self.index)
        self._election.set_voters(others, counts=True)
        self._library.set_voters(
            {name: self._replicator.progress_by_peer[name].match for name in others}, counts=True
        )

    patch.setattr(Reconfiguration, "_adopt", adopt)
    patch.setattr(Replicator, "_is_counted", lambda self, flow: flow.voter)
