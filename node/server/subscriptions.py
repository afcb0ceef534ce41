"""Subscriptions, queue groups, and routes: where the messages of a subject go.

These are the entries of ``routing``'s tables. The only decision made here is the next member of a queue
group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from node.protocol.subjects import matches
from node.server.interest import Key, Remote


class Receiver(Protocol):
    """The part of a client's connection that routing needs."""

    @property
    def epoch(self) -> int:
        """A number above 0, unique among all connections of this node, also before its restarts.

        It grows with time, at about the same rate on all nodes, so that the newest connection has the
        highest.
        """

    @property
    def closed(self) -> bool:
        """True if the connection accepts no more messages."""

    @property
    def has_left(self) -> bool:
        """True while routing removes its subscriptions in steps: deliver nothing. Routing sets it."""

    @has_left.setter
    def has_left(self, value: bool) -> None: ...

    @property
    def writable(self) -> bool:
        """True if the connection has capacity. While False, deliveries that can wait should wait."""

    @property
    def subscriptions(self) -> dict[bytes, LocalSubscription]:
        """The subscriptions by sid. The connection keeps them."""

    def deliver(
        self, subscription: LocalSubscription, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        """Send one message, unless the subscription is ``gone``. Must not raise."""


Handler: TypeAlias = Callable[[Any, bytes, bytes, bytes], None]
"""Called with the publishing connection (None: this node itself, or another node), subject, reply and
payload. Must not raise."""


class LocalSubscription:
    """One subscription of one client of this node. ``queue`` is empty for none."""

    __slots__ = ("connection", "delivered", "denied", "gone", "max_msgs", "place", "queue", "sid", "subject")

    def __init__(
        self,
        connection: Receiver,
        subject: bytes,
        queue: bytes,
        sid: bytes,
        max_msgs: int,
        denied: Sequence[bytes],
    ) -> None:
        self.connection = connection
        self.subject = subject
        self.queue = queue
        self.sid = sid
        self.max_msgs = max_msgs
        """The subscription ends after this many deliveries; 0: never."""
        self.denied = denied
        """Patterns within ``subject`` whose messages its user may not receive."""
        self.delivered = 0
        self.gone = False
        """True if it was unsubscribed: deliver nothing."""
        self.place = 0
        """Index in the members of its queue group."""

    @property
    def key(self) -> Key:
        return self.subject, self.queue

    def may_receive(self, subject: bytes) -> bool:
        return not (self.denied and any(matches(pattern, subject) for pattern in self.denied))

    def deliver(self, subject: bytes, payload: bytes) -> None:
        """Deliver a message without reply or headers, as the streaming service does."""
        self.connection.deliver(self, subject, b"", b"", payload)


class InternalSubscription:
    """A subscription of a service of this node. ``close`` ends it."""

    __slots__ = ("_ended", "announced", "handler", "is_open", "pattern")

    def __init__(
        self, pattern: bytes, handler: Handler, announced: bool, ended: Callable[[InternalSubscription], None]
    ) -> None:
        self.pattern = pattern
        self.handler = handler
        self.announced = announced
        self.is_open = True
        self._ended = ended

    def close(self) -> None:
        """End the subscription. Calling it again does nothing."""
        if self.is_open:
            self.is_open = False
            self._ended(self)


class QueueGroup:
    """The members of one queue group, on this node and on others.

    Invariant: it is in the routing table if and only if it has members.
    """

    __slots__ = ("key", "members", "remotes", "turn")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.members: list[LocalSubscription] = []
        self.remotes: list[Remote] = []
        self.turn = 0

    def join(self, member: LocalSubscription) -> None:
        """Add a member on this node."""
        member.place = len(self.members)
        self.members.append(member)

    def leave(self, member: LocalSubscription) -> None:
        """Remove a member, if it is still there. The last member takes its index, in constant time."""
        place = member.place
        if place < 0:
            return
        last = self.members.pop()
        if last is not member:
            self.members[place] = last
            last.place = place
        member.place = -1

    def first(self, subject: bytes) -> LocalSubscription | None:
        """Return a member on this node that may receive ``subject``, regardless of turns."""
        members = (member for member in self.members if not member.connection.has_left)
        return next((member for member in members if member.may_receive(subject)), None)

    def next_member(self, subject: bytes, source: Receiver | None, echo: bool) -> LocalSubscription | None:
        """Return the next member on this node that may receive the message.

        ``turn`` grows with each member that is checked. Removes members it meets whose connection has left.
        """
        members = self.members
        tries = len(members)
        while tries and members:
            tries -= 1
            self.turn += 1
            member = members[self.turn % len(members)]
            if member.connection.has_left:
                self.leave(member)
            elif (echo or member.connection is not source) and member.may_receive(subject):
                return member
        return None

    def next_remote(self) -> str | None:
        """Return the next node with members; a node with twice the members is returned twice as often."""
        total = sum(remote.count for remote in self.remotes if remote.is_up)
        if not total:
            return None
        self.turn += 1
        ticket = self.turn % total
        for remote in self.remotes:
            if not remote.is_up:
                continue
            ticket -= remote.count
            if ticket < 0:
                return remote.peer
        raise AssertionError("the counts don't add up")


class Deliverable(Protocol):
    """A receiver of the streaming service's deliveries."""

    @property
    def connection(self) -> Any:
        """The connection, which shows whether there is capacity."""

    def deliver(self, subject: bytes, payload: bytes) -> None:
        """Send one message."""


FAN_OUT_MAX = 4096
"""Maximum number of subscriptions and queue groups to which a message is sent at once, not in steps."""

COPIES_MAX = 16
"""Copies of one message of the node itself per connection, if it has more than ``FAN_OUT_MAX`` receivers."""


def _few(subscriptions: Sequence[LocalSubscription]) -> tuple[LocalSubscription, ...]:
    copies: dict[int, int] = {}
    few = []
    for subscription in subscriptions:
        epoch = subscription.connection.epoch
        copies[epoch] = count = copies.get(epoch, 0) + 1
        if count <= COPIES_MAX:
            few.append(subscription)
    return tuple(few)


class Route:
    """Where messages of one subject go."""

    __slots__ = (
        "announced",
        "as_of",
        "deliverable",
        "gateways",
        "groups",
        "handlers",
        "is_large",
        "is_local",
        "listeners",
        "listening_groups",
        "peers",
        "plain",
        "receivers",
        "remotes",
    )

    def __init__(
        self,
        services: Sequence[InternalSubscription],
        plain: Sequence[LocalSubscription],
        groups: Sequence[QueueGroup],
        remotes: Sequence[Remote],
        *,
        subject: bytes = b"",
        gateways: Sequence[str] = (),
        remote_clients: Sequence[Deliverable] = (),
    ) -> None:
        self.as_of = 0
        """See `route_cache.RouteCache`."""
        self.handlers = tuple(service.handler for service in services)
        self.announced = tuple(service.handler for service in services if service.announced)
        self.plain = tuple(plain)
        self.groups = tuple(groups)
        self.remotes = tuple(remotes)
        self.peers = tuple(dict.fromkeys(remote.peer for remote in remotes))
        members = (group.first(subject) for group in groups)
        self.receivers = self.plain + tuple(member for member in members if member is not None)
        """Every plain subscription here, and of each queue group one member that may hear ``subject``."""
        self.is_large = len(self.plain) + len(self.groups) > FAN_OUT_MAX
        self.listeners, self.listening_groups = self.plain, self.groups
        """The receivers of a message that the node itself sends, usually to an inbox. A client may subscribe
        to all inboxes, even a thousand times. So if there are very many receivers, each connection gets only
        a few copies, and only some of the groups get one."""
        listening = self.receivers
        if self.is_large:
            self.listeners, self.listening_groups = _few(self.plain), self.groups[:FAN_OUT_MAX]
            listening = _few(self.receivers)
        self.deliverable: tuple[Deliverable, ...] = (*listening, *remote_clients)
        """The receivers of the streaming service's deliveries: subscriptions of this node, one member of each
        queue group, and nodes of other clusters with plain interest."""
        self.gateways = tuple(gateways)
        """Gateway nodes: nodes of other clusters that serve the subject."""
        self.is_local = not (plain or groups or remotes or gateways)
        """True if only services receive it, as usual for publishes and acks of streaming clients."""


def empty_route() -> Route:
    """Return the route of a subject without receivers. Fast, because there are very many such subjects."""
    route = object.__new__(Route)
    route.as_of = 0
    route.handlers = route.announced = ()
    route.plain = route.receivers = route.listeners = ()
    route.groups = route.listening_groups = ()
    route.remotes = ()
    route.peers = route.gateways = ()
    route.deliverable = ()
    route.is_local = True
    route.is_large = False
    return route
