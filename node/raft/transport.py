"""Frames between nodes over trio streams: dialing, accepting, hello, queues. One connection a link.

Each peer is held on two links, ``raft`` and ``route``, for as long as this runs; ``snapshot`` connections
are opened on demand. Which of several connections is the link is decided in `links`, who a
peer is in `security`, what a frame is in `node.protocol.peer`. This module moves bytes and knows
nothing of what they mean.

Order of a connection: TCP, TLS, one hello each way (the dialer's first; nothing else is read before
it), then frames. Between ``on_up`` and ``on_down`` frames arrive complete and in order, or the link
goes down. Nothing is promised about the order between links, and nothing is kept for a peer that
is down: `Transport.send` says False, and whoever sent sends again after ``on_up``.

Bounds: an outbox that outgrows its limit costs the connection, for its peer does not read; a dead
host is found out by the kernel (unacknowledged data, keepalives), a peer that lives but says nothing
is the business of those who expect something from it.

A peer can cause nothing but a log line and the end of its own connection. Errors of the listeners'
own (anything but `RemoteProtocolError`) are not caught here: they end the node.
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
TOLD_S: Final = 60.0
"""How often a node that is refused again and again is mentioned in the log."""
_TOLD_MAX: Final = 256
_KINDS: Final = {
    CollisionError: (logging.DEBUG, "peer connection from %s dropped: %s"),
    NoHelloError: (logging.INFO, "silent peer connection from %s dropped: %s"),
    LostError: (logging.WARNING, "unfinished peer connection from %s dropped: %s"),
    TlsError: (logging.WARNING, "insecure peer connection from %s dropped: %s"),
    CertificateRefusedError: (logging.WARNING, "uncertified peer connection from %s dropped: %s"),
    IdentityError: (logging.WARNING, "refused peer connection from %s dropped: %s"),
}
_BROKEN: Final = (logging.WARNING, "peer connection from %s dropped: %s")
"""How a connection to us that came to nothing is logged. Each kind is limited by itself and for each host, so
that a stranger's noise doesn't hide that a node is refused, nor that another stranger is."""


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """How one link stands, for monitoring."""

    peer: str
    link: str
    connected: bool
    queued_bytes: int
    address: str
    """The remote end of the present connection; "" without one."""
    problem: str
    """Why there is no connection, as far as known; "" with one."""


class _Dialed(Slot[Connection]):
    """A slot with what dialing it takes."""

    __slots__ = ("address", "addressed", "attempt", "limited", "problem", "scope", "vacant")

    def __init__(self, node: str, peer: str, link: str, address: Address | None) -> None:
        super().__init__(node, peer, link)
        self.address = address
        """None: not known yet. Then it isn't dialed, but may dial."""
        self.addressed = trio.Event()
        self.attempt: trio.CancelScope | None = None
        """Our attempt to dial, until it has become the link."""
        self.vacant = trio.Event()
        self.vacant.set()
        self.scope = trio.CancelScope()
        """Of the task that dials it, for as long as the peer is one."""
        self.problem = "not dialed yet" if address is not None else "its address isn't known"
        self.limited = LimitedLog(log)
        """Who answers at the peer's address may give another reason each time."""


ServeSnapshot = Callable[[str, SnapshotChannel], Awaitable[None]]
"""Serves a snapshot connection that a peer has opened. It ends when this returns."""

ServeRemoteRoute = Callable[[ByteStream, Hello, trio.SocketStream], Awaitable[None]]
"""Serves a connection that no member has opened: answers its hello, or declines. The last is its socket. The
connection ends when this returns."""


