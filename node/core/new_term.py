"""A new term: what its leader did not know to be committed when elected may have reached nobody (R10).

Entries above that were performed by nobody, for sent means committed. So what they sent starts its AckWait
again with the term's first entry. It is the youngest, at the back of each ``unacked``; how much it is, is how
far the leader was behind, and that may be more than one entry should do (R19). Then the next ones go on with
it, and nothing is sent before it is done, for deadlines still run from the first time.
"""

from __future__ import annotations

from .apply_context import ApplyContext
from .commands import NewTerm
from .state import Record, Restart, State, Subscription

RESTARTED_MAX = 16_384
"""An entry that has restarted so many records, a subscription looked at counting as one, goes to no other.

One is done with in one entry: it was sent at most 1,000 messages by each of those the leader was behind.
"""


def begin_term(context: ApplyContext, command: NewTerm) -> None:
    """A new term begins."""
    state = context.state
    state.term = command.term
    state.redelivery_paused = False  # the leader that paused it is gone; this one says so itself
    known = command.known_commit
    if state.restart is not None:  # the term before was short: who has not had its turn has it in this one
        known = min(known, state.restart.known_commit)
    context.effects.began_term = known
    state.restart = Restart(known, context.time_ns, 0)
    restart(context)


def restart(context: ApplyContext) -> bool:
    """Go on starting AckWaits again; whether all have been."""
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
    """What the subscription was sent by entries above ``known_commit`` was sent now; how much that is."""
    unacked, now_ns = subscription.unacked, subscription.group.clock(time_ns)
    restarted: dict[Record, Record] = {}
    count = 0
    for seq in reversed(unacked):
        record = unacked[seq]
        if record.entry <= known_commit:
            break
        again = restarted.get(record)
        if again is None:
            again = restarted[record] = record._replace(sent_at_ns=now_ns)
        unacked[seq] = again  # a new value in its old place
        count += 1
    if count:
        state.dirty.unacked[subscription.id] = None
    return count
