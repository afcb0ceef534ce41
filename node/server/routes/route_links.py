"""The links to routing peers: finds them, connects to them, and keeps one connection to each.

The configured addresses (``cluster.routes``) are dialed forever. The node there names itself in its hello,
with the address at which it can be dialed. So only one of two nodes needs the other's address. Every hello,
and later every ``peers`` frame, contains the addresses of other nodes that its sender knows. Those are dialed
too, so that in the end every node of one cluster is linked with every node of the other, because messages go
one hop. An address that was only learned is forgotten if no node answers there.

A member of this node's own cluster is not a routing peer: only its address is used, if it isn't configured. A
node that has this cluster's ID and is not a member would answer the same requests, so it is declined. If both
have bootstrapped the cluster alone (``bootstrap``), one of them by mistake, then a node that was started to
do so and has no other members yet stops with `RivalError`, because only an operator can decide which is
wanted. So does a node that has lost its directory and meets the nodes that had joined it.

Two connections between two nodes may come up at a time. Both ends keep the one that the node with the smaller
name dialed, and of two in the same direction the later one. A restarted node replaces its earlier connection.

With mutual TLS both ends must show a certificate of the same authority for the name in the hello. Without it
every address must be on the loopback interface, and both ends must have the same peer secret.

Each end sends at least one frame a second. A peer that sends nothing for five seconds is disconnected even
though its socket is open: a stopped process must not remain a gateway.

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
"""Receiver in a hello whose sender doesn't know which node it has dialed."""

PEERS_LEARNED_MAX = 200
"""Most nodes that one frame may announce, and most addresses that are dialed."""

REACHABLE_TRIES = 20
"""Attempts at an address that was only learned from a peer."""

PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 2.0
"""Pause between two attempts; doubles from the first to the second, half of it random."""

DECLINED_PAUSE_S = 5.0
"""Pause after the other end has declined this node, or is a member of this cluster."""

ALIVE_S = 1.0
"""How often each peer is sent a sign of life."""

_FAULTS = (LostError, RemoteProtocolError, IdentityError, CollisionError)


class RivalError(IdentityError):
    """Another node has bootstrapped the same cluster: this node must stop."""


@dataclass(slots=True)
class _Route:
    """A dialed address."""

    address: Address
    is_configured: bool
    found: str = ""
    """The node that answered there, as ``CLUSTER/NODE``."""
    problem: str = ""
    free: trio.Event = field(default_factory=trio.Event)
    """Set when a link ends, because another attempt may be due."""


