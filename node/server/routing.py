"""Routes published messages: to clients of this node, services of this node, and clients of other nodes.

Owns the subscriptions and this node's view of the interest of other nodes (``interest`` keeps it up to date
between nodes). It never sees a socket: clients are `Receiver`s, other nodes are names to ``send`` frames to,
and their frames arrive in ``peer_frame``.

Every node is linked to every other, so a message takes at most one hop. A message that is published here goes
to services and plain subscriptions here, to one member of each queue group (a member here if there is one,
else one on another node, which gets the name of the group), and once to each node with plain interest in it.
A message from another node goes only to client subscriptions and announced services. *Services* are
subscriptions of the node itself. A service that is not announced only serves messages from this node.

The receivers of a subject are computed once and cached as a `Route`, until a matching subscription is added
or removed. Then a publish is a dictionary look-up and a loop over a tuple.

Nodes of other clusters are treated like nodes of this cluster, except for services: see ``remote_routes``.

Requests of operators go only to services of this node, whatever subscriptions match: a client that receives
one could answer it.

Frame of a message, besides those of ``interest``; ``queues`` are pairs of (pattern, queue)::

    ["msg", subject, reply, headers, payload, to_plain, queues]

If a message is for more queue groups of a node than a frame may name (``GROUPS_MAX``, ``GROUP_BYTES_MAX``),
it is sent in several frames, each with the payload. Only the first has ``to_plain``. Each group is named in
one frame, so no client gets a message twice.

Answers and requests of the node itself to clients (``to_services=False``) never reach a service, whatever
subject the client has named: a service that answers would take the client's place.

A plain object without I/O. Reentrant: handlers and deliveries may publish, subscribe and close connections
during a publish, which continues with the route it began with.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from node.errors import RemoteProtocolError
from node.protocol.peer import shown
from node.protocol.subjects import Interest, literal, matches, valid_subject
from node.server.administration import requests as administration
from node.server.interest import CAPACITY_POLL_S, Exchange, InterestChange, Key, Remote
from node.server.interest_rate import InterestRate
from node.server.moving import owners_pattern
from node.server.route_cache import RouteCache
from node.server.routes.remote_routes import Link, RemoteRoutes
from node.server.steps import STEP, ends
from node.server.subscriptions import (
    Deliverable,
    Handler,
    InternalSubscription,
    LocalSubscription,
    QueueGroup,
    Receiver,
    Route,
    empty_route,
)

__all__ = ["Handler", "InterestChange", "InternalSubscription", "LocalSubscription", "Receiver", "Routing"]

log = logging.getLogger("stanchion.routes")

_WORD = re.compile(rb"\S+")

ROUTE_COST = 8
"""Cost of computing a route, in deliveries to clients, besides one for each 16 bytes of its subject."""

GROUPS_MAX, GROUPS_SMALL = 1000, 128
"""Maximum number of queue groups named in one message frame: with a large payload, which each frame repeats,
and without payload. The receiver handles several frames in one step, and delivers to all groups of each."""

GROUP_BYTES_MAX, GROUP_BYTES_SMALL = 1024 * 1024, 64 * 1024
"""Maximum bytes of their names (patterns and queues) in one frame, likewise. The group that exceeds it is
still included: its name is no longer than a control line."""

LEAVE_STEP = STEP // 2
"""Subscriptions of ended connections that are removed in one step: removing one and notifying the other nodes
takes about 20 µs."""

CROWDED_BYTES = 8 * 1024 * 1024
"""Bytes queued for a node above which its publishers are not read from, until the link has capacity again."""

FULL_BYTES = 32 * 1024 * 1024
"""Bytes queued for a node above which clients' messages to it are dropped. Queueing more would finally break
the link, and lose everything else that is queued."""

DROPS_LOGGED_S = 60.0
"""Minimum time between two log lines about dropped messages to the same node."""

SERVICES_ONLY = administration.PREFIX.encode() + b"."
"""Prefix of subjects whose messages go neither to clients' subscriptions nor to other nodes."""


