"""Checkpoints behind the log: when, of what, and what the journal may forget after one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import trio
from conversation import Conversation

from node.core.records import digest, restore
from node.errors import DiskError
from node.protocol.message import message
from node.raft.journal import Journal as Journal_
from node.raft.memory_disk import MemoryDisk
from node.server.disk import checkpointing
from node.server.disk.checkpointing import JOURNAL_BYTES_MAX, PENDING_BYTES_MAX, Checkpointer
from node.store.memory import MemoryStore

INTERVAL_S = 0.3
TRAILING = 10


class Sweep:
    def __init__(self) -> None:
        self.ran = 0

    def run(self) -> None:
        self.ran += 1


class Journal:
    """Index and bytes of a log, and nothing in it."""

    def __init__(self) -> None:
        self.first_index = 1
        self.last_index = 0
        self.durable_index = 0
        self.bytes_on_disk = 0
        self.heavy_from = 1
        """The entries from here on take what the journal may keep."""
        self.sweep = Sweep()

    def term_at(self, index: int) -> int | None:
        return 3 if self.first_index <= index <= self.last_index else None

    def first_index_within(self, bytes_max: int) -> int:
        assert bytes_max == JOURNAL_BYTES_MAX
        return self.heavy_from

    def drop_before(self, index: int) -> None:
        self.first_index = index

    def begin_sweep(self) -> Sweep | None:
        return self.sweep


class Node:
    """A core whose entries also stand in a journal, and a checkpointer behind both."""

    def __init__(self) -> None:
        self.talk = Conversation()
        self.talk.checked = False  # it takes the changes that are the checkpointer's here
        self.journal = Journal()
        self.store = MemoryStore()
        self.matches: dict[str, int] = {}
        self.became_durable = trio.Event()
        self.checkpointer = Checkpointer(
            self.store,
            self.journal,
            lambda: self.talk.state,
            applied=lambda: self.journal.last_index,
            matches=self._matches,
            durable=self._durable,
            interval_s=INTERVAL_S,
            trailing_entries=lambda: TRAILING,
        )
        self.enter("connect")

    def _matches(self) -> Mapping[str, int]:
        return self.matches

    async def _durable(self, index: int) -> None:
        while self.journal.durable_index < index:
            await self.became_durable.wait()

    def enter(self, what: str = "publish", *, durable: bool = True) -> None:
        """One more entry: applied here, and on this node's own disk or not yet."""
        if what == "connect":
            self.talk.connect("me")
        else:
            for stored in self.talk.publish().effects.stored:
                bodies = enumerate(stored.bodies, stored.first)
                messages = [message(seq, stored.timestamp_ns, body) for seq, body in bodies]
                self.store.put(stored.channel, stored.first, messages)
        self.journal.last_index = self.talk.index
        if durable:
            self.make_durable()

    def make_durable(self) -> None:
        self.journal.durable_index = self.journal.last_index
        self.became_durable.set()
        self.became_durable = trio.Event()


async def test_a_checkpoint_is_the_state_at_one_index() -> None:
    """What a restart reads back is exactly what was applied then, and the journal goes on from there."""
    node = Node()
    node.enter()
    await node.checkpointer.checkpoint()
    after = node.store.after_crash()
    assert after.applied == (node.talk.index, 3)
    assert after.previous == (node.talk.index - 1, 3)
    assert digest(restore(after.records())) == digest(node.talk.state)
    assert after.get(node.talk.state.channels["foo"].id, 1) is not None


async def test_each_holds_what_changed_since_the_last() -> None:
    node = Node()
    for _ in range(3):
        node.enter()
        await node.checkpointer.checkpoint()
        assert digest(restore(node.store.after_crash().records())) == digest(node.talk.state)


async def test_nothing_applied_nothing_written() -> None:
    node = Node()
    await node.checkpointer.checkpoint()
    applied = node.store.applied
    node.journal.sweep.ran = 0
    await node.checkpointer.checkpoint()
    assert node.store.applied == applied
    assert node.journal.sweep.ran == 0


async def test_the_store_never_holds_what_the_journal_might_lose() -> None:
    """A leader applies what a majority has, perhaps before its own disk does: the checkpoint waits."""
    node = Node()
    await node.checkpointer.checkpoint()
    node.enter(durable=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.checkpointer.checkpoint)
        await trio.testing.wait_all_tasks_blocked()
        assert node.store.after_crash().applied[0] == node.talk.index - 1
        node.make_durable()
    assert node.store.after_crash().applied[0] == node.talk.index


async def test_changes_during_a_checkpoint_belong_to_the_next() -> None:
    """The changes were taken on the loop; what is applied meanwhile isn't among them, nor lost."""
    node = Node()
    node.enter(durable=False)
    index = node.talk.index
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.checkpointer.checkpoint)
        await trio.testing.wait_all_tasks_blocked()
        node.enter()
    assert node.store.applied[0] == index
    await node.checkpointer.checkpoint()
    assert digest(restore(node.store.after_crash().records())) == digest(node.talk.state)


