"""AckWaits: who may be sent a message again, and when the first of what it holds falls due.

There is no timer for each message. A subscription has one deadline, that of the first record of its
``unacked``, which stands in order of time; all of them stand in one heap, ``State.ack_deadlines``.

What **waits**: nothing at all is sent to a subscription that nobody hears, nothing is redelivered to
a plain or durable one whose client is silent (D25). Such a subscription has no deadline to look at;
``due.resume_sending`` looks again when it is back. The same holds for all that share a cursor which an
operator has paused; their AckWaits stand still.
"""

from __future__ import annotations

from .state import State, Subscription


def may_redeliver(member: Subscription) -> bool:
    """A message may be sent to it again. A silent member of a queue group takes its part (D29)."""
    group = member.group
    return member.reachable and group.paused_ns is None and (bool(group.queue) or not member.unresponsive)


def first_deadline(member: Subscription) -> int | None:
    """When AckWait passes for the first of what it holds, None if nothing. Asked while nothing is due.

    In cluster time, and for a group that isn't paused.
    """
    first = next(iter(member.unacked.values()), None)
    return None if first is None else first.sent_at_ns + member.ack_wait_ns + member.group.stood_ns


def passed(member: Subscription, now_ns: int) -> bool:
    """AckWait has passed for a message that may be sent to it again. Asked while nothing is due."""
    if not may_redeliver(member):
        return False
    deadline_ns = first_deadline(member)
    return deadline_ns is not None and deadline_ns <= now_ns


def watch(state: State, member: Subscription) -> None:
    """Arm the deadline of its first unacked message, if it may be sent to at all.

    Not while its group is overdue: who sends what is due looks for more, and calls this for every member when
    there is none. So always: *who holds something that may be sent to it again is armed, no later than
    when the first of it falls due; or its group is overdue.* That follows from the state alone, as it must:
    otherwise a restored node, which arms everyone of whom it is true, would find other messages due (R30).
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
