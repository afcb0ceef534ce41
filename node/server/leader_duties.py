"""Duties of a ready leader: propose that time has passed, and which clients are reachable (R15, R16, R20).

Everything is decided in ``apply``; this module only proposes commands. A command carries the term, and the
generation of the client or subscription it refers to, so it changes nothing if it is applied too late.

Clients are checked in two ways. A *full check* examines every inbox. A *quick check* examines only the
inboxes whose interest has changed. Both run in steps.

A plain object without I/O. The caller reports events and calls ``pump``.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, Protocol

from node.core.commands import (
    ANY_EPOCH,
    ChannelExpire,
    ClientAway,
    ClientBack,
    ClientReachable,
    ClientUnreachable,
    LeaderCommand,
    SessionEnd,
    SubscriptionAway,
    SubscriptionBack,
    SubscriptionReachable,
    SubscriptionUnreachable,
    Tick,
    Unwritten,
)
from node.core.presence import NEVER_NS
from node.core.state import Client, State, Subscription
from node.core.versions import too_new
from node.server.clock import ClusterClock, WallClock
from node.server.delivery_progress import FORMER_EPOCH
from node.server.heartbeats import Heartbeats, Requests
from node.server.presence import InboxPresence, Presence, Where
from node.server.steps import ends
from node.units import MILLISECOND, SECOND, Generation, SubscriptionID

TICK_LATE_NS = 10 * MILLISECOND
"""A Tick is proposed this long after the earliest deadline, so that one Tick covers close deadlines (R20)."""
AGE_EVERY_S = 1.0
"""Minimum interval between Ticks for messages that expire by age."""
EXPIRE_EVERY_S = 1.0
"""Interval of the checks for expired channels and for sessions of removed nodes."""
SETTLE_NS = 250 * MILLISECOND
"""Time a returning client has to subscribe to the inboxes of its subscriptions again."""
LOOK_EVERY_S = 0.05
"""Delay after which a change of interest is checked."""
LOOK_AT_LEAST_S = 0.5
"""Interval of full checks without changes, which find that a grace period has ended. With very many inboxes
the interval is longer (`Presence.pause_s`), with quick checks in between."""
UNREACHABLE_NS = NEVER_NS
"""Used as the time since when a client is reachable: not all of its inboxes are subscribed to yet."""
NEVER = float("inf")
ASKED_MAX = 100
"""Maximum clients per full check that are asked whether they receive their inbox by a pattern. Others are
asked in the next one."""
REPEAT_S = 1.0
"""A command that has not been applied after this time is proposed again."""


class Losses(Protocol):
    """The part of ``losses`` used here."""

    def unwritten(
        self, before: Iterable[Where | None], now: Where | None, now_ns: int, reachable_ns: int
    ) -> Unwritten: ...
    def written_at_end(self, where: Where | None, linked: Container[str]) -> int: ...


class LeaderDuties:
    """The duties of the leader of one term.

    Args:
        state: returns the replicated state.
        propose: puts a command into the next entry.
        presence: the connections through which inboxes are reachable.
        complete: returns True if every connected member has sent its whole interest.
        requests: sends heartbeats to clients.
        clock, wall_clock: the clocks of the log.
        monotonic_s: the driver's clock.
        term: this leader's term.
        is_member: returns True if a node may have a session (R5).
        sees_connections: this node learns when a client's connection closes. False behind an external NATS
            server: every client would seem gone while that server is unavailable.
        losses: finds deliveries that ended connections may have missed.
        linked: the members whose link is up.
        node: this node's name.
    """

    def __init__(
        self,
        state: Callable[[], State],
        *,
        propose: Callable[[LeaderCommand], None],
        presence: Presence,
        complete: Callable[[], bool],
        requests: Requests,
        clock: ClusterClock,
        wall_clock: WallClock,
        monotonic_s: Callable[[], float],
        term: int,
        is_member: Callable[[str], bool],
        losses: Losses,
        linked: Container[str],
        node: str,
        sees_connections: bool = True,
    ) -> None:
        self._node = node
        self._state = state
        self._is_member = is_member
        self._losses = losses
        self._linked = linked
        self._propose = propose
        self._presence = presence
        self._complete = complete
        self._clock = clock
        self._wall_clock = wall_clock
        self._monotonic_s = monotonic_s
        self._term = term
        self.heartbeats = Heartbeats(
            state,
            requests,
            propose,
            term,
            monotonic_s,
            answered=self._take_reply,
            is_gone=self._is_gone if sees_connections else None,
        )
        self._asks_left = ASKED_MAX
        self._asked: dict[Generation, Where] = {}
        """Clients reachable by a pattern only, with the connection through which they were last asked."""
        self._elected_ns = clock.now()
        self._grace_from_ns: int | None = None  # when the interest of all members was complete
        self._ticked_ns: int | None = None  # the cluster time that an unapplied Tick will set
        self._aged_s = 0.0
        self._full_check_s = 0.0
        self._quick_check_s = 0.0
        self._users: dict[str, list[str | SubscriptionID]] = {}
        """The clients and subscriptions that use an inbox, by inbox, as of the last full check."""
        self._unsettled: dict[str, None] = {}
        """Returning clients that have not subscribed to all of their inboxes yet."""
        self._in_grace: dict[str, None] = {}
        """Clients with an unreachable inbox whose grace period has not ended."""
        self._grace_checked_s = 0.0
        self._expired_s = 0.0
        self._proposed: dict[tuple[type[LeaderCommand], tuple[Any, ...]], float] = {}
        self._full_check: Iterator[None] | None = None
        self._quick_check: Iterator[None] | None = None
        for client in state().clients.values():
            self.heartbeats.register(client)

    def stop(self) -> None:
        """Stop sending heartbeats: this node no longer leads."""
        self.heartbeats.stop()

    def applied(self) -> None:
        """Note that an entry was applied."""
        if self._ticked_ns is not None and self._state().time_ns >= self._ticked_ns:
            self._ticked_ns = None

    def opened(self, client_id: str) -> None:
        """Note that a client was registered."""
        client = self._state().clients.get(client_id)
        if client is not None:
            self.heartbeats.register(client)

    def pump(self) -> float:
        """Run the checks that are due, and propose commands. Returns the driver's time of the next call."""
        now_s = self._monotonic_s()
        self.heartbeats.beat()
        if self._full_check is None and now_s - self._full_check_s >= self._pause_s():
            self._full_check_s = self._quick_check_s = now_s
            self._full_check = self._check_all(now_s)
        elif self._quick_check is None and self._next_quick_check_s() <= now_s:
            self._quick_check_s = now_s
            self._quick_check = self._check_changed(now_s)
        if self._full_check is not None and ends(self._full_check):
            self._full_check = None
        if self._quick_check is not None and ends(self._quick_check):
            self._quick_check = None
        if now_s - self._expired_s >= EXPIRE_EVERY_S:
            self._expired_s = now_s
            self._expire_channels(now_s)
            self._end_sessions(now_s)
        self._tick(now_s)
        return self._next(now_s)

    # --- time -------------------------------------------------------------------------------------

    def _tick(self, now_s: float) -> None:
        if self._ticked_ns is not None:
            return
        state, now_ns = self._state(), self._clock.now()
        deadline = state.next_deadline()
        due = state.marked or (deadline is not None and deadline + TICK_LATE_NS <= now_ns)
        age = state.next_age()
        if (
            age is not None
            and now_s - self._aged_s >= AGE_EVERY_S
            and age <= self._wall_clock.estimate(now_ns)
        ):
            self._aged_s = now_s
            due = True
        if due:
            self._ticked_ns = now_ns
            self._propose(Tick(self._term))

    def _next(self, now_s: float) -> float:
        if self._full_check is not None or self._quick_check is not None:
            return now_s
        state = self._state()
        times = [self._full_check_s + self._pause_s(), self._next_quick_check_s()]
        beat = self.heartbeats.next_deadline()
        if beat is not None:
            times.append(beat)
        if self._ticked_ns is None:
            deadline = state.next_deadline()
            if deadline is not None:
                times.append(now_s + (deadline + TICK_LATE_NS - self._clock.now()) / SECOND)
            age = state.next_age()
            if age is not None:
                away_s = (age - self._wall_clock.estimate(self._clock.now())) / SECOND
                times.append(max(now_s + away_s, self._aged_s + AGE_EVERY_S))
        return max(now_s, min(times))

    def _expire_channels(self, now_s: float) -> None:
        idle = self._state().expiring_channels(self._clock.now())
        for channel in idle:
            self._propose_once(ChannelExpire(self._term, channel.name, channel.generation), now_s)

    def _end_sessions(self, now_s: float) -> None:
        """End the sessions of removed nodes."""
        for node, session in self._state().sessions.items():
            if not self._is_member(node):
                self._propose_once(SessionEnd(self._term, node, session.id), now_s)

    # --- reachable clients ------------------------------------------------------------------------

    def _pause_s(self) -> float:
        return self._presence.pause_s(LOOK_EVERY_S if self._presence.dirty else LOOK_AT_LEAST_S)

    def _next_quick_check_s(self) -> float:
        """Return when the next quick check is due, for changed inboxes and grace periods."""
        if self._presence.has_changed or self._unsettled:
            return self._quick_check_s + LOOK_EVERY_S
        return self._grace_checked_s + LOOK_AT_LEAST_S if self._in_grace else NEVER

    def _check_all(self, now_s: float) -> Iterator[None]:
        """Run a full check: examine all inboxes, then all clients, one in each step."""
        state = self._state()
        self._asks_left = ASKED_MAX
        self._proposed = {key: at for key, at in self._proposed.items() if now_s - at < REPEAT_S}
        users: dict[str, list[str | SubscriptionID]] = {}
        clients = list(state.clients.values())
        for client in clients:
            users.setdefault(client.heartbeat_inbox, []).append(client.id)
            yield
        for sub in list(state.subscriptions.values()):
            if sub.online:
                users.setdefault(sub.inbox, []).append(sub.id)
            yield
        self._users = users
        if self._asked:
            present = {client.generation for client in clients}
            self._asked = {key: where for key, where in self._asked.items() if key in present}
        self._unsettled, self._in_grace = {}, {}
        self._grace_checked_s = now_s
        yield from self._presence.scan_in_steps(users)
        if self._grace_from_ns is None and self._complete():
            self._grace_from_ns = self._clock.now()
        for client in clients:
            if state.clients.get(client.id) is client:
                yield from self._check_client(client)

    def _check_changed(self, now_s: float) -> Iterator[None]:
        """Run a quick check: examine the inboxes whose interest has changed, and their clients, in steps."""
        state, scan_one = self._state(), self._presence.scan_one
        to_check, self._unsettled = self._unsettled, {}
        if now_s - self._grace_checked_s >= LOOK_AT_LEAST_S:
            self._grace_checked_s = now_s
            to_check.update(self._in_grace)
            self._in_grace = {}
        for inbox in self._presence.take_changed():
            yield
            scan_one(inbox)
            for user in self._users.get(inbox, ()):
                if isinstance(user, str):
                    to_check[user] = None
                    continue
                sub = state.subscriptions.get(user)
                if sub is None or sub.client is None or sub.inbox != inbox:
                    continue
                client_presence = scan_one(sub.client.heartbeat_inbox)
                if self._is_steady(sub.client, client_presence):
                    self._check_subscription(sub, self._presence_of(sub, client_presence))
                else:
                    to_check[sub.client.id] = None
        for client_id in to_check:
            client = state.clients.get(client_id)
            if client is not None:
                yield from self._check_client(client)

    def _is_steady(self, client: Client, presence: InboxPresence) -> bool:
        """Return True if the client is reachable and has not moved: its subscriptions are checked singly.

        If the log names another connection, the client has moved, even if this node has not seen it move:
        this node may have started later, and the leader that recorded an earlier move may have died before
        this one.
        """
        where = presence.where
        if where is None or client.unreachable or presence.moved:
            return False
        if client.reachable_at == (where[0], ANY_EPOCH):
            return not self._is_restarted(client)
        return client.reachable_at in {None, where}

    def _is_restarted(self, client: Client) -> bool:
        """Return True if the node that registered the client has restarted since (R5).

        Then the client has reconnected, and deliveries that the previous process had not written are lost.
        """
        assert client.reachable_at is not None
        session = self._state().sessions.get(client.reachable_at[0])
        return session is not None and client.generation < session.id

    def _check_client(self, client: Client) -> Iterator[None]:
        """Check whether a client is reachable or has moved. If neither changed, check its subscriptions.

        One client or subscription in each step.
        """
        yield
        now_ns, now_s = self._clock.now(), self._monotonic_s()
        presence = self._presence.get(client.heartbeat_inbox)
        if presence.where is None:
            self._ask_by_pattern(client)
            if client.unreachable:
                return
            self._in_grace[client.id] = None
            if self._grace_is_over(presence, now_ns):
                since = presence.gone_since_ns or self._elected_ns
                self._propose_once(self._away(client, presence, since), now_s)
            return
        if not self._is_steady(client, presence):
            online = [(sub, self._presence_of(sub, presence)) for sub in client.subscriptions.values()]
            if not self._is_settled(presence, [sub_presence for _, sub_presence in online], now_ns):
                self._presence.dirty = True
                self._unsettled[client.id] = None
                return
            since = self._elected_ns if presence.gone_since_ns is None else presence.gone_since_ns
            # A subscription that is unreachable itself gets a command of its own if its inbox returns.
            awaited = [its for sub, its in online if its.where is not None or not sub.unreachable]
            reachable_ns = self._reachable_since_ns(presence, awaited)
            if self._propose_once(self._back(client, presence, since, reachable_ns), now_s):
                self.heartbeats.moved(client)
                self.heartbeats.pinged(client.id)  # heartbeats it missed while unreachable: it can reply now
                for sub, sub_presence in online:
                    self._back_with_client(sub, sub_presence, since, now_s)
            return
        for sub in list(client.subscriptions.values()):
            if sub.client is client:  # otherwise it has ended meanwhile
                self._check_subscription(sub, self._presence_of(sub, presence))
            yield

    def _ask_by_pattern(self, client: Client) -> None:
        """Send a heartbeat to a client whose inbox is subscribed to by a pattern only.

        Only the client itself replies; another client that subscribes to the pattern doesn't (R15).
        """
        where = self._presence.reachable_by_pattern(client.heartbeat_inbox)
        if where is None:
            self._asked.pop(client.generation, None)
        elif self._asked.get(client.generation) != where and self._asks_left:
            self._asks_left -= 1
            self._asked[client.generation] = where
            self.heartbeats.ask_extra(client)

    def _is_gone(self, client: Client) -> bool:
        """Return True if a client's connection has closed and its inbox has no subscriber.

        Returns False if the connection was to a node whose link is down: it may still be open.
        """
        inbox = client.heartbeat_inbox
        presence = self._presence.get(inbox)
        if (
            presence.where is not None
            or presence.last is None
            or self._presence.reachable_by_pattern(inbox) is not None
        ):
            return False
        node = presence.last[0]
        return self._complete() and (node == self._node or node in self._linked)

    def _take_reply(self, client: Client) -> None:
        """Take a client's heartbeat reply: the connection subscribed to its inbox is the client's."""
        if self._presence.get(client.heartbeat_inbox).where is None:
            where = self._presence.reachable_by_pattern(client.heartbeat_inbox)
            if where is not None:
                self._presence.vouch(client.heartbeat_inbox, where)

    def _presence_of(self, sub: Subscription, client: InboxPresence) -> InboxPresence:
        """Return the presence of a subscription's inbox, which the client may subscribe to by a pattern."""
        presence = self._presence.get(sub.inbox)
        if (
            presence.where is None
            and client.where is not None
            and self._presence.vouch(sub.inbox, client.where)
        ):
            return self._presence.scan_one(sub.inbox)
        return presence

    def _reachable_since_ns(self, client: InboxPresence, subscriptions: list[InboxPresence]) -> int:
        """Return since when all deliveries arrive on the client's new connection, or `UNREACHABLE_NS`."""
        if any(each.where != client.where for each in subscriptions):
            return UNREACHABLE_NS
        return max((each.reachable_since_ns for each in subscriptions), default=client.reachable_since_ns)

    def _back_with_client(self, sub: Subscription, presence: InboxPresence, since: int, now_s: float) -> None:
        """Propose that a returning client's subscription is reachable, in the same entry as the client."""
        if sub.unreachable and presence.where is not None:
            self._propose_once(self._back(sub, presence, since, presence.reachable_since_ns), now_s)

    def _check_subscription(self, sub: Subscription, presence: InboxPresence) -> None:
        now_ns, now_s = self._clock.now(), self._monotonic_s()
        if presence.where is None:
            if sub.unreachable:
                return
            self._in_grace[sub.client_id] = None
            if self._grace_is_over(presence, now_ns):
                since = presence.gone_since_ns or self._elected_ns
                self._propose_once(self._away(sub, presence, since), now_s)
        elif sub.unreachable or presence.moved:
            since = self._elected_ns if presence.gone_since_ns is None else presence.gone_since_ns
            self._propose_once(self._back(sub, presence, since, presence.reachable_since_ns), now_s)

    def _away(self, user: Client | Subscription, presence: InboxPresence, since_ns: int) -> LeaderCommand:
        """Return the command that ``user`` is unreachable, in the form of the machine version in effect."""
        term, version = self._term, self._state().version
        written = self._losses.written_at_end(presence.before, self._linked)
        if isinstance(user, Client):
            if too_new(ClientUnreachable, version):
                return ClientAway(term, user.id, user.generation, since_ns)
            return ClientUnreachable(term, user.id, user.generation, since_ns, written)
        if too_new(SubscriptionUnreachable, version):
            return SubscriptionAway(term, user.id, user.generation, since_ns)
        return SubscriptionUnreachable(term, user.id, user.generation, since_ns, written)

    def _back(
        self, user: Client | Subscription, presence: InboxPresence, since_ns: int, reachable_ns: int
    ) -> LeaderCommand:
        """Return the command that ``user`` is reachable again since ``reachable_ns``, likewise."""
        term, version = self._term, self._state().version
        before, reachable_at = [presence.before], presence.where or ("", 0)
        if isinstance(user, Client):
            # The connection in the log is an earlier one if a leader died before it recorded a move.
            before.append(self._logged_connection(user, presence))
        unwritten = self._losses.unwritten(before, presence.where, self._clock.now(), reachable_ns)
        lost = (*unwritten, *reachable_at)
        if isinstance(user, Client):
            if too_new(ClientReachable, version):
                return ClientBack(term, user.id, user.generation, since_ns, reachable_ns)
            return ClientReachable(term, user.id, user.generation, since_ns, reachable_ns, *lost)
        if too_new(SubscriptionReachable, version):
            return SubscriptionBack(term, user.id, user.generation, since_ns, reachable_ns)
        return SubscriptionReachable(term, user.id, user.generation, since_ns, reachable_ns, *lost)

    def _logged_connection(self, client: Client, presence: InboxPresence) -> Where | None:
        """Return the client's connection according to the log; None if this node has seen it more exactly."""
        logged = client.reachable_at
        if logged is None or logged[1] != ANY_EPOCH:
            return logged
        if self._is_restarted(client):
            return logged[0], FORMER_EPOCH
        nodes = {where[0] for where in (presence.before, presence.where) if where is not None}
        return None if logged[0] in nodes else logged

    def _grace_is_over(self, presence: InboxPresence, now_ns: int) -> bool:
        if self._grace_from_ns is None:
            return False
        since = max(presence.gone_since_ns or self._elected_ns, self._grace_from_ns)
        return now_ns - since >= self._state().settings.member_grace_ns

    def _is_settled(self, presence: InboxPresence, subscriptions: list[InboxPresence], now_ns: int) -> bool:
        """Return True if a returning client's subscriptions are all reachable through its new connection.

        Also returns True after ``SETTLE_NS``.
        """
        if all(each.where == presence.where for each in subscriptions):
            presence.settling_ns = None
            return True
        if presence.settling_ns is None:
            presence.settling_ns = now_ns
        return now_ns - presence.settling_ns >= SETTLE_NS

    def _propose_once(self, command: LeaderCommand, now_s: float) -> bool:
        """Propose a command unless it was proposed less than `REPEAT_S` ago. Returns True if proposed."""
        # The type is part of the key: as tuples, commands of two types may be equal. How far deliveries were
        # written is not part of it.
        is_away = isinstance(command, (ClientUnreachable, SubscriptionUnreachable))
        key = (type(command), command[:4] if is_away else command[:5])
        if key in self._proposed:
            return False
        self._proposed[key] = now_s
        self._propose(command)
        return True
