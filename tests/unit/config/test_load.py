"""Files, variables and flags become a `Config`, or a list of every mistake in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.config.load import load
from node.config.model import ChannelLimits, Config, PreviousKey
from node.config.values import Address, Secret
from node.errors import ConfigError

ONE_NODE = "cluster: {nodes: {n1: {client: 127.0.0.1:4222}}}\n"

Write = Callable[[str], Path]

RAFT_KEYS = "election_timeout, heartbeat, durability, max_clock_offset, journal_segment, trailing_logs"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        file = tmp_path / "c.yaml"
        file.write_text(text)
        return file

    return write


def mistakes(file: Path, **how: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file, environ=how.pop("environ", {}), **how)
    return [problem.removeprefix(f"{file.parent}/") for problem in caught.value.problems]


def test_missing_options_have_defaults(write: Write) -> None:
    config = load(write(ONE_NODE), environ={})
    defaults = Config()
    assert config.raft == defaults.raft
    assert config.limits == defaults.limits
    assert config.cluster.nodes["n1"].client == Address("127.0.0.1", 4222)
    assert config.cluster.nodes["n1"].peer is None


def test_words_become_values(write: Write) -> None:
    config = load(
        write(
            ONE_NODE
            + "raft: {election_timeout: [1s, 2s], heartbeat: 150ms}\n"
            + "limits: {max_bytes: 1GB, channels: {'orders.>': {max_msgs: 5, max_age: 0}}}\n"
            + "streaming: {replace_durable: true}\n"
        ),
        environ={},
    )
    assert config.raft.election_timeout_ns == (1_000_000_000, 2_000_000_000)
    assert config.limits.max_bytes == 1024**3
    assert config.limits.channels == {"orders.>": ChannelLimits(max_msgs=5, max_age_ns=0)}
    assert config.streaming.replace_durable


def test_paths_are_relative_to_the_file_and_name_the_node(write: Write, tmp_path: Path) -> None:
    file = write(ONE_NODE + "store: {dir: ../data/{node}}\n".replace("../data/{node}", "'../data/{node}'"))
    assert load(file, environ={}).store.dir == tmp_path.parent / "data" / "{node}"
    assert load(file, environ={}, node="n1").store.dir == tmp_path.parent / "data" / "n1"


def test_every_mistake_is_listed_at_once_with_its_place(write: Write) -> None:
    found = mistakes(
        write(
            "cluster:\n"
            "  nodes:\n"
            "    n1: {client: 127.0.0.1:99999}\n"
            "raft: {hearbeat: 75ms}\n"
            "limits:\n"
            "  max_msgs: lots\n"
            "  max_msgs: 3\n"
        )
    )
    assert found == [
        "c.yaml:3:18: cluster.nodes.n1.client: expected a port from 1 to 65535, not 99999",
        "c.yaml:4:8: unknown key hearbeat in raft; did you mean heartbeat?",
        "c.yaml:6:13: limits.max_msgs: expected a whole number, not text",
        f"c.yaml:7:3: max_msgs is given twice; first at {found[3].split(' at ')[1]}",
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("stor: {}", "unknown key stor; did you mean store?"),
        ("zzz: {}", "unknown key zzz; expected one of cluster, raft,"),
        ("raft: [1]", "raft: expected a mapping of " + RAFT_KEYS + ", not a list"),
        ("raft: 3", "raft: expected a mapping of " + RAFT_KEYS + ", not an integer"),
        ("raft: {heartbeat: 75}", "raft.heartbeat: expected a duration such as 300ms, 2m or 1h30m, not '75'"),
        ("raft: {heartbeat: }", "raft.heartbeat: expected a duration such as 300ms or 2m, not nothing"),
        ("raft: {heartbeat: 0}", "raft.heartbeat: expected at least 1ms, not '0'"),
        ("raft: {heartbeat: 11s}", "raft.heartbeat: expected at most 10s"),
        ("raft: {election_timeout: 1s}", "expected a list of two, [minimum, maximum], not text"),
        ("raft: {election_timeout: [1s]}", "expected a list of two, [minimum, maximum], not a list of 1"),
        ("raft: {durability: none}", "raft.durability: expected fsync or relaxed, not 'none'"),
        ("limits: {max_msgs: '3'}", "limits.max_msgs: expected a whole number, not text"),
        ("limits: {max_msgs: 3.5}", "limits.max_msgs: expected a whole number, not a decimal"),
        ("limits: {max_channels: -1}", "max channels limit cannot be negative (-1)"),
        ("limits: {max_subs: -2}", "max subscriptions limit cannot be negative (-2)"),
        ("limits: {max_msgs: -3}", "max messages limit cannot be negative (-3)"),
        ("limits: {max_bytes: -4}", "max bytes limit cannot be negative (-4)"),
        ("limits: {max_age: -5s}", "max age limit cannot be negative (-5s)"),
        ("limits: {max_inactivity: -6s}", "max inactivity limit cannot be negative (-6s)"),
        ("limits: {channels: {a: {max_msgs: -1}}}", "max messages limit cannot be negative (-1)"),
        ("limits: {channels: {a: {max_channels: 1}}}", "unknown key max_channels in limits.channels.a"),
        ("limits: {channels: {a: {dead_letter: d}}}", "this release does not support dead letters"),
        ("clients: {tls: {}}", "clients.tls: this release does not support TLS for clients"),
        ("clients: {users: [{user: u, password: p, permissions: [a]}]}", "expected a mapping of publish"),
        ("clients: {users: [{user: u, password: p, permissions: {publish: {deny: a}}}]}", "expected a list"),
        ("clients: {default_permissions: {}}", "does not support default permissions"),
        ("monitoring: {prometheus: true}", "this release does not support a Prometheus endpoint"),
        ("streaming: {replace_durable: yes please}", "replace_durable: expected true or false, not text"),
        ("streaming: {replace_durable: on}", "replace_durable: expected true or false, not 'on'"),
        ("clients: {max_payload: 9MB}", "clients.max_payload: expected at most 8388608"),
        ("clients: {token: 12345}", "clients.token: expected text (in quotes), not an integer"),
        ("clients: {token: a, token_env: B}", "clients.token: use only one of token, token_env"),
        ("clients: {users: {user: u}}", "clients.users: expected a list, not a mapping"),
        ("clients: {users: [{user: u}]}", "clients.users.0.password: missing"),
        ("store: {dir: 'x/{host}'}", "store.dir: unknown placeholder {host}; only {node} is allowed"),
        ("store: {encryption: {key: abc}}", "unknown key key in store.encryption; did you mean key_env?"),
        ("logging: {level: loud}", "logging.level: expected error, warning, info or debug, not 'loud'"),
        ("logging: {level: debug, level: info}", "level is given twice"),
        ("logging: &x {level: debug}\nraft: *x", "aliases (*name) are not supported"),
        ("logging: {level: !!python/name:os.system ''}", "is not supported"),
        ("logging: {level: debug", "not YAML"),
        ("? [a, b]\n: 3", "expected a key that is a single word"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(write: Write, line: str, problem: str) -> None:
    """LIM-08, and every other value that can't be."""
    found = mistakes(write(ONE_NODE + line + "\n"))
    assert any(problem in line for line in found), found


