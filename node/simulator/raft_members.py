"""Membership changes of a simulated Raft group: add, promote, remove and replace, at any leader.

The operator believes every server that claims to lead, and two may claim it at once. It never waits for the
rest of the group: the engine must refuse a change whose conditions are not met. The one duty of a real
operator is kept here as well: a disk is wiped only if its node is known to have left.
"""

from __future__ import annotations

from node.raft.membership import Membership
from node.simulator.raft_group import RaftGroup, RaftServer


class Operator:
    """Requests a change, waits a random time, requests the next one.

    Args:
        group: a group with spares.
        every_s: mean time between two changes.
    """

    def __init__(self, group: RaftGroup, every_s: float) -> None:
        self._group = group
        self._world = group.world
        self._every_s = every_s
        self._active = True

    def start(self) -> None:
        self._schedule()

    def stop(self) -> None:
        self._active = False

    def _schedule(self) -> None:
        self._world.after(self._world.rng.expovariate(1 / self._every_s), self._act)

    def _act(self) -> None:
        if not self._active:
            return
        for server in self._group.servers:
            if server.leads and not server.paused:
                self._change(server)
        self._schedule()

    def _change(self, leader: RaftServer) -> None:
        membership = leader.engine.membership
        if self._promote(leader, membership):
            return
        bootstrapped = self._group.options.nodes
        if self._world.happens(0.75 if len(membership.names) <= bootstrapped else 0.25):
            self._add(leader, membership)
        else:
            self._remove(leader, membership)

    def _promote(self, leader: RaftServer, membership: Membership) -> bool:
        for name in membership.learners:
            directory = leader.directory_of(name)
            if directory is not None and leader.engine.caught_up(name) and self._world.happens(0.8):
                leader.change_members(membership.with_voter(name, directory))
                return True
        return False

    def _add(self, leader: RaftServer, membership: Membership) -> None:
        committed = self._group.checker.members
        spares = [
            name for name in self._group.names if membership.get(name) is None and committed.get(name) is None
        ]
        if not spares:
            return
        name = self._world.rng.choice(spares)
        index = leader.change_members(membership.with_learner(name, f"{name}:1"))
        if index is not None:
            # Its removal is committed: no server relies on the data on its disk.
            recruit = self._group.server(name)
            recruit.recruit(index, leader.engine.membership)
            self._world.after(self._world.rng.uniform(0.0, 0.3), recruit.start)

    def _remove(self, leader: RaftServer, membership: Membership) -> None:
        if len(membership.voters) <= (1 if self._world.happens(0.1) else 2):
            return
        name = self._world.rng.choice(membership.names)
        if name == leader.name:
            if leader.engine.transfer_leadership():
                self._world.counts["leaders removed"] += 1
                self._world.after(self._world.rng.uniform(0.01, 0.3), lambda: self._remove_former(name))
        else:
            leader.change_members(membership.without(name))

    def _remove_former(self, name: str) -> None:
        """Let the next leader remove its predecessor."""
        for server in self._group.servers:
            membership = server.engine.membership if server.leads and not server.paused else None
            if membership is not None and membership.get(name) and len(membership.voters) > 1:
                server.change_members(membership.without(name))
