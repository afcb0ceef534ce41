"""A client that says, byte for byte, what programs written with stan.go 0.10.4 say; README.md has the words.

The Go client is a library of a language whose packages can't be had everywhere, and has the most users. Its
conversation with the server is replayed here: `go_frames.py` has the bytes, `go_nats.py` the
connection, this the session: inboxes, defaults, time-outs, pings, and what it does when something is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import go_frames as frames
from go_nats import Connection, NatsError, NoRespondersError

REQUEST_S = 2.0
ACK_S = 30.0
IN_FLIGHT_MAX = 16_384
PING_INTERVAL_S, PING_MAX_OUT = 5, 88
MAX_IN_FLIGHT, ACK_WAIT_S = 1024, 30
TRY_AGAIN_S = 0.05

NEW, LAST, TIME, SEQUENCE, FIRST = range(5)
STARTS = {
    "new": NEW,
    "last": LAST,
    "first": FIRST,
    "all": FIRST,
    "sequence": SEQUENCE,
    "time": TIME,
    "delta": TIME,
}


def say(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class StanError(Exception):
    """As the application is told it."""


@dataclass
class Sub:
    """A subscription of a session."""

    channel: str
    inbox: str
    sid: int
    is_manual: bool
    ack_inbox: str = ""
    early: list[bytes] = field(default_factory=list)
    """Messages that came before the application had its subscription: they wait for that."""


Taker = Callable[[Sub, dict[int, Any]], None]


class Session:
    """What ``stan.Connect`` returns."""

    def __init__(self, nats: Connection, client: str) -> None:
        self.nats = nats
        self.client = client
        self.conn_id = frames.new_nuid()
        self.ack_timeout_s = ACK_S
        self.is_closed = False
        self._guids = frames.Nuid()
        self._subjects: dict[int, str] = {}
        self._acks: dict[str, Callable[[str], None]] = {}
        self._room = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._pings_out = 0
        self._pinging: asyncio.Task[None] | None = None

    async def open(self, cluster: str, interval_s: int, max_out: int, timeout_s: float) -> None:
        """Raises StanError."""
        heartbeats = frames.new_inbox()
        self.nats.subscribe(heartbeats, lambda reply, _: self._send(reply, b""))
        ping_inbox = frames.new_inbox()
        ping_sid = self.nats.subscribe(ping_inbox, self._pinged)
        request = frames.connect_request(self.client, heartbeats, self.conn_id, interval_s, max_out)
        answer = frames.fields(
            await self._request(
                f"_STAN.discover.{cluster}", request, "stan: connect request timeout", timeout_s
            )
        )
        if error := frames.text(answer, 5):
            raise StanError(error)
        self._subjects = {
            field: frames.text(answer, field) for field in (1, 2, 3, 4, 6, 7)
        }  # publish, subscribe, unsubscribe, close, close a subscription, ping
        self._ack_subject = f"_STAN.acks.{frames.new_nuid()}"
        self.nats.subscribe(self._ack_subject, self._published)
        interval_s = frames.number(answer, 8)
        if frames.number(answer, 10) >= 1 and interval_s:
            self._pinging = asyncio.create_task(self._ping(ping_inbox, interval_s, frames.number(answer, 9)))
        else:
            self.nats.unsubscribe(ping_sid)

    async def close(self) -> None:
        """Raises StanError."""
        if self.is_closed:
            return
        self._end("stan: connection closed")
        request = frames.close_request(self.client)
        answer = await self._request(self._subjects[4], request, "stan: close request timeout")
        await self.nats.close()
        if error := frames.text(frames.fields(answer), 1):
            raise StanError(error)

    def _end(self, error: str) -> None:
        """Whoever waits is told; the connection is closed next, so nothing is unsubscribed."""
        self.is_closed = True
        if self._pinging is not None and self._pinging is not asyncio.current_task():
            self._pinging.cancel()
        for answered in list(self._acks.values()):
            answered(error)

    async def _lose(self, error: str) -> None:
        if not self.is_closed:
            self._end(error)
            say(event="lost", error=error)
            await self.nats.close()

    async def _request(self, subject: str, payload: bytes, late: str, timeout_s: float = REQUEST_S) -> bytes:
        try:
            return await self.nats.request(subject, payload, timeout_s)
        except (TimeoutError, NoRespondersError):
            raise StanError(late) from None
        except NatsError as error:
            raise StanError(str(error)) from None

    def _send(self, subject: str, payload: bytes) -> None:
        with contextlib.suppress(NatsError):  # no connection now: the server will ask, or send, again
            self.nats.publish(subject, payload)

    # --- pings ------------------------------------------------------------------------------------

    async def _ping(self, inbox: str, interval_s: int, max_out: int) -> None:
        pause_s = interval_s if interval_s > 0 else -interval_s / 1000  # as its tests say milliseconds
        while True:
            await asyncio.sleep(pause_s)
            self._pings_out += 1
            if self._pings_out > max_out:
                await self._lose("stan: connection lost due to PING failure")
                return
            with contextlib.suppress(NatsError):
                self.nats.publish(self._subjects[7], frames.ping(self.conn_id), inbox)

    def _pinged(self, _: str, payload: bytes) -> None:
        error = frames.text(frames.fields(payload), 1)
        if error:
            self._losing = asyncio.create_task(self._lose(error))
        else:
            self._pings_out = 0

    # --- publishing -------------------------------------------------------------------------------

    async def publish(self, channel: str, data: bytes, answered: Callable[[str], None]) -> str:
        """``answered`` is told the error, empty if there is none. Returns the guid. Raises StanError."""
        if self.is_closed:
            raise StanError("stan: connection closed")
        await self._room.acquire()
        guid = self._guids.next()

        def settle(error: str) -> None:
            if self._acks.pop(guid, None) is not None:
                timer.cancel()
                self._room.release()
                answered(error)

        timer = asyncio.get_running_loop().call_later(self.ack_timeout_s, settle, "stan: publish ack timeout")
        self._acks[guid] = settle
        payload = frames.publish(self.client, guid, channel, data, self.conn_id)
        try:
            self.nats.publish(f"{self._subjects[1]}.{channel}", payload, self._ack_subject)
        except NatsError as error:
            self._acks.pop(guid)
            timer.cancel()
            self._room.release()
            raise StanError(str(error)) from None
        return guid

    def _published(self, _: str, payload: bytes) -> None:
        answer = frames.fields(payload)
        settle = self._acks.get(frames.text(answer, 1))
        if settle is not None:
            settle(frames.text(answer, 2))

    # --- subscribing ------------------------------------------------------------------------------

    async def subscribe(
        self, channel: str, take: Callable[[Sub, dict[int, Any]], None], **options: Any
    ) -> Sub:
        """Raises StanError."""
        if self.is_closed:
            raise StanError("stan: connection closed")
        is_manual = options.pop("is_manual")
        inbox = frames.new_inbox()
        sub = Sub(channel, inbox, 0, is_manual)
        sub.sid = self.nats.subscribe(inbox, lambda _, payload: self._take(sub, payload, take))
        request = frames.subscription_request(self.client, channel, inbox, **options)
        late = "stan: subscribe request timeout"
        try:
            payload = await self._request(self._subjects[2], request, late)
            answer = frames.fields(payload)
            if error := frames.text(answer, 3):
                raise StanError(error)
        except StanError as error:
            self.nats.unsubscribe(sub.sid)
            if str(error) == late:  # perhaps it came about: it is known by this inbox
                self._send(self._subjects[6], frames.end_request(self.client, channel, inbox))
            raise
        sub.ack_inbox = frames.text(answer, 2)
        for message in sub.early:
            self._take(sub, message, take)
        return sub

    def _take(self, sub: Sub, payload: bytes, take: Taker) -> None:
        if not sub.ack_inbox:
            sub.early.append(payload)
            return
        message = frames.fields(payload)
        take(sub, message)
        if not sub.is_manual:
            self.ack(sub, frames.text(message, 2), frames.number(message, 1))

    def ack(self, sub: Sub, channel: str, seq: int) -> None:
        self._send(sub.ack_inbox, frames.ack(channel, seq))

    async def end(self, sub: Sub, *, is_close: bool) -> None:
        """Raises StanError."""
        self.nats.unsubscribe(sub.sid)
        if self.is_closed:
            raise StanError("stan: connection closed")
        late = "stan: close request timeout" if is_close else "stan: unsubscribe request timeout"
        request = frames.end_request(self.client, sub.channel, sub.ack_inbox)
        answer = await self._request(self._subjects[6 if is_close else 3], request, late)
        if error := frames.text(frames.fields(answer), 3):
            raise StanError(error)


class Program:
    """The application."""

    def __init__(self) -> None:
        self.session: Session
        self.subs: dict[str, Sub] = {}

    async def connect(self, do: dict[str, Any]) -> dict[str, Any]:
        nats = Connection(do["urls"].split(","), do["client"], pause_s=0.25)
        await nats.connect()
        self.session = Session(nats, do["client"])
        self.session.ack_timeout_s = do.get("ack_timeout_ms", ACK_S * 1000) / 1000
        try:
            await self.session.open(
                do["cluster"],
                do.get("ping_s", PING_INTERVAL_S),
                do.get("ping_max", PING_MAX_OUT),
                do.get("timeout_ms", REQUEST_S * 1000) / 1000,
            )
        except StanError:
            await nats.close()
            raise
        return {}

    async def publish(self, do: dict[str, Any]) -> dict[str, Any]:
        first, count, rate = do["first"], do["count"], do.get("rate", 0)
        clock = asyncio.get_running_loop().time
        began = clock()
        acked: list[int] = []
        failed: list[tuple[int, str]] = []
        waiting: list[asyncio.Future[None]] = []
        for n in range(first, first + count):
            if rate:
                await asyncio.sleep(max(0.0, began + (n - first) / rate - clock()))
            while not (self.session.nats.is_connected or self.session.is_closed):  # noqa: ASYNC110
                await asyncio.sleep(TRY_AGAIN_S)
            done = asyncio.get_running_loop().create_future()

            def answered(error: str, n: int = n, done: asyncio.Future[None] = done) -> None:
                failed.append((n, error)) if error else acked.append(n)
                done.set_result(None)

            data = f"{do['prefix']}{n}".ljust(do.get("size", 0), ".").encode()
            try:
                await self.session.publish(do["channel"], data, answered)
            except StanError as error:
                failed.append((n, str(error)))
                continue
            if do.get("async"):
                waiting.append(done)
            else:
                await done
        for done in waiting:
            await done
        return {"acked": acked, "failed": failed}

    async def subscribe(self, do: dict[str, Any]) -> dict[str, Any]:
        name, start = do["sub"], do.get("start", "new")
        options: dict[str, Any] = {
            "is_manual": bool(do.get("manual")),
            "queue": do.get("queue", ""),
            "durable": do.get("durable", ""),
            "max_in_flight": do.get("max_in_flight", MAX_IN_FLIGHT),
            "ack_wait_s": do.get("ack_wait_s", ACK_WAIT_S),
            "position": STARTS[start],
            "seq": do["seq"] if start == "sequence" else 0,
        }
        if start == "time":
            options["delta_ns"] = time.time_ns() - do["time_ms"] * 1_000_000
        elif start == "delta":
            options["delta_ns"] = do["delta_ms"] * 1_000_000

        def take(sub: Sub, message: dict[int, Any]) -> None:
            say(
                event="message",
                sub=name,
                seq=frames.number(message, 1),
                data=frames.text(message, 4),
                redelivered=bool(frames.number(message, 6)),
                count=frames.number(message, 7),
                ts=frames.number(message, 5),
            )

        self.subs[name] = await self.session.subscribe(do["channel"], take, **options)
        return {}

    async def ack(self, do: dict[str, Any]) -> dict[str, Any]:
        sub = self.subs[do["sub"]]
        self.session.ack(sub, sub.channel, do["seq"])
        return {}

    async def unsubscribe(self, do: dict[str, Any]) -> dict[str, Any]:
        await self.session.end(self.subs[do["sub"]], is_close=False)
        return {}

    async def close_sub(self, do: dict[str, Any]) -> dict[str, Any]:
        await self.session.end(self.subs[do["sub"]], is_close=True)
        return {}

    async def close(self, do: dict[str, Any]) -> dict[str, Any]:
        await self.session.close()
        return {}

    async def answer(self, do: dict[str, Any]) -> None:
        try:
            say(id=do["id"], **await getattr(self, do["do"])(do))
        except (StanError, NatsError) as error:
            say(id=do["id"], error=str(error))

    async def run(self) -> None:
        requests = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(requests), sys.stdin
        )
        publishing = set()
        while line := await requests.readline():
            do = json.loads(line)
            if do["do"] == "publish":
                publishing.add(asyncio.create_task(self.answer(do)))
            else:
                await self.answer(do)


asyncio.run(Program().run())
