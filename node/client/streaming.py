"""The streaming client: publish, subscribe with all options of the protocol, acknowledge.

The session (client ID, connection ID, subscriptions) belongs to the cluster and outlives connections: after a
reconnect the client does not register or subscribe again, like all clients of this protocol.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import trio

from node.client.nats import Handler, Nats, Options, Server
from node.errors import NodeError, RefusedError, RemoteProtocolError, UnavailableError
from node.protocol import nats
from node.protocol import streaming as stan
from node.protocol.positions import StartPosition
from node.units import SECOND

REQUEST_TIMEOUT_S = 2.0
PUBLISH_TIMEOUT_S = 30.0
PUBLISHES_IN_FLIGHT_MAX = 16_384


@dataclass(slots=True)
class Message:
    """A delivered message."""

    subscription: Subscription
    seq: int
    channel: str
    data: bytes
    timestamp_ns: int
    redelivered: bool
    redelivery_count: int
    received_s: float
    """Time of arrival by trio's clock."""

    def ack(self) -> None:
        """Acknowledge the message. Without a connection nothing is sent: the message will be redelivered."""
        self.subscription.ack(self.seq)


Callback = Callable[[Message], None] | Callable[[Message], Awaitable[None]]
"""Handles a message. Messages of one subscription are handled one at a time, in order."""


@dataclass(slots=True, eq=False)
class Subscription:
    """A subscription of a client.

    If the callback returns an awaitable, a task of the subscription awaits it, and the message is
    acknowledged when it has returned. The queue of these messages is bounded by max in flight: the redelivery
    of a message that is still in the queue is dropped.
    """

    client: Client
    channel: str
    callback: Callback
    manual_ack: bool
    inbox: bytes
    sid: bytes
    ack_inbox: bytes = b""
    _waiting: deque[tuple[Message, Awaitable[None]]] = field(default_factory=deque, repr=False)
    """Messages whose awaitable has not returned; the first one is being awaited."""

    def ack(self, seq: int) -> None:
        """Acknowledge a sequence."""
        if self.client.nats.connected.is_set():
            self.client.nats.publish(self.ack_inbox, stan.encode_ack(stan.Ack(self.channel, seq)))

    def received(self, raw: nats.Msg) -> None:
        """Handle a message that arrived on the inbox.

        Raises:
            TypeError: the callback returned an awaitable, and the client has no nursery to await it in.
        """
        decoded = stan.decode_message(raw.payload)
        if decoded.redelivered and any(message.seq == decoded.seq for message, _ in self._waiting):
            return
        message = Message(
            self,
            decoded.seq,
            decoded.channel,
            decoded.data,
            decoded.timestamp_ns,
            decoded.redelivered,
            decoded.redelivery_count,
            trio.current_time(),
        )
        result = self.callback(message)
        if isinstance(result, Awaitable):
            self._await_later(message, result)
        elif not self.manual_ack:
            self.ack(decoded.seq)

    def _await_later(self, message: Message, result: Awaitable[None]) -> None:
        nursery = self.client.nursery
        if nursery is None:
            _drop(result)
            raise TypeError(
                f"the callback of {self.channel!r} returned an awaitable: use `connect`, which has a nursery"
            )
        self._waiting.append((message, result))
        if len(self._waiting) == 1:
            nursery.start_soon(self._await_all)

    async def _await_all(self) -> None:
        try:
            while self._waiting:
                message, result = self._waiting[0]
                await result
                self._waiting.popleft()
                if not self.manual_ack:
                    self.ack(message.seq)
        finally:
            while self._waiting:  # cancelled, or an exception: the rest is not handled and not acknowledged
                _drop(self._waiting.popleft()[1])

    async def close(self) -> None:
        """Close: a durable keeps its cursor. Raises RefusedError, UnavailableError."""
        await self.client.end_subscription(self, self.client.session.sub_close_requests)

    async def unsubscribe(self) -> None:
        """Unsubscribe: a durable loses its cursor. Raises RefusedError, UnavailableError."""
        await self.client.end_subscription(self, self.client.session.unsub_requests)


