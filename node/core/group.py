"""The choice of the queue group member that gets the next message.

The reachable member with the fewest unacked messages gets it; among equals, the first in the list. If the
chosen member is the head of the list it moves to the end, so equal members take turns. Stalled and
unresponsive members are skipped while there is another (D15). A single subscription is a group of one, and
needs no choice.

A *burst* is distributed between two arrivals of acks, and acks arrive in blocks. The member whose acks
arrive first would have far fewer unacked messages, and would get most of the burst. So in a burst all
members that keep up with the quickest are assumed to have their mean number of unacked messages. A slow
member keeps its own number, and gets less. Slowness is relative: when all members stood still, as in an
election, none is slow.

Unreachable members are left out (R15): a message sent to them would only wait. So *list* above means the
list of reachable members.
"""

from __future__ import annotations

from node.units import MILLISECOND, SECOND

from .state import Group, Subscription

BURST = 16
"""Number of messages distributed in one entry that makes a burst."""

KEEPS_UP_NS = SECOND
"""A member keeps up if it has held its oldest unacked message at most this much longer than the quickest
member: its acks are on the way. Two blocks of acks are separated by a scheduling round of the client's
process and a log entry, together half a second on a busy machine. A member that is really slow soon falls
behind further."""

KEEPS_UP_1_NS = 100 * MILLISECOND
"""`KEEPS_UP_NS` of machine version 1."""

_FULL = 1 << 62
"""Replaces the number of unacked messages of a member that is skipped."""


def choose_for_redelivery(group: Group, reachable: list[Subscription]) -> Subscription:
    """Return the member that gets a redelivery, regardless of its max in flight (D27, D30).

    Args:
        group: the group; its order of turns is updated.
        reachable: its reachable members, in order, at least one; the order is updated.
    """
    chosen = reachable[0]
    fewest = _FULL
    for member in reachable:
        pending = len(member.unacked)
        if pending < fewest and pending < member.max_in_flight and not member.unresponsive:
            chosen, fewest = member, pending
    if chosen is reachable[0] and len(group.members) > 1:
        reachable.append(reachable.pop(0))
        group.members.remove(chosen)
        group.members.append(chosen)
    return chosen


def share_out(
    group: Group, reachable: list[Subscription], first: int, last: int, now_ns: int, keeps_up_ns: int
) -> list[Subscription]:
    """Return the receivers of the new messages ``first`` to ``last``, as far as the members have capacity.

    Updates the order of turns, but sends nothing. ``now_ns`` is the group's time. ``keeps_up_ns`` is
    `KEEPS_UP_NS` for the machine version in effect.

    Returns:
        The receivers of ``first`` and the following messages; fewer than requested if the members are full.
    """
    members = reachable.copy()  # these three lists rotate together
    capacity = [member.max_in_flight - len(member.unacked) for member in members]
    counts = [
        _FULL if member.unresponsive or free <= 0 else len(member.unacked)
        for member, free in zip(members, capacity, strict=True)
    ]
    if last - first + 1 >= BURST:
        _even_out(members, counts, now_ns, keeps_up_ns)
    receivers: list[Subscription] = []
    turns = 0
    for _ in range(first, last + 1):
        fewest = min(counts)
        if fewest != _FULL:
            at = counts.index(fewest)
            counts[at] = fewest + 1 if capacity[at] > 1 else _FULL
        else:  # no member is eligible: take the first with capacity, thus an unresponsive one (D16, Target)
            at = next((place for place, free in enumerate(capacity) if free > 0), -1)
            if at < 0:
                break
        capacity[at] -= 1
        receivers.append(members[at])
        if at == 0:
            turns += 1
            members.append(members.pop(0))
            capacity.append(capacity.pop(0))
            counts.append(counts.pop(0))
    _rotate(group, members, turns)
    return receivers


def _even_out(members: list[Subscription], counts: list[int], now_ns: int, keeps_up_ns: int) -> None:
    """Replace the counts of the members that keep up by their mean."""
    since_ns = {
        at: _unacked_since_ns(member, now_ns) for at, member in enumerate(members) if counts[at] != _FULL
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


def _rotate(group: Group, reachable: list[Subscription], turns: int) -> None:
    """Set the group's order after ``turns`` heads moved to the end; ``reachable`` is in the new order."""
    if turns:
        moved = reachable[-turns:] if turns < len(reachable) else reachable
        group.members = [member for member in group.members if member not in moved] + moved
