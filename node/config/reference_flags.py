"""All options of the Go server ``nats-streaming-server``, and how this server treats them.

An option has flags, keys in a section of the file, or both. It is *mapped* to an option of this server
(``to``); or *noted*: accepted, with a log line that says what applies instead; or *refused*, with an
alternative. An option is refused if ignoring it would silently make the server less secure than requested, or
remove something that its user relies on. A refused switch may be given as off.

The table is plain data and imports nothing slow: it is read before the port is bound.
``docs/reference-server.md`` shows it; a test compares the two.

Source: nats-streaming-server v0.25, its usage text, and its configuration file.
"""

from __future__ import annotations

from typing import Final, NamedTuple

BOOL: Final = "a boolean"
INT: Final = "an integer"
SIZE: Final = "a size such as 64MB"
DURATION: Final = "a duration such as 30s"
SECONDS: Final = "a number of seconds"
TEXT: Final = "text"
LIST: Final = "a list"
MAP: Final = "a map"


class Option(NamedTuple):
    """One option."""

    flags: tuple[str, ...]
    """Flags without dashes, the full name last; they take one dash or two."""
    keys: tuple[str, ...]
    """Keys in the file, in lower case."""
    section: str
    """The map of the file with these keys: see `SECTIONS`."""
    kind: str
    """Type of the value."""
    to: str = ""
    """Mapped: the path of this server's option; or a word in brackets if it needs code of its own."""
    note: str = ""
    """Noted: what applies instead."""
    refused: str = ""
    """Refused: the reason and the alternative."""
    about: str = ""
    """Description for the usage text; only of mapped options."""

    @property
    def name(self) -> str:
        """The name in messages and tables."""
        return f"-{self.flags[-1]}" if self.flags else f"{self.section}.{self.keys[-1]}"


SECTIONS: Final = {
    "streaming": "the map `streaming`; the whole file, if it has none",
    "limits": "`limits` (`store_limits`) in that",
    "file": "`file` (`file_options`) in that",
    "sql": "`sql` (`sql_options`) in that",
    "streaming.tls": "`tls` in that",
    "streaming.cluster": "`cluster` in that",
    "nats": "the file's top",
    "authorization": "`authorization` there",
    "cluster": "`cluster` there",
    "command": "",
}
"""The sections, and their places in the file."""

SECTION_KEYS: Final = {
    "limits": "limits",
    "store_limits": "limits",
    "storelimits": "limits",
    "file": "file",
    "file_options": "file",
    "sql": "sql",
    "sql_options": "sql",
    "tls": "streaming.tls",
    "cluster": "streaming.cluster",
}
"""Keys in the streaming part that are sections."""

_SPACE = "the store reclaims space automatically"
_CLIENT_TLS = "TLS for clients is not supported; use a private network or a VPN"
_RAFT = "elections use raft.election_timeout of this server, 1 to 1.5 s"
_SQL = "the SQL store is not supported: use --store FILE --dir DIR, replicated with --clustered"
_SYSLOG = "the log goes to standard error, which systemd and containers collect, or to --log FILE"
_ENCRYPTS = "(encryption)"