class Client:
    """A registered client ID, created by ``connect``."""

    def __init__(
        self, connection: Nats, cluster_id: str, client_id: str, nursery: trio.Nursery | None = None
    ) -> None:
        self.nats = connection
        self.nursery = nursery
        """Runs callbacks that return an awaitable; None: such callbacks are refused."""
        self.cluster_id = cluster_id
        self.client_id = client_id
        self.conn_id = secrets.token_hex(11).encode()
        self.session = stan.ConnectResponse()
        self.lost: str = ""
        """Why the session ended without a call of `close`; empty while it exists."""
        self.ended = trio.Event()
        """Set together with ``lost``."""
        self._ack_subject = b"_STAN.acks." + secrets.token_hex(11).encode()
        self._heartbeat_inbox = connection.new_inbox()
        self._guids = count(1)
        self._guid_prefix = secrets.token_hex(8)
        self._publishes: dict[str, Callable[[str], None]] = {}
        connection.subscribe(self._heartbeat_inbox, self._heartbeat)
        connection.subscribe(self._ack_subject, self._published)

    # --- session ----------------------------------------------------------------------------------

    async def open(self, ping_interval_s: int = 5, ping_max_out: int = 88) -> None:
        """Register the client ID.

        Raises:
            RefusedError: the cluster refused it; the text says why.
            UnavailableError: no answer in time.
        """
        request = stan.ConnectRequest(
            self.client_id, self._heartbeat_inbox.decode(), 1, self.conn_id, ping_interval_s, ping_max_out
        )
        await self._connected()
        # Shielded: if a cancelled caller missed the answer, it could not end the session it asked for.
        with trio.CancelScope(shield=True):
            answer = await self._request(f"_STAN.discover.{self.cluster_id}", stan.encode_connect(request))
        self.session = stan.decode_connect_response(answer)
        if self.session.error:
            raise RefusedError(self.session.error)

    async def close(self) -> None:
        """End the session. Raises RefusedError, UnavailableError."""
        answer = await self._request(
            self.session.close_requests, stan.encode_close(stan.CloseRequest(self.client_id))
        )
        error = stan.decode_close_response(answer)
        if error:
            raise RefusedError(error)

    async def ping_for_ever(self) -> None:
        """Ping the cluster every ``ping_interval_s``. Returns when the session is no longer registered."""
        interval = self.session.ping_interval_s
        while interval > 0:
            await trio.sleep(interval)
            try:
                payload = stan.encode_ping(stan.PingRequest(self.conn_id))
                error = stan.decode_ping_response(await self._request(self.session.ping_requests, payload))
            except UnavailableError:
                continue
            if error:
                self.lost = error
                self.ended.set()
                return

    # --- publishing -------------------------------------------------------------------------------

    async def publish(self, channel: str, data: bytes, *, reply: str = "") -> None:
        """Publish and wait until the message is stored.

        Raises:
            RefusedError: the cluster refused the message; the text says why.
            UnavailableError: no answer in time, or the connection broke before; the message may or may not
                be stored.
        """
        done = trio.Event()
        errors: list[str] = []

        def answered(error: str) -> None:
            errors.append(error)
            done.set()

        broken = self.nats.broken
        guid = self.publish_async(channel, data, answered, reply=reply)
        try:
            with trio.fail_after(PUBLISH_TIMEOUT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_then, broken, done)
                    await done.wait()
                    nursery.cancel_scope.cancel()
        except trio.TooSlowError:
            raise UnavailableError("no publish acknowledgement in time") from None
        finally:
            self._publishes.pop(guid, None)
        if not errors:
            raise UnavailableError("the connection broke before the publish was acknowledged")
        if errors[0]:
            raise RefusedError(errors[0])

    def publish_async(
        self, channel: str, data: bytes, answered: Callable[[str], None], *, reply: str = ""
    ) -> str:
        """Publish and return the guid. ``answered`` is called with the error; empty: the message is stored.

        Raises:
            UnavailableError: not connected, or too many unacknowledged publishes.
        """
        if len(self._publishes) >= PUBLISHES_IN_FLIGHT_MAX:
            raise UnavailableError(f"{PUBLISHES_IN_FLIGHT_MAX} publishes are not acknowledged yet; try again")
        guid = f"{self._guid_prefix}{next(self._guids)}"
        request = stan.PublishRequest(self.client_id, guid, channel, reply, data, self.conn_id)
        subject = f"{self.session.pub_prefix}.{channel}".encode()
        self.nats.publish(subject, stan.encode_publish(request), self._ack_subject)
        self._publishes[guid] = answered
        return guid

    @property
    def unanswered(self) -> int:
        """Number of publishes without an acknowledgement."""
        return len(self._publishes)

    def _published(self, raw: nats.Msg) -> None:
        if raw.headers:
            return  # 503, no responders: the acknowledgement may still arrive
        ack = stan.decode_pub_ack(raw.payload)
        answered = self._publishes.pop(ack.guid, None)
        if answered is not None:
            answered(ack.error)

    def forget_unanswered(self) -> list[str]:
        """Stop waiting for all unacknowledged publishes, after a connection broke; return their guids."""
        lost, self._publishes = list(self._publishes), {}
        return lost

    # --- subscribing ------------------------------------------------------------------------------

    async def subscribe(
        self,
        channel: str,
        callback: Callback,
        *,
        queue: str = "",
        durable: str = "",
        start: StartPosition = StartPosition.NEW_ONLY,
        start_seq: int = 0,
        start_delta_s: float = 0.0,
        max_in_flight: int = 1024,
        ack_wait_s: int = 30,
        manual_ack: bool = False,
    ) -> Subscription:
        """Subscribe. Each message is acknowledged after ``callback`` has handled it, unless ``manual_ack``.

        If the answer arrives after the timeout, the subscription is closed again, as official clients do: its
        messages would have no reader, and a later attempt creates another subscription.

        Raises:
            RefusedError: the cluster refused it; the text says why.
            UnavailableError: no answer in time.
        """
        inbox = self.nats.new_inbox()
        sub = Subscription(self, channel, callback, manual_ack, inbox, b"")
        sub.sid = self.nats.subscribe(inbox, sub.received)
        request = stan.SubscriptionRequest(
            self.client_id,
            channel,
            queue,
            inbox.decode(),
            max_in_flight,
            ack_wait_s,
            durable,
            start,
            start_seq,
            int(start_delta_s * SECOND),
        )
        answer: stan.SubscriptionResponse | None = None
        try:
            payload = await self._request(
                self.session.sub_requests,
                stan.encode_subscription(request),
                at_once=lambda raw: _take_ack_inbox(sub, raw),
                late=lambda raw: self._close_late(sub, raw),
            )
            answer = stan.decode_subscription_response(payload)
        finally:
            if answer is None or answer.error:
                self.nats.unsubscribe(sub.sid)
        if answer.error:
            raise RefusedError(answer.error)
        return sub

    def _close_late(self, sub: Subscription, raw: nats.Msg) -> None:
        _take_ack_inbox(sub, raw)
        if sub.ack_inbox and self.nats.connected.is_set():
            request = stan.UnsubscribeRequest(self.client_id, sub.channel, sub.ack_inbox.decode())
            # The answer is ignored: if this fails, the subscription remains, as without this request.
            payload, ignored = stan.encode_unsubscribe(request), self.nats.new_inbox()
            self.nats.publish(self.session.sub_close_requests.encode(), payload, ignored)

    async def end_subscription(self, sub: Subscription, subject: str) -> None:
        """Send a close or unsubscribe request for ``sub``."""
        request = stan.UnsubscribeRequest(self.client_id, sub.channel, sub.ack_inbox.decode())
        answer = await self._request(subject, stan.encode_unsubscribe(request))
        self.nats.unsubscribe(sub.sid)
        error = stan.decode_unsubscribe_response(answer)
        if error:
            raise RefusedError(error)

    # --- internal ---------------------------------------------------------------------------------

    def _heartbeat(self, raw: nats.Msg) -> None:
        if raw.reply and self.nats.connected.is_set():
            self.nats.publish(raw.reply, b"")

    async def _connected(self) -> None:
        while not self.nats.connected.is_set():
            await self.nats.connected.wait()

    async def _request(
        self,
        subject: str,
        payload: bytes,
        at_once: Handler | None = None,
        late: Handler | None = None,
    ) -> bytes:
        """Send a request and return the answer; see `Nats.request`."""
        try:
            with trio.fail_after(REQUEST_TIMEOUT_S):
                return await self.nats.request(subject.encode(), payload, at_once, late)
        except trio.TooSlowError:
            raise UnavailableError(f"no answer on {subject} in {REQUEST_TIMEOUT_S:g} s") from None


