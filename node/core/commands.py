"""What may enter the log: commands, as values; ``entries`` has their bytes.

Commands of an origin belong to its session and have consecutive serials (R5). ``SessionOpen`` comes alone,
without a session. Keeper commands have no session: they carry the term of the leader that proposed them and
the generation of what they mean, and ``apply`` ignores them when either differs (R16).

They are plain tuples of their fields once decoded into these NamedTuples: a busy node makes tens of
thousands a second, and a NamedTuple costs a third of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from node.units import Generation

# --- commands of an origin's session -------------------------------------------------------------


class SessionOpen(NamedTuple):
    """Open the session of ``node`` and end its earlier one (R5). ``nonce`` is the process's own."""

    node: str
    nonce: bytes


class ClientOpen(NamedTuple):
    """Register a client ID. Refused after ``valid_until_ns`` of cluster time (R8, R17)."""

    client_id: str
    conn_id: bytes
    heartbeat_inbox: str
    protocol: int
    ping_interval_s: int
    ping_max_out: int
    valid_until_ns: int


class ClientReplace(NamedTuple):
    """The probed client did not answer: replace exactly that generation of it (R17)."""

    client_id: str
    generation: Generation
    conn_id: bytes
    heartbeat_inbox: str
    protocol: int
    ping_interval_s: int
    ping_max_out: int
    valid_until_ns: int


class ClientKeep(NamedTuple):
    """The probed client answered: it stays, and the newcomer is refused (R17)."""

    client_id: str
    generation: Generation


ANY_GENERATION: Generation = (0, 0)
"""In a request of a client: whichever is registered when it is applied."""


class ClientClose(NamedTuple):
    """Close a client; only that generation of it, where its origin could tell which one asked.

    A close waits for a leader as long as it takes. Meanwhile whoever asked may have given up, and the ID
    may have been registered anew on another node: its new holder must not be closed for it.
    """

    client_id: str
    generation: Generation = ANY_GENERATION


class ClientCheck(NamedTuple):
    """A client's ping whose connection ID its node doesn't know: is it registered? (R26)"""

    conn_id: bytes


class Publish(NamedTuple):
    """Append to a channel.

    ``conn_id`` identifies the publisher if not empty, else ``client_id`` does. ``body`` holds the
    encoded MsgProto fields subject, reply and data; the core never looks into it.
    """

    client_id: str
    conn_id: bytes
    channel: str
    body: bytes


class SubscriptionOpen(NamedTuple):
    """Create a subscription or resume a durable. ``queue`` and ``durable`` are empty for none.

    ``start`` is a ``StartPosition``; ``start_delta_ns`` counts back from the entry's timestamp.
    """

    client_id: str
    channel: str
    queue: str
    durable: str
    inbox: str
    ack_inbox: str
    max_in_flight: int
    ack_wait_ns: int
    start: int
    start_seq: int
    start_delta_ns: int
    valid_until_ns: int


class SubscriptionReplace(NamedTuple):
    """A `SubscriptionOpen` that also replaces an online durable: that with the ack inbox ``replaces``.

    Nobody hears that one, or its client asks again because the answer has not come. Since machine version 2.
    """

    client_id: str
    channel: str
    queue: str
    durable: str
    inbox: str
    ack_inbox: str
    max_in_flight: int
    ack_wait_ns: int
    start: int
    start_seq: int
    start_delta_ns: int
    valid_until_ns: int
    replaces: str


class SubscriptionClose(NamedTuple):
    """Close: a durable goes offline, anything else ends. ``inbox`` is the ack or message inbox."""

    client_id: str
    channel: str
    inbox: str


class Unsubscribe(NamedTuple):
    """End a subscription for good. ``durable`` names an offline one when ``inbox`` is empty.

    That is refused after ``valid_until_ns`` (R8): by then the durable may have been resumed by one who
    means to keep it. An inbox is of one subscription only, so it can't mean another later.
    """

    client_id: str
    channel: str
    inbox: str
    durable: str
    valid_until_ns: int = (1 << 63) - 1


class Acked(NamedTuple):
    """Sequences acknowledged on one ack inbox, in the order they came."""

    channel: str
    ack_inbox: str
    seqs: Sequence[int]


