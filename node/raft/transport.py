"""Links between nodes over trio streams: dialing, accepting, hello, queues. One connection per link.

This node keeps two links with each peer, ``raft`` and ``route``, while `run` is active; ``snapshot``
connections are opened on demand. `links` decides which of several connections is the link, `security`
authenticates the peer, and `node.protocol.peer` defines the frames. This module moves bytes and does not
interpret them.

Order of a connection: TCP, TLS, one hello each way (the dialer's first; nothing else is read before it), then
frames. Between ``on_up`` and ``on_down`` frames arrive complete and in order, or the link goes down. There is
no order between links, and nothing is kept for a peer whose link is down: `Transport.send` returns False, and
the sender sends again after ``on_up``.

Bounds: if an outbox exceeds its limit the connection is closed, because its peer does not read. The kernel
detects a dead host (unacknowledged data, keepalives). A peer that is alive but sends nothing must be detected
by the modules that expect its frames.

A peer can cause only a log line and the end of its own connection. Errors of the listeners other than
`RemoteProtocolError` are not caught here: they end the node.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import trio

from node.errors import ConfigError, IdentityError, RemoteProtocolError, UnavailableError
from node.limited_log import LimitedLog
from node.protocol.peer import encode_frame
from node.raft.connection import (
    CertificateRefusedError,
    Connection,
    LostError,
    NoHelloError,
    SnapshotChannel,
    TlsError,
    dialed,
    host_of,
    remote,
    secure,
    send,
)
from node.raft.greeting import Greetings
from node.raft.handshake import introduce, receive_introduction
from node.raft.links import (
    INSTANCE_BYTES,
    JOIN,
    RAFT,
    REMOTE_ROUTE,
    ROUTE,
    SNAPSHOT,
    Address,
    CollisionError,
    Hello,
    Limits,
    LinkListener,
    Slot,
    refusal,
)
from node.raft.security import Security
from node.raft.tls import ByteStream
from node.sockets import listen

log = logging.getLogger("stanchion.peers")

_PEER_FAULTS: Final = (LostError, RemoteProtocolError, IdentityError, CollisionError)
REFUSAL_LOG_S: Final = 60.0
"""Interval at which a node that is refused again and again is logged."""
_REFUSALS_LOGGED_MAX: Final = 256
_KINDS: Final = {
    CollisionError: (logging.DEBUG, "peer connection from %s dropped: %s"),
    NoHelloError: (logging.INFO, "peer connection without a hello from %s dropped: %s"),
    LostError: (logging.WARNING, "peer connection with a failed handshake from %s dropped: %s"),
    TlsError: (logging.WARNING, "peer connection without valid TLS from %s dropped: %s"),
    CertificateRefusedError: (
        logging.WARNING,
        "peer connection without a valid certificate from %s dropped: %s",
    ),
    IdentityError: (logging.WARNING, "refused peer connection from %s dropped: %s"),
}
_BROKEN: Final = (logging.WARNING, "peer connection from %s dropped: %s")
"""How an accepted connection that failed before it became a link is logged. Each kind and each host has
its own log limit, so that the attempts of an unknown process hide neither the refusal of a node nor another
unknown process."""


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """The state of one link, for monitoring."""

    peer: str
    link: str
    connected: bool
    queued_bytes: int
    address: str
    """The remote address of the present connection; "" without one."""
    problem: str
    """The reason why there is no connection, if known; "" with one."""


class _Dialed(Slot[Connection]):
    """A slot with the state needed to dial the peer."""

    __slots__ = ("address", "addressed", "attempt", "limited", "problem", "scope", "vacant")

    def __init__(self, node: str, peer: str, link: str, address: Address | None) -> None:
        super().__init__(node, peer, link)
        self.address = address
        """None: not known yet. The peer is then not dialed, but may dial."""
        self.addressed = trio.Event()
        self.attempt: trio.CancelScope | None = None
        """The attempt to dial, until it has become the link."""
        self.vacant = trio.Event()
        self.vacant.set()
        self.scope = trio.CancelScope()
        """Cancels the task that dials the peer, when it is no longer a peer."""
        self.problem = "not dialed yet" if address is not None else "its address is unknown"
        self.limited = LimitedLog(log)
        """Limits the log lines: the process at the peer's address may give a different reason each time."""


ServeSnapshot = Callable[[str, SnapshotChannel], Awaitable[None]]
"""Serves a snapshot connection that a peer has opened. The connection ends when this returns."""