@pytest.mark.parametrize("text", ["- 1\n", "just words\n"])
def test_a_file_is_a_mapping_of_sections(write: Write, text: str) -> None:
    assert "expected a mapping of sections" in mistakes(write(text))[0]


def test_an_empty_file_lacks_its_nodes(write: Write) -> None:
    assert mistakes(write("")) == ["c.yaml:1:1: cluster.nodes: missing: a cluster has at least one node"]


def test_a_section_with_nothing_in_it_is_all_defaults(write: Write) -> None:
    assert load(write(ONE_NODE + "limits:\n"), environ={}).limits == Config().limits


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert mistakes(tmp_path / "none.yaml") == ["none.yaml: can't be read: No such file or directory"]


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"a: \xff")
    assert mistakes(file) == ["c.yaml: not UTF-8 text: byte 3"]


def test_an_endless_file_is_refused(write: Write) -> None:
    assert mistakes(write("#" * (1024 * 1024 + 1))) == ["c.yaml: longer than 1048576 bytes"]


def test_deep_nesting_is_refused(write: Write) -> None:
    too_deep = "nested too deeply: more than 32 lists and mappings"
    assert "unknown key a" in mistakes(write("a: " + "[" * 31 + "]" * 31))[0]
    for text in ("[" * 32, "[" * 5_000, "[" * 200_000):  # half an hour, if they were all read
        assert mistakes(write("a: " + text)) == [f"c.yaml:1:35: {too_deep}"]
    assert mistakes(write("- " * 5_000)) == [f"c.yaml:1:65: {too_deep}"]


# --- variables ------------------------------------------------------------------------------------


