"""The links to routing peers: finding them, dialing, who stays of two, telling each other of others.

The addresses that are configured (``cluster.routes``) are dialed for ever; who is there says so in its hello,
with the address it can be dialed at. One of the two has to be told of the other, no matter which.
Every hello, and every ``peers`` frame later, tells whom else one knows; those are dialed too, so that in the
end every node of one cluster is linked with every node of the other, for messages go one hop. An address that
was only heard of is forgotten when nobody answers there.

Who turns out to be a member of the own cluster is no routing peer: only its address is passed on, for members
whose addresses aren't configured. Who has the own cluster's ID without being a member would answer the same
requests: it is declined. If both have founded the cluster alone (``bootstrap``), one of them by mistake, then
whoever was started to do so and is still alone ends: `RivalError`. Nobody else can say which is wanted. So
does one that has lost its directory, when it meets those that had joined it.

Two connections of one pair may come up at a time. Both ends keep the one that the node with the smaller name
has dialed, and of two in one direction the later; a node that was started anew replaces what it had.

Under mutual TLS both have to show a certificate of the same authority, for the name in the hello. Without it
every address has to be on the loopback, and both have to know the same peer secret.

Each end says something at least once a second. Who says nothing for five is taken for gone although its
socket stands: a process that was stopped must not stay anybody's home.

Frames, beside those of ``remote_routes``: ``["peers", [[cluster, node, address], …]]`` and ``["alive"]``.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from node.config.values import Address, parse_address
from node.errors import ConfigError, IdentityError, RemoteProtocolError
from node.limited_log import LimitedLog
from node.protocol.peer import encode_frame, shown
from node.raft.connection import Connection, LostError, dialed, remote, secure, send
from node.raft.handshake import introduce
from node.raft.links import INSTANCE_BYTES, REMOTE_ROUTE, CollisionError, Hello, Limits, refusal
from node.raft.security import Security
from node.raft.tls import ByteStream
from node.server.routes.remote_routes import BOOTSTRAPPED, STARTED
from node.server.routes.route_peer import SOFT_BYTES, Listener, Peer

log = logging.getLogger("stanchion.routes")

WIRE_VERSION = 1

ANYBODY = "?"
"""Whom a hello is to when the dialer doesn't know who is there."""

PEERS_LEARNED_MAX = 200
"""Nodes told of, and addresses dialed, at most."""

REACHABLE_TRIES = 20
"""Attempts at an address that was only heard of."""

PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 2.0
"""Between two attempts; doubles from the first to the second, half of it random."""

DECLINED_PAUSE_S = 5.0
"""When the other end has declined us, or is one of us."""

ALIVE_S = 1.0
"""How often every peer is told that this node lives."""

_FAULTS = (LostError, RemoteProtocolError, IdentityError, CollisionError)


class RivalError(IdentityError):
    """Another node has founded the same cluster, or is of those that have: this one must not go on."""


@dataclass(slots=True)
class _Route:
    """An address that is dialed."""

    address: Address
    is_configured: bool
    found: str = ""
    """Who was there."""
    problem: str = ""
    free: trio.Event = field(default_factory=trio.Event)
    """Set whenever a link ends: another attempt may be due."""


