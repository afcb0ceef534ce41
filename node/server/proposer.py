"""What the leader does with batches: take them in order, stamp the time, make entries (R7, R9, R21).

A batch names the term it is meant for and the serial it follows. The leader takes it only in that
term and in sequence, else it says from where to send again; so no gap reaches the log. Batches are
put into entries as bytes, undecoded, round robin by origin.

Group commit adapts itself: with nothing in flight a batch is proposed at once; while entries are in
flight, batches gather until one of them completes or 64 KiB are there.

An entry holds ``ENTRY_BYTES`` of the keeper's commands and as much of batches, or one larger command or
batch: what it takes is known before it is made, and always fits a frame between nodes. A batch that is too
large by itself, of an older release, is put into the log as so many refused requests: its origin goes on.

The first entry of a term waits until every connected member has forwarded all it held, 150 ms at
most. If that is more than one entry takes, nothing is sent again before the entry that holds the last of it
(R9): what was acknowledged while nobody led is not due. A process that was started while nobody led can't
forward what it holds before its session is in the log: nothing is sent again before that has come, or for
500 ms.

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

log = logging.getLogger("stanchion.ordering")

ENTRY_BYTES = 64 * 1024
"""Bytes of the keeper's commands in one entry, and of batches; a larger command or batch goes alone."""
HELD_WAIT_S = 0.150
READ_WAIT_S = 0.5
"""After this process stood still: so long may the nodes take to read what their clients had sent."""
OPENING_WAIT_S = 0.5
"""From a term's first entry: so long may nodes without a session take to forward what they hold."""
UNCOMMITTED_BYTES_MAX = 64 * 1024 * 1024
IN_FLIGHT_MAX = 16
"""Entries proposed and not applied, beyond which full batches gather too."""
EARLY_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of batches kept of one node until this leader is ready. With more all of them are dropped, and asked
for again then: a link that breaks again and again brings the same again and again."""
SESSION_OPEN_BYTES_MAX = 1024
LEADER_COMMANDS_MAX = 500
"""Keeper commands in one entry: a take-over may find thousands of clients to speak of (R19)."""


class Engine(Protocol):
    """What ordering needs of the consensus engine."""

    def propose(self, payload: bytes) -> int: ...

    @property
    def is_ready(self) -> bool: ...

    @property
    def term(self) -> int: ...

    @property
    def commit_when_elected(self) -> int: ...


class Queue:
    """What one origin has forwarded and the leader has not put into an entry yet."""

    __slots__ = ("batches", "bytes", "held", "held_to", "opening", "session", "taken")

    def __init__(self) -> None:
        self.batches: deque[Batch] = deque()
        self.bytes = 0
        self.session: tuple[int, int] | None = None
        self.taken = 0
        self.held = 0
        """How many of the batches stood here when the term's first entry was proposed."""
        self.held_to: int | None = None
        """The origin held serials up to this one when it heard of the leader; None: it has not said so."""
        self.opening = 0
        """It had no session then, and holds so many commands for the session that it is opening."""

    @property
    def has_all_held(self) -> bool:
        """Everything that the origin held has arrived."""
        return self.held_to is not None and self.taken >= self.held_to


class _Early:
    """What one node has forwarded before this leader was ready."""

    __slots__ = ("bytes", "frames", "is_incomplete")

    def __init__(self) -> None:
        self.frames: list[tuple[Any, ...]] = []
        self.bytes = 0
        self.is_incomplete = False
        """Frames were dropped."""


