"""Convert the Go server's command line and files into a `Config`.

This has two steps, because the port must be bound before slow imports: `read` finds out what is requested,
using only the table of options; `configuration` builds the `Config` and checks it. Flags override the files.

Wrong types, unknown flags and unknown keys are refused by name; all mistakes are reported at once.

Source: nats-streaming-server v0.25, its usage text and configuration file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping as AbstractMapping
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.config.reference_cluster import cluster, generated_name
from node.config.reference_external import external_nats
from node.config.reference_flags import BOOL, MAP, SECONDS, by_key
from node.config.reference_input import BOOLEANS, Given, Input, hint, is_on, wrong
from node.config.reference_users import credentials
from node.config.tree import Mapping, Scalar, describe
from node.config.values import Address, parse_address, parse_size
from node.errors import ConfigError

if TYPE_CHECKING:
    from node.config.model import Config

NODE: Final = "n1"
"""The name of a single node."""
KEY_VARIABLE: Final = "NATS_STREAMING_ENCRYPTION_KEY"
TOKEN_VARIABLE: Final = "STANCHION_MONITORING_TOKEN"  # noqa: S105  # a name
"""Variable of the monitoring token; the Go server has no option for it."""
DEFAULT_PORT: Final = 4222
PAYLOAD_MAX: Final = 8 * 1024 * 1024
"""Bytes: the maximum of `clients.max_payload`. A test compares the two."""
GO_PAYLOAD_MAX: Final = 64 * 1024 * 1024
"""Bytes: the maximum of the Go server."""

_CIPHERS: Final = {"AES": "aes-256-gcm", "CHACHA": "chacha20-poly1305"}
_INTEL: Final = frozenset({"x86_64", "amd64", "i386", "i686"})
_GO_STORE: Final = "server.dat"
_CREDENTIALS: Final = frozenset({"clients.user", "clients.password", "clients.token", "(users)"})


@dataclass(slots=True)
class Invocation:
    """The request of one command line."""

    action: str = ""
    """``help``, ``version``, ``check`` or ``signal``; empty: run."""
    signal: str = ""
    """The signal, optionally with a process ID: ``quit=4711``."""
    host: str = "0.0.0.0"  # noqa: S104  # the reference's default, which drop-in users rely on
    port: int = DEFAULT_PORT
    """0: any free port."""
    http: Address | None = None
    """Address of the monitoring pages."""
    advertise: str = ""
    """Address that clients are given; the port is optional."""
    node: str = NODE
    name_file: str = ""
    """File in which to keep the generated name ``node``; empty if it was given or is already kept."""
    is_clustered: bool = False
    is_external: bool = False
    """Clients connect to an external NATS server: nothing listens at ``host`` and ``port``."""
    tree: Mapping = field(default_factory=lambda: Mapping("the command line"))
    """The configuration, without ports that are not bound yet."""
    peers: dict[str, Address | None] = field(default_factory=dict)
    """The other members and their addresses; None: the routes provide the address."""
    notes: list[str] = field(default_factory=list)
    """Lines for the log: what applies instead of an ignored option."""
    warnings: list[str] = field(default_factory=list)
    debug_nats: bool = False
    debug_streaming: bool = False
    log_time: bool = True
    pid_file: str = ""
    encryption: tuple[str, str] | None = None
    """Cipher and pass phrase; if the latter is empty, it is in `KEY_VARIABLE`."""


def read(argv: Sequence[str], environ: AbstractMapping[str, str] | None = None) -> Invocation:
    """Parse the command line ``argv`` and the files it names.

    Raises:
        ConfigError: with all mistakes.
    """
    environ = os.environ if environ is None else environ
    reader = Input()
    flags = reader.flags(argv)
    files = {given.option.flags[-1]: given for given in flags if given.option.to == "(file)"}
    config, streaming = files.get("config"), files.get("stan_config")
    in_files: list[Given] = []
    if config is not None or streaming is not None:
        in_files = reader.files(_text(config or streaming), _text(streaming or config), environ)
    return Digest(reader.problems, environ).invocation(in_files, flags)


def _text(given: Given | None) -> str:
    assert given is not None
    assert isinstance(given.value, Scalar)
    return given.value.text


# --- meaning of the options -----------------------------------------------------------------------


class Digest:
    """Builds an `Invocation` from the given options."""

    def __init__(self, problems: list[str], environ: AbstractMapping[str, str]) -> None:
        self.problems = problems
        self._environ = environ
        self.made = Invocation()
        self.last: dict[str, Given] = {}
        """The effective value of each option, by the option's name."""
        self._name = ""

    def invocation(self, in_files: list[Given], flags: list[Given]) -> Invocation:
        """Build the invocation.

        Raises:
            ConfigError: with all mistakes.
        """
        if any(given.option.to in _CREDENTIALS for given in flags):
            in_files = [given for given in in_files if given.option.to not in _CREDENTIALS]
        for given in (*in_files, *flags):
            self.last[given.option.name] = given
        self._action()
        self._command_line_beats_files()
        for given in self.last.values():
            self._one(given)
        self._logging()
        credentials(self)
        self._addresses()
        self._store()
        self._encryption()
        cluster(self)
        external_nats(self)
        if self.problems:
            raise ConfigError(self.problems)
        return self.made

    def get(self, name: str) -> Given | None:
        return self.last.get(name)

    def word(self, name: str) -> str:
        """Return the text of a scalar option; empty if it was not given."""
        given = self.last.get(name)
        return given.value.text if given is not None and isinstance(given.value, Scalar) else ""

    def flag(self, *names: str) -> bool:
        return any(BOOLEANS.get(self.word(name).lower(), False) for name in names)

    def fail(self, given: Given, problem: str) -> None:
        self.problems.append(f"{given.place}: {problem}")

    def put(self, path: str, place: str, text: str) -> None:
        self.mapping(path.rpartition(".")[0], place).put(
            path.rpartition(".")[2], place, Scalar(place, "word", text)
        )

    def mapping(self, path: str, place: str) -> Mapping:
        """Return the mapping at ``path`` of the configuration; create it if needed."""
        tree = self.made.tree
        for step in path.split("."):
            below = tree.values.get(step)
            if not isinstance(below, Mapping):
                below = Mapping(place)
                tree.put(step, place, below)
            tree = below
        return tree

    def _one(self, given: Given) -> None:
        option = given.option
        if option.refused:
            if is_on(given.value):
                self.fail(given, option.refused)
        elif option.note:
            self.made.notes.append(f"{given.name}: {option.note}")
        elif option.to == "limits.channels":
            self._channels(given)
        elif not option.to.startswith("("):
            self._map(given)

    def _map(self, given: Given) -> None:
        assert isinstance(given.value, Scalar)
        option, text = given.option, given.value.text
        if option.kind == BOOL:
            text = "true" if BOOLEANS[text.lower()] else "false"
        elif option.kind == SECONDS and not re.search(r"[a-z]", text):
            text = f"{text}s"
        if option.to == "clients.max_connections" and text == "0":
            return  # the default
        if option.to == "clients.max_subscriptions" and text == "-1":
            text = "0"
        if option.to == "logging.file" and not text:
            return
        if option.to == "clients.max_payload" and PAYLOAD_MAX < parse_size(text) <= GO_PAYLOAD_MAX:
            self.made.warnings.append(
                f"{given.name}: {text} does not fit into a log entry; using {PAYLOAD_MAX >> 20}MB"
            )
            text = f"{PAYLOAD_MAX >> 20}MB"
        self.put(option.to, given.place, text)

    def _channels(self, given: Given) -> None:
        assert isinstance(given.value, Mapping)
        options = {key: option for key, option in by_key("limits").items() if option.to.count(".") == 1}
        options = {k: o for k, o in options.items() if o.kind != MAP and o.to != "limits.max_channels"}
        channels = self.mapping("limits.channels", given.place)
        for pattern, limits in given.value.values.items():
            place = given.value.key_places[pattern]
            if not isinstance(limits, Mapping):
                self.problems.append(f"{place}: {pattern}: expected a map, not {describe(limits)}")
                continue
            made = Mapping(place)
            channels.put(pattern, place, made)
            for key, value in limits.values.items():
                at = f"{limits.key_places[key]}: {key}"
                option = options.get(key.lower())
                problem = (
                    "unknown key" + hint(key.lower(), options) if option is None else wrong(option, value)
                )
                if problem or option is None:
                    self.problems.append(f"{at}: {problem}")
                elif isinstance(value, Scalar):
                    made.put(option.to.rpartition(".")[2], at, Scalar(at, "word", value.text))

    # --- the command ------------------------------------------------------------------------------

    def _action(self) -> None:
        actions = {"help": "help", "help_tls": "help", "version": "version", "t": "check", "signal": "signal"}
        for name, action in actions.items():
            if self.word(f"-{name}") not in ("", "false"):
                self.made.action = action
                break
        self.made.signal = self.word("-signal")
        self.made.pid_file = self.word("-pid")

    def _command_line_beats_files(self) -> None:
        """Drop keys that a flag overrides although it is another option."""
        for winners, losers in (
            (("-net", "-port"), ("nats.listen",)),
            (("-http_port",), ("nats.http",)),
            (("-cluster_listen",), ("cluster.host", "cluster.port")),
        ):
            if any((given := self.get(name)) is not None and given.by_flag for name in winners):
                for name in losers:
                    self.last.pop(name, None)

    def _logging(self) -> None:
        made = self.made
        made.debug_streaming = self.flag("-stan_debug", "-stan_trace", "-SDV")
        made.debug_nats = self.flag("-debug", "-trace", "-DV", "-VV", "-DVV")
        made.log_time = self.word("-logtime").lower() not in ("false", "f", "0")
        traces = [
            self.last[name].name for name in ("-trace", "-stan_trace", "-VV", "-DVV") if self.flag(name)
        ]
        if traces:
            made.notes.append(f"{', '.join(traces)}: protocol tracing is not supported; writing debug lines")

    # --- addresses --------------------------------------------------------------------------------

    def _addresses(self) -> None:
        made = self.made
        listen = self.get("nats.listen")
        if listen is not None and isinstance(listen.value, Scalar):
            host, port = self._host_port(listen, listen.value.text)
            made.host, made.port = host or made.host, port
        if self.word("-net"):
            made.host = self.word("-net").strip("[]")
        if self.word("-port"):
            made.port = self._port(self.last["-port"])
        try:
            parse_address(str(Address(made.host, made.port or DEFAULT_PORT)))
        except ValueError as error:
            given = self.get("-net") or listen
            self.problems.append(f"{given.place if given else 'the address'}: {error}")
        made.advertise = self.word("-client_advertise")
        if made.advertise:
            try:
                _advertised(made, Address(made.host, DEFAULT_PORT))
            except ValueError as error:
                self.fail(self.last["-client_advertise"], str(error))
        if self.word("-server_name"):
            place = self.last["-server_name"].place
            self.put(f"cluster.nodes.{self.name()}.server_name", place, self.word("-server_name"))
        self._monitoring()

    def name(self) -> str:
        """Return this node's name: ``cluster_node_id``, a generated name, or `NODE`."""
        if not self._name:
            self._name = self.word("-cluster_node_id") or generated_name(self) or NODE
        return self._name

    def _port(self, given: Given) -> int:
        assert isinstance(given.value, Scalar)
        port = int(given.value.text)
        if not -1 <= port <= 65535:
            self.fail(given, f"expected a port from 1 to 65535, or -1 for any free port, not {port}")
        return 0 if port == -1 else port or DEFAULT_PORT

    def _host_port(self, given: Given, text: str) -> tuple[str, int]:
        """Parse ``host:port`` or a port; -1 becomes port 0."""
        host, _, port = text.rpartition(":")
        if not re.fullmatch(r"-1|\d{1,5}", port) or int(port) > 65535:
            self.fail(given, f"expected host:port or a port, not {text!r}")
            return host, DEFAULT_PORT
        return host.strip("[]"), max(0, int(port))

    def _monitoring(self) -> None:
        given = self.get("-http_port") or self.get("nats.http")
        if given is None or not isinstance(given.value, Scalar) or given.value.text in ("", "0"):
            return
        host, port = self._host_port(given, given.value.text)
        if port == 0:
            self.fail(given, "expected a fixed port for monitoring, not -1")
            return
        address = Address(host or self.made.host, port)
        self.put(f"cluster.nodes.{self.name()}.http", given.place, str(address))
        self.made.http = address
        has_token = bool(self._environ.get(TOKEN_VARIABLE))
        if has_token:
            self.put("monitoring.token_env", given.place, TOKEN_VARIABLE)
        if address.is_loopback:
            return
        if host and not has_token:
            self.put("monitoring.open", given.place, "true")
            self.made.warnings.append(
                f"{given.name}: everyone who can reach {address} can read all monitoring"
            )
            return
        self.put("monitoring.figures_open", given.place, "true")
        if not has_token:
            self.made.notes.append(
                f"{given.name}: off the loopback, pages with names of clients or channels are refused; set"
                f' {TOKEN_VARIABLE} to require a token, or http: "HOST:{port}" in a file to allow everyone'
            )

    # --- the store --------------------------------------------------------------------------------

    def _store(self) -> None:
        given, directory = self.get("-store"), self.get("-dir")
        kind = self.word("-store").upper() or "MEMORY"
        if kind == "SQL":
            assert given is not None
            self.fail(
                given, "the SQL store is not supported: use FILE with --dir, replicated with --clustered"
            )
        elif kind not in ("MEMORY", "FILE"):
            assert given is not None
            self.fail(given, f"expected MEMORY or FILE, not {kind}")
        place = given.place if given is not None else "flag -store"
        self.put("store.store", place, "file" if kind == "FILE" else "memory")
        if kind == "FILE":
            if directory is None or not self.word("-dir"):
                self.problems.append(f"{place}: the FILE store needs a directory: --dir DIR")
                return
            if Path(self.word("-dir"), _GO_STORE).exists():
                self.fail(
                    directory,
                    f"{self.word('-dir')} has the store of a Go server, which this server can't read;"
                    " use an empty directory",
                )
            self.put("store.dir", directory.place, self.word("-dir"))
        elif directory is not None and is_on(directory.value):
            self.made.notes.append(
                f"{directory.name}: unused by the MEMORY store; use --store FILE to keep data"
            )

    def _encryption(self) -> None:
        key = self.word("-encryption_key")
        if not self.flag("-encrypt") and not key:
            return
        given = self.get("-encrypt") or self.last["-encryption_key"]
        cipher = self.word("-encryption_cipher").upper()
        if cipher and cipher not in _CIPHERS:
            self.fail(self.last["-encryption_cipher"], "encryption cipher not supported: use AES or CHACHA")
            return
        in_environment = bool(self._environ.get(KEY_VARIABLE))
        if not key and not in_environment:
            self.fail(given, f"encryption key required: set {KEY_VARIABLE} or --encryption_key")
            return
        if self.word("-store").upper() != "FILE":
            self.made.notes.append(f"{given.name}: the MEMORY store writes nothing to encrypt")
            return
        default = "AES" if os.uname().machine in _INTEL else "CHACHA"
        self.made.encryption = (_CIPHERS[cipher or default], "" if in_environment else key)