OPTIONS: Final[tuple[Option, ...]] = (
    # --- streaming
    Option(
        ("cid", "cluster_id"),
        ("id", "cid", "cluster_id"),
        "streaming",
        TEXT,
        "cluster.id",
        about="cluster ID",
    ),
    Option((), ("discover_prefix",), "streaming", TEXT, "streaming.discover_prefix"),
    Option(
        ("st", "store"),
        ("st", "store", "store_type", "storetype"),
        "streaming",
        TEXT,
        "(store)",
        about="MEMORY (nothing is stored) or FILE",
    ),
    Option(("dir",), ("dir", "datastore"), "streaming", TEXT, "(dir)", about="directory of the FILE store"),
    Option(
        ("ns", "nats_server"),
        ("ns", "nats_server", "nats_server_url"),
        "streaming",
        TEXT,
        "(external)",
        about="URLs of an external NATS server for clients to connect to",
    ),
    Option((), ("credentials",), "streaming", TEXT, "(external)", about="refused with `-ns`; see below"),
    Option((), ("username", "user"), "streaming", TEXT, "(external)", about="user name for `-ns`"),
    Option((), ("password", "pass"), "streaming", TEXT, "(external)", about="password for `-ns`"),
    Option((), ("token",), "streaming", TEXT, "(external)", about="token for `-ns`"),
    Option((), ("nkey_seed_file",), "streaming", TEXT, "(external)", about="refused with `-ns`; see below"),
    Option(
        ("secure",),
        ("secure",),
        "streaming",
        BOOL,
        "(external)",
        about="TLS to -ns without verifying its certificate",
    ),
    Option(
        ("tls_client_cert",),
        ("client_cert",),
        "streaming.tls",
        TEXT,
        "(external)",
        about="client certificate for -ns",
    ),
    Option(
        ("tls_client_key",),
        ("client_key",),
        "streaming.tls",
        TEXT,
        "(external)",
        about="private key of the client certificate",
    ),
    Option(
        ("tls_client_cacert",),
        ("client_ca", "client_cacert"),
        "streaming.tls",
        TEXT,
        "(external)",
        about="authority of -ns's certificate",
    ),
    Option(
        (),
        ("server_name", "server_hostname"),
        "streaming.tls",
        TEXT,
        "(external)",
        about="name in `-ns`'s certificate",
    ),
    Option(
        (),
        ("skip_verify", "insecure"),
        "streaming.tls",
        BOOL,
        "(external)",
        about="do not verify `-ns`'s certificate",
    ),
    Option(
        ("hbi", "hb_interval"),
        ("hbi", "hb_interval", "server_to_client_hb_interval"),
        "streaming",
        DURATION,
        "streaming.hb_interval",
        about="interval of heartbeats to a client",
    ),
    Option(
        ("hbt", "hb_timeout"),
        ("hbt", "hb_timeout", "server_to_client_hb_timeout"),
        "streaming",
        DURATION,
        "streaming.hb_timeout",
        about="how long a client may take to answer",
    ),
    Option(
        ("hbf", "hb_fail_count"),
        ("hbf", "hb_fail_count", "server_to_client_hb_fail_count"),
        "streaming",
        INT,
        "streaming.hb_fail_count",
        about="consecutive heartbeats that a client may miss",
    ),
    Option(
        ("replace_durable",),
        ("replace_durable", "replace_durables", "replace_duplicate_durable", "replace_duplicate_durables"),
        "streaming",
        BOOL,
        "streaming.replace_durable",
        about="a second subscriber takes over an online durable",
    ),
    Option(
        ("ft_group",),
        ("ft_group", "ft_group_name"),
        "streaming",
        TEXT,
        refused="fault tolerance with a shared store is not supported: use three nodes with --clustered",
    ),
    Option(
        (),
        ("partitioning",),
        "streaming",
        BOOL,
        refused="partitioning of channels is not supported: use one cluster, or several with different IDs",
    ),
    Option(("io_batch_size",), (), "streaming", INT, note="batches adapt to the load automatically"),
    Option(("io_sleep_time",), (), "streaming", INT, note="batches adapt to the load automatically"),
    Option(("encrypt",), ("encrypt",), "streaming", BOOL, _ENCRYPTS, about="encrypt data on disk"),
    Option(
        ("encryption_cipher",),
        ("encryption_cipher",),
        "streaming",
        TEXT,
        _ENCRYPTS,
        about="AES (AES-256-GCM) or CHACHA (ChaCha20-Poly1305)",
    ),
    Option(
        ("encryption_key",),
        ("encryption_key",),
        "streaming",
        TEXT,
        _ENCRYPTS,
        about="pass phrase; better in the variable NATS_STREAMING_ENCRYPTION_KEY",
    ),
    Option(
        ("SD", "stan_debug"), ("sd", "stan_debug"), "streaming", BOOL, "(log)", about="streaming debug lines"
    ),
    Option(("SV", "stan_trace"), ("sv", "stan_trace"), "streaming", BOOL, "(log)", about="same as -SD"),
    Option(("SDV",), (), "streaming", BOOL, "(log)", about="-SD and -SV"),
    Option(("syslog_name",), ("syslog_name",), "streaming", TEXT, note=_SYSLOG),
    # --- limits
    Option(
        ("mc", "max_channels"),
        ("mc", "max_channels", "maxchannels"),
        "limits",
        INT,
        "limits.max_channels",
        about="max number of channels",
    ),
    Option(
        ("msu", "max_subs"),
        ("msu", "max_subs", "max_subscriptions", "maxsubscriptions"),
        "limits",
        INT,
        "limits.max_subs",
        about="max subscriptions per channel",
    ),
    Option(
        ("mm", "max_msgs"),
        ("mm", "max_msgs", "maxmsgs", "max_count", "maxcount"),
        "limits",
        INT,
        "limits.max_msgs",
        about="max messages kept per channel",
    ),
    Option(
        ("mb", "max_bytes"),
        ("mb", "max_bytes", "maxbytes"),
        "limits",
        SIZE,
        "limits.max_bytes",
        about="max bytes kept per channel",
    ),
    Option(
        ("ma", "max_age"),
        ("ma", "max_age", "maxage"),
        "limits",
        DURATION,
        "limits.max_age",
        about="how long a message is kept",
    ),
    Option(
        ("mi", "max_inactivity"),
        ("mi", "max_inactivity", "maxinactivity"),
        "limits",
        DURATION,
        "limits.max_inactivity",
        about="how long an unused channel is kept",
    ),
    Option(
        (),
        ("channels", "channels_limits", "channelslimits", "per_channel", "per_channel_limits"),
        "limits",
        MAP,
        "limits.channels",
    ),
    # --- file store
    Option(("file_compact_enabled",), ("compact", "compact_enabled"), "file", BOOL, note=_SPACE),
    Option(("file_compact_frag",), ("compact_frag", "compact_fragmentation"), "file", INT, note=_SPACE),
    Option(("file_compact_interval",), ("compact_interval",), "file", INT, note=_SPACE),
    Option(("file_compact_min_size",), ("compact_min_size",), "file", SIZE, note=_SPACE),
    Option(("file_buffer_size",), ("buffer_size",), "file", SIZE, note="writes are batched automatically"),
    Option(
        ("file_read_buffer_size",),
        ("read_buffer_size", "file_read_buffer_size"),
        "file",
        SIZE,
        note="the operating system reads ahead",
    ),
    Option(
        ("file_crc",),
        ("crc", "do_crc"),
        "file",
        BOOL,
        note="stored data is always checked when it is read",
    ),
    Option(("file_crc_poly",), ("crc_poly",), "file", INT, note="checksums are CRC-32C"),
    Option(
        ("file_sync",),
        ("sync", "do_sync", "sync_on_flush"),
        "file",
        BOOL,
        note="a publish is always on disk before it is acknowledged",
    ),
    Option(
        ("file_auto_sync",),
        ("auto_sync", "file_auto_sync"),
        "file",
        DURATION,
        note="a publish is always on disk before it is acknowledged",
    ),
    Option(
        ("file_slice_max_msgs",),
        ("slice_max_msgs", "slice_max_count", "slice_msgs", "slice_count"),
        "file",
        INT,
        note=_SPACE,
    ),
    Option(
        ("file_slice_max_bytes",),
        ("slice_max_bytes", "slice_max_size", "slice_bytes", "slice_size"),
        "file",
        SIZE,
        note=_SPACE,
    ),
    Option(
        ("file_slice_max_age",),
        ("slice_max_age", "slice_age", "slice_max_time", "slice_time_limit"),
        "file",
        DURATION,
        note=_SPACE,
    ),
    Option(
        ("file_slice_archive_script",),
        ("slice_archive_script", "slice_archive", "slice_script"),
        "file",
        TEXT,
        refused="there are no slices to archive: archive with a durable subscriber",
    ),
    Option(
        ("file_fds_limit",), ("fds_limit", "file_descriptors_limit"), "file", INT, note="few files are open"
    ),
    Option(
        ("file_parallel_recovery",),
        ("parallel_recovery",),
        "file",
        INT,
        note="recovery does not depend on channels",
    ),
    Option(("file_truncate_bad_eof",), (), "file", BOOL, note="a torn end is truncated automatically"),
    # --- SQL store
    Option(("sql_driver",), ("driver",), "sql", TEXT, refused=_SQL),
    Option(("sql_source",), ("source",), "sql", TEXT, refused=_SQL),
    Option(("sql_no_caching",), ("no_caching",), "sql", BOOL, refused=_SQL),
    Option(("sql_max_open_conns",), ("max_open_conns", "max_conns"), "sql", INT, refused=_SQL),
    Option(("sql_bulk_insert_limit",), ("bulk_insert_limit",), "sql", INT, refused=_SQL),
    # --- clustering
    Option(("clustered",), (), "streaming.cluster", BOOL, "(cluster)", about="run a node of a cluster"),
    Option(
        ("cluster_node_id",),
        ("node_id",),
        "streaming.cluster",
        TEXT,
        "(cluster)",
        about="this node's name; without --cluster_peers it may be generated, and is kept in --dir",
    ),
    Option(
        ("cluster_peers",),
        ("peers",),
        "streaming.cluster",
        LIST,
        "(cluster)",
        about="names of the other nodes; NAME=HOST:PORT for nodes that --routes do not find",
    ),
    Option(
        ("cluster_bootstrap",),
        ("bootstrap",),
        "streaming.cluster",
        BOOL,
        "(cluster)",
        about="without --cluster_peers: bootstrap a cluster alone; others join it by --routes",
    ),
    Option(("cluster_log_path",), ("log_path",), "streaming.cluster", TEXT, note="the log is in --dir"),
    Option(
        ("cluster_log_cache_size",), ("log_cache_size",), "streaming.cluster", INT, note="sized automatically"
    ),
    Option(
        ("cluster_log_snapshots",), ("log_snapshots",), "streaming.cluster", INT, note="one snapshot is kept"
    ),
    Option(
        ("cluster_trailing_logs",),
        ("trailing_logs",),
        "streaming.cluster",
        INT,
        "raft.trailing_logs",
        about="entries kept for nodes that were disconnected",
    ),
    Option(
        ("cluster_sync",),
        ("sync",),
        "streaming.cluster",
        BOOL,
        note="a publish is always on the disks of a majority before it is acknowledged",
    ),
    Option(("cluster_raft_logging",), ("raft_logging",), "streaming.cluster", BOOL, note="use -SD"),
    Option(
        ("cluster_proceed_on_restore_failure",),
        ("proceed_on_restore_failure",),
        "streaming.cluster",
        BOOL,
        note="a node with damaged data stops; replace it, and the other nodes send it a copy",
    ),
    Option(
        ("cluster_allow_add_remove_node",),
        ("allow_add_remove_node",),
        "streaming.cluster",
        BOOL,
        "cluster.allow_add_remove_node",
        about="add and remove nodes by messages to _STAN.raft.<cluster ID>.node.add and .remove",
    ),
    Option((), ("raft_heartbeat_timeout",), "streaming.cluster", DURATION, note=_RAFT),
    Option((), ("raft_election_timeout",), "streaming.cluster", DURATION, note=_RAFT),
    Option((), ("raft_lease_timeout",), "streaming.cluster", DURATION, note=_RAFT),
    Option(
        (), ("raft_commit_timeout",), "streaming.cluster", DURATION, note="followers learn of commits at once"
    ),
    Option((), ("bolt_free_list_sync",), "streaming.cluster", BOOL, note="this server does not use bolt"),
    Option((), ("bolt_free_list_map",), "streaming.cluster", BOOL, note="this server does not use bolt"),
    Option(
        (),
        ("nodes_connections",),
        "streaming.cluster",
        BOOL,
        note="nodes always have connections of their own",
    ),
    # --- NATS
    Option(("a", "addr", "net"), ("host", "net"), "nats", TEXT, "(host)", about="address to listen on"),
    Option(("p", "port"), ("port",), "nats", INT, "(port)", about="port for clients, -1 for any free port"),
    Option((), ("listen",), "nats", TEXT, "(listen)", about="host and port for clients"),
    Option(
        ("n", "name", "server_name"),
        ("server_name",),
        "nats",
        TEXT,
        "(server_name)",
        about="name of this server",
    ),
    Option(
        ("client_advertise",),
        ("client_advertise",),
        "nats",
        TEXT,
        "(advertise)",
        about="address that clients are given",
    ),
    Option(
        ("m", "http_port"),
        ("http_port", "monitor_port"),
        "nats",
        INT,
        "(monitor)",
        about="port for monitoring, on the same host as clients",
    ),
    Option(
        (),
        ("http",),
        "nats",
        TEXT,
        "(monitor)",
        about="the same, or `HOST:PORT`: everyone who can reach it may read all pages",
    ),
    Option(
        ("ms", "https_port"),
        ("https_port", "https"),
        "nats",
        TEXT,
        refused="monitoring over TLS is not supported: use -m behind an HTTPS proxy",
    ),
    Option((), ("http_base_path",), "nats", TEXT, "monitoring.http_base_path"),
    Option(("user",), ("user", "username"), "authorization", TEXT, "clients.user", about="the only user"),
    Option(("pass",), ("pass", "password"), "authorization", TEXT, "clients.password", about="its password"),
    Option(
        ("auth",), ("token",), "authorization", TEXT, "clients.token", about="token that clients must present"
    ),
    Option((), ("timeout",), "authorization", SECONDS, "clients.auth_timeout"),
    Option((), ("users",), "authorization", LIST, "(users)", about="`clients.users`, with their permissions"),
    Option(
        (),
        ("default_permissions",),
        "authorization",
        MAP,
        "(users)",
        about="permissions of users without their own",
    ),
    Option((), ("no_auth_user",), "nats", TEXT, "clients.no_auth_user"),
    Option(("tls",), (), "nats", BOOL, refused=_CLIENT_TLS),
    Option((), ("tls",), "nats", MAP, refused=_CLIENT_TLS),
    Option(("tlscert",), (), "nats", TEXT, refused=_CLIENT_TLS),
    Option(("tlskey",), (), "nats", TEXT, refused=_CLIENT_TLS),
    Option(("tlscacert",), (), "nats", TEXT, refused=_CLIENT_TLS),
    Option(("tlsverify",), (), "nats", BOOL, refused=_CLIENT_TLS),
    Option((), ("allow_non_tls",), "nats", BOOL, note="TLS for clients is not supported"),
    Option((), ("max_payload",), "nats", SIZE, "clients.max_payload"),
    Option((), ("max_control_line",), "nats", SIZE, "clients.max_control_line"),
    Option((), ("max_pending",), "nats", SIZE, "clients.max_pending"),
    Option((), ("max_connections", "max_conn"), "nats", INT, "clients.max_connections"),
    Option((), ("max_subscriptions", "max_subs"), "nats", INT, "clients.max_subscriptions"),
    Option(
        (), ("max_sub_tokens",), "nats", INT, refused="not supported: only max_control_line limits subjects"
    ),
    Option((), ("ping_interval",), "nats", SECONDS, "clients.ping_interval"),
    Option((), ("ping_max",), "nats", INT, "clients.ping_max"),
    Option((), ("write_deadline",), "nats", SECONDS, "clients.write_deadline"),
    Option((), ("lame_duck_duration",), "nats", SECONDS, "clients.lame_duck_duration"),
    Option((), ("lame_duck_grace_period",), "nats", SECONDS, "clients.lame_duck_grace_period"),
    Option(
        (),
        ("no_header_support",),
        "nats",
        BOOL,
        note="headers stay enabled; clients that use none are unaffected",
    ),
    Option(
        ("cluster", "cluster_listen"),
        ("listen",),
        "cluster",
        TEXT,
        "(peer)",
        about="listen address for other nodes, nats://HOST:PORT",
    ),
    Option((), ("host",), "cluster", TEXT, "(peer)", about="host of `-cluster`"),
    Option((), ("port",), "cluster", INT, "(peer)", about="port of `-cluster`"),
    Option(
        ("routes",),
        ("routes",),
        "cluster",
        LIST,
        "(routes)",
        about="addresses of nodes of this cluster or another, nats://HOST:PORT,…",
    ),
    Option(("cluster_name",), ("name",), "cluster", TEXT, note="the name of the cluster is its cluster ID"),
    Option(
        ("cluster_advertise",),
        ("advertise", "cluster_advertise"),
        "cluster",
        TEXT,
        "(peer)",
        about="address at which other nodes reach this node, HOST or HOST:PORT",
    ),
    Option(
        ("no_advertise",),
        ("no_advertise",),
        "cluster",
        BOOL,
        "cluster.no_advertise",
        about="hide this cluster's client addresses from clients of other clusters",
    ),
    Option(
        ("connect_retries",),
        ("connect_retries",),
        "cluster",
        INT,
        note="routes are dialled forever",
    ),
    Option(
        (),
        ("authorization",),
        "cluster",
        MAP,
        refused="nodes authenticate by certificates: cluster { tls { cert_file, key_file, ca_file } }",
    ),
    Option(
        (),
        ("tls",),
        "cluster",
        MAP,
        "(peer)",
        about="`cluster.peer_security`: `cert_file`, `key_file`, `ca_file`; always mutual",
    ),
    Option(
        (),
        ("permissions",),
        "cluster",
        MAP,
        refused="permissions of routes are not supported: clusters with the same authority trust each other",
    ),
    Option(
        ("l", "log"),
        ("log_file", "logfile"),
        "nats",
        TEXT,
        "logging.file",
        about="write the log to this file",
    ),
    Option(
        ("log_size_limit",),
        ("log_size_limit", "logfile_size_limit"),
        "nats",
        SIZE,
        note="rotate with logrotate or by hand; SIGUSR1 reopens the file",
    ),
    Option(("T", "logtime"), ("logtime",), "nats", BOOL, "(log)", about="log lines have a time"),
    Option(("D", "debug"), ("debug",), "nats", BOOL, "(log)", about="NATS debug lines"),
    Option(("V", "trace"), ("trace",), "nats", BOOL, "(log)", about="same as -D"),
    Option(("DV",), (), "nats", BOOL, "(log)", about="-D and -V"),
    Option(("VV",), ("trace_verbose",), "nats", BOOL, "(log)", about="same as -D"),
    Option(("DVV",), (), "nats", BOOL, "(log)", about="-D and -VV"),
    Option(("s", "syslog"), ("syslog",), "nats", BOOL, note=_SYSLOG),
    Option(("r", "remote_syslog"), ("remote_syslog",), "nats", TEXT, note=_SYSLOG),
    Option(
        ("P", "pid"),
        ("pid_file", "pidfile"),
        "nats",
        TEXT,
        "(pid)",
        about="write the process ID to this file",
    ),
    Option(("ports_file_dir",), ("ports_file_dir",), "nats", TEXT, note="the log has the ports"),
    Option(("profile",), ("prof_port",), "nats", INT, note="there is no Go runtime to profile"),
    Option(("max_traced_msg_len",), ("max_traced_msg_len",), "nats", INT, note="messages are not traced"),
    # --- the command itself
    Option(("c", "config"), (), "command", TEXT, "(file)", about="configuration file"),
    Option(
        ("sc", "stan_config"),
        (),
        "command",
        TEXT,
        "(file)",
        about="configuration file of the streaming part, if it is another one",
    ),
    Option(("t",), (), "command", BOOL, "(action)", about="check the configuration and exit"),
    Option(("v", "version"), (), "command", BOOL, "(action)", about="print the version and exit"),
    Option(("h", "help"), (), "command", BOOL, "(action)", about="print this help and exit"),
    Option(("help_tls",), (), "command", BOOL, "(action)", about="same as -h"),
    Option(
        ("sl", "signal"),
        (),
        "command",
        TEXT,
        "(action)",
        about="send quit, stop, reopen, reload or ldm to a running server; =PID if there are several",
    ),
)
"""All options, in the order of the documentation."""

