"""The replicated state: clients, channels, subscriptions, queue groups, sessions.

These are plain slotted objects with one owner: only ``Machine.apply`` changes them. Nodes that applied the
same entries hold the same state. This module makes no decisions.

Two orders must be the same on every node and after a restore (R30):

* Dicts iterate in order of creation, which is the key order of a checkpoint.
* ``Subscription.unacked`` iterates in order of send time and of the sending entry: a redelivered message
  moves to the end. So the first record has the earliest deadline, and due messages precede those that are
  not due. (Exception: messages sent while their receiver was unreachable are at the end, and are also in
  ``due``.)

A **group** holds a cursor. A plain or durable subscription is a group with one member. A queue group has
one or more members. The same code dispatches all groups. When a durable goes offline, or the last member
leaves a durable queue group, the group keeps that subscription as its ``shadow``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from node.units import ChannelID, Generation, SubscriptionID

from .deadlines import Deadlines
from .effects import Outcome
from .log import MessageLog
from .settings import Limits, Settings

__all__ = [
    "Channel",
    "Client",
    "Group",
    "Limits",
    "Lost",
    "Missed",
    "Record",
    "Restart",
    "Session",
    "Settings",
    "State",
    "Subscription",
]


class Record(NamedTuple):
    """A message that was sent and not acknowledged.

    All messages that one entry sends to a subscription share one record.
    """

    sent_at_ns: int
    """Time of the last send on the group's clock (`Group.clock`). AckWait counts from here."""
    entry: int
    """Index of the entry that decided the last send (R3)."""
    deliveries: int
    """Number of sends on this cursor: 1 for the first. The redelivery count is one less."""


class Missed(NamedTuple):
    """The period in which messages sent to a subscription may not have reached it."""

    since_ns: int
    before_ns: int
    """Bounds of the send time on the group's clock. ``before_ns`` is when all inboxes had a subscriber
    again."""
    entry: int
    """Index of the entry that recorded the period. Messages of later entries do reach the subscription."""

    def may_hold(self, record: Record) -> bool:
        """Return False if this record and every older one were sent before the period."""
        return record.sent_at_ns >= self.since_ns

    def holds(self, record: Record) -> bool:
        """Return True if the messages of this record may have been missed."""
        return self.since_ns <= record.sent_at_ns < self.before_ns and record.entry < self.entry


class Lost(NamedTuple):
    """Deliveries to a subscription that may have been lost with a connection (R15); since machine version 2.

    `Missed` uses times only. This class also uses how far deliveries were written to that connection.
    """

    since_ns: int
    before_ns: int
    """Bounds of the send time on the group's clock. ``before_ns`` is when all inboxes had a subscriber
    again."""
    entry: int
    """Index of the entry that recorded the loss. Messages of later entries do reach the subscription."""
    written: int
    """Messages sent by entries up to this index were written to the connection's socket, or dropped on
    purpose."""
    restarted_after: int
    restarted_to: int
    """Messages sent by entries between these indexes count as sent before ``before_ns``
    (`commands.Unwritten`)."""

    def may_hold(self, record: Record) -> bool:
        """Return False if this record and every older one were sent too early to be lost."""
        return record.sent_at_ns >= self.since_ns or record.entry > self.written

    def holds(self, record: Record) -> bool:
        """Return True if the messages of this record may have been lost."""
        before = record.sent_at_ns < self.before_ns or self.restarted_after < record.entry < self.restarted_to
        return before and record.entry < self.entry and self.may_hold(record)


class Restart(NamedTuple):
    """Progress of a new term in restarting AckWaits (``new_term``), while subscriptions are left to visit."""

    known_commit: int
    """AckWaits of messages sent by entries above this index start again."""
    time_ns: int
    """Cluster time at which the term began."""
    first: int
    """The next subscription to visit."""