class Proposer:
    """The order of the log, while this node leads.

    Args:
        engine: where entries are proposed.
        state: the replicated state, to know how far each session was applied when the term began.
        clock, wall: the stamps.
        found: the commands that give a new cluster its identity and machine version, for a term; asked for
            when the state has no identity yet.
        answer: sends a frame back to an origin: ``("again", term, serial)``.
    """

    def __init__(
        self,
        engine: Engine,
        state: Callable[[], State],
        clock: ClusterClock,
        wall_clock: WallClock,
        *,
        found: Callable[[int], list[LeaderCommand]],
        answer: Callable[[str, tuple[Any, ...]], None],
    ) -> None:
        self._engine = engine
        self._state = state
        self._clock = clock
        self._wall_clock = wall_clock
        self._found = found
        self._answer = answer
        self._term: int | None = None
        self._early: dict[str, _Early] = {}
        self._queues: dict[str, Queue] = {}
        self._turn: deque[str] = deque()
        self._queued_bytes = 0
        self._leader_commands: deque[tuple[LeaderCommand, int]] = deque()
        """With their sizes."""
        self._in_flight: deque[tuple[int, int]] = deque()  # (index, size)
        self._in_flight_bytes = 0
        self._held_left = 0
        """Batches that stood in the queues when the term's first entry was proposed, and still do."""
        self._hold_until_s = float("-inf")
        """Until then nothing is sent again: this process stood still, and clients' acks are being read."""
        self._opening: set[str] = set()
        """Nodes that hold commands for a session being opened: redelivery is paused until they come."""
        self._opening_until_s = float("-inf")
        self._pausing = False
        """This leader has paused redelivery, and not ended that yet."""
        self._wait_for: set[str] = set()
        self._open_at: float | None = None
        self._stopped = False
        self.open = False
        """Whether the first entry of this term was proposed."""
        self.serving = False
        """Whether that entry is applied. What is in flight says nothing of it: under load that never ends."""
        self._first_index = 0
        self.cold = False
        """Whether that entry says ColdStart: nobody of a majority was warm (R14)."""

    # --- the term ---------------------------------------------------------------------------------

    def lead(self, term: int) -> None:
        """This node was elected; its entries wait until it is ready."""
        self.follow()
        self._term = term

    def follow(self) -> None:
        """This node does not lead: what was queued is forwarded again by its origins."""
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
        """Propose nothing more in this term: leadership is handed over, and others take it from here."""
        self._stopped = True

    def go_on(self) -> None:
        """Nobody has taken over: propose again."""
        self._stopped = False

    def ready(self, now_s: float, connected: Iterable[str], *, cold: bool) -> None:
        """The no-op of this term is applied: entries may follow once the waiting have been heard.

        Args:
            now_s: the driver's clock.
            connected: members, this one included, whose links are up.
            cold: nobody of a majority was warm (R14).
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
        """When the first entry goes out at the latest, or redelivery goes on, on the driver's clock."""
        if not self.open:
            return self._open_at
        waits = self._pausing and not (self._held_left or self._in_flight or self._stopped)
        return self._paused_until_s if waits and self._engine.is_ready else None

    @property
    def _paused_until_s(self) -> float:
        """Until when redelivery stays paused at least, if nothing comes."""
        return max(self._hold_until_s, self._opening_until_s) if self._opening else self._hold_until_s

    def hold_redelivery(self, now_s: float) -> None:
        """Send nothing again for ``READ_WAIT_S``: this process stood still (R9).

        Acknowledgements that came meanwhile are in sockets, here and perhaps on every other node, and time
        has gone on.
        """
        self._hold_until_s = now_s + READ_WAIT_S
        if self.open and not self._pausing and not too_new(PauseRedelivery, self._state().version):
            command = PauseRedelivery(self._engine.term, True)
            self._leader_commands.appendleft((command, encoded_size(command)))
            self._pausing = True

    # --- frames of origins ------------------------------------------------------------------------

    def frame(self, node: str, frame: tuple[Any, ...]) -> None:
        """Take a frame of ``node`` (origin.py lists them). Another term's are dropped.

        Raises:
            RemoteProtocolError: the log must not have it; see below.
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
        """Look at a frame of another node before anything of it can get into the log.

        Raises:
            RemoteProtocolError: it would do harm to other nodes there.
        """
        if frame[0] == "batch":
            _, _, session, first, last, _, commands = frame
            count = last - first + 1
            if not 0 < count <= min(BATCH_COMMANDS_MAX, len(commands)) or claimed_count(commands) != count:
                # It would leave a gap in the session, and every node that applied it would stop (R7).
                raise RemoteProtocolError(f"{node}: a batch that doesn't hold serials {first} to {last}")
            known = self._state().sessions.items()
            if any(other.id == (session[0], session[1]) for name, other in known if name != node):
                raise RemoteProtocolError(f"{node}: a batch in the session of another node")
        elif frame[0] == "open" and (
            len(frame[2]) > SESSION_OPEN_BYTES_MAX or decode_session_open(frame[2]).node != node
        ):
            raise RemoteProtocolError(f"{node}: a session that isn't its own")

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
            # Opened in this term, or ended by another: apply decides. Its serials start at 1.
            queue.session, queue.taken = session, 0
            known = self._state().sessions.get(node)
            if known is not None and known.id == session:
                queue.taken = known.applied
        if last <= queue.taken:
            return  # sent again, and taken before
        if first != queue.taken + 1:
            self._answer(node, ("again", term, queue.taken + 1))
            return
        if len(commands) > BATCH_SIZE_MAX:
            log.error(
                "node %s forwarded a batch of %d bytes, of at most %d: its requests %d to %d are refused. "
                "Update that node",
                node, len(commands), BATCH_SIZE_MAX, first, last,
            )  # fmt: skip
            commands = refused_batch(last - first + 1)
        queue.taken = last
        self._append(node, Batch(session, first, lowest, commands))
        if node in self._opening and last >= queue.opening:
            self._opening.discard(node)
            self._hold(queue)

    def _forwarded_all(self, node: str, session: Sequence[int] | None, next_serial: int) -> None:
        """An origin has forwarded what it held: serials below ``next_serial`` of its session.

        One that was told to send again has not. Without a session it can forward nothing yet.
        """
        queue = self._queue(node)
        queue.opening = next_serial - 1 if session is None else 0
        known = session is not None and queue.session == (session[0], session[1])
        queue.held_to = next_serial - 1 if known else 0

    def _hold(self, queue: Queue) -> None:
        """Count what stands in a queue now as held: redelivery goes on behind it."""
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
        """Put a command of the keeper into the next entry."""
        if self._term is not None:
            self._leader_commands.append((command, encoded_size(command)))

    # --- entries ----------------------------------------------------------------------------------

    def applied(self, index: int) -> None:
        """Everything up to ``index`` is applied here: what was in flight has completed."""
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] <= index:
            self._in_flight_bytes -= in_flight.popleft()[1]
        if self.open and index >= self._first_index:
            self.serving = True

    @property
    def idle(self) -> bool:
        """Nothing proposed is unapplied."""
        return not self._in_flight

    def pump(self, now_s: float) -> bool:
        """Propose what may be proposed now. True if anything was."""
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
        """Everything that was acknowledged while nobody led, or this process stood still, is on its way."""
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
            commands += self._found(term)
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
        """Up to 64 KiB of the keeper's commands, and their size; a larger one goes alone.

        Large are commands that name a client whose ID was registered by an older release, which took any.
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
        """Up to 64 KiB of batches, one of each origin at a time; a larger one goes alone."""
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