class Configure(NamedTuple):
    """Replace the replicated settings (R23): the fields of ``state.Settings`` by name."""

    settings: dict[str, Any]
    only_if_unset: bool


# --- what an operator asks for (see ``administration``); each is refused after ``valid_until_ns`` ------


class SeekTo(IntEnum):
    """Where a cursor is put."""

    END = 0
    """Behind everything: only what is published from now on."""
    SEQUENCE = 1
    """Before the sequence given, or the first there is behind it."""
    TIME = 2
    """Before the first message stored at the Unix time given (ns), or later."""
    FIRST = 3
    """Before everything that is in the log."""
    LAST = 4
    """Before the last message."""


class ChannelDelete(NamedTuple):
    """Delete a channel with its log and its subscriptions; online ones only if ``force``."""

    channel: str
    force: bool
    valid_until_ns: int


class ChannelPurge(NamedTuple):
    """Drop a channel's messages up to and including ``up_to``; 0: all of them."""

    channel: str
    up_to: int
    valid_until_ns: int


class SubscriptionRemove(NamedTuple):
    """End a subscription for good, with ``group`` all that share its cursor; ``force`` for online ones."""

    subscription: int
    group: bool
    force: bool
    valid_until_ns: int


class SubscriptionSeek(NamedTuple):
    """Put the cursor of a durable or a queue group elsewhere: to a ``SeekTo``, with its value."""

    subscription: int
    to: int
    value: int
    valid_until_ns: int


class SubscriptionPause(NamedTuple):
    """Send nothing from this cursor, until it is told otherwise (``paused`` false)."""

    subscription: int
    paused: bool
    valid_until_ns: int


class ClientKick(NamedTuple):
    """Close a client, as if it had asked for it."""

    client_id: str
    valid_until_ns: int


# --- commands of the keeper, which only a ready leader has ---------------------------------------


class Tick(NamedTuple):
    """Nothing but the time: what is due is due (every entry's time does the same)."""

    term: int


class NewTerm(NamedTuple):
    """First command of a term. Records above ``known_commit`` start their AckWait now (R10)."""

    term: int
    known_commit: int


class ColdStart(NamedTuple):
    """Nobody was warm: everyone is absent and every unacked message is due (R14)."""

    term: int


class ClientAway(NamedTuple):
    """Nobody in the cluster hears the client's heartbeat inbox since ``gone_since_ns`` (R15)."""

    term: int
    client_id: str
    generation: Generation
    gone_since_ns: int


class ClientBack(NamedTuple):
    """The client's heartbeat inbox is heard again, or moved to another connection (R15).

    What was sent from ``gone_since_ns`` on is due at once; but not what was sent from ``back_ns`` on, when
    all its inboxes were heard again: that has reached it.
    """

    term: int
    client_id: str
    generation: Generation
    gone_since_ns: int
    back_ns: int


class SubscriptionAway(NamedTuple):
    """Nobody hears the subscription's inbox. ``generation`` is when it was opened or resumed (R15)."""

    term: int
    subscription: int
    generation: Generation
    gone_since_ns: int


class SubscriptionBack(NamedTuple):
    term: int
    subscription: int
    generation: Generation
    gone_since_ns: int
    back_ns: int


ANY_EPOCH = 0
"""As the epoch of a connection: some connection of that node."""

NOTHING_UNWRITTEN = 1 << 62
"""As an index up to which deliveries were written: nobody knows of any that were not."""


class Unwritten(NamedTuple):
    """Which deliveries to a connection that has ended may not have been written to its socket (R10, R15)."""

    written: int
    """Everything decided by entries up to this index was written, or dropped for a cause."""
    restarted_after: int
    restarted_to: int
    """Entries between these indexes were committed by a later leader than the one that stamped them. Their
    records say when that was, not when they were stamped (R10); so the node to which the client had moved
    may have left them out, whatever their records say. Two zeros: there are none."""


class ClientUnreachable(NamedTuple):
    """No node's client subscribes to the client's heartbeat inbox since ``gone_since_ns`` (R15)."""

    term: int
    client_id: str
    generation: Generation
    gone_since_ns: int
    written: int
    """See `Unwritten.written`: of the connection that subscribed to it last."""


