"""Everything the cluster has agreed on: clients, channels, subscriptions, queue groups, sessions.

Plain slotted objects with one owner: only ``Machine.apply`` changes them, and a node that applied
the same entries holds the same state. What others may read is listed in the classes; nothing here
decides anything.

Two kinds of order matter, because they must be the same on every node and after a restore (R30):

* Dicts iterate in order of creation, which is the order of the keys of a checkpoint.
* ``Subscription.unacked`` iterates in order of time, and of the entries that decided: what is sent again
  moves to the back. So the first record is the next to fall due, and what is due stands before what isn't.
  (With one exception: what was sent while its receiver was gone stands at the back, and is in ``due``.)

A **group** is what holds a cursor. A plain or durable subscription is a group with one member, a
queue group has one or more, and all are dispatched by the same code. A durable that is offline, and
a durable queue group whose last member left, keep that subscription as the group's ``shadow``.
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
    """A message sent and not acknowledged. One record serves all that an entry sent to a subscription."""

    sent_at_ns: int
    """When it was sent last, by the group's clock; AckWait counts from here."""
    entry: int
    """Index of the entry that decided the last send (R3)."""
    deliveries: int
    """How often it was sent to this cursor: 1 is the first time; the redelivery count is one less."""


class Missed(NamedTuple):
    """When a subscription may have missed what it was sent."""

    since_ns: int
    before_ns: int
    """When it was sent, by the group's clock; the second is the first time at which all was heard again."""
    entry: int
    """Index of the entry that says so: what later ones send is heard."""

    def may_hold(self, record: Record) -> bool:
        """Return True unless this record, and with it every older one, was sent too early to be missed."""
        return record.sent_at_ns >= self.since_ns

    def holds(self, record: Record) -> bool:
        """Return True if what the record stands for may have been missed."""
        return self.since_ns <= record.sent_at_ns < self.before_ns and record.entry < self.entry


class Lost(NamedTuple):
    """Deliveries to a subscription that may have been lost with a connection (R15); since machine version 2.

    `Missed` goes by time alone. This one also knows how far deliveries to that connection were written.
    """

    since_ns: int
    before_ns: int
    """When it was sent, by the group's clock; the second is the first time at which all was heard again."""
    entry: int
    """Index of the entry that says so: what later ones send is heard."""
    written: int
    """What entries up to this index sent was written to the connection's socket, or dropped for a cause."""
    restarted_after: int
    restarted_to: int
    """What entries between these indexes sent counts as sent before ``before_ns`` (`commands.Unwritten`)."""

    def may_hold(self, record: Record) -> bool:
        """Return True unless this record, and with it every older one, was sent too early to be lost."""
        return record.sent_at_ns >= self.since_ns or record.entry > self.written

    def holds(self, record: Record) -> bool:
        """Return True if what the record stands for may have been lost."""
        before = record.sent_at_ns < self.before_ns or self.restarted_after < record.entry < self.restarted_to
        return before and record.entry < self.entry and self.may_hold(record)


class Restart(NamedTuple):
    """A take-over that has not had everyone's turn yet: see ``taking_over``."""

    known_commit: int
    """What entries above this index sent starts its AckWait again."""
    time_ns: int
    """Cluster time of the take-over."""
    first: int
    """The subscription whose turn is next."""


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
    """Nobody in the cluster hears its heartbeat inbox: nothing is sent to it (R15)."""
    unresponsive: bool = False
    """It missed a heartbeat (delivery rules D15, D25, D29, D30)."""
    gone_since_ns: int = 0
    """Cluster time from which it may have missed messages; meaningful while absent."""
    probed_until_ns: int = 0
    """Another connection wants its ID, and its origin is asking it, until this cluster time (R17)."""
    missed: int = 0
    """Heartbeats it has missed in a row. 0 in version 1."""
    missed_ns: int = 0
    """Cluster time of the last of them."""
    reachable_at: tuple[str, int] | None = None
    """The node that registered it, with `commands.ANY_EPOCH`; then the connection, as node and epoch, that a
    leader last found it to have moved to (R15). None in version 1."""
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    """Online ones, by their id, in the order in which they were opened or resumed."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One consumer of a channel, online or (durable) offline."""

    id: SubscriptionID
    generation: Generation
    """When it was opened or last resumed."""
    client_id: str
    """Offline: its last client."""
    group: Group
    inbox: str
    ack_inbox: str
    max_in_flight: int
    ack_wait_ns: int
    client: Client | None = None
    """None: offline."""
    unreachable: bool = False
    """Nobody hears its own inbox (R15)."""
    gone_since_ns: int = 0
    """Cluster time from which it may have missed messages; meaningful while absent."""
    last_sent: int = 0
    """The highest sequence it was sent itself; a queue group's cursor is the group's."""
    unacked: dict[int, Record] = field(default_factory=dict)
    due: list[int] = field(default_factory=list)
    """Sequences to be sent again at once, descending: the last one is next. May name acked ones."""
    due_before: int = 0
    """What entries below this index sent is due as well, and not in ``due`` yet (R19). 0: nothing."""
    missed: Missed | Lost | None = None
    """What it was sent then is due as well, and not in ``due`` yet (R19)."""
    answer_lost: bool = False
    """The process that was to answer its opening ended before it is known to have done so."""
    due_here: bool = False
    """The due ones go to this member itself, not to the one that the group would choose."""

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
        """It holds as many unacked messages as it may: nothing new, redeliveries all the same."""
        return len(self.unacked) >= self.max_in_flight

    @property
    def reachable(self) -> bool:
        """Something sent to it can arrive: online, and neither it nor its client is absent."""
        client = self.client
        return client is not None and not client.unreachable and not self.unreachable

    @property
    def unresponsive(self) -> bool:
        return self.client is not None and self.client.unresponsive