class Transport:
    """The links to all peers.

    Args:
        node: our own name.
        peers: the members, dialed on ``raft`` and ``route``, until `set_members` names others. Our own
            name among them is passed over.
        listen: where peers reach us.
        security: how peers prove who they are.
        hello: makes the server's part of our hello on a kind of link.
        check_hello: looks at a peer's (link, hello), names and certificate being right already.
            Raises IdentityError to decline; the peer is told its text.
        limits: bounds.
        routes: nodes of other clusters, dialed on ``route`` only. Their names must differ from ours.

    Raises:
        ConfigError: addresses that the security is too weak for, or one name in both lists.
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
        strangers = dict(routes or {})
        if both := sorted(strangers.keys() & {node, *members}):
            raise ConfigError([f"{name}: both a node of this cluster and a routing peer" for name in both])
        security.check_addresses([listen, *members.values(), *strangers.values()])
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
        self._notified: dict[str, float] = {}
        self._slots = {
            (peer, link): _Dialed(node, peer, link, address)
            for links, addresses in (((RAFT, ROUTE), members), ((ROUTE,), strangers))
            for peer, address in addresses.items()
            for link in links
        }
        self._members: dict[str, Address | None] = {**members}
        self._strangers = frozenset(strangers)
        self._dialers: trio.Nursery | None = None
        self._listeners: dict[str, LinkListener] = {}
        self._serve_snapshot: ServeSnapshot | None = None
        self._serve_others: dict[str, ServeRemoteRoute] = {}
        self._explanation: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda _hello: {}
        self._refused: Callable[[str, Mapping[str, Any]], None] = lambda _peer, _refusal: None
        self.listening: list[tuple[str, int]] = []
        """(address, port) of each listening socket, once `run` has opened them."""

    # --- for those above --------------------------------------------------------------------------

    def attach(self, link: str, listener: LinkListener) -> None:
        """Say who is told about a kind of link. One each for raft and route, before `run`."""
        assert link in (RAFT, ROUTE)
        assert link not in self._listeners
        self._listeners[link] = listener

    def serve_snapshots(self, serve: ServeSnapshot) -> None:
        """Say who serves snapshot connections. It may raise UnavailableError and RemoteProtocolError."""
        self._serve_snapshot = serve

    def serve_remote_route(self, serve: ServeRemoteRoute) -> None:
        """Say who serves nodes of other clusters; by default they are declined."""
        self._serve_others[REMOTE_ROUTE] = serve

    def serve_joiners(self, serve: ServeRemoteRoute) -> None:
        """Say who answers nodes that ask to be let in; by default they are declined."""
        self._serve_others[JOIN] = serve

    def notify_refused(
        self,
        explanation: Callable[[Mapping[str, Any]], dict[str, Any]],
        refused: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        """Say what else is told to a node whose hello is declined, and who hears what others told this one.
        Both ends are who they say they are by then. ``refused`` may raise RemoteProtocolError.
        """
        self._explanation, self._refused = explanation, refused

    def set_members(self, members: Mapping[str, Address | None]) -> None:
        """Hold links with these from now on: dial who is new, close with who is gone, and refuse it.

        A new address of a member counts from the next attempt on. One whose address isn't known (None) is not
        dialed, and is taken for a member when it dials. ``on_down`` of a link that is closed
        is told after this has returned. In ``run`` or before it.

        Raises:
            ConfigError: addresses that the security is too weak for, or a routing peer's name; nothing
                has changed.
        """
        members = {name: address for name, address in members.items() if name != self._node}
        if both := sorted(self._strangers & members.keys()):
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
            slot.current.close(f"{slot.peer} is no member any more")
        slot.scope.cancel()

    def send(self, peer: str, link: str, value: Any) -> bool:
        """Queue one frame. False: the link is down, or just went down because its queue was full."""
        return self.is_up(peer, link) and self.send_encoded(peer, link, encode_frame(value))

    def send_encoded(self, peer: str, link: str, frame: bytes) -> bool:
        """Queue a frame as `encode_frame` made it: one encoding may go to many peers."""
        slot = self._slots.get((peer, link))
        if slot is None or slot.current is None:
            return False
        return slot.current.push(frame, self._limits.outbox_bytes_max)

    def is_up(self, peer: str, link: str) -> bool:
        slot = self._slots.get((peer, link))
        return slot is not None and slot.current is not None

    def queued_bytes(self, peer: str, link: str) -> int:
        """What waits for this peer to read; 0 when the link is down."""
        slot = self._slots.get((peer, link))
        return slot.current.queued_bytes if slot and slot.current else 0

    def drop(self, peer: str, link: str, reason: str) -> None:
        """End the present connection, if there is one; it is dialed again."""
        slot = self._slots.get((peer, link))
        if slot is not None and slot.current is not None:
            slot.current.close(reason)

    def status(self) -> list[LinkStatus]:
        """How every link stands, by peer."""
        return [
            LinkStatus(peer, link, True, now.queued_bytes, now.remote, "")
            if (now := slot.current)
            else LinkStatus(peer, link, False, 0, "", slot.problem)
            for (peer, link), slot in sorted(self._slots.items())
        ]

    def connections(self, link: str) -> list[Connection]:
        """The connections that hold a kind of link now, by peer."""
        return [
            slot.current for (_, kind), slot in sorted(self._slots.items()) if kind == link and slot.current
        ]

    # --- running ----------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, dial and hold the links until cancelled. Started once the port is open.

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
        """Let this connection be the link until it ends."""
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
                secured, hello, slot = await self._greeted(stream)
            except _PEER_FAULTS as error:
                # Whoever waits to be let in comes several times a second.
                if not (isinstance(error, IdentityError) and self._told_lately(str(error))):
                    level, text = _KINDS.get(type(error), _BROKEN)
                    self._limited.log(level, text, where, error, source=where.rpartition(":")[0])
                return
            serve = self._serve_others.get(hello.link)
            if serve is not None:
                await serve(secured, hello, stream)
                return
            answer = encode_frame(self._own_hello(hello.link, hello.node))
            # No await from the judgement of the hello to here: the connection is the link, or none, at once.
            if slot is not None:
                connection = Connection(secured, hello, where, stream.socket, dialled=False)
                connection.push(answer, self._limits.outbox_bytes_max)
                await self._hold(slot, connection)
            else:
                await self._answer_snapshot(SnapshotChannel(hello.node, secured, self._limits), answer)
        finally:
            await trio.aclose_forcefully(stream)

    def _told_lately(self, text: str) -> bool:
        """Whether the same has been logged within ``TOLD_S``."""
        now = trio.current_time()
        if len(self._notified) >= _TOLD_MAX:
            self._notified.clear()
        if now - self._notified.get(text, -TOLD_S) < TOLD_S:
            return True
        self._notified[text] = now
        return False

    async def _greeted(self, stream: trio.SocketStream) -> tuple[ByteStream, Hello, _Dialed | None]:
        """Learn who has dialed us, and judge it."""
        with self._greetings.admitted(host_of(stream)) as greeting:
            with trio.move_on_after(self._limits.handshake_s):
                await trio.lowlevel.wait_readable(stream.socket)
                greeting.has_spoken = True
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
            raise NoHelloError("it had to make room for others that have not said hello yet")
        silent = LostError if greeting.has_spoken else NoHelloError
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
        """Judge a hello; None for a snapshot or who is no member, which need no slot."""
        if hello.link in self._serve_others:
            return None
        slot = self._slots.get((hello.node, hello.link))
        if slot is None and not (hello.link == SNAPSHOT and hello.node in self._members):
            raise IdentityError(self._stranger(hello))
        if hello.to != self._node:
            raise IdentityError(f"this is {self._node!r}, not {hello.to!r}: a wrong peer address")
        self._check_hello(hello.link, hello.fields)
        if slot is not None:
            slot.check_append(hello)
        return slot

    def _stranger(self, hello: Hello) -> str:
        text = f"{hello.node!r} is no {hello.link} peer of {self._node!r}"
        if hello.node == self._node or hello.node in self._strangers:
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
                continue  # taken between the event and this task's turn
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
        """Dial, and hold the link while it lasts. Returns whether it ever was the link."""
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
            return  # what stays as it was is told once, not twice a second
        slot.problem = str(error)
        level = logging.INFO if isinstance(error, LostError) else logging.WARNING
        slot.limited.log(level, "no %s link with %s (%s): %s", slot.link, slot.peer, slot.address, error)

    async def _introduced(
        self, stream: trio.SocketStream, peer: str, link: str, slot: _Dialed | None
    ) -> tuple[ByteStream, Hello]:
        """Say hello on a connection that we have dialed, and judge the answer."""
        with trio.move_on_after(self._limits.handshake_s):
            secured, certificate = await self._secured(stream, server_side=False)
            # Nobody learns anything about us from an address that isn't our peer's.
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
            UnavailableError: the peer can't be reached, or declines.
        """
        if peer not in self._members:
            raise UnavailableError(f"no snapshot connection with {peer}: {peer} is no member")
        stream: trio.SocketStream | None = None
        try:
            try:
                address = self._members[peer]
                if address is None:
                    raise LostError("its address isn't known")
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
