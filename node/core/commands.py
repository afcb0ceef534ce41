"""What may enter the log: commands, and their versioned bytes.

An entry is one batch (architecture, "What is replicated")::

    [machine version, cluster time, timestamp, [keeper command, …],
     [[session or nil, first serial, lowest serial waited for, bin], …]]

where ``bin`` is an origin's batch as it came: itself a msgpack array of commands. A command is a
msgpack array ``[type, field, …]`` in the order of its class's fields. The leader puts the ``bin``
of other nodes into entries undecoded; only ``apply`` decodes, alike on every node.

Commands of an origin belong to its session and have consecutive serials from ``first serial`` on.
``SessionOpen`` comes alone, with a nil session. Keeper commands have no session: they carry the
term of the leader that proposed them and the generation of what they mean, and ``apply`` ignores
them when either differs (rule R16).

Commands are plain tuples of their fields once decoded into these NamedTuples: a busy node makes
tens of thousands a second, and a NamedTuple costs a third of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias, cast, get_origin, get_type_hints

import msgpack

from node.errors import RemoteProtocolError
from node.units import Generation

MACHINE_VERSION = 1
"""The newest machine version this release knows (rule R24).

A command that is added to a version which was released makes the next one. Version 1 is still growing:
no release has written it yet.
"""

ENTRY_SIZE_MAX = 8 * 1024 * 1024 + 64 * 1024
"""Bytes. The largest ``max_payload`` plus room for one command's other fields."""


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


class ClientClose(NamedTuple):
    client_id: str


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


class SubscriptionClose(NamedTuple):
    """Close: a durable goes offline, anything else ends. ``inbox`` is the ack or message inbox."""

    client_id: str
    channel: str
    inbox: str


class Unsubscribe(NamedTuple):
    """End a subscription for good. ``durable`` names an offline one when ``inbox`` is empty."""

    client_id: str
    channel: str
    inbox: str
    durable: str


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


class TakeOver(NamedTuple):
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


class ClientSilent(NamedTuple):
    """A heartbeat was missed (``silent``), or answered again."""

    term: int
    client_id: str
    generation: Generation
    silent: bool


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


class Found(NamedTuple):
    """Give a new cluster its identity; ignored once it has one. Drawn by its first leader.

    ``cluster_tag``: 22 random characters under which acks are recognised (R18).
    """

    term: int
    founding_id: str
    cluster_tag: str


class Refound(NamedTuple):
    """What was the cluster ``before`` goes on as another: recovered from one node's data.

    The tag stays: subscriptions that are kept have their ack inboxes under it.
    """

    term: int
    founding_id: str
    before: str


class SessionEnd(NamedTuple):
    """``node`` is no member any more: that session of it ends, and no other (R5)."""

    term: int
    node: str
    session: Generation


class AgesWait(NamedTuple):
    """No message is let go for its age, for the leader's wall clock is wrong; or they are again (R13)."""

    term: int
    wait: bool


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
    | SubscriptionClose
    | Unsubscribe
    | Acked
    | Configure
    | AdminCommand
)
KeeperCommand: TypeAlias = (
    Tick
    | TakeOver
    | ColdStart
    | ClientAway
    | ClientBack
    | SubscriptionAway
    | SubscriptionBack
    | ClientSilent
    | ClientRemove
    | ChannelExpire
    | RaiseVersion
    | Found
    | Refound
    | SessionEnd
    | AgesWait
)
Command: TypeAlias = SessionOpen | OriginCommand | KeeperCommand

TYPES: dict[int, type[Command]] = {
    1: SessionOpen,
    2: ClientOpen,
    3: ClientReplace,
    4: ClientKeep,
    5: ClientClose,
    6: ClientCheck,
    7: Publish,
    8: SubscriptionOpen,
    9: SubscriptionClose,
    10: Unsubscribe,
    11: Acked,
    12: Configure,
    13: ChannelDelete,
    14: ChannelPurge,
    15: SubscriptionRemove,
    16: SubscriptionSeek,
    17: SubscriptionPause,
    18: ClientKick,
    32: Tick,
    33: TakeOver,
    34: ColdStart,
    35: ClientAway,
    36: ClientBack,
    37: SubscriptionAway,
    38: SubscriptionBack,
    39: ClientSilent,
    40: ClientRemove,
    41: ChannelExpire,
    42: RaiseVersion,
    43: Found,
    44: Refound,
    45: SessionEnd,
    46: AgesWait,
}
"""Numbers in the log; one is never used again for something else."""

SINCE: dict[type[Command], int] = {}
"""The machine version that brought a command; those not here are of the first.

Below that version nobody proposes it, and ``apply`` takes it for one it doesn't know: a node of an older
release, which really doesn't, must decide alike (R24).
"""

NUMBER_OF = {command: number for number, command in TYPES.items()}

FIRST_KEEPER_TYPE = 32


def _signature(command: type[Command]) -> tuple[type, ...]:
    """The types of a command's number and fields as msgpack gives them: arrays are tuples."""
    types = [get_origin(hint) or hint for hint in get_type_hints(command).values()]
    return (int, *(tuple if kind is Sequence else kind for kind in types))


