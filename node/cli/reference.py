"""``nats-streaming-server``: this server with the Go server's command line, files, signals and log lines.

The port is bound as soon as the flags are read; slow imports follow. A client that connects during the
imports waits a few hundred milliseconds in the kernel's backlog. Without this, its connection would be
refused, and the client would give up.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from node import sockets
from node.cli import early_signals
from node.config.reference import DEFAULT_PORT, Invocation, configuration, read
from node.errors import ConfigError, NodeError

if TYPE_CHECKING:
    from socket import socket

    from node.config.model import Config

NAME: Final = "nats-streaming-server"
REFERENCE_VERSION: Final = "0.25.6"
"""The release of the Go server whose behaviour this server reproduces."""

TERMINATED: Final = 128 + signal.SIGTERM
_READY: Final = "Streaming Server is ready"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's arguments) and return the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        made = read(arguments)
        match made.action:
            case "help":
                from node.config.reference_flags import usage

                print(usage())
            case "version":
                from node import __version__

                print(f"{NAME} version {REFERENCE_VERSION} (stanchion {__version__})")
            case "signal":
                from node.cli.signals import send

                send(made.signal)
            case "check":
                configuration(made, made.port or 1)
                print(f"{NAME}: the configuration is valid", file=sys.stderr)
            case _:
                return _serve(made, arguments)
    except ConfigError as error:
        for problem in error.problems:
            print(f"{NAME}: {problem}", file=sys.stderr)
        return 1
    except NodeError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _serve(made: Invocation, arguments: list[str]) -> int:
    listening = [] if made.is_external else listen("clients", made.host, made.port)
    http_sockets = listen("monitoring", made.http.host, made.http.port) if made.http else []
    port = listening[0].getsockname()[1] if listening else made.port or DEFAULT_PORT
    config = configuration(made, port)

    from node.server import logs

    logs.set_up(config.logging.level, "nats", config.logging.file, with_time=made.log_time)
    logs.set_level(config.logging.level, _component_levels(made))
    _log_start(made, config)
    _write_pid(made.pid_file)
    from node.server import node
    from node.server.launch import Launch
    from node.server.membership.node_identity import keep_name

    if made.name_file:
        keep_name(made.name_file, made.node)

    last = made

    def reload() -> Config:
        nonlocal last
        last = read(arguments)
        return configuration(last, port)

    launch = Launch(
        sockets=listening,
        http_sockets=http_sockets,
        reload=reload,
        relevel=lambda config: logs.set_level(config.logging.level, _component_levels(last)),
        ready=_READY,
        proposes=not made.is_clustered,
        terminated_status=TERMINATED,
        early_signals=early_signals.take,
    )
    gc.freeze()
    gc.enable()
    return min(1, status) if (status := node.run(config, made.node, launch)) != TERMINATED else status


def _component_levels(made: Invocation) -> dict[str, str]:
    return {"clients": "debug" if made.debug_nats else "info"}


def listen(what: str, host: str, port: int) -> list[socket]:
    """Return sockets that listen on every address of ``host``; see `node.sockets`.

    Args:
        what: the purpose of the sockets, for error texts.
        host: name or address.
        port: the port of all sockets.

    Raises:
        ConfigError: the address is not available.
    """
    try:
        return sockets.listen(host, port)
    except OSError as error:
        raise ConfigError([f"can't listen for {what} on {host}:{port}: {error.strerror}"]) from error


def _log_start(made: Invocation, config: Config) -> None:
    import logging

    log = logging.getLogger("stanchion.node")
    log.info("Starting %s[%s] version %s", NAME, config.cluster.id, REFERENCE_VERSION)
    for note in made.notes:
        log.info("%s", note)
    for warning in made.warnings:
        log.warning("%s", warning)


def _write_pid(path: str) -> None:
    if not path:
        return
    try:
        with open(path, "w", encoding="ascii") as file:  # noqa: PTH123  # pathlib isn't needed otherwise
            file.write(f"{os.getpid()}")
    except OSError as error:
        raise ConfigError([f"-pid: {path} can't be written: {error.strerror}"]) from error


if __name__ == "__main__":
    sys.exit(main())
