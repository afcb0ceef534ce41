"""A node that joins a cluster by itself: its request, and a member's answer.

If the cluster was bootstrapped for it (`Membership.joinable`), a node with an empty directory is added at its
own request. The node has addresses of members, its routes, and asks one after the other. The member that it
reaches forwards the request to the leader, like an operator's request (`asking`), and answers with the
membership that then contains the joining node. With that membership the node starts, like a node that an
operator has added: as a learner, which becomes a voter when it has nearly caught up.

The node may have to ask again: there was no leader, the leader died, the answer was lost, or the process was
killed. So it first generates the ID of its directory, writes it to disk, and sends it with each request. A
repeated request with the same ID is the same request; a request under another node's name is declined.

A node may ask if it may be a peer: with mutual TLS, the certificate contains its name; without TLS, only
nodes on the loopback interface may ask, and they prove the peer secret. Request and answer are the hellos of
a connection::

    joining node  {link: "join", wire, cluster, node, to: "?", listen, directory}
    member        {link: "join", wire, cluster, node, to: joining node} and one of
                    joined: {founding, membership}    as in `Identity`
                    declined: text                    do not ask again
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
"""How long a joining node looks for a cluster. The Go server makes five attempts, one a second. A node that
is started together with the first node may be ready before it, and a restart would not help."""

ANSWER_S: Final = 5.0
"""How long a member waits for the leader's answer before it answers ``later``."""

PAUSE_S: Final = 0.5
"""Pause between two rounds over the routes; half of it is random."""

JOINERS_MAX: Final = 16
"""Requests that may wait at one member."""

DRAWN_FILE: Final = "joining"
"""File with the directory ID of a node that has not joined yet."""

_FAULTS: Final = (LostError, RemoteProtocolError, IdentityError, CollisionError)


def drawn(disk: Disk) -> str:
    """Return the directory ID to join with; generate and store it if there is none.

    Raises:
        DiskError: a read or write failed.
    """
    if DRAWN_FILE in disk.names():
        with contextlib.closing(disk.open(DRAWN_FILE)) as file:
            return file.read(0, 2 * DIRECTORY_BYTES).decode("ascii", "replace")
    new = secrets.token_hex(DIRECTORY_BYTES)
    replace_file(disk, DRAWN_FILE, new.encode())
    return new


def forget(disk: Disk) -> None:
    """Delete the stored directory ID: the node has joined, and its identity contains the ID.

    Raises:
        DiskError: the deletion failed.
    """
    disk.unlink(DRAWN_FILE)


class JoinClient:
    """Asks members to add this node to their cluster.

    Args:
        cluster_id: the cluster to join.
        node: this node's name.
        listen: this node's address for its peers.
        directory: the ID of its directory, the same in each request.
        security: how nodes authenticate each other.
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
        self._logged: dict[Address, str] = {}

    async def enter(self, routes: Iterable[Address], within_s: float = GIVE_UP_S) -> Invitation:
        """Ask at ``routes``, one after the other and repeatedly, until a member has added this node.

        Raises:
            IdentityError: the cluster declines the request.
            UnavailableError: no member has added the node within ``within_s`` seconds.
        """
        routes = list(routes)
        log.info("asking to join cluster %s at %s", self._cluster, ", ".join(map(str, routes)))
        with trio.move_on_after(within_s):
            while True:
                for route in routes:
                    try:
                        return await self._ask(route)
                    except _DeclinedError as error:
                        raise IdentityError(f"failed to join Raft group {self._cluster}: {error}") from error
                    except _FAULTS as error:
                        self._log(route, error)
                await trio.sleep(PAUSE_S * (0.5 + 0.5 * random.random()))  # noqa: S311  # keeps no secret
        raise UnavailableError(f"failed to join Raft group {self._cluster}")

    def _log(self, route: Address, problem: Exception) -> None:
        if self._logged.get(route) != str(problem):  # log an unchanged problem once
            self._logged[route] = str(problem)
            level = logging.INFO if isinstance(problem, LostError) else logging.WARNING
            log.log(level, "can't join at %s: %s", route, problem)

    async def _ask(self, route: Address) -> Invitation:
        """Ask once.

        Raises:
            _DeclinedError: the cluster declines the request; asking again is useless.
            LostError, RemoteProtocolError, IdentityError, CollisionError: the attempt failed.
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
                    raise RemoteProtocolError(f"{hello.node} has added another node than this one")
                return Invitation(bootstrap, index, membership)
            case {"declined": str(text)}:
                raise _DeclinedError(text[:1000])
            case {"later": str(text)}:
                raise LostError(f"{hello.node} says: {text[:1000]}")
            case _:
                raise RemoteProtocolError(f"{hello.node} answers without joined, declined or later")


