"""Which member of a queue group is next.

Among the members that can hear, the one with the fewest unacked messages takes the next; of several
the one earliest in the list. A chosen head of the list moves to its end, so equal members take
turns. Members that are stalled or silent are passed over while another is neither (D15). A single
subscription is a group of one, and none of this concerns it.

A member that nobody hears is out of the game altogether (R15): a message given to it would wait for
nothing. So *list* below is always the list of those that can hear.
"""

from __future__ import annotations

from .state import Group, Subscription

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
        if pending < fewest and pending < member.max_in_flight and not member.silent:
            chosen, fewest = member, pending
    if chosen is able[0] and len(group.members) > 1:
        able.append(able.pop(0))
        group.members.remove(chosen)
        group.members.append(chosen)
    return chosen


def share_out(group: Group, able: list[Subscription], first: int, last: int) -> dict[int, list[int]]:
    """Deal the new messages ``first`` to ``last``, as far as there is room.

    Nothing is sent yet; but the members have taken their turns.

    Returns:
        Each receiving member's sequences, by its id. Together they are ``first`` and those that
        follow it without a gap; fewer than asked if the members are full.
    """
    pending = [len(member.unacked) for member in able]
    room = [member.max_in_flight for member in able]
    counts = [
        _FULL if member.silent or have >= most else have
        for member, have, most in zip(able, pending, room, strict=True)
    ]
    given: list[list[int]] = [[] for _ in able]
    hands = list(zip(able, given, room, strict=True))  # rotates together with counts
    turns = 0
    for seq in range(first, last + 1):
        fewest = min(counts)
        if fewest == _FULL:
            at = _with_room(hands)  # nobody is eligible: a silent one, as long as it has room (D16, Target)
            if at is None:
                break
        else:
            at = counts.index(fewest)
        _, seqs, most = hands[at]
        seqs.append(seq)
        if fewest != _FULL:
            counts[at] = fewest + 1 if fewest + 1 < most else _FULL
        if at == 0:
            turns += 1
            hands.append(hands.pop(0))
            counts.append(counts.pop(0))
    _rotate(group, [member for member, _, _ in hands], turns)
    return {member.id: seqs for member, seqs, _ in hands if seqs}


def _with_room(hands: list[tuple[Subscription, list[int], int]]) -> int | None:
    for at, (member, seqs, most) in enumerate(hands):
        if len(member.unacked) + len(seqs) < most:
            return at
    return None


def _rotate(group: Group, able: list[Subscription], turns: int) -> None:
    """The first ``turns`` heads have moved to the end, and ``able`` is what came of it."""
    if turns:
        moved = able[-turns:] if turns < len(able) else able
        group.members = [member for member in group.members if member not in moved] + moved