@dataclass(slots=True, eq=False)
class Group:
    """A cursor and those who share it: one plain or durable subscription, or a queue group.

    Invariants: it has members, or a shadow, never both; a message is unacked at one member, at the
    shadow, or among the orphans, never at two of them. ``members`` of a group without ``queue`` has
    at most one.
    """

    id: int
    """The id of the subscription that founded it."""
    channel: Channel
    durable: str
    queue: str
    client_id: str
    """Whose durable it is; empty for queue groups, which belong to no client."""
    cursor: int
    """The last sequence sent on it."""
    members: list[Subscription] = field(default_factory=list)
    """Online ones, in the order in which they take turns (D15)."""
    shadow: Subscription | None = None
    orphans: dict[int, Record] = field(default_factory=dict)
    """Left behind by members that went away: due at once, to whoever can hear (D35). A shadow may have some
    beside it: then everyone had gone before they could be sent."""
    paused_ns: int | None = None
    """Cluster time at which an operator paused it: nothing is sent, and no AckWait runs. None: it isn't."""
    stood_ns: int = 0
    """How long its pauses have taken, those that are over."""
    purged: tuple[int, int] | None = None
    """First and last of what was purged and may still be unacked: forgotten before anything new is sent."""
    replayed_to: int = 0
    """An operator put the cursor back: up to here messages may have been sent before, and say so (D7)."""

    @property
    def name(self) -> str:
        """As monitoring shows a queue group; durable ones are ``durable:queue``."""
        return f"{self.durable}:{self.queue}" if self.durable and self.queue else self.queue

    @property
    def holders(self) -> list[Subscription]:
        """Who holds what was sent: its members, or its shadow."""
        return self.members if self.shadow is None else [self.shadow]

    def clock(self, time_ns: int) -> int:
        """What the group's own clock shows at ``time_ns`` of cluster time: it stands still in pauses.

        What its members were sent is dated by it. So the end of a pause has nothing to put right, however
        much they hold: what had five seconds left has five seconds left.
        """
        return (time_ns if self.paused_ns is None else self.paused_ns) - self.stood_ns


@dataclass(slots=True, eq=False)
class Channel:
    """A named, ordered, replicated message log, and who subscribes to it."""

    id: ChannelID
    name: str
    generation: Generation
    limits: Limits
    log: MessageLog = field(default_factory=MessageLog)
    groups: dict[int, Group] = field(default_factory=dict)
    """By their id, in order of founding."""
    durables: dict[tuple[str, str], Group] = field(default_factory=dict)
    """By (client id, durable)."""
    queues: dict[str, Group] = field(default_factory=dict)
    durable_queues: dict[tuple[str, str], Group] = field(default_factory=dict)
    """By (durable, queue)."""
    subscription_count: int = 0
    """Members and shadows of all its groups: what counts against ``max_subscriptions``."""
    active_ns: int = 0
    """Cluster time when it was last published to or lost its last online subscription."""
    limit_reached: bool = False
    """max_msgs or max_bytes has dropped a message; an operator was told."""

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
        """Nobody is online: offline durables do not keep a channel alive."""
        return not any(group.members for group in self.groups.values())

    @property
    def expires_ns(self) -> int | None:
        """Cluster time at which it will have been inactive for too long; None: not as it stands."""
        if not self.limits.max_inactivity_ns or not self.idle:
            return None
        return self.active_ns + self.limits.max_inactivity_ns


@dataclass(slots=True, eq=False)
class Session:
    """An origin's numbered conversation with the machine (R5, R6)."""

    node: str
    id: Generation
    nonce: bytes
    applied: int = 0
    """The highest serial applied: those up to it are skipped."""
    lowest_waited: int = 1
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    """Of serials from ``lowest_waited`` on that were not ``Ok``, in their order."""