def test_a_variable_beats_the_file(write: Write) -> None:
    config = load(
        write(ONE_NODE + "raft: {heartbeat: 50ms}\n"),
        environ={
            "STANCHION_RAFT_HEARTBEAT": "60ms",
            "STANCHION_RAFT_ELECTION_TIMEOUT": "[1s, 2s]",
            "STANCHION_CLUSTER_ID": "12345",
            "STANCHION_CLUSTER_NODES_N1_HTTP": "127.0.0.1:8222",
            "STANCHION_CLUSTER_PEER_SECURITY_MODE": "none",
            "STANCHION_LIMITS_CHANNELS": "{'a.>': {max_msgs: 3}}",
            "STANCHION_CLIENTS_TOKEN": "#: {not yaml}",
        },
    )
    assert config.raft.heartbeat_ns == 60_000_000
    assert config.raft.election_timeout_ns == (1_000_000_000, 2_000_000_000)
    assert config.cluster.id == "12345"
    assert config.cluster.nodes["n1"].http == Address("127.0.0.1", 8222)
    assert config.limits.channels["a.>"].max_msgs == 3
    assert config.clients.token is not None
    assert config.clients.token.reveal() == "#: {not yaml}"


def test_a_mistake_in_a_variable_names_the_variable(write: Write) -> None:
    assert mistakes(write(ONE_NODE), environ={"STANCHION_RAFT_HEARTBEAT": "soon"}) == [
        "environment variable STANCHION_RAFT_HEARTBEAT: raft.heartbeat:"
        " expected a duration such as 300ms, 2m or 1h30m, not 'soon'"
    ]


def test_an_unknown_variable_of_a_section_is_refused(write: Write) -> None:
    assert mistakes(write(ONE_NODE), environ={"STANCHION_RAFT_HEARBEAT": "60ms"}) == [
        "environment variable STANCHION_RAFT_HEARBEAT: no such option; did you mean STANCHION_RAFT_HEARTBEAT?"
    ]


def test_variables_of_others_are_left_alone(write: Write) -> None:
    load(write(ONE_NODE), environ={"STANCHION_PORT_4222_TCP": "tcp://10.0.0.1:4222", "HOME": "/"})


KUBERNETES = {
    "STANCHION_MONITORING_SERVICE_HOST": "10.0.0.7",
    "STANCHION_MONITORING_SERVICE_PORT": "8222",
    "STANCHION_MONITORING_SERVICE_PORT_HTTP_ADMIN": "8222",
    "STANCHION_MONITORING_PORT": "tcp://10.0.0.7:8222",
    "STANCHION_MONITORING_PORT_8222_TCP": "tcp://10.0.0.7:8222",
    "STANCHION_MONITORING_PORT_8222_TCP_PROTO": "tcp",
    "STANCHION_MONITORING_PORT_8222_TCP_PORT": "8222",
    "STANCHION_MONITORING_PORT_8222_TCP_ADDR": "10.0.0.7",
}
"""What Kubernetes puts into each pod's environment where a service is called stanchion-monitoring."""


