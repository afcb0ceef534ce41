"""Links between nodes over real sockets on the loopback: hello, TLS, replacement, bounds, garbage."""

from __future__ import annotations

import contextlib
import datetime
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from node.config.values import Address
from node.errors import ConfigError, IdentityError, RemoteProtocolError, UnavailableError
from node.limited_log import LINES_MAX
from node.protocol.peer import FrameDecoder, encode_frame
from node.raft import authority
from node.raft.connection import SnapshotChannel
from node.raft.links import INSTANCE_BYTES, RAFT, ROUTE, SNAPSHOT, Limits
from node.raft.security import MutualTLS, Plaintext, Security
from node.raft.transport import Transport

SOON = 5.0  # seconds until a test that hangs is given up; nothing waits for it
EAGER = Limits(backoff_min_s=0.001, backoff_max_s=0.005, handshake_s=2.0)


class Recorder:
    """A listener that records all events, and lets a test wait for them."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.react: Callable[[str, list[Any]], None] = lambda peer, values: None
        self._news = trio.Event()

    def on_up(self, peer: str, link: str, hello: Mapping[str, Any]) -> None:
        self._add("up", peer, link, hello)

    def on_down(self, peer: str, link: str) -> None:
        self._add("down", peer, link)

    def on_frames(self, peer: str, link: str, values: list[Any]) -> None:
        for value in values:
            self._add("frame", peer, link, value)
        self.react(peer, values)

    def _add(self, *event: Any) -> None:
        self.events.append(event)
        self._news.set()
        self._news = trio.Event()

    def kinds(self, link: str = RAFT) -> list[str]:
        return [kind for kind, _, on, *_ in self.events if on == link]

    def frames(self, link: str = RAFT) -> list[Any]:
        return [rest[0] for kind, _, on, *rest in self.events if (kind, on) == ("frame", link)]

    async def until(self, satisfied: Callable[[Recorder], bool]) -> None:
        with trio.fail_after(SOON):
            while not satisfied(self):
                await self._news.wait()


class PeersLog(logging.Handler):
    """Records the log lines about peers, and lets a test wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._news = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._news.set()
        self._news = trio.Event()

    def about(self, words: str) -> list[str]:
        return [line for line in self.lines if words in line]

    async def until(self, words: str, count: int = 1) -> list[str]:
        with trio.fail_after(SOON):
            while len(self.about(words)) < count:
                await self._news.wait()
        return self.about(words)


@pytest.fixture
def peers_log() -> Iterator[PeersLog]:
    logger, handler = logging.getLogger("stanchion.peers"), PeersLog()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def is_up(link: str = RAFT) -> Callable[[Recorder], bool]:
    return lambda received: received.kinds(link).count("up") > received.kinds(link).count("down")


class Node:
    """A transport with its listener and its address."""

    def __init__(
        self,
        name: str,
        peers: Mapping[str, Address],
        *,
        security: Security | None = None,
        limits: Limits = EAGER,
        port: int = 0,
        listen: bool = True,
        declined: Callable[[str, Mapping[str, Any]], str | None] = lambda link, hello: None,
        routes: Mapping[str, Address] | None = None,
    ) -> None:
        self.received = Recorder()
        self.strangers: list[trio.SocketStream] = []
        self._declined = declined
        self.transport = Transport(
            name,
            peers,
            Address("127.0.0.1", port),
            security or Plaintext(),
            hello=lambda link: {"cluster": "test", "from": name, "kind": link},
            check_hello=self._check,
            limits=limits,
            routes=routes,
        )
        self.transport.attach(RAFT, self.received)
        self.transport.attach(ROUTE, self.received)

    def _check(self, link: str, hello: Mapping[str, Any]) -> None:
        if problem := self._declined(link, hello):
            raise IdentityError(problem)

    @property
    def address(self) -> Address:
        return Address(*self.transport.listening[0])

    async def frames(self, count: int, link: str = RAFT) -> list[Any]:
        await self.received.until(lambda received: len(received.frames(link)) >= count)
        return self.received.frames(link)


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.transport.run)
            yield node
            nursery.cancel_scope.cancel()
    finally:
        for stream in node.strangers:
            await trio.aclose_forcefully(stream)


NOWHERE = Address("127.0.0.1", 1)  # nobody listens on port 1: connections are refused


@asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[tuple[Node, Node]]:
    """n1 and n2, where only n2 dials; all links are up."""
    n1 = Node("n1", {"n2": NOWHERE}, **options)
    async with running(n1), running(n2 := Node("n2", {"n1": n1.address}, **options)):
        for node in (n1, n2):
            await node.received.until(is_up(RAFT))
            await node.received.until(is_up(ROUTE))
        yield n1, n2


def hello(node: str = "n2", to: str = "n1", link: str = RAFT, epoch: int = 1, seed: bytes = b"i") -> bytes:
    own = {"link": link, "node": node, "to": to, "instance": seed * INSTANCE_BYTES, "epoch": epoch}
    return encode_frame(own)


async def dial(node: Node) -> trio.SocketStream:
    """Open a connection to a node; closed with the node at the latest."""
    node.strangers.append(await trio.open_tcp_stream(node.address.host, node.address.port))
    return node.strangers[-1]


