"""The Go server's flags and files as our configuration: every option mapped, noted or refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from node.config import reference
from node.config.model import MAX_PAYLOAD_MAX, Config
from node.config.reference import Invocation, configuration, read
from node.config.reference_flags import OPTIONS, row
from node.config.values import HOUR, MINUTE, Address, Secret
from node.errors import ConfigError
from node.units import MILLISECOND, SECOND

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference-server.md"


def made(*argv: str, port: int = 4222, **environ: str) -> tuple[Invocation, Config]:
    invocation = read(argv, environ)
    return invocation, configuration(invocation, invocation.port or port)


def config(*argv: str) -> Config:
    return made(*argv)[1]


def problems(*argv: str, **environ: str) -> str:
    """What is wrong with it, however far it gets."""
    with pytest.raises(ConfigError) as caught:
        made(*argv, **environ)
    return "\n".join(caught.value.problems)


@pytest.fixture
def conf(tmp_path: Path) -> Any:
    def write(text: str, name: str = "test.conf") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


# --- the command line -----------------------------------------------------------------------------


def test_without_flags_it_is_the_go_servers_default() -> None:
    """In memory, on port 4222 of every address, no monitoring, the reference's limits."""
    invocation, found = made()
    assert (invocation.host, invocation.port, invocation.action) == ("0.0.0.0", 4222, "")
    assert found.store.store == "memory"
    assert found.cluster.id == "test-cluster"
    (node,) = found.cluster.nodes.values()
    assert (node.client, node.peer, node.http, node.advertise) == (Address("0.0.0.0", 4222), None, None, None)
    assert (found.limits.max_channels, found.limits.max_msgs) == (100, 1_000_000)
    assert invocation.notes == invocation.warnings == []


TLS = "tls { cert_file: c.pem, key_file: k.pem, ca_file: a.pem }"


@pytest.mark.parametrize(
    "words",
    [
        ["-mc", "5"],
        ["--mc", "5"],
        ["-mc=5"],
        ["--max_channels", "5"],
        ["-max_channels=5"],
        ["-mc", "4", "-mc", "5"],
        ["-replace_durable=false", "-mc", "5"],
    ],
)
def test_flags_take_one_dash_or_two_and_an_equals_sign(words: list[str]) -> None:
    """CFG-01."""
    assert config(*words).limits.max_channels == 5


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["-replace_durable"], True),
        (["--replace_durable=true"], True),
        (["-replace_durable=T"], True),
        (["-replace_durable=0"], False),
    ],
)
def test_booleans(words: list[str], value: bool) -> None:
    assert config(*words).streaming.replace_durable is value


def test_the_mapped_flags() -> None:
    words = (
        "-cid c1 -hbi 1s -hbt 500ms -hbf 3 -mc 1 -msu 2 -mm 3 -mb 4KB -ma 1h30m -mi 5m "
        "-a 127.0.0.1 -p 4333 -n me -m 8333 --user ann --pass pw -l x.log -P x.pid -SDV "
        "-client_advertise out:9"
    )
    invocation, found = made(*words.split())
    (node,) = found.cluster.nodes.values()
    assert node.client == Address("127.0.0.1", 4333)
    assert node.http == Address("127.0.0.1", 8333)
    assert node.advertise == Address("out", 9)
    assert node.server_name == "me"
    limits, streaming = found.limits, found.streaming
    assert (limits.max_channels, limits.max_subs, limits.max_msgs, limits.max_bytes) == (1, 2, 3, 4096)
    assert (limits.max_age_ns, limits.max_inactivity_ns) == (90 * MINUTE, 5 * MINUTE)
    assert (streaming.hb_interval_ns, streaming.hb_timeout_ns) == (SECOND, 500 * MILLISECOND)
    assert streaming.hb_fail_count == 3
    assert found.cluster.id == "c1"
    assert (found.clients.user, found.clients.password) == ("ann", Secret("text", "pw"))
    assert found.logging.file == Path.cwd() / "x.log"
    assert found.logging.level == "debug"
    assert (invocation.pid_file, invocation.debug_nats, invocation.debug_streaming) == ("x.pid", False, True)
    assert not found.monitoring.open


