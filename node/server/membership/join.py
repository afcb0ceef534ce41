"""A node that joins by itself: what it asks, and what a member answers.

Where the founding allows it (`Membership.joinable`) a node with an empty directory is let in because it
asks. It knows addresses of members, its routes, and asks one after the other; whoever it reaches puts that to
the leader, like a request of an operator (`asking`), and answers with the membership that then names the
newcomer. With that it begins, as one whom an operator has added does: it learns, and votes when it has nearly
everything.

It may have to ask again: nobody led, the leader died, the answer was lost, the process was killed. So it
draws the id of its directory first, writes that down, and asks by it: who asks twice is the same, and who
asks under the name of another is told so.

Who may ask is who may be a peer: under mutual TLS the certificate has the name; without it there is only the
loopback, and the peer secret. The question and the answer are a connection's hellos::

    newcomer   {link: "join", wire, cluster, node, to: "?", listen, directory}
    member     {link: "join", wire, cluster, node, to: newcomer} and one of
                 joined: {founding, membership}    as in `Identity`
                 declined: text                    for good
                 later: text                       ask again

Source: the Go server's clustering, RaftJoinRequest; its text when it gives up.
"""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import trio

from node.config.values import Address
from node.errors import IdentityError, RemoteProtocolError, UnavailableError
from node.raft.connection import LostError, dialed, remote, secure, send
from node.raft.disk import Disk, replace_file
from node.raft.handshake import introduce
from node.raft.links import INSTANCE_BYTES, JOIN, CollisionError, Hello, Limits
from node.raft.security import Security
from node.raft.tls import ByteStream
from node.server.administration.asking import Answer
from node.server.membership.bootstrap import Invitation, unpack_membership
from node.server.membership.node_identity import DIRECTORY_BYTES
from node.server.routes.route_links import ANYBODY, listen_of

log = logging.getLogger("stanchion.membership")

WIRE_VERSION: Final = 1

GIVE_UP_S: Final = 30.0
"""How long a newcomer looks for a cluster. The Go server takes five attempts of a second; here a node that is
started together with the first one may well be ready before it, and nobody is served by a restart."""

ANSWER_S: Final = 5.0
"""How long a member waits for the leader's answer before it says: later."""

PAUSE_S: Final = 0.5
"""Between two rounds, half of it random."""

JOINERS_MAX: Final = 16
"""So many may wait for an answer of one member."""

DRAWN_FILE: Final = "joining"
"""Has the id of the directory of a node that isn't let in yet."""

_FAULTS: Final = (LostError, RemoteProtocolError, IdentityError, CollisionError)


def drawn(disk: Disk) -> str:
    """The id that this directory asks by, drawn if there is none.

    Raises:
        DiskError: the disk refused.
    """
    if DRAWN_FILE in disk.names():
        with contextlib.closing(disk.open(DRAWN_FILE)) as file:
            return file.read(0, 2 * DIRECTORY_BYTES).decode("ascii", "replace")
    new = secrets.token_hex(DIRECTORY_BYTES)
    replace_file(disk, DRAWN_FILE, new.encode())
    return new


def forget(disk: Disk) -> None:
    """It is let in: the identity says all that is needed.

    Raises:
        DiskError: the disk refused.
    """
    disk.unlink(DRAWN_FILE)


class JoinClient:
    """A node that asks to be let in.

    Args:
        cluster_id: which cluster it wants.
        node: its name.
        listen: where its peers will find it.
        directory: the id of its directory, the same whenever it asks.
        security: how nodes know one another.
    """

    def __init__(
        self, cluster_id: str, node: str, listen: Address, directory: str, security: Security
    ) -> None:
        self._cluster = cluster_id
        self._node = node
        self._listen = listen
        self._directory = directory
        self._security = security
        self._limits = Limits()
        self._instance = secrets.token_bytes(INSTANCE_BYTES)
        self._epoch = 0
        self._notified: dict[Address, str] = {}

    async def enter(self, routes: Iterable[Address], within_s: float = GIVE_UP_S) -> Invitation:
        """Ask at ``routes``, one after the other and again, until one lets this node in.

        Raises:
            IdentityError: the cluster declines it.
            UnavailableError: nobody has answered within ``within_s`` seconds.
        """
        routes = list(routes)
        log.info("asking to be let into cluster %s at %s", self._cluster, ", ".join(map(str, routes)))
        with trio.move_on_after(within_s):
            while True:
                for route in routes:
                    try:
                        return await self._ask(route)
                    except _DeclinedError as error:
                        raise IdentityError(f"failed to join Raft group {self._cluster}: {error}") from error
                    except _FAULTS as error:
                        self._notify(route, error)
                await trio.sleep(PAUSE_S * (0.5 + 0.5 * random.random()))  # noqa: S311  # keeps no secret
        raise UnavailableError(f"failed to join Raft group {self._cluster}")

    def _notify(self, route: Address, problem: Exception) -> None:
        if self._notified.get(route) != str(problem):  # what stays as it was is told once
            self._notified[route] = str(problem)
            level = logging.INFO if isinstance(problem, LostError) else logging.WARNING
            log.log(level, "not let in at %s: %s", route, problem)

    async def _ask(self, route: Address) -> Invitation:
        """Ask once.

        Raises:
            _DeclinedError: for good.
            LostError, RemoteProtocolError, IdentityError, CollisionError: nothing came of it.
        """
        tcp = await dialed(route.host, route.port, self._limits.connect_s)
        try:
            with trio.move_on_after(self._limits.handshake_s + ANSWER_S):
                contexts, unanswered_s = self._security.contexts, self._limits.unanswered_s
                stream, certificate = await secure(
                    tcp, contexts, server_side=False, unanswered_s=unanswered_s
                )
                hello = Hello.of(await introduce(stream, self._hello(), self._security))
                self._security.check_peer(certificate, hello.node)
                return self._read(hello)
            raise LostError("no answer")
        finally:
            await trio.aclose_forcefully(tcp)

    def _hello(self) -> dict[str, Any]:
        self._epoch += 1
        return {
            "link": JOIN,
            "wire": WIRE_VERSION,
            "cluster": self._cluster,
            "node": self._node,
            "to": ANYBODY,
            "instance": self._instance,
            "epoch": self._epoch,
            "listen": str(self._listen),
            "directory": self._directory,
        }

    def _read(self, hello: Hello) -> Invitation:
        if hello.link != JOIN or hello.fields.get("cluster") != self._cluster:
            raise IdentityError(f"{hello.node} belongs to cluster {hello.fields.get('cluster')!r}")
        match hello.fields:
            case {"joined": {"founding": str(bootstrap), "membership": str(packed)}} if bootstrap:
                index, membership = unpack_membership(packed)
                me = membership.get(self._node)
                if me is None or me.voter or me.directory != self._directory:
                    raise RemoteProtocolError(f"{hello.node} lets in somebody else")
                return Invitation(bootstrap, index, membership)
            case {"declined": str(text)}:
                raise _DeclinedError(text[:1000])
            case {"later": str(text)}:
                raise LostError(f"{hello.node} says: {text[:1000]}")
            case _:
                raise RemoteProtocolError(f"{hello.node} answers what nobody has asked")


