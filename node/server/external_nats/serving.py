"""Decides which node of a cluster serves clients behind an external NATS server: the leader, and no other.

All nodes are connected to the NATS server, or to servers of one NATS cluster. The leader serves from when it
is ready until it is no longer the leader. The others treat every client as connected to it, so that what
clients may have missed at a change of leader is sent again (rule R15). A leader that can't reach any NATS
server hands over.

*No request is handled twice, and few are lost*, while both an old and a new leader are subscribed:

* A leader that hands over is alive. Its successor subscribes in the same queue group, so each request reaches
  one of the two, and the old one forwards its share like any node of a cluster. It stays subscribed until its
  successor is (``SUCCESSOR_S`` at most); if it stops, it first answers the requests it has received.
* A leader that was elected otherwise subscribes in a new queue group: the old leader may hang, and would keep
  its share of the requests. So both get each request. The new leader handles it; the old one must not. A
  leader takes a request only while it is certain to lead: a majority has followed it within half the shortest
  election timeout (*lease*), its links to a majority are up, and its process did not stand still. Requests
  that arrive while it is not certain wait, and are dropped when another node leads.

The group's name contains a term, and the leader reports to the others which one it uses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import trio

from node.server.external_nats.link import ExternalNats

log = logging.getLogger("stanchion.external")

CUT_OFF_S: Final = 2.0
"""After this time without a NATS server a leader hands over. Available servers are reached within
milliseconds; a restart of the whole NATS cluster takes longer, and then handing over is useless."""


SUCCESSOR_S: Final = 1.0
"""How long a leader that handed over stays subscribed if its successor doesn't report that it is."""

LEADERLESS_S: Final = 1.0
"""How long requests may wait for a leader here. Then this node unsubscribes, and clients see that no node
serves."""


class Engine(Protocol):
    """The consensus engine, as used here."""

    @property
    def was_handed_over(self) -> bool: ...
    def is_successor(self, peer: str, term: int) -> bool: ...
    def majority_age_s(self) -> float: ...


class Leadership(Protocol):
    """The replica, as used here."""

    @property
    def node(self) -> str: ...
    @property
    def term(self) -> int: ...
    @property
    def leader(self) -> str | None: ...

    @property
    def is_serving(self) -> bool:
        """This node is the leader, and has applied the first entry of its term."""

    @property
    def caught_up(self) -> bool:
        """Effects are executed, and this process did not stand still (rule R4)."""

    @property
    def has_majority_linked(self) -> bool:
        """The links to a majority of the voters, this node included, are up."""