async def answer(stream: trio.abc.ReceiveStream) -> Any:
    """Return the first frame, or None at the end of the stream."""
    decoder = FrameDecoder()
    with trio.fail_after(SOON):
        while data := await stream.receive_some():
            if values := decoder.feed(data):
                return values[0]
    return None


async def is_closed(stream: trio.abc.ReceiveStream) -> None:
    with trio.fail_after(SOON), contextlib.suppress(trio.BrokenResourceError):  # by a reset as well
        while await stream.receive_some():
            pass


async def say_all(stream: trio.SocketStream, data: bytes) -> None:
    """Send everything and close the sending side; the node may have closed the connection already."""
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(data)
        await stream.send_eof()


# --- links ------------------------------------------------------------------------------------------


async def test_links_come_up_with_the_hellos_of_both() -> None:
    """raft and route come up once each, with the fields of the other's hello."""
    async with pair() as (n1, n2):
        ups = [event for event in n1.received.events if event[0] == "up"]
        assert sorted(link for _, _, link, _ in ups) == [RAFT, ROUTE]
        assert all(said["from"] == "n2" and said["kind"] == link for _, _, link, said in ups)
        assert n2.received.events[0][3]["from"] == "n1"
        assert all(status.connected for status in n1.transport.status() + n2.transport.status())


async def test_frames_arrive_in_order_both_ways() -> None:
    async with pair() as (n1, n2):
        for number in range(1000):
            assert n1.transport.send("n2", RAFT, ["to n2", number])
            assert n2.transport.send("n1", RAFT, ["to n1", number])
        assert await n2.frames(1000) == [("to n2", number) for number in range(1000)]
        assert await n1.frames(1000) == [("to n1", number) for number in range(1000)]


async def test_links_don_t_mix() -> None:
    async with pair() as (n1, n2):
        n1.transport.send("n2", ROUTE, "plain")
        n1.transport.send("n2", RAFT, "consensus")
        assert await n2.frames(1, ROUTE) == ["plain"]
        assert await n2.frames(1, RAFT) == ["consensus"]


async def test_one_encoding_is_sent_to_all_peers() -> None:
    async with pair() as (n1, n2):
        frame = encode_frame({"entries": [b"x" * 200_000]})
        assert n1.transport.send_encoded("n2", RAFT, frame)
        assert n2.transport.send_encoded("n1", RAFT, frame)
        assert await n1.frames(1) == await n2.frames(1) == [{"entries": (b"x" * 200_000,)}]


async def test_large_frames_pass_up_to_the_limit_and_none_beyond() -> None:
    """The reader of a longer one ends the connection; both sides dial it anew."""
    async with pair(limits=Limits(frame_bytes_max=4_000_000, backoff_min_s=0.001)) as (n1, n2):
        n1.transport.send("n2", RAFT, b"x" * 3_999_000)
        assert len((await n2.frames(1))[0]) == 3_999_000
        n1.transport.send("n2", RAFT, b"x" * 4_001_000)
        await n2.received.until(lambda received: received.kinds().count("up") == 2)
        assert n2.received.frames() == [b"x" * 3_999_000]


async def test_when_both_dial_at_once_one_connection_is_left_and_stays() -> None:
    """A node with a free port for the other is needed, so the ports are fixed by a first listen."""
    for _round in range(25):
        async with running(Node("n1", {})) as first, running(Node("n2", {})) as second:
            ports = {"n1": first.address, "n2": second.address}
        n1 = Node("n1", ports, port=ports["n1"].port)
        n2 = Node("n2", ports, port=ports["n2"].port)
        async with running(n1), running(n2):
            for node in (n1, n2):
                await node.received.until(is_up(RAFT))
                await node.received.until(is_up(ROUTE))
            for link in (RAFT, ROUTE):
                # Whatever crossed is sorted out once a frame sent after the last `up` has arrived.
                with trio.fail_after(SOON):
                    while not any(frame == "settled" for frame in n2.received.frames(link)):
                        n1.transport.send("n2", link, "settled")
                        await trio.lowlevel.checkpoint()
        downs = [event for event in n1.received.events + n2.received.events if event[0] == "down"]
        assert len(downs) == 4, "each link went down once, at the end"


async def test_a_restarted_peer_is_connected_again() -> None:
    """It is reported as down, then up; no frame queued for the old process reaches the new one."""
    async with running(Node("n1", {"n2": NOWHERE})) as n1:
        for life in (1, 2):
            async with running(Node("n2", {"n1": n1.address})) as n2:
                await n1.received.until(is_up(RAFT))
                await n2.received.until(is_up(RAFT))
                n2.transport.send("n1", RAFT, life)
                await n1.frames(life)
            await n1.received.until(lambda received: not is_up(RAFT)(received))
            assert not n1.transport.send("n2", RAFT, "into the void")
        assert n1.received.kinds() == ["up", "frame", "down"] * 2


async def test_down_is_told_when_this_node_stops_and_nothing_is_sent_any_more() -> None:
    async with pair() as (n1, n2):
        pass
    for node in (n1, n2):
        assert node.received.kinds().count("down") == node.received.kinds().count("up")
        assert not node.transport.send("n1" if node is n2 else "n2", RAFT, "late")