# --- the resulting configuration ------------------------------------------------------------------


def configuration(made: Invocation, port: int) -> Config:
    """Return the configuration of an invocation whose clients connect to ``port``.

    Raises:
        ConfigError: with all mistakes that the checks find.
    """
    from dataclasses import replace
    from types import MappingProxyType

    from node.config.load import read_tree
    from node.config.model import Encryption
    from node.config.values import Secret

    place = "the command line"
    node = _branch(made.tree, ("cluster", "nodes", made.node), place)
    client = Address(made.host, port)
    node.put("client", place, Scalar(place, "word", str(client)))
    advertise = _advertised(made, client)
    if advertise is not None:
        node.put("advertise", place, Scalar(place, "word", str(advertise)))

    def complete(config: Config) -> Config:
        nodes = dict(config.cluster.nodes)
        for name, address in made.peers.items():
            # The other nodes report their client addresses themselves.
            nodes[name] = replace(nodes[name], client=Address(address.host if address else "127.0.0.1", 0))
        config = replace(config, cluster=replace(config.cluster, nodes=MappingProxyType(nodes)))
        if made.encryption is not None:
            cipher, key = made.encryption
            secret = Secret("text", key) if key else Secret("environment", KEY_VARIABLE)
            config = replace(
                config, store=replace(config.store, encryption=Encryption(cipher=cipher, key=secret))
            )
        level = "debug" if made.debug_streaming else "info"
        return replace(config, logging=replace(config.logging, level=level))

    return read_tree(made.tree, Path.cwd(), node=made.node, start=place, complete=complete)


def _branch(tree: Mapping, path: Sequence[str], place: str) -> Mapping:
    for step in path:
        below = tree.values.get(step)
        if not isinstance(below, Mapping):
            below = Mapping(place)
            tree.put(step, place, below)
        tree = below
    return tree


def _advertised(made: Invocation, client: Address) -> Address | None:
    """Return the address that clients are given, if it differs from the listen address."""
    given = made.advertise
    if given:
        host, colon, port = given.rpartition(":")
        return parse_address(given if colon and host and port.isdigit() else f"{given}:{client.port}")
    if made.is_clustered and client.is_unspecified:
        peer = _branch(made.tree, ("cluster", "nodes", made.node), "").values.get("peer")
        if isinstance(peer, Scalar):
            return Address(parse_address(peer.text).host, client.port)
    return None
