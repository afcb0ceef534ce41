"""AckWaits: which subscriptions may get redeliveries, and when their first unacked message is due.

There is no timer for each message. A subscription has one deadline: that of the first record of its
``unacked``, which is in order of time. The deadlines of all subscriptions are in one heap,
``State.ack_deadlines``.

An unreachable subscription is sent nothing. A plain or durable subscription of an unresponsive client gets
no redeliveries (D25). Such subscriptions have no deadline; ``due.resume_sending`` looks at them again when
that changes. The same holds for all subscriptions of a cursor that an operator has paused: their AckWaits
stand still.
"""

from __future__ import annotations

from .state import State, Subscription


def may_redeliver(member: Subscription) -> bool:
    """Return True if messages may be redelivered to it.

    An unresponsive member of a queue group still gets redeliveries (D29).
    """
    group = member.group
    return member.reachable and group.paused_ns is None and (bool(group.queue) or not member.unresponsive)


def first_deadline(member: Subscription) -> int | None:
    """Return when AckWait passes for its first unacked message, in cluster time. None if it holds none.

    Call it only while nothing is due and the group is not paused.
    """
    first = next(iter(member.unacked.values()), None)
    return None if first is None else first.sent_at_ns + member.ack_wait_ns + member.group.stood_ns


def passed(member: Subscription, now_ns: int) -> bool:
    """Return True if AckWait has passed for a message that may be redelivered to it.

    Call it only while nothing is due.
    """
    if not may_redeliver(member):
        return False
    deadline_ns = first_deadline(member)
    return deadline_ns is not None and deadline_ns <= now_ns


def watch(state: State, member: Subscription) -> None:
    """Arm the deadline of its first unacked message, if it may get redeliveries.

    Not while its group is marked as due: `dispatch` calls this for every member when nothing is due any
    more. So this always holds: *if a subscription holds messages that may be redelivered to it, its deadline
    is armed, no later than its first message is due; or its group is marked as due.* This must follow from
    the state alone. Otherwise a restored node, which arms every subscription for which it holds, would find
    other messages due (R30).
    """
    if (
        member.id in state.ack_deadlines
        or member.group.id in state.redelivery_due
        or not may_redeliver(member)
    ):
        return
    deadline_ns = first_deadline(member)
    if deadline_ns is not None:
        state.ack_deadlines.arm(member.id, deadline_ns)