async def test_a_dropped_connection_is_dialed_anew() -> None:
    async with pair() as (n1, n2):
        n1.transport.drop("n2", RAFT, "told to")
        await n1.received.until(lambda received: received.kinds() == ["up", "down", "up"])
        await n2.received.until(lambda received: received.kinds() == ["up", "down", "up"])
        assert n1.received.kinds(ROUTE) == ["up"], "the other link is not touched"


async def test_frames_of_a_replaced_connection_are_dropped() -> None:
    """The peer has dialed again: frames on the old connection are ignored."""
    async with running(Node("n1", {"n2": NOWHERE})) as n1:
        old, new = await dial(n1), await dial(n1)
        await old.send_all(hello(epoch=1))
        await n1.received.until(is_up())
        await new.send_all(hello(epoch=2))
        await n1.received.until(lambda received: received.kinds() == ["up", "down", "up"])
        await is_closed(old)
        await new.send_all(encode_frame("counts"))
        assert await n1.frames(1) == ["counts"]
        assert n1.transport.is_up("n2", RAFT)


async def test_bytes_that_came_in_with_the_replacement_are_dropped_too() -> None:
    """The old connection's reader receives its bytes in the step in which the connection is replaced."""
    async with running(Node("n1", {"n2": NOWHERE})) as n1:
        for epoch in range(1, 40, 2):
            old, new = await dial(n1), await dial(n1)
            await old.send_all(hello(epoch=epoch))
            await n1.received.until(is_up())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(new.send_all, hello(epoch=epoch + 1))
                nursery.start_soon(old.send_all, encode_frame(("old", epoch)))
            await n1.received.until(lambda received: received.kinds().count("up") % 2 == 0)
            await new.send_all(encode_frame(("new", epoch)))
            await n1.received.until(lambda received, epoch=epoch: received.frames()[-1:] == [("new", epoch)])
            events = [event[0] if event[0] != "frame" else event[3] for event in n1.received.events]
            replaced = len(events) - 1 - events[::-1].index("down")
            assert ("old", epoch) not in events[replaced:]
            await new.aclose()
            await old.aclose()
            await n1.received.until(lambda received: not is_up()(received))


async def test_an_overtaken_connection_is_refused_and_the_present_one_stays() -> None:
    async with running(Node("n1", {"n2": NOWHERE})) as n1:
        late, present = await dial(n1), await dial(n1)
        await present.send_all(hello(epoch=2))
        await n1.received.until(is_up())
        await late.send_all(hello(epoch=1))
        assert (await answer(late))["collision"] is True
        await is_closed(late)
        assert n1.received.kinds() == ["up"]


async def test_a_restarted_process_replaces_a_connection_that_looks_alive() -> None:
    """A power failure sends no FIN; the new process must not wait until the kernel notices."""
    async with running(Node("n1", {"n2": NOWHERE})) as n1:
        dead, fresh = await dial(n1), await dial(n1)
        await dead.send_all(hello(epoch=900))
        await n1.received.until(is_up())
        await fresh.send_all(hello(epoch=1, seed=b"j"))
        await n1.received.until(lambda received: received.kinds() == ["up", "down", "up"])


# --- bounds -----------------------------------------------------------------------------------------


async def test_a_peer_that_does_not_read_loses_its_connection() -> None:
    """Its queue is bounded; the reason says how much was in it."""
    limits = Limits(outbox_bytes_max=5_000_000, backoff_min_s=0.001)
    async with running(Node("n1", {"n2": NOWHERE}, limits=limits)) as n1:
        stream = await dial(n1)
        await stream.send_all(hello())
        await n1.received.until(is_up())
        sent = 0
        while n1.transport.send("n2", RAFT, b"x" * 100_000):
            sent += 1
            assert n1.transport.queued_bytes("n2", RAFT) <= 5_000_000
        assert sent >= 48
        await n1.received.until(lambda received: received.kinds() == ["up", "down"])
        (problem,) = (s.problem for s in n1.transport.status() if s.link == RAFT)
        assert "does not read" in problem
        assert n1.transport.queued_bytes("n2", RAFT) == 0


async def test_whoever_says_nothing_is_closed_in_time() -> None:
    async with running(Node("n1", {"n2": NOWHERE}, limits=Limits(handshake_s=0.01))) as n1:
        await is_closed(await dial(n1))
        half = await dial(n1)
        await half.send_all(hello()[:20])
        await is_closed(half)
        assert n1.received.events == []


async def test_unknown_connections_are_bounded(peers_log: PeersLog) -> None:
    """A new connection evicts the oldest one that has sent nothing; connections after their hello do not
    count."""
    limits = Limits(handshakes_max=9, handshakes_address_max=3, handshake_s=3600)
    async with running(Node("n1", {"n2": NOWHERE}, limits=limits)) as n1:
        peer = await dial(n1)
        await peer.send_all(hello())
        await n1.received.until(is_up())
        speaking = await dial(n1)
        await speaking.send_all(hello(link=ROUTE)[:20])
        silent = [await dial(n1) for _ in range(3)]
        await is_closed(silent[0])
        assert len(await peers_log.until("closed to accept newer connections")) == 1
        await speaking.send_all(hello(link=ROUTE)[20:])
        await n1.received.until(is_up(ROUTE))


