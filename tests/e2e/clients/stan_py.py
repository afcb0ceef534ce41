"""asyncio-nats-streaming, driven over standard input and output; README.md has the words."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from nats.aio.client import Client as Nats
from stan.aio.client import Client as Stan

TRY_AGAIN_S = 0.05
OPTIONS = {
    "queue": "queue",
    "durable": "durable_name",
    "max_in_flight": "max_inflight",
    "ack_wait_s": "ack_wait",
}
STARTS = {
    "new": {"start_at": "new_only"},
    "last": {"start_at": "last_received"},
    "first": {"start_at": "first"},
    "all": {"deliver_all_available": True},
}


def say(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def on_error(error: Exception) -> None:
    say(event="error", error=f"{type(error).__name__}: {error}")


async def on_lost(error: Exception) -> None:
    say(event="lost", error=str(error))


class Program:
    def __init__(self) -> None:
        self.nats = Nats()
        self.stan = Stan()
        self.ack_timeout_s = 30.0
        self.subs: dict[str, Any] = {}
        self.messages: dict[tuple[str, int], Any] = {}

    async def connect(self, do: dict[str, Any]) -> dict[str, Any]:
        self.ack_timeout_s = do.get("ack_timeout_ms", 30000) / 1000
        await self.nats.connect(
            servers=do["urls"].split(","),
            dont_randomize=True,
            reconnect_time_wait=0.25,
            max_reconnect_attempts=1000,
            error_cb=on_error,
            name=do["client"],
        )
        options = {}
        if "ping_s" in do:
            options = {"ping_interval": do["ping_s"], "ping_max_out": do["ping_max"]}
        await self.stan.connect(
            do["cluster"],
            do["client"],
            nats=self.nats,
            connect_timeout=do.get("timeout_ms", 2000) / 1000,
            conn_lost_cb=on_lost,
            **options,
        )
        return {}

    async def publish(self, do: dict[str, Any]) -> dict[str, Any]:
        first, count, rate = do["first"], do["count"], do.get("rate", 0)
        clock = asyncio.get_running_loop().time
        began = clock()
        acked: list[int] = []
        failed: list[tuple[int, str]] = []
        answered = asyncio.Semaphore(0)
        for n in range(first, first + count):
            if rate:
                await asyncio.sleep(max(0.0, began + (n - first) / rate - clock()))
            data = f"{do['prefix']}{n}".ljust(do.get("size", 0), ".").encode()

            async def on_ack(ack: Any, n: int = n) -> None:
                failed.append((n, ack.error)) if ack.error else acked.append(n)
                answered.release()

            while not self.nats.is_connected:  # noqa: ASYNC110 - the library has no event to wait for
                await asyncio.sleep(TRY_AGAIN_S)
            try:
                if do.get("async"):
                    await self.stan.publish(do["channel"], data, ack_handler=on_ack)
                else:
                    await on_ack(await self.stan.publish(do["channel"], data, ack_wait=self.ack_timeout_s))
            except Exception as error:
                failed.append((n, f"{type(error).__name__}: {error}"))
                answered.release()
        try:
            for _ in range(count):
                await asyncio.wait_for(answered.acquire(), self.ack_timeout_s)
        except TimeoutError:
            known = {*acked, *(n for n, _ in failed)}
            failed += [(n, "no answer") for n in range(first, first + count) if n not in known]
        return {"acked": acked, "failed": failed}

    async def subscribe(self, do: dict[str, Any]) -> dict[str, Any]:
        name = do["sub"]

        async def on_message(message: Any) -> None:
            if do.get("manual"):
                self.messages[name, message.seq] = message
            say(
                event="message",
                sub=name,
                seq=message.seq,
                data=message.data.decode(),
                redelivered=message.proto.redelivered,
                count=getattr(message.proto, "redeliveryCount", None),
                ts=message.timestamp,
            )

        options: dict[str, Any] = dict(STARTS.get(do.get("start", ""), {}))
        if do.get("start") == "sequence":
            options = {"start_at": "sequence", "sequence": do["seq"]}
        elif do.get("start") == "time":
            options = {"start_at": "time", "time": do["time_ms"] / 1000}
        for key, option in (
            ("queue", "queue"),
            ("durable", "durable_name"),
            ("max_in_flight", "max_inflight"),
        ):
            if key in do:
                options[option] = do[key]
        if "ack_wait_s" in do:
            options["ack_wait"] = do["ack_wait_s"]
        self.subs[name] = await self.stan.subscribe(
            do["channel"], cb=on_message, error_cb=on_error, manual_acks=do.get("manual", False), **options
        )
        return {}

    async def ack(self, do: dict[str, Any]) -> dict[str, Any]:
        await self.stan.ack(self.messages[do["sub"], do["seq"]])
        return {}

    async def unsubscribe(self, do: dict[str, Any]) -> dict[str, Any]:
        await self.subs.pop(do["sub"]).unsubscribe()
        return {}

    async def close_sub(self, do: dict[str, Any]) -> dict[str, Any]:
        await self.subs.pop(do["sub"]).close()
        return {}

    async def close(self, do: dict[str, Any]) -> dict[str, Any]:
        await self.stan.close()
        await self.nats.close()
        return {}

    async def answer(self, do: dict[str, Any]) -> None:
        try:
            say(id=do["id"], **await getattr(self, do["do"])(do))
        except Exception as error:
            say(id=do["id"], error=str(error) or type(error).__name__)

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
