"""Which password is compared next, when more wait than the processors have time for.

A bcrypt comparison takes tens to hundreds of milliseconds on purpose, and only a few run at a time. Anybody
may ask for as many as they like by connecting with wrong passwords. So addresses take turns, and within an
address the users that it names: whoever logs in for the first time waits for one comparison of each other
address, not for all of an attacker's. The very same password of the same user is compared once for all that
wait for it, as when a thousand clients come back at once. Too many of one address, or altogether, and the
one that has waited longest is given up: its client is told that it took too long, and tries again.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

import trio

from node.errors import UnavailableError
from node.limited_log import LimitedLog
from node.monitor.admission import address_key
from node.server.auth import Check, Identity

log = LimitedLog(logging.getLogger("stanchion.clients"))

ADDRESS_WAITING_MAX: Final = 64
"""Comparisons of one address that wait."""

WAITING_MAX: Final = 512
"""Of all addresses."""

T = TypeVar("T")


def workers() -> int:
    """How many comparisons run at a time: each keeps a processor busy, and consensus needs one too."""
    return max(1, min(2, len(os.sched_getaffinity(0)) - 1))


class Turns(Generic[T]):
    """A bounded queue in which addresses take turns, and within an address its users.

    Args:
        address_max: of one address.
        total_max: of all.
    """

    def __init__(self, address_max: int = ADDRESS_WAITING_MAX, total_max: int = WAITING_MAX) -> None:
        self._address_max = address_max
        self._total_max = total_max
        self._lines: OrderedDict[str, OrderedDict[str, deque[T]]] = OrderedDict()
        self._counts: dict[str, int] = {}
        self._total = 0

    def add(self, address: str, user: str, item: T) -> T | None:
        """Queue ``item``. Returns the one that had to be given up for it, if any."""
        users = self._lines.setdefault(address, OrderedDict())
        users.setdefault(user, deque()).append(item)
        self._counts[address] = self._counts.get(address, 0) + 1
        self._total += 1
        if self._counts[address] > self._address_max:
            return self._give_up(address)
        if self._total > self._total_max:
            return self._give_up(max(self._counts, key=self._counts.__getitem__))
        return None

    def next(self) -> T | None:
        """Take the one whose turn it is; None if nothing waits."""
        if not self._lines:
            return None
        address, users = next(iter(self._lines.items()))
        user, line = next(iter(users.items()))
        item = line.popleft()
        users.move_to_end(user)
        self._lines.move_to_end(address)
        self._taken(address, user)
        return item

    def discard(self, address: str, user: str, item: T) -> None:
        """Nobody waits for ``item`` any more. It may have been taken already."""
        users = self._lines.get(address)
        line = None if users is None else users.get(user)
        if line is not None and item in line:
            line.remove(item)
            self._taken(address, user)

    def _give_up(self, address: str) -> T:
        users = self._lines[address]
        user = max(users, key=lambda each: len(users[each]))
        item = users[user].popleft()
        self._taken(address, user)
        return item

    def _taken(self, address: str, user: str) -> None:
        users = self._lines[address]
        if not users[user]:
            del users[user]
        if not users:
            del self._lines[address]
        self._total -= 1
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]


class _Comparison:
    """One comparison, and how many wait for it."""

    __slots__ = ("address", "check", "done", "error", "is_begun", "outcome", "waiters")

    def __init__(self, check: Check, address: str) -> None:
        self.check = check
        self.address = address
        self.waiters = 0
        self.is_begun = False
        self.done = trio.Event()
        self.outcome: Identity | None = None
        self.error: Exception | None = None


class PasswordChecks:
    """Compares passwords in worker threads.

    Args:
        workers: how many at a time.
        address_max: how many of one address may wait.
        total_max: how many may wait altogether.
    """

    def __init__(
        self, workers: int, *, address_max: int = ADDRESS_WAITING_MAX, total_max: int = WAITING_MAX
    ) -> None:
        self._free = workers
        self._turns: Turns[_Comparison] = Turns(address_max, total_max)
        self._comparisons: dict[Hashable, _Comparison] = {}

    async def compare(self, check: Check, host: str) -> Identity | None:
        """Whose connection it is; None for a wrong password.

        Args:
            check: the comparison.
            host: where the client is.

        Raises:
            UnavailableError: it was given up, because too many wait.
        """
        comparison = self._comparisons.get(check.key)
        if comparison is None:
            comparison = self._add(check, address_key(host))
        comparison.waiters += 1
        try:
            await comparison.done.wait()
        finally:
            comparison.waiters -= 1
            if not comparison.waiters and not comparison.is_begun and not comparison.done.is_set():
                self._turns.discard(comparison.address, check.user, comparison)
                del self._comparisons[check.key]
        if comparison.error is not None:
            raise comparison.error
        return comparison.outcome

    def _add(self, check: Check, address: str) -> _Comparison:
        comparison = self._comparisons[check.key] = _Comparison(check, address)
        given_up = self._turns.add(address, check.user, comparison)
        if given_up is not None:
            log.warning(
                "too many passwords wait to be compared, the last from %s: one was given up",
                address,
                source=address,
            )
            given_up.error = UnavailableError("too many passwords wait to be compared")
            self._end(given_up)
        self._start()
        return comparison

    def _start(self) -> None:
        while self._free and (comparison := self._turns.next()) is not None:
            self._free -= 1
            comparison.is_begun = True
            # Not a task of whoever waits: a client that leaves must not free a processor that is still busy.
            trio.lowlevel.spawn_system_task(self._run, comparison)

    async def _run(self, comparison: _Comparison) -> None:
        try:
            comparison.outcome = await trio.to_thread.run_sync(comparison.check.run, abandon_on_cancel=True)
        except Exception as error:  # whoever waits for it raises it
            comparison.error = error
        self._free += 1
        self._end(comparison)
        self._start()

    def _end(self, comparison: _Comparison) -> None:
        del self._comparisons[comparison.check.key]
        comparison.done.set()
