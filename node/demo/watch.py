"""Copy the nodes' monitoring pages into the `Show`, several times a second."""

from __future__ import annotations

from typing import Any, Final

import trio

from node.demo.cluster import Cluster
from node.demo.load import HELD, Load
from node.demo.show import Countdown, NodeView, Show, Slots
from node.errors import UnavailableError

EVERY_S: Final = 0.2
SLOTS: Final = 3
"""Unacked messages shown for each AckWait."""


async def watch(cluster: Cluster, load: Load, show: Show) -> None:
    """Update the show until cancelled."""
    for name in cluster.nodes:
        show.nodes[name] = NodeView(name)
    async with trio.open_nursery() as nursery:
        for name in cluster.nodes:
            nursery.start_soon(_watch_node, cluster, show.nodes[name])
        nursery.start_soon(_watch_state, cluster, load, show)
        nursery.start_soon(_watch_rates, load, show)


async def _watch_node(cluster: Cluster, view: NodeView) -> None:
    node = cluster.nodes[view.name]
    while True:
        if node.is_up and not node.is_paused:
            try:
                page = await cluster.page(view.name, "/raftz")
            except UnavailableError:
                pass  # stopping or not started yet: the process's state shows it
            else:
                view.term, view.last = page["term"], page["last_index"]
                view.commit, view.applied = page["commit_index"], page["applied_index"]
        view.is_paused = node.is_paused
        view.role = node.role if node.is_up else "down"
        await trio.sleep(EVERY_S)


async def _watch_state(cluster: Cluster, load: Load, show: Show) -> None:
    slots = Slots(SLOTS)
    while True:
        for view in show.nodes.values():
            stations = load.stations.values()
            view.clients = sum(s.link is not None and s.link.node == view.name for s in stations)
        asked = _node_to_ask(cluster)
        if asked:
            try:
                now = trio.current_time()
                page = await cluster.page(asked, "/streaming/channelsz?subs=1")
            except UnavailableError:
                pass  # the next round asks another node
            else:
                show.seen_by = asked
                show.channels = page.get("channels", [])
                show.countdowns = _countdowns(show.channels, load, slots, now)
        await trio.sleep(EVERY_S)


def _node_to_ask(cluster: Cluster) -> str:
    """Return a follower: the picture continues when the leader dies, and every node has the whole state."""
    able = [node for node in cluster.nodes.values() if node.is_up and not node.is_paused]
    able.sort(key=lambda node: (node.role != "follower", node is cluster.leader))
    return able[0].name if able else ""


def _countdowns(channels: list[dict[str, Any]], load: Load, slots: Slots, asked_s: float) -> list[Countdown]:
    """Return the countdowns of one holder."""
    held = next((channel for channel in channels if channel["name"] == HELD), {})
    subscriptions = [sub for sub in held.get("subscriptions", []) if sub["client_id"].startswith("holder")]
    if not subscriptions:
        return []
    connected = [sub for sub in subscriptions if load.node_of(sub["client_id"])]
    shown = min(sub["client_id"] for sub in connected or subscriptions)
    found = []
    for sub in sorted(subscriptions, key=lambda sub: -int(sub["ack_wait"])):
        if sub["client_id"] != shown:
            continue
        unacked = {each["seq"]: each for each in sub["unacked"]}
        deliveries = {seq: each["deliveries"] for seq, each in unacked.items()}
        for seq in slots.choose(shown, sub["ack_wait"], deliveries):
            each = unacked[seq]
            due_s = asked_s + (each["remaining_ms"] or 0) / 1000
            found.append(Countdown(shown, seq, sub["ack_wait"], each["deliveries"], due_s))
    return found


async def _watch_rates(load: Load, show: Show) -> None:
    counts = load.counts
    past: list[tuple[float, int, int, int]] = []
    while True:
        now = trio.current_time()
        past = [*past[-9:], (now, counts.stored, counts.delivered, counts.acked)]
        first = past[0]
        if now > first[0]:
            passed = now - first[0]
            stored, delivered, acked = (
                (new - old) / passed for new, old in zip(past[-1][1:], first[1:], strict=True)
            )
            show.rates = (stored, delivered, acked)
        show.unanswered = load.unanswered
        await trio.sleep(EVERY_S)
