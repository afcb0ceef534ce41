"""What makes a node go round: one task that iterates, one that flushes, and the order between them.

One iteration, never with an await inside::

    tick        commit, apply, timers
    pump        the server proposes what is now possible
    replicate   new entries and a new commit index leave for the followers
    flush       the journal's writer is woken if there is something to write

Frames are handed to the engine by whoever read them; then, as after a proposal, a `Driver.kick` asks
for an iteration. However many kicks one step of trio brings, one iteration answers them. Without
any, the next one comes at the earliest deadline of engine and server.

The flusher writes and syncs in a worker thread, one flush at a time, while the loop goes on
gathering the next; what was promised leaves when its flush is done, and offers never wait for one
(the engine's business: `Engine.on_durable`). A failed flush is never retried: `DiskError` leaves
`Driver.run` and ends the node before anything that depended on it was said.

When this process stood still (stopped, swapped out, a paused machine), its timers have run out
and its sockets are full of the reasons why they shouldn't have. So after every wait that a timer
ended the readers go first, and a wait that ended far too late is told to the engine before anything else; to
the server too, unless the process was at work all the while: then it knows what it did meanwhile.

Links may stand before this runs: a node that waits to be admitted has them, and must not vote or acknowledge
anything yet, for its directory doesn't say whose it is. What comes in until then is kept, up to a bound.

Source: raft-engine.md §6.3, §6.4; architecture rule R4.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import trio

from node.errors import RemoteProtocolError
from node.protocol.peer import encode_frame, shown
from node.raft.links import RAFT, LinkListener
from node.raft.ports import Message

GROUP: Final = 0
"""The only Raft group. Every frame names its group, so that there can be more one day."""


HELD_MAX: Final = 1024
"""Frames kept until `Driver.run`, of all peers. One more ends the connection it came over."""


class Engine(Protocol):
    """What is driven: see `node.raft.engine.Engine`."""

    def connected(self, peer: str, directory: str | None = None, term: int | None = None) -> None: ...
    def disconnected(self, peer: str) -> None: ...
    def receive(self, peer: str, message: Message) -> None: ...
    def tick(self) -> None: ...
    def replicate(self) -> None: ...
    def on_durable(self) -> None: ...
    def paused(self, gap_s: float) -> None: ...
    def next_deadline(self) -> float: ...


class Flush(Protocol):
    def run(self) -> None: ...


class Journal(Protocol):
    """What is flushed: see `node.raft.journal.Journal`."""

    @property
    def written(self) -> int: ...
    @property
    def durable(self) -> int: ...
    def begin_flush(self) -> Flush | None: ...
    def end_flush(self, flush: Any) -> None: ...


class Server(Protocol):
    """Who lives on top. All of it is called on the loop and must not wait."""

    def peer_up(self, peer: str, hello: Mapping[str, Any]) -> None:
        """The raft link to a member is there."""

    def peer_down(self, peer: str) -> None:
        """It is gone; what was on its way may be lost."""

    def frame(self, peer: str, value: Any) -> None:
        """Take a frame that a member's server has sent with `Outlet.to_server`.

        Raises:
            RemoteProtocolError: no such frame; the connection is dropped.
        """

    def paused(self, gap_s: float) -> None:
        """This process stood still for ``gap_s``; the engine knows, and nothing was applied since."""

    def pump(self) -> float:
        """Do what is due. Returns when to be called again at the latest, on the driver's clock."""


class Transport(Protocol):
    def attach(self, link: str, listener: LinkListener) -> None: ...
    def send_encoded(self, peer: str, link: str, frame: bytes) -> bool: ...
    def is_up(self, peer: str, link: str) -> bool: ...
    def drop(self, peer: str, link: str, reason: str) -> None: ...


