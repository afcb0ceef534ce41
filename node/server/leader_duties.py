"""What only a ready leader does: notice that time has passed and who is absent (R15, R16, R20).

Everything is decided in ``apply``; the keeper only proposes. Its commands carry the term and the
generation of what they mean, so one that comes too late changes nothing.

A plain object without I/O, told what happened and driven by ``pump``.
"""

from __future__ import annotations

import logging
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
from node.server.presence import Presence, Sight, Where
from node.server.steps import ends
from node.units import MILLISECOND, SECOND, Generation, SubscriptionID

log = logging.getLogger("stanchion.keeper")

TICK_LATE_NS = 10 * MILLISECOND
"""A Tick is proposed this much after the earliest deadline, so that neighbours go together (R20)."""
AGE_EVERY_S = 1.0
EXPIRE_EVERY_S = 1.0
SETTLE_NS = 250 * MILLISECOND
"""How long a returning client may take until its subscriptions are heard again too."""
LOOK_EVERY_S = 0.05
"""How soon a change of interest is looked at."""
LOOK_AT_LEAST_S = 0.5
"""How often all inboxes are looked at, changed or not: graces end. Where there are very many, it is less
often (`Presence.pause_s`), and what has changed is looked at in between."""
UNREACHABLE_NS = NEVER_NS
"""As the time since when a client is reachable: not all of its inboxes are subscribed to yet."""
NEVER = float("inf")
ASKED_MAX = 100
"""Clients asked in one look whether they hear their inbox by a pattern; others are in the next."""
REPEAT_S = 1.0
"""A finding that has not been applied after so long is proposed again."""


class Losses(Protocol):
    """What is needed of ``losses``."""

    def unwritten(
        self, before: Iterable[Where | None], now: Where | None, now_ns: int, reachable_ns: int
    ) -> Unwritten: ...
    def written_at_end(self, where: Where | None, linked: Container[str]) -> int: ...


