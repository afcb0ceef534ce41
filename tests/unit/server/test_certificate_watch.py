"""Certificates that run out are told of ahead, once a day, and what members showed is kept."""

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


def test_nothing_is_said_while_there_is_time(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(31 * DAY, 400 * DAY)
    watched.watch.warn()
    assert (watched.watch.warnings, watched.watch.problem, caplog.records) == ([], "", [])


def test_each_is_told_once_a_day_and_when_it_has_expired(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(3 * DAY, 400 * DAY)
    for _ in range(4 * 24):
        watched.watch.warn()
        watched.now += DAY / 24
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING] * 3 + [logging.ERROR]
    assert "0.pem has expired" in watched.watch.problem
    assert watched.watch.warnings == [watched.watch.problem]


def test_reload_with_another_certificate_ends_it() -> None:
    watched = Watched(-DAY)
    assert watched.watch.problem
    watched.expiries = [Expiry(Path("0.pem"), NOW + 365 * DAY)]
    assert not watched.watch.problem
    assert not watched.watch.warnings


class ToldDisk(MemoryDisk):
    """Says when something is durable."""

    def __init__(self) -> None:
        super().__init__()
        self.synced = trio.Event()

    def sync_dir(self) -> None:
        super().sync_dir()
        trio.from_thread.run_sync(self.synced.set)


async def test_what_members_showed_is_written_down() -> None:
    disk = ToldDisk()
    members = MemberCertificates("south", disk)
    members.noted({"serialNumber": "01", "issuer": ()})
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(CertificateWatch(lambda: (), members).run)
            await disk.synced.wait()
            nursery.cancel_scope.cancel()
    assert FILE_NAME in disk.names()
    assert MemberCertificates("south", disk).hello() == members.hello()
