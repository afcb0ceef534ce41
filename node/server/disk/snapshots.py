"""Snapshots for nodes that fell behind the journal: sent beside the log, installed all or nothing.

The leader's engine finds that a follower needs entries which the journal no longer has. A copy of
the last checkpoint is made in a worker thread and sent on a connection of its own, so that it delays
no heartbeat. The follower keeps it in its own directory until it is whole and verified; then applying
and checkpoints are suspended, the store is replaced, the state is read back from it, and the log
continues behind it. A crash at any point leaves the old state or the new.

With the offer comes what the copy itself doesn't hold (`Context`): who the members were at that entry, which
is the log's to know; and, as a store that is encrypted travels as it is, what it takes to read it
(`node.encryption`), so that one that can't be read here is refused before it is sent.

Both ends give up on a peer that is connected and silent: a process that was stopped, with a kernel that
answers for it. Else no other member got one from this leader, or this node none from another. And a disk
without room for what is received stops nobody: this node votes with the log that it has.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio

from node.core.records import restore
from node.core.state import State
from node.errors import CorruptionError, DiskError, RemoteProtocolError, UnavailableError
from node.raft.membership import Membership
from node.server.disk.checkpointing import Checkpointer
from node.server.disk.snapshot_context import Context
from node.server.disk.unfinished import Unfinished
from node.server.replica import Replica
from node.store.snapshot import Manifest, Snapshot, install, open_reader, produce, verified_records
from node.store.store import Store
from node.store.transfer import SnapshotReceiver, SnapshotSender

if TYPE_CHECKING:
    from node.encryption.keyring import Keyring
    from node.encryption.value_cipher import ValueCipher

log = logging.getLogger("stanchion.snapshots")

SILENCE_S = 30.0
"""So long a peer may take over what costs it nothing."""
VERIFIED_BYTES_S = 50_000_000
"""How fast, at least, a receiver reads again what it has before its first answer, and syncs it before its
last."""


class Engine(Protocol):
    """What is needed of the consensus engine."""

    @property
    def applied_index(self) -> int: ...
    def offered_snapshot(self, index: int, term: int) -> bool: ...
    def suspend_applying(self) -> None: ...
    def resume_applying(self) -> None: ...
    def snapshot_installed(
        self, index: int, term: int, previous: tuple[int, int], membership: Membership | None
    ) -> None: ...


class Channel(Protocol):
    """A connection for one snapshot."""

    async def send(self, value: Any) -> None: ...
    async def receive(self) -> list[Any]: ...


class Snapshots:
    """Sends and receives snapshots.

    Args:
        directory: this node's; snapshots are made in ``snapshots`` and received in ``received`` under it.
        checkpointer: has the store.
        engine: knows who needs one.
        replica: has the state.
        open_channel: opens a snapshot connection to a member.
        membership_at: who belonged to the cluster at an entry. Raises UnavailableError if the log is past it.
        first_readable: the first entry that can be sent from the log.
        replaced: told of the store that a snapshot brought.
        kick: asks the driver for an iteration.
        keyring: of this node's directory; None if it isn't encrypted.
        fits: whether a file of so many bytes leaves enough free space; called in a worker thread.
    """

    def __init__(
        self,
        directory: Path,
        checkpointer: Checkpointer,
        engine: Engine,
        replica: Replica,
        *,
        open_channel: Callable[[str], Any],
        membership_at: Callable[[int], Membership],
        first_readable: Callable[[], int],
        replaced: Callable[[Store], None],
        kick: Callable[[], None],
        keyring: Keyring | None = None,
        fits: Callable[[int], bool] = lambda _size: True,
    ) -> None:
        self._made = directory / "snapshots"
        self._received = directory / "received"
        self._store_path = directory / "store"
        self._checkpointer = checkpointer
        self._engine = engine
        self._replica = replica
        self._open_channel = open_channel
        self._membership_at = membership_at
        self._replaced = replaced
        self._kick = kick
        self._keyring = keyring
        self._fits = fits
        self._wanted: set[str] = set()
        self._asked = trio.Event()
        self._receiving = False
        self._unfinished: Unfinished[Snapshot] = Unfinished(first_readable)

    def wanted(self, peer: str) -> None:
        """The engine has found that ``peer`` needs one. Told again while it does."""
        self._wanted.add(peer)
        self._asked.set()

    async def run(self) -> None:
        """Send to one member after the other until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            while self._wanted:
                peer = min(self._wanted)
                try:
                    await self._send(peer)
                    self._unfinished.ended(peer)
                except UnavailableError as error:
                    log.warning("snapshot for %s: %s", peer, error)
                except RemoteProtocolError as error:
                    log.warning("snapshot for %s: %s", peer, error)
                    self._unfinished.ended(peer)
                self._wanted.discard(peer)

    async def _copy(self, peer: str, keys: bytes) -> Snapshot:
        """What ``peer`` has a part of, or a new copy of the store."""
        begun = self._unfinished.of(peer)
        if begun is not None and begun.manifest.context == keys and begun.data.exists():
            return begun
        await self._checkpointer.checkpoint()
        store = self._checkpointer.store
        assert isinstance(store, Store)
        size = store.bytes_on_disk - store.reusable_bytes
        if not await trio.to_thread.run_sync(self._fits, size):
            raise UnavailableError(
                f"{self._made}: a copy of the store, {size >> 20} MiB, would leave less free space than the "
                f"node needs: purge or delete channels, or add space"
            )
        try:
            return await trio.to_thread.run_sync(partial(produce, store, self._made, context=keys))
        except DiskError as error:
            # Nothing of ours depends on a copy. If the leader stopped for want of it, so would the next.
            raise UnavailableError(str(error)) from error

    async def _send(self, peer: str) -> None:
        keys = b"" if self._keyring is None else self._keyring.export()
        snapshot = await self._copy(peer, keys)
        manifest = snapshot.manifest
        context = Context(self._membership_at(manifest.index), keys)
        manifest = replace(manifest, context=context.encode())
        log.info("sending %s a snapshot of entry %d, %d bytes", peer, manifest.index, manifest.size)
        reader = await trio.to_thread.run_sync(open_reader, snapshot)
        self._unfinished.begun(peer, manifest.index, snapshot)
        try:
            async with self._open_channel(peer) as channel:
                sender = SnapshotSender(manifest, reader)
                while not sender.done and sender.refused is None:
                    while (value := await trio.to_thread.run_sync(sender.next_value)) is not None:
                        with _within(SILENCE_S):
                            await channel.send(value)
                    with _within(SILENCE_S + manifest.size / VERIFIED_BYTES_S):
                        answers = await channel.receive()
                    if not answers:
                        raise UnavailableError("the connection was closed before the snapshot was whole")
                    for answer in answers:
                        sender.receive(answer)
        except CorruptionError as error:
            # The copy's, not the store's: that was verified when it was made.
            self._unfinished.ended(peer)
            await trio.to_thread.run_sync(partial(shutil.rmtree, snapshot.path, ignore_errors=True))
            raise UnavailableError(str(error)) from error
        finally:
            reader.close()
        log.info("snapshot of entry %d for %s: %s", manifest.index, peer, sender.refused or "delivered")

    async def serve(self, peer: str, channel: Channel) -> None:
        """Receive a snapshot from ``peer`` and install it.

        Raises:
            UnavailableError, RemoteProtocolError: nothing came of it.
        """
        if self._receiving:
            raise UnavailableError("another snapshot is being received")
        self._receiving = True
        receiver = SnapshotReceiver(self._received, wanted=self._refusal)
        try:
            while receiver.received is None:
                with _within(SILENCE_S):
                    values = await channel.receive()
                if not values:
                    return
                for value in values:
                    for answer in await self._received_part(receiver, value):
                        with _within(SILENCE_S):
                            await channel.send(answer)
            await self._install(receiver.received)
        finally:
            receiver.close()
            self._receiving = False

    async def _received_part(self, receiver: SnapshotReceiver, value: object) -> list[Any]:
        try:
            return await trio.to_thread.run_sync(receiver.receive, value)
        except DiskError as error:
            raise UnavailableError(str(error)) from error

    def _refusal(self, manifest: Manifest) -> str | None:
        """For the receiver, in its worker thread: the engine is asked on the loop.

        Raises:
            UnavailableError: there is not enough free space for it now.
        """
        if not trio.from_thread.run_sync(self._engine.offered_snapshot, manifest.index, manifest.term):
            return "the log brings as much"
        try:
            why = self._unreadable(Context.decode(manifest.context).keys)
        except RemoteProtocolError as error:
            why = str(error)
        if why is not None:
            log.error("a snapshot of entry %d can't be taken: %s", manifest.index, why)
            return why
        size = manifest.size - _bytes_in(self._received)  # a part may be here
        if not self._fits(size):
            raise UnavailableError(
                f"{self._received}: a snapshot of {manifest.size >> 20} MiB would leave less free space than "
                f"this node needs: add space"
            )
        return None

    def _unreadable(self, keys: bytes) -> str | None:
        """Why a store with these keys can't be read here; if it can, it can from now on."""
        if self._keyring is None:
            return "it is encrypted, and this node has no store.encryption" if keys else None
        if not keys:
            return "it is not encrypted, and this node takes nothing that isn't"
        try:
            self._keyring.adopt(keys)
        except RemoteProtocolError as error:
            return str(error)
        return None

    async def _install(self, received: Snapshot) -> None:
        manifest = received.manifest
        membership = Context.decode(manifest.context).membership
        value_cipher = None if self._keyring is None else self._keyring.value_cipher("store")
        try:
            # While there is a store to go on with: if this release can't read it, that one is still there.
            state = await trio.to_thread.run_sync(_readable, received, value_cipher)
        except DiskError as error:
            raise UnavailableError(str(error)) from error
        # No await from here until applying is suspended: what is wanted now is then still wanted.
        if not self._engine.offered_snapshot(manifest.index, manifest.term):
            return
        since = self._engine.applied_index
        self._engine.suspend_applying()
        self._replica.suspend()
        try:
            async with self._checkpointer.paused():
                self._checkpointer.store.close()
                store = await trio.to_thread.run_sync(
                    _replace, received, self._store_path, value_cipher, membership
                )
                # No await from here: store, state, log and engine change together.
                self._checkpointer.store = store
                self._replaced(store)
                self._replica.installed(state, store, since)
                self._engine.snapshot_installed(manifest.index, manifest.term, manifest.previous, membership)
        finally:
            self._engine.resume_applying()
            self._kick()
        log.info("installed a snapshot of entry %d from term %d", manifest.index, manifest.term)


def _bytes_in(directory: Path) -> int:
    """Bytes that all files in a directory take. A file that is deleted meanwhile counts nothing."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


def _readable(received: Snapshot, value_cipher: ValueCipher | None) -> State:
    """The state in a received snapshot.

    Raises:
        RemoteProtocolError: it is no store, another than its manifest says, or its records contradict each
        other. UnsupportedVersionError: a newer release has written it.
    """
    records = verified_records(received, value_cipher)
    try:
        return restore(records)
    except CorruptionError as error:
        raise RemoteProtocolError(f"snapshot {received.manifest.snapshot_id}: {error}") from error


def _replace(
    received: Snapshot, store_path: Path, value_cipher: ValueCipher | None, membership: Membership
) -> Store:
    return install(received, store_path, value_cipher=value_cipher, note=membership.encode())


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Wait so long, no longer.

    Raises:
        UnavailableError: it took longer.
    """
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise UnavailableError(f"the other end has been silent for {seconds:g} s")
