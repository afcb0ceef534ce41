"""Runs the engine, the server and the journal: one task that iterates, one that flushes.

One iteration never awaits::

    tick        commit, apply, timers
    pump        the server proposes what is now possible
    replicate   send new entries and a new commit index to the followers
    flush       wake the flusher if the journal has something to write

Readers pass frames to the engine. Then, as after a proposal, `Driver.kick` requests an iteration. All kicks
of one trio step are answered by one iteration. Without a kick the next iteration runs at the earliest
deadline of engine and server.

The flusher writes and syncs in a worker thread, one flush at a time, while the loop collects the next one.
Messages that depend on a flush are sent when it is done (`Engine.on_durable`); appends and heartbeats never
wait for one. A failed flush is never retried: `DiskError` propagates out of `Driver.run` and ends the node
before any message that depended on the flush is sent.

If the process was paused (stopped, swapped out, a paused virtual machine), its timers have expired while
unread frames wait in its sockets. So after every wait that a timer ended, the readers run first. If the wait
took far too long, the engine is informed of the pause before anything else. The server is informed too,
unless the process was running all the time.

Links may be up before `Driver.run`: a node that waits to join has them, but must not vote or acknowledge
anything yet, because its directory does not name its cluster. Frames received until then are kept, up to a
bound.

Source: raft-engine.md, The durability contract; architecture rule R4.
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
"""The only Raft group. Every frame names its group, so that more groups can be added later."""


EARLY_FRAMES_MAX: Final = 1024
"""Maximum number of frames kept until `Driver.run`, of all peers. One more ends the connection it came
from."""


class Engine(Protocol):
    """The engine: see `node.raft.engine.Engine`."""

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
    """The journal: see `node.raft.journal.Journal`."""

    @property
    def written(self) -> int: ...
    @property
    def durable(self) -> int: ...
    def begin_flush(self) -> Flush | None: ...
    def end_flush(self, flush: Any) -> None: ...


class Server(Protocol):
    """The server above the engine. All methods are called on the loop and must not wait."""

    def peer_up(self, peer: str, hello: Mapping[str, Any]) -> None:
        """The raft link to a member is up."""

    def peer_down(self, peer: str) -> None:
        """The raft link to a member is down; frames in flight may be lost."""

    def frame(self, peer: str, value: Any) -> None:
        """Handle a frame that a member's server has sent with `Outlet.to_server`.

        Raises:
            RemoteProtocolError: the frame is invalid; the connection is dropped.
        """

    def paused(self, gap_s: float) -> None:
        """This process was paused for ``gap_s``. The engine is informed already; nothing was applied
        since.
        """

    def pump(self) -> float:
        """Do the work that is due. Returns the time of the next call at the latest, on the driver's clock."""


class Transport(Protocol):
    def attach(self, link: str, listener: LinkListener) -> None: ...
    def send_encoded(self, peer: str, link: str, frame: bytes) -> bool: ...
    def is_up(self, peer: str, link: str) -> bool: ...
    def drop(self, peer: str, link: str, reason: str) -> None: ...


class Outlet:
    """Sends frames of the engine and the server on the raft link.

    The engine sends the same message object to several followers; it is encoded once.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._encoded: dict[int, tuple[Message, bytes]] = {}

    def to_engine(self, peer: str, message: Message) -> None:
        """Send a message of the engine. It must not be modified afterwards; it may be lost."""
        if not self._transport.is_up(peer, RAFT):
            return
        cached = self._encoded.get(id(message))
        if cached is None:
            # Keep the message beside its bytes, so that its id is not reused.
            cached = self._encoded[id(message)] = (message, encode_frame((GROUP, message)))
        self._transport.send_encoded(peer, RAFT, cached[1])

    def to_server(self, peer: str, value: Any) -> bool:
        """Send an array of plain values to the peer's server. Maps are messages of the engine. Returns False
        if there is no link.
        """
        assert isinstance(value, tuple | list)
        if not self._transport.is_up(peer, RAFT):
            return False
        return self._transport.send_encoded(peer, RAFT, encode_frame((GROUP, value)))

    def forget(self) -> None:
        """Drop the encodings of the messages sent so far."""
        self._encoded.clear()


class Driver:
    """Drives one engine, one journal and one transport, whose raft link it listens on.

    Args:
        engine: sends through ``outlet``.
        journal: the engine's journal.
        transport: not running yet.
        outlet: created before the engine, which needs it.
        server: the server above the engine.
        election_min_s: the minimum election timeout; a pause of half of it is reported.
        clock: the engine's clock, in monotonic seconds.
        stood_s: returns for how many seconds in total this process was runnable but did not run. None: not
            measured; every wait that ended too late counts as a pause.
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
        self._early: list[tuple[str, Any]] | None = []
        self._kicked = trio.Event()
        self._dirty = trio.Event()
        self._flushed = trio.Event()
        self._limiter = trio.CapacityLimiter(1)  # a flush must not wait for other work in threads
        transport.attach(RAFT, self)

    def kick(self) -> None:
        """Request an iteration in trio's next step."""
        self._kicked.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled.

        Raises:
            DiskError: a flush failed. Like all errors of engine and server it is raised in an exception
                group.
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
                # Readers with data run in this step, timers in the next.
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
            self._due = self._clock()  # report it once
            self._engine.paused(late_s)
            stood_s = late_s if self._stood_s is None else self._stood_s() - self._stood_before_s
            if stood_s > self._gap_s:
                self._server.paused(min(stood_s, late_s))

    def _wake_flusher(self) -> None:
        if self._journal.written > self._journal.durable:
            self._dirty.set()

    async def _flush_forever(self) -> None:
        while True:
            # No checkpoint between begin and end: a cancelled task waits for a running thread, but would not
            # start it.
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
        """See `LinkListener`. The hello carries the sender's directory id ("" for an initial voter) and its
        term.
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
        if self._early is not None:
            self._early = [(sender, value) for sender, value in self._early if sender != peer]
        self._engine.disconnected(peer)
        self._server.peer_down(peer)
        self.kick()

    def on_frames(self, peer: str, link: str, values: list[Any]) -> None:
        """See `LinkListener`. A map is a message of the engine, an array one of the server."""
        if self._early is not None:
            if len(self._early) + len(values) > EARLY_FRAMES_MAX:
                raise RemoteProtocolError(f"{peer}: too many frames for a node that has not joined yet")
            self._early += [(peer, value) for value in values]
            return
        self._notice_gap()
        self.kick()
        for value in values:
            self._take(peer, value)

    def _release(self) -> None:
        """Handle the frames that arrived before `run`."""
        early, self._early = self._early or [], None
        dropped = set()
        for peer, value in early:
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
                raise RemoteProtocolError(f"frame of an unknown raft group: {shown(value)}")
