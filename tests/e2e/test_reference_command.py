"""``nats-streaming-server`` as its users know it: flags, files, signals, exit codes, how soon it is there."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from e2e.harness import STANCHION, Child, until
from e2e.ports import Guard, Ports
from e2e.wire import Wire

from node.protocol import nats, streaming

COMMAND = STANCHION.with_name("nats-streaming-server")
READY = "STREAM: Streaming Server is ready"
SECRET = b"a payload that nobody may find"


class Server:
    """One process of the command."""

    def __init__(self, folder: Path, guard: Guard, port: int, *flags: str, **environ: str) -> None:
        self.port = port
        self.log = folder / f"{time.monotonic_ns()}.log"
        address = () if "-a" in flags else ("-a", "127.0.0.1")
        command = [str(COMMAND), *address, "-p", str(port), *flags]
        self.child = Child("server", command, self.log, guard, cwd=folder, env={**os.environ, **environ})

    @property
    def pid(self) -> int:
        return self.child.process.pid

    def said(self) -> str:
        return self.log.read_text()

    def ready(self) -> Server:
        until("the ready line", lambda: READY in self.said() or not self.child.is_running)
        assert self.child.is_running, self.said()
        return self

    def wire(self) -> Wire:
        wire = Wire(self.port)
        wire.hello()
        return wire

    def kill(self) -> None:
        self.child.end()


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path, guard: Guard, ports: Ports) -> Iterator[Start]:
    """Start the command: ``start("-mc", "5", port=…)``."""
    started: list[Server] = []

    def one(*flags: str, port: int = 0, **environ: str) -> Server:
        started.append(Server(tmp_path, guard, port or ports.take(), *flags, **environ))
        return started[-1]

    yield one
    for server in started:
        server.kill()


def publish(wire: Wire, subjects: streaming.ConnectResponse, client: str, channel: str, data: bytes) -> str:
    """Publish and wait for the ack; its error."""
    message = streaming.PublishRequest(
        client, f"g{time.monotonic_ns()}", channel, reply="", data=data, conn_id=client.encode()
    )
    answer = wire.ask(f"{subjects.pub_prefix}.{channel}", streaming.encode_publish(message))
    return streaming.decode_pub_ack(answer).error


def test_flags_reach_the_server(start: Start) -> None:
    """CFG-01: one dash and two, with and without an equals sign; the levels' brackets in the log."""
    server = start("-cid", "c7", "--max_channels=2", "-SDV", "-DV", "-file_crc=true").ready()
    with server.wire() as wire:
        subjects = wire.register("me", "c7")
        assert [publish(wire, subjects, "me", name, b"x") for name in "abc"] == ["", "", "too many channels"]
    said = server.said()
    assert re.search(r"^\[\d+\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} \[INF\] STREAM: Starting ", said, re.M)
    assert "[INF] STREAM: -file_crc: stored data is always checked" in said
    until("a debug line of the NATS part", lambda: re.search(r" \[DBG\] client 1 at ", server.said()))


def test_memory_forgets_and_touches_no_disk(start: Start, tmp_path: Path) -> None:
    """The default store: a restart begins empty, and no file but the log is there."""
    before = set(tmp_path.iterdir())
    server = start().ready()
    with server.wire() as wire:
        assert publish(wire, wire.register("me"), "me", "foo", b"x") == ""
        old = wire.register("me")
    server.kill()
    again = start(port=server.port).ready()
    with again.wire() as wire:
        new = wire.register("you")
        assert publish(wire, new, "you", "foo", b"x") == ""
        assert publish(wire, new, "me", "foo", b"x") != "", "nobody remembers this client"
        assert old.sub_requests == new.sub_requests
    assert {path.suffix for path in set(tmp_path.iterdir()) - before} == {".log"}