async def test_peers_are_linked_while_unknown_connections_are_at_their_limit(
    certs: Path, peers_log: PeersLog
) -> None:
    """64 connections that send nothing, and one more for each that is evicted; with TLS and without."""
    for security in (lambda node: Plaintext(), lambda node: mutual(certs, node)):
        n1 = Node("n1", {"n2": NOWHERE}, security=security("n1"))
        async with running(n1):
            for _ in range(64):
                await dial(n1)
            async with running(Node("n2", {"n1": n1.address}, security=security("n2"))):
                await n1.received.until(is_up(RAFT))
                await n1.received.until(is_up(ROUTE))
    assert 1 <= len(peers_log.about("closed to accept newer connections")) <= 2 * LINES_MAX


async def test_log_does_not_grow_by_a_line_an_attempt(peers_log: PeersLog) -> None:
    """Each kind of failure has its own limit: garbage does not hide that a node is refused."""
    async with running(Node("n1", {"n2": NOWHERE})) as n1:
        for number in range(3 * LINES_MAX):
            stream = await dial(n1)
            await say_all(stream, b"GET / HTTP/1.1\r\n\r\n")
            await is_closed(stream)
            stream = await dial(n1)
            await say_all(stream, hello(node=f"n{number + 10}"))
            await is_closed(stream)
    assert len(peers_log.about("refused peer connection")) == LINES_MAX
    assert len(peers_log.about("peer connection")) == 2 * LINES_MAX


# --- who is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: n1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # somebody speaks TLS to us
        b"\x00\x00\x00\x00",
        encode_frame({"link": "raft"}),
        encode_frame(["raft", "n2"]),
        encode_frame({"link": "raft", "node": "n2", "to": "n1", "instance": b"", "epoch": 1}),
        encode_frame(b"x" * 70_000),
        b"",
    ],
    ids=["http", "tls", "zero", "little", "array", "instance", "long", "nothing"],
)
async def test_garbage_costs_one_log_line_and_no_other_connection(
    garbage: bytes, peers_log: PeersLog
) -> None:
    async with pair() as (n1, n2):
        peers_log.lines.clear()
        stream = await dial(n1)
        await say_all(stream, garbage)
        await is_closed(stream)
        (line,) = peers_log.lines
        assert "peer connection " in line
        assert " from 127.0.0.1:" in line
        n2.transport.send("n1", RAFT, "still here")
        assert await n1.frames(1) == ["still here"]


async def test_garbage_after_the_hello_ends_that_link_only() -> None:
    async with running(Node("n1", {"n2": NOWHERE})) as n1:
        raft, route = await dial(n1), await dial(n1)
        await raft.send_all(hello())
        await route.send_all(hello(link=ROUTE, epoch=2))
        await n1.received.until(is_up(ROUTE))
        await n1.received.until(is_up(RAFT))
        await raft.send_all(encode_frame("good") + b"\xff\xff\xff\xffgarbage")
        await n1.received.until(lambda received: received.kinds() == ["up", "frame", "down"])
        await route.send_all(encode_frame("still here"))
        assert await n1.frames(1, ROUTE) == ["still here"]


async def test_a_frame_that_the_listener_refuses_ends_the_connection() -> None:
    def refuse(peer: str, values: list[Any]) -> None:
        if "bad" in values:
            raise RemoteProtocolError("no such frame")

    async with pair() as (n1, n2):
        n1.received.react = refuse
        n2.transport.send("n1", RAFT, "bad")
        await n1.received.until(lambda received: received.kinds() == ["up", "frame", "down", "up"])
        await n2.received.until(lambda received: received.kinds() == ["up", "down", "up"])
        n2.transport.send("n1", RAFT, "good")
        await n1.received.until(lambda received: "good" in received.frames())


async def test_a_mistake_of_our_own_is_not_taken_for_the_peers() -> None:
    """An error of the listener ends the node: the connection has not caused it."""

    def fail(peer: str, values: list[Any]) -> None:
        raise OSError("the listener's disk, not the socket")

    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with pair() as (n1, n2):
            n1.received.react = fail
            n2.transport.send("n1", RAFT, "anything")
            await trio.sleep_forever()


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        (
            hello(node="n9"),
            "'n9' is no raft peer of 'n1': it was never added, or was removed (stanchion cluster add n9)",
        ),
        (hello(node="n1"), "'n1' is no raft peer of 'n1'"),
        (hello(node="r1"), "'r1' is no raft peer of 'n1'"),
        (hello(node="r1", link=SNAPSHOT), "'r1' is no snapshot peer of 'n1'"),
        (hello(to="n3"), "this is 'n1', not 'n3': a wrong peer address"),
    ],
    ids=["unknown", "ourselves", "routing peer", "routing peer's snapshot", "meant for another"],
)
async def test_unknown_nodes_are_refused_with_a_reason(said: bytes, refusal: str) -> None:
    node = Node("n1", {"n2": NOWHERE}, routes={"r1": NOWHERE})
    async with running(node) as n1:
        stream = await dial(n1)
        await stream.send_all(said)
        assert (await answer(stream))["refused"] == refusal
        await is_closed(stream)
        assert n1.received.events == []


