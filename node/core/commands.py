"""The commands of the log, as values; ``entries`` encodes and decodes them.

The commands of an origin belong to its session and have consecutive serials (R5). A ``SessionOpen`` is
alone in its batch and has no session. Leader commands have no session: they carry the term of the leader
that proposed them and, where they refer to an object, its generation. ``apply`` ignores a leader command if
either differs (R16).

A busy node creates tens of thousands of these a second, so they are NamedTuples, which cost a third of a
frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from node.units import Generation

# --- commands of an origin's session -------------------------------------------------------------


class SessionOpen(NamedTuple):
    """Open the session of ``node`` and end its earlier one (R5). ``nonce`` identifies the process."""

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
    """The probed client did not answer: replace exactly that generation of the client (R17)."""

    client_id: str
    generation: Generation
    conn_id: bytes
    heartbeat_inbox: str
    protocol: int
    ping_interval_s: int
    ping_max_out: int
    valid_until_ns: int


class ClientKeep(NamedTuple):
    """The probed client answered: keep it and refuse the new registration (R17)."""

    client_id: str
    generation: Generation


ANY_GENERATION: Generation = (0, 0)
"""In a client's request: any generation that is registered when the request is applied."""


class ClientClose(NamedTuple):
    """Close a client; if ``generation`` is given, only that generation of it.

    A close request waits for a leader without limit. Meanwhile the requester may have given up, and the ID
    may have been registered again through another node. That new client must not be closed.
    """

    client_id: str
    generation: Generation = ANY_GENERATION


class ClientCheck(NamedTuple):
    """Check a client's ping: is its connection ID, which the node does not have, registered? (R26)"""

    conn_id: bytes


class Publish(NamedTuple):
    """Append a message to a channel.

    ``conn_id`` identifies the publisher if it is not empty, else ``client_id`` does. ``body`` holds the
    encoded MsgProto fields subject, reply and data. The core does not decode it.
    """

    client_id: str
    conn_id: bytes
    channel: str
    body: bytes


class SubscriptionOpen(NamedTuple):
    """Create a subscription or resume a durable. ``queue`` and ``durable`` are empty if not used.

    ``start`` is a ``StartPosition``. ``start_delta_ns`` counts back from the entry's timestamp.
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
    """A `SubscriptionOpen` that also replaces the online durable whose ack inbox is ``replaces``.

    Used if no node has a subscription of that durable's inbox, or if its client repeats the request because
    it got no reply. Since machine version 2.
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
    """Close a subscription: a durable goes offline, any other ends. ``inbox`` is the ack or message inbox."""

    client_id: str
    channel: str
    inbox: str


class Unsubscribe(NamedTuple):
    """End a subscription permanently. ``durable`` names an offline durable if ``inbox`` is empty.

    An unsubscribe by durable name is refused after ``valid_until_ns`` (R8): by then a client may have
    resumed the durable and want to keep it. An unsubscribe by inbox has no such limit, because an inbox
    never belongs to another subscription.
    """

    client_id: str
    channel: str
    inbox: str
    durable: str
    valid_until_ns: int = (1 << 63) - 1


class Acked(NamedTuple):
    """Sequences acknowledged on one ack inbox, in order of arrival."""

    channel: str
    ack_inbox: str
    seqs: Sequence[int]


class Configure(NamedTuple):
    """Replace the replicated settings (R23): the fields of ``state.Settings`` by name."""

    settings: dict[str, Any]
    only_if_unset: bool


# --- commands of operators (see ``administration``); each is refused after ``valid_until_ns`` ------


class SeekTo(IntEnum):
    """The position to which a cursor is moved."""

    END = 0
    """After the last message: only messages published from now on are sent."""
    SEQUENCE = 1
    """Before the given sequence, or before the next one that exists."""
    TIME = 2
    """Before the first message stored at or after the given Unix time (ns)."""
    FIRST = 3
    """Before the first message in the log."""
    LAST = 4
    """Before the last message."""


class ChannelDelete(NamedTuple):
    """Delete a channel with its log and its subscriptions; online ones only if ``force``."""

    channel: str
    force: bool
    valid_until_ns: int


class ChannelPurge(NamedTuple):
    """Drop a channel's messages up to and including ``up_to``; 0 means all."""

    channel: str
    up_to: int
    valid_until_ns: int


class SubscriptionRemove(NamedTuple):
    """End a subscription permanently; with ``group`` all subscriptions that share its cursor.

    ``force`` is required if any of them is online.
    """

    subscription: int
    group: bool
    force: bool
    valid_until_ns: int


class SubscriptionSeek(NamedTuple):
    """Move the cursor of a durable or a queue group to ``to`` (a ``SeekTo``) with its ``value``."""

    subscription: int
    to: int
    value: int
    valid_until_ns: int


class SubscriptionPause(NamedTuple):
    """Stop sending from this cursor, or continue if ``paused`` is false."""

    subscription: int
    paused: bool
    valid_until_ns: int


class ClientKick(NamedTuple):
    """Close a client as if it had requested it."""

    client_id: str
    valid_until_ns: int


# --- leader commands: only a ready leader proposes them ------------------------------------------


class Tick(NamedTuple):
    """Advance cluster time. The entry's time makes messages due, as that of any other entry does."""

    term: int