@dataclass(slots=True, eq=False)
class Client:
    """A registered client ID. It outlives connections and leaders."""

    id: str
    generation: Generation
    conn_id: bytes
    """Empty for clients of protocol 0."""
    heartbeat_inbox: str
    protocol: int
    ping_interval_s: int
    ping_max_out: int
    unreachable: bool = False
    """No node has a subscription of its heartbeat inbox: nothing is sent to the client (R15)."""
    unresponsive: bool = False
    """It missed its last heartbeat (delivery rules D15, D25, D29, D30)."""
    gone_since_ns: int = 0
    """Cluster time from which it may have missed messages. Used only while the client is unreachable."""
    probed_until_ns: int = 0
    """Until this cluster time the ID is reserved for another connection, whose origin is probing this client
    (R17)."""
    missed: int = 0
    """Number of heartbeats missed in a row. Always 0 in version 1."""
    missed_ns: int = 0
    """Cluster time of the last missed heartbeat."""
    reachable_at: tuple[str, int] | None = None
    """The node that registered it, with `commands.ANY_EPOCH`. Later the connection (node and epoch) to which
    a leader last found that it had moved (R15). None in version 1."""
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    """Its online subscriptions by id, in the order in which they were opened or resumed."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One consumer of a channel, online or (durable) offline."""

    id: SubscriptionID
    generation: Generation
    """When it was opened or last resumed."""
    client_id: str
    """The client that opened or last resumed it. Kept while it is offline."""
    group: Group
    inbox: str
    ack_inbox: str
    max_in_flight: int
    ack_wait_ns: int
    client: Client | None = None
    """None while it is offline."""
    unreachable: bool = False
    """No node has a subscription of its inbox (R15)."""
    gone_since_ns: int = 0
    """Cluster time from which it may have missed messages. Used only while it is unreachable."""
    last_sent: int = 0
    """The highest sequence sent to this subscription. (The cursor of a queue group is ``Group.cursor``.)"""
    unacked: dict[int, Record] = field(default_factory=dict)
    due: list[int] = field(default_factory=list)
    """Sequences to redeliver at once, descending: the last one is next. Some may be acknowledged already."""
    due_before: int = 0
    """Messages sent by entries below this index are also due, but not in ``due`` yet (R19). 0 means none."""
    missed: Missed | Lost | None = None
    """Messages sent in this period are also due, but not in ``due`` yet (R19)."""
    answer_lost: bool = False
    """The origin's process ended before the reply to the open request was known to be sent."""
    due_here: bool = False
    """Its due messages go to this member, not to the member that the group would choose."""

    @property
    def channel(self) -> Channel:
        return self.group.channel

    @property
    def durable(self) -> str:
        return self.group.durable

    @property
    def queue(self) -> str:
        return self.group.queue

    @property
    def online(self) -> bool:
        return self.client is not None

    @property
    def stalled(self) -> bool:
        """It has ``max_in_flight`` unacked messages: it gets no new messages, but still gets redeliveries."""
        return len(self.unacked) >= self.max_in_flight

    @property
    def reachable(self) -> bool:
        """It is online, and neither it nor its client is unreachable."""
        client = self.client
        return client is not None and not client.unreachable and not self.unreachable

    @property
    def unresponsive(self) -> bool:
        return self.client is not None and self.client.unresponsive


@dataclass(slots=True, eq=False)
class Group:
    """A cursor and the subscriptions that share it: one plain or durable subscription, or a queue group.

    Invariants: a group has members or a shadow, never both. A message is unacked at one member, at the
    shadow, or among the orphans, never at two of them. A group without ``queue`` has at most one member.
    """

    id: int
    """The id of the subscription that created it."""
    channel: Channel
    durable: str
    queue: str
    client_id: str
    """The client that owns the durable. Empty for queue groups, which belong to no client."""
    cursor: int
    """The last sequence sent on this cursor."""
    members: list[Subscription] = field(default_factory=list)
    """Online members, in the order in which they take turns (D15)."""
    shadow: Subscription | None = None
    orphans: dict[int, Record] = field(default_factory=dict)
    """Unacked messages of members that left: due at once to any reachable member (D35). A shadow may have
    orphans beside it if all members left before the orphans could be sent."""
    paused_ns: int | None = None
    """Cluster time at which an operator paused the group: nothing is sent and AckWaits stand still. None if
    it is not paused."""
    stood_ns: int = 0
    """Total duration of its completed pauses."""
    purged: tuple[int, int] | None = None
    """First and last sequence of purged messages that may still be unacked here. They are removed before
    anything new is sent."""
    replayed_to: int = 0
    """Set when an operator moves the cursor: messages up to here may have been sent before, and are sent
    with the redelivery flag (D7)."""

    @property
    def name(self) -> str:
        """The queue group's name in monitoring; for durable ones ``durable:queue``."""
        return f"{self.durable}:{self.queue}" if self.durable and self.queue else self.queue

    @property
    def holders(self) -> list[Subscription]:
        """The subscriptions that hold unacked messages: the members, or the shadow."""
        return self.members if self.shadow is None else [self.shadow]

    def clock(self, time_ns: int) -> int:
        """Return the group's clock at ``time_ns`` of cluster time; it stops while the group is paused.

        Send times of its messages are on this clock. So ending a pause needs no update of records, however
        many there are: a message that had five seconds left still has five seconds left.
        """
        return (time_ns if self.paused_ns is None else self.paused_ns) - self.stood_ns