@dataclass(slots=True)
class Dirty:
    """What changed since the last checkpoint, by key; see ``records``. Dicts serve as ordered sets."""

    clients: dict[Generation, str] = field(default_factory=dict)
    channels: dict[int, str] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)
    """To the id of its channel."""
    subscriptions: dict[int, None] = field(default_factory=dict)
    unacked: dict[int, None] = field(default_factory=dict)
    sessions: dict[str, None] = field(default_factory=dict)
    gone_blocks: dict[tuple[int, int], None] = field(default_factory=dict)
    """(channel id, block number) of deleted channels; of the others see ``MessageLog.dirty``."""


@dataclass(slots=True, eq=False)
class State:
    """All of it. Whoever shows it reads; only ``apply`` writes."""

    clients: dict[str, Client] = field(default_factory=dict)
    by_conn: dict[bytes, Client] = field(default_factory=dict)
    """Clients that have a connection ID, by it."""
    channels: dict[str, Channel] = field(default_factory=dict)
    by_folded_name: dict[str, Channel] = field(default_factory=dict)
    """Channels by ``folded`` name: two may not differ only in case."""
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    """Online and offline ones, by their id."""
    by_ack_inbox: dict[str, Subscription] = field(default_factory=dict)
    """Online ones."""
    sessions: dict[str, Session] = field(default_factory=dict)
    """By the name of their node; one each."""
    settings: Settings = field(default_factory=Settings)

    applied: int = 0
    """Index of the last applied entry."""
    time_ns: int = 0
    """Cluster time of the last entry."""
    timestamp_ns: int = 0
    """Unix time of the last entry; neither of the two goes back."""
    term: int = 0
    """The highest term that was taken over."""
    version: int = 1
    """Machine version in effect (R24)."""
    release: str = ""
    """The release that brought that version into effect; empty for version 1."""
    expiry_paused: bool = False
    """The leader's wall clock is wrong: no message is let go for its age (R13)."""
    rolled: bytes = b""
    """The rolling digest after the last entry (R30); see ``rolling``."""
    milestone: tuple[int, bytes] = (0, b"")
    """The last entry at which nodes compare, and the digest after it."""
    cluster_uuid: str = ""
    cluster_tag: str = ""
    last_channel: int = 0
    last_subscription: int = 0
    """The highest ids given out; neither is given twice."""
    cold_grace_ns: int = 0
    """Until this cluster time, after a cold start, the absent keep their queue messages; 0: not now."""
    cold_release_ns: int = 0
    """At this cluster time a cold start stops holding subscriptions back; 0: not now."""

    redelivery_paused: bool = False
    """The leader still has acknowledgements to propose that were made while nobody led (R9)."""
    restart: Restart | None = None
    """AckWaits that a take-over starts again; until that is done nothing is sent."""
    redelivery_due: dict[int, Group] = field(default_factory=dict)
    """Groups with messages due at once, by id, in the order in which they get their turn."""
    sendable: dict[int, Group] = field(default_factory=dict)
    """Groups that may have room for new messages, likewise."""

    ack_deadlines: Deadlines = field(default_factory=Deadlines)
    """By subscription id, in cluster time. Derived: see ``deadlines``."""
    age_deadlines: Deadlines = field(default_factory=Deadlines)
    """By channel id, in Unix time. Derived."""
    channels_by_id: dict[int, Channel] = field(default_factory=dict)
    dirty: Dirty = field(default_factory=Dirty)

    @property
    def marked(self) -> bool:
        """Work is left over from the last entry (R19): the leader proposes a Tick at once."""
        earliest = self.ack_deadlines.earliest()
        passed = earliest is not None and earliest <= self.time_ns
        released = bool(self.cold_release_ns) and self.cold_release_ns <= self.time_ns
        return bool(self.redelivery_due or self.sendable or self.restart or passed or released)

    def next_deadline(self) -> int | None:
        """Cluster time of the earliest deadline: an AckWait, or what a cold start waits for.

        It may turn out that nothing is due by then, never that something was due before.
        """
        waits = [time_ns for time_ns in (self.cold_grace_ns, self.cold_release_ns) if time_ns]
        earliest = self.ack_deadlines.earliest()
        if earliest is not None:
            waits.append(earliest)
        return min(waits, default=None)

    def next_age(self) -> int | None:
        """Unix time (ns) at which the next message is over its channel's max_age; may be early.

        None while ages wait: then nothing becomes due by its age.
        """
        return None if self.expiry_paused else self.age_deadlines.earliest()

    def expiring_channels(self, time_ns: int) -> list[Channel]:
        """Channels that have been inactive for too long at ``time_ns`` of cluster time."""
        return [
            channel
            for channel in self.channels.values()
            if (expires_ns := channel.expires_ns) is not None and expires_ns <= time_ns
        ]


def folded(name: str) -> str:
    """``name`` in lower case: ASCII only, for Unicode's tables differ between Python versions."""
    return name.encode().lower().decode()