class _DeclinedError(Exception):
    """There is no use in asking again."""


class Asking(Protocol):
    """What is needed of `server.administration.asking`."""

    def ask(self, verb: str, fields: dict[str, Any], answer: Answer) -> None: ...


class JoinServer:
    """A member that is asked.

    Args:
        cluster_id: which cluster it is a member of.
        node: its name.
        bootstrap: the id of the cluster's founding; empty as long as it isn't known here.
        asking: puts it to the leader.
    """

    def __init__(self, cluster_id: str, node: str, bootstrap: Callable[[], str], asking: Asking) -> None:
        self._cluster = cluster_id
        self._node = node
        self._bootstrap = bootstrap
        self._asking = asking
        self._limits = Limits()
        self._instance = secrets.token_bytes(INSTANCE_BYTES)
        self._epoch = 0
        self._waiting = 0

    async def accept(self, stream: ByteStream, hello: Hello, tcp: trio.SocketStream) -> None:
        """Answer a newcomer that has dialed this node and is who it says."""
        try:
            listen = listen_of(hello, remote(tcp))
        except LostError as error:
            log.info("%s asked to be let in, and is gone: %s", hello.node, error)
            return
        self._waiting += 1
        try:
            said = await self._judge(hello, listen)
        finally:
            self._waiting -= 1
        for kind in said.keys() - {"joined"}:
            log.info("%s asks to be let in; %s: %s", hello.node, kind, said[kind])
        self._epoch += 1
        answer = {
            "link": JOIN,
            "wire": WIRE_VERSION,
            "cluster": self._cluster,
            "node": self._node,
            "to": hello.node,
            "instance": self._instance,
            "epoch": self._epoch,
            **said,
        }
        with trio.move_on_after(self._limits.handshake_s):
            try:
                await send(stream, answer)
                await stream.receive_some(1)  # else closing might overtake what was said
            except (LostError, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                log.debug("%s did not wait for the answer", hello.node)

    async def _judge(self, hello: Hello, listen: Address | None) -> Mapping[str, Any]:
        """The answer."""
        fields = hello.fields
        if fields.get("wire") != WIRE_VERSION or fields.get("cluster") != self._cluster:
            return {"later": f"this is cluster {self._cluster!r}, wire version {WIRE_VERSION}"}
        if listen is None or not isinstance(fields.get("directory"), str):
            return {"declined": "it doesn't say where it is, or which directory it has"}
        if not self._bootstrap():
            return {"later": "this node doesn't know its own cluster yet"}
        if self._waiting > JOINERS_MAX:
            return {"later": f"{JOINERS_MAX} others ask here"}
        wanted = {"name": hello.node, "peer": str(listen), "directory": fields["directory"]}
        return await self._put(wanted)

    async def _put(self, wanted: dict[str, Any]) -> Mapping[str, Any]:
        """The leader's answer."""
        told: dict[str, Any] = {}
        came = trio.Event()

        def answer(value: dict[str, Any]) -> None:
            if "progress" not in value:
                told.update(value)
                came.set()

        self._asking.ask("cluster.join", {**wanted, "within": ANSWER_S}, answer)
        with trio.move_on_after(ANSWER_S):
            await came.wait()
        match told:
            case {"ok": {"membership": str(packed)}}:
                return {"joined": {"founding": self._bootstrap(), "membership": packed}}
            case {"ok": {"declined": str(text)}}:
                return {"declined": text}
            case {"error": str(text)}:
                return {"later": text}
            case _:
                return {"later": "no leader has answered yet"}
