"""When a node may act on what it applies: once it has applied all it can learn (rules R4, R14).

A node that has just started, that stood still, that heard no leader for a while, or that hears it but gets
no entries (because nothing it says arrives) applies entries whose time is over: what they deliver may have
been delivered, acknowledged or moved since. So it *holds*: it applies, and performs nothing. It has caught
up when it has applied the commit index that the leader of the current term has told it since.

*Since* is the difficulty. After a gap the frames of the leader may have lain in a buffer for as long as the
gap was. So the leader is asked (``where``), and only after its answer (``here``) to the question of this
very gap does a commit index count. Questions and answers may be lost; the question is put again.

A leader that stood still has nobody to ask. It proposes an entry: if that commits, it still leads, and
everything before was applied.

A node is *warm* once it has applied an entry that was proposed after it had caught up: its clients have
been served, which decides whether a new leader starts cold.

A plain object without I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

NEVER = float("inf")


class Engine(Protocol):
    """What is needed of the consensus engine."""

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
    """Whether this node has caught up, and what is missing.

    Args:
        links_up: members whose link stands, kept by the owner.
        send: sends a frame to a member.
        monotonic_s: the driver's clock.
        gap_s: a gap in this process's life, or in what it hears of the leader, that matters.
        lag_s: who has not applied after so long what the leader had called committed is cut off one way.
        bootstrapped: whether the cluster has its identity. Before, nobody is served: ack inboxes made without
            its tag would reach nobody (R18).
        held: told to perform nothing from now on.
        caught_up: told when it has caught up.
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
        self._notify_all_forwarded = held
        self._notify_caught_up = caught_up
        self._engine: Engine
        self.done = False
        """It has caught up, and performs what it applies."""
        self.has_served = False
        """It has applied what was proposed after it had caught up (R14)."""
        self._term = 0
        self._leader: str | None = None
        self._suspended = False
        self._target: int | None = None  # applied up to here, this node has caught up
        self._done_at = 0  # the end of its log when it had
        self._question = 0  # counts the gaps
        self._answered = 0  # the last one that the leader answered for
        self._asked_s = -NEVER
        self._leader_frame_s = -NEVER
        self._notified = 0  # a commit index that the leader has told, the oldest that may not be applied yet
        self._told_s = NEVER

    def attach(self, engine: Engine) -> None:
        """The engine is made later than what it calls."""
        self._engine = engine

    # --- gaps -------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Perform nothing until this node has caught up again."""
        self._notify_all_forwarded()
        self.done = False
        self._target = None
        self._question += 1
        self.ask()

    def suspend(self) -> None:
        """Hold, and learn nothing either, until ``resume``: the state is about to be replaced."""
        self.hold()
        self._suspended = True

    def resume(self) -> None:
        """The state was replaced."""
        self._suspended = False
        self.ask()

    def prove(self) -> None:
        """This leader stood still, and proposes an entry: if that commits, it leads, and has caught up."""
        self._target = self._engine.last_index + 1

    def leader_known(self) -> None:
        """A live frame of the current leader came in. After a long silence it begins a gap."""
        now_s = self._monotonic_s()
        if self.done and now_s - self._leader_frame_s > self._gap_s:
            self.hold()
        self._leader_frame_s = now_s

    # --- what the leader says ---------------------------------------------------------------------

    def role_changed(self, term: int, leader: str | None, *, goes_on_leading: bool) -> None:
        """Role, term or leader are others. Unless this node led and still does, what it learnt is void.

        What another leader told says nothing any more, nor does what this one meant to prove.
        """
        self._term, self._leader = term, leader
        if not goes_on_leading and not self.done:
            self._target = None
            self.ask()

    def commit_learned(self, commit: int) -> None:
        """The leader of the current term has told its commit index. After a gap it must have answered."""
        if self.done:
            self._look_for_lag(commit)
        if self.done or self._suspended or self._answered < self._question:
            return
        if self._target is None:
            self._target = commit
            engine = self._engine
            if engine.applied_index >= commit and engine.applied_term == engine.term and self._bootstrapped():
                self.finish(engine.applied_index)

    def _look_for_lag(self, commit: int) -> None:
        """Hold if what the leader said a while ago is still not applied."""
        now_s = self._monotonic_s()
        if self._engine.applied_index >= self._notified:
            self._notified, self._told_s = commit, now_s
        elif now_s - self._told_s > self._lag_s:
            self.hold()

    def asked(self, peer: str, question: int) -> None:
        """A member asks. Who doesn't know for sure gives no answer."""
        if self._engine.is_ready and self.done:
            self._send(peer, ("here", question, self._term, self._engine.commit_index))

    def answered(self, peer: str, question: int, term: int, commit: int) -> None:
        """A member says how far it has committed."""
        if (question, term, peer) == (self._question, self._term, self._leader):
            self._answered = question
            self.commit_learned(commit)

    def ask(self) -> None:
        """Ask the leader how far it has committed, if what its frames say may be old."""
        leader = self._leader
        if self._answered != self._question and not self.done and leader in self._links_up:
            assert leader is not None
            self._asked_s = self._monotonic_s()
            self._send(leader, ("where", self._question))

    def pump(self, now_s: float) -> float:
        """Ask again if no answer came: it was lost, or not given. Returns when to be called again."""
        if self.done or self._answered == self._question:
            return NEVER
        if now_s - self._asked_s >= self._gap_s:
            self.ask()
        return max(self._asked_s, now_s) + self._gap_s

    # --- what is applied --------------------------------------------------------------------------

    def applied_batch(self, index: int) -> None:
        """A batch was applied: if it is newer than catching up, this node is warm."""
        if self.done and index > self._done_at:
            self.has_served = True

    def applied_to(self, index: int, term: int) -> None:
        """Everything up to ``index``, an entry of ``term``, is applied.

        What is committed is known for sure only from an entry of the current term on.
        """
        if (
            self._target is not None
            and index >= self._target
            and term == self._engine.term
            and self._bootstrapped()
        ):
            self.finish(index)

    def first_entry_applied(self) -> None:
        """This leader's first entry is applied: so is all before it, unless it still has to prove that."""
        if not self.done and self._target is None:
            self.finish(self._engine.applied_index)

    def finish(self, index: int) -> None:
        """It has caught up with ``index``."""
        assert self._bootstrapped()
        self._target = None
        self._done_at = max(self._engine.last_index, index)
        self.done = True
        self._leader_frame_s = self._monotonic_s()
        self._notify_caught_up()