class Routing:
    """The subscriptions of this node, and the routing of messages to them.

    Args:
        node: this node's name.
        send: puts a frame on the link to another node. Frames may be lost but not reordered.
        on_interest_change: called with a node's name and its changes of interest.
        cluster: the cluster ID.
        offers: returns whether a cluster's service at a pattern is for clients of other clusters; by default
            none is.
        has_capacity: returns whether the link to a node accepts more interest now; by default it does.
        queued_bytes: returns the bytes queued on the link to a node.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        node: str,
        *,
        send: Callable[[str, Any], None],
        on_interest_change: Callable[[str, list[InterestChange]], None] | None = None,
        cluster: str = "",
        offers: Callable[[str, bytes], bool] = lambda _cluster, _pattern: False,
        has_capacity: Callable[[str], bool] = lambda _peer: True,
        queued_bytes: Callable[[str], int] = lambda _peer: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self._cluster = cluster
        self._offers = offers
        self._offered: list[bytes] = []
        self.remote_routes = RemoteRoutes(send, self._remote_changed, offers)
        self.on_interest_change = on_interest_change
        self.sees_connections = True
        """See `NodeRouting.sees_connections`."""
        self._send = send
        self._routes = RouteCache()
        self._services: Interest[InternalSubscription] = Interest()
        self._clients: Interest[LocalSubscription] = Interest()
        self._remotes: Interest[Remote] = Interest()
        self._groups: Interest[QueueGroup] = Interest()
        self._group_by_key: dict[Key, QueueGroup] = {}
        self._local_count = 0
        self._stuck: set[int] = set()
        self._exchange = Exchange(
            node,
            send=send,
            came=self._came,
            went=self._went,
            changed=self._interest_changed,
            has_capacity=has_capacity,
        )
        self._jobs: deque[Iterator[None]] = deque()
        self._leaving: deque[Iterator[None]] = deque()
        self._left_count = 0
        self._leave_s = 0.0
        self.interest_rate = InterestRate(clock)
        """Limits how fast clients may change their subscriptions."""
        self.inserts = 0
        self.removes = 0
        self.routes_made = 0
        self._has_capacity = has_capacity
        self._queued_bytes = queued_bytes
        self._clock = clock
        self._held_up: dict[Receiver, str] = {}
        """Publishers, and the node for which their messages wait."""
        self._fanning_out: dict[Receiver, None] = {}
        """Publishers of messages that are being sent in steps."""
        self._drops_logged_s: dict[str, float] = {}
        self.dropped: dict[str, int] = {}
        """By node: messages of clients that were not sent to it, or not to all its queue groups, because too
        much was queued for it. Contains only nodes to which that has happened."""
        self.spent = 0
        """Cost of publishing so far, besides deliveries; in deliveries to clients."""

    # --- subscriptions ----------------------------------------------------------------------------

    @property
    def subscription_count(self) -> int:
        """Subscriptions of clients of this node, and services."""
        return self._local_count + len(self._services)

    @property
    def route_count(self) -> int:
        return len(self._routes)

    def subscribe(
        self,
        connection: Receiver,
        subject: bytes,
        queue: bytes,
        sid: bytes,
        max_msgs: int = 0,
        *,
        denied: Sequence[bytes] = (),
    ) -> LocalSubscription:
        """Add a client subscription. The other nodes are notified at the next ``flush``.

        Args:
            connection: the receiver; the caller keeps its ``subscriptions``.
            subject: a valid subject or pattern.
            queue: the queue group; empty for none.
            sid: the client's ID of the subscription.
            max_msgs: it ends after this many deliveries; 0: never. The connection counts them.
            denied: patterns within ``subject`` whose messages it must not receive.
        """
        subscription = LocalSubscription(connection, subject, queue, sid, max_msgs, denied)
        if queue:
            self._group(subscription.key).join(subscription)
        else:
            self._clients.insert(subject, subscription)
        self._local_count += 1
        self.inserts += 1
        self._routes.forget(subject)
        self._exchange.own.add(subscription.key, connection.epoch)
        return subscription

    def unsubscribe(self, subscription: LocalSubscription) -> None:
        """Remove a client subscription. Calling it again does nothing."""
        if subscription.gone:
            return
        subscription.gone = True
        if subscription.queue:
            group = self._group_by_key[subscription.key]
            group.leave(subscription)
            self._drop_if_empty(group)
        else:
            self._clients.remove(subscription.subject, subscription)
        self._local_count -= 1
        self.removes += 1
        self._routes.forget(subscription.subject)
        self._exchange.own.remove(subscription.key, subscription.connection.epoch)

    def remove(self, connection: Receiver) -> None:
        """Remove all subscriptions of a connection that has ended, and notify the other nodes.

        Many subscriptions are removed in steps (`work`), at the pace of `interest_rate`. From now on nothing
        is delivered to them, and they do not count as reachable.
        """
        subscriptions = list(connection.subscriptions.values())
        connection.has_left = True
        self._held_up.pop(connection, None)
        self._fanning_out.pop(connection, None)
        self._set_stuck(connection.epoch, True)
        if len(subscriptions) <= STEP:
            self.interest_rate.spend(len(subscriptions))
            self._begin(self._leave(connection.epoch, subscriptions), len(subscriptions))
        else:
            self._left_count += len(subscriptions)
            self.interest_rate.add_ended(len(subscriptions))
            self._leaving.append(self._leave_in_steps(connection.epoch, subscriptions))

    def _leave_in_steps(self, epoch: int, subscriptions: list[LocalSubscription]) -> Iterator[None]:
        for _ in self._leave(epoch, subscriptions):
            self._left_count -= 1
            yield

    def _leave(self, epoch: int, subscriptions: list[LocalSubscription]) -> Iterator[None]:
        for subscription in subscriptions:
            self.unsubscribe(subscription)
            yield
        self._set_stuck(epoch, False)

    def set_stuck(self, connection: Receiver, stuck: bool) -> None:
        """Set whether a connection is stuck: it reads nothing, so it does not count as reachable (R3).

        Nothing else changes: messages for it are still delivered.
        """
        if connection.has_left:
            return
        self._set_stuck(connection.epoch, stuck)
        subscriptions = list(connection.subscriptions.values())
        self._begin(self._touch(subscriptions), len(subscriptions))

    def _touch(self, subscriptions: list[LocalSubscription]) -> Iterator[None]:
        for subscription in subscriptions:
            self._exchange.own.touch(subscription.key)
            yield

    def _set_stuck(self, epoch: int, stuck: bool) -> None:
        if stuck:
            self._stuck.add(epoch)
        else:
            self._stuck.discard(epoch)
        self._exchange.own.set_stuck(epoch, stuck)

    # --- steps ------------------------------------------------------------------------------------

    def _begin(self, job: Iterator[None], size: int) -> None:
        """Run a small job at once, a large one in steps."""
        if size <= STEP:
            for _ in job:
                pass
            self._exchange.flush()
        else:
            self._jobs.append(job)

    @property
    def works(self) -> bool:
        """True if there is work to do in steps: call `work`."""
        return bool(self._jobs or self._leaving) or self._exchange.works

    def work(self) -> float | None:
        """Run one step of the jobs. Returns the seconds until the next step; None: no work is left."""
        if self._jobs and ends(self._jobs[0]):
            self._jobs.popleft()
        pause_s = self._work_off_leaving() if self._leaving else None
        self._exchange.flush()  # only does something if a job has just changed interest
        if self._exchange.work() or self._jobs:
            return 0.0
        if self._exchange.works:
            pause_s = CAPACITY_POLL_S if pause_s is None else min(pause_s, CAPACITY_POLL_S)
        return pause_s

    def _work_off_leaving(self) -> float | None:
        """Remove one step of the subscriptions of ended connections, if it is time.

        Returns the seconds until the next step; None: there are no more.
        """
        now_s = self._clock()
        if now_s < self._leave_s:
            return self._leave_s - now_s
        before = self._left_count
        if ends(self._leaving[0], LEAVE_STEP):
            self._leaving.popleft()
        self._exchange.flush()
        ended_s = self._clock()
        took_s = ended_s - (self._leave_s or now_s)
        pause_s = self.interest_rate.leave_pause_s(before - self._left_count, self._left_count, took_s)
        self._leave_s = ended_s + pause_s if self._leaving else 0.0
        return pause_s if self._leaving else None

    def serve(self, pattern: bytes, handler: Handler, *, announce: bool = False) -> InternalSubscription:
        """Call ``handler`` for every message to ``pattern``.

        Args:
            pattern: a valid subject or pattern.
            handler: called with (connection or None, subject, reply, payload).
            announce: receive the messages published on other nodes too.
        """
        assert valid_subject(pattern)
        service = InternalSubscription(pattern, handler, announce, self._service_ended)
        self._services.insert(pattern, service)
        self._routes.forget(pattern)
        if not announce and self._offers(self._cluster, pattern):
            self._offered.append(pattern)
            self.remote_routes.offer(self._offered)
        if announce:
            self._exchange.own.add((pattern, b""), 0)
            self._exchange.flush()
        return service

    def _service_ended(self, service: InternalSubscription) -> None:
        self._services.remove(service.pattern, service)
        self._routes.forget(service.pattern)
        if not service.announced and service.pattern in self._offered:
            self._offered.remove(service.pattern)
            self.remote_routes.offer(self._offered)
        if service.announced:
            self._exchange.own.remove((service.pattern, b""), 0)
            self._exchange.flush()

    def _group(self, key: Key) -> QueueGroup:
        group = self._group_by_key.get(key)
        if group is None:
            group = self._group_by_key[key] = QueueGroup(key)
            self._groups.insert(key[0], group)
        return group

    def _drop_if_empty(self, group: QueueGroup) -> None:
        if not (group.members or group.remotes):
            del self._group_by_key[group.key]
            self._groups.remove(group.key[0], group)

    # --- messages ---------------------------------------------------------------------------------

    def publish(
        self,
        source: Receiver | None,
        subject: bytes,
        reply: bytes,
        headers: bytes,
        payload: bytes,
        *,
        echo: bool = True,
        as_written: bool = False,
        to_services: bool = True,
    ) -> int:
        """Send a message to its receivers.

        Args:
            source: the connection it came from; None: this node itself.
            subject: the subject. A message to a subject with wildcards or empty tokens goes only to services,
                which may answer with an error (PUB-05).
            reply: the reply subject; empty for none.
            headers: a header block; empty for none. Services don't get it.
            payload: the message.
            echo: False: do not send it to subscriptions of ``source``.
            as_written: route a subject that isn't literal too, token by token.
            to_services: False: send it only to clients, not to services of this node or of other clusters.
                For messages of the node itself to a subject that a client has named.

        Returns:
            The number of receivers: services, subscriptions, queue groups, other nodes.
        """
        route_cache = self._routes
        route = route_cache.get(subject)
        if route is None or route.as_of != route_cache.number or as_written:
            route = self._make_route(subject) if as_written else self._cached_route(subject)
        count = 0
        if to_services:
            count = len(route.handlers)
            for handler in route.handlers:
                handler(source, subject, reply, payload)
        if route.is_local:
            return count
        gateways = route.gateways if to_services else ()
        if source is None or not route.is_large:
            return count + self._route(route, gateways, source, subject, reply, headers, payload, echo)
        receivers = len(route.plain) + len(route.groups)
        self.spent += receivers
        self._fanning_out[source] = None
        self._jobs.append(self._fan_out(route, gateways, source, subject, reply, headers, payload, echo))
        return count + receivers

    def is_served(self, subject: bytes) -> bool:
        """Return True if a service subscribes to ``subject``: of this node, or of another cluster to which
        this node passes requests.
        """
        route = self._cached_route(subject)
        return bool(route.handlers or route.gateways)

    def local_receivers(self, inbox: bytes) -> Sequence[Deliverable]:
        """Return the receivers of a delivery to ``inbox``: client subscriptions of this node, one member of
        each queue group, and remote clients.

        The result never changes; call this again for the next message. Cost: a dictionary look-up.
        """
        route = self._routes.get(inbox)
        if route is None or route.as_of != self._routes.number:
            route = self._cached_route(inbox)
        return route.deliverable

    def matching(self, subject: bytes) -> list[LocalSubscription]:
        """Return all matching client subscriptions of this node, with every member of queue groups."""
        found = self._clients.find(subject)
        for group in self._groups.find(subject):
            found += group.members
        self.spent += len(found) >> 3
        return found

    def _route(
        self,
        route: Route,
        gateways: Sequence[str],
        source: Receiver | None,
        subject: bytes,
        reply: bytes,
        headers: bytes,
        payload: bytes,
        echo: bool,
    ) -> int:
        count = 0
        own = source is None
        for subscription in route.listeners if own else route.plain:
            connection = subscription.connection
            if echo or connection is not source:
                connection.deliver(subscription, subject, reply, headers, payload)
                count += 1
        queues: dict[str, list[Key]] = {peer: [] for peer in (*route.peers, *gateways)}
        for group in route.listening_groups if own else route.groups:
            turn = group.turn
            member = group.next_member(subject, source, echo)
            self.spent += (group.turn - turn) >> 3
            if member is not None:
                member.connection.deliver(member, subject, reply, headers, payload)
                count += 1
            elif (peer := group.next_remote()) is not None:
                queues.setdefault(peer, []).append(group.key)
        if queues:
            self._exchange.flush()  # a reply must not arrive before the interest in it
            for peer, keys in queues.items():
                kind = "ask" if peer in gateways else "msg"
                plain = peer in route.peers
                count += len(keys) + (plain or peer in gateways)
                for part in _parts(keys, len(payload)):
                    if source is not None and self._is_full(peer, source):
                        break
                    self._send(peer, [kind, subject, reply, headers, payload, plain, part])
                    kind, plain = "msg", False
        return count

    def _fan_out(
        self,
        route: Route,
        gateways: Sequence[str],
        source: Receiver,
        subject: bytes,
        reply: bytes,
        headers: bytes,
        payload: bytes,
        echo: bool,
    ) -> Iterator[None]:
        """Do what `_route` does, in steps.

        Meanwhile ``source`` is held up; otherwise its next message could be delivered before this one.
        """
        for subscription in route.plain:
            if echo or subscription.connection is not source:
                subscription.connection.deliver(subscription, subject, reply, headers, payload)
            yield
        queues: dict[str, list[Key]] = {peer: [] for peer in (*route.peers, *gateways)}
        for group in route.groups:
            member = group.next_member(subject, source, echo)
            if member is not None:
                member.connection.deliver(member, subject, reply, headers, payload)
            elif (peer := group.next_remote()) is not None:
                queues.setdefault(peer, []).append(group.key)
            yield
        self._exchange.flush()
        for peer, keys in queues.items():
            kind = "ask" if peer in gateways else "msg"
            plain = peer in route.peers
            for part in _parts(keys, len(payload)):
                if self._is_full(peer, source):
                    break
                self._send(peer, [kind, subject, reply, headers, payload, plain, part])
                kind, plain = "msg", False
                yield
        self._fanning_out.pop(source, None)

    def _is_full(self, peer: str, source: Receiver) -> bool:
        """Return True if a message of a client to ``peer`` must be dropped. Holds up ``source`` if much is
        queued.
        """
        queued = self._queued_bytes(peer)
        if queued >= CROWDED_BYTES:
            self._held_up[source] = peer
        if queued < FULL_BYTES:
            return False
        dropped = self.dropped[peer] = self.dropped.get(peer, 0) + 1
        now_s = self._clock()
        if now_s - self._drops_logged_s.get(peer, -DROPS_LOGGED_S) >= DROPS_LOGGED_S:
            self._drops_logged_s[peer] = now_s
            log.warning(
                "node %s does not read messages as fast as clients publish them: %d bytes are queued for it, "
                "and messages to its clients are dropped (%d so far)",
                peer, queued, dropped,
            )  # fmt: skip
        return True

    def is_held_up(self, source: Receiver) -> bool:
        """Return True if messages of ``source`` are not sent yet, or wait for a node to which much is queued.

        Then no further input of ``source`` may be processed.
        """
        if source in self._fanning_out:
            return True
        peer = self._held_up.get(source)
        if peer is None:
            return False
        if self._has_capacity(peer):
            del self._held_up[source]
            return False
        return True

    def _cached_route(self, subject: bytes) -> Route:
        """Return the cached route, if it is valid, else a new one."""
        route = self._routes.valid_route(subject)
        if route is None:
            route = self._make_route(subject) if literal(subject) else self._make_service_route(subject)
            self._routes.remember(subject, route)
        return route

    def _make_service_route(self, subject: bytes) -> Route:
        self.routes_made += 1
        self.spent += ROUTE_COST + (len(subject) >> 4)
        services = self._services.find(subject)
        gateways = () if services else self.remote_routes.serving(subject)
        return Route(services, (), (), (), gateways=gateways) if services or gateways else empty_route()

    def _make_route(self, subject: bytes) -> Route:
        if subject.startswith(SERVICES_ONLY):
            return self._make_service_route(subject)
        self.routes_made += 1
        self.spent += ROUTE_COST + (len(subject) >> 4)
        services = self._services.find(subject)
        plain = [found for found in self._clients.find(subject) if found.may_receive(subject)]
        groups = self._groups.find(subject)
        remotes = [remote for remote in self._remotes.find(subject) if remote.is_up]
        gateways = () if services else self.remote_routes.serving(subject)
        if not (services or plain or groups or remotes or gateways):
            return empty_route()
        remote_clients = self.remote_routes.remote_clients(dict.fromkeys(remote.peer for remote in remotes))
        return Route(
            services,
            plain,
            groups,
            remotes,
            subject=subject,
            gateways=gateways,
            remote_clients=tuple(remote_clients),
        )

    # --- interest ---------------------------------------------------------------------------

    def reachable(self, subject: bytes) -> bool:
        """Return True if a client in the cluster has a subscription that matches ``subject``."""
        return self.where_any(subject) is not None

    def where(self, subject: bytes) -> tuple[str, int] | None:
        """Return node and connection epoch of the client that subscribes to exactly ``subject``, if any.

        A subscription to a pattern does not show whose inbox the subject is (R15). Of several connections the
        newest counts: if a client left without closing its connection, the connection may exist for a while
        beside the client's next one.
        """
        # Uses no route: a leader calls this for a hundred thousand inboxes, one after the other.
        own = self._exchange.own
        best = (own.epoch((subject, b"")), self.node)
        for remote in self._remotes.exactly(subject):
            if remote.is_up:
                best = max(best, (remote.epoch, remote.peer))
        for group in self._groups.exactly(subject):
            best = max(best, (own.epoch(group.key), self.node))
            for remote in group.remotes:
                if remote.is_up:
                    best = max(best, (remote.epoch, remote.peer))
        return (best[1], best[0]) if best[0] else None

    def where_any(self, subject: bytes) -> tuple[str, int] | None:
        """Return the same, including patterns: prefers an exact subscription, then the newest."""
        best = max(self._receiving(self._cached_route(subject), subject), default=None)
        return None if best is None else (best[2], best[1])

    def receives(self, subject: bytes, where: tuple[str, int]) -> bool:
        """Return True if that connection has a subscription that matches ``subject``, exactly or not."""
        route = self._cached_route(subject)
        return any((node, epoch) == where for _, epoch, node in self._receiving(route, subject))

    def reachable_by_owner(self, inbox: bytes) -> bool:
        """Return True if some client in the cluster subscribes to ``inbox`` in the way its owner does."""
        route = self._cached_route(inbox)
        remotes = (*route.remotes, *(remote for group in route.groups for remote in group.remotes))
        return any(owners_pattern(subscription.subject, inbox) for subscription in route.receivers) or any(
            remote.is_up and owners_pattern(remote.subject, inbox) for remote in remotes
        )

    def _receiving(self, route: Route, subject: bytes) -> Iterator[tuple[bool, int, str]]:
        for subscription in route.receivers:
            epoch = subscription.connection.epoch
            if epoch not in self._stuck:
                yield subscription.subject == subject, epoch, self.node
        for remote in (*route.remotes, *(remote for group in route.groups for remote in group.remotes)):
            if remote.epoch and remote.is_up:
                yield remote.subject == subject, remote.epoch, remote.peer

    def complete(self, peer: str) -> bool:
        """Return True if ``peer`` is linked and has sent its whole interest."""
        return self._exchange.complete(peer)

    def flush(self) -> None:
        """Send changes of interest to the other nodes. Called after every read, and by routing itself."""
        self._exchange.flush()

    def _interest_changed(self, node: str, changes: list[InterestChange]) -> None:
        if self.on_interest_change is not None:
            self.on_interest_change(node, changes)

    # --- other nodes ------------------------------------------------------------------------------

    def peer_up(self, peer: str) -> None:
        """Note that the link to ``peer`` is up, for the first time or again."""
        self._exchange.peer_up(peer)

    def peer_down(self, peer: str) -> None:
        """Note that the link to ``peer`` is down: its clients are unreachable."""
        self._exchange.peer_down(peer)
        self._routes.clear()

    def remote_up(self, peer: str, link: Link) -> None:
        """Note that the link to a node of another cluster is up, for the first time or again."""
        self._exchange.peer_up(peer)
        self.remote_routes.up(peer, link)

    def remote_down(self, peer: str) -> None:
        """Note that the link to a node of another cluster is down."""
        self.remote_routes.down(peer)
        self._exchange.peer_down(peer)
        self._routes.clear()

    def remote_frame(self, peer: str, value: Any) -> None:
        """Handle a frame from a node of another cluster.

        Raises:
            RemoteProtocolError: the frame is malformed.
        """
        match value:
            case [
                "ask",
                bytes(subject),
                bytes(reply),
                bytes(headers),
                bytes(payload),
                bool(plain),
                [*keys],
            ] if _are_words(subject, reply):
                route = self._cached_route(subject)
                if any(matches(pattern, subject) for pattern in self._offered):  # only offered services
                    for handler in route.handlers:
                        if not (plain and handler in route.announced):
                            handler(None, subject, reply, payload)
                self._from_peer(subject, reply, headers, payload, plain, _queue_keys(peer, keys))
            case [str(), *_] if self.remote_routes.received(peer, value):
                pass
            case _:
                self.peer_frame(peer, value)

    def _remote_changed(self) -> None:
        self._routes.clear()

    def tick(self) -> None:
        """Let the other nodes notice that they missed changes of interest. Called about once a second."""
        self._exchange.tick()

    def peer_interest_count(self, peer: str) -> int:
        """Return the number of subjects and patterns in the interest of ``peer``."""
        return self._exchange.size(peer)

    def peer_interest(self, peer: str) -> list[bytes]:
        """Return the subjects and patterns in the interest of ``peer``."""
        return [subject for subject, _ in self._exchange.items(peer)]

    def peer_frame(self, peer: str, value: Any) -> None:
        """Handle a frame from ``peer``.

        Raises:
            RemoteProtocolError: the frame is malformed.
        """
        match value:
            case [
                "msg",
                bytes(subject),
                bytes(reply),
                bytes(headers),
                bytes(payload),
                bool(plain),
                [*keys],
            ] if _are_words(subject, reply):
                self._from_peer(subject, reply, headers, payload, plain, _queue_keys(peer, keys))
            case [str(), *_]:
                self._exchange.received(peer, value)
            case _:
                raise RemoteProtocolError(f"{peer}: malformed routing frame")

    def _from_peer(
        self, subject: bytes, reply: bytes, headers: bytes, payload: bytes, plain: bool, keys: Sequence[Key]
    ) -> None:
        if plain:
            route = self._cached_route(subject)
            for handler in route.announced:
                handler(None, subject, reply, payload)
            for subscription in route.plain:
                subscription.connection.deliver(subscription, subject, reply, headers, payload)
        for key in keys:
            group = self._group_by_key.get(key)
            member = group.next_member(subject, None, True) if group is not None else None
            if member is not None:  # else the last member has just left, and the message is lost
                member.connection.deliver(member, subject, reply, headers, payload)

    def _came(self, remote: Remote) -> None:
        if remote.queue:
            self._group((remote.subject, remote.queue)).remotes.append(remote)
        else:
            self._remotes.insert(remote.subject, remote)
        self._routes.forget(remote.subject)

    def _went(self, remote: Remote) -> None:
        if remote.queue:
            group = self._group_by_key[remote.subject, remote.queue]
            group.remotes.remove(remote)
            self._drop_if_empty(group)
        else:
            self._remotes.remove(remote.subject, remote)
        self._routes.forget(remote.subject)


def _parts(keys: list[Key], payload_size: int) -> Iterator[list[Key]]:
    """Split the queue groups of one message into parts of one frame each; at least one part."""
    if len(keys) < 2:
        yield keys
        return
    groups_max = min(max(payload_size >> 4, GROUPS_SMALL), GROUPS_MAX)
    bytes_max = min(max(payload_size, GROUP_BYTES_SMALL), GROUP_BYTES_MAX)
    part: list[Key] = []
    size = 0
    for key in keys:
        part.append(key)
        size += len(key[0]) + len(key[1])
        if len(part) == groups_max or size >= bytes_max:
            yield part
            part, size = [], 0
    if part:
        yield part


def _are_words(subject: bytes, reply: bytes) -> bool:
    """Return True if both may be used in a control line. Clients split a subject with white space in two."""
    return _WORD.fullmatch(subject) is not None and (not reply or _WORD.fullmatch(reply) is not None)


def _queue_keys(peer: str, values: Sequence[Any]) -> list[Key]:
    keys: list[Key] = []
    for value in values:
        match value:
            case [bytes(pattern), bytes(queue)]:
                keys.append((pattern, queue))
            case _:
                raise RemoteProtocolError(f"{peer}: malformed queue group: {shown(value)}")
    return keys
