"""Requests of this node to streaming clients over plain NATS: heartbeats and duplicate checks.

All answers arrive under one internal inbox prefix. Its interest is cluster-wide, so that a client connected
to another node can answer too. A client that gets a request learns the prefix. The rest of the inbox can't be
guessed and differs for each request, or one client could answer for another.

A plain object without I/O.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple, Protocol

from node.server.system import System


class Routing(Protocol):
    """The part of routing that is needed here."""

    def serve(self, pattern: bytes, handler: Callable[..., None], *, announce: bool = False) -> Any: ...
    def publish(
        self,
        source: None,
        subject: bytes,
        reply: bytes,
        headers: bytes,
        payload: bytes,
        *,
        to_services: bool = True,
    ) -> int: ...


_TOKEN_BYTES = 11
"""Length of the random token in the prefix, and of the one behind it: 88 bits each."""


class _Asked(NamedTuple):
    """A request that waits for its answer."""

    number: int
    inbox: bytes
    answered: Callable[[], None]
    missed: Callable[[], None]
    timeout_s: float


class Requests:
    """The requests of this node that have no answer yet.

    Args:
        routing: sends requests and receives answers.
        host: clock and random numbers.
        kick: called when ``next_deadline`` has changed, and when there may be something to propose.
    """

    def __init__(self, routing: Routing, host: System, kick: Callable[[], None]) -> None:
        self._routing = routing
        self._kick = kick
        self._clock = host.monotonic_s
        self._secret = host.nuid().encode()
        self._prefix = b"_INBOX." + self._token(0) + b"."
        self._asked: dict[bytes, _Asked] = {}
        self._ends: list[tuple[float, int, bytes]] = []
        self._numbers = count(1)
        self._suspended = False
        routing.serve(self._prefix + b"*", self._answer, announce=True)

    def ask(
        self, inbox: str, answered: Callable[[], None], missed: Callable[[], None], timeout_s: float
    ) -> None:
        """Send an empty request to ``inbox``, and call either ``answered`` or ``missed``, once.

        They are not called before this returns. Services don't get the request, so that only a client can
        answer, whatever the name of its inbox.
        """
        number = next(self._numbers)
        reply = self._prefix + self._token(number)
        self._asked[reply] = _Asked(number, inbox.encode(), answered, missed, timeout_s)
        if not self._suspended:
            self._send(reply)
        self._kick()

    def _token(self, number: int) -> bytes:
        """Return a subject token that reveals nothing about the tokens of other requests."""
        digest = hashlib.blake2b(b"%d" % number, key=self._secret, digest_size=_TOKEN_BYTES)
        return digest.hexdigest().encode()

    def _send(self, reply: bytes) -> None:
        asked = self._asked[reply]
        heapq.heappush(self._ends, (self._clock() + asked.timeout_s, asked.number, reply))
        self._routing.publish(None, asked.inbox, reply, b"", b"", to_services=False)

    def suspend(self) -> None:
        """Stop all timeouts until ``resume``: this node can't reach any client, which is not their fault."""
        self._suspended = True
        self._ends.clear()

    def resume(self) -> None:
        """Repeat all requests without an answer; their timeouts start again."""
        self._suspended = False
        self._ends.clear()
        for reply in list(self._asked):  # an answer may arrive before the next request is sent
            self._send(reply)
        self._kick()

    def paused(self, gap_s: float) -> None:
        """Extend all timeouts by ``gap_s``, because this process was suspended for that time.

        An answer may be in a socket that was not read yet, and a request in one that was not written.
        """
        self._ends = [(end_s + gap_s, number, reply) for end_s, number, reply in self._ends]

    def next_deadline(self) -> float | None:
        while self._ends and self._ends[0][2] not in self._asked:
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def tick(self) -> None:
        """Call ``missed`` for requests that were not answered in time."""
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            asked = self._asked.pop(heapq.heappop(self._ends)[2], None)
            if asked is not None:
                asked.missed()

    def _answer(self, _source: object, subject: bytes, _reply: bytes, _payload: bytes) -> None:
        asked = self._asked.pop(subject, None)
        if asked is not None:
            asked.answered()
            self._kick()  # its proposals should not wait for the next request