class Outlet:
    """The way out on the raft link: what the engine and the server are given to send with.

    The engine sends the same message to each follower; it is encoded once.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._encoded: dict[int, tuple[Message, bytes]] = {}

    def to_engine(self, peer: str, message: Message) -> None:
        """Send a message of the engine. It must not be changed afterwards; it may be lost."""
        if not self._transport.is_up(peer, RAFT):
            return
        known = self._encoded.get(id(message))
        if known is None:
            # The message is kept beside its bytes, for as long as its id stands for it.
            known = self._encoded[id(message)] = (message, encode_frame((GROUP, message)))
        self._transport.send_encoded(peer, RAFT, known[1])

    def to_server(self, peer: str, value: Any) -> bool:
        """Send an array of plain values to the peer's server (maps are the engine's). False: no link."""
        assert isinstance(value, tuple | list)
        if not self._transport.is_up(peer, RAFT):
            return False
        return self._transport.send_encoded(peer, RAFT, encode_frame((GROUP, value)))

    def forget(self) -> None:
        """The messages sent so far are not sent again."""
        self._encoded.clear()


class Driver:
    """Drives one engine over one journal and one transport, whose raft link it listens on.

    Args:
        engine: sends through ``outlet``.
        journal: the engine's.
        transport: not running yet.
        outlet: made before the engine, which needs it.
        server: who lives on top.
        election_min_s: the minimum election timeout; standing still for half of it matters.
        clock: the engine's clock: seconds that only elapse.
        stood_s: for how many seconds this process has not run although it wanted to, so far; None: that isn't
            known, and every wait that ended too late counts.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        transport: Transport,
        *,
        outlet: Outlet,
        server: Server,
        election_min_s: float,
        clock: Callable[[], float] = time.monotonic,
        stood_s: Callable[[], float] | None = None,
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._transport = transport
        self._outlet = outlet
        self._server = server
        self._gap_s = election_min_s / 2
        self._clock = clock
        self._stood_s = stood_s
        self._stood_before_s = 0.0
        self._due = float("inf")
        self._held: list[tuple[str, Any]] | None = []
        self._kicked = trio.Event()
        self._dirty = trio.Event()
        self._flushed = trio.Event()
        self._limiter = trio.CapacityLimiter(1)  # a flush never queues behind other work in threads
        transport.attach(RAFT, self)

    def kick(self) -> None:
        """Ask for an iteration in trio's next step: something was proposed, or became possible."""
        self._kicked.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive until cancelled.

        Raises:
            DiskError: a flush failed (in an exception group, as whatever engine or server raise).
        """
        self._due = self._clock()
        self._release()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush_forever)
            task_status.started()
            await self._iterate_forever()

    async def flushed(self) -> None:
        """Wait until everything written so far is durable."""
        written = self._journal.written
        while self._journal.durable < written:
            self._wake_flusher()
            await self._flushed.wait()

    # --- the loop ---------------------------------------------------------------------------------

    async def _iterate_forever(self) -> None:
        while True:
            self._iterate()
            with trio.move_on_after(max(0.0, self._due - self._clock())):
                await self._kicked.wait()
            if not self._kicked.is_set():
                # The readers that have something to read run in this step, timers in the next.
                await trio.lowlevel.checkpoint()
            self._kicked = trio.Event()

    def _iterate(self) -> None:
        self._notice_gap()
        self._engine.tick()
        wanted = self._server.pump()
        self._engine.replicate()
        self._outlet.forget()
        self._due = min(wanted, self._engine.next_deadline())
        if self._stood_s is not None:
            self._stood_before_s = self._stood_s()
        self._wake_flusher()

    def _notice_gap(self) -> None:
        late_s = self._clock() - self._due
        if late_s > self._gap_s:
            self._due = self._clock()  # told once
            self._engine.paused(late_s)
            stood_s = late_s if self._stood_s is None else self._stood_s() - self._stood_before_s
            if stood_s > self._gap_s:
                self._server.paused(min(stood_s, late_s))

    def _wake_flusher(self) -> None:
        if self._journal.written > self._journal.durable:
            self._dirty.set()

    async def _flush_forever(self) -> None:
        while True:
            # Begun is ended: the thread is waited for when this is cancelled, but would not be started.
            await trio.lowlevel.checkpoint_if_cancelled()
            flush = self._journal.begin_flush()
            if flush is None:
                self._dirty = trio.Event()
                await self._dirty.wait()
                continue
            await trio.to_thread.run_sync(flush.run, limiter=self._limiter)
            self._journal.end_flush(flush)
            self._notice_gap()
            self._engine.on_durable()
            self._flushed.set()
            self._flushed = trio.Event()
            self.kick()

    # --- the raft link ----------------------------------------------------------------------------

    def on_up(self, peer: str, link: str, hello: Mapping[str, Any]) -> None:
        """See `LinkListener`. A hello says with which directory its sender comes, "" for a founder's, and
        in which term it is.
        """
        directory, term = hello.get("directory"), hello.get("term")
        self._engine.connected(
            peer,
            directory if isinstance(directory, str) else None,
            term if type(term) is int and 0 <= term < 1 << 64 else None,
        )
        self._server.peer_up(peer, hello)
        self.kick()

    def on_down(self, peer: str, link: str) -> None:
        """See `LinkListener`."""
        if self._held is not None:
            self._held = [(sender, value) for sender, value in self._held if sender != peer]
        self._engine.disconnected(peer)
        self._server.peer_down(peer)
        self.kick()

    def on_frames(self, peer: str, link: str, values: list[Any]) -> None:
        """See `LinkListener`: a map is the engine's, an array the server's."""
        if self._held is not None:
            if len(self._held) + len(values) > HELD_MAX:
                raise RemoteProtocolError(f"{peer}: too many frames for a node that isn't admitted yet")
            self._held += [(peer, value) for value in values]
            return
        self._notice_gap()
        self.kick()
        for value in values:
            self._take(peer, value)

    def _release(self) -> None:
        """Take what came in before this ran."""
        held, self._held = self._held or [], None
        dropped = set()
        for peer, value in held:
            try:
                if peer not in dropped:
                    self._take(peer, value)
            except RemoteProtocolError as error:
                dropped.add(peer)
                self._transport.drop(peer, RAFT, str(error))

    def _take(self, peer: str, value: Any) -> None:
        match value:
            case (int(group), dict() as message) if group == GROUP:
                self._engine.receive(peer, message)
            case (int(group), tuple() as forwarded) if group == GROUP:
                self._server.frame(peer, forwarded)
            case _:
                raise RemoteProtocolError(f"a frame for no raft group that we know: {shown(value)}")
