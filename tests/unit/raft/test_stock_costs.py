"""What the bare library does where the engine does otherwise: what it costs, and whom it lets in.

Each test shows a defect, by its id in docs/raft-engine.md. When one of them fails, the library is not the
audited one, and the repair it motivates needs a second look; that is all it means. `test_repairs` says
which tests show the repair.
"""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pysyncobj import syncobj
from pysyncobj.journal import FileJournal, MemoryJournal
from pysyncobj.node import Node
from pysyncobj.poller import createPoller
from pysyncobj.tcp_connection import TcpConnection
from pysyncobj.transport import TCPTransport
from stock_library import Connection


class Counting(MemoryJournal):
    """Counts the entries that are read from it."""

    copied = loaded = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        if isinstance(place, slice):
            self.copied += len(found)
            self.loaded += len(found)
        return found


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()
    monkeypatch.setattr(syncobj, "createJournal", lambda name: counting)
    return counting


@contextmanager
def wired() -> Iterator[tuple[TcpConnection, Any, socket.socket]]:
    """One end of a connection, run by the library with its poller; the test runs the other."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    poller = createPoller("select")
    with ours, theirs:
        yield TcpConnection(poller, socket=theirs), poller, ours


def test_ps_35_tail_of_the_log_is_copied_for_each_batch(stock, journal: Counting) -> None:
    leader = stock(appendEntriesBatchSizeBytes=1000)
    leader.lead()
    leader.propose(*[b"." * 100] * 1000)
    journal.copied = 0
    leader.wait()
    assert journal.copied > 20 * 1000


def test_ps_36_partial_ack_sends_everything_in_flight_again(stock) -> None:
    leader = stock(appendEntriesBatchSizeBytes=300, appendEntriesPeriod=0.05)
    leader.lead()
    for _ in range(6):
        leader._applyCommand(b"." * 200, None, 0)
    leader.doTick(0)
    leader.clock.now += 0.1
    leader.doTick(0)
    before = [message["prevLogIdx"] for message in leader.wire.of("append_entries")]
    leader.wire.sent.clear()
    leader.hear("b", "next_node_idx", next_node_idx=before[0] + 3, reset=False, success=True)
    leader.clock.now += 0.1
    leader.doTick(0)
    again = [message["prevLogIdx"] for to, message in leader.wire.sent if to == "b"]
    assert set(again) & set(before)


def test_ps_37_entries_are_loaded_for_their_terms(stock, journal: Counting) -> None:
    leader = stock()
    leader.lead()
    leader.propose(*[b"x"] * 100)
    leader.has("b", leader.last)
    journal.loaded = 0
    leader.doTick(0)
    assert journal.loaded > 2 * 100  # once to commit, once to apply


def test_ps_38_any_amount_is_sent_to_who_answers_nothing(stock) -> None:
    leader = stock()
    leader.lead()
    leader.propose(*[b"." * 10_000] * 1000)
    leader.wait()
    sent = [said["entries"] for to, said in leader.wire.sent if to == "b" and "entries" in said]
    assert sum(len(command) for batch in sent for command, _, _ in batch) > 9_000_000


def test_ps_39_message_is_packed_for_every_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []
    compress = zlib.compress
    monkeypatch.setattr(
        zlib, "compress", lambda data, level: packed.append(len(data)) or compress(data, level)
    )
    with wired() as (one, _, _), wired() as (other, _, _):
        for peer in (one, other):
            peer.send({"type": "append_entries"})
    assert len(packed) == 2


def test_ps_40_whole_log_is_in_memory(stock_journal: Callable[[], FileJournal]) -> None:
    journal = stock_journal()
    for index in range(100):
        journal.add(b"." * 1000, index, 1)
    assert len(journal._FileJournal__journal) == 100
    assert len(journal._FileJournal__journalFile._ResizableFile__mm) > 100_000


def test_ps_41_snapshot_is_written_by_a_fork_or_in_the_loop(
    stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked: list[str] = []
    monkeypatch.setattr(os, "fork", lambda: forked.append("fork") or 1)
    for fork, snapshot in ((True, tmp_path / "forked"), (False, tmp_path / "in the loop")):
        leader = stock(fullDumpFile=str(snapshot), useFork=fork)
        leader.lead()
        leader.propose(b"x", b"y")
        leader.has("b", leader.last)
        leader.forceLogCompaction()
        leader.doTick(0)
        assert snapshot.exists() is not fork
    assert forked == ["fork"]


def test_ps_42_bytes_of_anybody_are_unpickled() -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, ("import sys; sys.stock_library_ran = True",)

    with wired() as (_, poller, attacker):
        packed = zlib.compress(pickle.dumps(Harm()))
        attacker.sendall(struct.pack("i", len(packed)) + packed)
        poller.poll(0)
    assert sys.__dict__.pop("stock_library_ran")


def test_ps_43_anybody_changes_the_members(stock) -> None:
    leader = stock(dynamicMembershipChange=True)
    transport = TCPTransport(leader, None, [])
    transport.setOnUtilityMessageCallback("add", leader._addNodeToCluster)
    leader.lead()
    leader.has("b", leader.last)
    leader.doTick(0)
    transport._onIncomingMessageReceived(Connection(), ["add", Node("whoever")])
    leader.doTick(0)
    assert Node("whoever") in leader.otherNodes


def test_ps_44_message_may_unfold_to_any_size() -> None:
    with wired() as (connection, poller, attacker):
        came: list[bytes] = []
        connection.setOnMessageReceivedCallback(came.append)
        packed = zlib.compress(pickle.dumps(bytes(16 << 20)))
        assert len(packed) < 20_000
        attacker.sendall(struct.pack("i", len(packed)) + packed)
        poller.poll(0)
    assert [len(message) for message in came] == [16 << 20]


def test_ps_45_any_peer_puts_any_command_into_the_log(stock) -> None:
    leader = stock()
    leader.lead()
    leader.hear("b", "apply_command", command=b"\x03whatever")
    leader.doTick(0)
    assert leader.log()[-1][0] == b"\x03whatever"


def test_ps_46_password_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """All nodes share one key with the same salt: it does not identify the sender."""
    monkeypatch.delitem(
        sys.modules, "pysyncobj.encryptor"
    )  # `pysyncobj_adapter` replaces it by an empty module
    getEncryptor = importlib.import_module("pysyncobj.encryptor").getEncryptor  # noqa: N806
    assert getEncryptor("shared").decrypt(getEncryptor("shared").encrypt(b"I am b")) == b"I am b"


def test_ps_47_import_breaks_a_function_of_the_standard_library() -> None:
    """Runs in a separate process, because it affects the whole process."""
    code = "import pysyncobj, socket; print(socket.inet_ntop(socket.AF_INET6, bytes(15) + bytes([1])))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "not_windows" in done.stderr
