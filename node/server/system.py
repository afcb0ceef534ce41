"""What a node takes from the machine it runs on: clocks and chance. The simulator gives its own."""

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
"""62 ** 22 is more than 2 ** 130: as hard to guess as a key."""


@dataclass(frozen=True, slots=True)
class System:
    """Clocks and chance of one machine."""

    monotonic_ns: Callable[[], int] = time.monotonic_ns
    """Nanoseconds that only elapse; also while the process is stopped."""
    wall_clock_ns: Callable[[], int] = time.time_ns
    """Unix nanoseconds; may be wrong and may jump."""
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    boot_ns: Callable[[], int] | None = None
    """Like ``monotonic_ns``, but goes on while the machine is suspended; None: there is no such clock."""

    def monotonic_s(self) -> float:
        """The monotonic clock in seconds."""
        return self.monotonic_ns() / 1e9

    def nuid(self) -> str:
        """22 random letters and digits, one token of a subject that nobody can guess."""
        number = int.from_bytes(self.random_bytes(20))
        letters = []
        for _ in range(NUID_LENGTH):
            number, place = divmod(number, len(_ALPHABET))
            letters.append(_ALPHABET[place])
        return "".join(letters)
