"""The bytes to be written to one client, and the limits of how many may wait.

There are two limits. Above the soft one the connection isn't ``writable``: deliveries that can wait do so
until ``drained`` is called. Above the hard one the client is too slow: its connection is closed without an
error message, and the waiting bytes are dropped.

A plain object without I/O. A *driver*, which moves the bytes, is woken when there are any.

Source: the NATS client protocol, "Liveness and slow consumers".
"""

from __future__ import annotations

from typing import Protocol

SOFT_BYTES = 1024 * 1024
"""The soft limit, if the hard one is large enough for it."""

AT_ONCE_BYTES = 256 * 1024
"""Bytes that may be added, besides one message, between two checks of ``writable``."""

SLOW_CONSUMER = "slow consumer"
"""The close reason of a client that was too slow begins with this text."""


def bounds(soft: int, hard: int, largest: int) -> tuple[int, int]:
    """Return both limits, adjusted so that a client that reads everything is never disconnected.

    Deliveries that can wait are not added above the soft limit. Below it, ``AT_ONCE_BYTES`` and a message of
    ``largest`` bytes may be added at once, so the hard limit is at least that much higher.
    """
    hard = max(hard, largest + AT_ONCE_BYTES)
    return min(soft, hard - largest - AT_ONCE_BYTES // 2), hard


class Driver(Protocol):
    """Moves the bytes of one connection."""

    def output(self) -> None:
        """Write: there are new bytes, or the connection was closed (see ``aborted``)."""

    def input(self) -> None:
        """React to a change of ``reading``."""


class Outbox:
    """The writing half of a connection.

    The connection class derives from it, and adds and counts bytes directly: it does so for each message,
    where a function call would cost too much.

    Args:
        soft, hard: the two limits, in bytes.
    """

    __slots__ = ("_driver", "_hard", "_soft", "aborted", "outbox", "outbox_bytes", "watched", "written")

    def __init__(self, soft: int, hard: int) -> None:
        self.outbox: list[bytes] = []
        """Bytes to be written next. Bytes that are being written are no longer in it."""
        self.outbox_bytes = 0
        """The size of ``outbox`` and of the bytes taken but not yet ``sent``."""
        self.watched = False
        """Notify the service, once, when something was written (``reply_order``)."""
        self.written = 0
        """Bytes that the driver has written since the connection began."""
        self.aborted = False
        """Closed without writing the rest; a write under way is abandoned too."""
        self._driver: Driver | None = None
        self._soft = soft
        self._hard = hard

    @property
    def writable(self) -> bool:
        """True if deliveries that can wait may be added."""
        return self.outbox_bytes < self._soft

    def attach(self, driver: Driver) -> None:
        """Notify ``driver`` from now on. Without a driver there are no notifications."""
        self._driver = driver

    def detach(self) -> None:
        """Stop notifying the driver.

        Connection and driver refer to each other: without this, only the cycle collector would free them.
        """
        self._driver = None

    def take(self) -> list[bytes]:
        """Take everything to be written, in order. The caller writes it and then calls ``sent``."""
        taken = self.outbox
        self.outbox = []
        return taken

    def _drop(self) -> None:
        """Drop everything: no more can be written."""
        self.outbox = []
        self.outbox_bytes = 0
        self.aborted = True

    def _wake_output(self) -> None:
        if self._driver is not None:
            self._driver.output()

    def _wake_input(self) -> None:
        if self._driver is not None:
            self._driver.input()