class RouteLinks:
    """All links to routing peers.

    Args: cluster: this cluster's ID. node: this node's name. listen: the address at which others can dial
        this node; None: they can't. client: the address for clients, announced to the clients of peers;
        empty: not announced. routes: configured addresses. security: how nodes authenticate each other.
        members: returns the members of this cluster by name, with their addresses as far as known. listener:
        called for every event. bootstrap: returns ``STARTED`` if this node was started to bootstrap its
        cluster alone, ``BOOTSTRAPPED``
            if another node was; else an empty string.
        exclusive: returns whether this node was started to bootstrap it, and no other node has joined yet.

    Raises:
        ConfigError: the security doesn't allow one of the addresses.
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
        """The address at which others can dial this node."""
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
        """Linked peers by ``CLUSTER/NODE``."""

    def send(self, peer: str, value: Any) -> None:
        """Queue a frame to a peer; does nothing if its link is down."""
        found = self.peers.get(peer)
        if found is not None:
            found.send(value)

    def has_capacity(self, peer: str) -> bool:
        """Return True if a peer's queue is short, or its link is down."""
        found = self.peers.get(peer)
        return found is None or found.writable or found.closed

    def queued_bytes(self, peer: str) -> int:
        """Return the number of bytes queued to a peer; 0 if its link is down."""
        found = self.peers.get(peer)
        return 0 if found is None else found.connection.queued_bytes

    def client_addresses(self) -> list[str]:
        """Return the addresses for clients that the linked peers have announced."""
        found = (peer.hello.fields.get("client") for _, peer in sorted(self.peers.items()))
        return [address for address in found if isinstance(address, str) and address]

    def is_configured(self, key: str) -> bool:
        """Return True if this node's configuration has the address of that peer."""
        return any(route.is_configured and route.found == key for route in self._routes.values())

    async def run(self) -> None:
        """Dial the addresses and keep the links until cancelled.

        Raises:
            RivalError: another node has bootstrapped the same cluster (in an exception group).
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
            "peers": self._known_nodes(),
        }

    def _known_nodes(self) -> list[list[str]]:
        """Return the nodes of all clusters whose addresses this node has, its own cluster's too."""
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

    def _check_hello(self, hello: Hello, where: str) -> str:
        """Check a hello. Returns its sender's key; empty for this node itself or a member, which need no
        link.

        Raises:
            IdentityError: the sender can't be a routing peer.
            RivalError: this node must stop because of the sender.
        """
        cluster = hello.fields.get("cluster")
        if hello.fields.get("wire") != WIRE_VERSION:
            raise IdentityError(
                f"{hello.node} speaks wire version {shown(hello.fields.get('wire'))}, not {WIRE_VERSION}"
            )
        if not isinstance(cluster, str) or not cluster or "/" in cluster or "/" in hello.node:
            raise IdentityError(f"{hello.node} names no valid cluster")
        if hello.instance == self._instance:
            return ""
        self._learn(hello.fields.get("peers"))
        if cluster != self._cluster:
            return f"{cluster}/{hello.node}"
        if hello.node == self._node or hello.node not in self._members():
            self._check_rival(hello.node, hello.fields.get("bootstrap"), where)
            raise IdentityError(self._discovered(where))
        address = listen_of(hello, where)
        if address is not None:
            self._listener.member(hello.node, address)
        return ""

    def _learn(self, nodes: Any) -> None:
        """Dial the nodes that a peer has announced."""
        if not isinstance(nodes, list | tuple) or self._nursery is None:
            return
        for each in nodes[:PEERS_LEARNED_MAX]:
            match each:
                case [str(cluster), str(node), str(text)]:
                    self._learn_node(cluster, node, text)
                case _:
                    raise RemoteProtocolError(f"not a node's address: {shown(each)}")

    def _learn_node(self, cluster: str, node: str, text: str) -> None:
        try:
            address = parse_address(text)
            self._security.check_addresses([address])
        except (ValueError, ConfigError):
            return  # not usable by this node
        if cluster == self._cluster:
            if node in self._members() and node != self._node:
                self._listener.member(node, address)
            return
        is_new = f"{cluster}/{node}" not in self.peers and address not in self._routes
        if is_new and len(self._routes) < PEERS_LEARNED_MAX and self._nursery is not None:
            route = self._routes[address] = _Route(address, False)
            self._nursery.start_soon(self._keep_dialed, route)

    def _check_rival(self, node: str, bootstrap: Any, where: str) -> None:
        """Check that this node may go on beside a node with this cluster's ID that is not a member.

        Raises:
            RivalError: it may not.
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
        """Serve an accepted connection, from its hello to its end.

        Raises:
            RivalError: this node must stop because of the dialing node, which has been informed.
        """
        where = "an unknown address"
        try:
            where = remote(tcp)
            key = self._check_hello(hello, where)
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
                await stream.receive_some(1)  # else closing might discard the answer
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
                self._log_problem(route, error)
                pause = DECLINED_PAUSE_S if isinstance(error, IdentityError) else 0.0
            pause = pause or min(PAUSE_MIN_S * 2.0 ** min(failures, 16), PAUSE_MAX_S)
            await trio.sleep(pause * (0.5 + 0.5 * random.random()))  # noqa: S311  # keeps no secret
        log.info("no node answers at %s, an address learned from a peer: forgotten", route.address)
        del self._routes[route.address]

    def _log_problem(self, route: _Route, error: Exception) -> None:
        if str(error) != route.problem:  # log an unchanged problem once
            route.problem = str(error)
            level = logging.INFO if isinstance(error, LostError) else logging.WARNING
            self._limited.log(level, "no routing peer at %s: %s", route.address, error)

    async def _dial(self, route: _Route) -> bool:
        """Dial once, and hold the link while it lasts. Returns False if the node there needs no link.

        Raises:
            one of ``_FAULTS``: there is no link.
        """
        tcp = await dialed(route.address.host, route.address.port, self._limits.connect_s)
        try:
            where = remote(tcp)
            stream, hello = await self._introduced(tcp, route)
            key = self._check_hello(hello, where)
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
                route.found = key  # it declines us, perhaps because we are linked already
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
        """Check whether a connection may become the link, if there is another one with the same peer.

        Raises:
            CollisionError: the other one stays.
        """
        old = self.peers.get(key)
        if old is None or old.hello.instance != new.hello.instance:
            return
        smaller_dialled = self._key < key  # this node's name is the smaller one: its connection stays
        if old.connection.dialled == new.dialled:
            if new.hello.epoch <= old.hello.epoch:
                raise CollisionError("overtaken by a later connection")
        elif new.dialled != smaller_dialled:
            raise CollisionError("the other connection takes precedence")

    async def _hold(self, key: str, connection: Connection) -> None:
        """Use this connection as the link until it ends."""
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
            self._announce(peer)
            await connection.run(self._limits, lambda values: self._take(peer, values))
        finally:
            connection.close("this node stops")
            if self.peers.get(key) is peer:
                del self.peers[key]
                log.info("the link with routing peer %s is down: %s", key, connection.closed)
                self._listener.down(peer)
            for route in self._routes.values():
                route.free.set()

    def _announce(self, new: Peer) -> None:
        """Announce a new peer to the other peers. The new one has them from our hello."""
        address = listen_of(new.hello, new.connection.remote)
        if address is not None:
            announced = [[*new.key.split("/", 1), str(address)]]
            for key, peer in self.peers.items():
                if key != new.key:
                    peer.send(["peers", announced])

    def _take(self, peer: Peer, values: list[Any]) -> None:
        others = []
        for value in values:
            match value:
                case ["peers", [*nodes]]:
                    self._learn(nodes)
                case ["alive"]:
                    pass
                case _:
                    others.append(value)
        if others and self.peers.get(peer.key) is peer:
            self._listener.frames(peer, others)


def listen_of(hello: Hello, where: str) -> Address | None:
    """Return the address at which a node can be dialed. If it listens everywhere, its connection's host is
    used.
    """
    text = hello.fields.get("listen")
    if not isinstance(text, str) or not text:
        return None
    try:
        address = parse_address(text)
        return Address(parse_address(where).host, address.port) if address.is_unspecified else address
    except ValueError:
        return None
