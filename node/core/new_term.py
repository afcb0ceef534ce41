"""A new term: restart AckWaits of deliveries that may not have been sent (R10).

These are the deliveries by entries that the new leader did not know to be committed when elected. Effects
are executed only after commit, so no node may have executed them. AckWaits of their messages therefore start
again with the first entry of the term. Their records are the newest, at the end of each ``unacked``. Their
number depends on how far the leader was behind, and may be too large for one entry (R19). Then the next
entries continue. Nothing is sent before all are restarted, because until then deadlines count from the first
send.
"""

from __future__ import annotations

from .apply_context import ApplyContext
from .commands import NewTerm
from .state import Record, Restart, State, Subscription

RESTARTED_MAX = 16_384
"""Number of restarted records after which an entry visits no further subscription; a visit counts as one.

A subscription is always finished in one entry. It was sent at most 1,000 messages by each entry that the
leader was behind.
"""


def begin_term(context: ApplyContext, command: NewTerm) -> None:
    """Begin a new term."""
    state = context.state
    state.term = command.term
    # the leader that paused it was replaced; the new one proposes its own pause
    state.redelivery_paused = False
    known = command.known_commit
    if state.restart is not None:  # the last term was short: this one also restarts what that one did not
        known = min(known, state.restart.known_commit)
    context.effects.began_term = known
    state.restart = Restart(known, context.time_ns, 0)
    restart(context)


def restart(context: ApplyContext) -> bool:
    """Continue to restart AckWaits. Return True if all are restarted."""
    state = context.state
    if state.restart is None:
        return True
    known_commit, time_ns, first = state.restart
    looks = 0
    for subscription in state.subscriptions.values():
        if subscription.id < first:
            continue
        if looks >= RESTARTED_MAX:
            state.restart = Restart(known_commit, time_ns, subscription.id)
            return False
        looks += 1 + _restart(state, subscription, known_commit, time_ns)
    state.restart = None
    return True


def _restart(state: State, subscription: Subscription, known_commit: int, time_ns: int) -> int:
    """Set the send time of messages sent by entries above ``known_commit`` to now; return their number."""
    unacked, now_ns = subscription.unacked, subscription.group.clock(time_ns)
    restarted: dict[Record, Record] = {}
    count = 0
    for seq in reversed(unacked):
        record = unacked[seq]
        if record.entry <= known_commit:
            break
        new_record = restarted.get(record)
        if new_record is None:
            new_record = restarted[record] = record._replace(sent_at_ns=now_ns)
        unacked[seq] = new_record  # a new value at the same position
        count += 1
    if count:
        state.dirty.unacked[subscription.id] = None
    return count
