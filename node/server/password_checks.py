"""Fair scheduling of password comparisons when more wait than the processors can do.

A bcrypt comparison takes tens to hundreds of milliseconds on purpose, and only a few run at a time. Any
client can request many of them by connecting with wrong passwords. So addresses take turns, and within an
address its users take turns: a first login waits for one comparison of each other address, not for all of an
attacker's. The same password of the same user is compared once for all connections that wait for it, as when
a thousand clients reconnect at once. If too many comparisons wait, of one address or in total, the oldest one
is dropped: its client gets a timeout error and tries again.
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
"""Waiting comparisons of one address."""

WAITING_MAX: Final = 512
"""Waiting comparisons of all addresses."""

T = TypeVar("T")


def workers() -> int:
    """Return how many comparisons run at a time: each keeps a processor busy, and consensus needs one."""
    return max(1, min(2, len(os.sched_getaffinity(0)) - 1))


class Turns(Generic[T]):
    """A bounded queue in which addresses take turns, and within an address its users.

    Args:
        address_max: maximum number of items of one address.
        total_max: maximum number of all items.
    """

    def __init__(self, address_max: int = ADDRESS_WAITING_MAX, total_max: int = WAITING_MAX) -> None:
        self._address_max = address_max
        self._total_max = total_max
        self._lines: OrderedDict[str, OrderedDict[str, deque[T]]] = OrderedDict()
        self._counts: dict[str, int] = {}
        self._total = 0

    def add(self, address: str, user: str, item: T) -> T | None:
        """Queue ``item``. Returns the item that was dropped to make space for it, if any."""
        users = self._lines.setdefault(address, OrderedDict())
        users.setdefault(user, deque()).append(item)
        self._counts[address] = self._counts.get(address, 0) + 1
        self._total += 1
        if self._counts[address] > self._address_max:
            return self._drop_oldest(address)
        if self._total > self._total_max:
            return self._drop_oldest(max(self._counts, key=self._counts.__getitem__))
        return None

    def next(self) -> T | None:
        """Take the next item; None if the queue is empty."""
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
        """Remove ``item``: no connection waits for it any more. It may have been taken already."""
        users = self._lines.get(address)
        line = None if users is None else users.get(user)
        if line is not None and item in line:
            line.remove(item)
            self._taken(address, user)

    def _drop_oldest(self, address: str) -> T:
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
    """One comparison, and the number of connections that wait for it."""

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
        workers: how many comparisons run at a time.
        address_max: how many of one address may wait.
        total_max: how many may wait in total.
    """

    def __init__(
        self, workers: int, *, address_max: int = ADDRESS_WAITING_MAX, total_max: int = WAITING_MAX
    ) -> None:
        self._free = workers
        self._turns: Turns[_Comparison] = Turns(address_max, total_max)
        self._comparisons: dict[Hashable, _Comparison] = {}

    async def compare(self, check: Check, host: str) -> Identity | None:
        """Return the identity that the password proves; None if the password is wrong.

        Args:
            check: the comparison.
            host: the client's address.

        Raises:
            UnavailableError: the comparison was dropped, because too many wait.
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
        dropped = self._turns.add(address, check.user, comparison)
        if dropped is not None:
            log.warning(
                "too many passwords wait to be compared, the latest from %s: one comparison was dropped",
                address,
                source=address,
            )
            dropped.error = UnavailableError("too many passwords wait to be compared")
            self._end(dropped)
        self._start()
        return comparison

    def _start(self) -> None:
        while self._free and (comparison := self._turns.next()) is not None:
            self._free -= 1
            comparison.is_begun = True
            # Not a task of the waiting connection: if the client leaves, the processor is still busy.
            trio.lowlevel.spawn_system_task(self._run, comparison)

    async def _run(self, comparison: _Comparison) -> None:
        try:
            comparison.outcome = await trio.to_thread.run_sync(comparison.check.run, abandon_on_cancel=True)
        except Exception as error:  # raised in each waiting `compare`
            comparison.error = error
        self._free += 1
        self._end(comparison)
        self._start()

    def _end(self, comparison: _Comparison) -> None:
        del self._comparisons[comparison.check.key]
        comparison.done.set()
