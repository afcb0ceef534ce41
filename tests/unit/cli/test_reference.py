"""``nats-streaming-server``: its output and exit status before the node starts, and the start."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from node.cli import reference
from node.cli.reference import listen, main
from node.config.model import Config
from node.errors import ConfigError
from node.server.launch import Launch


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    handler, everything = signal.getsignal(signal.SIGTERM), logging.getLogger()
    handlers, level = everything.handlers[:], everything.level
    yield
    signal.signal(signal.SIGTERM, handler)
    gc.unfreeze()
    for added in [one for one in everything.handlers if one not in handlers]:
        everything.removeHandler(added)
        added.close()
    everything.setLevel(level)
    logging.captureWarnings(False)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == 0
    assert "-cid, -cluster_id" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nats-streaming-server version 0.25")


def test_mistakes_are_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    """The reference exits with 1 if it can't start; the other commands exit with 2."""
    assert main(["--nothing", "-mc", "x"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "nats-streaming-server: unknown flag -nothing",
        "nats-streaming-server: flag -mc: expected an integer, not 'x'",
    ]


def test_checking_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-t also runs this server's checks; it uses neither port nor directory."""
    directory = tmp_path / "data"
    assert main(["-t", "-st", "FILE", "-dir", str(directory), "-p", "-1"]) == 0
    assert "is valid" in capsys.readouterr().err
    assert not directory.exists()
    assert main(["-t", "-mm", "-1"]) == 1
    assert "max messages limit cannot be negative" in capsys.readouterr().err


def test_a_signal_without_a_running_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-sl", "jump=1"]) == 1
    assert "unknown signal 'jump'; expected one of quit, stop, reopen, reload, ldm" in capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["-a", "127.0.0.1", "-p", str(taken.getsockname()[1])]) == 1
    assert "can't listen for clients on 127.0.0.1:" in capsys.readouterr().err


def test_listening() -> None:
    """The kernel queues connections before they are accepted; all addresses of a name have the same port."""
    sockets = listen("clients", "localhost", 0)
    (port,) = {one.getsockname()[1] for one in sockets}
    socket.create_connection(("127.0.0.1", port)).close()
    for one in sockets:
        one.close()
    with pytest.raises(ConfigError, match="can't listen for monitoring"):
        listen("monitoring", "no.such.host.invalid", 1)


def test_the_node_gets_the_socket_and_behaves_as_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[Config, str, Launch]] = []

    def run(config: Config, name: str, launch: Launch) -> int:
        ran.append((config, name, launch))
        return 2 if len(ran) == 2 else 143

    server = ModuleType("node.server.node")
    server.__dict__["run"] = run
    monkeypatch.setitem(sys.modules, "node.server.node", server)
    monkeypatch.setattr("node.server.node", server, raising=False)
    file, pid, log = tmp_path / "x.conf", tmp_path / "pid", tmp_path / "log"
    file.write_text("streaming { limits { mm: 5 } }")
    words = ["-c", str(file), "-p", "-1", "-a", "127.0.0.1", "-P", str(pid), "-l", str(log), "-T=false"]
    assert main([*words, "-file_crc"]) == 143
    ((config, name, launch),) = ran
    (client,) = launch.sockets
    port = client.getsockname()[1]
    assert (name, config.cluster.nodes["n1"].client.port) == ("n1", port)
    assert (launch.ready, launch.terminated_status) == ("Streaming Server is ready", 143)
    assert launch.proposes
    assert int(pid.read_text()) > 0
    said = log.read_text()
    assert "[INF] STREAM: Starting nats-streaming-server[test-cluster] version 0.25" in said
    assert "[INF] STREAM: -file_crc: stored data is always checked when it is read" in said
    assert launch.reload is not None
    file.write_text("streaming { limits { mm: 7 } }")
    assert launch.reload().limits.max_msgs == 7
    client.close()
    assert main(words) == 1, "a node that can't start ends with 1"
    ran[1][2].sockets[0].close()
    assert capsys.readouterr().err == ""


def test_the_module_imports_little() -> None:
    """Imports before the port is bound prolong the time in which clients are refused."""
    import subprocess

    heavy = (
        "trio, node.config.model, node.server.node, lmdb, msgpack, yaml, cryptography, logging, json, google"
    )
    code = f"import sys, node.cli.reference; print([m for m in '{heavy}'.split(', ') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", reference.__doc__