@dataclass(slots=True, eq=False)
class Channel:
    """A named, ordered, replicated message log and its subscriptions."""

    id: ChannelID
    name: str
    generation: Generation
    limits: Limits
    log: MessageLog = field(default_factory=MessageLog)
    groups: dict[int, Group] = field(default_factory=dict)
    """By id, in order of creation."""
    durables: dict[tuple[str, str], Group] = field(default_factory=dict)
    """By (client id, durable)."""
    queues: dict[str, Group] = field(default_factory=dict)
    durable_queues: dict[tuple[str, str], Group] = field(default_factory=dict)
    """By (durable, queue)."""
    subscription_count: int = 0
    """Members and shadows of all its groups; ``max_subscriptions`` limits this number."""
    active_ns: int = 0
    """Cluster time of the last publish, or of the moment when the last online subscription ended."""
    limit_reached: bool = False
    """max_msgs or max_bytes has dropped a message, and the warning was logged."""

    def add(self, group: Group) -> None:
        self.groups[group.id] = group
        if group.queue and group.durable:
            self.durable_queues[group.durable, group.queue] = group
        elif group.queue:
            self.queues[group.queue] = group
        elif group.durable:
            self.durables[group.client_id, group.durable] = group

    def remove(self, group: Group) -> None:
        del self.groups[group.id]
        if group.queue and group.durable:
            del self.durable_queues[group.durable, group.queue]
        elif group.queue:
            del self.queues[group.queue]
        elif group.durable:
            del self.durables[group.client_id, group.durable]

    @property
    def idle(self) -> bool:
        """No subscription is online. Offline durables do not keep a channel alive."""
        return not any(group.members for group in self.groups.values())

    @property
    def expires_ns(self) -> int | None:
        """Cluster time at which max_inactivity passes; None if it has no such limit or is not idle."""
        if not self.limits.max_inactivity_ns or not self.idle:
            return None
        return self.active_ns + self.limits.max_inactivity_ns


@dataclass(slots=True, eq=False)
class Session:
    """An origin's session with the state machine: its commands have consecutive serials (R5, R6)."""

    node: str
    id: Generation
    nonce: bytes
    applied: int = 0
    """The highest applied serial. Commands with a serial up to this one are skipped."""
    lowest_waited: int = 1
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    """Outcomes other than ``Ok`` of serials from ``lowest_waited`` on, in order of serial."""


@dataclass(slots=True)
class Dirty:
    """Keys of the objects that changed since the last checkpoint (see ``records``).

    Dicts serve as ordered sets.
    """

    clients: dict[Generation, str] = field(default_factory=dict)
    channels: dict[int, str] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)
    """Group id to channel id."""
    subscriptions: dict[int, None] = field(default_factory=dict)
    unacked: dict[int, None] = field(default_factory=dict)
    sessions: dict[str, None] = field(default_factory=dict)
    gone_blocks: dict[tuple[int, int], None] = field(default_factory=dict)
    """(channel id, block number) of deleted channels. ``MessageLog.dirty`` has the blocks of existing
    channels."""


