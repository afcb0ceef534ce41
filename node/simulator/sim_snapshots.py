"""Snapshots between simulated nodes: in pieces, by the code that production uses, over links of their own.

Sender and receiver are the real ones (`node.store.transfer`), and what is done around them is what
`node.server.disk.snapshots` does: one after the other is sent to, one at a time is received, what a peer
says that makes no sense ends the connection. Whatever touches the disk takes a while, in which the
process may die. Installing suspends applying, puts the snapshot in the store's place, and lets state,
log and engine follow.
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
"""How long it takes to make a copy."""
RECEIVE_S = (0.0002, 0.004)
"""How long it takes to write a chunk."""
INSTALL_S = (0.005, 0.05)
"""How long it takes to put a snapshot in the store's place and to read the state back."""


class SimSnapshots:
    """What one process sends and receives.

    Args:
        node: whose process it is.
        network: the links of snapshots.
    """

    def __init__(self, node: SimNode, network: Network) -> None:
        self._node = node
        self._network = network
        self._rng = node.snapshot_rng
        self._life = node.life
        self._wanted: set[str] = set()
        self._receiver_is: str | None = None
        """Whom it sends to."""
        self._sender: SnapshotSender | None = None
        self._sender_is: str | None = None
        """Whom it receives from."""
        self._receiver: SnapshotReceiver | None = None
        self._queue: deque[list[Any]] = deque()
        self._busy = self.installing = False
        self._unfinished: Unfinished[Copied] = Unfinished(lambda: node.journal.first_readable)

    @property
    def receives(self) -> bool:
        """A part of a snapshot is here, and more is expected."""
        return self._receiver is not None and self._receiver.received is None

    # --- sending ------------------------------------------------------------------------------------

    def wanted(self, peer: str) -> None:
        """The engine has found that ``peer`` needs one. Told again while it does."""
        self._wanted.add(peer)
        self._next()

    def _next(self) -> None:
        if self._receiver_is is None and self._wanted:
            self._receiver_is = min(self._wanted)
            self._node.in_thread(self._rng.uniform(*COPY_S), self._send)

    def _send(self) -> None:
        node, peer = self._node, self._receiver_is
        assert peer is not None
        index = node.storage.kept.store.applied[0]
        try:
            if not (index and self._network.linked(node.name, peer)):
                raise UnavailableError(f"no snapshot connection with {peer}")
            copied = self._unfinished.of(peer)
            if copied is None:
                copied = node.storage.kept.copy(Context(node.members_at(index), b"").encode())
        except UnavailableError as error:
            node.note(f"has no snapshot for {peer}: {error}")
            self._sent()
            return
        node.count("snapshots sent")
        self._unfinished.begun(peer, copied.manifest.index, copied)
        self._sender = SnapshotSender(copied.manifest, copied.read)
        self._pump()

    def _pump(self) -> None:
        sender, peer = self._sender, self._receiver_is
        assert sender is not None
        assert peer is not None
        while (value := sender.next_value()) is not None:
            self._network.send(self._node.name, peer, encode_frame(value), loose=False)
        if sender.done or sender.refused is not None:
            self._node.note(f"has sent {peer} a snapshot: {sender.refused or 'delivered'}")
            self._unfinished.ended(peer)
            self._sent()

    def _sent(self) -> None:
        self._wanted.discard(self._receiver_is or "")
        self._receiver_is = self._sender = None
        self._next()

    # --- the link -----------------------------------------------------------------------------------

    def take(self, peer: str, value: list[Any]) -> None:
        """Something has come from ``peer``."""
        if value[0] in {"offer", "data"}:
            self._part(peer, value)
        elif self._sender is not None and peer == self._receiver_is:
            try:
                self._sender.receive(value)
            except RemoteProtocolError:
                self._unfinished.ended(peer)
                self._network.cut(self._node.name, peer)
                return
            self._pump()

    def unlinked(self, peer: str) -> None:
        """The connection is closed."""
        if peer == self._receiver_is and self._sender is not None:
            self._sent()
        if peer == self._sender_is and not self.installing:
            self._received()

    # --- receiving ----------------------------------------------------------------------------------

    def _part(self, peer: str, value: list[Any]) -> None:
        if value[0] == "offer":
            if self.installing or self._sender_is not in {None, peer}:
                self._network.cut(self._node.name, peer)  # another snapshot is being received
                return
            self._received()
            self._sender_is, kept = peer, self._node.storage.kept
            self._receiver = SnapshotReceiver(
                kept.parts(), wanted=self._refusal, chunk_bytes=kept.chunk_bytes
            )
        if peer == self._sender_is and not self.installing:
            self._queue.append(value)
            self._work()

    def _received(self) -> None:
        if self._receiver is not None:
            self._receiver.close()
        self._sender_is = self._receiver = None
        self._queue.clear()

    def _refusal(self, manifest: Manifest) -> str | None:
        # A process that is being killed writes on for a moment, but has nobody to ask.
        wanted = self._node.life != self._life or self._node.engine.offered_snapshot(
            manifest.index, manifest.term
        )
        return None if wanted else "the log brings as much"

    def _work(self) -> None:
        if self._busy or not self._queue:
            return
        value, receiver = self._queue.popleft(), self._receiver
        assert receiver is not None
        self._busy = True
        storage = self._node.storage
        storage.kept.begin(lambda: receiver.receive(value))
        self._node.in_thread(
            self._rng.uniform(*RECEIVE_S) * storage.slowness, lambda: self._receive(receiver, value)
        )

    def _receive(self, receiver: SnapshotReceiver, value: list[Any]) -> None:
        self._node.storage.kept.end()
        self._busy = False
        peer = self._sender_is
        if receiver is not self._receiver or peer is None:
            self._work()
            return
        try:
            answers = receiver.receive(value)
        except (RemoteProtocolError, DiskError) as error:
            self._node.note(f"gives up a snapshot of {peer}: {error}")
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
        self._node.half_way(peer, receiver.progress)
        self._work()

    def _count(self, value: list[Any], receiver: SnapshotReceiver) -> None:
        if value[0] == "data":
            self._node.count("chunks")
        elif receiver.progress[0]:
            self._node.count("snapshots resumed")
            self._node.note(f"goes on with a snapshot at byte {receiver.progress[0]}")

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
        self._node.storage.kept.begin_install(received, members.encode())
        self._node.half_way(self._sender_is or "", (received.manifest.size, received.manifest.size))
        self._node.in_thread(self._rng.uniform(*INSTALL_S), self._finish)

    def _finish(self) -> None:
        assert self._receiver is not None
        received = self._receiver.received
        assert received is not None
        manifest = received.manifest
        try:
            store = self._node.storage.kept.install()
            members = Context.decode(manifest.context).membership
            self._node.installed(store, (manifest.index, manifest.term), manifest.previous, members)
        except RemoteProtocolError as error:
            self._node.note(f"can't install: {error}")
        finally:
            self.installing = False
            self._node.engine.resume_applying()
        self._received()
