"""Measure a three-node cluster on this machine, with fsync, and print what was found as JSON.

The nodes run from ``cluster-configs/three-node.yaml``, each with a directory of its own below --dir (by
default a temporary one: see that it is on a disk that you mean to measure). One client publishes to
the leader; where messages are delivered meanwhile, their subscriber is connected to a follower.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio

from bench.programs import Program, choose
from node import __version__
from node.demo.cluster import Cluster

TARGETS = {"deliver_per_s": 15_000, "latency_p50_ms": 3.0, "leader_rss_anon_mib": 250.0}


def main() -> int:
    args = arguments().parse_args()
    with folder_below(args.dir) as folder:
        found = trio.run(bench, args, folder)
    text = json.dumps(found, indent=2) + "\n"
    if args.json:
        args.json.write_text(text)
    sys.stdout.write(text)
    return 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--messages", type=int, default=100_000, metavar="N", help="for each throughput (100000)"
    )
    parser.add_argument("--publishes", type=int, default=2_000, metavar="N", help="for the latency (2000)")
    parser.add_argument(
        "--repeat", type=int, default=3, metavar="N", help="measure so often, say the median (3)"
    )
    parser.add_argument("--size", type=int, default=128, metavar="B", help="bytes of a message (128)")
    parser.add_argument(
        "--stored",
        type=int,
        default=500_000,
        metavar="N",
        help="messages in the cluster when memory is looked at (500000); 0: don't",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, once")
    parser.add_argument(
        "--client", choices=("auto", "c", "python"), default="auto", help="who makes the load"
    )
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where the nodes keep their data")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it there too")
    return parser


@contextlib.contextmanager
def folder_below(parent: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="stanchion-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def bench(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start a cluster, measure, stop it."""
    if args.quick:
        args.messages, args.publishes = args.messages // 10, args.publishes // 10
        args.stored, args.repeat = args.stored // 10, 1
    program = choose(args.client, folder)
    async with trio.open_nursery() as logs:
        cluster = Cluster(folder, logs)
        try:
            with trio.fail_after(60):
                for name in cluster.nodes:
                    await cluster.start(name)
                await cluster.leader_after(0)
                for name in cluster.nodes:
                    await cluster.wait_healthy(name)
            found = await _measure(args, cluster, program)
            await cluster.stop()
        finally:
            cluster.kill_all()
        logs.cancel_scope.cancel()
    return {"version": __version__, "machine": machine(), "client": program.name, "size": args.size, **found}


async def _measure(args: argparse.Namespace, cluster: Cluster, program: Program) -> dict[str, Any]:
    leader = await cluster.leader_after(0)
    term = cluster.term
    follower = next(node for node in cluster.nodes.values() if node is not leader)

    async def measure(mode: str, channel: str, count: int, other: str = "") -> dict[str, Any]:
        _say(f"{mode}: {count} messages …")
        words = (mode, leader.client, cluster.id, channel, count, args.size, other)
        return await trio.to_thread.run_sync(lambda: program.measure(*words))

    latency, publish, deliver, replay = [], [], [], []
    for number in range(args.repeat):
        latency.append(await measure("latency", f"bench.latency.{number}", args.publishes))
        publish.append(await measure("publish", f"bench.publish.{number}", args.messages))
        deliver.append(await measure("deliver", f"bench.deliver.{number}", args.messages, follower.client))
        replay.append(await measure("replay", f"bench.publish.{number}", args.messages))
    stored = args.repeat * (2 * args.messages + args.publishes)
    found = {
        "repeats": args.repeat,
        "publish_per_s": _median(publish, "per_s"),
        "deliver_per_s": _median(deliver, "per_s"),
        "replay_per_s": _median(replay, "per_s"),
        "latency_p50_ms": _median(latency, "p50_ms"),
        "latency_p99_ms": _median(latency, "p99_ms"),
        "all": {"latency": latency, "publish": publish, "deliver": deliver, "replay": replay},
    }
    if args.stored:
        if stored < args.stored:
            await measure("publish", "bench.more", args.stored - stored)
            stored = args.stored
        found["stored"] = stored
        found["rss_anon_mib"] = {name: _rss_anon_mib(cluster, name) for name in cluster.nodes}
        found["leader_rss_anon_mib"] = found["rss_anon_mib"][leader.name]
    found["leader_changes"] = cluster.term - term
    found["targets"] = TARGETS
    return found


def _median(measured: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(each[key] for each in measured))


def _rss_anon_mib(cluster: Cluster, name: str) -> float:
    process = cluster.nodes[name].process
    assert process is not None
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return round(kib / 1024, 1)


def machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
