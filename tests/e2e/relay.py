"""TCP relays to stand between nodes: cut as a network is, or stopped in the middle of a snapshot."""

from __future__ import annotations

import contextlib
import socket
import threading

from e2e.harness import Cluster
from e2e.ports import Ports

READ_BYTES = 64 * 1024


class Relay:
    """Forwards connections from a port of its own to ``target``, until it is cut.

    Args:
        port: where it listens, on the loopback.
        target: the port it forwards to.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._open: set[socket.socket] = set()
        self._snapshots: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._hold_after: int | None = None
        self.holding = threading.Event()
        """A snapshot's connection has been held."""
        self._go_on = threading.Event()
        self._listener: socket.socket | None = None
        self.heal()

    def cut(self, *, snapshots: bool = True) -> None:
        """End all connections, perhaps but for those of snapshots, and refuse new ones, until `heal`."""
        with self._lock:
            listener, self._listener = self._listener, None
            for end in self._open if snapshots else self._open - self._snapshots:
                _shut(end)
            if listener is not None:
                _shut(listener)

    def heal(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def hold_snapshots(self, after: int) -> None:
        """Stop forwarding a snapshot's connection when ``after`` bytes have gone one way, until `release`."""
        self.holding.clear()
        self._go_on.clear()
        self._hold_after = after

    def release(self) -> None:
        self._hold_after = None
        self._go_on.set()

    def close(self) -> None:
        self.release()
        self.cut()

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:  # it was shut
                    return
                threading.Thread(target=self._serve, args=(near, listener), daemon=True).start()

    def _serve(self, near: socket.socket, listener: socket.socket) -> None:
        with contextlib.suppress(OSError), near, socket.socket() as far:
            with self._lock:
                if listener is not self._listener:  # cut meanwhile
                    return
                self._open |= {near, far}
            try:
                far.connect(("127.0.0.1", self._target))
                back = threading.Thread(target=self._forward, args=(far, near), daemon=True)
                back.start()
                self._forward(near, far)
                back.join()
            finally:
                with self._lock:
                    self._open -= {near, far}
                    self._snapshots -= {near, far}

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        forwarded = 0
        try:
            while data := source.recv(READ_BYTES):
                if not forwarded and b"snapshot" in data:  # its hello says so
                    self._snapshots |= {source, target}
                forwarded += len(data)
                if (
                    source in self._snapshots
                    and self._hold_after is not None
                    and forwarded > self._hold_after
                ):
                    self.holding.set()
                    self._go_on.wait()
                target.sendall(data)
        except OSError:
            pass
        finally:
            _shut(source)
            _shut(target)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed or never connected
        end.shutdown(socket.SHUT_RDWR)


class Island:
    """Puts one node of a cluster behind relays, both ways. Make it before the cluster starts."""

    def __init__(self, cluster: Cluster, ports: Ports, name: str) -> None:
        self.relays: dict[str, Relay] = {}
        """From the node to each other one, and, under its own name, from all of them to it."""
        for other in cluster.names:
            relay = self.relays[other] = Relay(ports.take(), cluster.ports[other]["peer"])
            for dialing in cluster.names:
                if dialing != other and name in (dialing, other):
                    override = f"cluster.nodes.{other}.peer=127.0.0.1:{relay.port}"
                    cluster.options.setdefault(dialing, []).extend(["--set", override])

    def cut(self, *, snapshots: bool = True) -> None:
        for relay in self.relays.values():
            relay.cut(snapshots=snapshots)

    def heal(self) -> None:
        for relay in self.relays.values():
            relay.heal()

    def close(self) -> None:
        for relay in self.relays.values():
            relay.close()