SIGNATURES: dict[int, tuple[type, ...]] = {number: _signature(command) for number, command in TYPES.items()}
"""What ``tuple(map(type, fields))`` must be; so a command is checked at the cost of one comparison."""


class Batch(NamedTuple):
    """An origin's commands inside an entry; ``session`` is None for a ``SessionOpen``."""

    session: tuple[int, int] | None
    first_serial: int
    lowest_waited: int
    commands: bytes


class Entry(NamedTuple):
    """One committed entry, decoded down to its batches."""

    version: int
    time_ns: int
    timestamp_ns: int
    keeper: list[tuple[Any, ...]]
    batches: list[Batch]


def encode_commands(commands: list[Command]) -> bytes:
    """An origin's batch: what becomes the ``bin`` of an entry."""
    numbers = NUMBER_OF
    packed: bytes = msgpack.packb([(numbers[type(command)], *command) for command in commands])
    return packed


def encode_entry(entry: Entry) -> bytes:
    packed: bytes = msgpack.packb(entry)
    return packed


def encode_keeper(command: KeeperCommand) -> tuple[Any, ...]:
    """A keeper command as it stands in ``Entry.keeper``."""
    return (NUMBER_OF[type(command)], *command)


def decode_entry(data: bytes) -> Entry:
    """The entry in ``data``.

    Raises:
        RemoteProtocolError: not an entry. Every node refuses it alike (R22).
    """
    try:
        version, time_ns, timestamp_ns, keeper, batches = _unpack(data)
        entry = Entry(version, time_ns, timestamp_ns, list(keeper), [Batch(*batch) for batch in batches])
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"not an entry: {error}") from error
    if not _well_formed(entry):
        raise RemoteProtocolError("not an entry: a field of another type, or out of range")
    return entry


def _well_formed(entry: Entry) -> bool:
    stamps = (entry.version, entry.time_ns, entry.timestamp_ns)
    return all(type(stamp) is int and 0 <= stamp < 1 << 63 for stamp in stamps) and all(
        type(batch.session) in (tuple, type(None))
        and type(batch.first_serial) is int
        and type(batch.lowest_waited) is int
        and type(batch.commands) is bytes
        for batch in entry.batches
    )


def _unpack(data: bytes) -> Any:
    # Tuples throughout: cheaper than lists, and generations compare equal to the state's own.
    return msgpack.unpackb(data, use_list=False)


def decode_commands(data: bytes) -> list[tuple[Any, ...]]:
    """The commands in a batch, each still a tuple ``(type, field, …)``; see ``decode_command``.

    Raises:
        RemoteProtocolError: not a batch of commands.
    """
    try:
        commands = _unpack(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"not a batch of commands: {error}") from error
    if type(commands) is not tuple or not set(map(type, commands)) <= {tuple}:
        raise RemoteProtocolError("not a batch of commands: not an array of arrays")
    return list(commands)


def count_commands(data: bytes) -> int:
    """How many commands a batch claims to hold, for one whose commands can't be decoded; at least 1.

    Serials must go on behind it, alike on every node (R22).
    """
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(data), 1))
    unpacker.feed(data)
    try:
        count = int(unpacker.read_array_header())
    except (ValueError, msgpack.UnpackException):
        return 1
    return max(1, min(count, len(data)))


def decode_command(fields: tuple[Any, ...]) -> Command:
    """The command in ``(type, field, …)``.

    Raises:
        RemoteProtocolError: an unknown type, or not its fields.
    """
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        raise RemoteProtocolError("not a command")
    number = fields[0]
    if tuple(map(type, fields)) != SIGNATURES.get(number):
        raise RemoteProtocolError(f"not a command of a known type with its fields: type {number}")
    return TYPES[number](*fields[1:])


def decode_origin(fields: tuple[Any, ...]) -> OriginCommand:
    """The command in ``(type, field, …)``, one that an origin's session may carry.

    Raises:
        RemoteProtocolError: it is not.
    """
    command = decode_command(fields)
    if fields[0] >= FIRST_KEEPER_TYPE or isinstance(command, SessionOpen):
        raise RemoteProtocolError(f"not a command of a session: type {fields[0]}")
    if isinstance(command, Acked) and not all(type(seq) is int for seq in command.seqs):
        raise RemoteProtocolError("not sequences")
    return cast(OriginCommand, command)


def decode_keeper(fields: tuple[Any, ...]) -> KeeperCommand:
    """The command in ``(type, field, …)``, one that the keeper may propose.

    Raises:
        RemoteProtocolError: it is not.
    """
    command = decode_command(fields)
    if fields[0] < FIRST_KEEPER_TYPE:
        raise RemoteProtocolError(f"not a keeper's command: type {fields[0]}")
    return cast(KeeperCommand, command)


def decode_session_open(data: bytes) -> SessionOpen:
    """The only command of a batch without a session.

    Raises:
        RemoteProtocolError: it is another, or not alone.
    """
    commands = decode_commands(data)
    if len(commands) == 1:
        command = decode_command(commands[0])
        if isinstance(command, SessionOpen):
            return command
    raise RemoteProtocolError("a batch without a session must open one")