def test_file_keeps_and_limits_are_those_of_the_last_start(
    start: Start, tmp_path: Path, ports: Ports
) -> None:
    """CFG-04: SIGTERM ends it with 143, SIGINT with 0, kill -9 hurts nothing; lower limits apply (L5)."""
    flags = ("-st", "file", "--dir", "data", "-m")
    http_port = ports.take()
    server = start(*flags, str(http_port)).ready()
    with server.wire() as wire:
        subjects = wire.register("me")
        for number in range(5):
            assert publish(wire, subjects, "me", "foo", b"%d" % number) == ""
    server.child.signal(signal.SIGTERM)
    assert server.child.wait(5) == 143
    server = start(*flags, str(http_port), port=server.port).ready()
    server.kill()
    server = start(*flags, str(http_port), "-mm", "2", port=server.port).ready()

    def seqs() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", http_port, timeout=5)
        try:
            connection.request("GET", "/streaming/channelsz?channel=foo")
            return connection.getresponse().read().decode()
        except OSError:
            return ""
        finally:
            connection.close()

    until("two messages", lambda: '"first_seq": 4' in seqs())
    assert '"last_seq": 5' in seqs()
    server.child.signal(signal.SIGINT)
    assert server.child.wait(5) == 0
    assert (tmp_path / "data" / "identity.json").exists()


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_localhost_is_both_addresses(start: Start, address: str) -> None:
    """As with the Go server: a client that resolves localhost to ::1 first is not refused."""
    server = start("-a", address).ready()
    hosts = ["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"]
    for host in hosts:
        with socket.create_connection((host, server.port), timeout=10) as client:
            assert client.recv(4096).startswith(b"INFO ")


def has_ipv6() -> bool:
    return any(one[4][0] == "::1" for one in socket.getaddrinfo(None, 1, type=socket.SOCK_STREAM))


MOMENTS_S = [0.002 * 1.13**step for step in range(44)]
"""After the first handler stands: from 2 to about 400 ms, more than a start takes."""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_signals_before_it_is_ready(start: Start, number: signal.Signals, status: int) -> None:
    """A signal at any moment of the start is obeyed, with the documented status and without a traceback."""
    failed = []
    for moment_s in MOMENTS_S:
        server = start()
        until("the first handler", lambda pid=server.pid: catches(pid, signal.SIGTERM))  # type: ignore[misc]
        time.sleep(moment_s)  # the moment is what is tested
        server.child.signal(number)
        ended = server.child.wait(5)
        if ended != status or "Traceback" in server.said():
            failed.append((moment_s, ended, server.said()))
    assert not failed


def test_a_reload_before_it_is_ready_does_not_end_it(start: Start) -> None:
    server = start()
    until("the first handler", lambda: catches(server.pid, signal.SIGHUP))
    server.child.signal(signal.SIGHUP)
    server.ready()
    until("the signal to be handled", lambda: "SIGHUP" in server.said())


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_encryption(start: Start, tmp_path: Path) -> None:
    """CFG-07, CFG-08: the payload is found nowhere; another key opens nothing; the environment wins."""
    flags = ("-st", "FILE", "--dir", "data", "--encrypt")
    server = start(*flags, "--encryption_key", "right").ready()
    with server.wire() as wire:
        assert publish(wire, wire.register("me"), "me", "foo", SECRET) == ""
    server.child.signal(signal.SIGTERM)
    server.child.wait(5)
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert files
    assert not any(SECRET in path.read_bytes() for path in files)
    wrong = start(*flags, "--encryption_key", "wrong", port=server.port)
    assert wrong.child.wait(10) == 1
    assert "[FTL] STREAM:" in wrong.said()
    right = start(
        *flags, "--encryption_key", "wrong", port=server.port, NATS_STREAMING_ENCRYPTION_KEY="right"
    )
    right.ready()


