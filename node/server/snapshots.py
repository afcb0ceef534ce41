"""Snapshots for nodes that fell behind the journal: sent beside the log, installed all or nothing.

The leader's engine finds that a follower needs entries which the journal no longer has. A copy of
the last checkpoint is made in a worker thread and sent on a connection of its own, so that it delays
no heartbeat. The follower keeps it in its own directory until it is whole and verified; then applying
and checkpoints are suspended, the store is replaced, the state is read back from it, and the log
continues behind it. A crash at any point leaves the old state or the new.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import trio

from node.core.records import restore
from node.core.state import State
from node.errors import RemoteProtocolError, UnavailableError
from node.server.checkpointing import Checkpointer
from node.server.replica import Replica
from node.store.checkpoint import Store
from node.store.snapshot import Manifest, Snapshot, install, open_reader, produce
from node.store.transfer import SnapshotReceiver, SnapshotSender

log = logging.getLogger("stanchion.snapshots")


class Engine(Protocol):
    """What is needed of the consensus engine."""

    @property
    def applied_index(self) -> int: ...
    def offered_snapshot(self, index: int, term: int) -> bool: ...
    def suspend_applying(self) -> None: ...
    def resume_applying(self) -> None: ...
    def snapshot_installed(self, index: int, term: int, previous: tuple[int, int]) -> None: ...


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
        replaced: told of the store that a snapshot brought.
        kick: asks the driver for an iteration.
    """

    def __init__(
        self,
        directory: Path,
        checkpointer: Checkpointer,
        engine: Engine,
        replica: Replica,
        *,
        open_channel: Callable[[str], Any],
        replaced: Callable[[Store], None],
        kick: Callable[[], None],
    ) -> None:
        self._made = directory / "snapshots"
        self._received = directory / "received"
        self._store_path = directory / "store"
        self._checkpointer = checkpointer
        self._engine = engine
        self._replica = replica
        self._open_channel = open_channel
        self._replaced = replaced
        self._kick = kick
        self._wanted: set[str] = set()
        self._asked = trio.Event()
        self._receiving = False

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
                except (UnavailableError, RemoteProtocolError) as error:
                    log.warning("snapshot for %s: %s", peer, error)
                self._wanted.discard(peer)

    async def _send(self, peer: str) -> None:
        await self._checkpointer.checkpoint()
        store = self._checkpointer.store
        assert isinstance(store, Store)
        snapshot = await trio.to_thread.run_sync(produce, store, self._made)
        manifest = snapshot.manifest
        log.info("sending %s a snapshot of entry %d, %d bytes", peer, manifest.index, manifest.size)
        reader = await trio.to_thread.run_sync(open_reader, snapshot)
        try:
            async with self._open_channel(peer) as channel:
                sender = SnapshotSender(manifest, reader)
                while not sender.done and sender.refused is None:
                    while (value := await trio.to_thread.run_sync(sender.next_value)) is not None:
                        await channel.send(value)
                    answers = await channel.receive()
                    if not answers:
                        raise UnavailableError("the connection was closed before the snapshot was whole")
                    for answer in answers:
                        sender.receive(answer)
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
                values = await channel.receive()
                if not values:
                    return
                for value in values:
                    for answer in await trio.to_thread.run_sync(receiver.receive, value):
                        await channel.send(answer)
            await self._install(receiver.received)
        finally:
            receiver.close()
            self._receiving = False

    def _refusal(self, manifest: Manifest) -> str | None:
        """For the receiver, in its worker thread: the engine is asked on the loop."""
        if trio.from_thread.run_sync(self._engine.offered_snapshot, manifest.index, manifest.term):
            return None
        return "the log brings as much"

    async def _install(self, received: Snapshot) -> None:
        manifest = received.manifest
        if not self._engine.offered_snapshot(manifest.index, manifest.term):
            return
        since = self._engine.applied_index
        self._engine.suspend_applying()
        self._replica.suspend()
        try:
            async with self._checkpointer.paused():
                self._checkpointer.store.close()
                store, state = await trio.to_thread.run_sync(_replace, received, self._store_path)
                # No await from here: store, state, log and engine change together.
                self._checkpointer.store = store
                self._replaced(store)
                self._replica.installed(state, store, since)
                self._engine.snapshot_installed(manifest.index, manifest.term, manifest.previous)
        finally:
            self._engine.resume_applying()
            self._kick()
        log.info("installed a snapshot of entry %d from term %d", manifest.index, manifest.term)


def _replace(received: Snapshot, store_path: Path) -> tuple[Store, State]:
    store = install(received, store_path)
    return store, restore(store.records())
