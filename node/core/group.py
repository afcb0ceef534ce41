"""Which member of a queue group is next.

Among the members that can hear, the one with the fewest unacked messages takes the next; of several
the one earliest in the list. A chosen head of the list moves to its end, so equal members take
turns. Members that are stalled or silent are passed over while another is neither (D15). A single
subscription is a group of one, and none of this concerns it.

A *burst* is dealt between two moments at which acks come in, and they come in blocks. Who happens to be
heard first would be far ahead and get the most of it. So in a burst members that keep up with the quickest
are taken to have equally many unacked, their mean; a slow one still stands with its own number, and gets
less. Slow is measured by the others: when all of them stood still, as at an election, none is.

A member that nobody hears is out of the game altogether (R15): a message given to it would wait for
nothing. So *list* below is always the list of those that can hear.
"""

from __future__ import annotations

from node.units import MILLISECOND, SECOND

from .state import Group, Subscription

BURST = 16
"""So many messages dealt in one entry are a burst."""

KEEPS_UP_NS = SECOND
"""Who has held its oldest unacked message no longer than this longer than the quickest of them keeps up: its
acks are on the way. Between two blocks of acks lie a turn of each client's process and an entry of the log,
half a second together on a busy machine. A member that is slow indeed is behind by more, soon."""

KEEPS_UP_1_NS = 100 * MILLISECOND
"""The same in machine version 1."""

_FULL = 1 << 62
"""Stands for the number of unacked messages of a member that is passed over."""


def choose_for_redelivery(group: Group, able: list[Subscription]) -> Subscription:
    """The member that gets a message that is sent again, whatever its max in flight (D27, D30).

    Args:
        group: whose turn-taking this is.
        able: its members that can hear, in order, at least one; kept in order here.
    """
    chosen = able[0]
    fewest = _FULL
    for member in able:
        pending = len(member.unacked)
        if pending < fewest and pending < member.max_in_flight and not member.unresponsive:
            chosen, fewest = member, pending
    if chosen is able[0] and len(group.members) > 1:
        able.append(able.pop(0))
        group.members.remove(chosen)
        group.members.append(chosen)
    return chosen


def share_out(
    group: Group, able: list[Subscription], first: int, last: int, now_ns: int, keeps_up_ns: int
) -> list[Subscription]:
    """Who gets each of the new messages ``first`` to ``last``, as far as there is room.

    Nothing is sent yet; but the members have taken their turns. ``now_ns`` is the group's time,
    ``keeps_up_ns`` is `KEEPS_UP_NS` as of the machine version in effect.

    Returns:
        The receivers of ``first`` and those that follow it; fewer than asked if the members are full.
    """
    hands = able.copy()  # these three rotate together
    full = [member.max_in_flight - len(member.unacked) for member in hands]
    counts = [
        _FULL if member.unresponsive or room <= 0 else len(member.unacked)
        for member, room in zip(hands, full, strict=True)
    ]
    if last - first + 1 >= BURST:
        _even_out(hands, counts, now_ns, keeps_up_ns)
    receivers: list[Subscription] = []
    turns = 0
    for _ in range(first, last + 1):
        fewest = min(counts)
        if fewest != _FULL:
            at = counts.index(fewest)
            counts[at] = fewest + 1 if full[at] > 1 else _FULL
        else:  # nobody is eligible: the first that has room, a silent one then (D16, Target)
            at = next((place for place, room in enumerate(full) if room > 0), -1)
            if at < 0:
                break
        full[at] -= 1
        receivers.append(hands[at])
        if at == 0:
            turns += 1
            hands.append(hands.pop(0))
            full.append(full.pop(0))
            counts.append(counts.pop(0))
    _rotate(group, hands, turns)
    return receivers


def _even_out(hands: list[Subscription], counts: list[int], now_ns: int, keeps_up_ns: int) -> None:
    """Give those that keep up the mean of their counts."""
    since_ns = {
        at: _unacked_since_ns(member, now_ns) for at, member in enumerate(hands) if counts[at] != _FULL
    }
    slow_ns = max(since_ns.values(), default=0) - keeps_up_ns
    even = [at for at, unacked_since_ns in since_ns.items() if unacked_since_ns > slow_ns]
    if even:
        mean = sum(counts[at] for at in even) // len(even)
        for at in even:
            counts[at] = mean


def _unacked_since_ns(member: Subscription, now_ns: int) -> int:
    record = next(iter(member.unacked.values()), None)
    return now_ns if record is None else record.sent_at_ns


def _rotate(group: Group, able: list[Subscription], turns: int) -> None:
    """The first ``turns`` heads have moved to the end, and ``able`` is what came of it."""
    if turns:
        moved = able[-turns:] if turns < len(able) else able
        group.members = [member for member in group.members if member not in moved] + moved
