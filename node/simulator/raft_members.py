"""Who changes the members of a simulated Raft group: adds, promotes, removes, replaces; at any leader.

An operator believes whoever says that it leads, and two may say so at once. It never waits for the
rest of the cluster: what one change needs of the one before is the engine's to refuse. What a real
operator must see to is seen to here as well: a disk is wiped only if its node is known to have left.
"""

from __future__ import annotations

from node.raft.membership import Membership
from node.simulator.raft_group import RaftGroup, RaftServer


class Operator:
    """Asks for a change, waits a random time, asks for the next.

    Args:
        group: with spares.
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
        for host in self._group.hosts:
            if host.leads and not host.paused:
                self._change(host)
        self._schedule()

    def _change(self, leader: RaftServer) -> None:
        membership = leader.engine.membership
        if self._promote(leader, membership):
            return
        bootstrapped = self._group.options.nodes
        if self._world.chance(0.75 if len(membership.names) <= bootstrapped else 0.25):
            self._add(leader, membership)
        else:
            self._remove(leader, membership)

    def _promote(self, leader: RaftServer, membership: Membership) -> bool:
        for name in membership.learners:
            directory = leader.directory_of(name)
            if directory is not None and leader.engine.caught_up(name) and self._world.chance(0.8):
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
            # It left, and that is committed: nobody counts on what its disk has.
            recruit = self._group.host(name)
            recruit.recruit(index, leader.engine.membership)
            self._world.after(self._world.rng.uniform(0.0, 0.3), recruit.start)

    def _remove(self, leader: RaftServer, membership: Membership) -> None:
        if len(membership.voters) <= (1 if self._world.chance(0.1) else 2):
            return
        name = self._world.rng.choice(membership.names)
        if name == leader.name:
            if leader.engine.transfer_leadership():
                self._world.counts["leaders removed"] += 1
                self._world.after(self._world.rng.uniform(0.01, 0.3), lambda: self._remove_former(name))
        else:
            leader.change_members(membership.without(name))

    def _remove_former(self, name: str) -> None:
        """The next leader removes the one that handed over to it."""
        for host in self._group.hosts:
            membership = host.engine.membership if host.leads and not host.paused else None
            if membership is not None and membership.get(name) and len(membership.voters) > 1:
                host.change_members(membership.without(name))
