"""Memory, processor time and files of this process, as reported by Linux; 0 elsewhere."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS_MIN = 0.5
"""Processor use is measured over at least this time, so that two requests at the same time agree."""


@dataclass(frozen=True, slots=True)
class Process:
    """One measurement."""

    memory: int = 0
    """Resident bytes."""
    cpu: float = 0.0
    """Percent of one core, since the previous measurement."""
    cores: int = 1
    open_fds: int = 0
    max_fds: int = 0


class ProcessMeter:
    """Measures this process on request. Reads ``/proc``, which never blocks.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at = clock()
        self._used = _processor_seconds()
        self._cpu = 0.0

    def look(self) -> Process:
        """Return the current values; ``cpu`` is the average of at least half a second."""
        now, used = self._clock(), _processor_seconds()
        if now - self._looked_at >= SAMPLE_SECONDS_MIN:
            self._cpu = round(100 * (used - self._used) / (now - self._looked_at), 1)
            self._looked_at, self._used = now, used
        return Process(
            memory=_resident_bytes(),
            cpu=self._cpu,
            cores=os.cpu_count() or 1,
            open_fds=_open_files(),
            max_fds=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not Linux: the field is then 0
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _open_files() -> int:
    try:
        counted = os.stat("/proc/self/fd").st_size  # noqa: PTH116  (as the next one)
        if counted:  # Linux since 6.2: without listing twenty thousand files
            return counted
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (names only: no object for each)
    except OSError:
        return 0
