"""Asking a cluster to do something: a request to one of its nodes, and what it answers.

The other side is ``server.administration.requests``. Any node will do; which one is tried first is chance. A
connection that breaks before the answer is there leaves open whether the thing was done. A request that may
be made twice (``repeats``) is then made again, to the next node.
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
"""A cluster of which no node has taken the connection after so long can't be reached. That is longer than
an election, during which nodes take none."""

Progress = Callable[[str], None]


def add_cluster(
    parser: argparse.ArgumentParser, *, timeout_s: float = 10.0, positional: bool = False
) -> None:
    """Which cluster, as who, how long; and ``--json``. `target.cluster_of` reads it.

    With ``positional`` the configuration isn't an option, but what the command is about.
    """
    add_target(parser, positional=positional)
    parser.add_argument("--timeout", type=float, default=timeout_s, metavar="SECONDS",
                        help=f"how long to wait for the answer ({timeout_s:g})")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print what was answered as JSON")


def administer(
    args: argparse.Namespace,
    verb: str,
    fields: Mapping[str, Any] | None = None,
    *,
    repeats: bool = False,
    progress: Progress | None = None,
) -> Any:
    """Ask for ``verb`` as the command line says (`add_cluster`), and wait; what the node says is ``ok``.

    Progress goes to standard error, a line each, unless ``progress`` takes it.

    Raises:
        RefusedError: with the node's own words.
        UnavailableError: no node can be reached, or no answer came in time.
        ConfigError: of the file.
    """
    cluster = cluster_of(args).as_operator()
    work = partial(
        ask, cluster, verb, fields or {}, timeout_s=args.timeout, repeats=repeats, progress=progress or say
    )
    return trio.run(work)


def show(args: argparse.Namespace, value: Any, text: Callable[[Any], str]) -> None:
    """Print an answer: as JSON with ``--json``, else as ``text`` has it."""
    print(json.dumps(value, indent=2) if args.json else text(value))


def say(text: str) -> None:
    """Show a line of progress."""
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
    """Ask a node for ``verb``; what it says is ``ok``.

    Args:
        cluster: whom.
        verb: what for.
        fields: its fields; they go as JSON.
        timeout_s: for the answer, connecting included.
        repeats: it may be asked for twice: after a broken connection the next node is asked again.
        progress: told what the node says while it works.

    Raises:
        RefusedError: with the node's own words.
        UnavailableError: no node can be reached, or no answer came in time.
    """
    options = Options(
        name="stanchion",
        user=cluster.user,
        password=cluster.password,
        token=cluster.token,
        learns=not cluster.is_closed,
    )
    nats = Nats([Server.parse(address) for address in cluster.servers], options)
    conversation = _Conversation(nats, cluster, verb, json.dumps(dict(fields)).encode(), repeats, progress)
    deadline_s = trio.current_time() + timeout_s
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conversation.keep_connected)
        with trio.move_on_after(min(CONNECT_S, timeout_s)):
            await conversation.connected.wait()
        if conversation.connected.is_set():
            with trio.move_on_at(deadline_s):
                await conversation.over.wait()
        conversation.give_up(timeout_s)
        nursery.cancel_scope.cancel()
    return conversation.result()


class _Conversation:
    """One request and what comes back."""

    def __init__(
        self, nats: Nats, cluster: Cluster, verb: str, payload: bytes, repeats: bool, progress: Progress
    ) -> None:
        self._nats = nats
        self._cluster = cluster
        self._verb = verb
        self._payload = payload
        self._repeats = repeats
        self._progress = progress
        self._said = ""
        self._answer: Any = None
        self._error: RefusedError | UnavailableError | None = None
        self._reply = nats.new_inbox()
        self.connected = trio.Event()
        self.over = trio.Event()
        nats.on_connect = self._request
        nats.on_disconnect = self._broken
        nats.on_error = self._refused
        self._sid = nats.subscribe(self._reply, self._heard)

    async def keep_connected(self) -> None:
        try:
            await self._nats.run()
        except RefusedError as error:
            self._end(RefusedError(f"the node refuses the connection: {error}"))

    def give_up(self, timeout_s: float) -> None:
        """Time is up; unless it is over."""
        if not self.connected.is_set():
            text = f"no node takes the connection: tried {', '.join(self._cluster.servers)}"
        else:
            text = (
                f"no answer to {self._verb} within {timeout_s:g} s; whether it will still be done is unknown"
            )
        self._end(UnavailableError(text))

    def result(self) -> Any:
        """What was answered. Raises what has gone wrong instead."""
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
                    f"the connection broke before {self._verb} was answered; whether it was done is unknown"
                )
            )

    def _refused(self, text: str) -> None:
        self._end(RefusedError(f"the node refuses the request: {text}"))

    def _heard(self, message: Msg) -> None:
        if message.headers.startswith(b"NATS/1.0 503"):
            self._end(RefusedError(f"{self._node()} is no node of cluster {self._cluster.id!r}"))
            return
        match _json(message.payload):
            case {"progress": str(text)}:
                if text != self._said:  # a node that is asked after another begins with the same
                    self._said = text
                    self._progress(text)
            case {"ok": answer}:
                self._answer = answer
                self._over()
            case {"error": str(text)}:
                self._end(RefusedError(text))
            case _:
                self._end(
                    UnavailableError(f"{self._node()} answers something else: {message.payload[:80]!r}")
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
