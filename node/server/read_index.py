"""When a node may execute the effects of the entries it applies: after a read index (rules R4, R14).

A node may apply entries that are out of date: when it has just started, when its process was suspended, when
it had no contact to a leader for a while, or when its leader's frames arrive but no entries do (because its
own answers are lost). Messages that these entries deliver may have been delivered, acknowledged or moved
since. So the node *holds*: it applies entries and executes no effects. It has caught up when it has applied
the commit index that the leader of the current term reported after the gap.

"After the gap" is the difficulty. Frames of the leader may have been in a buffer for as long as the gap
lasted. So the node asks the leader (ReadIndexRequest, frame ``where``). A commit index counts only after the
answer (ReadIndexReply, frame ``here``) to the request of this gap. Requests and answers may be lost, so the
request is repeated.

A leader that was suspended has no other node to ask. It proposes an entry. If that is committed, the node
still leads, and everything before the entry was applied.

A node *has served* once it has applied an entry that was proposed after it had caught up: its clients have
been served since. This decides whether a new leader starts cold.

A plain object without I/O.

Source: Raft thesis, section 6.4.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

NEVER = float("inf")


class Engine(Protocol):
    """The part of the consensus engine that is needed here."""

    @property
    def term(self) -> int: ...
    @property
    def is_ready(self) -> bool: ...
    @property
    def commit_index(self) -> int: ...
    @property
    def applied_index(self) -> int: ...
    @property
    def applied_term(self) -> int: ...
    @property
    def last_index(self) -> int: ...


class ReadIndex:
    """Determines whether this node has caught up.

    Args:
        links_up: members whose link is up; the owner keeps it current.
        send: sends a frame to a member.
        monotonic_s: the driver's clock.
        gap_s: the shortest suspension of this process, or pause in the leader's frames, that counts as a gap.
        lag_s: if this node has not applied a reported commit index after this time, it receives the leader's
            frames but no entries.
        bootstrapped: returns whether the cluster has its identity. Before, no client is served: acks on
            inboxes without the cluster's tag would not be recognised (R18).
        held: called when the node must stop executing effects.
        caught_up: called when the node has caught up.
    """

    def __init__(
        self,
        *,
        links_up: Collection[str],
        send: Callable[[str, Any], object],
        monotonic_s: Callable[[], float],
        gap_s: float,
        lag_s: float,
        bootstrapped: Callable[[], bool],
        held: Callable[[], None],
        caught_up: Callable[[], None],
    ) -> None:
        self._links_up = links_up
        self._send = send
        self._monotonic_s = monotonic_s
        self._gap_s = gap_s
        self._lag_s = lag_s
        self._bootstrapped = bootstrapped
        self._notify_held = held
        self._notify_caught_up = caught_up
        self._engine: Engine
        self.done = False
        """This node has caught up and executes the effects of what it applies."""
        self.has_served = False
        """This node has applied an entry that was proposed after it had caught up (R14)."""
        self._term = 0
        self._leader: str | None = None
        self._suspended = False
        self._target: int | None = None  # this node has caught up when it has applied this index
        self._done_at = 0  # the end of its log when it last caught up
        self._question = 0  # counts the gaps; identifies a request
        self._answered = 0  # the last request that the leader answered
        self._asked_s = -NEVER
        self._leader_frame_s = -NEVER
        self._reported = 0  # the oldest reported commit index that may not be applied yet
        self._reported_s = NEVER

    def attach(self, engine: Engine) -> None:
        """Set the engine: it is created later, because it calls this object."""
        self._engine = engine

    # --- gaps -------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Execute no effects until this node has caught up again."""
        self._notify_held()
        self.done = False
        self._target = None
        self._question += 1
        self.ask()

    def suspend(self) -> None:
        """Hold, and ignore commit indexes, until ``resume``: a snapshot is about to replace the state."""
        self.hold()
        self._suspended = True

    def resume(self) -> None:
        """Ask again: the state was replaced."""
        self._suspended = False
        self.ask()

    def prove(self) -> None:
        """Count the next entry as proof: this leader was suspended, and proposes an entry now.

        If the entry is committed, this node still leads and has caught up.
        """
        self._target = self._engine.last_index + 1

    def leader_frame(self) -> None:
        """Note a live frame of the current leader. After a long time without frames, a gap begins."""
        now_s = self._monotonic_s()
        if self.done and now_s - self._leader_frame_s > self._gap_s:
            self.hold()
        self._leader_frame_s = now_s

    # --- reports of the leader ---------------------------------------------------------------------

    def role_changed(self, term: int, leader: str | None, *, still_leads: bool) -> None:
        """Note another role, term or leader. Discards the target, unless this node led and still leads.

        A commit index of an earlier leader no longer counts, nor does an entry proposed as proof.
        """
        self._term, self._leader = term, leader
        if not still_leads and not self.done:
            self._target = None
            self.ask()

    def commit_learned(self, commit: int) -> None:
        """Note the commit index of the leader of the current term. After a gap it counts only after the
        leader's answer.
        """
        if self.done:
            self._check_lag(commit)
        if self.done or self._suspended or self._answered < self._question:
            return
        if self._target is None:
            self._target = commit
            engine = self._engine
            if engine.applied_index >= commit and engine.applied_term == engine.term and self._bootstrapped():
                self.finish(engine.applied_index)

    def _check_lag(self, commit: int) -> None:
        """Hold if a commit index that was reported ``lag_s`` ago is still not applied."""
        now_s = self._monotonic_s()
        if self._engine.applied_index >= self._reported:
            self._reported, self._reported_s = commit, now_s
        elif now_s - self._reported_s > self._lag_s:
            self.hold()

    def asked(self, peer: str, question: int) -> None:
        """Answer a member's ReadIndexRequest. Only a ready leader that has caught up answers."""
        if self._engine.is_ready and self.done:
            self._send(peer, ("here", question, self._term, self._engine.commit_index))

    def answered(self, peer: str, question: int, term: int, commit: int) -> None:
        """Handle a ReadIndexReply: the commit index of a member."""
        if (question, term, peer) == (self._question, self._term, self._leader):
            self._answered = question
            self.commit_learned(commit)

    def ask(self) -> None:
        """Ask the leader for its commit index, if the indexes in its frames may be old."""
        leader = self._leader
        if self._answered != self._question and not self.done and leader in self._links_up:
            assert leader is not None
            self._asked_s = self._monotonic_s()
            self._send(leader, ("where", self._question))

    def pump(self, now_s: float) -> float:
        """Repeat the request if there was no answer. Returns when to call this again."""
        if self.done or self._answered == self._question:
            return NEVER
        if now_s - self._asked_s >= self._gap_s:
            self.ask()
        return max(self._asked_s, now_s) + self._gap_s

    # --- applied entries --------------------------------------------------------------------------

    def applied_batch(self, index: int) -> None:
        """Note an applied batch: if it was proposed after this node caught up, the node has served."""
        if self.done and index > self._done_at:
            self.has_served = True

    def applied_to(self, index: int, term: int) -> None:
        """Note that everything up to ``index``, an entry of ``term``, is applied.

        Only an entry of the current term shows for certain what is committed.
        """
        if (
            self._target is not None
            and index >= self._target
            and term == self._engine.term
            and self._bootstrapped()
        ):
            self.finish(index)

    def first_entry_applied(self) -> None:
        """Finish: this leader's first entry is applied, and all before it, unless `prove` is under way."""
        if not self.done and self._target is None:
            self.finish(self._engine.applied_index)

    def finish(self, index: int) -> None:
        """Note that this node has caught up, with ``index`` applied."""
        assert self._bootstrapped()
        self._target = None
        self._done_at = max(self._engine.last_index, index)
        self.done = True
        self._leader_frame_s = self._monotonic_s()
        self._notify_caught_up()
