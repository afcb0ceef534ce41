"""Deadlines: a heap of them, one for each thing that waits.

A thing is known by its number; what it waits for is looked up when its time has come. Deadlines
are *lazy*: one may be earlier than what its thing really waits for (an ack doesn't touch the heap,
delivery rule D19), never later. When it fires and nothing is due, it is armed again. So which
deadlines are armed is no part of the replicated state: a node that restored a checkpoint arms the
exact ones, another still has the earlier ones, and both find the same things due.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

_STALE_MIN = 64
"""The heap is not cleaned of stale items below this size."""


class Deadlines:
    """At most one deadline (in ns, of one clock) for each number."""

    __slots__ = ("_armed", "_heap")

    def __init__(self) -> None:
        self._armed: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def __contains__(self, number: int) -> bool:
        return number in self._armed

    def armed(self, number: int) -> int | None:
        """The deadline of that number, None if it has none."""
        return self._armed.get(number)

    def arm(self, number: int, deadline_ns: int) -> None:
        self._armed[number] = deadline_ns
        heappush(self._heap, (deadline_ns, number))
        if len(self._heap) > 2 * len(self._armed) + _STALE_MIN:
            self._heap = [(deadline, number) for number, deadline in self._armed.items()]
            heapify(self._heap)

    def disarm(self, number: int) -> None:
        self._armed.pop(number, None)  # its heap item is stale from now on

    def earliest(self) -> int | None:
        """The next deadline, None if there is none."""
        heap, armed = self._heap, self._armed
        while heap and armed.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def pop(self, now_ns: int) -> tuple[int, int] | None:
        """Disarm the next deadline if it has passed: it and its number, else None."""
        deadline_ns = self.earliest()
        if deadline_ns is None or deadline_ns > now_ns:
            return None
        _, number = heappop(self._heap)
        del self._armed[number]
        return deadline_ns, number

    def fire(self, now_ns: int) -> list[int]:
        """Disarm every deadline that has passed; their numbers, sorted.

        Sorted by number and not by deadline, because lazy deadlines differ between nodes.
        """
        fired = []
        while (passed := self.pop(now_ns)) is not None:
            fired.append(passed[1])
        fired.sort()
        return fired
