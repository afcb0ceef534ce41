"""Routes by subject: where messages go, computed once and cached until interest changes.

A route is found by its subject with one look-up. A new or removed subscription to a literal subject concerns
one route. A pattern may concern any route. To search them all, or to drop them all, would let one client's
subscriptions cost all other clients their routes. So a change of a pattern is only numbered and kept, and
each route has the number up to which it is valid. When the route is used next, the few patterns that have
changed since are matched against its subject. If none matches, it is still valid.

A route refers to the connections it leads to, and may never be used again. To release connections that have
ended, each change of a pattern checks the `SWEPT` routes that were checked longest ago. It drops those that
are too old to be matched against the kept patterns: computing them again costs no more.

When there are too many routes, an eighth is dropped: those checked longest ago. So a client that publishes to
ever new subjects costs others a route now and then, and never all.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice
from typing import TYPE_CHECKING

from node.protocol.subjects import has_wildcard, matches

if TYPE_CHECKING:
    from node.server.subscriptions import Route

CACHED_ROUTES_MAX = 32_768
"""Maximum number of cached routes. An eighth is dropped when it is reached."""

SUBJECT_MAX = 512
"""Longest subject, in bytes, whose route is cached; channels and inboxes are shorter. A control line may hold
eight times as much, which a client could use to fill the memory."""

RECENT_MAX = 128
"""Changed patterns that are kept. An older route is computed again, which takes about as long as matching its
subject against that many patterns."""

SWEPT = 4
"""Routes that each change of a pattern checks. A client causes two or three routes, and as many changes."""


class RouteCache(OrderedDict[bytes, "Route"]):
    """The cached routes, by subject.

    A route is valid if its ``as_of`` is ``number``; otherwise `valid_route` checks it. So the usual case
    costs the caller a look-up and a comparison, without a function call.
    """

    __slots__ = ("_recent", "number")

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        """Number of changes of patterns so far."""
        self._recent: deque[tuple[bytes, bytes]] = deque(maxlen=RECENT_MAX)
        """The last changed patterns: (literal prefix of all subjects that match, pattern)."""

    def valid_route(self, subject: bytes) -> Route | None:
        """Return the route of ``subject``, if it is cached and still valid."""
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
        """Cache a new route, unless its subject is very long."""
        route.as_of = self.number
        if len(subject) > SUBJECT_MAX:
            return
        if len(self) >= CACHED_ROUTES_MAX:
            for oldest in list(islice(self, CACHED_ROUTES_MAX // 8 + 1)):
                del self[oldest]
        self[subject] = route

    def forget(self, pattern: bytes) -> None:
        """Invalidate the routes that ``pattern`` concerns: interest in it has changed."""
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
    """Return the literal prefix of all subjects that match ``pattern``."""
    tokens: list[bytes] = []
    for token in pattern.split(b"."):
        if token in (b"*", b">"):
            tokens.append(b"")
            break
        tokens.append(token)
    return b".".join(tokens)
