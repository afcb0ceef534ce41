"""Who wants a message: subscriptions, queue groups, and a plan of where a subject's messages go.

These are the entries of ``routing``'s tables. They decide nothing but whose turn it is in a queue group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from node.protocol.subjects import matches
from node.server.interest import Key, Remote


class Receiver(Protocol):
    """What routing needs of a client's connection."""

    @property
    def epoch(self) -> int:
        """A number above 0 that no other connection of this node has, nor had before it was restarted.

        It grows with time, roughly alike on all nodes, so that the newest of several can be told.
        """

    @property
    def closed(self) -> bool:
        """It takes nothing any more."""

    @property
    def has_left(self) -> bool:
        """Routing removes its subscriptions, by and by: it is delivered nothing any more. Routing sets it."""

    @has_left.setter
    def has_left(self, value: bool) -> None: ...

    @property
    def writable(self) -> bool:
        """It has room; who can wait with a delivery should do so while it has not."""

    @property
    def subscriptions(self) -> dict[bytes, LocalSubscription]:
        """By sid. Kept by the connection."""

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
        """It ends after so many deliveries; 0: never."""
        self.denied = denied
        """Patterns within ``subject`` that its user may not hear."""
        self.delivered = 0
        self.gone = False
        """Unsubscribed: nothing may be delivered any more."""
        self.place = 0
        """Of a queue group's member: where it stands among the members."""

    @property
    def key(self) -> Key:
        return self.subject, self.queue

    def may_hear(self, subject: bytes) -> bool:
        return not (self.denied and any(matches(pattern, subject) for pattern in self.denied))

    def deliver(self, subject: bytes, payload: bytes) -> None:
        """Send it a message without reply or headers, as the streaming service does."""
        self.connection.deliver(self, subject, b"", b"", payload)


class InternalSubscription:
    """What a service of this node listens on. ``close`` ends it."""

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
        """End it. Once more does nothing."""
        if self.is_open:
            self.is_open = False
            self._ended(self)


class QueueGroup:
    """The members of one queue group, here and elsewhere.

    Invariant: it is in the routing table exactly as long as it has any.
    """

    __slots__ = ("key", "members", "remotes", "turn")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.members: list[LocalSubscription] = []
        self.remotes: list[Remote] = []
        self.turn = 0

    def join(self, member: LocalSubscription) -> None:
        """Take a member here."""
        member.place = len(self.members)
        self.members.append(member)

    def leave(self, member: LocalSubscription) -> None:
        """Let a member go, which may have gone already. The last takes its place: nobody else need move."""
        place = member.place
        if place < 0:
            return
        last = self.members.pop()
        if last is not member:
            self.members[place] = last
            last.place = place
        member.place = -1

    def first(self, subject: bytes) -> LocalSubscription | None:
        """A member here that may hear ``subject``, whoever's turn it is."""
        members = (member for member in self.members if not member.connection.has_left)
        return next((member for member in members if member.may_hear(subject)), None)

    def next_member(self, subject: bytes, source: Receiver | None, echo: bool) -> LocalSubscription | None:
        """The member here whose turn it is, among those that may have the message.

        ``turn`` grows with each that is looked at. Who is met and has left goes.
        """
        members = self.members
        tries = len(members)
        while tries and members:
            tries -= 1
            self.turn += 1
            member = members[self.turn % len(members)]
            if member.connection.has_left:
                self.leave(member)
            elif (echo or member.connection is not source) and member.may_hear(subject):
                return member
        return None

    def next_remote(self) -> str | None:
        """The node whose turn it is; one with twice the members has twice the turns."""
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
    """What the streaming service delivers to."""

    @property
    def connection(self) -> Any:
        """Which has room, or hasn't."""

    def deliver(self, subject: bytes, payload: bytes) -> None:
        """Send one message."""


FAN_OUT_MAX = 4096
"""Subscriptions and queue groups that get a message at once. To more it goes in steps."""

COPIES_MAX = 16
"""Of one message of the node itself for one connection, where more than ``FAN_OUT_MAX`` listen."""


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
        """Who gets what the node itself sends, to an inbox as a rule. Others may listen to all inboxes, and
        a thousand times each: if very many listen, each connection gets a few copies and a part of the
        groups one. """
        listening = self.receivers
        if self.is_large:
            self.listeners, self.listening_groups = _few(self.plain), self.groups[:FAN_OUT_MAX]
            listening = _few(self.receivers)
        self.deliverable: tuple[Deliverable, ...] = (*listening, *remote_clients)
        """Those of them that the streaming service delivers to: subscriptions here, of a queue group one
        member, and foreign nodes with plain interest. """
        self.gateways = tuple(gateways)
        """Foreign nodes whose cluster serves it."""
        self.is_local = not (plain or groups or remotes or gateways)
        """Only services want it: the usual case of a streaming client's publishes and acks."""


def nobody() -> Route:
    """The plan of a subject that nobody wants. As quick as can be, for there is no end of such subjects."""
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
