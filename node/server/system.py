"""The clocks and random numbers of the machine. The simulator supplies its own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass


def boot_time_ns() -> int:
    """Nanoseconds since the machine booted, suspension included (Linux, CLOCK_BOOTTIME)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
NUID_LENGTH = 22
"""Characters. 62 ** 22 is more than 2 ** 130: as hard to guess as a key."""


@dataclass(frozen=True, slots=True)
class System:
    """The clocks and random numbers of one machine."""

    monotonic_ns: Callable[[], int] = time.monotonic_ns
    """Nanoseconds that never go back and also elapse while the process is stopped."""
    wall_clock_ns: Callable[[], int] = time.time_ns
    """Unix nanoseconds; may be wrong and may jump."""
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    boot_ns: Callable[[], int] | None = None
    """Like ``monotonic_ns``, but also elapses while the machine is suspended; None: no such clock."""

    def monotonic_s(self) -> float:
        """The monotonic clock in seconds."""
        return self.monotonic_ns() / 1e9

    def nuid(self) -> str:
        """Return 22 random letters and digits: a subject token that can't be guessed."""
        number = int.from_bytes(self.random_bytes(20))
        letters = []
        for _ in range(NUID_LENGTH):
            number, place = divmod(number, len(_ALPHABET))
            letters.append(_ALPHABET[place])
        return "".join(letters)
