"""Show the state of a cluster's nodes.

Prints the leader and the progress of each node, and the channels and subscriptions as the leader has
them. The exit status is 0 if all nodes answer, are healthy and follow the same leader, else 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio

from node.cli.ask import ask, monitoring_address
from node.cli.options import add_config, names
from node.cli.tables import aligned
from node.config.load import load
from node.config.values import Address
from node.errors import ConfigError, UnavailableError

PAGES = {
    "healthz": "/healthz",
    "serverz": "/streaming/serverz",
    "raftz": "/raftz",
    "channelsz": "/streaming/channelsz?subs=1",
}


@dataclass(slots=True)
class NodeStatus:
    """The pages of one node, or ``error`` if it could not be asked."""

    name: str
    address: Address | None
    error: str = ""
    healthz: Any = None
    serverz: Any = None
    raftz: Any = None
    channelsz: Any = None

    @property
    def is_healthy(self) -> bool:
        return not self.error and self.healthz["status"] == "ok"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``stanchion status``."""
    add_config(parser)
    parser.add_argument("--only", type=names, metavar="N1,N2,…", help="ask only these nodes")
    parser.add_argument("--json", action="store_true", help="print all answers as JSON")
    parser.add_argument("--timeout", type=float, default=2.0, metavar="SECONDS", help="per request (2)")


def run(args: argparse.Namespace) -> int:
    """Ask the nodes, print their state and return the exit status."""
    config = load(args.config, overrides=args.overrides)
    asked: list[str] = args.only or list(config.cluster.nodes)
    unknown = [name for name in asked if name not in config.cluster.nodes]
    if unknown:
        raise ConfigError([f"--only: {args.config} has no node {name}" for name in unknown])
    token = config.monitoring.token.reveal() if config.monitoring.token else ""
    base_path = config.monitoring.http_base_path.rstrip("/")
    statuses = [NodeStatus(name, monitoring_address(config.cluster.nodes[name])) for name in asked]
    trio.run(_ask_all, statuses, base_path, token, args.timeout)
    print(
        json.dumps(as_json(config.cluster.id, statuses), indent=2)
        if args.json
        else table(config.cluster.id, statuses)
    )
    leaders = {status.raftz["leader"] for status in statuses if not status.error}
    is_one_cluster = len(leaders) == 1 and "" not in leaders
    return 0 if is_one_cluster and all(status.is_healthy for status in statuses) else 1


async def _ask_all(statuses: Sequence[NodeStatus], base_path: str, token: str, timeout_s: float) -> None:
    async with trio.open_nursery() as nursery:
        for status in statuses:
            nursery.start_soon(_ask_node, status, base_path, token, timeout_s)


async def _ask_node(status: NodeStatus, base_path: str, token: str, timeout_s: float) -> None:
    if status.address is None:
        status.error = "no http address in the configuration"
        return
    try:
        for page, path in PAGES.items():
            answer = await ask(status.address, base_path + path, token=token, timeout_s=timeout_s)
            setattr(status, page, answer)
    except UnavailableError as error:
        status.error = str(error)


def as_json(cluster_id: str, statuses: Sequence[NodeStatus]) -> dict[str, Any]:
    """Return all answers by node."""
    nodes = {
        status.name: {"error": status.error}
        if status.error
        else {page: getattr(status, page) for page in PAGES}
        for status in statuses
    }
    return {"cluster_id": cluster_id, "nodes": nodes}


def table(cluster_id: str, statuses: Sequence[NodeStatus]) -> str:
    """Return a text: a table of the nodes, then the channels as the leader has them."""
    answered = [status for status in statuses if not status.error]
    head = (
        "node",
        "role",
        "term",
        "leader",
        "commit",
        "applied",
        "last",
        "clients",
        "loop p99",
        "uptime",
        "",
    )
    lines = [
        f"cluster {cluster_id}: {len(answered)} of {len(statuses)} nodes answer",
        "",
        *aligned([head, *map(_node, statuses)]),
    ]
    lines += _warnings(answered)
    if answered:
        leading = max(answered, key=lambda s: (s.raftz["role"] == "Leader", s.raftz["applied_index"]))
        lines += ["", *_channels(leading)]
    return "\n".join(lines)


def _node(status: NodeStatus) -> tuple[str, ...]:
    if status.error:
        return (status.name, *["-"] * 9, status.error)
    raft, server = status.raftz, status.serverz
    return (
        status.name,
        "Learner" if status.name in raft.get("learners", ()) else raft["role"],
        *(str(raft[name] or "-") for name in ("term", "leader")),
        *(str(raft[f"{name}_index"]) for name in ("commit", "applied", "last")),
        str(server["clients"]),
        f"{raft['event_loop']['p99_ms']} ms" if "event_loop" in raft else "-",  # nodes of older releases
        server["uptime"],
        status.healthz.get("error", ""),
    )


def _warnings(answered: Sequence[NodeStatus]) -> list[str]:
    found = [f"{status.name}: {text}" for status in answered for text in status.healthz.get("warnings", [])]
    return ["", *found] if found else []


def _channels(status: NodeStatus) -> list[str]:
    channels = status.channelsz.get("channels", [])
    if not channels:
        return [f"no channels (seen by {status.name})"]
    total, shown = status.channelsz["total"], len(channels)
    more = [f"… and {total - shown} more"] if total > shown else []
    head: tuple[str, ...] = ("channel", "messages", "bytes", "first", "last", "subscriptions")
    keys = ("name", "msgs", "bytes", "first_seq", "last_seq", "subs_count")
    rows = [tuple(str(channel[key]) for key in keys) for channel in channels]
    lines = [f"channels (seen by {status.name})", *aligned([head, *rows]), *more]
    rows = [_subscription(c["name"], each) for c in channels for each in c.get("subscriptions", [])]
    if rows:
        head = ("channel", "client", "durable or queue", "last sent", "unacked", "max in flight", "")
        lines += ["", "subscriptions", *aligned([head, *rows])]
    return lines


def _subscription(channel: str, shown: dict[str, Any]) -> tuple[str, ...]:
    name = shown.get("queue_name") or shown.get("durable_name") or ""
    numbers = (str(shown[key]) for key in ("last_sent", "pending_count", "max_inflight"))
    words = ("offline", "unreachable", "stalled", "paused")
    marks = " ".join(word for word in words if shown.get(f"is_{word}"))
    return channel, shown["client_id"], name, *numbers, marks
