"""One NATS client connection without its socket: parse bytes, carry out operations, produce bytes.

Owns the client's options, identity, subscriptions, outbox and counters. ``received`` works through a whole
read buffer with no await. It passes each PUB to routing at once. The streaming service gathers its messages
and is notified at the end of the buffer. A *driver* (``clients``, or a simulator) moves the bytes: it calls
``received``, ``take``, ``sent`` and ``on_deadline``.

The phases::

    phase      carried out       read   left by
    ---------  ----------------  -----  ------------------------------------------------------------
    HANDSHAKE  CONNECT only      yes    the first other operation: to OPEN, or HELD, or CLOSED if
                                        credentials are required and missing; CONNECT: to CHECKING
    CHECKING   nothing           no     checked(): back, or CLOSED. A password is compared in a thread
    HELD       nothing           no     release(), once the node is ready (rule R4)
    OPEN       everything        yes    CONNECT: to CHECKING if the password needs it; drain(): to DRAINING
    DRAINING   publishes only    yes    close(). Nothing is sent any more: our half of the stream ends
    CLOSED     nothing           no     -

CHECKING and HELD keep waiting operations in order.

*The gap.* Between CONNECT and the first PONG only +OK, -ERR and messages of the client's subscriptions are
sent. The Go, C and Python clients read one line at that point and compare it with PONG. So a new INFO waits
for the PONG, and no PING is sent.

*Steps.* One read may contain forty thousand PINGs, or twenty thousand publishes, each to a thousand
subscriptions. That is half a minute of work, in which a leader would send no heartbeats and lose its
leadership. So every operation has a cost. After ``STEP_COST`` a connection rests and keeps the remaining
operations; the driver calls ``go_on`` when other connections have had their turn. A connection that changes
very many subscriptions rests until ``rests_until_s``, because every change is work on every node
(`interest_rate`).

``outbox`` describes how much may wait to be written, and how slow consumers are handled.

Source: the NATS client protocol, "Connection start" to "Liveness and slow consumers".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from enum import Enum, auto
from typing import Any

from node.limited_log import LimitedLog
from node.protocol.nats import (
    OK,
    PING,
    PONG,
    Connect,
    Hpub,
    Op,
    Parser,
    Ping,
    Pong,
    ProtocolViolation,
    Pub,
    Sub,
    Unsub,
    err,
    hmsg,
    msg,
)
from node.protocol.nats_replies import (
    AUTHENTICATION_TIMEOUT,
    AUTHORIZATION_VIOLATION,
    INVALID_CLIENT_PROTOCOL,
    INVALID_PUBLISH_SUBJECT,
    INVALID_SUBJECT,
    MAX_CONNECTIONS_EXCEEDED,
    MAX_SUBSCRIPTIONS_EXCEEDED,
    NO_RESPONDERS_HEADERS,
    NO_RESPONDERS_NEED_HEADERS,
    STALE_CONNECTION,
    UNKNOWN_OPERATION,
    publish_denied,
    subscription_denied,
)
from node.protocol.subjects import literal, valid_subject
from node.server.auth import Check, Identity
from node.server.context import PROTOCOL_MAX, ClientOptions, Context
from node.server.interest_rate import Allowance
from node.server.liveness import Liveness
from node.server.outbox import SLOW_CONSUMER, Outbox
from node.server.routing import LocalSubscription

complaints = LimitedLog(logging.getLogger("stanchion.clients"))
"""Log for errors of clients, limited because clients may make them as often as they like."""

FIRST_PING_GRACE_S = 30.0
"""A client that has sent no PING for this long after CONNECT is not in the gap: it never pings, and is sent
PINGs like the others. The client libraries give up waiting for their PONG after 2 s."""


STEP_COST = 2048
"""The work of one step, in deliveries to clients: some milliseconds. The operation that reaches it is
finished. The costs of operations were measured as time, parsing included."""

PUBLISH_COST = 8
"""Cost of a publish in the streaming service. Its deliveries are added."""

SUBSCRIPTION_COST = 8
"""Cost of a SUB or UNSUB. The bytes of the subject are added, because a pattern takes time by token."""

CONNECT_COST = 160
"""Cost of a CONNECT, whose JSON may be as long as a control line."""

OPERATION_COST = 4
"""Cost of any other operation."""


class Phase(Enum):
    """See the table at the top of the module."""

    HANDSHAKE = auto()
    CHECKING = auto()
    HELD = auto()
    OPEN = auto()
    DRAINING = auto()
    CLOSED = auto()


_CARRIED_OUT = (Phase.HANDSHAKE, Phase.OPEN, Phase.DRAINING)
"""The phases in which bytes are read from the client."""


class Connection(Outbox):
    """The state of one client connection. Its driver writes the outbox, which starts with INFO.

    No call raises because of bytes that the client sent: an error closes the connection, and ``close_reason``
    describes it.

    Args:
        context: state shared by all connections of the node.
        cid: number of the connection: 1, 2, 3 …, shown to clients and operators.
        epoch: a number above 0 that grows with time and is never reused, not even by the node's next process;
            see `routing.Receiver`.
        address: the client's IP address and port.
    """

    __slots__ = (
        "_allowance",
        "_backlog",
        "_changes",
        "_connect_seen_s",
        "_context",
        "_fast",
        "_gap",
        "_identity",
        "_info_pending",
        "_liveness",
        "_new_options",
        "_parser",
        "_paused",
        "_phase",
        "_quiesced",
        "_rests",
        "_rests_until_s",
        "_spent",
        "address",
        "check",
        "cid",
        "close_reason",
        "closed_s",
        "epoch",
        "has_left",
        "in_bytes",
        "in_msgs",
        "options",
        "out_bytes",
        "out_msgs",
        "started_s",
        "subscriptions",
    )

    def __init__(self, context: Context, *, cid: int, epoch: int, address: tuple[str, int]) -> None:
        super().__init__(context.limits.pending_soft, context.limits.max_pending)
        now = context.clock()
        required = context.authenticator.required
        self.cid = cid
        self.epoch = epoch
        self.address = address
        self.options = ClientOptions()
        self.subscriptions: dict[bytes, LocalSubscription] = {}
        self.has_left = False
        """See `subscriptions.Receiver`."""
        self.in_msgs = self.in_bytes = self.out_msgs = self.out_bytes = 0
        self.started_s = now
        """Time when the TLS handshake ended, by the context's clock."""
        self.check: Check | None = None
        """In CHECKING: the driver calls its ``run`` in a thread, then ``checked`` with the result."""
        self.closed_s = 0.0
        self.close_reason = ""
        self._context = context
        self._parser = Parser(
            context.limits.max_payload, context.limits.max_control_line, connect_first=required
        )
        self._phase = Phase.HANDSHAKE
        self._identity = None if required else Identity()
        self._new_options = ClientOptions()  # of the CONNECT being checked
        self._backlog: list[Op] = []
        self._fast = False  # a PUB needs no checks or replies, only routing
        self._gap = False
        self._info_pending = False
        self._paused = False
        self._rests = False
        self._rests_until_s = 0.0
        self._quiesced = False
        self._allowance = Allowance()
        self._changes = 0  # of subscriptions, since the last step ended
        self._spent = 0  # cost of the operation that `_admit` has just carried out
        self._connect_seen_s = now
        self._liveness = Liveness(now, context.limits.ping_interval_s, context.limits.ping_max)
        self._out(context.info_line(cid, address[0]))

    # --- for the driver ---------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def closed(self) -> bool:
        """Nothing is carried out or delivered any more. The outbox may still contain bytes to write."""
        return self._phase is Phase.CLOSED

    @property
    def output_ended(self) -> bool:
        """Nothing is added to the outbox any more."""
        return self._phase in (Phase.DRAINING, Phase.CLOSED)

    @property
    def reading(self) -> bool:
        """True if the driver may pass more bytes to ``received``; otherwise they stay in the socket."""
        return not (self._paused or self._rests or self._quiesced) and self._phase in _CARRIED_OUT

    @property
    def resting(self) -> bool:
        """True if operations are left: call ``go_on`` when other connections have had their turn."""
        return self._rests and not self._paused

    @property
    def rests_until_s(self) -> float:
        """Earliest time to call ``go_on``, by the context's clock, unless the connection has to end."""
        return self._rests_until_s

    @property
    def is_slow_consumer(self) -> bool:
        """True if the connection was closed because it was a slow consumer."""
        return self.close_reason.startswith(SLOW_CONSUMER)

    @property
    def identity(self) -> Identity | None:
        """The authenticated identity; ``None`` while a required CONNECT is missing."""
        return self._identity

    @property
    def last_activity_s(self) -> float:
        """Time when bytes were last received or sent."""
        return max(self._liveness.came_s, self._liveness.left_s)

    @property
    def rtt_s(self) -> float:
        """Time between the last PING and its PONG; 0 before the first."""
        return self._liveness.rtt_s

    def secured(self) -> None:
        """Start the timeout for CONNECT: the TLS handshake has ended."""
        self.started_s = self._context.clock()

    def received(self, data: bytes | bytearray) -> None:
        """Carry out every complete operation in what the client has sent.

        May be called while not ``reading``; then the bytes wait.
        """
        if self._phase is Phase.CLOSED:
            return
        self._liveness.came_s = self._context.clock()
        self._parser.feed(data)
        if not self._quiesced:
            self._work()

    def go_on(self) -> None:
        """Carry out the next step."""
        self._rests = False
        self._go_on()

    def release(self) -> None:
        """Continue with the held operations: the node has become ready."""
        if self._phase is Phase.HELD:
            self._phase = Phase.HANDSHAKE
            self._go_on()

    def checked(self, identity: Identity | None) -> None:
        """Take the result of the password check; ``None``: the password is wrong."""
        if self._phase is not Phase.CHECKING:
            return  # closed in the meantime
        assert self.check is not None
        if identity is not None and not self._context.authenticator.still_knows(identity, self.check.by):
            identity = None  # the configuration was reloaded during the comparison
        self.check = None
        self._phase = Phase.HANDSHAKE
        self._connected(identity, self._new_options)
        self._go_on()

    def sent(self, size: int) -> None:
        """Note that the driver has written ``size`` bytes to the socket."""
        self._liveness.left_s = self._context.clock()
        before = self.outbox_bytes
        self.outbox_bytes = before - size
        self.written += size
        if self.watched:
            self.watched = False
            self._context.service.wrote(self)
        if before >= self._soft > self.outbox_bytes and self._phase is not Phase.CLOSED:
            self._context.service.drained(self)

    def deadline_s(self) -> float:
        """Return when to call ``on_deadline`` next, by the context's clock. It may move to a later time."""
        if self.output_ended:
            return float("inf")
        if self._awaits_connect:
            return self.started_s + self._context.limits.auth_timeout_s
        return self._liveness.due_s

    def on_deadline(self) -> None:
        """Send a PING, or close the connection, if ``deadline_s`` has passed; otherwise do nothing."""
        now = self._context.clock()
        if now < self.deadline_s():
            return
        in_gap = self._gap and now - self._connect_seen_s < FIRST_PING_GRACE_S
        if self._awaits_connect:
            self.close("authentication timeout", AUTHENTICATION_TIMEOUT)
        elif in_gap or self._phase not in (Phase.HANDSHAKE, Phase.OPEN):
            self._liveness.skip(now)
        elif self._liveness.ping(now):
            self._out(PING)
        else:
            self.close("stale connection", STALE_CONNECTION)

    @property
    def _awaits_connect(self) -> bool:
        return self._identity is None and self._phase is not Phase.CHECKING

    # --- for the rest of the node -----------------------------------------------------------------

    def pause_reading(self) -> None:
        """Leave further bytes in the socket, because too many requests of this node are unapplied (R21)."""
        self._paused = True

    def resume_reading(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            self._wake_input()

    def quiesce(self) -> None:
        """Stop reading until `drain`: this node is stopping, and first answers what it has read."""
        self._quiesced = True

    @property
    def quiet(self) -> bool:
        """True if nothing more is read and everything that was read is carried out."""
        return self.output_ended or (self._quiesced and not self._rests)

    def drain(self, reason: str) -> None:
        """End our half of the stream, and carry out publishes until the client has closed its half.

        The client's subscriptions end at once, so that the cluster finds them only on the node the client
        reconnects to. Its publishes are routed as before; replies reach it through the other node.

        A connection that is not open yet is closed.
        """
        if self._phase is not Phase.OPEN:
            self.close(reason)
            return
        self._quiesced = self._paused = False
        self._phase = Phase.DRAINING
        self.close_reason = reason
        self._context.routing.remove(self)
        self.subscriptions.clear()
        self._context.service.closed(self)
        self._wake_output()
        self._go_on()

    def announce(self) -> None:
        """Send the client a new INFO as soon as the gap has ended: its contents have changed."""
        self._info_pending = True
        self._announce_pending()

    def refuse(self) -> None:
        """Close the connection with an error: the node has too many connections."""
        self.close("maximum connections exceeded", MAX_CONNECTIONS_EXCEEDED)

    def close(self, reason: str, error: str = "") -> None:
        """End the connection. Its outbox, followed by ``error``, is still written."""
        if self._phase is Phase.CLOSED:
            return
        if error:
            self._out(err(error))
        self._end(reason)

    def abort(self, reason: str) -> None:
        """End the connection and discard its outbox: nothing more can be written."""
        self._drop()
        if self._phase is Phase.CLOSED:
            self._wake_output()
        else:
            self._end(reason)

    def deliver(
        self, subscription: LocalSubscription, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        """Send the client a message for one of its subscriptions, unless that is ``gone``."""
        if subscription.gone or self.has_left:
            return
        if headers and self.options.headers:
            data = hmsg(subject, subscription.sid, reply, headers, payload)
        else:
            data = msg(subject, subscription.sid, reply, payload)
        outbox = self.outbox
        if not outbox:
            self._wake_output()
        outbox.append(data)
        self.outbox_bytes += len(data)
        self.out_msgs += 1
        self.out_bytes += len(payload)
        subscription.delivered += 1
        if subscription.delivered == subscription.max_msgs:
            self._unsubscribe(subscription)
        if self.outbox_bytes > self._hard:
            self.abort(f"{SLOW_CONSUMER}: too much pending")

    # --- operations -------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Carry out the operations that were kept, then let the driver read again."""
        self._work()
        self._wake_input()

    def _work(self) -> None:
        spent = 0
        due_s = self._context.clock()
        if self._rests_until_s:
            due_s, self._rests_until_s = min(due_s, self._rests_until_s), 0.0
        try:
            while self._phase in _CARRIED_OUT and not self._rests:
                ops, self._backlog = self._backlog or self._parser.ops(), []
                if not ops:
                    break
                spent = self._carry_out(ops, spent)
        except ProtocolViolation as violation:
            if violation.wire:
                self._out(violation.wire)
            self._end(str(violation))
        self._context.routing.flush()
        self._context.service.read_done(self)
        if self._changes:
            self._pace_changes(due_s)

    def _pace_changes(self, due_s: float) -> None:
        """Rest if this connection has changed more subscriptions than `interest_rate` allows."""
        now_s = self._context.clock()
        changes, self._changes = self._changes, 0
        rate = self._context.routing.interest_rate
        pause_s = self._allowance.pause_s(rate, changes, due_s=due_s, now_s=now_s)
        if pause_s and self._phase is Phase.OPEN and not self._quiesced:
            self._rests, self._rests_until_s = True, now_s + pause_s

    def _carry_out(self, ops: Iterable[Op], spent: int) -> int:
        """Carry out operations until their cost reaches ``STEP_COST``. Returns the cost so far."""
        routing = self._context.routing
        publish, routed = routing.publish, routing.spent
        waiting = iter(ops)
        for op in waiting:
            if self._fast and type(op) is Pub:  # most operations of a busy client
                subject, reply, payload = op
                self.in_msgs += 1
                self.in_bytes += len(payload)
                count = publish(self, subject, reply, b"", payload, echo=self.options.echo)
                if not count and reply:
                    self._no_responders(reply)
                spent += count + PUBLISH_COST
            elif self._admit(op):
                spent += self._spent
            else:
                if self._phase is not Phase.CLOSED:
                    self._backlog = [op, *waiting]
                return spent
            if spent + routing.spent - routed >= STEP_COST and self._phase is not Phase.CLOSED:
                self._backlog, self._rests = [*waiting], True
                return spent
        return spent + routing.spent - routed

    def _admit(self, op: Op) -> bool:
        """Carry out ``op`` if the phase allows it. Returns False if it and later operations must wait."""
        if self._phase is Phase.HANDSHAKE:
            if isinstance(op, Connect):
                self._spent = CONNECT_COST
                self._connect(op.options)
                return True
            if self._identity is None:
                self.close("no CONNECT first", AUTHORIZATION_VIOLATION)
                return False
            if not self._context.node_ready():
                self._phase = Phase.HELD
                return False
            self._phase = Phase.OPEN
            self._set_fast()
        elif self._phase is Phase.DRAINING:
            if not isinstance(op, Pub | Hpub):
                return True
        elif self._phase is not Phase.OPEN:
            return False
        self._operate(op)
        return True

    def _operate(self, op: Op) -> None:
        self._spent = OPERATION_COST
        match op:
            case Pub(subject, reply, payload):
                self._publish(subject, reply, b"", payload)
            case Hpub(subject, reply, headers, payload):
                if not self._context.info.headers:
                    raise ProtocolViolation("HPUB, but headers are disabled", err(UNKNOWN_OPERATION))
                self._publish(subject, reply, headers, payload)
            case Sub(subject, queue, sid):
                self._subscribe(subject, queue, sid)
            case Unsub(sid, max_msgs):
                self._unsub(sid, max_msgs)
            case Ping():
                self._ping()
            case Pong():
                self._liveness.pong(self._context.clock())
            case Connect(options):
                self._spent = CONNECT_COST
                self._connect(options)

    def _connect(self, options: dict[str, Any]) -> None:
        self._new_options = ClientOptions.parse(options)
        self._liveness.answered(self._context.clock(), self.started_s)
        found = self._context.authenticator.begin(options)
        if isinstance(found, Check):
            self.check = found
            self._phase = Phase.CHECKING
            self._fast = False
        else:
            self._connected(found, self._new_options)

    def _connected(self, identity: Identity | None, options: ClientOptions) -> None:
        headers = options.headers and self._context.info.headers
        self._identity = identity or self._identity
        if identity is None:
            self.close("authorization violation", AUTHORIZATION_VIOLATION)
        elif not 0 <= options.protocol <= PROTOCOL_MAX:
            self.close(f"client protocol {options.protocol}", INVALID_CLIENT_PROTOCOL)
        elif options.no_responders and not headers:
            self.close("no responders without headers", NO_RESPONDERS_NEED_HEADERS)
        else:
            self.options = options._replace(headers=headers)
            self._gap = True
            self._connect_seen_s = self._context.clock()
            self._set_fast()
            self._ok()

    def _set_fast(self) -> None:
        self._fast = (
            self._phase is Phase.OPEN
            and not (self.options.verbose or self.options.pedantic)
            and self._identity is not None
            and self._identity.permissions is None
        )

    def _publish(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        self.in_msgs += 1
        self.in_bytes += len(headers) + len(payload)
        assert self._identity is not None
        permissions = self._identity.permissions
        if permissions is not None and not permissions.may_publish(subject):
            self._err(publish_denied(subject))
            return
        wrong = self.options.pedantic and not literal(subject)
        if wrong:
            self._err(INVALID_PUBLISH_SUBJECT)
        else:
            self._ok()
        count = self._context.routing.publish(
            self, subject, reply, headers, payload, echo=self.options.echo, as_written=wrong
        )
        self._spent = count + PUBLISH_COST
        if not count and reply:
            self._no_responders(reply)

    def _no_responders(self, reply: bytes) -> None:
        """Send the client a no-responders message for its request, if it has asked for them."""
        if self.options.no_responders:
            for subscription in self._context.routing.matching(reply):
                if subscription.connection is self:
                    self.deliver(subscription, reply, b"", NO_RESPONDERS_HEADERS, b"")
                    return

    def _subscribe(self, subject: bytes, queue: bytes, sid: bytes) -> None:
        assert self._identity is not None
        permissions = self._identity.permissions
        denied: tuple[bytes, ...] = ()
        self._spent = SUBSCRIPTION_COST + len(subject)
        if not valid_subject(subject):
            self._err(INVALID_SUBJECT)
            return
        if permissions is not None:
            if not permissions.may_subscribe(subject):
                self._err(subscription_denied(subject, queue))
                return
            denied = permissions.denied_within(subject)
        if sid not in self.subscriptions:
            limit = self._context.limits.max_subscriptions
            if limit and len(self.subscriptions) >= limit:
                self._err(MAX_SUBSCRIPTIONS_EXCEEDED)
                return
            self._changes += 1
            self.subscriptions[sid] = self._context.routing.subscribe(
                self, subject, queue, sid, denied=denied
            )
        self._ok()

    def _unsub(self, sid: bytes, max_msgs: int | None) -> None:
        subscription = self.subscriptions.get(sid)
        if subscription is not None:
            self._spent = SUBSCRIPTION_COST + len(subscription.subject)
            if max_msgs is not None and max_msgs > subscription.delivered:
                subscription.max_msgs = max_msgs
            else:
                self._unsubscribe(subscription)
        self._ok()

    def _unsubscribe(self, subscription: LocalSubscription) -> None:
        del self.subscriptions[subscription.sid]
        self._changes += 1
        self._context.routing.unsubscribe(subscription)

    def _ping(self) -> None:
        self._out(PONG)
        self._gap = False
        self._announce_pending()

    # --- output -----------------------------------------------------------------------------------

    def _announce_pending(self) -> None:
        if self._info_pending and self.options.protocol >= 1 and not self._gap:
            self._info_pending = False
            self._out(self._context.info_line(self.cid, self.address[0]))

    def _ok(self) -> None:
        if self.options.verbose:
            self._out(OK)

    def _err(self, text: str) -> None:
        host = self.address[0]
        complaints.info("client %d at %s: %s", self.cid, host, text, source=host)
        self._out(err(text))

    def _out(self, data: bytes) -> None:
        if self.output_ended:
            return
        if not self.outbox:
            self._wake_output()
        self.outbox.append(data)
        self.outbox_bytes += len(data)
        if self.outbox_bytes > self._hard:
            self.abort(f"{SLOW_CONSUMER}: too much pending")

    def _end(self, reason: str) -> None:
        if self._phase is not Phase.DRAINING:  # drain() has set the reason already
            self.close_reason = reason
        self._phase = Phase.CLOSED
        self._fast = self._rests = False
        self.closed_s = self._context.clock()
        self.check = None
        self._backlog = []
        self._parser = Parser(0)
        self._context.routing.remove(self)
        self.subscriptions.clear()
        self._context.service.closed(self)
        self._wake_output()
        self._wake_input()
