"""One connection: the frames of one write, frames after the close, and the socket options."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from node.errors import RemoteProtocolError, UnavailableError
from node.protocol.peer import encode_frame
from node.raft.connection import (
    _STEP_S,
    Connection,
    NoHelloError,
    SnapshotChannel,
    reason,
    receive_hello,
    tune,
)
from node.raft.links import INSTANCE_BYTES, Hello, Limits

HELLO = Hello("raft", "n2", "n1", b"i" * INSTANCE_BYTES, 1, {})
OUTBOX = 1 << 20


class FakeStream:
    """Reads what the test feeds, records what was written, and waits where the test wants."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.writable = trio.Event()
        self.writable.set()
        self._feed, self._fed = trio.open_memory_channel[Callable[[], bytes]](10)

    def feed(self, read: Callable[[], bytes]) -> None:
        self._feed.send_nowait(read)

    async def receive_some(self, max_bytes: int) -> bytes:
        return (await self._fed.receive())()

    async def send_all(self, data: bytes) -> None:
        self.written.append(data)
        await self.writable.wait()


def connection() -> tuple[Connection, FakeStream, list[Any]]:
    stream = FakeStream()
    return Connection(stream, HELLO, "127.0.0.1:1"), stream, []


async def test_frames_leave_together_up_to_the_limit_of_a_write() -> None:
    """Frames queued during a write are sent with the next; a frame longer than the limit is sent alone."""
    link, stream, taken = connection()
    stream.writable = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, Limits(write_bytes=1000), taken.extend)
        assert link.push(b"a" * 10, OUTBOX)
        await trio.testing.wait_all_tasks_blocked()
        for frame in (b"b" * 400, b"c" * 600, b"d" * 1, b"e" * 3000, b"f" * 2):
            assert link.push(frame, OUTBOX)
        assert link.queued_bytes == 4013, "what is being written counts too"
        stream.writable.set()
        await trio.testing.wait_all_tasks_blocked()
        assert stream.written == [b"a" * 10, b"b" * 400 + b"c" * 600, b"d", b"e" * 3000, b"f" * 2]
        assert link.queued_bytes == 0
        link.close("enough")