ServeRemoteRoute = Callable[[ByteStream, Hello, trio.SocketStream], Awaitable[None]]
"""Serves a connection opened by a node that is no member: answers or refuses its hello. The last argument is
its socket. The connection ends when this returns."""


class Transport:
    """The links to all peers.

    Args:
        node: this node's name.
        peers: the members, dialed on ``raft`` and ``route``, until `set_members` replaces them. This node's
            own name is ignored.
        listen: the address on which peers are accepted.
        security: authenticates peers.
        hello: returns the server's fields of the hello on a kind of link.
        check_hello: checks a peer's (link, hello), after names and certificate were verified. Raises
            IdentityError to refuse; the text is sent to the peer.
        limits: bounds.
        routes: nodes of other clusters, dialed on ``route`` only. Their names must differ from the members'
            names.

    Raises:
        ConfigError: an address for which the security is too weak, or one name in both lists.
    """

    def __init__(
        self,
        node: str,
        peers: Mapping[str, Address],
        listen: Address,
        security: Security,
        hello: Callable[[str], dict[str, Any]],
        check_hello: Callable[[str, Mapping[str, Any]], None],
        limits: Limits | None = None,
        *,
        routes: Mapping[str, Address] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        members = {name: address for name, address in peers.items() if name != node}
        routes_by_name = dict(routes or {})
        if both := sorted(routes_by_name.keys() & {node, *members}):
            raise ConfigError([f"{name}: both a node of this cluster and a routing peer" for name in both])
        security.check_addresses([listen, *members.values(), *routes_by_name.values()])
        self._node = node
        self._listen = listen
        self._security = security
        self._hello = hello
        self._check_hello = check_hello
        self._limits = limits or Limits()
        self._jitter = jitter
        self._instance = secrets.token_bytes(INSTANCE_BYTES)
        self._epoch = 0
        self._greetings = Greetings(self._limits.handshakes_max, self._limits.handshakes_address_max)
        self._limited = LimitedLog(log)
        self._logged_at: dict[str, float] = {}
        self._slots = {
            (peer, link): _Dialed(node, peer, link, address)
            for links, addresses in (((RAFT, ROUTE), members), ((ROUTE,), routes_by_name))
            for peer, address in addresses.items()
            for link in links
        }
        self._members: dict[str, Address | None] = {**members}
        self._route_names = frozenset(routes_by_name)
        self._dialers: trio.Nursery | None = None
        self._listeners: dict[str, LinkListener] = {}
        self._serve_snapshot: ServeSnapshot | None = None
        self._serve_others: dict[str, ServeRemoteRoute] = {}
        self._explanation: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda _hello: {}
        self._refused: Callable[[str, Mapping[str, Any]], None] = lambda _peer, _refusal: None
        self.listening: list[tuple[str, int]] = []
        """(address, port) of each listening socket, once `run` has opened them."""

    # --- for the server --------------------------------------------------------------------------

    def attach(self, link: str, listener: LinkListener) -> None:
        """Set the listener of a kind of link: one each for raft and route, before `run`."""
        assert link in (RAFT, ROUTE)
        assert link not in self._listeners
        self._listeners[link] = listener

    def serve_snapshots(self, serve: ServeSnapshot) -> None:
        """Set the handler of snapshot connections. It may raise UnavailableError and RemoteProtocolError."""
        self._serve_snapshot = serve

    def serve_remote_route(self, serve: ServeRemoteRoute) -> None:
        """Set the handler of nodes of other clusters; without one they are refused."""
        self._serve_others[REMOTE_ROUTE] = serve

    def serve_joiners(self, serve: ServeRemoteRoute) -> None:
        """Set the handler of nodes that ask to join; without one they are refused."""
        self._serve_others[JOIN] = serve

    def notify_refused(
        self,
        explanation: Callable[[Mapping[str, Any]], dict[str, Any]],
        refused: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        """Set what is added to a refusal, and the handler of refusals that this node receives.

        Both are called after the peer was authenticated. ``refused`` may raise RemoteProtocolError.
        """
        self._explanation, self._refused = explanation, refused

    def set_members(self, members: Mapping[str, Address | None]) -> None:
        """Keep links with these members: dial new ones, and disconnect and refuse removed ones.

        A new address of a member is used from the next attempt on. A member without a known address (None) is
        not dialed, but is accepted when it dials. ``on_down`` of a closed link is called after this has
        returned. May be called during ``run`` or before it.

        Raises:
            ConfigError: an address for which the security is too weak, or a routing peer's name; nothing has
                changed.
        """
        members = {name: address for name, address in members.items() if name != self._node}
        if both := sorted(self._route_names & members.keys()):
            raise ConfigError([f"{name}: both a node of this cluster and a routing peer" for name in both])
        self._security.check_addresses(
            [
                address
                for name, address in members.items()
                if address is not None and self._members.get(name) != address
            ]
        )
        gone, self._members = self._members.keys() - members.keys(), members
        for name in sorted(gone):
            for link in (RAFT, ROUTE):
                self._close_slot(self._slots.pop((name, link)))
        for name, address in members.items():
            for link in (RAFT, ROUTE):
                slot = self._slots.get((name, link))
                if slot is not None:
                    slot.address = address
                    if address is not None:
                        slot.addressed.set()
                    continue
                slot = self._slots[name, link] = _Dialed(self._node, name, link, address)
                if self._dialers is not None:
                    self._dialers.start_soon(self._keep_dialed, slot)

    def _close_slot(self, slot: _Dialed) -> None:
        if slot.current is not None:
            slot.current.close(f"{slot.peer} was removed from the cluster")
        slot.scope.cancel()

    def send(self, peer: str, link: str, value: Any) -> bool:
        """Queue one frame. Returns False if the link is down, or is closed now because its queue is full."""
        return self.is_up(peer, link) and self.send_encoded(peer, link, encode_frame(value))

    def send_encoded(self, peer: str, link: str, frame: bytes) -> bool:
        """Queue a frame that `encode_frame` has encoded, so that one encoding can be sent to many peers."""
        slot = self._slots.get((peer, link))
        if slot is None or slot.current is None:
            return False
        return slot.current.push(frame, self._limits.outbox_bytes_max)

    def is_up(self, peer: str, link: str) -> bool:
        slot = self._slots.get((peer, link))
        return slot is not None and slot.current is not None

    def queued_bytes(self, peer: str, link: str) -> int:
        """Return the bytes queued for this peer; 0 if the link is down."""
        slot = self._slots.get((peer, link))
        return slot.current.queued_bytes if slot and slot.current else 0

    def drop(self, peer: str, link: str, reason: str) -> None:
        """Close the present connection, if there is one; the peer is dialed again."""
        slot = self._slots.get((peer, link))
        if slot is not None and slot.current is not None:
            slot.current.close(reason)

    def status(self) -> list[LinkStatus]:
        """Return the state of every link, sorted by peer."""
        return [
            LinkStatus(peer, link, True, now.queued_bytes, now.remote, "")
            if (now := slot.current)
            else LinkStatus(peer, link, False, 0, "", slot.problem)
            for (peer, link), slot in sorted(self._slots.items())
        ]

    def connections(self, link: str) -> list[Connection]:
        """Return the present connections of a kind of link, sorted by peer."""
        return [
            slot.current for (_, kind), slot in sorted(self._slots.items()) if kind == link and slot.current
        ]

    # --- running ----------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, dial and keep the links until cancelled. ``task_status`` is started once the port is open.

        Raises:
            ConfigError: the port can't be opened.
        """
        try:
            opened = await trio.to_thread.run_sync(listen, self._listen.host, self._listen.port)
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(one)) for one in opened]
        except OSError as error:
            raise ConfigError([f"can't listen for peers on {self._listen}: {error}"]) from error
        self.listening = [listener.socket.getsockname()[:2] for listener in listeners]
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(trio.serve_listeners, self._accept, listeners)
                self._dialers = nursery
                task_status.started()
                for slot in self._slots.values():
                    nursery.start_soon(self._keep_dialed, slot)
        finally:
            self._dialers = None

    async def _hold(self, slot: _Dialed, connection: Connection) -> None:
        """Use this connection as the link until it ends."""
        peer, link, hello = slot.peer, slot.link, connection.hello
        listener = self._listeners.get(link)
        replaced = slot.take(connection, hello)
        slot.vacant = trio.Event()
        if slot.attempt is not None:
            slot.attempt.cancel()
        if replaced is not None:
            replaced.close("replaced by a later connection")
            log.info("%s link with %s: replaced by a later connection", link, peer)
            if listener is not None:
                listener.on_down(peer, link)

        def take(values: list[Any]) -> None:
            if listener is not None:
                listener.on_frames(peer, link, values)

        log.info("%s link with %s is up (%s)", link, peer, connection.remote)
        try:
            if listener is not None:
                listener.on_up(peer, link, hello.fields)
            await connection.run(self._limits, take)
        finally:
            connection.close("this node stops")
            if slot.release(connection):
                slot.problem = connection.closed or ""
                log.info("%s link with %s is down: %s", link, peer, slot.problem)
                slot.vacant.set()
                if listener is not None:
                    listener.on_down(peer, link)

    # --- accepting --------------------------------------------------------------------------------

    async def _accept(self, stream: trio.SocketStream) -> None:
        where = "an unknown address"
        try:
            try:
                where = remote(stream)
                secured, hello, slot = await self._receive_hello(stream)
            except _PEER_FAULTS as error:
                # A node that waits to be added dials several times a second.
                if not (isinstance(error, IdentityError) and self._was_logged(str(error))):
                    level, text = _KINDS.get(type(error), _BROKEN)
                    self._limited.log(level, text, where, error, source=where.rpartition(":")[0])
                return
            serve = self._serve_others.get(hello.link)
            if serve is not None:
                await serve(secured, hello, stream)
                return
            answer = encode_frame(self._own_hello(hello.link, hello.node))
            # No await between `_slot_for` and here: the connection becomes the link at once, or not at all.
            if slot is not None:
                connection = Connection(secured, hello, where, stream.socket, dialled=False)
                connection.push(answer, self._limits.outbox_bytes_max)
                await self._hold(slot, connection)
            else:
                await self._answer_snapshot(SnapshotChannel(hello.node, secured, self._limits), answer)
        finally:
            await trio.aclose_forcefully(stream)

    def _was_logged(self, text: str) -> bool:
        """Return whether the same text has been logged within ``REFUSAL_LOG_S``."""
        now = trio.current_time()
        if len(self._logged_at) >= _REFUSALS_LOGGED_MAX:
            self._logged_at.clear()
        if now - self._logged_at.get(text, -REFUSAL_LOG_S) < REFUSAL_LOG_S:
            return True
        self._logged_at[text] = now
        return False

    async def _receive_hello(self, stream: trio.SocketStream) -> tuple[ByteStream, Hello, _Dialed | None]:
        """Perform the handshake of an accepted connection, and check its hello."""
        with self._greetings.admitted(host_of(stream)) as greeting:
            with trio.move_on_after(self._limits.handshake_s):
                await trio.lowlevel.wait_readable(stream.socket)
                greeting.has_sent = True
                secured, certificate = await self._secured(stream, server_side=True)
                more: dict[str, Any] = {}
                try:
                    hello = Hello.of(await receive_introduction(secured, self._security))
                    self._security.check_peer(certificate, hello.node)
                    if hello.link == REMOTE_ROUTE:
                        self._security.check_remote_route(
                            certificate, hello.node, hello.fields.get("cluster")
                        )
                    more = self._explanation(hello.fields)
                    slot = self._slot_for(hello)
                    if hello.link not in self._serve_others:
                        self._security.member_linked(certificate, hello.fields)
                    return secured, hello, slot
                except (IdentityError, CollisionError) as error:
                    await send(secured, refusal(error) | more)
                    raise
        if greeting.was_evicted:
            raise NoHelloError("closed to accept newer connections: too many are waiting for their handshake")
        silent = LostError if greeting.has_sent else NoHelloError
        raise silent(f"no hello within {self._limits.handshake_s} s")

    async def _answer_snapshot(self, channel: SnapshotChannel, answer: bytes) -> None:
        if self._serve_snapshot is None:
            return
        try:
            await channel.send_encoded(answer)
            await self._serve_snapshot(channel.peer, channel)
        except (RemoteProtocolError, UnavailableError) as error:
            log.warning("snapshot connection from %s dropped: %s", channel.peer, error)

    def _slot_for(self, hello: Hello) -> _Dialed | None:
        """Check a hello; returns None for a snapshot or a node that is no member, which need no slot."""
        if hello.link in self._serve_others:
            return None
        slot = self._slots.get((hello.node, hello.link))
        if slot is None and not (hello.link == SNAPSHOT and hello.node in self._members):
            raise IdentityError(self._not_a_peer(hello))
        if hello.to != self._node:
            raise IdentityError(f"this is {self._node!r}, not {hello.to!r}: a wrong peer address")
        self._check_hello(hello.link, hello.fields)
        if slot is not None:
            slot.check_append(hello)
        return slot

    def _not_a_peer(self, hello: Hello) -> str:
        text = f"{hello.node!r} is no {hello.link} peer of {self._node!r}"
        if hello.node == self._node or hello.node in self._route_names:
            return text
        return f"{text}: it was never added, or was removed (stanchion cluster add {hello.node})"

    # --- dialing ----------------------------------------------------------------------------------

    async def _keep_dialed(self, slot: _Dialed) -> None:
        with slot.scope:
            await self._dial_forever(slot)

    async def _dial_forever(self, slot: _Dialed) -> None:
        failures = 0
        while True:
            await slot.vacant.wait()
            if slot.address is None:
                slot.addressed = trio.Event()
                await slot.addressed.wait()
                continue
            if slot.current is not None:
                continue  # became connected between the event and this step
            # No await from here until the attempt can be cancelled.
            began = trio.current_time()
            established = await self._dial_once(slot)
            settled = established and trio.current_time() - began >= self._limits.settled_s
            failures = 0 if settled else failures + 1
            await trio.sleep(self._pause_s(failures))

    def _pause_s(self, failures: int) -> float:
        longest = min(self._limits.backoff_max_s, self._limits.backoff_min_s * 2.0 ** min(failures, 16))
        return longest * (0.5 + 0.5 * self._jitter())

    async def _dial_once(self, slot: _Dialed) -> bool:
        """Dial, and keep the link while it lasts. Returns whether it became the link."""
        attempt = slot.attempt = trio.CancelScope()
        stream: trio.SocketStream | None = None
        try:
            try:
                with attempt:  # cancelled when the peer's own connection becomes the link
                    assert slot.address is not None
                    stream = await dialed(slot.address.host, slot.address.port, self._limits.connect_s)
                    secured, hello = await self._introduced(stream, slot.peer, slot.link, slot)
                    connection = Connection(secured, hello, remote(stream), stream.socket, dialled=True)
            except _PEER_FAULTS as error:
                self._note_problem(slot, error)
                return False
            finally:
                slot.attempt, slot.dialing = None, False
            if attempt.cancel_called:
                return False
            await self._hold(slot, connection)
            return True
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)

    def _note_problem(self, slot: _Dialed, error: Exception) -> None:
        if slot.current is not None or isinstance(error, CollisionError) or slot.problem == str(error):
            return  # an unchanged problem is logged once, not twice a second
        slot.problem = str(error)
        level = logging.INFO if isinstance(error, LostError) else logging.WARNING
        slot.limited.log(level, "no %s link with %s (%s): %s", slot.link, slot.peer, slot.address, error)

    async def _introduced(
        self, stream: trio.SocketStream, peer: str, link: str, slot: _Dialed | None
    ) -> tuple[ByteStream, Hello]:
        """Perform the handshake of a dialed connection, and check the answer."""
        with trio.move_on_after(self._limits.handshake_s):
            secured, certificate = await self._secured(stream, server_side=False)
            # Send nothing about this node to an address that is not the peer's.
            self._security.check_peer(certificate, peer)
            if slot is not None:
                slot.dialing = True
            answer = await introduce(secured, self._own_hello(link, peer), self._security)
            if isinstance(answer, dict) and "refused" in answer:
                self._refused(peer, answer)
            hello = Hello.of(answer)
            if (hello.node, hello.link, hello.to) != (peer, link, self._node):
                raise IdentityError(f"answers as {hello.link} link of {hello.node!r} to {hello.to!r}")
            self._check_hello(link, hello.fields)
            self._security.member_linked(certificate, hello.fields)
            return secured, hello
        raise LostError(f"no hello within {self._limits.handshake_s} s")

    @asynccontextmanager
    async def open_snapshot(self, peer: str) -> AsyncIterator[SnapshotChannel]:
        """Open a snapshot connection to a member; closed at the end of the block.

        Raises:
            UnavailableError: the peer can't be reached, or refuses.
        """
        if peer not in self._members:
            raise UnavailableError(f"no snapshot connection with {peer}: {peer} is not a member")
        stream: trio.SocketStream | None = None
        try:
            try:
                address = self._members[peer]
                if address is None:
                    raise LostError("its address is unknown")
                stream = await dialed(address.host, address.port, self._limits.connect_s)
                secured, _hello = await self._introduced(stream, peer, SNAPSHOT, None)
            except _PEER_FAULTS as error:
                raise UnavailableError(f"no snapshot connection with {peer}: {error}") from error
            yield SnapshotChannel(peer, secured, self._limits)
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)

    # --- both -------------------------------------------------------------------------------------

    async def _secured(
        self, stream: trio.SocketStream, *, server_side: bool
    ) -> tuple[ByteStream, Mapping[str, Any] | None]:
        return await secure(
            stream,
            self._security.contexts,
            server_side=server_side,
            unanswered_s=self._limits.unanswered_s,
        )

    def _own_hello(self, link: str, to: str) -> dict[str, Any]:
        self._epoch += 1
        return self._hello(link) | {
            "link": link,
            "node": self._node,
            "to": to,
            "instance": self._instance,
            "epoch": self._epoch,
        }