class NewTerm(NamedTuple):
    """First command of a term. AckWaits of messages sent by entries above ``known_commit`` start again
    (R10).
    """

    term: int
    known_commit: int


class ColdStart(NamedTuple):
    """No node kept running: every client is unreachable and every unacked message is due (R14)."""

    term: int


class ClientAway(NamedTuple):
    """No node has had a subscription of the client's heartbeat inbox since ``gone_since_ns`` (R15)."""

    term: int
    client_id: str
    generation: Generation
    gone_since_ns: int


class ClientBack(NamedTuple):
    """The client's heartbeat inbox has a subscriber again, or another connection subscribes to it (R15).

    Messages sent from ``gone_since_ns`` to before ``back_ns`` are due at once. ``back_ns`` is when all its
    inboxes had a subscriber again: messages sent from then on did reach it.
    """

    term: int
    client_id: str
    generation: Generation
    gone_since_ns: int
    back_ns: int


class SubscriptionAway(NamedTuple):
    """No node has a subscription of the subscription's inbox (R15).

    ``generation`` is when the subscription was opened or last resumed.
    """

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
"""As the epoch of a connection: any connection of that node."""

NOTHING_UNWRITTEN = 1 << 62
"""As an index up to which deliveries were written: no unwritten delivery is recorded."""


class Unwritten(NamedTuple):
    """Which deliveries to an ended connection may not have been written to its socket (R10, R15)."""

    written: int
    """Messages sent by entries up to this index were written, or dropped on purpose."""
    restarted_after: int
    restarted_to: int
    """Entries between these indexes were committed by a later leader than the one that stamped them. Their
    records have the time of that commit, not of the stamp (R10). So the node to which the client had
    moved may have skipped them, whatever the time in their records. Two zeros: there are no such entries."""


class ClientUnreachable(NamedTuple):
    """No node has had a subscription of the client's heartbeat inbox since ``gone_since_ns`` (R15)."""

    term: int
    client_id: str
    generation: Generation
    gone_since_ns: int
    written: int
    """See `Unwritten.written`. It refers to the last connection that subscribed to the inbox."""


class ClientReachable(NamedTuple):
    """The client's heartbeat inbox has a subscriber again, or another connection subscribes to it (R15).

    Due at once are messages sent by entries above ``written`` or sent from ``gone_since_ns`` on, but none
    sent from ``back_ns`` on. ``back_ns`` is when all its inboxes had a subscriber again: messages sent from
    then on did reach it.
    """

    term: int
    client_id: str
    generation: Generation
    gone_since_ns: int
    back_ns: int
    written: int
    restarted_after: int
    restarted_to: int
    """See `Unwritten` for these three fields."""
    node: str
    epoch: int
    """The connection that subscribes to the inbox now."""


class SubscriptionUnreachable(NamedTuple):
    """No node has a subscription of the subscription's inbox (R15). See `ClientUnreachable`."""

    term: int
    subscription: int
    generation: Generation
    gone_since_ns: int
    written: int


class SubscriptionReachable(NamedTuple):
    """The subscription's inbox has a subscriber again, or another connection subscribes to it (R15).

    See `ClientReachable`.
    """

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
    """A client missed a heartbeat (``unresponsive``), or answered one again."""

    term: int
    client_id: str
    generation: Generation
    unresponsive: bool


class HeartbeatMissed(NamedTuple):
    """The client has missed ``missed`` heartbeats in a row and is unresponsive. Since machine version 2.

    The count is part of the state, so the next leader continues it.
    """

    term: int
    client_id: str
    generation: Generation
    missed: int


class ClientRemove(NamedTuple):
    """Close the client as if it had requested it, because it missed too many heartbeats."""

    term: int
    client_id: str
    generation: Generation


class ChannelExpire(NamedTuple):
    """Delete the channel, whose ``max_inactivity`` has passed, if it is still idle."""

    term: int
    channel: str
    generation: Generation


class RaiseVersion(NamedTuple):
    """Raise the machine version: all members support ``version``, and its behaviour takes effect here (R24).

    ``release`` is the leader's release. It is named to nodes that must be upgraded to continue.
    """

    term: int
    version: int
    release: str


class InitCluster(NamedTuple):
    """Set the identity of a new cluster, drawn by its first leader. Ignored if it has one.

    ``cluster_tag`` is 22 random characters; ack inboxes of the cluster are recognised by it (R18).
    """

    term: int
    cluster_uuid: str
    cluster_tag: str


class RecoverCluster(NamedTuple):
    """Change the cluster's UUID from ``before``, when a cluster is recovered from one node's data.

    The tag stays, because ack inboxes of existing subscriptions contain it.
    """

    term: int
    cluster_uuid: str
    before: str


class SessionEnd(NamedTuple):
    """End this session of ``node``, which is no longer a member; a newer session stays open (R5)."""

    term: int
    node: str
    session: Generation


class PauseExpiry(NamedTuple):
    """Stop dropping messages for their age (``wait``), because the leader's wall clock is wrong; or start
    again (R13).
    """

    term: int
    wait: bool


class PauseRedelivery(NamedTuple):
    """Stop redeliveries (``paused``) or start them again (R9). Since machine version 2.

    They are stopped while acknowledgements that arrived without a leader are still to be proposed. New
    messages are sent meanwhile to groups without due messages.
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
