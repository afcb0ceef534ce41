"""The driver: one iteration, when it runs, and what waits for the disk."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from node.config.values import Address
from node.errors import DiskError, RemoteProtocolError
from node.protocol.peer import WIRE_VERSION, FrameDecoder, decode_body
from node.raft.disk import RealDisk
from node.raft.driver import EARLY_FRAMES_MAX, Driver, Outlet
from node.raft.engine import Engine
from node.raft.journal import Journal
from node.raft.links import RAFT, LinkListener
from node.raft.ports import Timing
from node.raft.security import Plaintext
from node.raft.transport import Transport

SOON = 10.0  # seconds until a test that hangs is given up; nothing waits for it
ELECTION_MIN_S = 0.3


class FakeFlush:
    """A flush that runs until the test ends it, in its worker thread."""

    def __init__(self, journal: FakeJournal) -> None:
        self.seq = journal.written
        self._journal = journal

    def run(self) -> None:
        trio.from_thread.run_sync(self._journal.say, "flush begins")
        assert self._journal.disk.wait(SOON)
        if self._journal.failure is not None:
            raise self._journal.failure


class FakeJournal:
    def __init__(self, say: Callable[..., None]) -> None:
        self.say = say
        self.written = self.durable = 0
        self.disk = threading.Event()
        self.disk.set()
        self.failure: DiskError | None = None
        self.on_end: Callable[[], None] = lambda: None
        self._running: FakeFlush | None = None

    def begin_flush(self) -> FakeFlush | None:
        if self._running is not None or self.written == self.durable:
            return None
        self._running = FakeFlush(self)
        return self._running

    def end_flush(self, flush: FakeFlush) -> None:
        assert flush is self._running
        self._running = None
        self.durable = flush.seq
        self.say("durable", flush.seq)
        self.on_end()


class World:
    """Engine, server, journal and transport of a driver; all calls are recorded in one list."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.diary: list[tuple[Any, ...]] = []
        self.engine_due = self.server_due = float("inf")
        self.journal = FakeJournal(self.say)
        self.sent: list[tuple[str, bytes]] = []
        self.up = {"n2", "n3"}
        self.stood_s: float | None = None
        self.on_tick: Callable[[], None] = lambda: None
        self.outlet = Outlet(self)
        self.listener: LinkListener
        self._news = trio.Event()

    def say(self, *what: Any) -> None:
        self.diary.append(what)
        self._news.set()
        self._news = trio.Event()

    def words(self) -> list[Any]:
        return [what[0] for what in self.diary]

    async def until(self, *what: Any) -> None:
        with trio.fail_after(SOON):
            while what not in self.diary:
                await self._news.wait()

    # the engine
    def connected(self, peer: str, directory: str | None = None, term: int | None = None) -> None:
        self.say("connected", peer, *([directory] if directory is not None else []))

    def disconnected(self, peer: str) -> None:
        self.say("disconnected", peer)

    def receive(self, peer: str, message: dict[str, Any]) -> None:
        self.say("receive", peer, message["type"])
        if message["type"] == "nonsense":
            raise RemoteProtocolError("nonsense")

    def tick(self) -> None:
        self.say("tick")
        self.on_tick()

    def replicate(self) -> None:
        self.say("replicate")

    def on_durable(self) -> None:
        self.say("on_durable")

    def next_deadline(self) -> float:
        return self.engine_due

    # the server; `paused` is of both
    def peer_up(self, peer: str, hello: Mapping[str, Any]) -> None:
        self.say("peer up", peer, hello["from"])

    def peer_down(self, peer: str) -> None:
        self.say("peer down", peer)

    def frame(self, peer: str, value: Any) -> None:
        self.say("frame", peer, value)

    def pump(self) -> float:
        self.say("pump")
        return self.server_due

    def paused(self, gap_s: float) -> None:
        self.say("paused", round(gap_s, 6))

    # the transport
    def attach(self, link: str, listener: LinkListener) -> None:
        assert link == RAFT
        self.listener = listener

    def is_up(self, peer: str, link: str) -> bool:
        return peer in self.up

    def send_encoded(self, peer: str, link: str, frame: bytes) -> bool:
        assert link == RAFT
        self.sent.append((peer, frame))
        return peer in self.up

    def drop(self, peer: str, link: str, reason: str) -> None:
        self.say("drop", peer, reason)

    def driver(self) -> Driver:
        return Driver(
            self,
            self.journal,
            self,
            outlet=self.outlet,
            server=self,
            election_min_s=ELECTION_MIN_S,
            clock=self.clock,
            stood_s=None if self.stood_s is None else lambda: self.stood_s or 0.0,
        )


