"""Snapshots between two nodes: sent beside the log, installed all or nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
import trio.testing
from conversation import Conversation

from node.core.records import all_records, digest, restore, take_changes
from node.core.state import State
from node.core.versions import UnsupportedVersionError
from node.encryption import document
from node.encryption.keyring import Keyring
from node.errors import RemoteProtocolError, UnavailableError
from node.protocol.message import message
from node.raft.membership import Membership
from node.server.disk.snapshots import SILENCE_S, Context, Snapshots
from node.store.snapshot import produce
from node.store.store import Store

TERM = 3
MEMBERS = Membership.initial_voters(["n1", "n2"]).with_learner("n3", "h:1")


class Engine:
    """Of the receiving node: how far it is, and in which order it was told what."""

    def __init__(self, applied_index: int, *, wants: bool = True) -> None:
        self.applied_index = applied_index
        self.wants = wants
        self.told: list[object] = []

    def offered_snapshot(self, index: int, term: int) -> bool:
        return self.wants and index > self.applied_index

    def suspend_applying(self) -> None:
        self.told.append("suspend")

    def resume_applying(self) -> None:
        self.told.append("resume")

    def snapshot_installed(
        self, index: int, term: int, previous: tuple[int, int], membership: Membership | None
    ) -> None:
        assert membership == MEMBERS
        self.told.append(("installed", index, term, previous))
        self.applied_index = index


class Replica:
    def __init__(self, told: list[object]) -> None:
        self._notified = told
        self.state: State | None = None

    def suspend(self) -> None:
        self._notified.append("replica suspended")

    def installed(self, state: State, messages: Store, since: int) -> None:
        self._notified.append(("replica", since))
        self.state = state


class Checkpointer:
    """A store, and that checkpoints can be asked for and held up."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.checkpoints = 0
        self._lock = trio.Lock()

    async def checkpoint(self) -> None:
        self.checkpoints += 1

    def paused(self) -> trio.Lock:
        return self._lock


class Channel:
    """One end of a connection: values as the wire would give them."""

    def __init__(self, out: trio.MemorySendChannel[bytes], into: trio.MemoryReceiveChannel[bytes]) -> None:
        self._out = out
        self._into = into

    async def send(self, value: Any) -> None:
        try:
            await self._out.send(msgpack.packb(value))
        except trio.BrokenResourceError as error:
            raise UnavailableError("the other end has gone") from error

    async def receive(self) -> list[Any]:
        try:
            return [msgpack.unpackb(await self._into.receive())]
        except trio.EndOfChannel:
            return []

    async def aclose(self) -> None:
        await self._out.aclose()
        await self._into.aclose()


class Node:
    def __init__(self, directory: Path, *, wants: bool = True, phrases: Sequence[str] = ()) -> None:
        directory.mkdir()
        self.directory = directory
        self.keyring = (
            Keyring.open(directory, phrases, cipher="chacha20-poly1305", empty=True) if phrases else None
        )
        value_cipher = self.keyring.value_cipher("store") if self.keyring else None
        self.store = Store.open(directory / "store", value_cipher=value_cipher)
        self.engine = Engine(self.store.applied[0], wants=wants)
        self.replica = Replica(self.engine.told)
        self.checkpointer = Checkpointer(self.store)
        self.kicks = 0
        self.spare_bytes = 1 << 40
        self.first_readable = 1
        self.reach: Callable[[str], Any] = self._nobody
        self.snapshots = Snapshots(
            directory,
            self.checkpointer,  # type: ignore[arg-type]
            self.engine,
            self.replica,  # type: ignore[arg-type]
            open_channel=self._open,
            membership_at=lambda index: MEMBERS,
            first_readable=lambda: self.first_readable,
            replaced=self._replaced,
            kick=self._kick,
            keyring=self.keyring,
            fits=lambda size: size <= self.spare_bytes,
        )

    def _open(self, peer: str) -> Any:
        return self.reach(peer)

    def _nobody(self, peer: str) -> Any:
        raise UnavailableError(f"{peer} can't be reached")

    def _replaced(self, store: Store) -> None:
        self.store = store

    def _kick(self) -> None:
        self.kicks += 1


