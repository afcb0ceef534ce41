"""Send an administration request to a node of a cluster and wait for its answer.

The server side is ``server.administration.requests``. Any node accepts any request; the nodes are tried in
random order. If the connection breaks before the answer arrives, the outcome is unknown. A request that may
safely be repeated (``repeats``) is then sent again, to the next node.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import trio

from node.cli.target import Cluster, add_target, cluster_of
from node.client.nats import Nats, Options, Server
from node.errors import RefusedError, UnavailableError
from node.protocol.nats import Msg
from node.server.administration.requests import subject

CONNECT_S: Final = 5.0
"""If no node accepts the connection within this time, the cluster counts as unreachable. Longer than an
election, during which nodes accept no connections."""

Progress = Callable[[str], None]


def add_cluster(
    parser: argparse.ArgumentParser, *, timeout_s: float = 10.0, positional: bool = False
) -> None:
    """Add the options that select the cluster, credentials and timeout, and ``--json``.

    `target.cluster_of` reads them. With ``positional`` the configuration file is an argument of the command
    instead of the option ``--config``.
    """
    add_target(parser, positional=positional)
    parser.add_argument("--timeout", type=float, default=timeout_s, metavar="SECONDS",
                        help=f"how long to wait for the answer ({timeout_s:g})")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def administer(
    args: argparse.Namespace,
    verb: str,
    fields: Mapping[str, Any] | None = None,
    *,
    repeats: bool = False,
    progress: Progress | None = None,
) -> Any:
    """Send the request ``verb`` to the cluster of the command line (`add_cluster`) and return its answer.

    Progress is printed to standard error, one line each, unless ``progress`` is given.

    Raises:
        RefusedError: with the node's error text.
        UnavailableError: no node can be reached, or no answer arrived in time.
        ConfigError: the configuration file has mistakes.
    """
    cluster = cluster_of(args).as_operator()
    work = partial(
        ask, cluster, verb, fields or {}, timeout_s=args.timeout, repeats=repeats, progress=progress or say
    )
    return trio.run(work)


def show(args: argparse.Namespace, value: Any, text: Callable[[Any], str]) -> None:
    """Print an answer: as JSON with ``--json``, else formatted by ``text``."""
    print(json.dumps(value, indent=2) if args.json else text(value))


def say(text: str) -> None:
    """Print a line of progress to standard error."""
    print(text, file=sys.stderr, flush=True)


async def ask(
    cluster: Cluster,
    verb: str,
    fields: Mapping[str, Any],
    *,
    timeout_s: float = 10.0,
    repeats: bool = False,
    progress: Progress = say,
) -> Any:
    """Send the request ``verb`` to a node and return the value of ``ok`` in its answer.

    Args:
        cluster: the cluster to ask.
        verb: the name of the request.
        fields: the arguments of the request; sent as JSON.
        timeout_s: for the whole exchange, connecting included.
        repeats: after a broken connection, send the request again to the next node. Only for requests
            that may be executed twice.
        progress: called with each progress text of the node.

    Raises:
        RefusedError: with the node's error text.
        UnavailableError: no node can be reached, or no answer arrived in time.
    """
    options = Options(
        name="stanchion",
        user=cluster.user,
        password=cluster.password,
        token=cluster.token,
        learns=not cluster.is_closed,
    )
    nats = Nats([Server.parse(address) for address in cluster.servers], options)
    exchange = _Exchange(nats, cluster, verb, json.dumps(dict(fields)).encode(), repeats, progress)
    deadline_s = trio.current_time() + timeout_s
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.keep_connected)
        with trio.move_on_after(min(CONNECT_S, timeout_s)):
            await exchange.connected.wait()
        if exchange.connected.is_set():
            with trio.move_on_at(deadline_s):
                await exchange.over.wait()
        exchange.give_up(timeout_s)
        nursery.cancel_scope.cancel()
    return exchange.result()


class _Exchange:
    """One request, its progress texts and its answer."""

    def __init__(
        self, nats: Nats, cluster: Cluster, verb: str, payload: bytes, repeats: bool, progress: Progress
    ) -> None:
        self._nats = nats
        self._cluster = cluster
        self._verb = verb
        self._payload = payload
        self._repeats = repeats
        self._progress = progress
        self._last_progress = ""
        self._answer: Any = None
        self._error: RefusedError | UnavailableError | None = None
        self._reply = nats.new_inbox()
        self.connected = trio.Event()
        self.over = trio.Event()
        nats.on_connect = self._request
        nats.on_disconnect = self._broken
        nats.on_error = self._refused
        self._sid = nats.subscribe(self._reply, self._received)

    async def keep_connected(self) -> None:
        try:
            await self._nats.run()
        except RefusedError as error:
            self._end(RefusedError(f"the node refused the connection: {error}"))

    def give_up(self, timeout_s: float) -> None:
        """End with `UnavailableError` if there is no result yet."""
        if not self.connected.is_set():
            text = f"no node accepted the connection; tried {', '.join(self._cluster.servers)}"
        else:
            text = f"no answer to {self._verb} within {timeout_s:g} s; it may still be executed"
        self._end(UnavailableError(text))

    def result(self) -> Any:
        """Return the answer, or raise the error of this exchange."""
        if self._error is not None:
            raise self._error
        return self._answer

    def _request(self) -> None:
        if self.connected.is_set() and not self._repeats:
            return
        self.connected.set()
        self._nats.publish(subject(self._cluster.id, self._verb), self._payload, self._reply)

    def _broken(self) -> None:
        if not self._repeats and self.connected.is_set():
            self._end(
                UnavailableError(
                    f"the connection broke before {self._verb} was answered; it may have been executed"
                )
            )

    def _refused(self, text: str) -> None:
        self._end(RefusedError(f"the node refused the request: {text}"))

    def _received(self, message: Msg) -> None:
        if message.headers.startswith(b"NATS/1.0 503"):
            self._end(RefusedError(f"{self._node()} is not a node of cluster {self._cluster.id!r}"))
            return
        match _json(message.payload):
            case {"progress": str(text)}:
                if text != self._last_progress:  # the next node starts with the same text
                    self._last_progress = text
                    self._progress(text)
            case {"ok": answer}:
                self._answer = answer
                self._over()
            case {"error": str(text)}:
                self._end(RefusedError(text))
            case _:
                self._end(
                    UnavailableError(f"{self._node()} sent an invalid answer: {message.payload[:80]!r}")
                )

    def _node(self) -> str:
        server = self._nats.server
        return f"{server.host}:{server.port}" if server else "the node"

    def _over(self) -> None:
        self._nats.unsubscribe(self._sid)
        self.over.set()

    def _end(self, error: RefusedError | UnavailableError) -> None:
        if not self.over.is_set():
            self._error = error
            self._over()
        self.connected.set()


def _json(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except ValueError:
        return None