def test_reload(start: Start, tmp_path: Path) -> None:
    """CFG-05: SIGHUP changes users without dropping connections, and limits; mistakes change nothing."""
    conf = tmp_path / "x.conf"
    text = "authorization {{ users: [ {{user: ann, password: a}}{} ] }}\nstreaming {{ limits {{ mc: {} }} }}"
    conf.write_text(text.format("", 1))
    server = start("-c", str(conf)).ready()
    ann = Wire(server.port)
    ann.hello(b'{"verbose":false,"user":"ann","pass":"a"}')
    subjects = ann.register("ann")
    assert [publish(ann, subjects, "ann", name, b"x") for name in "ab"] == ["", "too many channels"]
    conf.write_text("streaming { limits { mc: many } }")
    server.child.signal(signal.SIGHUP)
    until("the complaint", lambda: "mc: expected an integer, not text" in server.said())
    assert "nothing was changed" in server.said()
    conf.write_text(text.format(", {user: bob, password: b}", 2))
    server.child.signal(signal.SIGHUP)
    until("the reload", lambda: "configuration reloaded" in server.said())
    with Wire(server.port) as bob:
        bob.hello(b'{"verbose":false,"user":"bob","pass":"b"}')
    assert ann.answers()
    until("the new limit", lambda: publish(ann, subjects, "ann", "b", b"x") == "")
    ann.socket.close()


def test_the_log_file_is_reopened_and_the_process_found(start: Start, tmp_path: Path) -> None:
    """CFG-05, CFG-06: SIGUSR1 after rotation; ``-sl word=pid``; the pid file says which."""
    log, pid = tmp_path / "server.txt", tmp_path / "server.pid"
    server = start("-l", str(log), "-P", str(pid))
    until("the ready line", lambda: log.exists() and READY in log.read_text())
    assert pid.read_text() == str(server.pid)
    log.rename(tmp_path / "server.1")
    for word, expected in (("reopen", "log file reopened"), ("reload", "configuration reloaded")):
        subprocess.run([COMMAND, "-sl", f"{word}={server.pid}"], check=True, timeout=20)
        until(expected, lambda expected=expected: log.exists() and expected in log.read_text())
    subprocess.run([COMMAND, "--signal", f"quit={server.pid}"], check=True, timeout=20)
    assert server.child.wait(5) == 0


def test_lame_duck(start: Start, tmp_path: Path) -> None:
    """SIGUSR2: clients are told, nobody new is taken, and it ends by itself with 0."""
    conf = tmp_path / "x.conf"
    conf.write_text('lame_duck_duration: "2s", lame_duck_grace_period: "100ms"')
    server = start("-c", str(conf)).ready()
    with Wire(server.port) as wire:
        wire.hello(b'{"verbose":false,"protocol":1}')
        server.child.signal(signal.SIGUSR2)
        assert b'"ldm":true' in wire.line()
        assert wire.rest() == b""
    assert server.child.wait(5) == 0
    with pytest.raises(ConnectionRefusedError):
        Wire(server.port)


def test_a_cluster_of_three(start: Start, ports: Ports) -> None:
    """--clustered with addressed peers: one publishes, another has it after the first was killed."""
    peers = {f"n{number}": ports.take() for number in (1, 2, 3)}
    servers = {}
    for name, port in peers.items():
        others = ",".join(f"{other}=127.0.0.1:{at}" for other, at in peers.items() if other != name)
        cluster = ("--clustered", "--cluster_node_id", name, "--cluster_peers", others)
        flags = ("-st", "FILE", "--dir", f"data-{name}", "--cluster", f"nats://127.0.0.1:{port}")
        servers[name] = start(*flags, *cluster)
    for server in servers.values():
        server.ready()
    with servers["n1"].wire() as wire:
        assert publish(wire, wire.register("me"), "me", "foo", b"x") == ""
    servers["n1"].kill()
    with servers["n2"].wire() as wire:
        until("a leader", lambda: publish(wire, wire.register("other"), "other", "foo", b"y") == "")