async def test_they_come_by_themselves(autojump_clock: trio.testing.MockClock) -> None:
    """Every interval; earlier when much is served from memory only."""
    node = Node()
    began: list[float] = []
    done = trio.Event()
    checkpoint = node.checkpointer.checkpoint

    async def noting() -> None:
        began.append(trio.current_time())
        if len(began) == 2:
            done.set()
        await checkpoint()

    node.checkpointer.checkpoint = noting  # type: ignore[method-assign]
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.checkpointer.run)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(INTERVAL_S / 2)
        node.checkpointer.pressed()  # little in memory is no reason to hurry
        await trio.sleep(INTERVAL_S)
        assert began == pytest.approx([start + INTERVAL_S])
        node.store.put(9, 1, [b"x" * PENDING_BYTES_MAX])
        node.checkpointer.pressed()
        await done.wait()
        assert began[1] == pytest.approx(start + 1.5 * INTERVAL_S)
        nursery.cancel_scope.cancel()


async def test_behind_a_checkpoint_the_journal_may_go() -> None:
    """But for the last entries, for followers that lag a little."""
    node = Node()
    for _ in range(3 * TRAILING):
        node.enter()
    await node.checkpointer.checkpoint()
    assert node.journal.first_index == node.talk.index - TRAILING
    assert node.journal.sweep.ran == 1


async def test_a_connected_follower_is_waited_for_until_the_journal_is_large() -> None:
    """Else it would need a snapshot for being seconds behind; above 1 GiB it gets one."""
    node = Node()
    for _ in range(3 * TRAILING):
        node.enter()
    node.matches = {"n2": 5, "n3": node.talk.index}
    await node.checkpointer.checkpoint()
    assert node.journal.first_index == 5
    node.journal.bytes_on_disk = JOURNAL_BYTES_MAX + 1
    node.journal.heavy_from = 9
    node.enter()
    await node.checkpointer.checkpoint()
    assert node.journal.first_index == 9


async def test_trailing_entries_are_kept_as_far_as_they_are_light() -> None:
    """10,240 entries of 1 MiB would be 10 GiB; whatever isn't checkpointed stays, however heavy it is."""
    node = Node()
    for _ in range(3 * TRAILING):
        node.enter()
    node.journal.bytes_on_disk = JOURNAL_BYTES_MAX + 1
    node.journal.heavy_from = node.talk.index - 3
    await node.checkpointer.checkpoint()
    assert node.journal.first_index == node.talk.index - 3
    checkpointed = node.talk.index
    node.enter(durable=False)
    node.journal.heavy_from = node.talk.index
    node.checkpointer._trim()
    assert node.journal.first_index == checkpointed


async def test_real_journal_stays_within_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments and what they weigh, as in production, with a bound of eight of them."""
    monkeypatch.setattr(checkpointing, "JOURNAL_BYTES_MAX", 8 * 64 * 1024)
    node = Node()
    journal = Journal_.open(MemoryDisk(), segment_bytes=64 * 1024)
    index = 0

    def append(count: int) -> None:
        nonlocal index
        for _ in range(count):
            index += 1
            journal.append(index, 1, b"\x01" + bytes(10_000))
        flush = journal.begin_flush()
        assert flush is not None
        flush.run()
        journal.end_flush(flush)

    checkpointer = Checkpointer(
        node.store,
        journal,
        lambda: node.talk.state,
        applied=lambda: index,
        matches=dict,
        durable=node._durable,
        interval_s=INTERVAL_S,
        trailing_entries=lambda: 10_240,
    )
    node.journal.durable_index = 1 << 40
    for _ in range(30):
        append(20)
        await checkpointer.checkpoint()
        assert journal.bytes_on_disk <= 9 * 64 * 1024
    assert journal.last_index - journal.first_index >= 30  # as many as the bound allows


async def test_a_disk_that_refuses_ends_it() -> None:
    """Nothing is known of what is on the disk now: the node stops, and the journal keeps everything."""
    node = Node()
    begin = node.store.begin_checkpoint

    def failing(*args: object) -> object:
        job = begin(*args)  # type: ignore[arg-type]
        job.fail = DiskError("no space left on device")
        return job

    node.store.begin_checkpoint = failing  # type: ignore[assignment, method-assign]
    with pytest.raises(DiskError, match="no space left"):
        await node.checkpointer.checkpoint()
    assert node.journal.first_index == 1


async def test_no_checkpoint_runs_while_a_snapshot_is_installed() -> None:
    node = Node()
    async with trio.open_nursery() as nursery, node.checkpointer.paused():
        nursery.start_soon(node.checkpointer.checkpoint)
        await trio.testing.wait_all_tasks_blocked()
        assert node.store.applied[0] == 0
    assert node.store.applied[0] == node.talk.index