@dataclass(slots=True, eq=False)
class State:
    """The whole replicated state. Only ``apply`` changes it."""

    clients: dict[str, Client] = field(default_factory=dict)
    by_conn: dict[bytes, Client] = field(default_factory=dict)
    """By connection ID; clients without one are not in it."""
    channels: dict[str, Channel] = field(default_factory=dict)
    by_folded_name: dict[str, Channel] = field(default_factory=dict)
    """Channels by ``folded`` name. Two channel names must not differ only in case."""
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    """Online and offline subscriptions by id."""
    by_ack_inbox: dict[str, Subscription] = field(default_factory=dict)
    """Online subscriptions."""
    sessions: dict[str, Session] = field(default_factory=dict)
    """By node name; each node has one session."""
    settings: Settings = field(default_factory=Settings)

    applied: int = 0
    """Index of the last applied entry."""
    time_ns: int = 0
    """Cluster time of the last entry."""
    timestamp_ns: int = 0
    """Unix time of the last entry. Neither this nor ``time_ns`` goes back."""
    term: int = 0
    """The highest term that has begun."""
    version: int = 1
    """Machine version in effect (R24)."""
    release: str = ""
    """The release that raised the machine version; empty for version 1."""
    expiry_paused: bool = False
    """The leader's wall clock is wrong: no message is dropped for its age (R13)."""
    rolled: bytes = b""
    """The rolling digest after the last entry (R30); see ``state_digest``."""
    milestone: tuple[int, bytes] = (0, b"")
    """Index of the last entry at which nodes compare digests, and the digest after that entry."""
    cluster_uuid: str = ""
    cluster_tag: str = ""
    last_channel: int = 0
    last_subscription: int = 0
    """The highest assigned ids. An id is never reused."""
    cold_grace_ns: int = 0
    """After a cold start, unreachable queue members keep their messages until this cluster time. 0: no grace
    is running."""
    cold_release_ns: int = 0
    """Cluster time at which a cold start stops holding subscriptions back. 0: none is held back."""

    redelivery_paused: bool = False
    """The leader still has to propose acknowledgements that arrived while there was no leader (R9)."""
    restart: Restart | None = None
    """AckWaits that a new term still has to restart. Nothing is sent until all are restarted."""
    redelivery_due: dict[int, Group] = field(default_factory=dict)
    """Groups with messages due at once, by id, in the order in which they are processed."""
    sendable: dict[int, Group] = field(default_factory=dict)
    """Groups that may be able to receive new messages, by id, in the order in which they are processed."""

    ack_deadlines: Deadlines = field(default_factory=Deadlines)
    """AckWait deadlines by subscription id, in cluster time. Derived: see ``deadlines``."""
    age_deadlines: Deadlines = field(default_factory=Deadlines)
    """max_age deadlines by channel id, in Unix time. Derived."""
    channels_by_id: dict[int, Channel] = field(default_factory=dict)
    dirty: Dirty = field(default_factory=Dirty)

    @property
    def marked(self) -> bool:
        """Return True if the last entry left work to do (R19). Then the leader proposes a Tick at once."""
        earliest = self.ack_deadlines.earliest()
        passed = earliest is not None and earliest <= self.time_ns
        released = bool(self.cold_release_ns) and self.cold_release_ns <= self.time_ns
        return bool(self.redelivery_due or self.sendable or self.restart or passed or released)

    def next_deadline(self) -> int | None:
        """Return the cluster time of the earliest deadline: of an AckWait or of a cold start.

        It may be too early (nothing is due by then), but never too late.
        """
        waits = [time_ns for time_ns in (self.cold_grace_ns, self.cold_release_ns) if time_ns]
        earliest = self.ack_deadlines.earliest()
        if earliest is not None:
            waits.append(earliest)
        return min(waits, default=None)

    def next_age(self) -> int | None:
        """Return the Unix time (ns) at which the next message exceeds its channel's max_age.

        It may be too early, never too late. Returns None while expiry is paused.
        """
        return None if self.expiry_paused else self.age_deadlines.earliest()

    def expiring_channels(self, time_ns: int) -> list[Channel]:
        """Return the channels whose max_inactivity has passed at ``time_ns`` of cluster time."""
        return [
            channel
            for channel in self.channels.values()
            if (expires_ns := channel.expires_ns) is not None and expires_ns <= time_ns
        ]


def folded(name: str) -> str:
    """Return ``name`` with ASCII letters in lower case; Unicode's tables differ between Python versions."""
    return name.encode().lower().decode()