def test_a_cluster_that_begins_with_one(start: Start, ports: Ports) -> None:
    """--cluster_bootstrap: n1 alone founds it, n2 is added, and has what n1 stored before."""
    at = {name: ports.take() for name in ("n1", "n2")}

    def node(name: str, *flags: str) -> Server:
        return start(
            "--clustered", "--cluster_node_id", name, "-st", "FILE", "--dir", f"data-{name}",
            "--cluster", f"nats://127.0.0.1:{at[name]}", *flags,
        )  # fmt: skip

    first = node("n1", "--cluster_bootstrap").ready()
    with first.wire() as wire:
        assert publish(wire, wire.register("me"), "me", "foo", b"x") == ""
    second = node("n2", "--cluster_peers", f"n1=127.0.0.1:{at['n1']}")
    command = [STANCHION, "cluster", "add", "n2", "--peer", f"127.0.0.1:{at['n2']}"]
    subprocess.run([*command, "--server", f"127.0.0.1:{first.port}"], check=True, timeout=60)
    second.ready()
    command = [STANCHION, "channel", "info", "foo", "--json", "--server", f"127.0.0.1:{second.port}"]
    shown = json.loads(subprocess.run(command, check=True, timeout=60, capture_output=True).stdout)
    assert shown["last"] == 1, shown


@pytest.fixture
def clustered(start: Start, ports: Ports) -> Callable[..., Server]:
    """Start a node: ``clustered("n2", routes=["n1"])``; a word of its own for the directory."""
    at: dict[str, int] = {}
    clients: dict[str, int] = {}

    def node(name: str, *flags: str, routes: Sequence[str] = (), directory: str = "") -> Server:
        for each in (name, *routes):
            at.setdefault(each, ports.take())
        clients.setdefault(name, ports.take())
        words = ["--clustered", "-st", "FILE", "--dir", directory or f"data-{name}", *flags]
        words += ["--cluster", f"nats://127.0.0.1:{at[name]}"]
        if routes:
            words += ["--routes", ",".join(f"nats://127.0.0.1:{at[each]}" for each in routes)]
        return start(*words, port=clients[name])

    return node


def published(server: Server, channel: str, data: bytes) -> str:
    """Publish through a server, as a client of its own; the error."""
    with server.wire() as wire:
        name = f"c{time.monotonic_ns()}"
        return publish(wire, wire.register(name), name, channel, data)


def members_of(server: Server) -> dict[str, str]:
    """Everybody's role, asked of a server; empty while there is no answer."""
    command = [STANCHION, "cluster", "members", "--json", "--server", f"127.0.0.1:{server.port}"]
    shown = subprocess.run(command, timeout=60, capture_output=True, check=False)
    if shown.returncode:
        return {}
    return {member["name"]: member["role"] for member in json.loads(shown.stdout)["members"]}


def last_of(server: Server, channel: str) -> int:
    command = [STANCHION, "channel", "info", channel, "--json", "--server", f"127.0.0.1:{server.port}"]
    shown = subprocess.run(command, timeout=60, capture_output=True, check=False)
    return -1 if shown.returncode else int(json.loads(shown.stdout)["last"])


def test_others_join_the_first_by_themselves(clustered: Callable[..., Server]) -> None:
    """CLU-18: bootstrap and two with routes only, at the same moment; they replicate, outlive the first, and
    are there again after all were stopped; a fourth joins whom the first has never met."""
    votes = {"n1": "voter", "n2": "voter", "n3": "voter"}
    flags = {name: ["--cluster_node_id", name] for name in ("n1", "n2", "n3", "n4")}
    routes = {"n1": [], "n2": ["n1"], "n3": ["n1"]}
    servers = {"n2": clustered("n2", *flags["n2"], routes=["n1"])}
    servers["n1"] = clustered("n1", *flags["n1"], "--cluster_bootstrap").ready()
    assert published(servers["n1"], "foo", b"x") == ""
    servers["n3"] = clustered("n3", *flags["n3"], routes=["n1"])
    for server in servers.values():
        server.ready()
    until("three vote", lambda: members_of(servers["n1"]) == votes, 60)
    assert published(servers["n3"], "foo", b"y") == ""
    servers["n1"].kill()
    until("served", lambda: published(servers["n2"], "foo", b"z") == "", 60)
    until("all of it", lambda: last_of(servers["n3"], "foo") == 3, 60)
    fourth = clustered("n4", *flags["n4"], routes=["n1", "n3"]).ready()
    until("four vote", lambda: members_of(fourth) == {"n1": "voter", **votes, "n4": "voter"}, 60)
    for server in (*servers.values(), fourth):
        server.kill()
    for name in ("n3", "n1", "n2"):
        bootstrap = ["--cluster_bootstrap"] if name == "n1" else []
        servers[name] = clustered(name, *flags[name], *bootstrap, routes=routes[name])
    for server in servers.values():
        server.ready()
    assert published(servers["n1"], "foo", b"again") == ""
    until("all of it again", lambda: {last_of(server, "foo") for server in servers.values()} == {4}, 60)