# --- members that come and go ------------------------------------------------------------------------


async def test_a_new_member_is_dialed_and_taken() -> None:
    async with running(Node("n1", {})) as n1, running(Node("n2", {"n1": n1.address})) as n2:
        assert n1.transport.status() == []
        assert not n1.transport.send("n2", RAFT, "too early")
        n1.transport.set_members({"n1": n1.address, "n2": n2.address})
        for node in (n1, n2):
            await node.received.until(is_up(RAFT))
            await node.received.until(is_up(ROUTE))
        assert n1.transport.send("n2", RAFT, "welcome")
        assert await n2.frames(1) == ["welcome"]
        n1.transport.set_members({"n2": n2.address})  # nothing new: the links stay
        assert n1.transport.is_up("n2", RAFT)


async def test_a_member_that_left_is_cut_off_and_refused(peers_log: PeersLog) -> None:
    async with pair() as (n1, _n2):
        n1.transport.set_members({})
        assert not n1.transport.is_up("n2", RAFT)
        assert not n1.transport.send("n2", ROUTE, "no more")
        assert n1.received.kinds() == ["up"]  # told when this has returned
        for link in (RAFT, ROUTE):
            await n1.received.until(lambda received, link=link: received.kinds(link) == ["up", "down"])
        await peers_log.until("n2 was removed from the cluster", 2)
        await peers_log.until("refused by the peer: 'n2' is no raft peer of 'n1'")
        with pytest.raises(UnavailableError, match="not a member"):
            async with n1.transport.open_snapshot("n2"):
                pass
        n1.transport.set_members({"n2": NOWHERE})  # it is added again
        await n1.received.until(lambda received: received.kinds() == ["up", "down", "up"])
        assert n1.received.kinds(ROUTE)[:2] == ["up", "down"]


async def test_a_refusal_carries_additional_fields(peers_log: PeersLog) -> None:
    """The server adds fields to the refusal of a hello; an accepted connection does not receive them."""
    told: list[tuple[str, Any]] = []
    n1 = Node("n1", {"n3": NOWHERE})
    n1.transport.notify_refused(lambda hello: {"about": hello["from"]}, lambda _peer, _refusal: None)
    async with running(n1):
        for name in ("n2", "n3"):
            other = Node(name, {"n1": n1.address})
            other.transport.notify_refused(lambda _hello: {}, lambda *received: told.append(received))
            async with running(other):
                if name == "n3":
                    await other.received.until(is_up())
                else:
                    await peers_log.until("refused by the peer: 'n2' is no raft peer")
    assert {peer for peer, _ in told} == {"n1"}
    assert {refusal["about"] for _, refusal in told} == {"n2"}


async def test_a_new_address_counts_from_the_next_attempt_on() -> None:
    async with running(Node("n2", {"n1": NOWHERE})) as n2, running(Node("n1", {"n2": NOWHERE})) as n1:
        n1.transport.set_members({"n2": n2.address})
        await n1.received.until(is_up(RAFT))
        n1.transport.set_members({"n2": NOWHERE})
        assert n1.transport.is_up("n2", RAFT)


async def test_members_that_cannot_be_are_refused_and_nothing_changes() -> None:
    async with pair(routes={"r1": NOWHERE}) as (n1, n2):
        with pytest.raises(ConfigError, match="r1: both a node of this cluster and a routing peer"):
            n1.transport.set_members({"r1": NOWHERE})
        with pytest.raises(ConfigError, match="must be on the loopback"):
            n1.transport.set_members({"n3": Address("192.0.2.1", 6222)})
        assert n1.transport.send("n2", RAFT, "still here")
        assert await n2.frames(1) == ["still here"]


async def test_member_whose_address_is_not_known_is_taken_when_it_dials(peers_log: PeersLog) -> None:
    """After a restart the others may have this node's address before it has theirs."""
    n1 = Node("n1", {"n9": NOWHERE})
    n1.transport.set_members({"n2": None})
    async with running(n1), running(n2 := Node("n2", {"n1": n1.address})):
        for link in (RAFT, ROUTE):
            await n1.received.until(is_up(link))
            await n2.received.until(is_up(link))
        with pytest.raises(UnavailableError, match="its address is unknown"):
            async with n1.transport.open_snapshot("n2"):
                pass
    assert peers_log.about("is no raft peer") == peers_log.about("is no route peer") == []


async def test_member_is_dialed_once_its_address_is_known() -> None:
    async with running(Node("n2", {"n1": NOWHERE})) as n2:
        n1 = Node("n1", {"n9": NOWHERE})
        n1.transport.set_members({"n2": None})
        async with running(n1):
            await trio.testing.wait_all_tasks_blocked()
            n1.transport.set_members({"n2": n2.address})
            await n1.received.until(is_up(RAFT))


async def test_members_named_before_it_runs_are_dialed() -> None:
    async with running(Node("n2", {"n1": NOWHERE})) as n2:
        n1 = Node("n1", {"n9": NOWHERE})
        n1.transport.set_members({"n2": n2.address})
        async with running(n1):
            await n1.received.until(is_up(RAFT))
        n1.transport.set_members({})  # it has stopped: nothing to close