class _DeclinedError(Exception):
    """The cluster declines the request; asking again is useless."""


class Asking(Protocol):
    """`server.administration.asking`, as used here."""

    def ask(self, verb: str, fields: dict[str, Any], answer: Answer) -> None: ...


class JoinServer:
    """Answers joining nodes, on a member.

    Args:
        cluster_id: this node's cluster.
        node: this node's name.
        bootstrap: returns the cluster UUID; empty while this node doesn't have it.
        asking: forwards the request to the leader.
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
        """Answer an authenticated joining node that has connected to this node."""
        try:
            listen = listen_of(hello, remote(tcp))
        except LostError as error:
            log.info("%s asked to join, but its connection is lost: %s", hello.node, error)
            return
        self._waiting += 1
        try:
            reply = await self._reply(hello, listen)
        finally:
            self._waiting -= 1
        for kind in reply.keys() - {"joined"}:
            log.info("%s asks to join; answer: %s: %s", hello.node, kind, reply[kind])
        self._epoch += 1
        answer = {
            "link": JOIN,
            "wire": WIRE_VERSION,
            "cluster": self._cluster,
            "node": self._node,
            "to": hello.node,
            "instance": self._instance,
            "epoch": self._epoch,
            **reply,
        }
        with trio.move_on_after(self._limits.handshake_s):
            try:
                await send(stream, answer)
                await stream.receive_some(1)  # else closing might discard the answer
            except (LostError, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                log.debug("%s did not wait for the answer", hello.node)

    async def _reply(self, hello: Hello, listen: Address | None) -> Mapping[str, Any]:
        """Return the answer to a request, without the fields that every hello has."""
        fields = hello.fields
        if fields.get("wire") != WIRE_VERSION or fields.get("cluster") != self._cluster:
            return {"later": f"this is cluster {self._cluster!r}, wire version {WIRE_VERSION}"}
        if listen is None or not isinstance(fields.get("directory"), str):
            return {"declined": "the request names no address or no directory"}
        if not self._bootstrap():
            return {"later": "this node doesn't have the cluster UUID yet"}
        if self._waiting > JOINERS_MAX:
            return {"later": f"{JOINERS_MAX} other nodes are waiting to join here"}
        wanted = {"name": hello.node, "peer": str(listen), "directory": fields["directory"]}
        return await self._ask_leader(wanted)

    async def _ask_leader(self, wanted: dict[str, Any]) -> Mapping[str, Any]:
        """Forward the request to the leader, and translate its answer."""
        outcome: dict[str, Any] = {}
        answered = trio.Event()

        def answer(value: dict[str, Any]) -> None:
            if "progress" not in value:
                outcome.update(value)
                answered.set()

        self._asking.ask("cluster.join", {**wanted, "within": ANSWER_S}, answer)
        with trio.move_on_after(ANSWER_S):
            await answered.wait()
        match outcome:
            case {"ok": {"membership": str(packed)}}:
                return {"joined": {"founding": self._bootstrap(), "membership": packed}}
            case {"ok": {"declined": str(text)}}:
                return {"declined": text}
            case {"error": str(text)}:
                return {"later": text}
            case _:
                return {"later": "no leader has answered yet"}
