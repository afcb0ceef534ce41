"""Who may import whom: the arrows of the architecture, and one door for each library.

A module of ``node/`` may import what its room's arrows lead to and nothing else::

    cli ─► server ─┬─► monitor ─────────────┐
     │             ├─► raft, store ─────────┼─► protocol ─► errors, units
     │             └─► config ──────────────┤      ▲
     │                                      └─► core
     └─► demo ─► client ─► protocol; simulator ─► everything a node is made of
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "node"

LEAVES = {"errors", "units", "limited_log", "private_files"}
ARROWS = {
    "errors": set(),
    "units": set(),
    "limited_log": set(),
    "sockets": set(),
    "private_files": {"errors"},
    "protocol": LEAVES,
    "encryption": LEAVES,
    "core": LEAVES | {"protocol"},
    "raft": LEAVES | {"protocol", "encryption", "sockets"},
    "store": LEAVES | {"protocol", "encryption"},
    "config": LEAVES | {"protocol"},
    "monitor": LEAVES | {"core", "protocol", "sockets"},
    "client": LEAVES | {"protocol"},
    "server": LEAVES | {"monitor", "raft", "store", "config", "core", "protocol", "encryption", "sockets"},
    "demo": LEAVES | {"client", "config", "protocol"},
    "simulator": LEAVES | {"server", "raft", "store", "core", "protocol", "encryption", "config"},
    "cli": LEAVES | {"server", "raft", "config", "client", "demo", "simulator", "protocol", "sockets"},
}
"""What each room may import besides itself and the package's version."""

NARROWER = {
    "core": {"protocol": {"message", "positions", "subjects"}},  # values and rules of names, never a parser
    "raft": {"protocol": {"peer"}},
    "store": {"protocol": {"peer"}},
    "config": {"protocol": {"subjects"}},
    "cli": {"raft": {"authority"}},  # `stanchion certs` makes certificates; it runs no consensus
    "demo": {"config": {"load"}, "protocol": {"positions"}},
}
"""Where only some modules of a room are meant for another."""

DOORS = {
    "pysyncobj": {"raft/pysyncobj_adapter.py"},
    "lmdb": {"store/"},
    "google.protobuf": {"protocol/streaming.py", "protocol/streaming_pb2.py"},
    "cryptography": {"encryption/", "raft/authority.py"},
    "google_crc32c": {"raft/records.py"},
    "bcrypt": {"server/auth.py"},
    "yaml": {"config/tree.py"},
    "msgpack": {
        *("protocol/peer.py", "core/", "raft/records.py", "raft/membership.py", "store/snapshot.py"),
        "simulator/sim_store.py",
    },
    "starlette": {"monitor/http.py", "monitor/loop_sharing.py"},
    "h11": {"monitor/connection.py", "monitor/http.py", "monitor/loop_sharing.py"},
    "rich": {"demo/", "cli/"},
    "trio": {
        "server/", "monitor/http.py", "monitor/loop_sharing.py", "monitor/connection.py",
        "cli/", "client/", "demo/",
        "raft/driver.py", "raft/transport.py", "raft/connection.py", "raft/greeting.py",
    },
}  # fmt: skip
"""One library, one door: where it may be imported. A new dependency needs a line here."""

PLAIN = {
    "origin", "proposer", "effect_executor", "leader_duties", "heartbeats", "presence", "requests", "replica",
    "routing", "interest", "streaming", "subscriptions", "connection", "clock", "liveness", "system",
    "settings_sync", "route_cache", "steps", "external_nats/routing", "routes/remote_routes",
    "disk/continuity", "disk/snapshot_context", "disk/unfinished", "membership/bootstrap", "low_space",
}  # fmt: skip
"""Modules of ``server`` that do no I/O and know no event loop, so that the simulator can run them."""

CHANCE = {"random", "secrets", "time", "datetime", "socket", "threading", "asyncio", "os", "uuid"}
"""What the core may not touch: it reads no clock, draws nothing and does no I/O (R30)."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@cache
def imports_of(path: Path) -> list[str]:
    """The full name of every module that ``path`` imports, also within functions.

    What is imported under ``if TYPE_CHECKING`` counts too: a type is knowledge.
    """
    return list(_imports_of(path))


def _imports_of(path: Path) -> Iterator[str]:
    package = ("node", *path.relative_to(PACKAGE).parent.parts)
    for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(found, ast.Import):
            yield from (alias.name for alias in found.names)
        elif isinstance(found, ast.ImportFrom):
            base = package[: len(package) - found.level + 1] if found.level else ()
            name = ".".join([*base, *([found.module] if found.module else [])])
            # `from node.raft import engine` imports node.raft.engine: the longest name that is a module.
            for alias in found.names:
                full = f"{name}.{alias.name}"
                is_module = PACKAGE.parent.joinpath(*full.split(".")).with_suffix(".py").exists()
                is_package = PACKAGE.parent.joinpath(*full.split(".")).is_dir()
                yield full if is_module or is_package else name


def ours(path: Path) -> Iterator[tuple[str, str]]:
    """(room, module within it) of everything of this package that ``path`` imports from other rooms."""
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "node" and len(parts) > 1 and parts[1] != room_of(path):
            yield parts[1], parts[2] if len(parts) > 2 else ""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert [name for name in imports_of(path) if name.startswith("node")] == []
        return
    assert {target for target, _ in ours(path)} - ARROWS[room] == set(), f"{room} may not import these rooms"
    for target, module in ours(path):
        allowed = NARROWER.get(room, {}).get(target)
        assert allowed is None or module in allowed, f"{room} may import {sorted(allowed)} of {target} only"


def test_every_room_has_arrows() -> None:
    """A new room is drawn into the picture before anybody imports it."""
    assert {room_of(path) for path in modules()} - {"__init__"} <= ARROWS.keys()


def test_arrows_form_no_circle() -> None:
    """Every arrow leads further down, so there is an order in which the rooms can be understood."""
    left = dict(ARROWS)
    while left:
        free = [room for room, targets in left.items() if not targets & left.keys()]
        assert free, f"these import each other in a circle: {sorted(left)}"
        for room in free:
            del left[room]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_library_has_one_door(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    for name in imports_of(path):
        if name.split(".")[0] in {*sys.stdlib_module_names, "node"}:
            continue
        library = next((known for known in DOORS if (name + ".").startswith(known + ".")), None)
        assert library is not None, f"{name}: say in DOORS who may import it"
        doors = DOORS[library]
        assert any(place == door or (door.endswith("/") and place.startswith(door)) for door in doors), (
            f"{library} is for {sorted(doors)}"
        )


def test_the_core_is_pure() -> None:
    """R30: no clock, no chance, no I/O; none of the modules that would offer them."""
    for path in sorted((PACKAGE / "core").glob("*.py")):
        dirty = {name.split(".")[0] for name in imports_of(path)} & CHANCE
        assert dirty == set(), path.name


def test_plain_objects_know_no_event_loop() -> None:
    """The simulator runs these as they stand, without trio."""
    for name in sorted(PLAIN):
        path = PACKAGE / "server" / f"{name}.py"
        assert "trio" not in {imported.split(".")[0] for imported in imports_of(path)}, name


def test_nothing_pickles() -> None:
    """No bytes from a peer or a disk may become code."""
    for path in modules():
        assert not {"pickle", "marshal", "shelve"} & {name.split(".")[0] for name in imports_of(path)}, path
