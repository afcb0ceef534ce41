"""A heap of deadlines, at most one per object.

An object is identified by its number. Deadlines are *lazy*: one may be earlier than the true deadline of its
object (an ack does not update the heap, delivery rule D19), never later. If it fires and nothing is due, it
is armed again. So the set of armed deadlines is not part of the replicated state: a node that restored a
checkpoint arms the exact ones, another node still has earlier ones, and both find the same messages due.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

_STALE_MIN = 64
"""Below this size the heap is not cleaned of stale items."""


class Deadlines:
    """At most one deadline (ns, of one clock) for each number."""

    __slots__ = ("_armed", "_heap")

    def __init__(self) -> None:
        self._armed: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def __contains__(self, number: int) -> bool:
        return number in self._armed

    def armed(self, number: int) -> int | None:
        """Return the deadline of that number, None if it has none."""
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
        """Return the next deadline, None if there is none."""
        heap, armed = self._heap, self._armed
        while heap and armed.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def pop(self, now_ns: int) -> tuple[int, int] | None:
        """Disarm the next deadline if it has passed and return it with its number, else None."""
        deadline_ns = self.earliest()
        if deadline_ns is None or deadline_ns > now_ns:
            return None
        _, number = heappop(self._heap)
        del self._armed[number]
        return deadline_ns, number

    def fire(self, now_ns: int) -> list[int]:
        """Disarm every deadline that has passed; return their numbers, sorted.

        They are sorted by number, not by deadline, because lazy deadlines differ between nodes.
        """
        fired = []
        while (passed := self.pop(now_ns)) is not None:
            fired.append(passed[1])
        fired.sort()
        return fired