@pytest.fixture
def still_clock() -> trio.testing.MockClock:
    """The clock advances only if a test sets it; pytest-trio runs the test on it."""
    return trio.testing.MockClock()


@asynccontextmanager
async def driven(world: World) -> AsyncIterator[Driver]:
    driver = world.driver()
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.testing.wait_all_tasks_blocked()
        world.diary.clear()
        yield driver
        nursery.cancel_scope.cancel()


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


# --- iterations -------------------------------------------------------------------------------------


async def test_one_iteration_ticks_pumps_and_replicates(still_clock: trio.testing.MockClock) -> None:
    """It commits and applies first, then proposes what became possible, then sends everything."""
    world = World(trio.current_time)
    async with driven(world) as driver:
        driver.kick()
        await settle()
    assert world.words() == ["tick", "pump", "replicate"]


async def test_kicks_of_one_step_cost_one_iteration(still_clock: trio.testing.MockClock) -> None:
    """This holds for any number of tasks, in whatever order trio runs them."""
    world = World(trio.current_time)
    async with driven(world) as driver:

        async def kick() -> None:
            for _ in range(10):
                driver.kick()

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(kick)
        await settle()
    assert world.words().count("tick") == 1


async def test_a_kick_from_within_an_iteration_asks_for_another(still_clock: trio.testing.MockClock) -> None:
    world = World(trio.current_time)
    async with driven(world) as driver:
        more = [1, 2]

        def kick_again() -> None:
            if more:
                more.pop()
                driver.kick()

        world.on_tick = kick_again
        driver.kick()
        await settle()
    assert world.words().count("tick") == 3