@pytest.mark.parametrize(
    ("words", "nats", "streaming"),
    [("-D", 1, 0), ("-V", 1, 0), ("-DV", 1, 0), ("-SD", 0, 1), ("-SDV -DV", 1, 1), ("-SD=false", 0, 0)],
)
def test_levels(words: str, nats: bool, streaming: bool) -> None:
    invocation = read(words.split(), {})
    assert (invocation.debug_nats, invocation.debug_streaming) == (nats, streaming)


def test_a_random_port() -> None:
    """-p -1; the file's ``listen`` gives way to the flag."""
    invocation, found = made("-p", "-1", port=30303)
    assert invocation.port == 0
    assert found.cluster.nodes["n1"].client.port == 30303


@pytest.mark.parametrize(
    ("words", "action"),
    [("-h", "help"), ("--help", "help"), ("-v", "version"), ("-t -mc 5", "check"), ("-sl quit=5", "signal")],
)
def test_actions(words: str, action: str) -> None:
    invocation = read(words.split(), {})
    assert invocation.action == action
    assert invocation.signal == ("quit=5" if action == "signal" else "")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("-max_chanels 5", "unknown flag -max_chanels; did you mean max_channels?"),
        ("--nothing", "unknown flag -nothing"),
        ("serve", "unexpected argument 'serve'"),
        ("-mc", "flag -mc: expected an integer as its value"),
        ("-mc five", "flag -mc: expected an integer, not 'five'"),
        ("-mc=-1", "flag -mc: limits.max_channels: max channels limit cannot be negative (-1)"),
        ("-ma 5", "flag -ma: expected a duration such as 30s, not '5'"),
        ("-mb lots", "flag -mb: expected a size such as 64MB, not 'lots'"),
        ("-replace_durable=maybe", "flag -replace_durable: expected a boolean, not 'maybe'"),
        ("-replace_durable true", "unexpected argument 'true'"),
        ("-p 70000", "flag -p: expected a port"),
        ("-a no/host", "flag -a: expected a host name"),
        ("-st DISK", "flag -st: expected MEMORY or FILE, not DISK"),
        (
            "-st SQL",
            "flag -st: the SQL store is not supported: use FILE with --dir, replicated with --clustered",
        ),
        ("-st FILE", "flag -st: the FILE store needs a directory: --dir DIR"),
        ("-ft_group g", "use three nodes with --clustered"),
        ("-ns nats://ann:pw@ho/st:4222", "flag -ns: invalid address in the URL: expected a host name"),
        (
            "-ns http://ann:pw@host:4222",
            "flag -ns: expected a URL that starts with nats:// or tls://, not http://",
        ),
        ("-ns h -tls_client_cert c.pem", "streaming.nats_server.tls.cert: has no effect without key"),
        ("-routes nats://host:5222", "cluster.routes: host:5222 is not on the loopback"),
        (
            "-cluster nats://host:5222",
            "flag -cluster: cluster.nodes.n1.peer: host:5222 is not on the loopback",
        ),
        ("-cluster nats://u:p@127.0.0.1:5222", "flag -cluster: nodes authenticate by certificates"),
        ("-routes nats://u:p@ho/st:5222", "flag -routes: invalid address in the URL"),
        ("-ns h -routes nats://127.0.0.1:1", "cluster.routes: has no effect with streaming.nats_server"),
        ("-tls", "TLS for clients is not supported"),
        ("-sql_driver mysql", "the SQL store is not supported"),
        ("-file_slice_archive_script x.sh", "archive with a durable subscriber"),
        ("-encrypt", "flag -encrypt: encryption key required"),
        ("-encryption_key k -encryption_cipher DES", "encryption cipher not supported"),
        ("-m -1", "flag -m: expected a fixed port for monitoring"),
        ("-user ann", "clients.user: has no effect without password"),
        ("-c nowhere.conf", "nowhere.conf: can't be read"),
    ],
)
def test_what_is_refused(words: str, problem: str) -> None:
    """CFG-03: the error names the flag, the mistake, or the alternative."""
    assert problem in problems(*words.split())


def test_all_mistakes_are_reported_at_once(conf: Any) -> None:
    file = conf("prot: 1\nstreaming { hbi: 5 }")
    found = problems("-c", file, "-mc", "x", "-st", "SQL", "--what")
    for part in (
        "unknown flag -what",
        "-mc: expected",
        "unknown key prot",
        "hbi: expected a duration",
        "SQL",
    ):
        assert part in found


