"""A running node's certificates: that they run out is told ahead, and those that members show are kept."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from node.raft.certificates import Expiry, MemberCertificates

log = logging.getLogger("stanchion.peers")

LOOK_S = 1.0
TOLD_EVERY = datetime.timedelta(days=1)


def utc_now() -> datetime.datetime:
    """The wall clock: certificates are dated by it."""
    return datetime.datetime.now(datetime.UTC)


class CertificateWatch:
    """What `/healthz` and the log say of certificates.

    Args:
        expiries: when this node's certificates run out; others after a reload.
        members: to be saved when something was added; None without TLS.
        now: the wall clock.
    """

    def __init__(
        self,
        expiries: Callable[[], Sequence[Expiry]],
        members: MemberCertificates | None = None,
        now: Callable[[], datetime.datetime] = utc_now,
    ) -> None:
        self._expiries = expiries
        self._members = members
        self._now = now
        self._notified: dict[tuple[Path, datetime.datetime, bool], datetime.datetime] = {}

    @property
    def warnings(self) -> list[str]:
        """One for each certificate that runs out within 30 days, or has."""
        now = self._now()
        return [text for expiry in self._expiries() if (text := expiry.warning(now))]

    @property
    def problem(self) -> str:
        """Why no new link comes up any more; empty while one can."""
        now = self._now()
        return next((expiry.warning(now) for expiry in self._expiries() if expiry.has_expired(now)), "")

    async def run(self) -> None:
        """Look, until cancelled.

        Raises:
            DiskError: the list of members' certificates can't be written.
        """
        while True:
            self.tell()
            if self._members is not None and self._members.is_dirty:
                await trio.to_thread.run_sync(self._members.save)
            await trio.sleep(LOOK_S)

    def tell(self) -> None:
        """Log what `warnings` says, once a day for each certificate, and once more when it has run out."""
        now = self._now()
        for expiry in self._expiries():
            text, is_over = expiry.warning(now), expiry.has_expired(now)
            key = (expiry.path, expiry.at, is_over)
            if text and (key not in self._notified or now - self._notified[key] >= TOLD_EVERY):
                self._notified[key] = now
                log.log(logging.ERROR if is_over else logging.WARNING, "%s", text)
