"""No object grows without bound: data that clients leave behind is found in the nodes' own objects.

Clients of all kinds connect, work and leave on a simulated cluster. Then the test counts the entries of all
containers that a node's parts hold, by the class and the name of the attribute that leads to them. After as
many clients again, the counts must be the same.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

import pytest

from node.server import presence
from node.simulator.script import Script
from node.simulator.script_text import Block
from node.units import SECOND

OURS = ("node.core.", "node.server.", "node.protocol.")
CONTAINERS = (dict, list, set, frozenset, tuple, deque)
PASSED_S = 35
"""Longer than any unused data is remembered, and than the heartbeat interval."""

BOUNDED = {
    "Interest._cached",
    "Routing._routes",
    "Route.receivers",
    "Route.deliverable",
    "Route.listeners",
    "Route.plain",
}
"""Caches of at most MATCHES_CACHED_MAX subjects and CACHED_ROUTES_MAX routes, which this test never fills."""

KINDS = ("", "durable d", "queue q", "queue q durable d")


def entries(root: object) -> Counter[str]:
    """Count the entries below ``root`` by ``Class.attribute``, in our own objects and in plain containers."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [("", root)]
    while stack:
        where, thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, CONTAINERS):
            found[where] += len(thing)
            parts = [*thing, *thing.values()] if isinstance(thing, dict) else thing
            stack += [(where, part) for part in parts]
        elif type(thing).__module__.startswith(OURS):
            name = type(thing).__name__
            stack += [(f"{name}.{attribute}", value) for attribute, value in attributes(thing)]
    return found


def attributes(thing: object) -> Iterable[tuple[str, Any]]:
    """Yield the attributes of an object, with or without ``__slots__``."""
    names = {name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())}
    names |= getattr(thing, "__dict__", {}).keys()
    for name in names:
        if hasattr(thing, name):
            yield name, getattr(thing, name)


def play(script: Script, *commands: str) -> None:
    script.play(Block(0, list(commands)))


def come_and_go(script: Script, generation: str, nodes: int) -> None:
    """Let clients use every node, with a subscription of each kind, with and without acknowledgements."""
    for number in range(6):
        name = f"{generation}{number}"
        play(script, f"connect {name} to n{number % nodes + 1}")
        for kind, words in enumerate(KINDS):
            play(
                script,
                f"subscribe {name} foo.{kind} as {name}s{kind} {words}",
                f"publish {name} foo.{kind} 3",
            )
        if number % 2:
            play(script, f"drop {name}")
            play(script, f"reconnect {name} to n{(number + 1) % nodes + 1}")
        for kind, words in enumerate(KINDS):
            if words.startswith("durable"):  # it outlives its client's connection unless it is unsubscribed
                play(script, f"close {name}s{kind}")
                play(script, f"subscribe {name} foo.{kind} as {name}t{kind} {words}")
                play(script, f"unsubscribe {name}t{kind}")
            else:
                play(script, f"{'unsubscribe' if 'durable' in words else 'close'} {name}s{kind}")
        play(script, f"quit {name}")
        play(script, f"drop {name}")
    play(script, f"wait {PASSED_S}s")
    for command in ("connect {} to n1", "quit {}", "drop {}"):  # a leaving client triggers the cleanup
        play(script, command.format(generation))


def grown(nodes: int) -> dict[str, tuple[int, int]]:
    """Return the counts that grew during three more generations of clients: before and after."""
    script = Script()
    play(script, f"nodes {nodes} max_msgs=5")
    come_and_go(script, "first", nodes)
    come_and_go(script, "second", nodes)
    before = census(script)
    for generation in ("third", "fourth", "fifth"):
        come_and_go(script, generation, nodes)
    after = census(script)
    return {where: (before[where], now) for where, now in after.items() if now > before[where]}


def census(script: Script) -> Counter[str]:
    assert script._script_world is not None
    found: Counter[str] = Counter()
    for node in script._script_world.cluster.nodes:
        found += entries(node.replica)
    return found


@pytest.mark.parametrize("nodes", [1, 3])
def test_data_left_by_clients_does_not_grow(nodes: int) -> None:
    assert grown(nodes).keys() <= BOUNDED


def test_growth_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "FORGET_NS", 3600 * SECOND)
    assert grown(1).keys() - BOUNDED == {"Presence._gone_others"}