def test_no_error_shows_a_secret(conf: Any) -> None:
    file = conf("authorization { users: [ {user: ann, password: 12345678} ] }")
    assert "12345678" not in problems("-c", file)


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.note], ids=lambda o: o.name)
def test_a_noted_option_gives_one_log_line(option: Any, conf: Any) -> None:
    """Accepted, with what applies instead."""
    value = {"a boolean": "true", "an integer": "5", "a size such as 64MB": "5"}.get(option.kind, "x")
    value = '"5s"' if option.kind.startswith("a duration") else value
    if option.flags:
        invocation, _ = made(f"-{option.flags[0]}={value.strip(chr(34))}")
    else:
        way = {"streaming.tls": "tls", "streaming.cluster": "cluster", "nats": ""}.get(option.section, "")
        inner = f"{option.keys[0]}: {value}"
        inner = f"{way} {{ {inner} }}" if way else inner
        text = inner if option.section == "nats" else f"streaming {{ {inner} }}"
        if option.section == "streaming.cluster":
            invocation = read(["-c", conf(text), *f"{NODE} -cluster_peers n2=127.0.0.1:2".split()], {})
        else:
            invocation, _ = made("-c", conf(text))
    assert len([note for note in invocation.notes if option.note in note]) == 1


def test_a_refused_option_may_be_off(conf: Any) -> None:
    """Files list defaults: a switch that is off asks for nothing."""
    file = conf(
        "tls: {}\nhttps: 0\nstreaming { partitioning: false, ft_group: '', sql { max_open_conns: 0 } }"
    )
    assert made("-c", file, "-tls=false", "-routes=", "-encrypt=false", "-clustered=false")[0].notes == []


# --- files ----------------------------------------------------------------------------------------

BOTH = """
# NATS
MINE: 4444
listen: "127.0.0.1:$PORT"
port: $MINE
http: 8444
max_payload: 2MB
Ping_Interval: 30        // seconds
write_deadline: "3s"
max_connections: 10
authorization {
    timeout: 0.5
    default_permissions { publish: "a.>", subscribe { deny: [b, c.*] } }
    users: [
        {user: ann, password: $PW}
        {username: bob, pass: $2a$11$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
         permissions {sub: {allow: ">"}}}
    ]
}
no_auth_user: ann
streaming {
    cluster_id: "c2"
    store: file
    dir: "/nowhere/at/all"
    hb_interval: "20s"
    store_limits {
        max_msgs: 10
        max_bytes: 1MB
        max_age: "24h"
        channels {
            "foo.>": { max_msgs: 400 }
            foo.Bar: { mm: 0, max_age: "1h" }
        }
    }
}
"""


