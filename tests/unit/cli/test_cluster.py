"""``stanchion cluster up`` starts all nodes, shows their output and stops them together."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from node.cli import cluster
from node.cli.main import main

PATIENT = """
import signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with socket.create_connection(("127.0.0.1", {port})) as there:
    there.recv(1)
"""


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


async def test_output_has_the_names_of_the_nodes(capfd: pytest.CaptureFixture[str]) -> None:
    commands = {"n1": script("print('up'); print('unfinished', end='')"), "node2": script("print('also up')")}
    assert await cluster._up(commands) == 0
    lines = sorted(capfd.readouterr().out.splitlines())
    assert lines == [
        "n1    | exited with status 0",
        "n1    | unfinished",
        "n1    | up",
        "node2 | also up",
        "node2 | exited with status 0",
    ]


async def test_a_node_that_fails_is_not_started_again_and_makes_the_status_1(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert await cluster._up({"n1": script("raise SystemExit(3)"), "n2": script("")}) == 1
    assert "n1 | exited with status 3\n" in capfd.readouterr().out


async def test_an_interrupt_stops_all_nodes(capfd: pytest.CaptureFixture[str]) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    patient = script(PATIENT.format(port=listener.socket.getsockname()[1]))
    statuses: list[int] = []

    async def up() -> None:
        statuses.append(await cluster._up({"n1": patient, "n2": patient}))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(up)
            first, second = await listener.accept(), await listener.accept()
            os.kill(os.getpid(), signal.SIGINT)
    assert statuses == [0]
    assert "stopping n1, n2" in capfd.readouterr().err
    for stream in (first, second, listener):
        await stream.aclose()


def test_a_nodes_own_mistakes_are_found_before_any_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("cluster: {nodes: {n1: {client: 127.0.0.1:1}}}\nclients: {token_file: secret}\n")
    assert main(["cluster", "up", str(file)]) == 2
    assert "can't be read" in capsys.readouterr().err
    assert main(["cluster", "up", str(file), "--only", "n9"]) == 2
    assert "has no node n9" in capsys.readouterr().err