async def test_what_the_server_declines_is_declined_and_both_logs_say_why(peers_log: PeersLog) -> None:
    """It is logged once, although a node that waits to be added dials several times a second."""
    tried, often = [], trio.Event()

    def declined(link: str, said: Mapping[str, Any]) -> str | None:
        if said["from"] != "n2":
            return None
        tried.append(link)
        if len(tried) == 10:
            often.set()
        return "belongs to another cluster"

    n1 = Node("n1", {"n2": NOWHERE}, declined=declined)
    async with running(n1), running(n2 := Node("n2", {"n1": n1.address})):
        with trio.fail_after(SOON):
            await often.wait()
        assert len(peers_log.about("dropped: belongs to another cluster")) == 1
        assert len(peers_log.about("refused by the peer: belongs to another cluster")) == 2, (
            "n2 says so once for each link, however often it was tried"
        )
        assert n1.received.events == n2.received.events == []


async def test_a_wrong_address_is_noticed_by_the_dialer(peers_log: PeersLog) -> None:
    """n3's address leads to n1: n2 logs the intended node, and n1 its own name."""
    n1 = Node("n1", {"n2": NOWHERE})
    async with running(n1), running(Node("n2", {"n3": n1.address})):
        (line, _) = await peers_log.until("refused by the peer: this is 'n1', not 'n3'", 2)
        assert "link with n3" in line


async def test_what_the_dialing_server_declines_is_declined_too(peers_log: PeersLog) -> None:
    """It checks the answer to its hello like a hello."""
    n1 = Node("n1", {"n2": NOWHERE})
    async with running(n1):
        n2 = Node("n2", {"n1": n1.address}, declined=lambda link, said: f"not {said['from']}")
        async with running(n2):
            await peers_log.until("not n1", 2)
            assert n2.received.events == []


@pytest.mark.parametrize("wrong", [{"node": "n3"}, {"to": "n3"}, {"link": ROUTE}])
async def test_an_answer_that_is_not_for_us_is_none(wrong: dict[str, str], peers_log: PeersLog) -> None:
    """Another process listens there, which answers every hello."""
    own = {"node": "n1", "to": "n2", "link": RAFT} | wrong

    async def listen(stream: trio.SocketStream) -> None:
        async with stream:
            await answer(stream)
            await stream.send_all(hello(**own))
            await is_closed(stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, listen, [listener])
        n2 = Node("n2", {"n1": Address(*listener.socket.getsockname())})
        async with running(n2):
            await peers_log.until("no raft link with n1")
            assert RAFT not in {event[2] for event in n2.received.events}
        nursery.cancel_scope.cancel()


async def test_routing_peers_have_the_route_link_only() -> None:
    a1 = Node("a1", {}, routes={"b1": NOWHERE})
    async with running(a1), running(b1 := Node("b1", {}, routes={"a1": a1.address})):
        await a1.received.until(is_up(ROUTE))
        await b1.received.until(is_up(ROUTE))
        assert not b1.transport.send("a1", RAFT, "no such link")
        with pytest.raises(UnavailableError, match="a1 is not a member"):
            async with b1.transport.open_snapshot("a1"):
                pytest.fail("a routing peer sends no snapshots")


def test_addresses_off_the_loopback_need_tls() -> None:
    with pytest.raises(ConfigError, match=r"10\.0\.0\.7:1"):
        Node("n1", {"n2": Address("10.0.0.7", 1)})
    with pytest.raises(ConfigError, match=r"10\.0\.0\.7:1"):
        Node("n1", {}, routes={"r1": Address("10.0.0.7", 1)})


def test_a_routing_peer_cannot_have_a_members_name() -> None:
    with pytest.raises(ConfigError, match="n2: both a node of this cluster and a routing peer"):
        Node("n1", {"n2": NOWHERE}, routes={"n2": NOWHERE})


async def test_a_port_in_use_is_a_mistake_in_the_configuration() -> None:
    async with running(Node("n1", {})) as n1:
        with pytest.RaisesGroup(pytest.RaisesExc(ConfigError, match="can't listen for peers on 127")):
            async with running(Node("n2", {}, port=n1.address.port)):
                pytest.fail("two nodes can't have one port")


# --- TLS --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``good`` and ``other`` are two authorities; the certificates in ``old`` have expired."""
    directory = tmp_path_factory.mktemp("certs")
    for name in ("good", "other"):
        authority.init(directory / name, ["n1", "n2", "n3"], {}, 30)
    for file in ("ca.pem", "ca.key"):
        (directory / "old").mkdir(exist_ok=True)
        (directory / "old" / file).write_bytes((directory / "good" / file).read_bytes())
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=40)
    authority.issue(directory / "old", ["n1", "n2"], {}, 30, now=then)
    return directory


def mutual(certs: Path, node: str, *, ca: str = "good", own: str = "good") -> MutualTLS:
    files = certs / own
    return MutualTLS(node, certs / ca / "ca.pem", files / f"{node}.pem", files / f"{node}.key")


