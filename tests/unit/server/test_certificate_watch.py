"""Expiring certificates are logged in advance, once a day; certificates of members are saved."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path

import pytest
import trio

from node.raft.certificates import FILE_NAME, Expiry, MemberCertificates
from node.raft.memory_disk import MemoryDisk
from node.server.certificate_watch import CertificateWatch

NOW = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


class Watched:
    def __init__(self, *left: datetime.timedelta) -> None:
        self.now = NOW
        self.expiries = [Expiry(Path(f"{number}.pem"), NOW + each) for number, each in enumerate(left)]
        self.watch = CertificateWatch(lambda: self.expiries, now=lambda: self.now)


def test_no_warning_long_before_the_expiry(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(31 * DAY, 400 * DAY)
    watched.watch.warn()
    assert (watched.watch.warnings, watched.watch.problem, caplog.records) == ([], "", [])


def test_each_certificate_is_logged_once_a_day_and_at_its_expiry(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(3 * DAY, 400 * DAY)
    for _ in range(4 * 24):
        watched.watch.warn()
        watched.now += DAY / 24
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING] * 3 + [logging.ERROR]
    assert "0.pem expired" in watched.watch.problem
    assert watched.watch.warnings == [watched.watch.problem]


def test_a_reload_with_another_certificate_ends_the_warning() -> None:
    watched = Watched(-DAY)
    assert watched.watch.problem
    watched.expiries = [Expiry(Path("0.pem"), NOW + 365 * DAY)]
    assert not watched.watch.problem
    assert not watched.watch.warnings


class NotifyingDisk(MemoryDisk):
    """Sets an event when data is durable."""

    def __init__(self) -> None:
        super().__init__()
        self.synced = trio.Event()

    def sync_dir(self) -> None:
        super().sync_dir()
        trio.from_thread.run_sync(self.synced.set)


async def test_certificates_of_members_are_saved() -> None:
    disk = NotifyingDisk()
    members = MemberCertificates("south", disk)
    members.add({"serialNumber": "01", "issuer": ()})
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(CertificateWatch(lambda: (), members).run)
            await disk.synced.wait()
            nursery.cancel_scope.cancel()
    assert FILE_NAME in disk.names()
    assert MemberCertificates("south", disk).hello() == members.hello()
