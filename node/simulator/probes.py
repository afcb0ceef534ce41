"""Subclasses of a node's parts that report to the checkers: machine, engine, connections; and its links."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from node.core.effects import Effects
from node.core.machine import Machine
from node.core.state import State
from node.raft.engine import Engine
from node.raft.membership import Membership
from node.server.connection import Connection
from node.server.context import Context
from node.server.routing import LocalSubscription
from node.simulator.bound_counts import HELD_UP
from node.simulator.member_checks import expect_one_at_a_time
from node.simulator.raft_model import RaftModel
from node.simulator.sim_steps import DELIVERY_S
from node.units import Index

if TYPE_CHECKING:
    from node.simulator.cluster_checks import ClusterChecker
    from node.simulator.sim_node import SimNode


class ProbedMachine(Machine):
    """A machine that reports each applied entry to the checkers."""

    def __init__(self, state: State, node: SimNode, checker: ClusterChecker) -> None:
        super().__init__(state)
        self._node = node
        self._checker = checker

    def apply(self, index: Index, data: bytes) -> Effects:
        self._checker.applying(self._node, index, data)
        effects = super().apply(index, data)
        self._checker.applied(self._node, data, effects, self.state)
        return effects


class ProbedEngine(Engine):
    """An engine that reports proposals to the checkers and checks membership changes."""

    watcher: Callable[[int, bytes], None]
    model: RaftModel

    def propose(self, payload: bytes) -> Index:
        index = super().propose(payload)
        self.watcher(index, payload)
        return index

    def offered_snapshot(self, index: int, term: int) -> bool:
        self.model.installed(self.name, index)
        return super().offered_snapshot(index, term)

    def change_membership(self, new: Membership) -> Index:
        before = self.membership, self.membership_index, self.commit_index
        index = super().change_membership(new)
        expect_one_at_a_time(self.name, new, *before, knows_own=self._journal.term_at(before[2]) == self.term)
        return index


class ProbedConnection(Connection):
    """A connection that reports deliveries to the checkers."""

    __slots__ = ("watcher",)

    def __init__(self, context: Context, node: SimNode, *, cid: int, epoch: int) -> None:
        super().__init__(context, cid=cid, epoch=epoch, address=("client", 1))
        self.watcher = node

    def pause_reading(self) -> None:
        self.watcher.count(HELD_UP)
        super().pause_reading()

    def deliver(
        self, subscription: LocalSubscription, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        self.watcher.checker.delivering(self.watcher, self, subject, payload)
        self.watcher.steps.spend(DELIVERY_S)
        super().deliver(subscription, subject, reply, headers, payload)

    def sent(self, size: int) -> None:
        super().sent(size)
        if not self.outbox_bytes:
            self.watcher.checker.wrote(self)


class Port:
    """One end of a node's links of one kind. The network uses it as the node's `Endpoint`."""

    def __init__(self, node: SimNode, kind: str) -> None:
        self.name = node.name
        self._node = node
        self._kind = kind

    @property
    def up(self) -> bool:
        return self._node.up or self._node.waiting

    def link_up(self, peer: str) -> None:
        directory = self._node.directory_of(peer)  # as in the peer's hello
        term = self._node.term_of(peer)
        self._node.now_or_when_resumed(lambda: self._node.linked(self._kind, peer, directory, term))

    def link_down(self, peer: str) -> None:
        self._node.now_or_when_resumed(lambda: self._node.unlinked(self._kind, peer))

    def deliver(self, peer: str, message: Any) -> None:
        self._node.now_or_when_resumed(lambda: self._node.take(self._kind, peer, message))