class RouteLinks:
    """All links to routing peers.

    Args:
        cluster: this cluster's ID.
        node: this node's name.
        listen: where others can dial this node; None: nowhere.
        client: where it takes clients, to be told to the others' clients; empty: that is not to be told.
        routes: configured addresses.
        security: how nodes know one another.
        members: the members of this cluster by name, with their addresses as far as known.
        listener: told of everything.
        bootstrap: ``STARTED`` if this node was started to found its cluster alone, ``BOOTSTRAPPED`` if
        somebody else has; else empty.
        exclusive: whether this node was started to found it, and nobody has joined it yet.

    Raises:
        ConfigError: addresses that the security is too weak for.
    """

    def __init__(
        self,
        cluster: str,
        node: str,
        *,
        listen: Address | None,
        client: str,
        routes: Iterable[Address],
        security: Security,
        members: Callable[[], Mapping[str, Address | None]],
        listener: Listener,
        bootstrap: Callable[[], str] = lambda: "",
        exclusive: Callable[[], bool] = lambda: False,
        limits: Limits | None = None,
    ) -> None:
        routes = list(routes)
        security.check_addresses(routes)
        self._cluster = cluster
        self._node = node
        self._key = f"{cluster}/{node}"
        self.listen = listen
        """Where others can dial this node."""
        self._client = client
        self._security = security
        self._members = members
        self._listener = listener
        self._bootstrap = bootstrap
        self._exclusive = exclusive
        self._limits = limits or Limits()
        self._limited = LimitedLog(log)
        self._instance = secrets.token_bytes(INSTANCE_BYTES)
        self._epoch = 0
        self._nursery: trio.Nursery | None = None
        self._routes = {address: _Route(address, True) for address in routes}
        self.peers: dict[str, Peer] = {}
        """By ``CLUSTER/NODE``."""

    def send(self, peer: str, value: Any) -> None:
        """Queue a frame to a peer; nothing happens if its link is gone."""
        found = self.peers.get(peer)
        if found is not None:
            found.send(value)

    def has_capacity(self, peer: str) -> bool:
        """The link to a peer takes more now without queueing much, or is gone."""
        found = self.peers.get(peer)
        return found is None or found.writable or found.closed

    def queued_bytes(self, peer: str) -> int:
        """What waits for a peer to read it; 0 when its link is gone."""
        found = self.peers.get(peer)
        return 0 if found is None else found.connection.queued_bytes

    def client_addresses(self) -> list[str]:
        """Where the routing peers take clients, as they said."""
        found = (peer.hello.fields.get("client") for _, peer in sorted(self.peers.items()))
        return [address for address in found if isinstance(address, str) and address]

    def is_configured(self, key: str) -> bool:
        """This node was told where that peer is."""
        return any(route.is_configured and route.found == key for route in self._routes.values())

    async def run(self) -> None:
        """Dial and hold links until cancelled.

        Raises:
            RivalError: another node has founded the same cluster (in an exception group).
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for route in self._routes.values():
                    nursery.start_soon(self._keep_dialed, route)
                while True:
                    await trio.sleep(ALIVE_S)
                    for peer in list(self.peers.values()):
                        peer.watch()
            finally:
                self._nursery = None

    # --- hellos -----------------------------------------------------------------------------------

    def _own_hello(self, to: str) -> dict[str, Any]:
        self._epoch += 1
        return {
            "link": REMOTE_ROUTE,
            "wire": WIRE_VERSION,
            "cluster": self._cluster,
            "node": self._node,
            "to": to,
            "instance": self._instance,
            "epoch": self._epoch,
            "listen": "" if self.listen is None else str(self.listen),
            "client": self._client,
            "bootstrap": self._bootstrap(),
            "peers": self._known(),
        }

    def _known(self) -> list[list[str]]:
        """The nodes of all clusters whose addresses are known, this one's too."""
        members = [
            [self._cluster, name, str(address)]
            for name, address in self._members().items()
            if address is not None
        ]
        others = [
            [*key.split("/", 1), str(address)]
            for key, peer in self.peers.items()
            if (address := listen_of(peer.hello, peer.connection.remote)) is not None
        ]
        return (members + others)[:PEERS_LEARNED_MAX]

    def _judge(self, hello: Hello, where: str) -> str:
        """Who has said this hello: its key; empty for this very node or a member, who need no link.

        Raises:
            IdentityError: it can't be a routing peer.
            RivalError: nor can this node go on beside it.
        """
        cluster = hello.fields.get("cluster")
        if hello.fields.get("wire") != WIRE_VERSION:
            raise IdentityError(
                f"{hello.node} speaks wire version {shown(hello.fields.get('wire'))}, not {WIRE_VERSION}"
            )
        if not isinstance(cluster, str) or not cluster or "/" in cluster or "/" in hello.node:
            raise IdentityError(f"{hello.node} belongs to no cluster")
        if hello.instance == self._instance:
            return ""
        self._hear(hello.fields.get("peers"))
        if cluster != self._cluster:
            return f"{cluster}/{hello.node}"
        if hello.node == self._node or hello.node not in self._members():
            self._check_rival(hello.node, hello.fields.get("bootstrap"), where)
            raise IdentityError(self._discovered(where))
        address = listen_of(hello, where)
        if address is not None:
            self._listener.member(hello.node, address)
        return ""

    def _hear(self, told: Any) -> None:
        """Dial whom others know."""
        if not isinstance(told, list | tuple) or self._nursery is None:
            return
        for each in told[:PEERS_LEARNED_MAX]:
            match each:
                case [str(cluster), str(node), str(text)]:
                    self._hear_of(cluster, node, text)
                case _:
                    raise RemoteProtocolError(f"not a node's address: {shown(each)}")

    def _hear_of(self, cluster: str, node: str, text: str) -> None:
        try:
            address = parse_address(text)
            self._security.check_addresses([address])
        except (ValueError, ConfigError):
            return  # of no use to this node, whatever it is to others
        if cluster == self._cluster:
            if node in self._members() and node != self._node:
                self._listener.member(node, address)
            return
        is_new = f"{cluster}/{node}" not in self.peers and address not in self._routes
        if is_new and len(self._routes) < PEERS_LEARNED_MAX and self._nursery is not None:
            route = self._routes[address] = _Route(address, False)
            self._nursery.start_soon(self._keep_dialed, route)

    def _check_rival(self, node: str, bootstrap: Any, where: str) -> None:
        """Whether this node can't go on beside one of the same cluster that is no member.

        Raises:
            RivalError: so it is.
        """
        if not self._exclusive():
            return
        if bootstrap == STARTED:
            raise RivalError(f"Server {node} was also started with -cluster_bootstrap")
        if bootstrap == BOOTSTRAPPED:
            raise RivalError(self._discovered(where))

    def _discovered(self, where: str) -> str:
        return f'discovered another streaming server with cluster ID "{self._cluster}" at {where}'

    # --- accepting --------------------------------------------------------------------------------

    async def accept(self, stream: ByteStream, hello: Hello, tcp: trio.SocketStream) -> None:
        """Serve a connection that somebody has dialed, from behind its hello to its end.

        Raises:
            RivalError: this node must not go on beside who has dialed it, which knows that by then.
        """
        where = "an unknown address"
        try:
            where = remote(tcp)
            key = self._judge(hello, where)
            connection = Connection(stream, hello, where, tcp.socket)
            if key:
                self._check_duplicate(key, connection)
        except _FAULTS as error:
            level = logging.DEBUG if isinstance(error, CollisionError | LostError) else logging.WARNING
            host = where.rpartition(":")[0]
            self._limited.log(level, "a routing peer at %s is declined: %s", where, error, source=host)
            await self._decline(stream, error)
            if isinstance(error, RivalError):
                raise
            return
        answer = self._own_hello(hello.node)
        if not key:
            await self._decline(stream, None, answer)
            return
        connection.push(encode_frame(answer), self._limits.outbox_bytes_max)
        await self._hold(key, connection)

    async def _decline(
        self, stream: ByteStream, error: Exception | None, answer: dict[str, Any] | None = None
    ) -> None:
        if answer is None:
            text = error if isinstance(error, IdentityError | CollisionError) else IdentityError(str(error))
            answer = refusal(text) | {"key": self._key, "bootstrap": self._bootstrap()}
        with trio.move_on_after(self._limits.handshake_s):
            try:
                await send(stream, answer)
                await stream.receive_some(1)  # else closing might overtake what was said
            except (LostError, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                log.debug("a declined routing peer did not wait for the answer")

    # --- dialing ----------------------------------------------------------------------------------

    async def _keep_dialed(self, route: _Route) -> None:
        failures = 0
        while route.is_configured or failures < REACHABLE_TRIES:
            if route.found in self.peers:
                route.free = trio.Event()
                await route.free.wait()
                failures = 0
                continue
            pause = 0.0
            try:
                if await self._dial(route):
                    failures = 0
                    continue
                pause = DECLINED_PAUSE_S
            except CollisionError:
                failures += 1
            except RivalError:
                raise
            except _FAULTS as error:
                failures += 1
                self._complain(route, error)
                pause = DECLINED_PAUSE_S if isinstance(error, IdentityError) else 0.0
            pause = pause or min(PAUSE_MIN_S * 2.0 ** min(failures, 16), PAUSE_MAX_S)
            await trio.sleep(pause * (0.5 + 0.5 * random.random()))  # noqa: S311  # keeps no secret
        log.info("nobody answers at %s any more, which was only heard of", route.address)
        del self._routes[route.address]

    def _complain(self, route: _Route, error: Exception) -> None:
        if str(error) != route.problem:  # what stays as it was is told once
            route.problem = str(error)
            level = logging.INFO if isinstance(error, LostError) else logging.WARNING
            self._limited.log(level, "no routing peer at %s: %s", route.address, error)

    async def _dial(self, route: _Route) -> bool:
        """Dial once, and hold the link while it lasts. False: who is there needs none.

        Raises:
            one of ``_FAULTS``: there is no link.
        """
        tcp = await dialed(route.address.host, route.address.port, self._limits.connect_s)
        try:
            where = remote(tcp)
            stream, hello = await self._introduced(tcp, route)
            key = self._judge(hello, where)
            route.found, route.problem = key, ""
            if not key:
                return False
            connection = Connection(stream, hello, where, tcp.socket, dialled=True)
            self._check_duplicate(key, connection)
            await self._hold(key, connection)
            return True
        finally:
            await trio.aclose_forcefully(tcp)

    async def _introduced(self, tcp: trio.SocketStream, route: _Route) -> tuple[ByteStream, Hello]:
        with trio.move_on_after(self._limits.handshake_s):
            contexts, unanswered_s = self._security.contexts, self._limits.unanswered_s
            stream, certificate = await secure(tcp, contexts, server_side=False, unanswered_s=unanswered_s)
            answer = await introduce(stream, self._own_hello(ANYBODY), self._security)
            if isinstance(answer, dict) and isinstance(key := answer.get("key"), str):
                route.found = key  # it declines us, but if we are linked already we know what for
                cluster, _, node = key.partition("/")
                if cluster == self._cluster:
                    self._security.check_peer(certificate, node)
                    self._check_rival(node, answer.get("bootstrap"), str(route.address))
            hello = Hello.of(answer)
            self._security.check_peer(certificate, hello.node)
            self._security.check_remote_route(certificate, hello.node, hello.fields.get("cluster"))
            if hello.link != REMOTE_ROUTE or hello.to != self._node:
                raise IdentityError(f"answers as {hello.link} link of {hello.node!r} to {hello.to!r}")
            return stream, hello
        raise LostError(f"no hello within {self._limits.handshake_s} s")

    # --- both -------------------------------------------------------------------------------------

    def _check_duplicate(self, key: str, new: Connection) -> None:
        """Of two connections with one peer, may this one be the link?

        Raises:
            CollisionError: the other stays.
        """
        old = self.peers.get(key)
        if old is None or old.hello.instance != new.hello.instance:
            return
        smaller_dialled = self._key < key  # we are the smaller, so what we have dialed stays
        if old.connection.dialled == new.dialled:
            if new.hello.epoch <= old.hello.epoch:
                raise CollisionError("overtaken by a later connection")
        elif new.dialled != smaller_dialled:
            raise CollisionError("the other connection is ahead")

    async def _hold(self, key: str, connection: Connection) -> None:
        """Let this connection be the link until it ends."""
        peer = Peer(key, connection, self._limits)
        old = self.peers.pop(key, None)
        if old is not None:
            old.connection.close("replaced by a later connection")
            self._listener.down(old)
        self.peers[key] = peer
        connection.notify_drained(SOFT_BYTES, lambda: self._listener.drained(peer))
        log.info("routing peer %s is linked (%s)", key, connection.remote)
        try:
            self._listener.up(peer)
            self._notify_others(peer)
            await connection.run(self._limits, lambda values: self._take(peer, values))
        finally:
            connection.close("this node stops")
            if self.peers.get(key) is peer:
                del self.peers[key]
                log.info("the link with routing peer %s is down: %s", key, connection.closed)
                self._listener.down(peer)
            for route in self._routes.values():
                route.free.set()

    def _notify_others(self, new: Peer) -> None:
        """Those who were there before hear of the new one; it has heard of them in our hello."""
        address = listen_of(new.hello, new.connection.remote)
        if address is not None:
            told = [[*new.key.split("/", 1), str(address)]]
            for key, peer in self.peers.items():
                if key != new.key:
                    peer.send(["peers", told])

    def _take(self, peer: Peer, values: list[Any]) -> None:
        others = []
        for value in values:
            match value:
                case ["peers", [*told]]:
                    self._hear(told)
                case ["alive"]:
                    pass
                case _:
                    others.append(value)
        if others and self.peers.get(peer.key) is peer:
            self._listener.frames(peer, others)


def listen_of(hello: Hello, where: str) -> Address | None:
    """The address a node can be dialed at; where it listens everywhere, that it was seen to come from."""
    text = hello.fields.get("listen")
    if not isinstance(text, str) or not text:
        return None
    try:
        address = parse_address(text)
        return Address(parse_address(where).host, address.port) if address.is_unspecified else address
    except ValueError:
        return None