NOTE, REFUSED, MAPPED = "noted", "refused", "mapped"


def fate(option: Option) -> str:
    """Return how the option is treated."""
    return REFUSED if option.refused else NOTE if option.note else MAPPED


def row(option: Option) -> str:
    """Return the option's row in the documentation: flags, keys, treatment, and the reason or target."""
    flags = ", ".join(f"`-{flag}`" for flag in option.flags) or "–"
    keys = ", ".join(f"`{key}`" for key in option.keys) or "–"
    text = option.refused or option.note or option.about
    if not option.to.startswith("(") and option.to:
        text = f"`{option.to}`" + (f": {text}" if text else "")
    return f"| {flags} | {keys} | {fate(option)} | {text} |"


def by_flag() -> dict[str, Option]:
    """Return the options by flag."""
    return {flag: option for option in OPTIONS for flag in option.flags}


def by_key(section: str) -> dict[str, Option]:
    """Return the options of one section of the file by key."""
    return {key: option for option in OPTIONS if option.section == section for key in option.keys}


def usage() -> str:
    """Return the usage text of ``-h``."""
    titles = {
        "streaming": "Streaming server",
        "limits": "Limits, 0 for unlimited",
        "streaming.cluster": "Cluster",
        "nats": "Connections and log",
        "command": "This command",
    }
    lines = [
        "Usage: nats-streaming-server [flags]",
        "",
        "Flags take one dash or two, -flag value or -flag=value.",
    ]
    for section, title in titles.items():
        lines += ["", f"{title}:"]
        for option in OPTIONS:
            beside = {"authorization": "nats", "cluster": "streaming.cluster"}.get(
                option.section, option.section
            )
            if beside == section and option.flags and option.about:
                flags = ", ".join(f"-{flag}" for flag in option.flags)
                lines.append(f"    {flags:32} {option.about}")
    others = [f"-{flag}" for option in OPTIONS if option.note for flag in option.flags]
    lines += ["", "Accepted without effect, with a line in the log: " + ", ".join(others)]
    refused = [f"-{flag}" for option in OPTIONS if option.refused for flag in option.flags]
    lines += ["Refused, with an alternative: " + ", ".join(refused)]
    return "\n".join(lines)
