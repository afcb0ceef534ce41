"""Requests exactly once: an origin's session, what it has seen, and the outcomes it still waits for.

An origin numbers its commands and sends them again until it sees them applied. So here each serial
takes effect once; seen again, its kept outcome is told again (R5, R6). A publish that was stored has
the outcome ``Ok``, and that is not kept: whatever is not among the others was ``Ok``.

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
"""Outcomes told ahead of the entry's deliveries (R2): a client needs its ack inbox first."""


def open_session(context: ApplyContext, command: SessionOpen) -> None:
    """Open the session of a node and end its earlier one.

    A process that asks again, because its first request seemed lost, keeps the session it has:
    commands of that session may be on their way.
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
    """End the session of a node that is no member any more; if it has come back it has another."""
    sessions = context.state.sessions
    session = sessions.get(command.node)
    if session is not None and session.id == command.session:
        _note_lost_answers(context.state, session)
        del sessions[command.node]
        context.state.dirty.sessions[command.node] = None


def _note_lost_answers(state: State, session: Session) -> None:
    """A session ends: subscriptions whose answers its origin has not collected may be unanswered for good."""
    if not RETRIED_SUBSCRIBE.active(state.version):
        return
    for outcome in session.outcomes.values():
        if isinstance(outcome, SubscriptionOpened):
            subscription = state.by_ack_inbox.get(outcome.ack_inbox)
            if subscription is not None:
                subscription.answer_lost = True
                state.dirty.subscriptions[subscription.id] = None


def may_be_unanswered(state: State, subscription: Subscription, asking: Generation | None) -> bool:
    """Whether the client may never have been told that this subscription was opened.

    Its answer was not collected, and not in the session ``asking``: the client asks again through another
    node. While it asks through the same, that node still answers. Cost: the outcomes that wait; only asked of
    a durable that is opened twice.
    """
    return subscription.answer_lost or any(
        isinstance(outcome, SubscriptionOpened) and outcome.ack_inbox == subscription.ack_inbox
        for session in state.sessions.values()
        if session.id != asking
        for outcome in session.outcomes.values()
    )


def find_session(state: State, session_id: tuple[int, int]) -> Session | None:
    """The open session of that id; None if it has ended."""
    for session in state.sessions.values():  # one a node: a handful
        if session.id == session_id:
            return session
    return None


def skip_seen(session: Session, first: int, count: int) -> int:
    """How many of ``count`` commands with serials from ``first`` on were applied already (R7)."""
    assert first <= session.applied + 1, (
        f"gap in the session of {session.node}: serial {first} follows {session.applied}"
    )
    return min(count, session.applied + 1 - first)


def kept_outcomes(session: Session, first: int, last: int) -> dict[int, Outcome]:
    """What of serials ``first`` to ``last`` was not ``Ok``, as far as they are applied."""
    return {serial: outcome for serial, outcome in session.outcomes.items() if first <= serial <= last}


def forget_collected(session: Session, lowest_waited: int) -> None:
    """The origin waits for nothing below ``lowest_waited`` any more."""
    if lowest_waited > session.lowest_waited:
        session.lowest_waited = lowest_waited
        for serial in list(session.outcomes):
            if serial >= lowest_waited:
                break
            del session.outcomes[serial]


def tell(context: ApplyContext, session: Session, first: int, last: int, others: dict[int, Outcome]) -> None:
    """Have the outcomes of serials ``first`` to ``last`` told at their origin.

    Those that open something are told ahead of the deliveries, and once more among the rest: the
    range would otherwise say that they were ``Ok``.
    """
    effects = context.effects
    for serial, outcome in others.items():
        if isinstance(outcome, OPENING):
            effects.opened.append(Replies(session.node, session.id, serial, serial, {serial: outcome}))
    effects.replies.append(Replies(session.node, session.id, first, last, others))