class Serving:
    """Opens and closes the service of this node with its leadership.

    Args:
        external_nats: this node's connection, with the service behind it.
        leadership: the current leader.
        engine: shows how certain the leadership is.
        cluster_id: part of the queue groups' names.
        lease_s: half the shortest election timeout.
        tell: sends a frame to every linked peer: the leader's term, the term that names the group, and
            whether its NATS server has the leader's subscriptions.
        kick: wakes `run`.
    """

    def __init__(
        self,
        external_nats: ExternalNats,
        leadership: Leadership,
        engine: Engine,
        *,
        cluster_id: str,
        lease_s: float,
        tell: Callable[[tuple[str, int, int, bool]], None],
        kick: Callable[[], None],
    ) -> None:
        self._external = external_nats
        self._leadership = leadership
        self._engine = engine
        self._cluster_id = cluster_id
        self._lease_s = lease_s
        self._notify = tell
        self._kick = kick
        self._group: tuple[int, int] | None = None
        """The term of the last leader known to have served, and the term that names its group."""
        self._cut_off_s: float | None = None
        self._leaderless_s = 0.0  # since when; 0: there is a leader
        self._subscribed_term = 0
        """The term of the last leader whose NATS server is known to have its subscriptions."""
        self._succeeded_s: float | None = None
        """When this node first had a successor that is not known to be subscribed."""
        external_nats.routing.may_take = self._may_take
        external_nats.routing.may_deliver = self._may_deliver

    def told(self, term: int, group: int, *, is_subscribed: bool) -> None:
        """Record that the leader of ``term`` serves in the queue group named by the term ``group``.

        ``is_subscribed``: its NATS server has its subscriptions.
        """
        if self._group is None or term > self._group[0]:
            self._group = term, group
        if is_subscribed and term > self._subscribed_term:
            self._subscribed_term = term
            self._kick()

    def peer_up(self) -> None:
        """Report the group to a newly linked peer, which may not have it yet."""
        if self._leadership.is_serving and self._group is not None:
            self._notify(("serving", *self._group, self._subscribed_term == self._group[0]))

    def _now_subscribed(self) -> None:
        if self._leadership.is_serving and self._external.routing.is_open and self._group is not None:
            self._subscribed_term = self._group[0]
            self._notify(("serving", *self._group, True))

    async def run(
        self, changed: Callable[[], Awaitable[None]], hand_over: Callable[[], Awaitable[None]]
    ) -> None:
        """Follow the leadership until cancelled.

        Args:
            changed: waits until the leadership may have changed.
            hand_over: transfers the leadership to another node, if possible.
        """
        while True:
            self.update()
            if self._is_cut_off():
                log.warning("%s for %g s: handing over leadership", self._external.problem, CUT_OFF_S)
                await hand_over()
            with trio.move_on_after(CUT_OFF_S / 4):
                await changed()

    def update(self) -> None:
        """Open, close, or follow another leader, as the leadership requires."""
        external_nats, leadership = self._external, self._leadership
        if leadership.is_serving:
            self._leaderless_s = 0.0
            if leadership.caught_up and not external_nats.routing.is_open:
                external_nats.open(self._choose_group())
                external_nats.once_subscribed(self._now_subscribed)
            external_nats.take_held()
            return
        leader = leadership.leader
        if leader is None or leader == leadership.node:  # no leader yet, or this node will serve soon
            self._leaderless_s = self._leaderless_s or time.monotonic()
            if time.monotonic() - self._leaderless_s >= LEADERLESS_S:
                external_nats.close()
            external_nats.routing.follow(None)
            return
        self._leaderless_s = 0.0
        if self._waits_for(leader):
            external_nats.take_held()
            return
        external_nats.close()
        external_nats.routing.follow((leader, leadership.term))

    def _waits_for(self, successor: str) -> bool:
        """Return True if this node stays subscribed until its successor is, so that no request is lost."""
        term = self._leadership.term
        if (
            not self._external.routing.is_open
            or not self._engine.is_successor(successor, term)
            or self._subscribed_term >= term
        ):
            self._succeeded_s = None
            return False
        if self._succeeded_s is None:
            self._succeeded_s = time.monotonic()
        return time.monotonic() - self._succeeded_s < SUCCESSOR_S

    def _choose_group(self) -> bytes:
        term = self._leadership.term
        before = self._group
        # A predecessor that never served reported no group, and an earlier leader may hang in the last one.
        goes_on = before is not None and (
            before[0] == term or (before[0] == term - 1 and self._engine.was_handed_over)
        )
        self._group = term, before[1] if before is not None and goes_on else term
        self._notify(("serving", *self._group, False))
        return f"_STANCHION-{self._cluster_id}-{self._group[1]}".encode()

    def _may_take(self) -> bool:
        leadership = self._leadership
        if leadership.is_serving:
            return (
                leadership.caught_up
                and leadership.has_majority_linked
                and self._engine.majority_age_s() < self._lease_s
            )
        leader = leadership.leader
        return leader is not None and self._engine.is_successor(leader, leadership.term)

    def _may_deliver(self) -> bool:
        """Return True unless another node leads, which delivers then."""
        return self._leadership.leader in {None, self._leadership.node}

    def _is_cut_off(self) -> bool:
        now_s = time.monotonic()
        if not self._external.problem or not self._leadership.is_serving:
            self._cut_off_s = None
        elif self._cut_off_s is None:
            self._cut_off_s = now_s
        elif now_s - self._cut_off_s >= CUT_OFF_S:
            self._cut_off_s = None
            return True
        return False
