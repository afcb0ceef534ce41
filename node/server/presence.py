"""Which clients are reachable, and since when the others are not (rule R15).

A client is *reachable* while some connection in the cluster subscribes to its heartbeat inbox. Every node
knows the interest of the whole cluster, so every node keeps this table. Only a ready leader acts on it
(``leader_duties``). So a new leader knows when an inbox became unreachable, although it did not lead then.

A subscription to a pattern, such as ``>``, may belong to another client, so it does not count. It counts only
if its connection shows that it is the client's (`Presence.vouch`): it answers a heartbeat while the heartbeat
inbox itself has no subscriber; or the connection that subscribes to the heartbeat inbox receives the inbox of
a subscription through a pattern.

An inbox has *moved* if it becomes reachable again through another connection. Deliveries that were written to
the dead connection are lost, so the subscription gets them again at once instead of after AckWait. Every node
sees and remembers the move, because the leader may die before it has acted. When the command with which a
leader acted is applied, every node forgets the move. Otherwise the next leader would act on it again, seconds
later, and redeliver messages long before their AckWait.

A move on which no leader has acted for a while is forgotten too. Acting late would do the same harm, and the
messages concerned are redelivered anyway when their AckWait has passed.

An inbox that this process has never seen reachable has not moved when it becomes reachable: a restarted node
learns all interest from the beginning. Nor has an inbox moved that is reachable through its earlier
connection: only the link to its node was down.

A plain object without I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from node.server.clock import TIME_SURE_NS
from node.units import MILLISECOND, SECOND

Where = tuple[str, int]
"""(node, connection epoch) through which an inbox is reachable."""


class Change(Protocol):
    """A change of interest in one subject: its connection before and now, by epoch; 0 is none."""

    @property
    def subject(self) -> bytes: ...
    @property
    def before(self) -> int: ...
    @property
    def now(self) -> int: ...


FORGET_NS = 10 * SECOND
"""How long this node remembers when a subject that is no registered client's inbox lost its subscriber. It
may become one: a client that connects may be gone before its request is applied, an election later."""

GONE_OTHERS_MAX = 10_000
"""Maximum number of such subjects. Programs with an inbox for each request drop thousands a second."""


class Interest(Protocol):
    """The part of routing that presence needs."""

    def where(self, subject: bytes) -> Where | None:
        """Return the connection that subscribes to exactly ``subject``."""

    def where_any(self, subject: bytes) -> Where | None:
        """Return the connection that subscribes to ``subject`` or to a pattern that matches it."""

    def receives(self, subject: bytes, where: Where) -> bool:
        """Return True if that connection receives ``subject``, through a pattern or not."""


ACTED_NS = 250 * MILLISECOND
"""A move that is seen at most this long after a leader acted on it is the same move: interest and log travel
on different links."""


MOVED_MAX_NS = 5 * SECOND
"""After this time a move is forgotten, acted on or not. Longer than an election and the start of a new
leader."""


SCAN_COST_S = 0.000_2
"""Pause after a scan of all inboxes, for each inbox. Scanning one takes a few microseconds, so scanning takes
a few percent of the time, however many inboxes there are and however often they change."""


@dataclass(slots=True)
class InboxPresence:
    """The presence of one inbox."""

    where: Where | None
    gone_since_ns: int | None
    """Cluster time when the inbox last became unreachable; None if it never did."""
    moved: bool = False
    """It is reachable again through another connection, and no leader has acted on that yet."""
    settling_ns: int | None = None
    """Since when the leader waits for a returning client to subscribe to the rest of its inboxes."""
    last: Where | None = None
    """The connection through which it was reachable before the present one."""
    before: Where | None = None
    """The connection that ended at ``gone_since_ns``: of several moves, the first not acted on."""
    moved_ns: int = 0
    """Cluster time when this node saw the move."""
    acted_ns: int = 0
    """Cluster time of the entry in which a leader last acted on its return."""
    acted_at: Where | None = None
    """The connection it had returned to when a leader last acted on that, if the command names it."""
    reachable_since_ns: int = 0
    """Cluster time from which on deliveries reach the connection that subscribes to it now.

    This is when the node learned of the subscription, even if it scanned the inbox later. `Lost` uses it.
    """


class Presence:
    """The presence of all inboxes of clients and subscriptions.

    Args:
        interest: the interest of the whole cluster.
        now_ns: cluster time.
    """

    def __init__(self, interest: Interest, now_ns: Callable[[], int]) -> None:
        self._interest = interest
        self._now_ns = now_ns
        self._inboxes: dict[str, InboxPresence] = {}
        self._gone: dict[bytes, tuple[int, Where]] = {}
        """By inbox: when its connection ended, and which one; since the last scan of that inbox."""
        self._came: dict[bytes, tuple[int, Where]] = {}
        """By inbox: when this node learned of its newest subscription, and the connection; since the last
        scan of that inbox."""
        self._gone_others: OrderedDict[bytes, tuple[int, Where]] = OrderedDict()
        """Like ``_gone``, for subjects that are not inboxes, or not yet; the oldest first."""
        self._changed: dict[str, None] = {}
        """Inboxes in this table whose interest has changed since their last scan."""
        self._vouched: dict[str, Where] = {}
        """Inboxes that a client receives through a pattern, and its connection."""
        self.dirty = True
        """Interest has changed since the last scan began."""

    @property
    def has_changed(self) -> bool:
        """True if ``take_changed`` would return any inbox."""
        return bool(self._changed)

    def pause_s(self, least_s: float) -> float:
        """Return the time to wait between two scans of all inboxes."""
        return max(least_s, len(self._inboxes) * SCAN_COST_S)

    def changed(self, node: str, changes: Iterable[Change]) -> None:
        """Note that interest in these subjects or patterns began, ended or moved on ``node``.

        Records the last time at which an inbox was certainly reachable: when its connection ended, or when
        another one subscribed beside it, whichever is first.
        """
        now = self._now_ns()
        for change in changes:
            inbox = change.subject.decode(errors="replace")
            presence = self._inboxes.get(inbox)
            if presence is not None:
                self._changed[inbox] = None
                if change.now:
                    self._came[change.subject] = (now, (node, change.now))
            reachable = (node, change.before) if change.before else None
            if presence is not None and reachable != presence.where:
                # Either an older connection ended and the present one was seen; or a second one subscribed.
                reachable = None if change.before else presence.where
            if reachable is not None:
                gone = self._gone_others if presence is None else self._gone
                gone.setdefault(change.subject, (now, reachable))
        self.dirty = True
        self._forget(now)

    def learn_time(self, now_ns: int) -> None:
        """Count earlier subscriptions from ``now_ns`` on: cluster time was unknown until now.

        Deliveries that were decided before are not sent to these clients (`EffectExecutor.learn_time`).
        """
        for presence in self._inboxes.values():
            presence.reachable_since_ns = max(presence.reachable_since_ns, now_ns)
        self._came = {subject: (max(at, now_ns), where) for subject, (at, where) in self._came.items()}

    def acted(self, returned: Iterable[tuple[str, str, int]], time_ns: int) -> None:
        """Note that an entry at ``time_ns`` was applied, in which a leader acted on the return of inboxes.

        Args:
            returned: each inbox, and the connection it returned to. If the inbox has another connection on
                this node's table, its move still has to be acted on. If no node is named, the time decides.
            time_ns: cluster time.
        """
        for inbox, node, epoch in returned:
            presence = self._inboxes.get(inbox)
            if presence is None:
                continue
            if node:
                presence.acted_at = (node, epoch)
            else:
                presence.acted_ns = time_ns
            presence.moved = presence.moved and self._is_new_move(presence)

    def reachable_by_pattern(self, inbox: str) -> Where | None:
        """Return the newest connection that receives ``inbox``, also by a pattern; maybe another client's."""
        return self._interest.where_any(inbox.encode())

    def vouch(self, inbox: str, where: Where) -> bool:
        """Count a pattern subscription as the client's, for as long as its connection receives ``inbox``.

        Returns False if the connection doesn't. Only this node remembers it; another leader finds out again.
        """
        if not self._interest.receives(inbox.encode(), where):
            return False
        self._vouched[inbox] = where
        self.dirty = True
        return True

    def scan(self, inboxes: Collection[str]) -> dict[str, InboxPresence]:
        """Scan ``inboxes``, drop all others, and return the table."""
        for _ in self.scan_in_steps(inboxes):
            pass
        return self._inboxes

    def scan_in_steps(self, inboxes: Collection[str]) -> Iterator[None]:
        """Scan ``inboxes``, one in each step, and then drop the inboxes that are not among them.

        Between two steps any other method may be called.
        """
        self.dirty = False
        before = dict.fromkeys(self._inboxes)
        for inbox in inboxes:
            before.pop(inbox, None)
            self._changed.pop(inbox, None)
            self._inboxes[inbox] = self._scan(inbox, self._inboxes.get(inbox), self._now_ns())
            yield
        for inbox in before:
            self._inboxes.pop(inbox, None)
            self._changed.pop(inbox, None)
            self._gone.pop(inbox.encode(), None)
            self._came.pop(inbox.encode(), None)
            self._vouched.pop(inbox, None)
            yield

    def take_changed(self) -> list[str]:
        """Take the inboxes whose interest has changed since their last scan. The caller scans them."""
        changed, self._changed = self._changed, {}
        return list(changed)

    def get(self, inbox: str) -> InboxPresence:
        """Return the presence of an inbox as of its last scan. Scans it now if it never was."""
        presence = self._inboxes.get(inbox)
        return self.scan_one(inbox) if presence is None else presence

    def scan_one(self, inbox: str) -> InboxPresence:
        """Scan one inbox, between two scans of all, and return its presence."""
        presence = self._inboxes[inbox] = self._scan(inbox, self._inboxes.get(inbox), self._now_ns())
        return presence

    def _scan(self, inbox: str, presence: InboxPresence | None, now: int) -> InboxPresence:
        subject = inbox.encode()
        where = self._interest.where(subject)
        if inbox in self._vouched:
            where = where or self._by_pattern(inbox, subject)
        gone = self._gone_others if presence is None else self._gone
        gone_ns, last = gone.pop(subject, (now, None))
        came_ns, came_at = self._came.pop(subject, (now, None))
        if presence is None:
            presence = InboxPresence(None, gone_ns if last or not where else None, last=last, before=last)
        if presence.moved and now - presence.moved_ns > MOVED_MAX_NS:
            presence.moved = False
        if where == presence.where:
            return presence
        if presence.where is not None:  # it became unreachable, or moved between two scans
            presence.last = presence.where
            if not presence.moved:
                presence.gone_since_ns, presence.before = gone_ns, presence.where
        presence.where = where
        # Entries stamped before its node accepted the client are not sent there; its clock may be ahead.
        presence.reachable_since_ns = (came_ns if came_at == where else now) + TIME_SURE_NS
        if where is not None and presence.last not in (None, where) and self._is_new_move(presence):
            presence.moved, presence.moved_ns = True, now
        return presence

    def _by_pattern(self, inbox: str, subject: bytes) -> Where | None:
        where = self._vouched[inbox]
        if self._interest.receives(subject, where):
            return where
        del self._vouched[inbox]
        return None

    def _is_new_move(self, presence: InboxPresence) -> bool:
        if presence.where == presence.acted_at:
            return False
        return presence.gone_since_ns is not None and presence.gone_since_ns > presence.acted_ns + ACTED_NS

    def _forget(self, now: int) -> None:
        others = self._gone_others
        while others:
            at, _ = next(iter(others.values()))
            if now - at < FORGET_NS and len(others) <= GONE_OTHERS_MAX:
                return
            others.popitem(last=False)
