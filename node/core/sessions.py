"""Sessions of origins, which make each request take effect exactly once.

An origin numbers its commands and forwards them again until it sees that they are applied. Here each serial
takes effect once. If it arrives again, its kept outcome is sent again (R5, R6). Only outcomes other than
``Ok`` are kept: a serial without a kept outcome was ``Ok``, as is every stored publish.

Source: the Raft thesis, 6.3, "Implementing linearizable semantics".
"""

from __future__ import annotations

from node.units import Generation

from .apply_context import ApplyContext
from .commands import SessionEnd, SessionOpen
from .effects import ClientOpened, Outcome, Probing, Replies, SessionOpened, SubscriptionOpened
from .state import Session, State, Subscription
from .versions import RETRIED_SUBSCRIBE

OPENING = (ClientOpened, Probing, SubscriptionOpened)
"""Outcomes that are sent before the entry's deliveries (R2): a client needs its ack inbox first."""


def open_session(context: ApplyContext, command: SessionOpen) -> None:
    """Open the session of a node and end its earlier one.

    If the same process asks again, because its first request seemed lost, it keeps its session: commands of
    that session may be on their way.
    """
    state = context.state
    session = state.sessions.get(command.node)
    if session is None or session.nonce != command.nonce:
        if session is not None:
            _note_lost_answers(state, session)
        session = Session(command.node, context.generation(), command.nonce)
        state.sessions[command.node] = session
        state.dirty.sessions[command.node] = None
    context.effects.sessions.append(SessionOpened(command.node, command.nonce, session.id))


def end_session(context: ApplyContext, command: SessionEnd) -> None:
    """End the session of a node that is no longer a member, unless the node has opened a newer one."""
    sessions = context.state.sessions
    session = sessions.get(command.node)
    if session is not None and session.id == command.session:
        _note_lost_answers(context.state, session)
        del sessions[command.node]
        context.state.dirty.sessions[command.node] = None


def _note_lost_answers(state: State, session: Session) -> None:
    """Mark the subscriptions whose reply may never have been sent, because the origin's session ends."""
    if not RETRIED_SUBSCRIBE.active(state.version):
        return
    for outcome in session.outcomes.values():
        if isinstance(outcome, SubscriptionOpened):
            subscription = state.by_ack_inbox.get(outcome.ack_inbox)
            if subscription is not None:
                subscription.answer_lost = True
                state.dirty.subscriptions[subscription.id] = None


def may_be_unanswered(state: State, subscription: Subscription, asking: Generation | None) -> bool:
    """Return True if the client may not have received the reply that opened this subscription.

    That is so if the origin did not collect the reply, unless that origin's session is ``asking``: then the
    client asks through the same node again, and that node still replies. Cost: the number of kept outcomes.
    Called only when a durable is opened twice.
    """
    return subscription.answer_lost or any(
        isinstance(outcome, SubscriptionOpened) and outcome.ack_inbox == subscription.ack_inbox
        for session in state.sessions.values()
        if session.id != asking
        for outcome in session.outcomes.values()
    )


def find_session(state: State, session_id: tuple[int, int]) -> Session | None:
    """Return the open session of that id; None if it has ended."""
    for session in state.sessions.values():  # one per node, so a handful
        if session.id == session_id:
            return session
    return None


def skip_seen(session: Session, first: int, count: int) -> int:
    """Return how many of ``count`` commands with serials from ``first`` on were applied before (R7)."""
    assert first <= session.applied + 1, (
        f"gap in the session of {session.node}: serial {first} follows {session.applied}"
    )
    return min(count, session.applied + 1 - first)


def kept_outcomes(session: Session, first: int, last: int) -> dict[int, Outcome]:
    """Return the kept outcomes of applied serials from ``first`` to ``last``."""
    return {serial: outcome for serial, outcome in session.outcomes.items() if first <= serial <= last}


def forget_collected(session: Session, lowest_waited: int) -> None:
    """Delete outcomes below ``lowest_waited``: the origin has collected them."""
    if lowest_waited > session.lowest_waited:
        session.lowest_waited = lowest_waited
        for serial in list(session.outcomes):
            if serial >= lowest_waited:
                break
            del session.outcomes[serial]


def add_replies(
    context: ApplyContext, session: Session, first: int, last: int, others: dict[int, Outcome]
) -> None:
    """Add effects that send the outcomes of serials ``first`` to ``last`` to their origin.

    Outcomes in `OPENING` are sent before the deliveries. They are repeated among the other replies, because
    the range would otherwise report them as ``Ok``.
    """
    effects = context.effects
    for serial, outcome in others.items():
        if isinstance(outcome, OPENING):
            effects.opened.append(Replies(session.node, session.id, serial, serial, {serial: outcome}))
    effects.replies.append(Replies(session.node, session.id, first, last, others))