async def test_nodes_with_certificates_of_one_authority_are_linked(certs: Path) -> None:
    """Large frames both ways, through TLS 1.3 and with the frames that follow the hello at once."""
    n1 = Node("n1", {"n2": NOWHERE}, security=mutual(certs, "n1"))
    async with running(n1), running(n2 := Node("n2", {"n1": n1.address}, security=mutual(certs, "n2"))):
        await n1.received.until(is_up())
        n1.transport.send("n2", RAFT, b"x" * 3_000_000)
        await n2.received.until(is_up())
        n2.transport.send("n1", RAFT, b"y" * 3_000_000)
        assert await n2.frames(1) == [b"x" * 3_000_000]
        assert await n1.frames(1) == [b"y" * 3_000_000]


@pytest.mark.parametrize(
    ("accepting", "dialing", "accepted_says", "dialed_says"),
    [
        ({}, {"own": "other"}, "certificate verify failed", "unknown ca"),
        ({}, {"ca": "other"}, "unknown ca", "certificate verify failed"),
        ({}, {"own": "old"}, "certificate has expired", "certificate expired"),
        ({"own": "old"}, {}, "certificate expired", "certificate has expired"),
    ],
    ids=["client of another", "server of another", "expired client", "expired server"],
)
async def test_nodes_without_a_good_certificate_are_refused(
    certs: Path,
    accepting: dict[str, str],
    dialing: dict[str, str],
    accepted_says: str,
    dialed_says: str,
    peers_log: PeersLog,
) -> None:
    """The end that detects it refuses; both log the reason."""
    n1 = Node("n1", {"n2": NOWHERE}, security=mutual(certs, "n1", **accepting))
    async with running(n1):
        n2 = Node("n2", {"n1": n1.address}, security=mutual(certs, "n2", **dialing))
        async with running(n2):
            assert accepted_says in (await peers_log.until("dropped"))[0]
            assert dialed_says in (await peers_log.until("no raft link with n1"))[0]
            assert n1.received.events == n2.received.events == []


def client(certs: Path, **files: str) -> ssl.SSLContext:
    """A client that is implemented independently, so that only the server verifies."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(certs / "good" / "ca.pem")
    if files:
        own = certs / files["own"] / files["node"]
        context.load_cert_chain(f"{own}.pem", f"{own}.key")
    return context


async def outcome(n1: Node, context: ssl.SSLContext, said: bytes) -> Any:
    """Return what a client receives for its hello: n1's answer, or the TLS error as text."""
    stream = trio.SSLStream(await dial(n1), context, https_compatible=True)
    try:
        await stream.do_handshake()
        await stream.send_all(said)
        return await answer(stream)
    except trio.BrokenResourceError as error:
        return str(error.__cause__)


async def test_a_name_that_is_not_the_certificates_is_refused(certs: Path) -> None:
    """n3 of the same cluster, with a valid certificate, can't claim to be n2."""
    async with running(Node("n1", {"n2": NOWHERE, "n3": NOWHERE}, security=mutual(certs, "n1"))) as n1:
        n1.transport.notify_refused(lambda _hello: {"settled": b"of the members"}, lambda *_heard: None)
        context = client(certs, own="good", node="n3")
        refusal = await outcome(n1, context, hello(node="n2"))
        assert refusal == {"refused": "says it is 'n2', but its certificate is for n3"}
        assert n1.received.events == []
        assert (await outcome(n1, context, hello(node="n3")))["node"] == "n1"


async def test_a_server_under_another_name_learns_nothing_from_us(certs: Path, peers_log: PeersLog) -> None:
    """n2 dials n1's address and reaches n3: it sends no hello."""
    n3 = Node("n3", {"n2": NOWHERE}, security=mutual(certs, "n3"))
    async with running(n3):
        n2 = Node("n2", {"n1": n3.address}, security=mutual(certs, "n2"))
        async with running(n2):
            await peers_log.until("says it is 'n1', but its certificate is for n3")
            assert "before its hello" in (await peers_log.until("dropped"))[0]
            assert n3.received.events == n2.received.events == []


async def test_a_client_without_a_certificate_is_refused(certs: Path) -> None:
    async with running(Node("n1", {"n2": NOWHERE}, security=mutual(certs, "n1"))) as n1:
        assert "CERTIFICATE_REQUIRED" in await outcome(n1, client(certs), hello())
        assert n1.received.events == []


async def test_no_noise_hides_that_a_certificate_is_refused(certs: Path, peers_log: PeersLog) -> None:
    """Neither a dropped duplicate connection nor a port scan uses up the log limit of refused
    certificates."""
    async with running(Node("n1", {"n2": NOWHERE}, security=mutual(certs, "n1"))) as n1:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            client(certs, own="good", node="n2").wrap_bio(incoming, outgoing).do_handshake()
        client_hello = outgoing.read()
        for number in range(LINES_MAX + 1):
            gone = await dial(n1)
            await gone.send_all(client_hello)
            await gone.send_eof()
            await is_closed(gone)
            scan = await dial(n1)
            await scan.send_all(b"GET / HTTP/1.1\r\n\r\n")
            await is_closed(scan)
            assert len(peers_log.about("peer connection without a hello")) == min(number + 1, LINES_MAX)
        assert "CERTIFICATE_REQUIRED" in await outcome(n1, client(certs), hello())
        (line,) = await peers_log.until("peer connection without a valid certificate from 127.0.0.1:")
        assert line.endswith("dropped: TLS: peer did not return a certificate")
        assert not peers_log.about("with a failed handshake")


