"""What a link to a peer is: its kinds, its hello, and which connection is the link. No I/O.

Two nodes hold one TCP connection for each kind of link, used in both directions. *Both* dial, so
that whoever starts last is reached at once and one blocked direction does no harm; hence two
connections for the same link can come up at the same time, or a new one while the old is not known
to be dead. `Slot` decides which one stays, by three rules that both ends apply alike:

* A node dials only while it holds no connection, and says hello only if it still holds none.
* Every hello carries the sender's *instance* (drawn when the process started) and its *epoch* (a
  count of hellos). A hello that is not newer than the present connection's was overtaken and is
  refused. A newer one, or another instance, replaces it: the peer would not have dialed while it
  still held the old one. Frames of a replaced connection are dropped.
* If both wait for the answer to their own hello, the connection that the node with the smaller name
  has dialed wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from node.errors import IdentityError, NodeError
from node.protocol.peer import FRAME_BYTES_MAX, FrameError

RAFT: Final = "raft"
"""Consensus and forwarded batches: never behind bulk."""

ROUTE: Final = "route"
"""Interest and plain NATS traffic."""

SNAPSHOT: Final = "snapshot"
"""A snapshot on its way; opened on demand, any number at a time."""

REMOTE_ROUTE: Final = "foreign"
"""Interest and plain NATS traffic with a node of another cluster, which need not be known before."""

JOIN: Final = "join"
"""One question: whether a node that has an empty directory is let into the cluster."""

LINKS: Final = frozenset({RAFT, ROUTE, SNAPSHOT, REMOTE_ROUTE, JOIN})

INSTANCE_BYTES: Final = 16
NAME_LENGTH_MAX: Final = 255


class CollisionError(NodeError):
    """The other of two connections for one link stays. Nobody's fault."""


class Address(Protocol):
    """Where to listen or to dial. ``str()`` of it is ``host:port``."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def is_loopback(self) -> bool: ...


class LinkListener(Protocol):
    """Who is told about one kind of link. Called on the loop; must not wait."""

    def on_up(self, peer: str, link: str, hello: Mapping[str, Any]) -> None:
        """The link is there, both ways. A reconnect is always told as down, then up."""

    def on_down(self, peer: str, link: str) -> None:
        """The link is gone; what was queued or on its way is lost. Told once for each ``on_up``."""

    def on_frames(self, peer: str, link: str, values: list[Any]) -> None:
        """Everything that one read brought.

        Raises:
            RemoteProtocolError: the peer broke its protocol; its connection is dropped.
        """


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the transport: bytes and seconds."""

    frame_bytes_max: int = FRAME_BYTES_MAX
    """A longer frame breaks the protocol."""

    snapshot_frame_bytes_max: int = 1024 * 1024
    """The same on a snapshot's connection."""

    outbox_bytes_max: int = 64 * 1024 * 1024
    """Bytes queued to one peer on one link; beyond it the connection is dropped and dialed again."""

    write_bytes: int = 1024 * 1024
    """Frames up to about this many bytes leave in one write. More costs more than it saves."""

    read_bytes: int = 256 * 1024
    """The most one read takes."""

    handshakes_max: int = 64
    """Connections at a time that have not said who they are; for a new one an older one goes (`greeting`)."""

    handshakes_address_max: int = 32
    """The same of one address."""

    connect_s: float = 1.0
    """A connect may take this long. The kernel's own first repeat comes after 1 s, the next after 3."""

    handshake_s: float = 2.0
    """TLS and hello, both ways."""

    backoff_min_s: float = 0.02
    backoff_max_s: float = 0.5
    """The pause before the next attempt: doubles from the first to the second, half of it random."""

    settled_s: float = 1.0
    """A connection that held this long starts the pauses from the beginning."""

    unanswered_s: float = 3.0
    """Sent bytes or keepalives unacknowledged for this long end a connection (half-open peers)."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the two ends of a connection tell each other first."""

    link: str
    node: str
    to: str
    """Whom the sender believes it is talking to."""
    instance: bytes
    """Drawn by the sender when it started."""
    epoch: int
    """The sender's count of hellos: later is larger within an instance."""
    fields: Mapping[str, Any]
    """All of it, the server's own fields included."""

    @classmethod
    def of(cls, value: Any) -> Hello:
        """Read a peer's hello.

        Raises:
            IdentityError: the peer has declined us, and says why.
            CollisionError: the peer holds, or will hold, another connection with us.
            FrameError: no hello.
        """
        if not isinstance(value, dict):
            raise FrameError("the first frame is no hello")
        if isinstance(refusal := value.get("refused"), str):
            if value.get("collision") is True:
                raise CollisionError(refusal[:NAME_LENGTH_MAX])
            raise IdentityError(f"refused by the peer: {refusal[:NAME_LENGTH_MAX]}")
        link, node, to = (value.get(key) for key in ("link", "node", "to"))
        instance, epoch = value.get("instance"), value.get("epoch")
        if not (isinstance(link, str) and link in LINKS):
            raise FrameError("a hello for no link that we know")
        if not (_is_name(node) and _is_name(to)):
            raise FrameError("a hello without the names of its sender and receiver")
        if not (isinstance(instance, bytes) and len(instance) == INSTANCE_BYTES):
            raise FrameError("a hello without an instance")
        if not (type(epoch) is int and epoch > 0):
            raise FrameError("a hello without an epoch")
        assert isinstance(node, str)
        assert isinstance(to, str)
        return cls(link, node, to, instance, epoch, value)


def refusal(error: NodeError) -> dict[str, Any]:
    """Make what is sent instead of a hello to one whose hello was declined."""
    text = str(error)[:NAME_LENGTH_MAX]
    return {"refused": text, "collision": True} if isinstance(error, CollisionError) else {"refused": text}


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_LENGTH_MAX and value.isprintable()


C = TypeVar("C")


class Slot(Generic[C]):
    """The one place for a link to one peer, and the connection that holds it.

    Args:
        node: our own name.
        peer: the peer's name; never ours.
        link: the kind of link.
    """

    __slots__ = ("current", "dialing", "hello", "link", "node", "peer")

    def __init__(self, node: str, peer: str, link: str) -> None:
        self.node = node
        self.peer = peer
        self.link = link
        self.current: C | None = None
        self.hello: Hello | None = None
        """The peer's hello on the present connection."""
        self.dialing = False
        """Our own hello is out on a connection of ours, and its answer is not here."""

    def check_append(self, hello: Hello) -> None:
        """Decide whether a connection that the peer has dialed may become the link.

        Raises:
            CollisionError: another one stays.
        """
        if self.dialing and self.node < self.peer:
            raise CollisionError("our own connection is ahead")
        present = self.hello
        if present is not None and hello.instance == present.instance and hello.epoch <= present.epoch:
            raise CollisionError("overtaken by a later connection")

    def take(self, connection: C, hello: Hello) -> C | None:
        """Make this connection the link; return the one it replaces."""
        replaced, self.current, self.hello = self.current, connection, hello
        return replaced

    def release(self, connection: C) -> bool:
        """Note that a connection has ended. Returns whether it was the link; a replaced one is not."""
        if self.current is not connection:
            return False
        self.current = self.hello = None
        return True
