"""Links between peers: their kinds, the hello, and the choice between two connections. No I/O.

Two nodes have one TCP connection for each kind of link, used in both directions. *Both* dial, so that a node
that starts last is reached at once and a connection blocked in one direction does no harm. Therefore two
connections for the same link can be established at the same time, or a new one while the old one is not yet
known to be broken. `Slot` chooses one of them by three rules, which both ends apply alike:

* A node dials only while it has no connection, and sends its hello only if it still has none.
* Every hello carries the sender's *instance* (drawn when the process started) and its *epoch* (a count of
  hellos). A hello that is not newer than that of the present connection was overtaken and is refused. A newer
  hello, or one of another instance, replaces the connection: the peer would not have dialed while it still
  had the old one. Frames of a replaced connection are dropped.
* If both nodes wait for the answer to their own hello, the connection dialed by the node with the smaller
  name wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from node.errors import IdentityError, NodeError
from node.protocol.peer import FRAME_BYTES_MAX, FrameError

RAFT: Final = "raft"
"""Consensus and forwarded batches, never delayed by bulk data."""

ROUTE: Final = "route"
"""Interest and plain NATS traffic."""

SNAPSHOT: Final = "snapshot"
"""One snapshot. Opened on demand, any number at a time."""

REMOTE_ROUTE: Final = "foreign"
"""Interest and plain NATS traffic with a node of another cluster, which need not be configured here."""

JOIN: Final = "join"
"""One request of a node with an empty directory to join the cluster."""

LINKS: Final = frozenset({RAFT, ROUTE, SNAPSHOT, REMOTE_ROUTE, JOIN})

INSTANCE_BYTES: Final = 16
NAME_LENGTH_MAX: Final = 255


class CollisionError(NodeError):
    """The other of two connections for one link is kept. This is not an error of either node."""


class Address(Protocol):
    """An address to listen on or to dial. ``str()`` of it is ``host:port``."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def is_loopback(self) -> bool: ...


class LinkListener(Protocol):
    """Receives the events of one kind of link. Called on the loop; must not wait."""

    def on_up(self, peer: str, link: str, hello: Mapping[str, Any]) -> None:
        """The link is up in both directions. A reconnect is reported as down, then up."""

    def on_down(self, peer: str, link: str) -> None:
        """The link is down; queued frames and frames in flight are lost. Called once for each ``on_up``."""

    def on_frames(self, peer: str, link: str, values: list[Any]) -> None:
        """Handle all frames that one read completed.

        Raises:
            RemoteProtocolError: the peer broke its protocol; its connection is dropped.
        """


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the transport: bytes and seconds."""

    frame_bytes_max: int = FRAME_BYTES_MAX
    """Maximum length of a frame; a longer one is a protocol error."""

    snapshot_frame_bytes_max: int = 1024 * 1024
    """The same on a snapshot connection."""

    outbox_bytes_max: int = 64 * 1024 * 1024
    """Maximum bytes queued to one peer on one link; beyond it the connection is dropped and dialed again."""

    write_bytes: int = 1024 * 1024
    """Frames of about this many bytes are sent in one write. Larger writes are slower."""

    read_bytes: int = 256 * 1024
    """Maximum bytes of one read."""

    handshakes_max: int = 64
    """Maximum number of connections in their handshake; a new one evicts an older one (`greeting`)."""

    handshakes_address_max: int = 32
    """The same for one address."""

    connect_s: float = 1.0
    """Timeout of a TCP connect. The kernel repeats its SYN after 1 s and after 3 s."""

    handshake_s: float = 2.0
    """Timeout of TLS handshake and hellos together."""

    backoff_min_s: float = 0.02
    backoff_max_s: float = 0.5
    """The pause before the next attempt doubles from the minimum to the maximum; half of it is random."""

    settled_s: float = 1.0
    """After a connection that lasted this long, pauses start again from the minimum."""

    unanswered_s: float = 3.0
    """Bytes or keepalives that are not acknowledged for this long end the connection (half-open peers)."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of each end of a connection."""

    link: str
    node: str
    to: str
    """The node that the sender intends to talk to."""
    instance: bytes
    """Random, drawn when the sender started."""
    epoch: int
    """The sender's count of hellos: a later hello of one instance has a greater epoch."""
    fields: Mapping[str, Any]
    """All fields, including those of the server."""

    @classmethod
    def of(cls, value: Any) -> Hello:
        """Parse a peer's hello.

        Raises:
            IdentityError: the peer has refused the connection, for the reason in the text.
            CollisionError: the peer keeps another connection with this node.
            FrameError: the value is no hello.
        """
        if not isinstance(value, dict):
            raise FrameError("the first frame is not a hello")
        if isinstance(refusal := value.get("refused"), str):
            if value.get("collision") is True:
                raise CollisionError(refusal[:NAME_LENGTH_MAX])
            raise IdentityError(f"refused by the peer: {refusal[:NAME_LENGTH_MAX]}")
        link, node, to = (value.get(key) for key in ("link", "node", "to"))
        instance, epoch = value.get("instance"), value.get("epoch")
        if not (isinstance(link, str) and link in LINKS):
            raise FrameError("a hello for an unknown kind of link")
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
    """Return the frame that refuses a hello."""
    text = str(error)[:NAME_LENGTH_MAX]
    return {"refused": text, "collision": True} if isinstance(error, CollisionError) else {"refused": text}


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_LENGTH_MAX and value.isprintable()


C = TypeVar("C")


class Slot(Generic[C]):
    """The state of one link to one peer, with the connection that is the link.

    Args:
        node: this node's name.
        peer: the peer's name, different from ``node``.
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
        """True while a hello on a connection dialed by this node waits for its answer."""

    def check_append(self, hello: Hello) -> None:
        """Check that a connection dialed by the peer may become the link.

        Raises:
            CollisionError: another connection is kept.
        """
        if self.dialing and self.node < self.peer:
            raise CollisionError("our own connection is ahead")
        present = self.hello
        if present is not None and hello.instance == present.instance and hello.epoch <= present.epoch:
            raise CollisionError("overtaken by a later connection")

    def take(self, connection: C, hello: Hello) -> C | None:
        """Make this connection the link; return the one that it replaces."""
        replaced, self.current, self.hello = self.current, connection, hello
        return replaced

    def release(self, connection: C) -> bool:
        """Handle the end of a connection. Returns True if it was the link, False if it had been replaced."""
        if self.current is not connection:
            return False
        self.current = self.hello = None
        return True