async def test_without_events_it_sleeps_until_the_earliest_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The earlier deadline of engine and server counts."""
    world = World(trio.current_time)
    at: list[float] = []

    def plan() -> None:
        at.append(round(trio.current_time() - start, 6))
        world.engine_due = start + {0: 0.05, 0.05: 7.0, 2.0: 7.0}.get(at[-1], float("inf"))
        world.server_due = start + {0: 9.0, 0.05: 2.0, 2.0: 8.0}.get(at[-1], float("inf"))

    start = trio.current_time()
    world.on_tick = plan
    with trio.move_on_after(100):
        await world.driver().run()
    assert at == [0, 0.05, 2.0, 7.0]


async def test_work_that_is_due_at_once_leaves_room_for_others(still_clock: trio.testing.MockClock) -> None:
    """An engine that catches up is always due; readers and clients still get to run."""
    world = World(trio.current_time)
    async with driven(world) as driver:
        world.engine_due = trio.current_time()
        driver.kick()
        for _ in range(100):
            await trio.lowlevel.checkpoint()
    assert 20 <= world.words().count("tick") <= 100


@pytest.mark.parametrize("attempt", range(10))
async def test_readers_go_before_timers(still_clock: trio.testing.MockClock, attempt: int) -> None:
    """The election timer has expired while the leader's heartbeat waits in the socket: the heartbeat is read
    first.

    Trio runs the tasks of a step in any order, so the test repeats.
    """
    world = World(trio.current_time)
    world.engine_due = due = trio.current_time() + 0.1
    async with driven(world), trio.open_nursery() as nursery:

        async def read() -> None:
            await trio.sleep_until(due)
            world.listener.on_frames("n2", RAFT, [(0, {"type": "append"})])

        nursery.start_soon(read)
        await settle()
        world.engine_due = float("inf")
        still_clock.jump(0.1)
        await settle()
    assert world.words()[:2] == ["receive", "tick"]


async def test_frames_are_kept_until_it_runs(still_clock: trio.testing.MockClock) -> None:
    """A node that waits to join has links, but its directory does not name its cluster yet."""
    world = World(trio.current_time)
    driver = world.driver()
    for peer in ("n2", "n3", "n4"):
        world.listener.on_up(peer, RAFT, {"from": peer})
    world.diary.clear()
    append, nonsense = (0, {"type": "append"}), (0, {"type": "nonsense"})
    world.listener.on_frames("n2", RAFT, [append, (0, ("ask",))])
    world.listener.on_frames("n3", RAFT, [append])
    world.listener.on_frames("n4", RAFT, [nonsense, append])
    world.listener.on_down("n3", RAFT)
    assert world.words() == ["disconnected", "peer down"]
    world.diary.clear()
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        assert world.diary[:4] == [
            ("receive", "n2", "append"),
            ("frame", "n2", ("ask",)),
            ("receive", "n4", "nonsense"),
            ("drop", "n4", "nonsense"),
        ]
        await settle()
        assert world.words().count("receive") == 2
        nursery.cancel_scope.cancel()


async def test_what_is_kept_until_it_runs_has_a_bound(still_clock: trio.testing.MockClock) -> None:
    world = World(trio.current_time)
    world.driver()
    world.listener.on_frames("n2", RAFT, [(0, ("x",))] * EARLY_FRAMES_MAX)
    with pytest.raises(RemoteProtocolError, match="has not joined yet"):
        world.listener.on_frames("n2", RAFT, [(0, ("x",))])
    world.listener.on_down("n2", RAFT)
    world.listener.on_frames("n2", RAFT, [(0, ("x",))])


async def test_cancelling_ends_it(still_clock: trio.testing.MockClock) -> None:
    world = World(trio.current_time)
    with trio.CancelScope() as scope:
        async with driven(world) as driver:
            driver.kick()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_cancelling_leaves_no_flush_begun(still_clock: trio.testing.MockClock) -> None:
    """Otherwise the journal could not be closed: a node that was asked to stop exited with status 1."""
    world = World(trio.current_time)
    with trio.CancelScope() as scope:
        async with driven(world) as driver:
            world.journal.written = 7
            driver._wake_flusher()
            scope.cancel()  # before the flusher has run
            await trio.lowlevel.checkpoint()
    assert world.journal._running is None


async def test_a_mistake_in_the_engine_ends_the_driver(still_clock: trio.testing.MockClock) -> None:
    world = World(trio.current_time)

    def fail() -> None:
        raise ZeroDivisionError

    world.on_tick = fail
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await world.driver().run()


# --- standing still ---------------------------------------------------------------------------------


async def test_a_pause_of_the_process_is_reported_first(
    still_clock: trio.testing.MockClock,
) -> None:
    """Engine and server are both informed, once, of the time since the deadline."""
    world = World(trio.current_time)
    world.engine_due = trio.current_time() + 0.1
    async with driven(world):
        world.engine_due = float("inf")
        still_clock.jump(0.1 + 0.2)
        await settle()
    assert world.diary == [("paused", 0.2), ("paused", 0.2), ("tick",), ("pump",), ("replicate",)]


async def test_frames_that_waited_meanwhile_come_after_it(still_clock: trio.testing.MockClock) -> None:
    world = World(trio.current_time)
    world.engine_due = trio.current_time() + 0.1
    async with driven(world):
        world.engine_due = float("inf")
        still_clock.jump(0.5)
        world.listener.on_frames("n2", RAFT, [(0, {"type": "append"})])
        await settle()
    assert world.words() == ["paused", "paused", "receive", "tick", "pump", "replicate"]


async def test_a_flush_that_ended_meanwhile_comes_after_it(still_clock: trio.testing.MockClock) -> None:
    """Durable entries may now be committed and applied, so the server must be informed before."""
    world = World(trio.current_time)
    world.engine_due = trio.current_time() + 0.1
    async with driven(world) as driver:
        world.journal.on_end = lambda: still_clock.jump(0.5)
        world.journal.written = 1
        driver.kick()
        await world.until("on_durable")
    since = world.words().index("durable")
    assert world.words()[since : since + 4] == ["durable", "paused", "paused", "on_durable"]


async def test_a_process_that_was_running_was_not_paused(
    still_clock: trio.testing.MockClock,
) -> None:
    """The engine ignores the gap, but the server is not informed: otherwise every busy step under load would
    be a pause."""
    world = World(trio.current_time)
    world.engine_due = trio.current_time() + 0.1
    world.stood_s = 7.0
    async with driven(world):
        world.engine_due = float("inf")
        still_clock.jump(0.1 + 0.5)
        world.stood_s += 0.9 * ELECTION_MIN_S / 2
        await settle()
    assert world.diary[:2] == [("paused", 0.5), ("tick",)]


async def test_the_length_of_a_pause_is_reported_if_measured(still_clock: trio.testing.MockClock) -> None:
    """The part of a long wait in which the process ran is not counted."""
    world = World(trio.current_time)
    world.engine_due = trio.current_time() + 0.1
    world.stood_s = 7.0
    async with driven(world):
        world.engine_due = float("inf")
        still_clock.jump(0.1 + 0.5)
        world.stood_s += 0.3
        await settle()
    assert world.diary[:2] == [("paused", 0.5), ("paused", 0.3)]


async def test_being_a_little_late_is_no_gap(still_clock: trio.testing.MockClock) -> None:
    """The limit is half the minimum election timeout."""
    world = World(trio.current_time)
    world.engine_due = trio.current_time() + 0.1
    async with driven(world):
        world.engine_due = float("inf")
        still_clock.jump(0.1 + ELECTION_MIN_S / 2 - 0.001)
        await settle()
    assert "paused" not in world.words()


async def test_a_long_quiet_time_is_no_gap(still_clock: trio.testing.MockClock) -> None:
    """Nothing was due, so no time was lost."""
    world = World(trio.current_time)
    world.engine_due = trio.current_time() + 60
    async with driven(world) as driver:
        still_clock.jump(59)
        driver.kick()
        await settle()
    assert "paused" not in world.words()


# --- the disk ---------------------------------------------------------------------------------------


async def test_the_loop_goes_on_while_the_disk_works() -> None:
    """There is one flush at a time; records written meanwhile go with the next, at once."""
    world = World(trio.current_time)
    async with driven(world) as driver:
        world.journal.disk.clear()
        world.journal.written = 3
        driver.kick()
        await world.until("flush begins")
        for written in (4, 5):
            world.journal.written = written
            driver.kick()
            await settle()
        assert world.words() == [
            *["tick", "pump", "replicate"],
            "flush begins",
            *["tick", "pump", "replicate"] * 2,
        ]
        world.diary.clear()
        world.journal.disk.set()
        await world.until("durable", 5)
        await settle()
        steps = [what for what in world.diary if what[0] in {"durable", "on_durable", "flush begins"}]
        assert steps == [("durable", 3), ("on_durable",), ("flush begins",), ("durable", 5), ("on_durable",)]
        assert world.words()[-3:] == ["tick", "pump", "replicate"]


async def test_messages_that_wait_are_sent_as_soon_as_they_are_durable() -> None:
    """`on_durable` comes right after the flush, and an iteration after that."""
    world = World(trio.current_time)
    async with driven(world) as driver:
        world.journal.written = 1
        driver.kick()
        await world.until("on_durable")
        await settle()
    assert world.words() == [
        *["tick", "pump", "replicate"],
        *["flush begins", "durable", "on_durable"],
        *["tick", "pump", "replicate"],
    ]


async def test_a_clean_journal_is_left_alone() -> None:
    world = World(trio.current_time)
    async with driven(world) as driver:
        for _ in range(3):
            driver.kick()
            await settle()
    assert "flush begins" not in world.words()


async def test_a_failed_flush_ends_the_node_and_nothing_is_promised() -> None:
    world = World(trio.current_time)
    world.journal.failure = DiskError("fdatasync: I/O error")
    with pytest.RaisesGroup(pytest.RaisesExc(DiskError, match="I/O error"), flatten_subgroups=True):
        async with driven(world) as driver:
            world.journal.written = 1
            driver.kick()
            await trio.sleep_forever()
    assert "on_durable" not in world.words()
    assert world.journal.durable == 0
    assert world.words().count("flush begins") == 1, "a sync is never tried again"


async def test_flushed_waits_for_all_that_was_written_before() -> None:
    world = World(trio.current_time)
    async with driven(world) as driver:
        await driver.flushed()
        world.journal.disk.clear()
        world.journal.written = 7
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.flushed)
            await world.until("flush begins")
            world.journal.written = 8
            nursery.start_soon(driver.flushed)
            await settle()
            world.journal.disk.set()
        assert world.journal.durable == 8


# --- the link ---------------------------------------------------------------------------------------


async def test_frames_go_to_engine_or_server_and_ask_for_an_iteration(
    still_clock: trio.testing.MockClock,
) -> None:
    """A map goes to the engine, an array to the server; a whole read causes one iteration."""
    world = World(trio.current_time)
    async with driven(world):
        world.listener.on_frames(
            "n2", RAFT, [(0, {"type": "ack"}), (0, ("again", 3, 9)), (0, {"type": "vote"})]
        )
        world.listener.on_frames("n3", RAFT, [(0, {"type": "ack"})])
        await settle()
    assert world.diary == [
        ("receive", "n2", "ack"),
        ("frame", "n2", ("again", 3, 9)),
        ("receive", "n2", "vote"),
        ("receive", "n3", "ack"),
        *[("tick",), ("pump",), ("replicate",)],
    ]


DEEP = decode_body(bytes([WIRE_VERSION]) + b"\x91" * 1023 + b"\x01")
"""The maximum depth of a frame, too deep for ``repr``."""


@pytest.mark.parametrize(
    "value", [(1, {"type": "ack"}), {"type": "ack"}, (0, b"x"), (0,), None, (0, {}, 1), DEEP]
)
async def test_a_frame_for_nobody_is_refused_and_what_came_before_counts(
    still_clock: trio.testing.MockClock, value: Any
) -> None:
    world = World(trio.current_time)
    async with driven(world):
        with pytest.raises(RemoteProtocolError, match="unknown raft group"):
            world.listener.on_frames("n2", RAFT, [(0, {"type": "ack"}), value, (0, {"type": "late"})])
        await settle()
    assert world.words() == ["receive", "tick", "pump", "replicate"]


async def test_what_the_engine_refuses_is_the_peers_fault(still_clock: trio.testing.MockClock) -> None:
    world = World(trio.current_time)
    async with driven(world):
        with pytest.raises(RemoteProtocolError, match="nonsense"):
            world.listener.on_frames("n2", RAFT, [(0, {"type": "nonsense"})])


async def test_links_are_told_to_both(still_clock: trio.testing.MockClock) -> None:
    world = World(trio.current_time)
    async with driven(world):
        world.listener.on_up("n2", RAFT, {"from": "n2"})
        await settle()
        world.listener.on_down("n2", RAFT)
        await settle()
    assert [what for what in world.diary if "n2" in what] == [
        ("connected", "n2"),
        ("peer up", "n2", "n2"),
        ("disconnected", "n2"),
        ("peer down", "n2"),
    ]
    async with driven(world := World(trio.current_time)):
        world.listener.on_up("n2", RAFT, {"from": "n2", "directory": "d2"})
        assert ("connected", "n2", "d2") in world.diary


async def test_a_link_kicks_the_loop(still_clock: trio.testing.MockClock) -> None:
    world = World(trio.current_time)
    async with driven(world):
        world.listener.on_up("n2", RAFT, {"from": "n2"})
        await settle()
        world.listener.on_down("n2", RAFT)
        await settle()
    assert world.words().count("tick") == 2


# --- the way out ------------------------------------------------------------------------------------


def test_a_message_for_several_peers_is_encoded_once() -> None:
    world = World(lambda: 0.0)
    outlet = Outlet(world)
    message = {"type": "append", "entries": [(1, 1, b"x" * 1000)]}
    outlet.to_engine("n2", message)
    outlet.to_engine("n3", message)
    (_, first), (_, second) = world.sent
    assert first is second
    assert FrameDecoder().feed(first) == [(0, {"type": "append", "entries": ((1, 1, b"x" * 1000),)})]


def test_messages_are_told_apart_even_when_memory_is_used_again() -> None:
    """An id identifies a message only while the message exists; the outlet keeps it until `forget`."""
    world = World(lambda: 0.0)
    outlet = Outlet(world)
    for number in range(200):
        outlet.to_engine("n2", {"type": number})
        if number % 50 == 49:
            outlet.forget()
    types = [FrameDecoder().feed(frame)[0][1]["type"] for _, frame in world.sent]
    assert types == list(range(200))


async def test_encodings_are_kept_for_one_iteration(still_clock: trio.testing.MockClock) -> None:
    """The same message is not sent in a later iteration, so its encoding is dropped."""
    world = World(trio.current_time)
    message = {"type": "append"}
    async with driven(world) as driver:
        world.outlet.to_engine("n2", message)
        driver.kick()
        await settle()
        world.outlet.to_engine("n3", message)
    assert world.sent[0][1] is not world.sent[1][1]


def test_nothing_is_encoded_for_a_link_that_is_down() -> None:
    world = World(lambda: 0.0)
    world.up = {"n3"}
    outlet = Outlet(world)
    outlet.to_engine("n2", {"type": object()})  # could not be encoded
    assert not outlet.to_server("n2", ("again", object()))
    assert outlet.to_server("n3", ("again", 1))
    assert [peer for peer, _ in world.sent] == ["n3"]
    assert FrameDecoder().feed(world.sent[0][1]) == [(0, ("again", 1))]


# --- with everything real ---------------------------------------------------------------------------


class Member:
    """A node of a real group: engine, journal on disk, transport, driver; the server only records."""

    def __init__(self, name: str, ports: Mapping[str, Address], directory: Path) -> None:
        self.name = name
        self.applied: list[bytes] = []
        self.frames: list[tuple[str, Any]] = []
        self.peers_up: set[str] = set()
        self.news = trio.Event()
        self.journal = Journal.open(RealDisk(directory / name), segment_bytes=1 << 20)
        self.transport = Transport(
            name, ports, ports[name], Plaintext(), hello=lambda link: {}, check_hello=lambda link, hello: None
        )
        self.outlet = Outlet(self.transport)
        timing = Timing(election_min_s=0.3, election_max_s=0.6, heartbeat_s=0.05)
        self.engine = Engine(
            node=name,
            members=sorted(ports),
            journal=self.journal,
            applied=0,
            timing=timing,
            clock=trio.current_time,
            rng=random.Random(name),
            send=self.outlet.to_engine,
            apply=self.apply,
            listener=self,
        )
        self.driver = Driver(
            self.engine,
            self.journal,
            self.transport,
            outlet=self.outlet,
            server=self,
            election_min_s=timing.election_min_s,
            clock=trio.current_time,
        )

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.transport.run)
                await nursery.start(self.driver.run)
        finally:
            self.journal.close()

    async def until(self, satisfied: Callable[[], bool]) -> None:
        while not satisfied():
            await self.news.wait()

    def tell(self, *_: Any) -> None:
        self.news.set()
        self.news = trio.Event()

    def apply(self, index: int, term: int, payload: bytes) -> None:
        self.applied.append(payload)
        self.tell()

    # the engine's listener and the driver's server
    role_changed = applied_to = leader_payload_received = follower_payload_received = needs_snapshot = tell
    lost_entries = commit_learned = paused = tell
    membership_changed = membership_committed = member_left = tell

    def leader_payload(self) -> Any:
        return None

    def follower_payload(self) -> Any:
        return None

    def peer_up(self, peer: str, hello: Mapping[str, Any]) -> None:
        self.peers_up.add(peer)

    def peer_down(self, peer: str) -> None:
        self.peers_up.discard(peer)

    def frame(self, peer: str, value: Any) -> None:
        self.frames.append((peer, value))
        self.tell()

    def pump(self) -> float:
        self.tell()
        return float("inf")


def free_ports(names: list[str]) -> dict[str, Address]:
    """Return free ports, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        return {name: Address(*sock.getsockname()) for name, sock in zip(names, sockets, strict=True)}


