"""Answers to clients that are moving to another node while this one stops.

When this node drains a connection, the connection has ended for the client. Requests that the client sent
before it noticed are still carried out. Each answer is kept until the client has subscribed to its inbox on
another node: client libraries resubscribe with the same inboxes.

A plain object without I/O.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("stanchion.streaming")

KEPT_MAX = 65_536
"""Answers kept. At the maximum the oldest is dropped."""


class MovingReplies:
    """Answers whose clients are unreachable at the moment.

    Args:
        reachable: whether the owner of an inbox is connected to some node (``Routing.reachable_by_owner``).
        send: publishes an answer to an inbox.
    """

    def __init__(self, reachable: Callable[[bytes], bool], send: Callable[[bytes, bytes], None]) -> None:
        self._reachable = reachable
        self._send = send
        self._kept: dict[bytes, list[bytes]] = {}
        self._count = 0
        self.dropped = 0
        """Answers that were dropped because more than ``KEPT_MAX`` waited."""

    @property
    def count(self) -> int:
        """Answers that wait for their clients."""
        return self._count

    def send(self, inbox: bytes, payload: bytes) -> None:
        """Send an answer. If its client is unreachable, keep the answer and send it again when it returns.

        Answers to one inbox keep their order.
        """
        if self._reachable(inbox):
            self._release(inbox)
            self._send(inbox, payload)
            return
        self._send(inbox, payload)
        if self._count >= KEPT_MAX:
            self._drop_oldest()
        self._kept.setdefault(inbox, []).append(payload)
        self._count += 1

    def interest_changed(self) -> None:
        """A subscription was added: send the answers whose clients are reachable now."""
        for inbox in list(self._kept):
            if self._reachable(inbox):
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
        self.dropped += 1


def owners_pattern(pattern: bytes, inbox: bytes) -> bool:
    """Return True if ``pattern`` is a subscription that only the owner of ``inbox`` makes.

    That is the inbox itself or, for an inbox of three or more tokens, all inboxes of its owner:
    ``_INBOX.<owner>.*``. Subscribers of ``>``, ``_INBOX.>`` or ``_STAN.acks.*`` don't count: the answer would
    be sent to them and dropped here.
    """
    if pattern == inbox:
        return True
    stem, dot, _ = inbox.rpartition(b".")
    return bool(dot) and stem.count(b".") >= 1 and stem != b"_STAN.acks" and pattern.startswith(stem + b".")
