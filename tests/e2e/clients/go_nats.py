"""A connection as nats.go makes it: strict about what may come when, and made again when it breaks.

Servers are tried in turn, the one that broke last; a pause comes when all have been tried. What is published
while there is no connection fails (stan.go sets no buffer for it). Subscriptions are made again with
their old sids; requests in flight stay unanswered until their time is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import traceback
from collections.abc import Callable

import go_frames as frames

TIMEOUT_S = 2.0
PING_S = 120.0
READ_BYTES = 1 << 20

Handler = Callable[[str, bytes], None]
"""Told the reply subject and the payload."""


class NatsError(Exception):
    """As nats.go has it."""


class NoRespondersError(NatsError):
    """Nobody listens to the subject of a request."""


class Connection:
    """One NATS connection at a time.

    Args:
        urls: where to try, in this order.
        name: as CONNECT says it.
        pause_s: when every server has been tried.
    """

    def __init__(self, urls: list[str], name: str, pause_s: float) -> None:
        self._given = [url.removeprefix("nats://") for url in urls]
        self._pool = list(self._given)
        self._name = name
        self._pause_s = pause_s
        self._sids = itertools.count(1)
        self._subs: dict[int, tuple[str, Handler]] = {}
        self._responses = f"{frames.new_inbox()}."
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._has_responses = False
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self.is_connected = False
        self.errors: list[str] = []

    # --- what stan.go calls -----------------------------------------------------------------------

    async def connect(self) -> None:
        """Raises NatsError: no server would have us."""
        for _ in range(len(self._pool)):
            reader = await self._try(self._pool[0])
            if reader is not None:
                self._task = asyncio.create_task(self._run(reader))
                self._task.add_done_callback(_must_not_fail)
                return
            self._pool.append(self._pool.pop(0))
        raise NatsError("nats: no servers available for connection")

    def subscribe(self, subject: str, handler: Handler) -> int:
        sid = next(self._sids)
        self._subs[sid] = subject, handler
        if self.is_connected:
            self._write(frames.sub(subject, sid))
        return sid

    def unsubscribe(self, sid: int) -> None:
        if self._subs.pop(sid, None) and self.is_connected:
            self._write(frames.unsub(sid))

    def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Raises NatsError: there is no connection now."""
        if not self.is_connected:
            raise NatsError("nats: outbound buffer limit exceeded")
        self._write(frames.pub(subject, payload, reply))

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        """Raises TimeoutError, NoRespondersError, NatsError."""
        if not self._has_responses:
            self._has_responses = True
            self.subscribe(f"{self._responses}*", _unused)
        reply = self._responses + frames.response_token()
        answer = self._waiting[reply] = asyncio.get_running_loop().create_future()
        try:
            self.publish(subject, payload, reply)
            return await asyncio.wait_for(answer, timeout_s)
        finally:
            del self._waiting[reply]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._writer is not None:
            self._writer.close()
        self.is_connected = False

    # --- the connection ---------------------------------------------------------------------------

    async def _try(self, address: str) -> asyncio.StreamReader | None:
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, self._writer = await asyncio.open_connection(host, int(port), limit=READ_BYTES)
                await self._handshake(reader)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            if self._writer is not None:
                self._writer.close()
            return None
        self.is_connected = True
        for sid, (subject, _) in self._subs.items():
            self._write(frames.sub(subject, sid))
        return reader

    async def _handshake(self, reader: asyncio.StreamReader) -> None:
        """INFO comes first; what follows PING is PONG and nothing else."""
        line = await _line(reader)
        if not line.startswith("INFO "):
            raise ConnectionError(f"nats: expected INFO, got {line!r}")
        info = json.loads(line[5:])
        self._learn(info)
        self._write(frames.connect(self._name, headers=bool(info.get("headers"))))
        line = await _line(reader)
        if line != "PONG":
            raise ConnectionError(f"nats: expected 'PONG', got {line!r}")

    async def _run(self, reader: asyncio.StreamReader) -> None:
        while True:
            pinging = asyncio.create_task(self._ping())
            try:
                await self._read(reader)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                pinging.cancel()
                self.is_connected = False
                if self._writer is not None:
                    self._writer.close()
            reader = await self._reconnect()

    async def _reconnect(self) -> asyncio.StreamReader:
        for tried in itertools.count(1):
            self._pool.append(self._pool.pop(0))
            if tried % len(self._pool) == 0:
                await asyncio.sleep(self._pause_s)
            reader = await self._try(self._pool[0])
            if reader is not None:
                return reader
        raise AssertionError("never tired")

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            self._write(frames.PING)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            line = await _line(reader)
            operation, _, rest = line.partition(" ")
            match operation:
                case "MSG":
                    await self._message(reader, rest.split(), 0)
                case "HMSG":
                    words = rest.split()
                    await self._message(reader, words, int(words.pop(-2)))
                case "PING":
                    self._write(frames.PONG)
                case "PONG":
                    pass
                case "INFO":
                    self._learn(json.loads(rest))
                case "-ERR":
                    self.errors.append(rest)
                    raise ConnectionError(rest)
                case _:
                    raise ConnectionError(f"nats: {line!r} is no operation")

    async def _message(self, reader: asyncio.StreamReader, words: list[str], head_bytes: int) -> None:
        subject, sid, *reply, size = words
        raw = await reader.readexactly(int(size))
        if await reader.readexactly(2) != b"\r\n":
            raise ConnectionError("nats: a payload does not end where it should")
        head, payload = raw[:head_bytes], raw[head_bytes:]
        waiting = self._waiting.get(subject)
        if waiting is not None:
            if not waiting.done():
                if head.startswith(b"NATS/1.0 503"):
                    waiting.set_exception(NoRespondersError("nats: no responders available for request"))
                else:
                    waiting.set_result(payload)
        elif not head and int(sid) in self._subs:
            self._subs[int(sid)][1](reply[0] if reply else "", payload)

    def _learn(self, info: dict[str, object]) -> None:
        """The newest list takes the place of what was learnt before."""
        urls = info.get("connect_urls")
        if not isinstance(urls, list) or not urls:
            return
        current = self._pool[0]
        kept = [url for url in self._pool if url in self._given or url in urls or url == current]
        self._pool = kept + [url for url in urls if url not in kept]

    def _write(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)


async def _line(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\r\n"))[:-2].decode()


def _must_not_fail(task: asyncio.Task[None]) -> None:
    """A mistake of ours, or a message that is none: the program ends, and says why."""
    if not task.cancelled() and task.exception() is not None:
        traceback.print_exception(task.exception())
        os._exit(1)


def _unused(reply: str, payload: bytes) -> None:
    """What nobody waits for any more."""
