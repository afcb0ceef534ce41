"""Routes by subject: where messages go, worked out once and remembered until interest changes.

A plan is found by its subject in one look-up. A literal subject that comes or goes concerns one of them. A
pattern may concern any: to look for those, or to forget all, would let one client's subscriptions cost
everybody else their plans. So a change of pattern is only numbered and kept, and each plan knows the number
as of which it is true. When it is wanted next, the few patterns that have changed since are held against its
subject; if none matches, it is true still.

A plan holds on to the connections it leads to, and may never be wanted again. So that connections that have
ended don't stay, each change of a pattern looks at the `SWEPT` plans not looked at for longest, and forgets
those too old to be held against the patterns: to make them anew costs no more.

When there are too many, those not looked at for longest go, an eighth at a time. So a client that publishes
to ever new subjects costs others a plan now and then, and never all.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice
from typing import TYPE_CHECKING

from node.protocol.subjects import has_wildcard, matches

if TYPE_CHECKING:
    from node.server.subscriptions import Route

CACHED_ROUTES_MAX = 32_768
"""Subjects whose plans are remembered. An eighth is forgotten when there are so many."""

SUBJECT_MAX = 512
"""Bytes of a subject whose plan is remembered: any channel's or inbox's. A control line has room for eight
times as many, and so would a client have that thinks of another one each time."""

RECENT_MAX = 128
"""Changed patterns that are kept. A plan that is older is made anew, which takes about as long as to hold its
subject against so many."""

SWEPT = 4
"""Routes that each change of a pattern looks at. A client makes two or three, and as many changes."""


class RouteCache(OrderedDict[bytes, "Route"]):
    """The plans that are remembered, by subject.

    One is true if its ``as_of`` is ``number``; else `true_route` knows. So the usual case costs its reader a
    look-up and a comparison, and no call.
    """

    __slots__ = ("_recent", "number")

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        """Patterns that have changed so far."""
        self._recent: deque[tuple[bytes, bytes]] = deque(maxlen=RECENT_MAX)
        """The last of them, each behind what every subject that matches it begins with."""

    def true_route(self, subject: bytes) -> Route | None:
        """The plan of ``subject``, if it is remembered and still true."""
        route = self.get(subject)
        if route is None or route.as_of == self.number:
            return route
        behind = self.number - route.as_of
        if behind <= len(self._recent):
            for prefix, pattern in islice(reversed(self._recent), behind):
                if subject.startswith(prefix) and matches(pattern, subject):
                    break
            else:
                route.as_of = self.number
                return route
        del self[subject]
        return None

    def remember(self, subject: bytes, route: Route) -> None:
        """Keep a plan that has just been made; not that of a very long subject."""
        route.as_of = self.number
        if len(subject) > SUBJECT_MAX:
            return
        if len(self) >= CACHED_ROUTES_MAX:
            for oldest in list(islice(self, CACHED_ROUTES_MAX // 8 + 1)):
                del self[oldest]
        self[subject] = route

    def forget(self, pattern: bytes) -> None:
        """Interest in ``pattern`` changed: the plans it concerns are made again when needed."""
        if has_wildcard(pattern):
            self.number += 1
            self._recent.append((_literal_prefix(pattern), pattern))
            self._sweep()
        else:
            self.pop(pattern, None)

    def _sweep(self) -> None:
        for _ in range(min(SWEPT, len(self))):
            subject = next(iter(self))
            if self.number - self[subject].as_of > RECENT_MAX:
                del self[subject]
            else:
                self.move_to_end(subject)


def _literal_prefix(pattern: bytes) -> bytes:
    """What every subject that matches ``pattern`` begins with."""
    tokens: list[bytes] = []
    for token in pattern.split(b"."):
        if token in (b"*", b">"):
            tokens.append(b"")
            break
        tokens.append(token)
    return b".".join(tokens)
