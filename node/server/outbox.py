"""What is to be written to one client, and how much of it may wait.

It has two bounds. Above the soft one the connection isn't ``writable``: who can wait does, and ``drained``
says when to go on. Above the hard one the client is too slow and is cut off without a word, and what waited
is dropped.

A plain object without I/O: what moves the bytes, a *driver*, is woken when there are any.

Source: the NATS client protocol, "Liveness and slow consumers".
"""

from __future__ import annotations

from typing import Protocol

SOFT_BYTES = 1024 * 1024
"""The soft bound, where the hard one leaves so much."""

AT_ONCE_BYTES = 256 * 1024
"""So much may be put in, besides one message, between two looks at whether there is room."""

SLOW_CONSUMER = "slow consumer"
"""How the reason of such an end begins."""


def bounds(soft: int, hard: int, largest: int) -> tuple[int, int]:
    """Both bounds, so that a client that takes what it is sent is never cut off for it.

    Nothing that can wait goes in above the soft one, but below it as much as ``AT_ONCE_BYTES`` and a
    message of ``largest`` bytes may go in at once. So the hard one is at least that, and a little more.
    """
    hard = max(hard, largest + AT_ONCE_BYTES)
    return min(soft, hard - largest - AT_ONCE_BYTES // 2), hard


class Driver(Protocol):
    """What moves the bytes of one connection."""

    def output(self) -> None:
        """There is something to write, or the connection was closed (see ``aborted``)."""

    def input(self) -> None:
        """``reading`` has changed."""


class Outbox:
    """The writing half of a connection.

    The connection is derived from it, and puts in and counts by itself: once for each message, where a call
    would be felt.

    Args:
        soft, hard: bytes; the two bounds.
    """

    __slots__ = ("_driver", "_hard", "_soft", "aborted", "outbox", "outbox_bytes", "watched", "written")

    def __init__(self, soft: int, hard: int) -> None:
        self.outbox: list[bytes] = []
        """What is to be written next. Bytes being written are not in it any more."""
        self.outbox_bytes = 0
        """In ``outbox``, and taken but not yet ``sent``."""
        self.watched = False
        """The service is to be told, once, when something was written (``reply_order``)."""
        self.written = 0
        """Bytes that the driver has written, ever."""
        self.aborted = False
        """Closed with nothing more to be written; what is being written is to be given up."""
        self._driver: Driver | None = None
        self._soft = soft
        self._hard = hard

    @property
    def writable(self) -> bool:
        """There is room for deliveries that could wait."""
        return self.outbox_bytes < self._soft

    def attach(self, driver: Driver) -> None:
        """Have ``driver`` told of everything from now on. Before, nobody is."""
        self._driver = driver

    def detach(self) -> None:
        """Tell the driver nothing more.

        Connection and driver refer to each other: without this, only a search for cycles would free them.
        """
        self._driver = None

    def take(self) -> list[bytes]:
        """Everything to be written, in order; the caller writes it and tells ``sent``."""
        taken = self.outbox
        self.outbox = []
        return taken

    def _drop(self) -> None:
        """Nothing more can be written."""
        self.outbox = []
        self.outbox_bytes = 0
        self.aborted = True

    def _wake_output(self) -> None:
        if self._driver is not None:
            self._driver.output()

    def _wake_input(self) -> None:
        if self._driver is not None:
            self._driver.input()