def test_variables_that_kubernetes_makes_of_a_service_are_ignored(
    write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    load(write(ONE_NODE), environ=KUBERNETES)
    assert {name for name in KUBERNETES if f"environment variable {name}:" in caplog.text} == {*KUBERNETES}


def test_similar_variables_are_mistakes(write: Any) -> None:
    (mistake,) = mistakes(write(ONE_NODE), environ={"STANCHION_MONITORING_PORT": "8222"})
    assert mistake.startswith("environment variable STANCHION_MONITORING_PORT: no such option")


def test_a_variable_that_holds_a_secret_of_the_file_is_no_override(write: Write) -> None:
    file = write(ONE_NODE + "clients: {token_env: STANCHION_CLIENTS_WORD}\n")
    config = load(file, environ={"STANCHION_CLIENTS_WORD": "x"})
    assert config.clients.token is not None
    assert config.clients.token.source == "environment"


def test_a_secret_in_a_variable_replaces_however_the_file_gave_it(write: Write) -> None:
    file = write(ONE_NODE + "clients: {token_file: /nowhere}\n")
    config = load(file, environ={"STANCHION_CLIENTS_TOKEN": "t"}, node="n1")
    assert config.clients.token is not None
    assert config.clients.token.reveal() == "t"


# --- flags ----------------------------------------------------------------------------------------


def test_a_flag_beats_a_variable(write: Write) -> None:
    config = load(
        write(ONE_NODE),
        overrides=[
            "raft.heartbeat=70ms",
            'limits.channels."orders.>".max_msgs=7',
            "cluster.nodes.n1.client=[::1]:1",
        ],
        environ={"STANCHION_RAFT_HEARTBEAT": "60ms"},
    )
    assert config.raft.heartbeat_ns == 70_000_000
    assert config.limits.channels["orders.>"].max_msgs == 7
    assert config.cluster.nodes["n1"].client == Address("::1", 1)


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("raft.heartbeat", "--set raft.heartbeat: expected section.key=value"),
        ("=3", "--set : expected section.key=value"),
        ("raft.hearbeat=1s", "--set raft.hearbeat: unknown key hearbeat in raft; did you mean heartbeat?"),
        ("raft.heartbeat.x=1s", "--set raft.heartbeat.x: raft.heartbeat: expected a duration"),
        ("raft.election_timeout=[1s", "--set raft.election_timeout: not YAML"),
        ("clients.users.0.user=x", "--set clients.users.0.user: clients.users is a list; set it as a whole"),
        ("limits.max_msgs=-1", "--set limits.max_msgs: limits.max_msgs: max messages limit"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_flag_names_the_flag(write: Write, flag: str, problem: str) -> None:
    file = write(ONE_NODE + "clients: {users: [{user: u, password: p}]}\n")
    assert any(found.startswith(problem) for found in mistakes(file, overrides=[flag]))


# --- one node of it -------------------------------------------------------------------------------


def test_a_node_must_be_in_the_file(write: Write) -> None:
    assert mistakes(write(ONE_NODE), node="n2") == ["c.yaml:1:18: cluster.nodes has no node n2; it has n1"]


def test_secrets_and_certificates_must_be_there_for_a_node_only(write: Write) -> None:
    file = write(
        "cluster:\n"
        "  nodes: {n1: {client: 127.0.0.1:4222, peer: 10.0.0.1:6222}}\n"
        "  peer_security: {mode: mtls, ca: ca.pem, cert: '{node}.pem', key: '{node}.key'}\n"
        "monitoring: {token_env: NO_SUCH_VARIABLE}\n"
    )
    load(file, environ={})
    here = file.parent
    assert mistakes(file, node="n1") == [
        f"c.yaml:3:35: cluster.peer_security.ca: {here}/ca.pem can't be read",
        f"c.yaml:3:49: cluster.peer_security.cert: {here}/n1.pem can't be read",
        f"c.yaml:3:68: cluster.peer_security.key: {here}/n1.key can't be read",
        "c.yaml:4:25: monitoring.token: environment variable NO_SUCH_VARIABLE is not set;"
        " the configuration reads a secret from it",
    ]


ENCRYPTED = (
    ONE_NODE
    + "store:\n"
    + "  encryption:\n"
    + "    cipher: chacha20-poly1305\n"
    + "    key_env: NOW\n"
    + "    previous_keys: [{key_env: BEFORE}, {key_file: f}]\n"
)


def test_the_pass_phrases_of_encryption(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current one and those before; a node needs them all at its start, and an override replaces them."""
    file = write(ENCRYPTED)
    assert mistakes(file, node="n1") == [
        "c.yaml:5:14: store.encryption.key: environment variable NOW is not set;"
        " the configuration reads a secret from it",
        "c.yaml:6:31: store.encryption.previous_keys.0.key: environment variable BEFORE is not set;"
        " the configuration reads a secret from it",
        f"c.yaml:6:51: store.encryption.previous_keys.1.key: secret file {file.parent}/f can't be read:"
        " No such file or directory",
    ]
    monkeypatch.setenv("NOW", "now")
    monkeypatch.setenv("BEFORE", "before")
    (file.parent / "f").write_text("file\n")
    encryption = load(file, node="n1", environ={}).store.encryption
    assert encryption is not None
    assert encryption.key is not None
    assert [encryption.key.reveal(), *(old.key.reveal() for old in encryption.previous_keys)] == [
        "now", "before", "file",
    ]  # fmt: skip
    assert encryption.cipher == "chacha20-poly1305"
    overridden = load(
        file,
        environ={
            "STANCHION_STORE_ENCRYPTION_KEY_FILE": "g",
            "STANCHION_STORE_ENCRYPTION_PREVIOUS_KEYS": "[{key_env: NOW}]",
        },
    ).store.encryption
    assert overridden is not None
    assert overridden.key == Secret("file", f"{file.parent}/g")
    assert overridden.previous_keys == (PreviousKey(Secret("environment", "NOW")),)


def test_a_previous_pass_phrase_never_stands_in_the_file(write: Write) -> None:
    found = mistakes(
        write(ONE_NODE + "store: {encryption: {key_env: K, previous_keys: [{key: hunter2}, {}]}}\n")
    )
    assert len(found) == 3
    assert "unknown key key in store.encryption.previous_keys.0" in found[1]
    assert any("store.encryption.previous_keys.1.key: missing" in line for line in found)
    assert "hunter2" not in "".join(found)


def test_no_secret_is_shown_by_a_configuration_or_a_mistake(write: Write) -> None:
    text = ONE_NODE + "clients: {users: [{user: u, password: hunter2}], token: hunter2, user: u}\n"
    assert "hunter2" not in "".join(mistakes(write(text)))
    assert "hunter2" not in repr(load(write(ONE_NODE + "clients: {token: hunter2}\n"), environ={}))
