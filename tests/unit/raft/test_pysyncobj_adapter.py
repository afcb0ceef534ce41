"""The library is the supported release, and only its role machine is active."""

from __future__ import annotations

import builtins
import pickle
import random
import re
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pysyncobj.pickle
import pytest
from pysyncobj import syncobj

from node.errors import NodeError
from node.raft import pysyncobj_adapter
from node.raft.ports import Role


@pytest.fixture(autouse=True)
def _fresh() -> None:
    pysyncobj_adapter.verify.cache_clear()


def test_installed_library_is_the_right_one() -> None:
    pysyncobj_adapter.verify()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pysyncobj_adapter, "VERSION", "0.3.18")
    with pytest.raises(NodeError, match=r"0\.3\.18 is installed.*pip install"):
        pysyncobj_adapter.verify()


def test_missing_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pysyncobj_adapter.METHODS, "_SyncObj__gone", ())
    with pytest.raises(NodeError, match="method _SyncObj__gone is missing"):
        pysyncobj_adapter.verify()


def test_changed_parameters_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pysyncobj_adapter.METHODS, "_SyncObj__setState", ("newState", "why"))
    with pytest.raises(NodeError, match="_SyncObj__setState takes"):
        pysyncobj_adapter.verify()


def test_missing_attribute_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pysyncobj_adapter, "ATTRIBUTES", (*pysyncobj_adapter.ATTRIBUTES, "_SyncObj__gone"))
    with pytest.raises(NodeError, match="attribute _SyncObj__gone is missing"):
        pysyncobj_adapter.verify()


def test_patched_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pysyncobj_adapter.SOURCES, "syncobj.py", "0" * 64)
    with pytest.raises(NodeError, match=r"syncobj\.py is not the released one"):
        pysyncobj_adapter.verify()


def test_missing_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pysyncobj_adapter.SOURCES, "gone.py", "0" * 64)
    with pytest.raises(NodeError, match=r"gone\.py can't be read"):
        pysyncobj_adapter.verify()


def test_every_private_name_in_use_is_checked() -> None:
    """A newly used private name of the library must be added to the lists."""
    names = set(re.findall(r"_SyncObj__\w+", Path(pysyncobj_adapter.__file__).read_text()))
    assert names <= {*pysyncobj_adapter.METHODS, *pysyncobj_adapter.ATTRIBUTES}


def test_import_leaves_the_standard_library_alone() -> None:
    """PS-47: formatting an IPv6 address in a process with the library raised SystemError or TypeError."""
    code = (
        "import socket; before = dict(vars(socket)); import node.raft.pysyncobj_adapter; "
        "print(socket.inet_ntop(socket.AF_INET6, bytes(15) + bytes([1])), "
        "[name for name, value in before.items() if getattr(socket, name) is not value])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "::1 []\n"), done.stderr


def test_no_thread_socket_poller_file_or_pickle(group, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("the library woke up")

    for module, name in (
        (threading.Thread, "start"),
        (socket, "socket"),
        (select, "poll"),
        (select, "select"),
        (builtins, "open"),
        (pickle, "loads"),
        (pickle, "dumps"),
        (pysyncobj.pickle, "loads"),
        (pysyncobj.pickle, "dumps"),
    ):
        monkeypatch.setattr(module, name, forbidden)
    table = group("abc")
    table.elect("a").write(b"x")
    table.settle()
    table.advance(1.5)
    assert table["b"].payloads() == [b"x"]


def test_librarys_clock_and_generator_decide_nothing(group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several engines in one process are not affected by the state that the library's module shares."""

    def story() -> list[object]:
        table = group("abc")
        table.advance(1.0)
        table.isolate("a")
        table.advance(2.0)
        table.heal()
        table.advance(1.0)
        return [member.received.roles for member in table.members.values()]

    usual = story()
    noise = random.Random(1)
    monkeypatch.setattr(syncobj, "monotonicTime", lambda: noise.uniform(-1e9, 1e9))
    monkeypatch.setattr(syncobj, "random", None)
    assert story() == usual
    assert any(role is Role.LEADER for roles in usual for role, *_ in roles)


def test_start_overwrites_no_loaded_journal(group) -> None:
    """The library puts entry 1 into an empty log only."""
    table = group("abc")
    assert table["a"].log() == [(1, 0)]
    assert table["a"].journal.payload_at(1) == b"\x00"
    assert table.restart("a").log() == [(1, 0)]


@pytest.mark.parametrize("others", range(1, 7))
def test_a_node_that_does_not_vote_needs_a_majority_of_the_others(group, others: int) -> None:
    """The library always counts itself; a phantom voter that never answers corrects the count."""
    table = group("a")
    library = table["a"].engine._library
    names = [f"v{number}" for number in range(others)]
    library.set_voters(dict.fromkeys(names, 0), counts=False)
    library.connect(names[0])
    table["a"].engine._election.authorise(transfer=False)
    library.tick(quorum=True)
    needed = 0
    while library.role is Role.CANDIDATE:
        library.voted(names[needed], library.current_term)
        needed += 1
    assert library.role is Role.LEADER
    assert needed == others // 2 + 1
    assert not any(receiver == "" for _, receiver, _ in table.wire)