class LeaderDuties:
    """The keeper of one term.

    Args:
        state: the replicated state.
        propose: puts a command into the next entry.
        presence: who is heard.
        complete: whether every connected member has told its whole interest.
        requests: how clients are asked for heartbeats.
        clock, wall: the clocks of the log.
        monotonic_s: the driver's clock.
        term: this leader's.
        is_member: whether a node may have a session (R5).
        sees_connections: whether it is known when a client's connection closes; not behind an external
            NATS server, where every client would seem gone while that is away.
        losses: what connections that ended may not have been sent.
        linked: members whose link stands.
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
            answered=self._vouch,
            is_gone=self._is_gone if sees_connections else None,
        )
        self._asks_left = ASKED_MAX
        self._asked: dict[Generation, Where] = {}
        """Clients whose inbox is heard by a pattern only, and by whom when they were asked for it."""
        self._took_over_ns = clock.now()
        self._grace_from_ns: int | None = None  # when everybody's interest was complete
        self._ticked_ns: int | None = None  # the time that the unapplied Tick must reach
        self._aged_s = 0.0
        self._looked_s = 0.0
        self._glanced_s = 0.0
        self._users: dict[str, list[str | SubscriptionID]] = {}
        """Whose inboxes these are, as of the last look at all: clients and subscriptions."""
        self._unsettled: dict[str, None] = {}
        """Clients that are returning, and waited for."""
        self._unheard: dict[str, None] = {}
        """Clients of which an inbox isn't heard, and a grace runs."""
        self._counted_s = 0.0
        self._expired_s = 0.0
        self._proposed: dict[tuple[type[LeaderCommand], tuple[Any, ...]], float] = {}
        self._look_job: Iterator[None] | None = None
        self._glance_job: Iterator[None] | None = None
        for client in state().clients.values():
            self.heartbeats.register(client)

    def stop(self) -> None:
        """Another leads."""
        self.heartbeats.stop()

    def applied(self) -> None:
        """An entry was applied."""
        if self._ticked_ns is not None and self._state().time_ns >= self._ticked_ns:
            self._ticked_ns = None

    def opened(self, client_id: str) -> None:
        """A client was registered."""
        client = self._state().clients.get(client_id)
        if client is not None:
            self.heartbeats.register(client)

    def pump(self) -> float:
        """Propose what is found now. Returns when to be called again, on the driver's clock."""
        now_s = self._monotonic_s()
        self.heartbeats.beat()
        if self._look_job is None and now_s - self._looked_s >= self._pause_s():
            self._looked_s = self._glanced_s = now_s
            self._look_job = self._look(now_s)
        elif self._glance_job is None and self._glance_s() <= now_s:
            self._glanced_s = now_s
            self._glance_job = self._glance(now_s)
        if self._look_job is not None and ends(self._look_job):
            self._look_job = None
        if self._glance_job is not None and ends(self._glance_job):
            self._glance_job = None
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
        if self._look_job is not None or self._glance_job is not None:
            return now_s
        state = self._state()
        times = [self._looked_s + self._pause_s(), self._glance_s()]
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
        """Of nodes that were removed."""
        for node, session in self._state().sessions.items():
            if not self._is_member(node):
                self._propose_once(SessionEnd(self._term, node, session.id), now_s)

    # --- who is absent ----------------------------------------------------------------------------

    def _pause_s(self) -> float:
        return self._presence.pause_s(LOOK_EVERY_S if self._presence.dirty else LOOK_AT_LEAST_S)

    def _glance_s(self) -> float:
        """When to look at what has changed, and at graces."""
        if self._presence.has_changed or self._unsettled:
            return self._glanced_s + LOOK_EVERY_S
        return self._counted_s + LOOK_AT_LEAST_S if self._unheard else NEVER

    def _look(self, now_s: float) -> Iterator[None]:
        """Look at all inboxes, and judge all clients, one in each step."""
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
            known = {client.generation for client in clients}
            self._asked = {key: where for key, where in self._asked.items() if key in known}
        self._unsettled, self._unheard = {}, {}
        self._counted_s = now_s
        yield from self._presence.looking(users)
        if self._grace_from_ns is None and self._complete():
            self._grace_from_ns = self._clock.now()
        for client in clients:
            if state.clients.get(client.id) is client:
                yield from self._judge_client(client)

    def _glance(self, now_s: float) -> Iterator[None]:
        """Look at inboxes in which interest has changed, and judge whose they are, one in each step."""
        state, see = self._state(), self._presence.see
        judged, self._unsettled = self._unsettled, {}
        if now_s - self._counted_s >= LOOK_AT_LEAST_S:
            self._counted_s = now_s
            judged.update(self._unheard)
            self._unheard = {}
        for inbox in self._presence.take_changed():
            yield
            see(inbox)
            for user in self._users.get(inbox, ()):
                if isinstance(user, str):
                    judged[user] = None
                    continue
                sub = state.subscriptions.get(user)
                if sub is None or sub.client is None or sub.inbox != inbox:
                    continue
                its_client = see(sub.client.heartbeat_inbox)
                if self._is_steady(sub.client, its_client):
                    self._judge_subscription(sub, self._sight_of(sub, its_client))
                else:
                    judged[sub.client.id] = None
        for client_id in judged:
            client = state.clients.get(client_id)
            if client is not None:
                yield from self._judge_client(client)

    def _is_steady(self, client: Client, sight: Sight) -> bool:
        """It neither goes nor comes: its subscriptions are judged each by itself.

        If the log says that it is elsewhere, it has moved, whoever saw that: a leader that has just been
        started did not, and the one that acted on an earlier move may have died before the next.
        """
        where = sight.where
        if where is None or client.unreachable or sight.moved:
            return False
        if client.reachable_at == (where[0], ANY_EPOCH):
            return not self._is_restarted(client)
        return client.reachable_at in {None, where}

    def _is_restarted(self, client: Client) -> bool:
        """Return True if the node that registered the client has been another process since then (R5).

        Then the client has come back to it, and what the process before had not written died with that.
        """
        assert client.reachable_at is not None
        session = self._state().sessions.get(client.reachable_at[0])
        return session is not None and client.generation < session.id

    def _judge_client(self, client: Client) -> Iterator[None]:
        """Judge a client, and if it neither goes nor comes its subscriptions, one in each step."""
        yield
        now_ns, now_s = self._clock.now(), self._monotonic_s()
        sight = self._presence.sight(client.heartbeat_inbox)
        if sight.where is None:
            self._ask_by_pattern(client)
            if client.unreachable:
                return
            self._unheard[client.id] = None
            if self._grace_is_over(sight, now_ns):
                since = sight.gone_since_ns or self._took_over_ns
                self._propose_once(self._away(client, sight, since), now_s)
            return
        if not self._is_steady(client, sight):
            online = [(sub, self._sight_of(sub, sight)) for sub in client.subscriptions.values()]
            if not self._settled(sight, [its for _, its in online], now_ns):
                self._presence.dirty = True
                self._unsettled[client.id] = None
                return
            since = self._took_over_ns if sight.gone_since_ns is None else sight.gone_since_ns
            # An inbox that was found unreachable by itself has a finding of its own if it ever comes.
            awaited = [its for sub, its in online if its.where is not None or not sub.unreachable]
            reachable_ns = self._all_reachable_ns(sight, awaited)
            if self._propose_once(self._back(client, sight, since, reachable_ns), now_s):
                self.heartbeats.moved(client)
                self.heartbeats.pinged(client.id)  # what it missed while it was away, it can answer now
                for sub, its in online:
                    self._back_with_client(sub, its, since, now_s)
            return
        for sub in list(client.subscriptions.values()):
            if sub.client is client:  # else it has ended meanwhile
                self._judge_subscription(sub, self._sight_of(sub, sight))
            yield

    def _ask_by_pattern(self, client: Client) -> None:
        """Ask a client whose inbox is heard by a pattern only: a bystander doesn't answer (R15)."""
        where = self._presence.reachable_by_pattern(client.heartbeat_inbox)
        if where is None:
            self._asked.pop(client.generation, None)
        elif self._asked.get(client.generation) != where and self._asks_left:
            self._asks_left -= 1
            self._asked[client.generation] = where
            self.heartbeats.ask_beside(client)

    def _is_gone(self, client: Client) -> bool:
        """Whether a client's connection is known to have closed, and nobody hears its inbox.

        Of connections to a node whose link is lost that isn't known: their clients are reconnecting.
        """
        inbox = client.heartbeat_inbox
        sight = self._presence.sight(inbox)
        if (
            sight.where is not None
            or sight.last is None
            or self._presence.reachable_by_pattern(inbox) is not None
        ):
            return False
        node = sight.last[0]
        return self._complete() and (node == self._node or node in self._linked)

    def _vouch(self, client: Client) -> None:
        """A client has answered a heartbeat: somebody who hears its inbox is the client."""
        if self._presence.sight(client.heartbeat_inbox).where is None:
            where = self._presence.reachable_by_pattern(client.heartbeat_inbox)
            if where is not None:
                self._presence.vouch(client.heartbeat_inbox, where)

    def _sight_of(self, sub: Subscription, client: Sight) -> Sight:
        """The sight of a subscription's inbox, which its client's connection may hear by a pattern."""
        sight = self._presence.sight(sub.inbox)
        if sight.where is None and client.where is not None and self._presence.vouch(sub.inbox, client.where):
            return self._presence.see(sub.inbox)
        return sight

    def _all_reachable_ns(self, client: Sight, its: list[Sight]) -> int:
        """Since when all that is sent to the client arrives on its new connection; never if it does not."""
        if any(each.where != client.where for each in its):
            return UNREACHABLE_NS
        return max((each.reachable_since_ns for each in its), default=client.reachable_since_ns)

    def _back_with_client(self, sub: Subscription, sight: Sight, since: int, now_s: float) -> None:
        """A client's subscriptions come back with it: in the same entry, if they are heard."""
        if sub.unreachable and sight.where is not None:
            self._propose_once(self._back(sub, sight, since, sight.reachable_since_ns), now_s)

    def _judge_subscription(self, sub: Subscription, sight: Sight) -> None:
        now_ns, now_s = self._clock.now(), self._monotonic_s()
        if sight.where is None:
            if sub.unreachable:
                return
            self._unheard[sub.client_id] = None
            if self._grace_is_over(sight, now_ns):
                since = sight.gone_since_ns or self._took_over_ns
                self._propose_once(self._away(sub, sight, since), now_s)
        elif sub.unreachable or sight.moved:
            since = self._took_over_ns if sight.gone_since_ns is None else sight.gone_since_ns
            self._propose_once(self._back(sub, sight, since, sight.reachable_since_ns), now_s)

    def _away(self, user: Client | Subscription, sight: Sight, since_ns: int) -> LeaderCommand:
        """Return the finding that nobody hears an inbox of ``user``, as the version in effect has it."""
        term, version = self._term, self._state().version
        written = self._losses.written_at_end(sight.before, self._linked)
        if isinstance(user, Client):
            if too_new(ClientUnreachable, version):
                return ClientAway(term, user.id, user.generation, since_ns)
            return ClientUnreachable(term, user.id, user.generation, since_ns, written)
        if too_new(SubscriptionUnreachable, version):
            return SubscriptionAway(term, user.id, user.generation, since_ns)
        return SubscriptionUnreachable(term, user.id, user.generation, since_ns, written)

    def _back(
        self, user: Client | Subscription, sight: Sight, since_ns: int, reachable_ns: int
    ) -> LeaderCommand:
        """Return the finding that its inboxes are heard again, since ``reachable_ns``, likewise."""
        term, version = self._term, self._state().version
        before, reachable_at = [sight.before], sight.where or ("", 0)
        if isinstance(user, Client):
            # Where the log says it is: another connection if a leader died with what it knew of a move.
            before.append(self._elsewhere(user, sight))
        unwritten = self._losses.unwritten(before, sight.where, self._clock.now(), reachable_ns)
        lost = (*unwritten, *reachable_at)
        if isinstance(user, Client):
            if too_new(ClientReachable, version):
                return ClientBack(term, user.id, user.generation, since_ns, reachable_ns)
            return ClientReachable(term, user.id, user.generation, since_ns, reachable_ns, *lost)
        if too_new(SubscriptionReachable, version):
            return SubscriptionBack(term, user.id, user.generation, since_ns, reachable_ns)
        return SubscriptionReachable(term, user.id, user.generation, since_ns, reachable_ns, *lost)

    def _elsewhere(self, client: Client, sight: Sight) -> Where | None:
        """Return where the log says the client is, unless what this node has seen says the same and more."""
        logged = client.reachable_at
        if logged is None or logged[1] != ANY_EPOCH:
            return logged
        if self._is_restarted(client):
            return logged[0], FORMER_EPOCH
        nodes = {where[0] for where in (sight.before, sight.where) if where is not None}
        return None if logged[0] in nodes else logged

    def _grace_is_over(self, sight: Sight, now_ns: int) -> bool:
        if self._grace_from_ns is None:
            return False
        since = max(sight.gone_since_ns or self._took_over_ns, self._grace_from_ns)
        return now_ns - since >= self._state().settings.member_grace_ns

    def _settled(self, sight: Sight, its: list[Sight], now_ns: int) -> bool:
        """Whether a returning client's subscriptions are all heard through its new connection."""
        if all(each.where == sight.where for each in its):
            sight.settling_ns = None
            return True
        if sight.settling_ns is None:
            sight.settling_ns = now_ns
        return now_ns - sight.settling_ns >= SETTLE_NS

    def _propose_once(self, command: LeaderCommand, now_s: float) -> bool:
        """Propose a finding that is new; the same again only if it has come to nothing. Whether it was."""
        # As tuples, an away and a back may be equal. How far a connection was served is not a finding.
        is_away = isinstance(command, (ClientUnreachable, SubscriptionUnreachable))
        key = (type(command), command[:4] if is_away else command[:5])
        if key in self._proposed:
            return False
        self._proposed[key] = now_s
        self._propose(command)
        return True