def test_who_joins_while_leaders_die_is_in_in_the_end(clustered: Callable[..., Server]) -> None:
    """CLU-18: two ask at the same moment, and whoever leads is killed over it, again and again."""
    names = ["n1", "n2", "n3"]
    routes = {"n1": [], "n2": ["n1"], "n3": ["n1", "n2"], "n4": names, "n5": names}

    def node(name: str) -> Server:
        bootstrap = ["--cluster_bootstrap"] if name == "n1" else []
        return clustered(name, "--cluster_node_id", name, *bootstrap, routes=routes[name])

    servers = {name: node(name).ready() for name in names}
    until("three vote", lambda: members_of(servers["n1"]) == dict.fromkeys(names, "voter"), 60)
    servers |= {name: node(name) for name in ("n4", "n5")}
    for _ in range(2):
        leading = r"ready to lead term (\d+)"
        terms = {name: re.findall(leading, servers[name].said())[-1:] for name in names}
        leader = max(names, key=lambda name: int((terms[name] or ["0"])[0]))
        asked = re.compile(r"(asking to join|changes the members: .*n[45])")
        until("somebody asks", lambda asked=asked: any(asked.search(servers[n].said()) for n in servers), 60)
        servers[leader].kill()
        servers[leader] = node(leader).ready()
    for server in servers.values():
        server.ready()
    votes = dict.fromkeys([*names, "n4", "n5"], "voter")
    until("five vote", lambda: members_of(servers["n2"]) == votes, 60)
    assert published(servers["n4"], "foo", b"x") == ""


def test_nodes_without_names_draw_them_and_keep_them(
    clustered: Callable[..., Server], tmp_path: Path
) -> None:
    """Neither node has --cluster_node_id; both are the same after a restart."""
    first, second = clustered("a", "--cluster_bootstrap"), clustered("b", routes=["a"])
    names = {}
    for name, server in (("a", first), ("b", second)):
        server.ready()
        names[name] = (tmp_path / f"data-{name}" / "node_id").read_text()
    votes = dict.fromkeys(names.values(), "voter")
    until("two vote", lambda: members_of(first) == votes, 60)
    for server in (first, second):
        server.child.signal(signal.SIGTERM)
        server.child.wait(10)
    first, second = clustered("a", "--cluster_bootstrap"), clustered("b", routes=["a"])
    assert published(second.ready(), "foo", b"x") == ""
    assert members_of(first) == votes


def test_two_that_found_the_same_cluster_both_end(clustered: Callable[..., Server]) -> None:
    """Each says which other one; but one whom others have joined goes on."""
    node = ["--cluster_node_id"]
    one = clustered("n1", *node, "n1", "--cluster_bootstrap").ready()
    two = clustered("n2", *node, "n2", "--cluster_bootstrap", routes=["n1"])
    assert (one.child.wait(20), two.child.wait(20)) == (1, 1)
    assert "[FTL] STREAM: Server n2 was also started with -cluster_bootstrap" in one.said()
    assert "[FTL] STREAM: Server n1 was also started with -cluster_bootstrap" in two.said()
    one = clustered("n1", *node, "n1", "--cluster_bootstrap").ready()
    three = clustered("n3", *node, "n3", routes=["n1"]).ready()
    until("n3 votes", lambda: members_of(three) == {"n1": "voter", "n3": "voter"}, 60)
    stray = clustered("n4", *node, "n4", "--cluster_bootstrap", routes=["n1"])
    assert stray.child.wait(20) == 1
    assert "Server n1 was also started with -cluster_bootstrap" in stray.said()
    assert published(one, "foo", b"x") == ""


