"""``stanchion demo`` as its users run it: a verdict, figures, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from e2e.harness import STANCHION, until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

GOES_ON_MS = 1500
"""So long after somebody leads again at most, publishes are acknowledged again."""


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def test_two_kills_and_a_pause(tmp_path: Path) -> None:
    """How long elections take isn't judged: this machine may be busy. That publishers go on after them is."""
    report = tmp_path / "report.json"
    picture = tmp_path / "demo.svg"
    command = [STANCHION, "demo", "--kills", "2", "--seed", "3", "--no-tty", "--patient"]
    done = subprocess.run(
        [*command, "--json", str(report), "--svg", str(picture)],
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HELD: 2 kills and 1 pauses" in done.stdout
    found = json.loads(report.read_text())
    assert (found["lost"], found["duplicates"], found["redelivered_early"]) == (0, 0, 0)
    assert found["acked"] > 1000
    assert found["redistributed"] > 0
    assert found["ackwait_error_ms"]["count"] > 0
    assert [kill["role"] for kill in found["kills"]] == ["leader", "leader"]
    for hit in found["kills"] + found["pauses"]:
        assert hit["publish_gap_ms"] < hit["leaderless_ms"] + found["held_up_ms"] + GOES_ON_MS, hit
    assert "unacknowledged messages" in picture.read_text().replace("&#160;", " ")


def test_interrupted_it_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    demo = subprocess.Popen(
        [STANCHION, "demo", "--no-tty"], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert demo.stdout is not None
    assert any("at work" in line for line in demo.stdout)  # reads no further than that
    nodes = children(demo.pid)
    assert len(nodes) == 3
    demo.send_signal(signal.SIGINT)
    assert demo.wait(15) == 130
    demo.communicate()
    until("no node", lambda: not [node for node in nodes if Path(f"/proc/{node}").exists()])
    assert list(tmp_path.iterdir()) == []


FORGETFUL = '''
"""A state machine that forgets at a new term what was acknowledged lately."""
from node.core import acks, machine, new_term
from node.core.due import make_all_due

KEPT = 400
forgotten = []
apply_acks, begin_term = acks.apply_acks, new_term.begin_term


def remember(turn, command):
    member = turn.state.by_ack_inbox.get(command.ack_inbox)
    if member is not None:
        held = {seq: member.unacked[seq] for seq in command.seqs if seq in member.unacked}
        forgotten.append((turn.index, member.id, held))
        del forgotten[:-KEPT]
    return apply_acks(turn, command)


def forget(turn, command):
    for index, number, held in forgotten:
        member = turn.state.subscriptions.get(number)
        if member is None or member.client is None:
            continue
        lost = {seq: record for seq, record in held.items() if seq not in member.unacked}
        records = sorted({**member.unacked, **lost}.items(), key=lambda each: (each[1].entry, each[0]))
        member.unacked = dict(records)
        make_all_due(turn, member)
    begin_term(turn, command)


acks.apply_acks, new_term.begin_term = remember, forget
'''


def test_acks_that_are_forgotten_at_a_failover_are_found(tmp_path: Path) -> None:
    """The checker goes by what was committed, and still sees when that comes again."""
    (tmp_path / "sitecustomize.py").write_text(FORGETFUL)
    report = tmp_path / "report.json"
    command = [
        STANCHION,
        "demo",
        "--kills",
        "1",
        "--seed",
        "5",
        "--no-tty",
        "--patient",
        "--json",
        str(report),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, check=False, env=environment
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert not found["held"]
    assert found["duplicates"] > 0
    assert any("acknowledgement was committed" in each["text"] for each in found["violations"])
