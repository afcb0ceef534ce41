"""Who makes the load: a C program on libnats if it can be built, else our own client.

Both have the same four measures (``load.c`` has the words) and answer with the same figures.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import trio

from node.client import connect
from node.protocol.positions import StartPosition

SOURCE = Path(__file__).parent / "load.c"
IN_FLIGHT_MAX = 8192


class Program(Protocol):
    """Makes one measurement and ends."""

    name: str

    def measure(
        self, mode: str, server: str, cluster: str, channel: str, count: int, size: int, other: str = ""
    ) -> dict[str, Any]: ...


def choose(kind: str, folder: Path) -> Program:
    """The C program, or why not and the Python one. ``kind``: c, python or auto."""
    if kind != "python":
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            problem = "there is no C compiler"
        else:
            built = folder / "load"
            command = [compiler, "-O2", "-DNATS_HAS_STREAMING", "-o", str(built), str(SOURCE)]
            made = subprocess.run(
                [*command, "-lnats", "-lpthread"], capture_output=True, text=True, check=False
            )
            if made.returncode == 0:
                return CProgram(built)
            problem = "load.c can't be built (Debian: libnats-dev)"
        if kind == "c":
            raise SystemExit(f"bench: {problem}")
        print(f"bench: {problem}; the Python client makes the load, and limits it", file=sys.stderr)
    return PythonProgram()


class CProgram:
    """bench/load.c."""

    name = "C client, libnats"

    def __init__(self, path: Path) -> None:
        self._path = path

    def measure(
        self, mode: str, server: str, cluster: str, channel: str, count: int, size: int, other: str = ""
    ) -> dict[str, Any]:
        words = [mode, f"nats://{server}", cluster, channel, str(count), str(size)]
        if other:
            words.append(f"nats://{other}")
        done = subprocess.run([self._path, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"bench: {mode}: {done.stderr.strip()}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


class PythonProgram:
    """Our own client, in this process."""

    name = "Python client"

    def measure(
        self, mode: str, server: str, cluster: str, channel: str, count: int, size: int, other: str = ""
    ) -> dict[str, Any]:
        return trio.run(_measure, mode, server, cluster, channel, count, size, other)


async def _measure(
    mode: str, server: str, cluster: str, channel: str, count: int, size: int, other: str
) -> dict[str, Any]:
    data = b"." * size
    async with connect([server], cluster, f"bench-{mode}") as client:
        if mode == "latency":
            return await _latency(client, channel, count, data)
        if mode == "publish":
            began = trio.current_time()
            await _publish(client, channel, count, data)
            return _throughput(count, began)
        if mode == "replay":
            began = trio.current_time()
            done = await _receive(client, channel, count)
            await done.wait()
            return _throughput(count, began)
        async with connect([other], cluster, "bench-receive") as receiver:
            done = await _receive(receiver, channel, count)
            began = trio.current_time()
            await _publish(client, channel, count, data)
            await done.wait()
            return _throughput(count, began)


async def _latency(client: Any, channel: str, count: int, data: bytes) -> dict[str, Any]:
    times = []
    for _ in range(count):
        began = trio.current_time()
        await client.publish(channel, data)
        times.append((trio.current_time() - began) * 1000)
    times.sort()
    p50, p99, worst = times[count // 2], times[count * 99 // 100], times[-1]
    return {"count": count, "p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "max_ms": round(worst, 3)}


async def _publish(client: Any, channel: str, count: int, data: bytes) -> None:
    stored = 0
    changed = trio.Event()

    def answered(error: str) -> None:
        nonlocal stored
        if error:
            raise SystemExit(f"bench: publish: {error}")
        stored += 1
        changed.set()

    for number in range(count):
        while number - stored >= IN_FLIGHT_MAX:
            changed = trio.Event()
            await changed.wait()
        client.publish_async(channel, data, answered)
        if number % 256 == 0:
            await trio.lowlevel.checkpoint()
    while stored < count:
        changed = trio.Event()
        await changed.wait()


async def _receive(client: Any, channel: str, count: int) -> trio.Event:
    done = trio.Event()
    received = 0

    def receive(_message: Any) -> None:
        nonlocal received
        received += 1
        if received == count:
            done.set()

    await client.subscribe(channel, receive, start=StartPosition.FIRST, max_in_flight=IN_FLIGHT_MAX)
    return done


def _throughput(count: int, began: float) -> dict[str, Any]:
    seconds = trio.current_time() - began
    return {"count": count, "seconds": round(seconds, 3), "per_s": round(count / seconds)}