def _drop(result: Awaitable[None]) -> None:
    """Close a coroutine that will not be awaited, to avoid Python's warning."""
    if isinstance(result, Coroutine):
        result.close()


async def _then(first: trio.Event, second: trio.Event) -> None:
    await first.wait()
    second.set()


def _take_ack_inbox(sub: Subscription, raw: nats.Msg) -> None:
    """Set the ack inbox before a message that follows the answer is handled."""
    if not raw.headers:
        sub.ack_inbox = stan.decode_subscription_response(raw.payload).ack_inbox.encode()


@asynccontextmanager
async def connect(
    servers: Sequence[str],
    cluster_id: str,
    client_id: str,
    *,
    options: Options | None = None,
    attempts_s: float = 10.0,
) -> AsyncIterator[Client]:
    """Yield a registered client. It is closed at the end of the block, also on cancellation.

    Once the registration is requested, cancellation waits for the answer, `REQUEST_TIMEOUT_S` at most, and as
    long for the answer to closing: otherwise the client ID would stay registered until heartbeats fail.

    Raises:
        RefusedError: the cluster refused the session.
        UnavailableError: no answer within ``attempts_s``.
        NodeError: errors of this kind from the block, not wrapped in an exception group.
    """
    connection = Nats([Server.parse(server) for server in servers], options)
    failure: NodeError | None = None
    connected = trio.CancelScope(shield=True)  # until the session is closed, also on cancellation

    async def keep_connected(client: Client, scope: trio.CancelScope) -> None:
        nonlocal failure
        try:
            with connected:
                await connection.run()
        except RefusedError as error:  # wrong credentials: other servers would refuse them too
            failure = error
            client.lost = str(error)
            client.ended.set()
            scope.cancel()

    async with trio.open_nursery() as nursery:
        client = Client(connection, cluster_id, client_id, nursery)
        nursery.start_soon(keep_connected, client, nursery.cancel_scope)
        try:
            await _open(client, attempts_s)
            nursery.start_soon(client.ping_for_ever)
            yield client
        except NodeError as error:
            failure = error
        finally:
            with trio.move_on_after(REQUEST_TIMEOUT_S, shield=True):
                await _close(client)
            connected.cancel()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure  # outside the nursery, which would wrap it in an exception group


async def _open(client: Client, attempts_s: float) -> None:
    until = trio.current_time() + attempts_s
    while True:
        try:
            with trio.fail_after(max(0.1, until - trio.current_time())):
                await client.open()
        except (UnavailableError, trio.TooSlowError) as error:
            if trio.current_time() >= until:
                raise UnavailableError(f"no streaming service answered within {attempts_s:g} s") from error
            await trio.sleep(0.05)
        else:
            return


async def _close(client: Client) -> None:
    if not client.session.close_requests or client.lost or not client.nats.connected.is_set():
        return
    try:
        await client.close()
    except (RefusedError, UnavailableError, RemoteProtocolError):
        return  # best effort: if the close fails, the cluster removes the client after failed heartbeats
