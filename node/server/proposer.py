"""The leader's proposer: takes batches in order, stamps cluster time, makes entries (R7, R9, R21).

A batch names the term it is meant for and its first serial. The leader takes it only in that term and in
sequence; otherwise it requests a resend from the serial that it needs. So no gap reaches the log. Batches are
put into entries as bytes, undecoded, round robin by origin.

Group commit adapts to the load. If nothing is in flight, a batch is proposed at once. While entries are in
flight, batches gather until one of those entries completes or there are 64 KiB.

An entry holds up to ``ENTRY_BYTES`` of leader commands and as much of batches, or a single larger command or
batch. Its size is known before it is made, and it always fits into a frame between nodes. If a single batch
is too large (from an older release), an equal number of refused requests is put into the log, so that its
origin can continue.

The first entry of a term waits, 150 ms at most, until every connected member has forwarded everything that it
kept. If that does not fit into one entry, nothing is redelivered before the entry that holds the last of it
(R9): messages that were acknowledged while there was no leader are not due. A process that started while
there was no leader can't forward anything before its session is in the log. Redelivery waits for its commands
too, 500 ms at most.

A plain object without I/O; ``now_s`` is the driver's monotonic clock.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from node.core.commands import (
    ColdStart,
    LeaderCommand,
    NewTerm,
    PauseRedelivery,
)
from node.core.entries import (
    BATCH_COMMANDS_MAX,
    BATCH_SIZE_MAX,
    ENTRY_SIZE_MAX,
    Batch,
    Entry,
    claimed_count,
    decode_session_open,
    encode_entry,
    encode_leader_command,
    encoded_size,
    refused_batch,
)
from node.core.state import State
from node.core.versions import too_new
from node.errors import RemoteProtocolError
from node.server.clock import ClusterClock, WallClock

log = logging.getLogger("stanchion.proposer")

ENTRY_BYTES = 64 * 1024
"""Bytes of leader commands in one entry, and of batches; a larger command or batch is alone in its entry."""
HELD_WAIT_S = 0.150
READ_WAIT_S = 0.5
"""After this process was suspended: time for the nodes to read what their clients sent meanwhile."""
OPENING_WAIT_S = 0.5
"""From a term's first entry: time for nodes without a session to forward the commands that they kept."""
UNCOMMITTED_BYTES_MAX = 64 * 1024 * 1024
IN_FLIGHT_MAX = 16
"""Entries proposed and not applied. At the maximum even full batches wait."""
EARLY_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of batches from one node that are kept until this leader is ready. Above it all of them are dropped,
and a resend is requested then: a link that breaks repeatedly brings the same batches each time."""
SESSION_OPEN_BYTES_MAX = 1024
LEADER_COMMANDS_MAX = 500
"""Leader commands in one entry: a new leader may have commands for thousands of clients (R19)."""


class Engine(Protocol):
    """The part of the consensus engine that the proposer needs."""

    def propose(self, payload: bytes) -> int: ...

    @property
    def is_ready(self) -> bool: ...

    @property
    def term(self) -> int: ...

    @property
    def commit_when_elected(self) -> int: ...


class Queue:
    """The batches of one origin that the leader has not put into an entry yet."""

    __slots__ = ("batches", "bytes", "held", "held_to", "opening", "session", "taken")

    def __init__(self) -> None:
        self.batches: deque[Batch] = deque()
        self.bytes = 0
        self.session: tuple[int, int] | None = None
        self.taken = 0
        self.held = 0
        """Number of batches still here that had arrived when the term's first entry was proposed."""
        self.held_to: int | None = None
        """The last serial the origin had kept when it learned of the leader; None: no AllForwarded yet."""
        self.opening = 0
        """If it had no session then: the number of commands it keeps for the session that it is opening."""

    @property
    def has_all_held(self) -> bool:
        """True if everything that the origin had kept has arrived."""
        return self.held_to is not None and self.taken >= self.held_to


class _Early:
    """The frames of one node that arrived before this leader was ready."""

    __slots__ = ("bytes", "frames", "is_incomplete")

    def __init__(self) -> None:
        self.frames: list[tuple[Any, ...]] = []
        self.bytes = 0
        self.is_incomplete = False
        """True if frames were dropped."""