@pytest.fixture
def talk() -> Conversation:
    """What the sending node has applied."""
    talk = Conversation()
    talk.checked = False
    talk.connect("me")
    talk.subscribe("in", durable="d")
    return talk


@pytest.fixture
def sender(tmp_path: Path, talk: Conversation) -> Node:
    return with_all_of(talk, Node(tmp_path / "n1"))


def with_all_of(talk: Conversation, node: Node) -> Node:
    for stored in talk.publish(50).effects.stored:
        bodies = enumerate(stored.bodies, stored.first)
        node.store.put(
            stored.channel, stored.first, [message(seq, stored.timestamp_ns, body) for seq, body in bodies]
        )
    index = talk.index
    job = node.store.begin_checkpoint((index, TERM), (index - 1, TERM), take_changes(talk.state))
    job.run()
    node.store.end_checkpoint(job)
    return node


def store_much(node: Node, talk: Conversation) -> None:
    """Some chunks."""
    with_all_of(talk, node)
    node.store.put(77, 1, [b"x" * 1000] * 2000)
    with_all_of(talk, node)


@pytest.fixture
def receiver(tmp_path: Path) -> Node:
    return Node(tmp_path / "n2")


def connect(sender: Node, receiver: Node, nursery: trio.Nursery, *, cut_after: int = 1_000_000) -> list[Any]:
    """Have ``sender`` reach ``receiver``, over a connection that breaks after so many values: those sent."""
    sent: list[Any] = []

    @asynccontextmanager
    async def reach(_peer: str) -> AsyncIterator[Channel]:
        there, from_here = trio.open_memory_channel[bytes](4)
        here, from_there = trio.open_memory_channel[bytes](4)
        far = Channel(here, from_here)
        near = Channel(there, from_there)
        left = cut_after

        async def send(value: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                await near.aclose()
                raise UnavailableError("cut")
            sent.append(value)
            await Channel.send(near, value)

        near.send = send  # type: ignore[method-assign]
        nursery.start_soon(_serve, receiver, far)
        try:
            yield near
        finally:
            await near.aclose()

    sender.reach = reach
    return sent


async def _serve(receiver: Node, channel: Channel) -> None:
    await receiver.snapshots.serve("n1", channel)
    await channel.aclose()


async def deliver(sender: Node, receiver: Node, **options: Any) -> list[Any]:
    """Let one attempt at a snapshot come to its end. Returns what was sent."""
    async with trio.open_nursery() as nursery:
        sent = connect(sender, receiver, nursery, **options)
        async with trio.open_nursery() as sending:
            sending.start_soon(sender.snapshots.run)
            sender.snapshots.wanted("n2")
            with trio.fail_after(10):
                while sender.snapshots._wanted:
                    await trio.lowlevel.checkpoint()
            sending.cancel_scope.cancel()
    return sent


async def test_a_node_that_fell_behind_gets_the_whole_state(
    sender: Node, receiver: Node, talk: Conversation
) -> None:
    """CLU-14: clients, subscriptions, unacked messages and payloads, as they were at one entry."""
    await deliver(sender, receiver)
    assert receiver.replica.state is not None
    assert digest(receiver.replica.state) == digest(talk.state)
    assert receiver.store.applied == (talk.index, TERM)
    channel = talk.state.channels["foo"].id
    seqs = range(1, 51)
    assert receiver.store.get_many(channel, seqs) == sender.store.get_many(channel, seqs)
    assert receiver.checkpointer.store is receiver.store
    assert sender.checkpointer.checkpoints == 1  # what is sent is as new as it can be


async def test_it_is_installed_between_two_entries(sender: Node, receiver: Node, talk: Conversation) -> None:
    """Nothing is applied meanwhile; the replica learns from where on it skipped entries (R6)."""
    await deliver(sender, receiver)
    assert receiver.engine.told == [
        "suspend",
        "replica suspended",
        ("replica", 0),
        ("installed", talk.index, TERM, (talk.index - 1, TERM)),
        "resume",
    ]
    assert receiver.kicks == 1


async def test_it_is_there_after_a_restart(sender: Node, receiver: Node, talk: Conversation) -> None:
    await deliver(sender, receiver)
    receiver.store.close()
    again = Store.open(receiver.directory / "store")
    assert again.applied == (talk.index, TERM)
    assert digest(restore(again.records())) == digest(talk.state)
    again.close()


async def test_one_that_is_not_needed_is_refused(tmp_path: Path, sender: Node) -> None:
    """The log brings as much: state that is already ahead is never replaced."""
    receiver = Node(tmp_path / "n2", wants=False)
    await deliver(sender, receiver)
    assert receiver.engine.told == []
    assert receiver.store.applied == (0, 0)


async def test_a_cut_leaves_the_old_state_and_the_next_attempt_ends_well(
    sender: Node, receiver: Node, talk: Conversation, caplog: pytest.LogCaptureFixture
) -> None:
    """All or nothing; the engine says again that it is wanted."""
    await deliver(sender, receiver, cut_after=1)
    assert "snapshot for n2: cut" in caplog.text
    assert receiver.engine.told == []
    assert receiver.store.applied == (0, 0)
    await deliver(sender, receiver)
    assert receiver.store.applied == (talk.index, TERM)


@pytest.mark.parametrize("dropped", [False, True])
async def test_an_interrupted_snapshot_resumes_after_more_publishes(
    sender: Node, receiver: Node, talk: Conversation, *, dropped: bool
) -> None:
    """Else nothing large would ever arrive; but for a copy behind which the log no longer goes on."""
    before = talk.index
    store_much(sender, talk)
    first = talk.index
    await deliver(sender, receiver, cut_after=3)
    part = next((receiver.directory / "received").iterdir())
    assert part.name.startswith(f"{TERM}-{first}-")
    with_all_of(talk, sender)
    if dropped:
        sender.first_readable = first + 2
    values = await deliver(sender, receiver)
    assert receiver.store.applied == (talk.index if dropped else first, TERM)
    assert before < first < talk.index
    sizes = [len(value[4]) for value in values if value[0] == "data"]
    whole = (receiver.directory / "store" / "data.mdb").stat().st_size
    assert sum(sizes) >= whole if dropped else 0 < sum(sizes) < whole
    with_all_of(talk, sender)
    receiver.engine.applied_index = 0
    await deliver(sender, receiver)
    assert receiver.store.applied == (talk.index, TERM), "and then a new one is made"


async def test_a_damaged_copy_is_deleted_and_does_not_stop_the_node(
    sender: Node, receiver: Node, talk: Conversation, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not the store that is damaged; and the next leader may have the same trouble."""
    await deliver(sender, receiver, cut_after=1)
    copy = next((sender.directory / "snapshots").iterdir())
    with (copy / "data.mdb").open("r+b") as file:
        file.seek(5_000)
        file.write(b"rot")
    await deliver(sender, receiver)
    assert "is damaged" in caplog.text
    assert not copy.exists()
    assert receiver.engine.told == []
    await deliver(sender, receiver)
    assert receiver.store.applied == (talk.index, TERM)


async def test_an_unreachable_receiver_is_given_up_for_now(
    sender: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.snapshots.run)
        sender.snapshots.wanted("n2")
        while sender.snapshots._wanted:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert "n2 can't be reached" in caplog.text


async def test_a_failed_copy_does_not_stop_the_node(
    sender: Node, receiver: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """Or the leader's full disk would take one leader after the other from the cluster."""
    (sender.directory / "snapshots").write_bytes(b"in the way")
    await deliver(sender, receiver)
    assert "snapshot for n2: " in caplog.text
    assert str(sender.directory) in caplog.text
    assert receiver.engine.told == []


async def test_copy_that_would_leave_too_little_free_space_is_not_made(
    sender: Node, receiver: Node, talk: Conversation, caplog: pytest.LogCaptureFixture
) -> None:
    """It would fit, and the next segment of the leader's journal would not."""
    sender.spare_bytes = 10
    await deliver(sender, receiver)
    assert "would leave less free space than the node needs: purge or delete" in caplog.text
    assert receiver.engine.told == []
    sender.spare_bytes = 1 << 30
    await deliver(sender, receiver)
    assert receiver.engine.told != []


async def test_snapshot_that_would_leave_too_little_free_space_is_not_received(
    sender: Node, receiver: Node
) -> None:
    receiver.spare_bytes = 10
    with pytest.RaisesGroup(
        pytest.RaisesExc(UnavailableError, match="less free space than this node needs"),
        flatten_subgroups=True,
    ):
        await deliver(sender, receiver)
    assert receiver.engine.told == []
    receiver.spare_bytes = 1 << 30
    await deliver(sender, receiver)
    assert receiver.engine.told != []


async def test_one_at_a_time_is_received(receiver: Node) -> None:
    """Two leaders of two terms may both find that this node needs one."""
    out, into = trio.open_memory_channel[bytes](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.snapshots.serve, "n1", Channel(out, into))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(UnavailableError, match="another snapshot"):
            await receiver.snapshots.serve("n3", Channel(out, into))
        nursery.cancel_scope.cancel()


async def test_an_unresponsive_sender_does_not_block_other_snapshots(
    receiver: Node, mock_clock: trio.testing.MockClock
) -> None:
    """A leader that was stopped in the middle of one: its kernel still answers for it."""
    out, into = trio.open_memory_channel[bytes](0)
    with pytest.RaisesGroup(pytest.RaisesExc(UnavailableError, match="not responded")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receiver.snapshots.serve, "n1", Channel(out, into))
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(SILENCE_S)
    await out.aclose()
    await receiver.snapshots.serve("n3", Channel(out, into))  # not refused


async def test_other_receivers_do_not_wait_for_an_unresponsive_one(
    sender: Node, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """n2 was stopped when it had been offered one."""
    offered = trio.Event()

    class Silent:
        async def send(self, value: Any) -> None:
            offered.set()

        async def receive(self) -> list[Any]:
            await trio.sleep_forever()
            raise AssertionError

    @asynccontextmanager
    async def reach(peer: str) -> AsyncIterator[Silent]:
        if peer != "n2":
            raise UnavailableError(f"{peer} was tried")
        yield Silent()

    sender.reach = reach
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.snapshots.run)
        sender.snapshots.wanted("n2")
        sender.snapshots.wanted("n3")
        await offered.wait()
        while sender.snapshots._wanted:
            # A worker thread may still prepare the frame whose answer is waited for: the clock jumps again.
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(2 * SILENCE_S)
        nursery.cancel_scope.cancel()
    assert "snapshot for n2: the other end has not responded" in caplog.text
    assert "n3 was tried" in caplog.text


@pytest.mark.parametrize("damage", [None, b"", b"garbage" * 5000])
async def test_a_wrong_snapshot_is_detected_before_the_store_is_replaced(
    sender: Node, receiver: Node, tmp_path: Path, damage: bytes | None
) -> None:
    """A leader's mistake, or worse: this node goes on with what it has."""
    made = produce(sender.store, tmp_path / "made")
    if damage is not None:
        made.data.write_bytes(damage)
    manifest = replace(made.manifest, index=made.manifest.index + 1, context=Context(MEMBERS, b"").encode())
    with pytest.raises((RemoteProtocolError, UnavailableError)):
        await receiver.snapshots._install(replace(made, manifest=manifest))
    assert receiver.engine.told == []
    assert receiver.store.get(1, 1) is None, "it is open"


async def test_one_of_a_newer_release_leaves_the_store_that_is_there(
    sender: Node, receiver: Node, talk: Conversation, tmp_path: Path
) -> None:
    """A node that was started with an older release ends, and the newer one finds everything in place."""
    job = receiver.store.begin_checkpoint((1, TERM), (0, 0), [])
    job.run()
    receiver.store.end_checkpoint(job)
    talk.state.version = 99
    index = talk.index + 1
    job = sender.store.begin_checkpoint((index, TERM), (index - 1, TERM), list(all_records(talk.state)))
    job.run()
    sender.store.end_checkpoint(job)
    made = produce(sender.store, tmp_path / "made")
    manifest = replace(made.manifest, context=Context(MEMBERS, b"").encode())
    with pytest.raises(UnsupportedVersionError, match="machine version 99"):
        await receiver.snapshots._install(replace(made, manifest=manifest))
    assert receiver.engine.told == []
    receiver.store.close()
    again = Store.open(receiver.directory / "store")
    assert again.applied == (1, TERM)
    again.close()


async def test_no_space_for_a_snapshot_does_not_stop_the_node(sender: Node, receiver: Node) -> None:
    """A voter without a state is of more use than none."""
    (receiver.directory / "received").write_bytes(b"in the way")
    with pytest.RaisesGroup(
        pytest.RaisesExc(UnavailableError, match="can't be received"), flatten_subgroups=True
    ):
        await deliver(sender, receiver)
    assert receiver.engine.told == []


# --- encrypted -------------------------------------------------------------------------------------


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass phrase costs a quarter of a second; not here."""
    monkeypatch.setattr(document, "_N", 16)


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("phrases", [["pass"], ["new", "pass"]])
async def test_an_encrypted_store_is_read_with_the_keys_that_come_along(
    tmp_path: Path, talk: Conversation, phrases: list[str]
) -> None:
    """By nodes with a pass phrase in common, though each directory has keys of its own."""
    sender = with_all_of(talk, Node(tmp_path / "n1", phrases=["pass"]))
    receiver = Node(tmp_path / "n2", phrases=phrases)
    await deliver(sender, receiver)
    assert receiver.replica.state is not None
    assert digest(receiver.replica.state) == digest(talk.state)
    receiver.store.close()
    keys = Keyring.open(receiver.directory, phrases, cipher="aes-256-gcm", empty=False)
    again = Store.open(receiver.directory / "store", value_cipher=keys.value_cipher("store"))
    assert digest(restore(again.records())) == digest(talk.state)
    again.close()


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize(
    ("theirs", "ours", "why"),
    [
        (["pass"], ["another"], "another pass phrase"),
        (["pass"], [], "no store.encryption"),
        ([], ["pass"], "not encrypted"),
    ],
)
async def test_a_store_that_can_not_be_read_is_refused_before_it_is_sent(
    tmp_path: Path,
    talk: Conversation,
    caplog: pytest.LogCaptureFixture,
    theirs: list[str],
    ours: list[str],
    why: str,
) -> None:
    """Both sides say why; nothing is changed."""
    caplog.set_level("INFO")
    sender = with_all_of(talk, Node(tmp_path / "n1", phrases=theirs))
    receiver = Node(tmp_path / "n2", phrases=ours)
    await deliver(sender, receiver)
    assert receiver.engine.told == []
    assert receiver.store.applied == (0, 0)
    said = [record.getMessage() for record in caplog.records if why in record.getMessage()]
    assert len(said) == 2
    assert not (receiver.directory / "received").exists()


def test_context_of_a_snapshot_is_decoded() -> None:
    """The members, and the keys that open it."""
    for keys in (b"", b"keys"):
        assert Context.decode(Context(MEMBERS, keys).encode()) == Context(MEMBERS, keys)


@pytest.mark.parametrize(
    "data", [b"", b"\0\0", b"\0\0\0\1\xc0", b"\xff\xff\xff\xff", b"keys of an older release"]
)
def test_a_context_without_membership_is_refused(data: bytes) -> None:
    """A node that took it would go by its own idea of who votes."""
    with pytest.raises(RemoteProtocolError):
        Context.decode(data)