async def test_three_real_nodes_agree_and_a_leader_that_leaves_is_replaced(tmp_path: Path) -> None:
    """Engine, journal, transport and driver together: every node applies the proposals in order."""
    ports = free_ports(["n1", "n2", "n3"])
    members = {name: Member(name, ports, tmp_path) for name in ports}
    with trio.fail_after(3 * SOON):
        async with trio.open_nursery() as cluster:
            scopes = {name: trio.CancelScope() for name in members}

            async def run(name: str) -> None:
                with scopes[name]:
                    await members[name].run()

            for name in members:
                cluster.start_soon(run, name)

            leader = await first_ready(list(members.values()))
            for number in range(50):
                leader.engine.propose(b"%d" % number)
                leader.driver.kick()
            for member in members.values():
                await member.until(lambda member=member: len(member.applied) == 50)
            assert all(member.applied == [b"%d" % n for n in range(50)] for member in members.values())

            follower = next(m for m in members.values() if m is not leader)
            assert follower.outlet.to_server(leader.name, ("batch", 1, b"bytes"))
            await leader.until(lambda: bool(leader.frames))
            assert leader.frames == [(follower.name, ("batch", 1, b"bytes"))]

            scopes[leader.name].cancel()
            others = [member for member in members.values() if member is not leader]
            new = await first_ready(others)
            new.engine.propose(b"still here")
            new.driver.kick()
            for member in others:
                await member.until(lambda member=member: member.applied[-1] == b"still here")
            cluster.cancel_scope.cancel()


async def first_ready(members: list[Member]) -> Member:
    """Return the first node that leads and is ready."""
    found: list[Member] = []
    async with trio.open_nursery() as nursery:

        async def watch(member: Member) -> None:
            await member.until(lambda: member.engine.is_ready)
            found.append(member)
            nursery.cancel_scope.cancel()

        for member in members:
            nursery.start_soon(watch, member)
    return found[0]