class ClientReachable(NamedTuple):
    """The client's heartbeat inbox is subscribed to again, or by another connection than before (R15).

    Due at once is what entries above ``written`` decided or what was sent from ``gone_since_ns`` on; but not
    what was sent from ``back_ns`` on, when all its inboxes were subscribed to again: that has reached it.
    """

    term: int
    client_id: str
    generation: Generation
    gone_since_ns: int
    back_ns: int
    written: int
    restarted_after: int
    restarted_to: int
    """See `Unwritten` for these three."""
    node: str
    epoch: int
    """The connection that subscribes to it now."""


class SubscriptionUnreachable(NamedTuple):
    """No node's client subscribes to the subscription's inbox (R15). See `ClientUnreachable`."""

    term: int
    subscription: int
    generation: Generation
    gone_since_ns: int
    written: int


class SubscriptionReachable(NamedTuple):
    """The subscription's inbox is subscribed to again, or elsewhere (R15). See `ClientReachable`."""

    term: int
    subscription: int
    generation: Generation
    gone_since_ns: int
    back_ns: int
    written: int
    restarted_after: int
    restarted_to: int
    node: str
    epoch: int


class ClientUnresponsive(NamedTuple):
    """A heartbeat was missed (``unresponsive``), or answered again."""

    term: int
    client_id: str
    generation: Generation
    unresponsive: bool


class HeartbeatMissed(NamedTuple):
    """The client has missed ``missed`` heartbeats in a row: it is silent. Since machine version 2.

    The count is part of the state, so the next leader goes on with it.
    """

    term: int
    client_id: str
    generation: Generation
    missed: int


class ClientRemove(NamedTuple):
    """Heartbeats failed too often: close the client as if it had asked."""

    term: int
    client_id: str
    generation: Generation


class ChannelExpire(NamedTuple):
    """``max_inactivity`` has passed: delete the channel if it is still idle."""

    term: int
    channel: str
    generation: Generation


class RaiseVersion(NamedTuple):
    """All members can do ``version``: new behaviour takes effect from here on (R24).

    ``release`` is the leader's: what a node must run to go on from here.
    """

    term: int
    version: int
    release: str


class InitCluster(NamedTuple):
    """Give a new cluster its identity; ignored once it has one. Drawn by its first leader.

    ``cluster_tag``: 22 random characters under which acks are recognised (R18).
    """

    term: int
    cluster_uuid: str
    cluster_tag: str


class RecoverCluster(NamedTuple):
    """What was the cluster ``before`` goes on as another: recovered from one node's data.

    The tag stays: subscriptions that are kept have their ack inboxes under it.
    """

    term: int
    cluster_uuid: str
    before: str


class SessionEnd(NamedTuple):
    """``node`` is no member any more: that session of it ends, and no other (R5)."""

    term: int
    node: str
    session: Generation


class PauseExpiry(NamedTuple):
    """No message is let go for its age, for the leader's wall clock is wrong; or they are again (R13)."""

    term: int
    wait: bool


class PauseRedelivery(NamedTuple):
    """Send nothing again (``paused``), for acknowledgements made while nobody led are still to come (R9).

    New messages are sent meanwhile, where nothing is due ahead of them. Since machine version 2.
    """

    term: int
    paused: bool


AdminCommand: TypeAlias = (
    ChannelDelete | ChannelPurge | SubscriptionRemove | SubscriptionSeek | SubscriptionPause | ClientKick
)
OriginCommand: TypeAlias = (
    ClientOpen
    | ClientReplace
    | ClientKeep
    | ClientClose
    | ClientCheck
    | Publish
    | SubscriptionOpen
    | SubscriptionReplace
    | SubscriptionClose
    | Unsubscribe
    | Acked
    | Configure
    | AdminCommand
)
LeaderCommand: TypeAlias = (
    Tick
    | NewTerm
    | ColdStart
    | ClientAway
    | ClientBack
    | SubscriptionAway
    | SubscriptionBack
    | ClientUnreachable
    | ClientReachable
    | SubscriptionUnreachable
    | SubscriptionReachable
    | ClientUnresponsive
    | ClientRemove
    | HeartbeatMissed
    | ChannelExpire
    | RaiseVersion
    | InitCluster
    | RecoverCluster
    | SessionEnd
    | PauseExpiry
    | PauseRedelivery
)
Command: TypeAlias = SessionOpen | OriginCommand | LeaderCommand
