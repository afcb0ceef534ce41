"""Shares the time of the event loop between client connections.

Each connection processes its input in steps of a few milliseconds (`connection.STEP_COST`). If a hundred
connections did so in one round of the loop, consensus, peers and timers would wait for half a second. So all
connections together have a share of each round. Until it is used up, a connection processes its input as soon
as it was read. After that connections queue, and a task runs one step of each in turn, up to the share in
each round. A connection with more steps to run goes to the end of the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

from node.server.loop_watch import LoopWatch

SHARE_S: Final = 0.004
"""Time of one round for all client connections. The step that exceeds it is still finished."""


class Worker(Protocol):
    """The part of a connection that is needed here."""

    @property
    def resting(self) -> bool: ...
    @property
    def rests_until_s(self) -> float: ...
    def received(self, data: bytes | bytearray) -> None: ...
    def go_on(self) -> None: ...


class _Waiting:
    """A connection in the queue."""

    __slots__ = ("connection", "data", "done")

    def __init__(self, connection: Worker, data: bytes | bytearray | None) -> None:
        self.connection = connection
        self.data = data
        """Input that it has not processed yet; None if it rests."""
        self.done = trio.Event()


class Turns:
    """The queue of connections that have input to process.

    Args:
        loop: counts the rounds of the event loop.
        clock: monotonic seconds.
    """

    def __init__(self, loop: LoopWatch, clock: Callable[[], float] = trio.current_time) -> None:
        self._loop = loop
        self._clock = clock
        self._round = -1
        self._spent_s = 0.0
        self._queue: deque[_Waiting] = deque()
        self._runs = False
        self._wake = trio.Event()

    def __len__(self) -> int:
        """Return the number of waiting connections."""
        return len(self._queue)

    @property
    def _is_spent(self) -> bool:
        if not self._runs:
            return False
        if self._round != self._loop.rounds:
            self._round, self._spent_s = self._loop.rounds, 0.0
        return self._spent_s >= SHARE_S

    async def received(self, connection: Worker, data: bytes | bytearray) -> None:
        """Have ``connection`` process its input, at once if no connection waits.

        Returns when it has processed it, or begun to and has no step left that could run now.
        """
        if self._queue or self._is_spent:
            await self._wait(_Waiting(connection, data))
        else:
            began_s = self._clock()
            connection.received(data)
            self._spent_s += self._clock() - began_s

    async def go_on(self, connection: Worker) -> None:
        """Let ``connection``, which rests, continue until it has finished or rests until a later time.

        Waits for its ``rests_until_s`` first. If `run` is not running there is no queue: the connection runs
        one step in the next round.
        """
        if connection.rests_until_s > self._clock():
            await trio.sleep_until(connection.rests_until_s)
        if self._runs:
            await self._wait(_Waiting(connection, None))
        else:
            await trio.lowlevel.checkpoint()
            connection.go_on()

    async def _wait(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        self._wake.set()
        await waiting.done.wait()

    async def run(self) -> None:
        """Run the steps of waiting connections until cancelled. The loop must be watched by `LoopWatch`."""
        self._runs = True
        try:
            while True:
                if not self._queue:
                    self._wake = trio.Event()
                    await self._wake.wait()
                await trio.lowlevel.checkpoint()  # a round for all other tasks
                while self._queue and not self._is_spent:
                    began_s = self._clock()
                    self._step(self._queue.popleft())
                    self._spent_s += self._clock() - began_s
        finally:
            self._runs = False

    def _step(self, waiting: _Waiting) -> None:
        connection = waiting.connection
        if waiting.data is not None:
            data, waiting.data = waiting.data, None
            connection.received(data)
        elif connection.resting:
            connection.go_on()
        if connection.resting and connection.rests_until_s <= self._clock():
            self._queue.append(waiting)
        else:
            waiting.done.set()