def test_a_first_node_without_its_directory_founds_nothing_anew(
    clustered: Callable[..., Server], tmp_path: Path
) -> None:
    """Its command line says bootstrap, and it knows nobody; but those that joined it dial it."""
    name = "--cluster_node_id"
    first = clustered("n1", name, "n1", "--cluster_bootstrap").ready()
    second = clustered("n2", name, "n2", routes=["n1"]).ready()
    until("n2 votes", lambda: members_of(second) == {"n1": "voter", "n2": "voter"}, 60)
    assert published(first, "foo", b"x") == ""
    first.kill()
    shutil.rmtree(tmp_path / "data-n1")
    again = clustered("n1", name, "n1", "--cluster_bootstrap")
    assert again.child.wait(20) == 1
    texts = ("n1 has an empty directory, but n2 has the state of", "discovered another streaming server")
    assert any(text in again.said() for text in texts), again.said()
    assert READY not in again.said()
    assert not (tmp_path / "data-n1" / "identity.json").exists()


def test_who_is_not_let_in(clustered: Callable[..., Server], tmp_path: Path) -> None:
    """A name that is taken; a cluster whose nodes name each other."""
    node = ["--cluster_node_id"]
    first = clustered("n1", *node, "n1", "--cluster_bootstrap").ready()
    second = clustered("n2", *node, "n2", routes=["n1"]).ready()
    until("n2 votes", lambda: members_of(first) == {"n1": "voter", "n2": "voter"}, 60)
    other = clustered("n3", *node, "n2", routes=["n1"])
    assert other.child.wait(20) == 1
    said = other.said()
    assert (
        "[FTL] STREAM: failed to join Raft group test-cluster: n2 is a member of this cluster already" in said
    )
    assert "stanchion cluster replace n2 n2" in said
    assert published(second, "foo", b"x") == ""
    first.kill()
    second.kill()


def test_who_finds_no_cluster_gives_up(clustered: Callable[..., Server]) -> None:
    """Nobody is there: it ends by itself, after 30 s, with the Go server's text."""
    lonely = clustered("n2", "--cluster_node_id", "n2", routes=["n1"])
    until("the first attempt", lambda: "can't join at 127.0.0.1:" in lonely.said())
    assert lonely.child.wait(45) == 1
    assert "[FTL] STREAM: failed to join Raft group test-cluster\n" in lonely.said()


def test_the_ports_are_bound_before_anything_is_loaded(start: Start, ports: Ports) -> None:
    """A suite that tries once, a quarter of a second after it started us, isn't refused.

    How soon exactly is for a machine that does nothing else: ``bench/``.
    """
    http_port = ports.take()
    began = time.monotonic()
    server = start("-m", str(http_port))
    sock: socket.socket | None = None
    while sock is None:
        try:
            sock = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        except ConnectionRefusedError:
            time.sleep(0.002)  # between two attempts
    bound_s = time.monotonic() - began
    with sock:
        assert sock.recv(4096).startswith(b"INFO {")
        sock.sendall(b'CONNECT {"verbose":false}\r\n' + nats.PING)
        assert sock.recv(4096) == b"PONG\r\n"
    ready_s = time.monotonic() - began
    monitor = http.client.HTTPConnection("127.0.0.1", http_port, timeout=10)
    monitor.request("GET", "/subsz")
    assert json.loads(monitor.getresponse().read())["num_subscriptions"] >= 7, "stan.py's suite waits for it"
    monitor.close()
    assert bound_s < ready_s / 2, f"bound after {bound_s:.3f} s, ready after {ready_s:.3f} s"
