"""The loop's time, shared between client connections.

Each connection carries out what it was sent in steps of a few milliseconds (`connection.STEP_COST`). A
hundred connections that do so in one round of the loop would still be half a second in which consensus, peers
and timers wait. So all connections together have a share of each round. As long as it isn't spent, a read is
carried out where it was read. After that connections queue, and a task carries out one step of each in turn,
a share's worth in each round. A connection that has a step left goes to the end of the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

from node.server.loop_watch import LoopWatch

SHARE_S: Final = 0.004
"""What client connections may spend of one round. The step that reaches it is finished."""


class Worker(Protocol):
    """What is needed of a connection."""

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
        """What it has read and not taken yet; None if it rests."""
        self.done = trio.Event()


class Turns:
    """Whose turn it is.

    Args:
        loop: tells rounds apart.
        clock: seconds that only elapse.
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
        """The number of connections that wait."""
        return len(self._queue)

    @property
    def _is_spent(self) -> bool:
        if not self._runs:
            return False
        if self._round != self._loop.rounds:
            self._round, self._spent_s = self._loop.rounds, 0.0
        return self._spent_s >= SHARE_S

    async def received(self, connection: Worker, data: bytes | bytearray) -> None:
        """Have ``connection`` carry out what it has read: at once if nobody waits. Returns when it has begun,
        or rests no more.
        """
        if self._queue or self._is_spent:
            await self._wait(_Waiting(connection, data))
        else:
            began_s = self._clock()
            connection.received(data)
            self._spent_s += self._clock() - began_s

    async def go_on(self, connection: Worker) -> None:
        """Have ``connection``, which is resting, carry on until it rests no more, or until some later time.

        Waits for its ``rests_until_s`` first. Without `run` there is no queue: it takes one step in the next
        round.
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
        """Carry out what waits, until cancelled. In a loop that is watched."""
        self._runs = True
        try:
            while True:
                if not self._queue:
                    self._wake = trio.Event()
                    await self._wake.wait()
                await trio.lowlevel.checkpoint()  # a round for everybody else
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
