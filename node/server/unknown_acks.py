"""Acknowledgements on ack inboxes that this node's applied state does not have (R18).

There are two cases. Either no subscription has such an inbox: it was made up, its subscription has ended, or
the subscription was resumed with another one. Such an acknowledgement has no effect when it is applied, and
replicating it would let any client cause useless work. Or this node is behind: an entry that it has not
applied yet opened the subscription, and the client already acknowledges what another node delivered. That
acknowledgement must not be lost.

An inbox is drawn at random when its subscription is opened, and is never used again. So an unknown
acknowledgement is held here until an entry opens a subscription with its inbox, and dropped after
``HELD_NS``: a node that hears its leader is never that far behind. Without a leader nothing is held; see
`Streaming`.

A plain object without I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

from node.core.commands import Acked
from node.units import SECOND

HELD_NS: Final = 5 * SECOND
"""Longer than a node can be behind without noticing it, which is an election timeout (R4)."""

HELD_MAX: Final = 4096
"""Maximum number of sequences held, for all inboxes. Above it the oldest are dropped. If they were genuine,
their messages are redelivered after AckWait."""


class _Held(NamedTuple):
    since_ns: int
    acked: Acked


class UnknownAcks:
    """Holds unknown acknowledgements for a while.

    Invariant: no more than ``HELD_MAX`` sequences, the oldest first.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, int], _Held] = OrderedDict()
        """By inbox and number of arrival."""
        self._by_inbox: dict[str, list[int]] = {}
        self._count = 0
        self._number = 0
        self.dropped = 0
        """Dropped sequences: no subscription had their inbox, or they named another channel."""

    def __len__(self) -> int:
        """Return the number of sequences held."""
        return self._count

    def hold(self, acked: Acked, now_ns: int) -> None:
        """Hold sequences of one inbox; drop those that are too old or exceed ``HELD_MAX``."""
        self.expire(now_ns)
        self._number += 1
        self._held[acked.ack_inbox, self._number] = _Held(now_ns, acked)
        self._by_inbox.setdefault(acked.ack_inbox, []).append(self._number)
        self._count += len(acked.seqs)
        while self._count > HELD_MAX:
            self._drop_oldest()

    def expire(self, now_ns: int) -> None:
        """Drop the sequences that were held for ``HELD_NS``."""
        while self._held and now_ns - next(iter(self._held.values())).since_ns >= HELD_NS:
            self._drop_oldest()

    def opened(self, ack_inbox: str) -> list[Acked]:
        """Take the acknowledgements for the subscription with this inbox, in order of arrival."""
        taken = []
        for number in self._by_inbox.pop(ack_inbox, ()):
            acked = self._held.pop((ack_inbox, number)).acked
            self._count -= len(acked.seqs)
            taken.append(acked)
        return taken

    def replaced(self, known: Iterable[str]) -> list[Acked]:
        """Take the acknowledgements for all inboxes of the state of a snapshot."""
        return [acked for inbox in sorted(self._by_inbox.keys() & set(known)) for acked in self.opened(inbox)]

    def _drop_oldest(self) -> None:
        (inbox, number), held = self._held.popitem(last=False)
        numbers = self._by_inbox[inbox]
        oldest = numbers.pop(0)
        assert oldest == number, (oldest, number)
        if not numbers:
            del self._by_inbox[inbox]
        self._count -= len(held.acked.seqs)
        self.dropped += len(held.acked.seqs)
