"""Watch the certificates of a running node: warn before they expire, and save those that members present."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from node.raft.certificates import Expiry, MemberCertificates

log = logging.getLogger("stanchion.peers")

LOOK_S = 1.0
WARN_EVERY = datetime.timedelta(days=1)


def utc_now() -> datetime.datetime:
    """Return the time of the wall clock, which the dates in certificates refer to."""
    return datetime.datetime.now(datetime.UTC)


class CertificateWatch:
    """Reports certificate expiry to `/healthz` and the log.

    Args:
        expiries: returns when this node's certificates expire; the result may change with a reload.
        members: the certificates of members, saved when one was added; None without TLS.
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
        self._warned: dict[tuple[Path, datetime.datetime, bool], datetime.datetime] = {}

    @property
    def warnings(self) -> list[str]:
        """One text for each certificate that has expired or expires within 30 days."""
        now = self._now()
        return [text for expiry in self._expiries() if (text := expiry.warning(now))]

    @property
    def problem(self) -> str:
        """Why no new link can be established: an expired certificate. Empty if none has expired."""
        now = self._now()
        return next((expiry.warning(now) for expiry in self._expiries() if expiry.has_expired(now)), "")

    async def run(self) -> None:
        """Check every ``LOOK_S`` seconds until cancelled.

        Raises:
            DiskError: the list of members' certificates can't be written.
        """
        while True:
            self.warn()
            if self._members is not None and self._members.is_dirty:
                await trio.to_thread.run_sync(self._members.save)
            await trio.sleep(LOOK_S)

    def warn(self) -> None:
        """Log each of `warnings` once a day, and once more when the certificate has expired."""
        now = self._now()
        for expiry in self._expiries():
            text, has_expired = expiry.warning(now), expiry.has_expired(now)
            key = (expiry.path, expiry.at, has_expired)
            if text and (key not in self._warned or now - self._warned[key] >= WARN_EVERY):
                self._warned[key] = now
                log.log(logging.ERROR if has_expired else logging.WARNING, "%s", text)
