"""This node as an origin: its session with the replicated state machine (rules R5–R8, R21).

Every request of this node's clients becomes a command with the next serial of the node's session. The
commands of one read are encoded as one batch, forwarded to the leader in order, and kept until this node has
applied them. A batch holds one command, or several of at most ``BATCH_BYTES`` together; each counts with its
real size and ``COMMAND_OVERHEAD``. When the leader changes or the link to it breaks, everything that is not
applied yet is forwarded again, in order; ``apply`` skips serials it has seen. So a request that is in flight
when a leader dies is neither lost nor executed twice: its client sees one slow answer.

While no leader can be reached, new requests are kept here. They have not left the node, so they can be
refused with the certainty that they will never be carried out (``refuse``). Requests that were forwarded
before can't be refused: an unreachable journal may contain them. They wait for their outcome.

A plain object without I/O. Frames to the leader are tuples:

    ("open", term, commands)                               a SessionOpen, which has no session yet
    ("batch", term, session, first, last, lowest, commands)
    ("held", term, session, next serial)                   AllForwarded: every kept batch has been sent

Without a session nothing can be sent yet. Then the serial of ``held`` is that of the session being opened,
which counts from 1: the leader learns how many commands will follow (R9).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from node.core import refusals
from node.core.commands import (
    Command,
    SessionOpen,
)
from node.core.effects import OK, Outcome, Refused, Replies, SessionOpened
from node.core.entries import (
    BATCH_COMMANDS_MAX,
    encode_commands,
    encoded_size,
)
from node.core.versions import too_new

log = logging.getLogger("stanchion.origin")

UNAPPLIED_BYTES_MAX = 4 * 1024 * 1024
UNAPPLIED_COMMANDS_MAX = BATCH_COMMANDS_MAX
BATCH_BYTES = 64 * 1024
"""Maximum size of a batch of several commands, so that the leader can fill entries evenly from all origins
(R21). A single larger command is a batch of its own."""

COMMAND_OVERHEAD = 48
"""Bytes added to the size of each command. They limit a batch to about 1,300 commands, however small they
are, because applying a command takes time too."""

ANSWER_OVERHEAD = 512
"""Bytes that a waiting request other than a publish counts for: its answer function and reply subject."""

KEPT_BYTES_MAX = 1024 * 1024
"""While requests are refused: bytes of commands without an answer (acknowledgements) that are kept. More are
dropped."""

Answer = Callable[[Outcome], None]
"""Called with the outcome of a request, once, in the order of effects (R2)."""


class Waiting(NamedTuple):
    """A batch that was given serials and is not applied yet."""

    first: int
    last: int
    commands: bytes
    held_bytes: int
    """Its size in memory, including the answer functions that wait for its outcomes."""


class Kept(NamedTuple):
    """A batch that has not left this node: its serials may be assigned again."""

    commands: list[Command]
    held_bytes: int


class Origin:
    """The requests of this node's clients, until they are applied.

    Args:
        node: this node's name.
        forward: sends a frame to the leader: to this node's own proposer or over the peer link. Frames that
            are lost are sent again after ``leader_changed``.
        random_bytes: makes nonces.
    """

    def __init__(
        self,
        node: str,
        forward: Callable[[tuple[Any, ...]], None],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._random_bytes = random_bytes
        self._node = node
        self._forward = forward
        self._nonce = random_bytes(16)
        self._session: tuple[int, int] | None = None
        self._term: int | None = None
        self._next = 1
        self._new: list[Command] = []
        self._new_bytes = 0
        self._new_held_bytes = 0
        self._kept: deque[Kept] = deque()
        self._kept_count = 0  # of commands
        self._kept_bytes = 0
        self._waiting: deque[Waiting] = deque()
        self._unsent = 0  # how many batches at the end of _waiting were not forwarded in this term
        self._waiting_bytes = 0
        self._pending: dict[int, Answer | tuple[Any, ...]] = {}
        self.publish_answered: Callable[[tuple[Any, ...], Outcome], None] = _no_publish_handler
        self.refusal: Refused | None = None
        """The answer to every new request while there is no leader; None: requests are accepted."""
        self._stopped = False
        self.dropped = 0
        """Commands without an answer that were dropped because of ``KEPT_BYTES_MAX``."""
        self.version: Callable[[], int] = lambda: 1
        """The machine version in effect: commands above it are refused here, not proposed (R24)."""

    # --- requests of clients -------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether to stop reading from clients: a request with a serial is never abandoned (R8)."""
        return (
            self._held_bytes >= UNAPPLIED_BYTES_MAX
            or self._next - self.lowest_waited >= UNAPPLIED_COMMANDS_MAX
        )

    @property
    def relaxed(self) -> bool:
        """Whether clients that were stopped may be read from again."""
        return (
            self._held_bytes < UNAPPLIED_BYTES_MAX // 2
            and self._next - self.lowest_waited < UNAPPLIED_COMMANDS_MAX // 2
        )

    @property
    def _held_bytes(self) -> int:
        return self._waiting_bytes + self._kept_bytes + self._new_held_bytes

    @property
    def _first_kept(self) -> int:
        """The lowest serial that has not left this node."""
        return self._next - len(self._new) - self._kept_count

    @property
    def lowest_waited(self) -> int:
        """The lowest serial whose outcome this node still needs (R6)."""
        return self._waiting[0].first if self._waiting else self._first_kept

    @property
    def last_serial(self) -> int:
        """The serial of the newest request; 0 before the first."""
        return self._next - 1

    @property
    def session(self) -> tuple[int, int] | None:
        return self._session

    @property
    def waits(self) -> bool:
        """Whether anything is still unapplied."""
        return bool(self._waiting or self._kept or self._new)

    def submit(self, command: Command, answer: Answer | None = None) -> None:
        """Give ``command`` the next serial; ``answer`` is called with its outcome. ``flush`` sends it.

        A command that some member does not support yet is refused at once and gets no serial.
        """
        if too_new(command, self.version()):
            if answer is not None:
                answer(Refused(refusals.NOT_YET))
            return
        if self.refusal is not None:
            if answer is not None:
                answer(self.refusal)
                return
            if self._kept_bytes + self._new_held_bytes >= KEPT_BYTES_MAX:
                self.dropped += 1
                return
        self._submit(command, answer)

    def _submit(self, command: Command, answer: Answer | None) -> None:
        size = encoded_size(command)
        if self._new_bytes + size + COMMAND_OVERHEAD > BATCH_BYTES:
            self.flush()
        held = size
        if answer is not None:
            self._pending[self._next] = answer
            held += size + ANSWER_OVERHEAD  # the answer function keeps a copy of the request
        self._next += 1
        self._new.append(command)
        self._new_bytes += size + COMMAND_OVERHEAD
        self._new_held_bytes += held + COMMAND_OVERHEAD

    def submit_publish(self, command: Command, pending: tuple[bytes, str], size: int) -> None:
        """Submit a publish without a closure for its answer: publishes are the most frequent command.

        Args:
            command: the publish.
            pending: the reply subject and the guid; passed to ``publish_answered`` with the outcome.
            size: size of the encoded command in bytes, or slightly more; never less.
        """
        if self.refusal is not None:
            self.publish_answered(pending, self.refusal)
            return
        size += COMMAND_OVERHEAD
        if self._new_bytes + size > BATCH_BYTES:
            self.flush()
        self._pending[self._next] = pending
        self._next += 1
        self._new.append(command)
        self._new_bytes += size
        self._new_held_bytes += size + len(pending[0]) + len(pending[1])

    def flush(self) -> None:
        """Close the batch of submitted commands. Forward it if there is a leader, else keep it."""
        if self._new:
            self._kept.append(Kept(self._new, self._new_held_bytes))
            self._kept_count += len(self._new)
            self._kept_bytes += self._new_held_bytes
            self._new = []
            self._new_bytes = self._new_held_bytes = 0
        if self._kept and self._term is not None:
            self._close_kept()
            self._forward_unsent()

    def _close_kept(self) -> None:
        """Encode the kept batches for forwarding. From here on other nodes may have received them."""
        first = self._first_kept
        for commands, held_bytes in self._kept:
            last = first + len(commands) - 1
            self._waiting.append(Waiting(first, last, encode_commands(commands), held_bytes))
            self._waiting_bytes += held_bytes
            self._unsent += 1
            first = last + 1
        self._forget_kept()

    def _forget_kept(self) -> None:
        self._kept.clear()
        self._kept_count = self._kept_bytes = 0

    def refuse(self, refusal: Refused) -> int:
        """Answer ``refusal`` to every request that has not left this node, and to later ones at once.

        This lasts until `leader_changed` names a leader. The serials of refused requests are assigned again:
        no other node has seen them. Commands without an answer (acknowledgements) are kept, because clients
        don't send them again.

        Returns:
            The number of refused requests. If there is a leader, nothing is refused and it is 0.
        """
        if self._term is not None:
            return 0
        self.flush()
        self.refusal = refusal
        first = self._next = self._first_kept
        commands = [command for kept in self._kept for command in kept.commands]
        self._forget_kept()
        answers = [self._pending.pop(first + place, None) for place in range(len(commands))]
        for command, answer in zip(commands, answers, strict=True):
            if answer is None:
                self._submit(command, None)
        refused = [answer for answer in answers if answer is not None]
        for answer in refused:
            if type(answer) is tuple:
                self.publish_answered(answer, refusal)
            else:
                answer(refusal)  # type: ignore[operator]  # a callable: not a tuple
        return len(refused)

    def refuse_new(self, refusal: Refused) -> None:
        """Answer ``refusal`` to all later requests, permanently. Accepted requests are still carried out."""
        self.refusal = refusal
        self._stopped = True

    # --- the leader --------------------------------------------------------------------------------

    def leader_changed(self, term: int | None) -> None:
        """Forward everything that waits to the leader of ``term``; None: no leader can be reached.

        Call it also when the link to the leader broke and came back.
        """
        self._term = term
        self._unsent = len(self._waiting)
        if term is None:
            return
        if not self._stopped:
            self.refusal = None
        if self._session is None:
            self._open()
        self.flush()
        self._forward_unsent()
        next_serial = self._next if self._session is not None else self._next - self.lowest_waited + 1
        self._forward(("held", term, self._session, next_serial))

    def resend(self, term: int, serial: int) -> None:
        """Resend from ``serial`` on: the leader of ``term`` lacks the batches before one it got (R7)."""
        if term != self._term:
            return
        self._unsent = sum(1 for batch in self._waiting if batch.last >= serial)
        self._forward_unsent()

    def _open(self) -> None:
        if self._term is not None:
            command = SessionOpen(self._node, self._nonce)
            self._forward(("open", self._term, encode_commands([command])))

    def _forward_unsent(self) -> None:
        if self._term is None or self._session is None or not self._unsent:
            return
        waiting = self._waiting
        lowest = self.lowest_waited
        for place in range(len(waiting) - self._unsent, len(waiting)):
            batch = waiting[place]
            self._forward(
                ("batch", self._term, self._session, batch.first, batch.last, lowest, batch.commands)
            )
        self._unsent = 0

    # --- applied entries -------------------------------------------------------------------------

    def opened(self, effect: SessionOpened) -> None:
        """An entry opened a session of this node: our own, or one that ended our own (R5)."""
        if effect.node != self._node:
            return
        if effect.nonce != self._nonce:
            if self._session is None:
                return  # opened by an earlier process of this node, in an old entry that is applied now
            log.warning("another process opened a session as node %s; opening a new one", self._node)
            self.ended()
            return
        if effect.session == self._session:
            return  # opened by a repeated request, because the first one seemed lost: keep the serials
        self._session = effect.session
        self._renumber()
        self._unsent = len(self._waiting)
        self._forward_unsent()

    def ended(self) -> None:
        """An entry ended our session: open another, and send the unapplied commands of the old one in it.

        Causes: another process opened a session under our name, or this node was not a member for a while.
        """
        self._session = None
        self._nonce = self._random_bytes(16)
        self._open()

    def applied(self, replies: Replies) -> None:
        """Answer this node's requests with their outcomes, in order. Ignores those of other sessions."""
        if replies.node != self._node or replies.session != self._session:
            return
        pending, others = self._pending, replies.others
        for serial in range(replies.first, replies.last + 1):
            answer = pending.pop(serial, None)
            if answer is None:
                continue
            outcome = others.get(serial, OK) if others else OK
            if type(answer) is tuple:
                self.publish_answered(answer, outcome)
            else:
                answer(outcome)  # type: ignore[operator]  # a callable: not a tuple

    def applied_to(self, serial: int) -> None:
        """Drop the batches that are applied: everything up to ``serial``."""
        waiting = self._waiting
        while waiting and waiting[0].last <= serial:
            self._waiting_bytes -= waiting.popleft().held_bytes
        self._unsent = min(self._unsent, len(waiting))

    def restored(
        self, session: tuple[int, int], nonce: bytes, applied: int, outcomes: dict[int, Outcome]
    ) -> None:
        """Continue after a snapshot replaced the state. The arguments are this node's session in it (R6).

        Requests that the skipped entries applied are answered from ``outcomes``. Requests that are not
        applied yet are forwarded again by ``leader_changed``.
        """
        if nonce != self._nonce:
            self.opened(SessionOpened(self._node, nonce, session))
            return
        if session != self._session:
            self._session = session
            self._renumber()
        waited = [serial for serial in self._pending if serial <= applied]
        if waited:
            self.applied(Replies(self._node, session, waited[0], waited[-1], outcomes))
        self.applied_to(applied)

    def _renumber(self) -> None:
        """Renumber the unapplied commands of the old session: a new session counts from 1."""
        shift = self.lowest_waited - 1
        if not shift:
            return
        self._waiting = deque(
            batch._replace(first=batch.first - shift, last=batch.last - shift) for batch in self._waiting
        )
        self._pending = {serial - shift: answer for serial, answer in self._pending.items()}
        self._next -= shift


def _no_publish_handler(_pending: tuple[Any, ...], _outcome: Outcome) -> None:
    raise AssertionError("publishes are answered only where a streaming service runs")
