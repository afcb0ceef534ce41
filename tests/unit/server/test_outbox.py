"""Bytes that wait to be written; test_connection tests when a slow connection is closed."""

from __future__ import annotations

from node.server.effect_executor import CHUNK_BYTES
from node.server.outbox import SOFT_BYTES, Outbox, bounds


class Filled(Outbox):
    """Add bytes as a connection does."""

    def put(self, data: bytes) -> None:
        if not self.outbox:
            self._wake_output()
        self.outbox.append(data)
        self.outbox_bytes += len(data)

    def drop(self) -> None:
        self._drop()


class Driver:
    def __init__(self) -> None:
        self.told: list[str] = []

    def output(self) -> None:
        self.told.append("output")

    def input(self) -> None:
        self.told.append("input")


def test_what_is_taken_is_in_order_and_counts_until_it_is_written() -> None:
    outbox = Filled(10, 20)
    for data in (b"one", b"two"):
        outbox.put(data)
    assert outbox.take() == [b"one", b"two"]
    assert outbox.take() == []
    assert outbox.outbox_bytes == 6
    assert outbox.writable
    outbox.put(b"four")
    assert not outbox.writable, "ten bytes are the soft bound"


def test_the_driver_is_told_once_for_all_that_waits() -> None:
    outbox, driver = Filled(10, 20), Driver()
    outbox.put(b"before anybody is there")
    outbox.take()
    outbox.attach(driver)
    outbox.put(b"a")
    outbox.put(b"b")
    assert driver.told == ["output"]
    outbox.take()
    outbox.put(b"c")
    assert driver.told == ["output"] * 2


def test_what_is_dropped_is_never_written() -> None:
    outbox = Filled(10, 20)
    outbox.put(b"x" * 20)
    outbox.drop()
    assert outbox.aborted
    assert outbox.writable
    assert outbox.take() == []


def test_a_client_that_reads_everything_is_not_disconnected() -> None:
    """Below the soft bound a chunk of deliveries and the largest message may go in at once.

    With ``max_pending`` below a megabyte every delivery of a backlog went beyond it, again and again.
    """
    for hard in (0, 64 * 1024, 1024 * 1024, 2 * 1024 * 1024, 64 * 1024 * 1024):
        for largest in (1, 64 * 1024, 1024 * 1024, 8 * 1024 * 1024):
            soft, wide = bounds(SOFT_BYTES, hard, largest)
            assert 0 < soft <= SOFT_BYTES
            assert wide >= hard
            assert soft + largest + CHUNK_BYTES < wide
    assert bounds(SOFT_BYTES, 64 * 1024 * 1024, 1024 * 1024) == (SOFT_BYTES, 64 * 1024 * 1024)
