"""Snapshots for nodes that fell behind the journal: sent on their own connection, installed atomically.

The leader's engine reports that a follower needs entries which the journal no longer has. A copy of the last
checkpoint is made in a worker thread and sent on its own connection, so that it delays no heartbeat. The
follower keeps it in its own directory until it is complete and verified. Then applying and checkpoints are
suspended, the store is replaced, the state is read from it, and the log continues after it. A crash at any
point leaves the old state or the new one.

The offer contains what the copy itself does not (`Context`): the membership at its entry, and the data keys
if the store is encrypted (`node.encryption`), because it is sent as it is on disk. So a receiver that can't
decrypt the copy refuses it before it is sent.

Both ends give up on a peer that is connected but does not respond, for example a stopped process. Otherwise
this leader could send no snapshot to another member, and this node could receive none from another. A disk
without space for the received copy does not stop the node: it votes with the log that it has.
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
"""Longest wait for a peer that has no expensive work to do."""
VERIFIED_BYTES_S = 50_000_000
"""Lowest assumed speed, in bytes per second, at which a receiver reads its partial copy before its first
answer and syncs the copy before its last one."""


class Engine(Protocol):
    """The consensus engine, as used here."""

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

    Args: directory: this node's; snapshots are made in ``snapshots`` and received in ``received`` under it.
        checkpointer: has the store. engine: checks whether an offered snapshot is needed. replica: has the
        state. open_channel: opens a snapshot connection to a member. membership_at: returns the membership at
        an entry. Raises UnavailableError if the log no longer has it. first_readable: the first entry that
        can be sent from the log. replaced: called with the new store after a snapshot was installed. kick:
        requests an iteration of the driver. keyring: of this node's directory; None if it isn't encrypted.
        fits: whether a file of this many bytes leaves enough free space; called in a worker thread.
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
        """Send a snapshot to ``peer``. The engine calls this repeatedly while the peer needs one."""
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
        """Return the copy that was partly sent to ``peer``, or make a new copy of the store."""
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
            # This node does not need the copy. If the leader stopped because of it, so would the next leader.
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
                        raise UnavailableError("the connection was closed before the snapshot was complete")
                    for answer in answers:
                        sender.receive(answer)
        except CorruptionError as error:
            # The copy is corrupt, not the store: the store was verified when the copy was made.
            self._unfinished.ended(peer)
            await trio.to_thread.run_sync(partial(shutil.rmtree, snapshot.path, ignore_errors=True))
            raise UnavailableError(str(error)) from error
        finally:
            reader.close()
        log.info("snapshot of entry %d for %s: %s", manifest.index, peer, sender.refused or "delivered")

    async def serve(self, peer: str, channel: Channel) -> None:
        """Receive a snapshot from ``peer`` and install it.

        Raises:
            UnavailableError, RemoteProtocolError: no snapshot was installed.
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
        """Return why an offered snapshot is refused; None if it is accepted. Called in a worker thread.

        Raises:
            UnavailableError: there is not enough free space for it now.
        """
        if not trio.from_thread.run_sync(self._engine.offered_snapshot, manifest.index, manifest.term):
            return "the log already contains it"
        try:
            why = self._unreadable(Context.decode(manifest.context).keys)
        except RemoteProtocolError as error:
            why = str(error)
        if why is not None:
            log.error("a snapshot of entry %d is refused: %s", manifest.index, why)
            return why
        size = manifest.size - _bytes_in(self._received)  # part of it may have been received already
        if not self._fits(size):
            raise UnavailableError(
                f"{self._received}: a snapshot of {manifest.size >> 20} MiB would leave less free space than "
                f"this node needs: add space"
            )
        return None

    def _unreadable(self, keys: bytes) -> str | None:
        """Add a store's keys to the keyring. Returns why the store can't be decrypted here; None if it
        can.
        """
        if self._keyring is None:
            return "it is encrypted, and this node has no store.encryption" if keys else None
        if not keys:
            return "it is not encrypted, and this node accepts only encrypted snapshots"
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
            # Before the old store is replaced: if this release can't read the new one, the old one remains.
            state = await trio.to_thread.run_sync(_readable, received, value_cipher)
        except DiskError as error:
            raise UnavailableError(str(error)) from error
        # No await from here until applying is suspended: a snapshot that is needed now is still needed then.
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
    """Return the bytes that all files in a directory take. A file that is deleted meanwhile counts as 0."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


def _readable(received: Snapshot, value_cipher: ValueCipher | None) -> State:
    """Return the state in a received snapshot.

    Raises:
        RemoteProtocolError: the copy is not a store, differs from its manifest, or has contradictory records.
        UnsupportedVersionError: a newer release has written it.
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
    """Limit a wait to ``seconds``.

    Raises:
        UnavailableError: the time is over.
    """
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise UnavailableError(f"the other end has not responded for {seconds:g} s")
