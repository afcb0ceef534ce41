"""Snapshots between simulated nodes: in chunks, by the code of production, over links of their own.

Sender and receiver are the real ones (`node.store.transfer`). The code around them does what
`node.server.disk.snapshots` does: it sends to one peer at a time, receives one snapshot at a time, and
closes the connection after an invalid message. Every access to the disk takes time, during which the process
may die. An installation suspends applying, replaces the store with the snapshot, and then updates state, log
and engine.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from node.errors import DiskError, RemoteProtocolError, UnavailableError
from node.protocol.peer import encode_frame
from node.server.disk.snapshot_context import Context
from node.server.disk.unfinished import Unfinished
from node.simulator.sim_store import Copied
from node.store.snapshot import Manifest
from node.store.transfer import SnapshotReceiver, SnapshotSender

if TYPE_CHECKING:
    from node.simulator.network import Network
    from node.simulator.sim_node import SimNode

COPY_S = (0.002, 0.03)
"""Duration of making a copy."""
RECEIVE_S = (0.0002, 0.004)
"""Duration of writing a chunk."""
INSTALL_S = (0.005, 0.05)
"""Duration of replacing the store with a snapshot and reading the state back."""


class SimSnapshots:
    """The snapshots that one process sends and receives.

    Args:
        node: the node of the process.
        network: the links for snapshots.
    """

    def __init__(self, node: SimNode, network: Network) -> None:
        self._node = node
        self._network = network
        self._rng = node.snapshot_rng
        self._life = node.life
        self._wanted: set[str] = set()
        self._target: str | None = None
        """The peer it sends to."""
        self._sender: SnapshotSender | None = None
        self._source: str | None = None
        """The peer it receives from."""
        self._receiver: SnapshotReceiver | None = None
        self._queue: deque[list[Any]] = deque()
        self._busy = self.installing = False
        self._unfinished: Unfinished[Copied] = Unfinished(lambda: node.journal.first_readable)

    @property
    def receives(self) -> bool:
        """Whether a part of a snapshot has been received and more is expected."""
        return self._receiver is not None and self._receiver.received is None

    # --- sending ------------------------------------------------------------------------------------

    def wanted(self, peer: str) -> None:
        """Queue a snapshot for ``peer``: the engine needs it. The engine repeats the call while it does."""
        self._wanted.add(peer)
        self._next()

    def _next(self) -> None:
        if self._target is None and self._wanted:
            self._target = min(self._wanted)
            self._node.in_thread(self._rng.uniform(*COPY_S), self._send)

    def _send(self) -> None:
        node, peer = self._node, self._target
        assert peer is not None
        index = node.storage.machine_store.store.applied[0]
        try:
            if not (index and self._network.linked(node.name, peer)):
                raise UnavailableError(f"no snapshot connection with {peer}")
            copied = self._unfinished.of(peer)
            if copied is None:
                copied = node.storage.machine_store.copy(Context(node.members_at(index), b"").encode())
        except UnavailableError as error:
            node.record(f"has no snapshot for {peer}: {error}")
            self._sent()
            return
        node.count("snapshots sent")
        self._unfinished.begun(peer, copied.manifest.index, copied)
        self._sender = SnapshotSender(copied.manifest, copied.read)
        self._pump()

    def _pump(self) -> None:
        sender, peer = self._sender, self._target
        assert sender is not None
        assert peer is not None
        while (value := sender.next_value()) is not None:
            self._network.send(self._node.name, peer, encode_frame(value), loose=False)
        if sender.done or sender.refused is not None:
            self._node.record(f"has sent {peer} a snapshot: {sender.refused or 'delivered'}")
            self._unfinished.ended(peer)
            self._sent()

    def _sent(self) -> None:
        self._wanted.discard(self._target or "")
        self._target = self._sender = None
        self._next()

    # --- the link -----------------------------------------------------------------------------------

    def take(self, peer: str, value: list[Any]) -> None:
        """Handle a message from ``peer``."""
        if value[0] in {"offer", "data"}:
            self._part(peer, value)
        elif self._sender is not None and peer == self._target:
            try:
                self._sender.receive(value)
            except RemoteProtocolError:
                self._unfinished.ended(peer)
                self._network.cut(self._node.name, peer)
                return
            self._pump()

    def unlinked(self, peer: str) -> None:
        """Handle the end of the connection with ``peer``."""
        if peer == self._target and self._sender is not None:
            self._sent()
        if peer == self._source and not self.installing:
            self._received()

    # --- receiving ----------------------------------------------------------------------------------

    def _part(self, peer: str, value: list[Any]) -> None:
        if value[0] == "offer":
            if self.installing or self._source not in {None, peer}:
                self._network.cut(self._node.name, peer)  # another snapshot is being received
                return
            self._received()
            self._source, machine_store = peer, self._node.storage.machine_store
            self._receiver = SnapshotReceiver(
                machine_store.parts(), wanted=self._refusal, chunk_bytes=machine_store.chunk_bytes
            )
        if peer == self._source and not self.installing:
            self._queue.append(value)
            self._work()

    def _received(self) -> None:
        if self._receiver is not None:
            self._receiver.close()
        self._source = self._receiver = None
        self._queue.clear()

    def _refusal(self, manifest: Manifest) -> str | None:
        # A process that is being killed writes for another moment, but its engine is gone.
        wanted = self._node.life != self._life or self._node.engine.offered_snapshot(
            manifest.index, manifest.term
        )
        return None if wanted else "the log already contains it"

    def _work(self) -> None:
        if self._busy or not self._queue:
            return
        value, receiver = self._queue.popleft(), self._receiver
        assert receiver is not None
        self._busy = True
        storage = self._node.storage
        storage.machine_store.begin(lambda: receiver.receive(value))
        self._node.in_thread(
            self._rng.uniform(*RECEIVE_S) * storage.slowness, lambda: self._receive(receiver, value)
        )

    def _receive(self, receiver: SnapshotReceiver, value: list[Any]) -> None:
        self._node.storage.machine_store.end()
        self._busy = False
        peer = self._source
        if receiver is not self._receiver or peer is None:
            self._work()
            return
        try:
            answers = receiver.receive(value)
        except (RemoteProtocolError, DiskError) as error:
            self._node.record(f"gives up a snapshot of {peer}: {error}")
            self._node.count("snapshots given up")
            self._received()
            self._network.cut(self._node.name, peer)
            return
        self._count(value, receiver)
        for answer in answers:
            self._network.send(self._node.name, peer, encode_frame(answer), loose=False)
        if receiver.received is not None:
            self._install()
            return
        self._node.snapshot_progressed(peer, receiver.progress)
        self._work()

    def _count(self, value: list[Any], receiver: SnapshotReceiver) -> None:
        if value[0] == "data":
            self._node.count("chunks")
        elif receiver.progress[0]:
            self._node.count("snapshots resumed")
            self._node.record(f"resumes a snapshot at byte {receiver.progress[0]}")

    # --- installing ---------------------------------------------------------------------------------

    def _install(self) -> None:
        assert self._receiver is not None
        received = self._receiver.received
        assert received is not None
        manifest, engine = received.manifest, self._node.engine
        if not engine.offered_snapshot(manifest.index, manifest.term):
            self._received()
            return
        self.installing = True
        engine.suspend_applying()
        self._node.replica.suspend()
        self._begin_install()

    def _begin_install(self) -> None:
        if self._node.checkpointing:
            self._node.in_thread(0.002, self._begin_install)
            return
        assert self._receiver is not None
        received = self._receiver.received
        assert received is not None
        members = Context.decode(received.manifest.context).membership
        self._node.storage.machine_store.begin_install(received, members.encode())
        self._node.snapshot_progressed(self._source or "", (received.manifest.size, received.manifest.size))
        self._node.in_thread(self._rng.uniform(*INSTALL_S), self._finish)

    def _finish(self) -> None:
        assert self._receiver is not None
        received = self._receiver.received
        assert received is not None
        manifest = received.manifest
        try:
            store = self._node.storage.machine_store.install()
            members = Context.decode(manifest.context).membership
            self._node.installed(store, (manifest.index, manifest.term), manifest.previous, members)
        except RemoteProtocolError as error:
            self._node.record(f"can't install: {error}")
        finally:
            self.installing = False
            self._node.engine.resume_applying()
        self._received()
