"""Where things lie: tests mirror modules, the top level is what it should be, and nothing points outside."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "node"
UNIT = ROOT / "tests" / "unit"

SMALL_LINES = 30
"""A module of no more lines needs no test file of its own."""

TESTED_ELSEWHERE = {
    "core/commands.py": "values without behaviour; test_entries has their bytes",
    "core/effects.py": "values without behaviour; every conversation of tests/unit/core reads them",
    "core/refusals.py": "texts; each is asserted where it is the outcome",
    "core/apply_context.py": "carries one entry's work from module to module of the core",
    "errors.py": "families without behaviour",
    "units.py": "types without behaviour",
    "cli/options.py": "seen in every command that has them",
    "config/kinds.py": "test_values and test_load: a kind is seen in what it accepts",
    "config/model.py": "test_documented holds every option against its documentation",
    "config/overrides.py": "test_load",
    "config/schema.py": "test_load and test_documented",
    "config/tree.py": "test_load: places in the file of what is wrong",
    "monitor/figures.py": "values; test_views and test_nats_views are made of them",
    "monitor/query.py": "test_views and test_nats_views",
    "protocol/streaming_pb2.py": "generated",
    "raft/applying.py": "test_engine and test_engine_safety",
    "raft/flush.py": "test_journal, test_disk and tests/property/raft/test_journal_crash.py",
    "raft/segments.py": "test_journal and test_recovery",
    "raft/writer.py": "test_journal, test_disk and tests/property/raft/test_journal_crash.py",
    "encryption/ciphers.py": "test_value_cipher and test_keyring",
    "server/context.py": "test_connection",
    "server/external_nats/connection.py": "test_link",
    "server/routes/route_peer.py": "test_route_links",
    "server/routes/route_traffic.py": "test_remote_routes",
    "server/system.py": "two clocks and a random name; the simulator gives its own",
    "server/launch.py": "values without behaviour; test_node and test_reload give them",
    "server/shutdown.py": "nodes that get signals: tests/unit/cli/test_node.py, tests/e2e/test_operations.py",
    "server/liveness.py": "test_connection: when a connection is pinged and given up",
    "server/node.py": "needs sockets and a disk: tests/unit/cli/test_node.py and tests/e2e",
    "server/peer_links.py": "tests/e2e: nodes with links, and without",
    "server/reply_order.py": "test_perform: answers behind deliveries",
    "server/routing_interface.py": "a protocol: mypy holds both routings against it",
    "server/subscriptions.py": "test_routing",
    "store/environment.py": "test_checkpoint",
    "store/layout.py": "test_checkpoint",
    "store/memory.py": "test_interface: the fake passes the tests of the real store",
}
"""Modules without a test file of the same name: where they are tested instead."""

WHOLE_ROOMS = {
    "demo": "tests/unit/demo tests its checker; the rest is run as a whole by tests/e2e",
    "simulator": "what checks is checked by the tests it makes fail; see tests/simulator",
}
"""Rooms that are mirrored only in part."""

TOP_LEVEL = {
    "pyproject.toml", "node", "cluster-configs", "docker-compose.yml", "Dockerfile", "tests", "README.md",
    ".ci", "bench", "docs", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", ".gitignore",
    ".dockerignore",
}  # fmt: skip


def tracked() -> list[Path]:
    """The files of the project, from git where there is git, else from the directory."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_has_its_tests(path: Path) -> None:
    """``tests/unit`` mirrors ``node``: whoever changes a module knows which file to run.

    A module that was split off another, as ``reference_flags`` off ``reference``, may be tested with it.
    """
    place = path.relative_to(PACKAGE)
    test = UNIT / place.parent / f"test_{place.name}"
    whole = test.with_name(f"test_{place.stem.split('_')[0]}.py")
    reason = TESTED_ELSEWHERE.get(place.as_posix())
    if test.exists():
        assert reason is None, f"{test.relative_to(ROOT)} exists: take {place} off the list"
    elif not whole.exists() and len(path.read_text(encoding="utf-8").splitlines()) > SMALL_LINES:
        assert reason or place.parts[0] in WHOLE_ROOMS, f"neither {test.relative_to(ROOT)} nor a reason"


def test_every_exception_is_of_a_module() -> None:
    """Lists of exceptions rot: a module that is gone leaves them."""
    assert [name for name in TESTED_ELSEWHERE if not (PACKAGE / name).exists()] == []


def test_tests_lie_in_rooms_that_exist() -> None:
    """A test of a module that has moved moves with it."""
    full = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    strays = {path.name for path in UNIT.iterdir() if path.is_dir() and path.name != "__pycache__"} - full
    assert strays == set()


def test_the_top_level_holds_what_it_should() -> None:
    """Scratch files and generated ones stay out."""
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= TOP_LEVEL


def test_the_package_is_typed() -> None:
    """Who installs the package may check types against it."""
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_every_module_says_what_it_is(path: Path) -> None:
    """A module opens with what it owns; a package with what its modules are to each other."""
    if path.name.endswith("_pb2.py"):
        return
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert len(docstring.split()) >= 4, "no docstring to speak of"
    assert "(filled in" not in docstring, "a placeholder"


SOMEBODYS = re.compile(
    rf"(?<![\w.~/:])/(?:{'|'.join(['home', 'root', 'Users', 'mnt', 'work', 'workspace'])})/\w"
)
"""Directories that are on somebody's machine, and not on another's."""


def test_nothing_names_a_path_of_somebodys_machine() -> None:
    """The project is all there is: who has it needs no other file."""
    named = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        named += [f"{path.relative_to(ROOT)}: {found[0]}" for found in SOMEBODYS.finditer(text)]
        if len(ROOT.parts) > 2 and str(ROOT) in text:
            named.append(f"{path.relative_to(ROOT)}: {ROOT}")
    assert named == []


def test_nothing_is_left_for_later() -> None:
    """What isn't done isn't in; what is in is done."""
    marks = re.compile(r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")
    for path in tracked():
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml"}:
            found = marks.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{path.relative_to(ROOT)}: {found and found[0]}"