async def test_tls_1_2_is_refused(certs: Path) -> None:
    """Even with the right certificate."""
    async with running(Node("n1", {"n2": NOWHERE}, security=mutual(certs, "n1"))) as n1:
        context = client(certs, own="good", node="n2")
        assert (await outcome(n1, context, hello()))["node"] == "n1"
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert "ALERT_PROTOCOL_VERSION" in await outcome(n1, context, hello(epoch=2))


async def test_plaintext_is_refused_where_tls_is_spoken(certs: Path, peers_log: PeersLog) -> None:
    async with running(Node("n1", {"n2": NOWHERE}, security=mutual(certs, "n1"))) as n1:
        stream = await dial(n1)
        await stream.send_all(hello())
        assert "dropped: TLS: " in (await peers_log.until("peer connection"))[0]
        await is_closed(stream)
        assert n1.received.events == []


async def test_whoever_stays_in_the_tls_handshake_is_closed_in_time(certs: Path) -> None:
    limits = Limits(handshake_s=0.01)
    async with running(Node("n1", {"n2": NOWHERE}, security=mutual(certs, "n1"), limits=limits)) as n1:
        await is_closed(await dial(n1))


async def test_reloaded_certificates_are_used_for_the_next_connection(certs: Path, tmp_path: Path) -> None:
    """The new certificates are of an authority that the peer does not trust, so it refuses them."""
    for file in ("ca.pem", "n1.pem", "n1.key"):
        (tmp_path / file).write_bytes((certs / "good" / file).read_bytes())
    security = MutualTLS("n1", tmp_path / "ca.pem", tmp_path / "n1.pem", tmp_path / "n1.key")
    async with running(Node("n1", {"n2": NOWHERE}, security=security)) as n1:
        assert (await outcome(n1, client(certs, own="good", node="n2"), hello()))["node"] == "n1"
        for file in ("ca.pem", "n1.pem", "n1.key"):
            (tmp_path / file).write_bytes((certs / "other" / file).read_bytes())
        security.reload()
        refusal = await outcome(n1, client(certs, own="good", node="n2"), hello(epoch=2))
        assert "CERTIFICATE_VERIFY_FAILED" in refusal


# --- snapshots --------------------------------------------------------------------------------------


async def test_a_snapshot_connection_goes_both_ways_and_ends_with_its_server() -> None:
    async def serve(peer: str, channel: SnapshotChannel) -> None:
        assert peer == "n2"
        while values := await channel.receive():
            for value in values:
                await channel.send(["got", value])

    async with pair() as (n1, n2):
        n1.transport.serve_snapshots(serve)
        with trio.fail_after(SOON):
            async with n2.transport.open_snapshot("n1") as channel:
                got: list[Any] = []
                for part in range(5):
                    await channel.send({"part": part, "data": b"x" * 262_144})
                    got += await channel.receive()
                assert [said["part"] for _, said in got] == list(range(5))
        assert n1.received.kinds() == ["up"], "the links are not concerned"


async def test_a_server_that_has_finished_ends_the_connection() -> None:
    async def serve(peer: str, channel: SnapshotChannel) -> None:
        await channel.send("all")

    async with pair() as (n1, n2):
        n1.transport.serve_snapshots(serve)
        with trio.fail_after(SOON):
            async with n2.transport.open_snapshot("n1") as channel:
                assert await channel.receive() == ["all"]
                assert await channel.receive() == []


@pytest.mark.parametrize("problem", [RemoteProtocolError("a bad hash"), UnavailableError("moved on")])
async def test_a_snapshot_that_fails_costs_its_connection_only(problem: Exception) -> None:
    async def serve(peer: str, channel: SnapshotChannel) -> None:
        await channel.receive()
        raise problem

    async with pair() as (n1, n2):
        n1.transport.serve_snapshots(serve)
        async with n2.transport.open_snapshot("n1") as channel:
            await channel.send("data")
            with trio.fail_after(SOON):
                assert await channel.receive() == []
        n2.transport.send("n1", RAFT, "still here")
        assert await n1.frames(1) == ["still here"]


async def test_frames_of_a_snapshot_are_bounded() -> None:
    seen: list[Exception] = []

    async def serve(peer: str, channel: SnapshotChannel) -> None:
        try:
            await channel.receive()
        except RemoteProtocolError as error:
            seen.append(error)

    async with pair() as (n1, n2):
        n1.transport.serve_snapshots(serve)
        async with n2.transport.open_snapshot("n1") as channel:
            with trio.fail_after(SOON):
                try:
                    await channel.send(b"x" * 2_000_000)
                    assert await channel.receive() == []
                except UnavailableError:
                    pass  # the reset may overtake the end
    assert "a frame of 2000006 bytes" in str(seen)


async def test_a_peer_that_cannot_be_reached_is_unavailable() -> None:
    async with running(Node("n1", {"n2": NOWHERE})) as n1:
        with pytest.raises(UnavailableError, match="no snapshot connection with n2"):
            async with n1.transport.open_snapshot("n2"):
                pytest.fail("nobody is there")
