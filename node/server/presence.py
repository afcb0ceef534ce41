"""Which clients are heard, and since when not (rule R15).

A client is *heard* while some connection in the cluster subscribes to its heartbeat inbox. Every
node knows the whole cluster's interest, so every node keeps this table; only a ready leader acts on
it (``leader_duties``). A new leader therefore knows when an inbox fell silent although it did not lead then.

A subscription to a pattern, ``>`` for instance, may be a bystander's and counts for nothing, unless its
connection shows that it is the client's (`Presence.vouch`): a heartbeat is answered while nobody has
subscribed to the heartbeat inbox itself; or the connection that hears the heartbeat inbox hears the inbox of
a subscription by a pattern.

An inbox that is heard again, but through another connection, has *moved*: what went into the dead
connection is lost, and its subscription is told so at once instead of after AckWait. Every node sees the
move and remembers it, for the leader may die before it has acted. Once it has, which is seen when its
command is applied, every node forgets it: else the next leader would act on it again, seconds
later, and what was sent meanwhile would come again long before its AckWait.

A move that nobody has acted on for a while is forgotten too. To act on it late would do the same harm, and
what it is about comes again anyway, when its AckWait has passed.

An inbox that this process has never heard has not moved when it is heard at last: a restarted node
learns everybody's interest anew. Nor has one that is heard through the connection it had before: only
the link to its node was away.

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
"""(node, connection epoch) through which an inbox is heard."""


class Change(Protocol):
    """What is needed of a change of interest. Epochs of connections; 0 is none."""

    @property
    def subject(self) -> bytes: ...
    @property
    def before(self) -> int: ...
    @property
    def now(self) -> int: ...


FORGET_NS = 10 * SECOND
"""How long the time is remembered at which a subject fell silent that is no known client's inbox. It may
become one: who asked to be a client may be gone before that is applied, an election later."""

STRANGERS_MAX = 10_000
"""Such subjects at most. Programs that make an inbox for each of their requests drop thousands a second."""


class Interest(Protocol):
    """What is needed of routing."""

    def where(self, subject: bytes) -> Where | None:
        """Through which connection ``subject`` itself is subscribed to."""

    def where_any(self, subject: bytes) -> Where | None:
        """The same, subscriptions to patterns included."""

    def hears(self, subject: bytes, where: Where) -> bool:
        """Whether that connection hears ``subject``, by a pattern or not."""


ACTED_NS = 250 * MILLISECOND
"""A move that is noticed so long after it was acted on is still the same: interest and log take
different links."""


MOVED_MAX_NS = 5 * SECOND
"""After so long a move is forgotten, acted on or not. Longer than an election and a take-over."""


LOOK_COST_S = 0.000_2
"""For each inbox, a look at all of them is followed by so long a pause. Looking takes a few microseconds
an inbox, so a few hundredths of the time go into it, however many there are and however often they change."""


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
    last: Where | None = None
    """Through which connection it was heard before it went."""
    before: Where | None = None
    """The same at ``gone_since_ns``: the first of several, if nobody has acted on its moves."""
    moved_ns: int = 0
    """Cluster time when the move was noticed."""
    acted_ns: int = 0
    """Cluster time of the entry in which a leader last acted on its return."""
    acted_at: Where | None = None
    """The connection it had returned to when a leader last acted on that, if that leader said so."""
    reachable_since_ns: int = 0
    """Cluster time from which on deliveries reach the connection that subscribes to it now.

    This node learned of the subscription then, however much later it looked. `Lost` goes by it.
    """


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
        self._gone: dict[bytes, tuple[int, Where]] = {}
        """When a connection that heard an inbox went, and which; since the last look at that inbox."""
        self._came: dict[bytes, tuple[int, Where]] = {}
        """When this node learned of the newest subscription to an inbox, and its connection; since the last
        look at that inbox."""
        self._strangers: OrderedDict[bytes, tuple[int, Where]] = OrderedDict()
        """The same of subjects that are no inboxes, or none yet; the oldest first."""
        self._changed: dict[str, None] = {}
        """Inboxes with sights in which interest has changed since they were looked at."""
        self._vouched: dict[str, Where] = {}
        """Inboxes that a client hears by a pattern, and through which connection."""
        self.dirty = True
        """Interest has changed since the last ``look``."""

    @property
    def has_changed(self) -> bool:
        """``take_changed`` has something to take."""
        return bool(self._changed)

    def pause_s(self, least_s: float) -> float:
        """How long to wait between two looks at everything."""
        return max(least_s, len(self._sights) * LOOK_COST_S)

    def changed(self, node: str, changes: Iterable[Change]) -> None:
        """Interest in these subjects or patterns came, went or moved on ``node``.

        What is noted is when an inbox was last sure to be heard: when the connection that heard it went, or
        when another came beside it, whichever is first.
        """
        now = self._now_ns()
        for change in changes:
            inbox = change.subject.decode(errors="replace")
            sight = self._sights.get(inbox)
            if sight is not None:
                self._changed[inbox] = None
                if change.now:
                    self._came[change.subject] = (now, (node, change.now))
            reachable = (node, change.before) if change.before else None
            if sight is not None and reachable != sight.where:
                # An old connection, and that another hears has been seen; or another comes beside the old.
                reachable = None if change.before else sight.where
            if reachable is not None:
                gone = self._strangers if sight is None else self._gone
                gone.setdefault(change.subject, (now, reachable))
        self.dirty = True
        self._forget(now)

    def learn_time(self, now_ns: int) -> None:
        """Cluster time is known from now on: subscriptions that came before count from ``now_ns`` on.

        What was decided before is not sent to the clients that came meanwhile (`EffectExecutor.learn_time`).
        """
        for sight in self._sights.values():
            sight.reachable_since_ns = max(sight.reachable_since_ns, now_ns)
        self._came = {subject: (max(at, now_ns), where) for subject, (at, where) in self._came.items()}

    def acted(self, returned: Iterable[tuple[str, str, int]], time_ns: int) -> None:
        """An entry at ``time_ns`` was applied in which a leader acted on the return of inboxes.

        Args:
            returned: each inbox, and the connection it returned to. If it is heard through another by now, or
                not through that one yet, then its move is news still. Without a node only the time tells.
            time_ns: cluster time.
        """
        for inbox, node, epoch in returned:
            sight = self._sights.get(inbox)
            if sight is None:
                continue
            if node:
                sight.acted_at = (node, epoch)
            else:
                sight.acted_ns = time_ns
            sight.moved = sight.moved and self._is_news(sight)

    def reachable_by_pattern(self, inbox: str) -> Where | None:
        """Return the newest connection that hears ``inbox``, patterns included; it may be a bystander's."""
        return self._interest.where_any(inbox.encode())

    def vouch(self, inbox: str, where: Where) -> bool:
        """Count a subscription to a pattern as the client's, for as long as that connection hears ``inbox``.

        Returns False if it doesn't. Known on this node only: another leader finds it out anew.
        """
        if not self._interest.hears(inbox.encode(), where):
            return False
        self._vouched[inbox] = where
        self.dirty = True
        return True

    def look(self, inboxes: Collection[str]) -> dict[str, Sight]:
        """The sights of ``inboxes``, and of no others from now on."""
        for _ in self.looking(inboxes):
            pass
        return self._sights

    def looking(self, inboxes: Collection[str]) -> Iterator[None]:
        """Look at ``inboxes``, one in each step, and forget what was looked at before and isn't one of them.

        Between two steps everything else may be called.
        """
        self.dirty = False
        before = dict.fromkeys(self._sights)
        for inbox in inboxes:
            before.pop(inbox, None)
            self._changed.pop(inbox, None)
            self._sights[inbox] = self._look(inbox, self._sights.get(inbox), self._now_ns())
            yield
        for inbox in before:
            self._sights.pop(inbox, None)
            self._changed.pop(inbox, None)
            self._gone.pop(inbox.encode(), None)
            self._came.pop(inbox.encode(), None)
            self._vouched.pop(inbox, None)
            yield

    def take_changed(self) -> list[str]:
        """Inboxes in which interest has changed since they were looked at; whoever asks will ``see`` them."""
        changed, self._changed = self._changed, {}
        return list(changed)

    def sight(self, inbox: str) -> Sight:
        """The sight of one inbox as it was last looked at, or now if it never was."""
        sight = self._sights.get(inbox)
        return self.see(inbox) if sight is None else sight

    def see(self, inbox: str) -> Sight:
        """The sight of one inbox, between two looks at all."""
        sight = self._sights[inbox] = self._look(inbox, self._sights.get(inbox), self._now_ns())
        return sight

    def _look(self, inbox: str, sight: Sight | None, now: int) -> Sight:
        subject = inbox.encode()
        where = self._interest.where(subject)
        if inbox in self._vouched:
            where = where or self._by_pattern(inbox, subject)
        gone = self._strangers if sight is None else self._gone
        gone_ns, last = gone.pop(subject, (now, None))
        came_ns, came_at = self._came.pop(subject, (now, None))
        if sight is None:
            sight = Sight(None, gone_ns if last or not where else None, last=last, before=last)
        if sight.moved and now - sight.moved_ns > MOVED_MAX_NS:
            sight.moved = False
        if where == sight.where:
            return sight
        if sight.where is not None:  # it went, or moved between two looks
            sight.last = sight.where
            if not sight.moved:
                sight.gone_since_ns, sight.before = gone_ns, sight.where
        sight.where = where
        # Entries stamped before its node took the client are not sent there; that node's clock may be ahead.
        sight.reachable_since_ns = (came_ns if came_at == where else now) + TIME_SURE_NS
        if where is not None and sight.last not in (None, where) and self._is_news(sight):
            sight.moved, sight.moved_ns = True, now
        return sight

    def _by_pattern(self, inbox: str, subject: bytes) -> Where | None:
        where = self._vouched[inbox]
        if self._interest.hears(subject, where):
            return where
        del self._vouched[inbox]
        return None

    def _is_news(self, sight: Sight) -> bool:
        if sight.where == sight.acted_at:
            return False
        return sight.gone_since_ns is not None and sight.gone_since_ns > sight.acted_ns + ACTED_NS

    def _forget(self, now: int) -> None:
        strangers = self._strangers
        while strangers:
            at, _ = next(iter(strangers.values()))
            if now - at < FORGET_NS and len(strangers) <= STRANGERS_MAX:
                return
            strangers.popitem(last=False)