class Proposer:
    """Decides the order of the log while this node leads.

    Args:
        engine: where entries are proposed.
        state: the replicated state: how far each session was applied when the term began.
        clock, wall_clock: the time stamps of entries.
        bootstrap_commands: returns the commands that give a new cluster its identity and machine version,
            for a term. Called if the state has no identity yet.
        answer: sends a frame to an origin: ``("again", term, serial)``, a request to resend.
    """

    def __init__(
        self,
        engine: Engine,
        state: Callable[[], State],
        clock: ClusterClock,
        wall_clock: WallClock,
        *,
        bootstrap_commands: Callable[[int], list[LeaderCommand]],
        answer: Callable[[str, tuple[Any, ...]], None],
    ) -> None:
        self._engine = engine
        self._state = state
        self._clock = clock
        self._wall_clock = wall_clock
        self._bootstrap_commands = bootstrap_commands
        self._answer = answer
        self._term: int | None = None
        self._early: dict[str, _Early] = {}
        self._queues: dict[str, Queue] = {}
        self._turn: deque[str] = deque()
        self._queued_bytes = 0
        self._leader_commands: deque[tuple[LeaderCommand, int]] = deque()
        """Commands and their sizes."""
        self._in_flight: deque[tuple[int, int]] = deque()  # (index, size)
        self._in_flight_bytes = 0
        self._held_left = 0
        """Number of batches that were queued when the term's first entry was proposed, and still are."""
        self._hold_until_s = float("-inf")
        """No redelivery before this time: this process was suspended, and acks are still being read."""
        self._opening: set[str] = set()
        """Nodes that keep commands for a session being opened: redelivery is paused until they arrive."""
        self._opening_until_s = float("-inf")
        self._pausing = False
        """This leader has paused redelivery and not resumed it yet."""
        self._wait_for: set[str] = set()
        self._open_at: float | None = None
        self._stopped = False
        self.open = False
        """True if the first entry of this term was proposed."""
        self.serving = False
        """True if that entry is applied. ``idle`` doesn't show it: under load some entry is in flight."""
        self._first_index = 0
        self.cold = False
        """True if that entry contains ColdStart: no member of a majority has served (R14)."""

    # --- the term ---------------------------------------------------------------------------------

    def lead(self, term: int) -> None:
        """Begin ``term``: this node was elected. Entries wait until it is ready."""
        self.follow()
        self._term = term

    def follow(self) -> None:
        """Drop everything: this node does not lead. Origins forward their queued batches again."""
        self._term = None
        self._stopped = False
        self.open = False
        self.serving = False
        self._open_at = None
        self._early.clear()
        self._queues.clear()
        self._turn.clear()
        self._queued_bytes = 0
        self._leader_commands.clear()
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._held_left = 0
        self._opening.clear()
        self._pausing = False

    def stop(self) -> None:
        """Propose nothing more in this term: leadership is being transferred to another node."""
        self._stopped = True

    def resume(self) -> None:
        """Propose again: no node has taken over."""
        self._stopped = False

    def ready(self, now_s: float, connected: Iterable[str], *, cold: bool) -> None:
        """Allow entries once every connected member has forwarded what it kept. The term's no-op is applied.

        Args:
            now_s: the driver's clock.
            connected: members whose links are up, this one included.
            cold: no member of a majority has served (R14).
        """
        self._wait_for = set(connected)
        self._open_at = now_s + HELD_WAIT_S
        self.cold = cold
        for name, session in self._state().sessions.items():
            queue = self._queue(name)
            queue.session, queue.taken = session.id, session.applied
        early, self._early = self._early, {}
        for node, kept in early.items():
            if kept.is_incomplete and self._term is not None:
                self._answer(node, ("again", self._term, self._queue(node).taken + 1))
            for frame in kept.frames:
                self.frame(node, frame)

    def next_deadline(self) -> float | None:
        """Return the latest time of the first entry, or of the end of a pause; on the driver's clock."""
        if not self.open:
            return self._open_at
        waits = self._pausing and not (self._held_left or self._in_flight or self._stopped)
        return self._paused_until_s if waits and self._engine.is_ready else None

    @property
    def _paused_until_s(self) -> float:
        """The time until which redelivery stays paused if no more commands arrive."""
        return max(self._hold_until_s, self._opening_until_s) if self._opening else self._hold_until_s

    def hold_redelivery(self, now_s: float) -> None:
        """Pause redelivery for ``READ_WAIT_S``, because this process was suspended (R9).

        Acknowledgements that arrived meanwhile are still in sockets, here and perhaps on every other node,
        but time has advanced.
        """
        self._hold_until_s = now_s + READ_WAIT_S
        if self.open and not self._pausing and not too_new(PauseRedelivery, self._state().version):
            command = PauseRedelivery(self._engine.term, True)
            self._leader_commands.appendleft((command, encoded_size(command)))
            self._pausing = True

    # --- frames of origins ------------------------------------------------------------------------

    def frame(self, node: str, frame: tuple[Any, ...]) -> None:
        """Handle a frame of ``node`` (origin.py lists them). Drops frames of other terms.

        Raises:
            RemoteProtocolError: the frame must not reach the log; see `_check`.
        """
        if self._term is None or frame[1] != self._term:
            return
        self._check(node, frame)
        if self._open_at is None:
            self._keep_early(node, frame)
            return
        kind = frame[0]
        if kind == "batch":
            self._take(node, frame)
        elif kind == "open":
            self._append(node, Batch(None, 0, 0, frame[2]))
        elif kind == "held":
            self._forwarded_all(node, frame[2], frame[3])

    def _check(self, node: str, frame: tuple[Any, ...]) -> None:
        """Check a frame before anything of it can get into the log.

        Raises:
            RemoteProtocolError: in the log, the frame would harm other nodes.
        """
        if frame[0] == "batch":
            _, _, session, first, last, _, commands = frame
            count = last - first + 1
            if not 0 < count <= min(BATCH_COMMANDS_MAX, len(commands)) or claimed_count(commands) != count:
                # It would leave a gap in the session, and every node that applied it would stop (R7).
                raise RemoteProtocolError(f"{node}: a batch that doesn't contain serials {first} to {last}")
            known = self._state().sessions.items()
            if any(other.id == (session[0], session[1]) for name, other in known if name != node):
                raise RemoteProtocolError(f"{node}: a batch in the session of another node")
        elif frame[0] == "open" and (
            len(frame[2]) > SESSION_OPEN_BYTES_MAX or decode_session_open(frame[2]).node != node
        ):
            raise RemoteProtocolError(f"{node}: a request to open a session of another node")

    def _keep_early(self, node: str, frame: tuple[Any, ...]) -> None:
        kept = self._early.setdefault(node, _Early())
        kept.frames.append(frame)
        kept.bytes += len(frame[-1]) if type(frame[-1]) is bytes else 0
        if kept.bytes > EARLY_BYTES_MAX:
            kept.frames.clear()
            kept.bytes = 0
            kept.is_incomplete = True

    def _take(self, node: str, frame: tuple[Any, ...]) -> None:
        _, term, session, first, last, lowest, commands = frame
        queue = self._queue(node)
        session = (session[0], session[1])
        if queue.session != session:
            # Opened in this term, or ended by another session: apply decides. Its serials start at 1.
            queue.session, queue.taken = session, 0
            known = self._state().sessions.get(node)
            if known is not None and known.id == session:
                queue.taken = known.applied
        if last <= queue.taken:
            return  # resent, and taken before
        if first != queue.taken + 1:
            self._answer(node, ("again", term, queue.taken + 1))
            return
        if len(commands) > BATCH_SIZE_MAX:
            log.error(
                "node %s forwarded a batch of %d bytes, the maximum is %d: requests %d to %d are refused; "
                "upgrade that node",
                node, len(commands), BATCH_SIZE_MAX, first, last,
            )  # fmt: skip
            commands = refused_batch(last - first + 1)
        queue.taken = last
        self._append(node, Batch(session, first, lowest, commands))
        if node in self._opening and last >= queue.opening:
            self._opening.discard(node)
            self._hold(queue)

    def _forwarded_all(self, node: str, session: Sequence[int] | None, next_serial: int) -> None:
        """Note AllForwarded: an origin has sent what it had kept, serials below ``next_serial``.

        If a resend was requested, the serials are still missing. Without a session nothing was forwarded yet.
        """
        queue = self._queue(node)
        queue.opening = next_serial - 1 if session is None else 0
        known = session is not None and queue.session == (session[0], session[1])
        queue.held_to = next_serial - 1 if known else 0

    def _hold(self, queue: Queue) -> None:
        """Mark the batches in a queue as held: redelivery resumes behind them."""
        more = len(queue.batches) - queue.held
        queue.held += more
        self._held_left += more

    def _queue(self, node: str) -> Queue:
        queue = self._queues.get(node)
        if queue is None:
            queue = self._queues[node] = Queue()
        return queue

    def _append(self, node: str, batch: Batch) -> None:
        queue = self._queue(node)
        if not queue.batches:
            self._turn.append(node)
        queue.batches.append(batch)
        queue.bytes += len(batch.commands)
        self._queued_bytes += len(batch.commands)

    def propose_command(self, command: LeaderCommand) -> None:
        """Put a leader command into the next entry."""
        if self._term is not None:
            self._leader_commands.append((command, encoded_size(command)))

    # --- entries ----------------------------------------------------------------------------------

    def applied(self, index: int) -> None:
        """Note that everything up to ``index`` is applied here: those entries are no longer in flight."""
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] <= index:
            self._in_flight_bytes -= in_flight.popleft()[1]
        if self.open and index >= self._first_index:
            self.serving = True

    @property
    def idle(self) -> bool:
        """True if every proposed entry is applied."""
        return not self._in_flight

    def pump(self, now_s: float) -> bool:
        """Propose what may be proposed now. Returns True if anything was."""
        if self._open_at is None or self._stopped or not self._engine.is_ready:
            return False
        proposed = False
        if not self.open:
            if now_s < self._open_at and not all(self._queue(node).has_all_held for node in self._wait_for):
                return False
            self._open_term(now_s)
            proposed = True
        while (self._turn or self._leader_commands or self._ends_pause(now_s)) and self._may_propose():
            self._propose_next(now_s)
            proposed = True
        return proposed

    def _ends_pause(self, now_s: float) -> bool:
        """Return True if redelivery may resume.

        Acks sent while there was no leader, or while this process was suspended, are in entries by then.
        """
        return self._pausing and not self._held_left and now_s >= self._paused_until_s

    def _propose_next(self, now_s: float) -> None:
        commands, size = self._next_leader_command()
        batches = self._next_batches() if size <= ENTRY_BYTES else []
        if self._ends_pause(now_s):
            commands.append(PauseRedelivery(self._engine.term, False))
            self._pausing = False
            self._opening.clear()
        self._propose(commands, batches)

    def _may_propose(self) -> bool:
        if not self._in_flight:
            return True
        full = self._queued_bytes >= ENTRY_BYTES or self._held_left > 0
        return full and len(self._in_flight) < IN_FLIGHT_MAX and self._in_flight_bytes < UNCOMMITTED_BYTES_MAX

    def _open_term(self, now_s: float) -> None:
        term = self._engine.term
        self.open = True
        commands: list[LeaderCommand] = [NewTerm(term, self._engine.commit_when_elected)]
        if not self._state().cluster_uuid:
            commands += self._bootstrap_commands(term)
        if self.cold:
            commands.append(ColdStart(term))
        may_pause = not too_new(PauseRedelivery, self._state().version)
        if may_pause:
            self._opening_until_s = now_s + OPENING_WAIT_S
            for node, queue in self._queues.items():
                self._hold(queue)
                if queue.opening:
                    self._opening.add(node)
        batches = self._next_batches()
        if self._held_left or self._opening or (may_pause and now_s < self._hold_until_s):
            commands.append(PauseRedelivery(term, True))
            self._pausing = True
        self._first_index = self._propose(commands, batches, free=self.cold)

    def _next_leader_command(self) -> tuple[list[LeaderCommand], int]:
        """Take up to 64 KiB of leader commands, or a single larger one. Returns them and their size.

        A command is large if it names a client ID that an older release registered without a length limit.
        """
        commands: list[LeaderCommand] = []
        total = 0
        while self._leader_commands and len(commands) < LEADER_COMMANDS_MAX:
            command, size = self._leader_commands[0]
            if commands and total + size > ENTRY_BYTES:
                break
            self._leader_commands.popleft()
            commands.append(command)
            total += size
        return commands, total

    def _next_batches(self) -> list[Batch]:
        """Take up to 64 KiB of batches, one of each origin in turn, or a single larger one."""
        batches: list[Batch] = []
        size = 0
        turn, queues = self._turn, self._queues
        while turn:
            node = turn[0]
            queue = queues[node]
            length = len(queue.batches[0].commands)
            if batches and size + length > ENTRY_BYTES:
                break
            batches.append(queue.batches.popleft())
            if queue.held:
                queue.held -= 1
                self._held_left -= 1
            queue.bytes -= length
            size += length
            turn.popleft()
            if queue.batches:
                turn.append(node)
        self._queued_bytes -= size
        return batches

    def _propose(self, commands: list[LeaderCommand], batches: list[Batch], *, free: bool = False) -> int:
        state = self._state()
        time_ns = self._clock.now()
        stamp = self._wall_clock.stamp(time_ns, free=free)
        entry = Entry(
            state.version, time_ns, stamp, [encode_leader_command(command) for command in commands], batches
        )
        data = encode_entry(entry)
        assert len(data) <= ENTRY_SIZE_MAX, f"an entry of {len(data)} bytes, which no frame can hold"
        index = self._engine.propose(data)
        self._in_flight.append((index, len(data)))
        self._in_flight_bytes += len(data)
        return index
