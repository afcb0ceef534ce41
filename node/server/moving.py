"""Answers to clients that are on their way to another node, while this one stops.

A connection that this node drains has ended for the client, and the requests that it sent until it noticed
are still carried out. Their answers find the client where it connects next: each is kept until somebody in
the cluster subscribes to the inbox it goes to, for the client library resubscribes with the same inboxes.

A plain object without I/O.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("stanchion.streaming")

KEPT_MAX = 65_536
"""Answers kept. One more takes the place of the oldest."""


class MovingReplies:
    """Answers whose clients are not heard at the moment.

    Args:
        reachable: whether the owner of an inbox is connected somewhere (``Routing.reachable_by_owner``).
        send: sends an answer to whoever listens.
    """

    def __init__(self, reachable: Callable[[bytes], bool], send: Callable[[bytes, bytes], None]) -> None:
        self._heard = reachable
        self._send = send
        self._kept: dict[bytes, list[bytes]] = {}
        self._count = 0
        self.given_up = 0
        """Answers that were dropped for lack of room."""

    @property
    def count(self) -> int:
        """Answers that wait for their clients."""
        return self._count

    def send(self, inbox: bytes, payload: bytes) -> None:
        """Send an answer to whoever listens now, and again to its client when that is heard, if it isn't now.

        Answers to one inbox keep their order.
        """
        if self._heard(inbox):
            self._release(inbox)
            self._send(inbox, payload)
            return
        self._send(inbox, payload)
        if self._count >= KEPT_MAX:
            self._drop_oldest()
        self._kept.setdefault(inbox, []).append(payload)
        self._count += 1

    def interest_changed(self) -> None:
        """Somebody subscribed: send what waited for that."""
        for inbox in list(self._kept):
            if self._heard(inbox):
                self._release(inbox)

    def _release(self, inbox: bytes) -> None:
        payloads = self._kept.pop(inbox, [])
        self._count -= len(payloads)
        for payload in payloads:
            self._send(inbox, payload)

    def _drop_oldest(self) -> None:
        inbox, payloads = next(iter(self._kept.items()))
        del payloads[0]
        if not payloads:
            del self._kept[inbox]
        self._count -= 1
        self.given_up += 1


def owners_pattern(pattern: bytes, inbox: bytes) -> bool:
    """Whether a subscription to ``pattern`` is one that the owner of ``inbox`` makes.

    That is the inbox itself or, for an inbox of three tokens and more, all of the owner's: ``_INBOX.<its
    own>.*``. Whoever listens to ``>``, ``_INBOX.>`` or ``_STAN.acks.*`` would swallow the answer of another.
    """
    if pattern == inbox:
        return True
    stem, dot, _ = inbox.rpartition(b".")
    return bool(dot) and stem.count(b".") >= 1 and stem != b"_STAN.acks" and pattern.startswith(stem + b".")