@pytest.mark.parametrize(("kind", "steps"), [("raft", [70]), ("route", [10] * 7), ("foreign", [10] * 7)])
async def test_messages_for_clients_are_taken_in_steps(
    kind: str, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One frame may concern a thousand clients, or 250 items of interest. A raft link passes on one whole
    read."""
    stream, taken = FakeStream(), [0]
    link = Connection(stream, replace(HELLO, link=kind), "127.0.0.1:1")
    stream.feed(lambda: b"".join(encode_frame(number) for number in range(70)))
    now = 0.0
    monkeypatch.setattr("node.raft.connection.time.monotonic", lambda: now)
    turn = Connection._yield

    async def counted(link: Connection) -> None:
        taken.append(0)
        await turn(link)

    monkeypatch.setattr(Connection, "_yield", counted)

    def take(values: list[Any]) -> None:
        nonlocal now
        now += len(values) * _STEP_S / 9.5
        taken[-1] += len(values)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, Limits(), take)
        await trio.testing.wait_all_tasks_blocked()
        assert taken == steps
        link.close("enough")


@pytest.mark.parametrize("ends", [True, False])
async def test_between_frames_a_link_may_end_or_pause(ends: bool) -> None:
    stream, taken = FakeStream(), list[int]()
    link = Connection(stream, replace(HELLO, link="route"), "127.0.0.1:1")

    def take(values: list[Any]) -> None:
        taken.extend(values)
        link.close("replaced") if ends else link.pause_reading()

    stream.feed(lambda: b"".join(encode_frame(number) for number in range(70)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, Limits(), take)
        await trio.testing.wait_all_tasks_blocked()
        assert taken == [0]
        link.resume_reading()
        await trio.testing.wait_all_tasks_blocked()
        assert taken == ([0] if ends else [0, 1])
        link.close("enough")


async def test_what_comes_in_after_it_was_closed_does_not_count() -> None:
    """The step that replaces a connection may already have given bytes to its reader."""
    link, stream, taken = connection()

    def read() -> bytes:
        link.close("replaced")
        return encode_frame("too late")

    stream.feed(lambda: encode_frame("in time"))
    stream.feed(read)
    await link.run(Limits(), taken.extend)
    assert taken == ["in time"]
    assert link.closed == "replaced"
    assert not link.push(b"frame", OUTBOX)


async def test_the_first_reason_stands() -> None:
    link, stream, taken = connection()
    stream.feed(lambda: b"")
    await link.run(Limits(), taken.extend)
    link.close("something else")
    assert link.closed == "closed by the peer"


async def test_frames_ahead_of_garbage_are_handed_over() -> None:
    link, stream, taken = connection()
    stream.feed(lambda: encode_frame(1) + encode_frame(2) + b"\xff\xff\xff\xff")
    await link.run(Limits(), taken.extend)
    assert taken == [1, 2]
    assert "a frame of 4294967295 bytes" in str(link.closed)


async def test_a_whole_read_is_handed_over_at_once() -> None:
    """One batch, one iteration."""
    link, stream, _ = connection()
    batches: list[list[Any]] = []
    stream.feed(lambda: b"".join(encode_frame(number) for number in range(500)))
    stream.feed(lambda: encode_frame("x")[:-1])
    stream.feed(lambda: b"")
    await link.run(Limits(), batches.append)
    assert batches == [list(range(500))]


async def test_a_broken_stream_ends_it_with_the_reason() -> None:
    for where in ("read", "write"):
        link, stream, taken = connection()

        def fail() -> bytes:
            raise trio.BrokenResourceError from OSError(errno.ETIMEDOUT, "Connection timed out")

        async def fail_writing(data: bytes, fail: Callable[[], bytes] = fail) -> None:
            fail()

        if where == "read":
            stream.feed(fail)
        else:
            stream.send_all = fail_writing  # type: ignore[method-assign]
            link.push(b"frame", OUTBOX)
        with trio.fail_after(5):
            await link.run(Limits(), taken.extend)
        assert "Connection timed out" in str(link.closed)


async def test_an_outbox_is_bounded() -> None:
    link, _, _ = connection()
    assert link.push(b"x" * 60, 100)
    assert link.push(b"x" * 40, 100)
    assert not link.push(b"x", 100)
    assert link.closed == "the peer does not read: 100 bytes are queued"


async def test_a_hello_is_read_without_what_follows_it() -> None:
    """The next frame has other limits and another reader."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, encode_frame({"node": "n2"}) + b"rest")
        assert await receive_hello(ours) == {"node": "n2"}
        assert await ours.receive_some(100) == b"rest"
    await theirs.aclose()
    with pytest.raises(NoHelloError, match="before its hello"):
        await receive_hello(ours)


def test_sockets_send_at_once_and_notice_dead_hosts() -> None:
    """TCP_NODELAY is set; unacknowledged data and keepalives end the connection after three seconds."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sock,
    ):
        tune(trio.socket.from_stdlib_socket(sock), 3.0)
        options = {
            "TCP_NODELAY": 1,
            "TCP_USER_TIMEOUT": 3000,
            "TCP_KEEPIDLE": 1,
            "TCP_KEEPINTVL": 1,
            "TCP_KEEPCNT": 3,
        }
        assert {
            name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in options
        } == options
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


async def test_a_snapshot_channel_reports_what_is_lost_and_what_is_wrong() -> None:
    stream = FakeStream()
    channel = SnapshotChannel("n2", stream, Limits(snapshot_frame_bytes_max=100))
    stream.feed(lambda: encode_frame("good") + b"\xff\xff\xff\xff")
    assert await channel.receive() == ["good"]
    with pytest.raises(RemoteProtocolError):
        await channel.receive()

    def reset() -> bytes:
        raise trio.BrokenResourceError from ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    stream = FakeStream()
    stream.feed(reset)
    with pytest.raises(UnavailableError, match=r"snapshot connection with n2: .*reset by peer"):
        await SnapshotChannel("n2", stream, Limits()).receive()


def test_the_reason_is_the_first_cause() -> None:
    """The first cause of the chain is reported; of several attempts the first one."""
    refused = OSError(errno.ECONNREFUSED, "refused")
    error = trio.BrokenResourceError("all attempts failed")
    error.__cause__ = ExceptionGroup("all attempts failed", [refused, OSError("another")])
    assert reason(error) == str(refused)
    assert reason(trio.ClosedResourceError()) == "ClosedResourceError"
    assert reason(ssl.SSLError(1, "[SSL] unexplained")) == "[SSL] unexplained"