def test_a_file(conf: Any) -> None:
    """Case of keys, variables, sizes, durations, users with permissions, limits of channels."""
    text = BOTH.replace('"127.0.0.1:$PORT"', '"127.0.0.1:1"')
    invocation, found = made("-c", conf(text), PW="12345")
    (node,) = found.cluster.nodes.values()
    assert node.client == Address("127.0.0.1", 4444)
    assert node.http == Address("127.0.0.1", 8444)
    clients = found.clients
    assert clients.max_payload == 2 << 20
    assert (clients.ping_interval_ns, clients.write_deadline_ns) == (30 * SECOND, 3 * SECOND)
    assert (clients.max_connections, clients.auth_timeout_ns) == (10, SECOND // 2)
    ann, bob = clients.users
    assert (ann.user, ann.password, clients.no_auth_user) == ("ann", Secret("text", "12345"), "ann")
    assert ann.permissions is not None
    assert (ann.permissions.publish.allow, ann.permissions.subscribe.deny) == (("a.>",), ("b", "c.*"))
    assert bob.permissions is not None
    assert bob.permissions.subscribe.allow == (">",)
    assert bob.permissions.publish.allow is None
    assert found.cluster.id == "c2"
    assert (found.store.store, found.store.dir) == ("file", Path("/nowhere/at/all"))
    limits = found.limits
    assert (limits.max_msgs, limits.max_bytes, limits.max_age_ns) == (10, 1 << 20, 24 * HOUR)
    assert limits.channels["foo.>"].max_msgs == 400
    assert (limits.channels["foo.Bar"].max_msgs, limits.channels["foo.Bar"].max_age_ns) == (0, HOUR)
    assert limits.channels["foo.Bar"].max_bytes is None
    assert invocation.warnings == []


def test_the_command_line_beats_the_file(conf: Any) -> None:
    """CFG-02: also where several keys say one thing, and all of the file's credentials go at once."""
    words = "-p 5555 -cid c9 -mm 7 -st MEMORY -m 9999 --auth t0ken"
    file = conf(BOTH.replace("no_auth_user: ann", "").replace("$PORT", "1"))
    _, found = made("-c", file, *words.split(), PW="p")
    (node,) = found.cluster.nodes.values()
    assert (node.client.port, node.http) == (5555, Address("0.0.0.0", 9999))
    assert (found.cluster.id, found.limits.max_msgs, found.store.store) == ("c9", 7, "memory")
    assert (found.clients.users, found.clients.token) == ((), Secret("text", "t0ken"))
    assert found.limits.max_bytes == 1 << 20


def test_one_file_without_a_streaming_map_is_both(conf: Any) -> None:
    text = "port: 4555\ncid: c3\nlimits { mc: 3 }\ntls { client_cert: x }\nmax_payload: 1k\n"
    text += "cluster { sync: true }"
    file = conf(text)
    for flag in ("-c", "-sc"):
        with pytest.raises(ConfigError, match="a cluster needs its other nodes"):
            made(flag, file)
        invocation, found = made(flag, file, "-clustered=false")
        assert (found.cluster.id, found.limits.max_channels) == ("c3", 3)
        assert found.clients.max_payload == 1000
        assert found.cluster.nodes["n1"].client.port == 4555
        assert [note.split(":")[0] for note in invocation.notes] == ["sync", "client_cert"]


def test_two_files(conf: Any) -> None:
    nats, stan = conf("port: 4555", "nats.conf"), conf("streaming { cid: c4 }", "stan.conf")
    found = config("-c", nats, "-sc", stan)
    assert (found.cluster.id, found.cluster.nodes["n1"].client.port) == ("c4", 4555)
    assert config("-c", nats, "-sc", conf("cid: c5", "plain.conf")).cluster.id == "c5"
    assert "unknown key cid" in problems("-c", conf("cid: c4", "wrong.conf"), "-sc", stan)
    assert "unknown key port" in problems("-c", nats, "-sc", conf("port: 5\nstreaming {}", "wrong.conf"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('port: "4222"', "test.conf:1:1: port: expected an integer, not text"),
        ("streaming { encrypt: 1 }", "test.conf:1:13: encrypt: expected a boolean, not an integer"),
        ("streaming { hbi: 30 }", "hbi: expected a duration such as 30s, not an integer"),
        ('streaming { hbi: "soon" }', "hbi: expected a duration such as 30s, not 'soon'"),
        ("streaming { cid: 5 }", "cid: expected text, not an integer"),
        ("streaming { limits: 5 }", "limits: expected a map, not an integer"),
        ("streaming: 5", "streaming: expected a map"),
        ("streaming { limits { max_channels: '5' } }", "max_channels: expected an integer, not text"),
        ("streaming { limits { channels { foo: { max_msg: 5 } } } }", "unknown key; did you mean max_msgs?"),
        ("streaming { limits { channels { foo: { max_channels: 5 } } } }", "max_channels: unknown key"),
        ("streaming { limits { channels { foo: 5 } } }", "foo: expected a map"),
        ("streaming { limits { channels { 'foo..x': {} } } }", 'invalid channel name "foo..x"'),
        (
            "streaming { limits { mm: -1 } }",
            "mm: limits.max_msgs: max messages limit cannot be negative (-1)",
        ),
        ("streaming { clusterid: x }", "unknown key clusterid; did you mean cluster_id?"),
        ("tls { cert_file: x }", "tls: TLS for clients is not supported"),
        ("streaming { sql { driver: mysql } }", "driver: the SQL store is not supported"),
        ("authorization { users: [ 5 ] }", "users[0]: expected a map"),
        ("authorization { users: [ {user: a, password: b, nkey: c} ] }", "nkey: unknown or unsupported key"),
        (
            "authorization { users: [ {user: a, password: b, permissions {publsh: x}} ] }",
            "publsh: unknown or unsupported key",
        ),
        ("authorization { users: [ {user: a, password: b, permissions {pub: {al: x}}} ] }", "unknown key al"),
        ("authorization { default_permissions {} }", "has no effect without users"),
        ("listen: 'x:y'", "listen: expected host:port"),
        ("cluster { authorization { user: a } , port: 1}", "nodes authenticate by certificates"),
        ("max_payload: 100MB", "max_payload: clients.max_payload: expected at most"),
    ],
)
def test_mistakes_in_files_say_where(text: str, problem: str, conf: Any) -> None:
    assert problem in problems("-c", conf(text))


def test_a_larger_max_payload_starts_with_what_the_log_can_hold(conf: Any) -> None:
    """The Go server takes 64 MB; a drop-in's file should not keep it from starting."""
    assert reference.PAYLOAD_MAX == MAX_PAYLOAD_MAX
    for text, size, warned in (("8MB", 8 << 20, False), ("9MB", 8 << 20, True), ("64MB", 8 << 20, True)):
        invocation, found = made("-c", conf(f"max_payload: {text}"))
        assert found.clients.max_payload == size
        assert any("max_payload" in warning for warning in invocation.warnings) == warned


def test_monitoring_listens_where_clients_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the Go server. Off the loopback, statistics are open and the other pages need the token."""
    invocation, found = made("-m", "8222")
    assert found.cluster.nodes["n1"].http == Address("0.0.0.0", 8222)
    assert (found.monitoring.open, found.monitoring.figures_open) == (False, True)
    assert "off the loopback, pages with names of clients or channels are refused" in invocation.notes[0]
    monkeypatch.setenv("STANCHION_MONITORING_TOKEN", "t")
    invocation, found = made("-m", "8222", STANCHION_MONITORING_TOKEN="t")
    assert (found.monitoring.figures_open, invocation.notes) == (True, [])
    assert found.monitoring.token is not None
    invocation, found = made("-m", "8222", "-a", "127.0.0.1")
    assert found.cluster.nodes["n1"].http == Address("127.0.0.1", 8222)
    assert (found.monitoring.open, found.monitoring.figures_open) == (False, False)


def test_an_explicit_address_is_open(conf: Any) -> None:
    invocation, found = made("-c", conf('http: "0.0.0.0:8222"'))
    assert found.cluster.nodes["n1"].http == Address("0.0.0.0", 8222)
    assert found.monitoring.open
    assert "everyone who can reach 0.0.0.0:8222" in invocation.warnings[0]
    assert config("-m", "0").cluster.nodes["n1"].http is None


# --- the store and its encryption -----------------------------------------------------------------


def test_the_file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to where the command was started, as the Go server has it; never over a Go server's data."""
    monkeypatch.chdir(tmp_path)
    found = config("-store", "file", "-dir", "data")
    assert (found.store.store, found.store.dir) == ("file", tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "server.dat").touch()
    assert "has the store of a Go server" in problems("-store", "file", "-dir", "data")
    assert "unused by the MEMORY store" in made("-dir", "data")[0].notes[0]


def test_encryption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment wins over the flag (CFG-08); a key alone encrypts; it is shown nowhere."""
    words = ["-st", "FILE", "-dir", str(tmp_path)]
    found = config(*words, "-encryption_key", "hidden", "-encryption_cipher", "chacha").store.encryption
    assert found is not None
    assert (found.cipher, found.key) == ("chacha20-poly1305", Secret("text", "hidden"))
    assert "hidden" not in repr(found)
    monkeypatch.setenv("NATS_STREAMING_ENCRYPTION_KEY", "other")
    found = made(*words, "-encrypt", "-encryption_key", "k", NATS_STREAMING_ENCRYPTION_KEY="other")[1]
    assert found.store.encryption is not None
    assert found.store.encryption.key is not None
    assert found.store.encryption.key.reveal() == "other"
    assert config(*words).store.encryption is None
    invocation, found = made("-encryption_key", "k")
    assert found.store.encryption is None
    assert "writes nothing to encrypt" in invocation.notes[0]


# --- an external NATS server ----------------------------------------------------------------------


def test_an_external_server() -> None:
    """Several URLs with credentials; options for clients of this node are noted as without effect."""
    invocation, found = made(
        "-ns", "nats://ann:p%40w@a:4333,s3same@b,tls://[::1]:1", "-p", "4555", "-a", "1.2.3.4"
    )
    server = found.streaming.nats_server
    assert server is not None
    assert invocation.is_external
    assert [(url.host, url.port) for url in server.urls] == [("a", 4333), ("b", 4222), ("::1", 1)]
    assert [(url.user, url.password, url.token) for url in server.urls] == [
        ("ann", "p@w", ""), ("", "", "s3same"), ("", "", ""),
    ]  # fmt: skip
    assert server.tls is not None, "tls:// asks for it"
    assert "p@w" not in repr(found)
    assert "s3same" not in repr(server)
    assert [note for note in invocation.notes if "clients connect to that NATS server" in note] == [
        "-p, -a: no effect with -ns: clients connect to that NATS server"
    ] or "-a, -p: no effect" in invocation.notes[0]
    assert config().streaming.nats_server is None


@pytest.mark.parametrize(
    "words",
    [
        ["-ns", "h:1", "-user", "ann", "-pass", "pw"],
        ["-ns", "h:1", "-c", "streaming { username: ann, password: pw }"],
        [
            "-c",
            "authorization { user: ann, password: pw }\nstreaming { ns: 'nats://h:1', user: bob, pass: x }",
        ],
    ],
)
def test_credentials_for_an_external_server(words: list[str], conf: Any) -> None:
    """The NATS part's credentials are for that connection then, and beat the streaming part's."""
    words = [conf(word) if "{" in word else word for word in words]
    found = config(*words)
    server = found.streaming.nats_server
    assert server is not None
    assert server.password is not None
    assert (server.user, server.password.reveal()) == ("ann", "pw")
    assert (found.clients.user, found.clients.users) == (None, ())


def test_tls_to_an_external_server(conf: Any) -> None:
    """-secure is said to be insecure; nkeys and files of credentials are refused rather than passed over."""
    file = conf(
        f"streaming {{ ns: 'h:1', tls {{ client_ca: '{conf('x', 'CA')}', server_name: n.example }} }}"
    )
    server = config("-c", file).streaming.nats_server
    assert server is not None
    assert server.tls is not None
    assert (server.tls.ca is not None, server.tls.server_name, server.tls.skip_verify) == (
        True,
        "n.example",
        False,
    )
    invocation, found = made("-ns", "h:1", "-secure")
    assert found.streaming.nats_server is not None
    assert found.streaming.nats_server.tls is not None
    assert found.streaming.nats_server.tls.skip_verify
    assert "is not verified" in invocation.warnings[0]
    for key in ("credentials", "nkey_seed_file"):
        assert f"{key}: " in problems("-c", conf(f"streaming {{ ns: 'h:1', {key}: x }}"))


def test_without_one_there_is_no_connection_to_nats(conf: Any) -> None:
    invocation, _ = made(
        "-secure", "-c", conf("streaming { username: ann, password: pw, tls { client_ca: x } }")
    )
    assert sorted(note.split(":")[0] for note in invocation.notes) == [
        "-secure", "client_ca", "password", "username",
    ]  # fmt: skip
    assert all("no connection to an external NATS server" in note for note in invocation.notes)


# --- clusters -------------------------------------------------------------------------------------

NODE = "-clustered -cluster_node_id n1 -st FILE -dir d1 -cluster nats://127.0.0.1:6001 -p 4333"


def test_a_node_of_a_cluster() -> None:
    """Peers have addresses; they report their client addresses themselves."""
    peers = "-cluster_peers n2=127.0.0.1:6002,n3=nats-route://u:p@127.0.0.1:6003"
    invocation, found = made(*NODE.split(), *peers.split(), "-routes", "nats://127.0.0.1:6002")
    assert invocation.node == "n1"
    nodes = found.cluster.nodes
    assert set(nodes) == {"n1", "n2", "n3"}
    assert [nodes[name].peer for name in ("n1", "n2", "n3")] == [
        Address("127.0.0.1", port) for port in (6001, 6002, 6003)
    ]
    assert nodes["n1"].client == Address("0.0.0.0", 4333)
    assert nodes["n1"].advertise == Address("127.0.0.1", 4333)
    assert nodes["n2"].client.port == 0
    assert found.cluster.routes == (Address("127.0.0.1", 6002),)


def test_peers_are_found_on_routes() -> None:
    """As the Go server's: names here, addresses there."""
    routes = "-routes nats://127.0.0.1:6002,nats-route://127.0.0.1"
    invocation, found = made(*NODE.split(), *routes.split(), "-cluster_peers", "n2,n3")
    assert invocation.peers == {"n2": None, "n3": None}
    assert [node.peer for node in found.cluster.nodes.values()] == [Address("127.0.0.1", 6001), None, None]
    assert found.cluster.routes == (Address("127.0.0.1", 6002), Address("127.0.0.1", 6222))


def test_routes_of_a_server_alone(conf: Any) -> None:
    """Its listen address and the routes it dials; a server that only listens accepts routes."""
    found = config("-cluster", "nats://127.0.0.1:6222")
    assert found.cluster.nodes["n1"].peer == Address("127.0.0.1", 6222)
    assert (found.cluster.routes, found.cluster.no_advertise) == ((), False)
    text = (
        "cluster { host: localhost, port: 6222, no_advertise: true, routes: ['nats-route://localhost:7222'] }"
    )
    found = config("-c", conf(text + "\nstreaming { cid: c }"))
    assert found.cluster.nodes["n1"].peer == Address("localhost", 6222)
    assert (found.cluster.routes, found.cluster.no_advertise) == ((Address("localhost", 7222),), True)
    assert config("-routes", "nats://127.0.0.1:6222").cluster.nodes["n1"].peer is None
    assert config().cluster.routes is None
    invocation, _ = made("-routes", "nats://u:pw@127.0.0.1:6222")
    assert "-routes: nodes authenticate by certificates; password ignored" in invocation.notes


@pytest.mark.parametrize(
    ("cluster", "peer", "listen"),
    [
        ("port: 6222", "127.0.0.1:6222", None),
        ("listen: 6222", "127.0.0.1:6222", None),
        ("listen: ':6222'", "127.0.0.1:6222", None),
        ("host: 0.0.0.0, port: 6222, routes: ['nats://127.0.0.2:7222']", "127.0.0.1:6222", None),
        ("port: 6222, cluster_advertise: localhost", "localhost:6222", "127.0.0.1:6222"),
        ("listen: '127.0.0.1:6222', advertise: 'localhost:7222'", "localhost:7222", "127.0.0.1:6222"),
        (f"port: 6222, cluster_advertise: 'n1:7222', {TLS}", "n1:7222", "0.0.0.0:6222"),
        (f"port: 6222, cluster_advertise: '[2001:db8::1]:7222', {TLS}", "[2001:db8::1]:7222", "0.0.0.0:6222"),
        (f"port: 6222, {TLS}", "0.0.0.0:6222", None),
    ],
)
def test_where_a_server_alone_listens_for_routes(
    conf: Any, cluster: str, peer: str, listen: str | None
) -> None:
    """A port alone listens everywhere, as in the Go server; without certificates on the loopback only."""
    invocation = read(["-c", conf(f"cluster {{ {cluster} }}")], {})
    (node,) = branch(invocation, "cluster", "nodes").values()
    assert (node["peer"], node.get("peer_listen")) == (peer, listen)


def test_a_clustered_node_is_reached_where_it_reaches_its_route(conf: Any) -> None:
    text = f"cluster {{ port: 6222, routes: ['nats://127.0.0.2:7222'], {TLS} }}"
    invocation = read(["-c", conf(text), *["-clustered", "-store", "FILE", "-dir", "d"]], {})
    (node,) = branch(invocation, "cluster", "nodes").values()
    assert (node["peer"], node["peer_listen"]) == ("127.0.0.1:6222", "0.0.0.0:6222")


@pytest.mark.parametrize(
    ("cluster", "problem"),
    [
        ("port: 6222, cluster_advertise: '0.0.0.0'", "the other nodes can't connect to 0.0.0.0:6222"),
        ("port: 6222, cluster_advertise: 'n1:port'", "expected an address"),
        ("port: 6222, cluster_advertise: n1", "to listen on every address, add certificates"),
    ],
)
def test_a_wrong_address_for_routes_is_refused(conf: Any, cluster: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        read(["-c", conf(f"cluster {{ {cluster} }}")], {})


def branch(invocation: Invocation, *path: str) -> dict[str, dict[str, str]]:
    """The words below a place of the configuration that was made."""
    tree: Any = invocation.tree
    for step in path:
        tree = tree.values[step]
    return {
        name: {key: value.text for key, value in node.values.items()} for name, node in tree.values.items()
    }


def test_a_cluster_in_a_file(conf: Any) -> None:
    """The own name in the list is its address; TLS between nodes is mutual."""
    text = """
    listen: "10.0.0.1:4222"
    streaming { cid: c, st: FILE, dir: d,
      cluster { node_id: n1, peers: ["n1=10.0.0.1:6222", "n2=10.0.0.2:6222"], sync: true } }
    cluster { tls { cert_file: "CERT", key_file: "KEY", ca_file: "CA", verify: true } }
    """
    for name in ("CERT", "KEY", "CA"):
        text = text.replace(f'"{name}"', f'"{conf("x", name)}"')
    found = config("-c", conf(text))
    assert found.cluster.peer_security.mode == "mtls"
    assert found.cluster.peer_security.cert is not None
    assert found.cluster.nodes["n1"].peer == Address("10.0.0.1", 6222)


def test_the_first_node_may_bootstrap_alone() -> None:
    """Other nodes join it; with named peers, all bootstrap together, with or without the flag."""
    found = config(*NODE.split(), "-cluster_bootstrap")
    assert {name: node.peer for name, node in found.cluster.nodes.items()} == {
        "n1": Address("127.0.0.1", 6001)
    }
    assert (found.cluster.bootstrap, found.cluster.join) == (True, False)
    together = config(*NODE.split(), "-cluster_bootstrap", "-cluster_peers", "n2=127.0.0.1:6002")
    assert set(together.cluster.nodes) == {"n1", "n2"}
    assert not together.cluster.bootstrap


def test_others_join_it_by_their_routes() -> None:
    """Neither peers nor bootstrap: as with the Go server."""
    found = config(*NODE.split(), "-routes", "nats://127.0.0.1:6002")
    assert set(found.cluster.nodes) == {"n1"}
    assert (found.cluster.bootstrap, found.cluster.join) == (False, True)
    assert found.cluster.routes == (Address("127.0.0.1", 6002),)


def test_a_node_without_a_name_gets_one_and_keeps_it(tmp_path: Path) -> None:
    """The name is kept in its directory; until then each start generates another."""
    words = ["-clustered", "-cluster_bootstrap", "-st", "FILE", "-dir", str(tmp_path / "d")]
    words += ["-cluster", "nats://127.0.0.1:6001", "-m", "8222"]
    first, found = made(*words)
    assert re.fullmatch(r"[0-9a-f]{22}", first.node)
    assert set(found.cluster.nodes) == {first.node}
    assert first.node != made(*words)[0].node
    kept = Path(first.name_file)
    kept.parent.mkdir()
    kept.write_text(first.node)
    again, _ = made(*words)
    assert (again.node, again.name_file) == (first.node, "")
    given, _ = made(*words, "-cluster_node_id", "n7")
    assert (given.node, given.name_file) == ("n7", "")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("-clustered", "a cluster needs its other nodes"),
        (
            "-clustered -cluster_peers n2=127.0.0.1:1",
            "a node in --cluster_peers needs a name: --cluster_node_id",
        ),
        (f"{NODE} -cluster_peers n2,n3", "n2, n3: address missing. Add --routes"),
        (f"{NODE} -cluster_peers n2=nowhere", "n2: expected an address"),
        (NODE, "a cluster needs its other nodes: --routes nats://HOST:PORT of a node, to join it"),
        (f"{NODE} -cluster_peers n1", "a cluster needs its other nodes: --cluster_peers"),
        ("-cluster_bootstrap", "flag -cluster_bootstrap: has no effect without --clustered"),
        (
            "-clustered -cluster_node_id n1 -st FILE -dir d -cluster_bootstrap",
            "needs an address for the other nodes",
        ),
        (f"{NODE} -cluster_peers n2=10.0.0.2:6222", "is not on the loopback, so cluster.peer_security.mode"),
        (
            "-clustered -cluster_node_id n1 -st FILE -dir d -cluster_peers n2=127.0.0.1:6002",
            "needs an address for the other nodes: --cluster",
        ),
        (NODE.replace("-st FILE -dir d1", "-cluster_peers n2=h:1"), "a clustered node needs the FILE store"),
        ("-cluster_peers a,b", "flag -cluster_peers: has no effect without --clustered"),
    ],
)
def test_what_a_cluster_needs(words: str, problem: str) -> None:
    """CLU-21 among it: a store in memory can't be clustered."""
    assert problem in problems(*words.split())


# --- the documentation ----------------------------------------------------------------------------


def test_every_option_is_documented_with_its_fate() -> None:
    """docs/reference-server.md has a row for each, which says what becomes of it and why."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    documented = [line for line in lines if line.startswith(("| `-", "| –"))]
    assert sorted(documented) == sorted(row(option) for option in OPTIONS)
