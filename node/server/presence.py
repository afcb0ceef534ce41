"""Which clients are heard, and since when not (rule R15).

A client is *heard* while some connection in the cluster subscribes to its heartbeat inbox. Every
node knows the whole cluster's interest, so every node keeps this table; only a ready leader acts on
it (``keeper``). A new leader therefore knows when an inbox fell silent although it did not lead then.

An inbox that is heard again, but through another connection, has *moved*: what went into the dead
connection is lost, and its subscription is told so at once instead of after AckWait.

A plain object without I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

Where = tuple[str, int]
"""(node, connection epoch) through which an inbox is heard."""

FORGET_NS = 600 * 1_000_000_000
"""How long the time at which a subject fell silent is remembered."""


class Interest(Protocol):
    """What is needed of routing."""

    def where(self, subject: bytes) -> Where | None: ...


@dataclass(slots=True)
class Sight:
    """What is known of one inbox."""

    where: Where | None
    gone_since_ns: int | None
    """Cluster time when the inbox was last seen to go; None if it never was."""
    moved: bool = False
    """It came back, through another connection than before, and nobody has acted on that yet."""
    settling_ns: int | None = None
    """Since when a returning client is waited for to subscribe to the rest of its inboxes."""


class Presence:
    """The sights of all inboxes that matter.

    Args:
        interest: who subscribes to what, cluster-wide.
        now_ns: cluster time.
    """

    def __init__(self, interest: Interest, now_ns: Callable[[], int]) -> None:
        self._interest = interest
        self._now_ns = now_ns
        self._sights: dict[str, Sight] = {}
        self._gone: dict[bytes, int] = {}
        self.dirty = True
        """Interest has changed since the last ``look``."""

    def changed(self, subjects: Iterable[bytes]) -> None:
        """Interest in these subjects or patterns came, went or moved."""
        now = self._now_ns()
        for subject in subjects:
            self._gone.pop(subject, None)
            self._gone[subject] = now
        self.dirty = True
        self._forget(now)

    def look(self, inboxes: Iterable[str]) -> dict[str, Sight]:
        """The sights of ``inboxes``, and of no others from now on."""
        before, after = self._sights, {}
        for inbox in inboxes:
            after[inbox] = self._look(inbox, before.get(inbox))
        self._sights = after
        self.dirty = False
        return after

    def _look(self, inbox: str, sight: Sight | None) -> Sight:
        subject = inbox.encode()
        where = self._interest.where(subject)
        if sight is None:
            return Sight(where, None if where else self._gone_at(subject))
        if where is None:
            if sight.where is not None:
                sight.gone_since_ns = self._gone_at(subject)
        elif where != sight.where:
            if sight.where is not None:
                sight.gone_since_ns = self._gone_at(subject)  # gone and back between two looks
            sight.moved = sight.gone_since_ns is not None
        sight.where = where
        return sight

    def _gone_at(self, subject: bytes) -> int:
        return self._gone.get(subject) or self._now_ns()

    def _forget(self, now: int) -> None:
        gone = self._gone
        while gone:
            subject, at = next(iter(gone.items()))
            if now - at < FORGET_NS:
                return
            del gone[subject]
