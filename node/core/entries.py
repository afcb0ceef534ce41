"""The encoding of entries and of their commands: in the log, on disk and between nodes.

An entry is one batch (architecture, "What is replicated")::

    [machine version, cluster time, timestamp, [leader command, …],
     [[session or nil, first serial, lowest serial waited for, bin], …]]

where ``bin`` is an origin's batch, unchanged: itself a msgpack array of commands. A command is a msgpack
array ``[type, field, …]`` in the order of its class's fields. The leader does not decode the ``bin`` of
other nodes; only ``apply`` does, with the same result on every node.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, cast, get_origin, get_type_hints

import msgpack

from node.errors import RemoteProtocolError

from .commands import (
    Acked,
    ChannelDelete,
    ChannelExpire,
    ChannelPurge,
    ClientAway,
    ClientBack,
    ClientCheck,
    ClientClose,
    ClientKeep,
    ClientKick,
    ClientOpen,
    ClientReachable,
    ClientRemove,
    ClientReplace,
    ClientUnreachable,
    ClientUnresponsive,
    ColdStart,
    Command,
    Configure,
    HeartbeatMissed,
    InitCluster,
    LeaderCommand,
    NewTerm,
    OriginCommand,
    PauseExpiry,
    PauseRedelivery,
    Publish,
    RaiseVersion,
    RecoverCluster,
    SessionEnd,
    SessionOpen,
    SubscriptionAway,
    SubscriptionBack,
    SubscriptionClose,
    SubscriptionOpen,
    SubscriptionPause,
    SubscriptionReachable,
    SubscriptionRemove,
    SubscriptionReplace,
    SubscriptionSeek,
    SubscriptionUnreachable,
    Tick,
    Unsubscribe,
)

BATCH_SIZE_MAX = 8 * 1024 * 1024 + 64 * 1024
"""Maximum bytes of an origin's batch: the largest ``max_payload``, plus one command's other fields."""

BATCH_COMMANDS_MAX = 16_384
"""Maximum commands in an origin's batch: as many as an origin may have unapplied (R21)."""

ENTRY_SIZE_MAX = 16 * 1024 * 1024 - 64 * 1024
"""Maximum bytes of an entry: a frame between nodes (16 MiB) less the frame's other contents. A leader
proposes no larger entry, because neither it nor the next leader could send it to a follower."""


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
    19: SubscriptionReplace,
    32: Tick,
    33: NewTerm,
    34: ColdStart,
    35: ClientAway,
    36: ClientBack,
    37: SubscriptionAway,
    38: SubscriptionBack,
    39: ClientUnresponsive,
    40: ClientRemove,
    41: ChannelExpire,
    42: RaiseVersion,
    43: InitCluster,
    44: RecoverCluster,
    45: SessionEnd,
    46: PauseExpiry,
    47: PauseRedelivery,
    48: HeartbeatMissed,
    50: ClientUnreachable,
    51: ClientReachable,
    52: SubscriptionUnreachable,
    53: SubscriptionReachable,
}
"""Type numbers in the log. A number is never reused."""

NUMBER_OF = {command: number for number, command in TYPES.items()}

FIRST_LEADER_TYPE = 32


def _signature(command: type[Command]) -> tuple[type, ...]:
    """Return the types of a command's number and fields as msgpack decodes them: arrays are tuples."""
    types = [get_origin(hint) or hint for hint in get_type_hints(command).values()]
    return (int, *(tuple if kind is Sequence else kind for kind in types))


SIGNATURES: dict[int, tuple[type, ...]] = {number: _signature(command) for number, command in TYPES.items()}
"""Required value of ``tuple(map(type, fields))``, so that one comparison checks a command."""


class Batch(NamedTuple):
    """An origin's commands in an entry; ``session`` is None for a ``SessionOpen``."""

    session: tuple[int, int] | None
    first_serial: int
    lowest_waited: int
    commands: bytes


class Entry(NamedTuple):
    """One committed entry, decoded down to its batches."""

    version: int
    time_ns: int
    timestamp_ns: int
    leader_commands: list[tuple[Any, ...]]
    batches: list[Batch]


def encode_commands(commands: list[Command]) -> bytes:
    """Return an origin's batch, the ``bin`` of an entry."""
    numbers = NUMBER_OF
    packed: bytes = msgpack.packb([(numbers[type(command)], *command) for command in commands])
    return packed


def encoded_size(command: Command) -> int:
    """Return the exact number of bytes that ``command`` takes in a batch."""
    return len(msgpack.packb((NUMBER_OF[type(command)], *command)))


def encode_entry(entry: Entry) -> bytes:
    packed: bytes = msgpack.packb(entry)
    return packed


def encode_leader_command(command: LeaderCommand) -> tuple[Any, ...]:
    """Return a leader command in the form used in ``Entry.leader_commands``."""
    return (NUMBER_OF[type(command)], *command)


def decode_entry(data: bytes) -> Entry:
    """Decode an entry down to its batches.

    Raises:
        RemoteProtocolError: ``data`` is not an entry. Every node refuses it in the same way (R22).
    """
    try:
        version, time_ns, timestamp_ns, leader_commands, batches = _unpack(data)
        entry = Entry(
            version, time_ns, timestamp_ns, list(leader_commands), [Batch(*batch) for batch in batches]
        )
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
    # Tuples everywhere: they are cheaper than lists, and generations compare equal to those in the state.
    return msgpack.unpackb(data, use_list=False)


def decode_commands(data: bytes) -> list[tuple[Any, ...]]:
    """Decode a batch into commands, each still a tuple ``(type, field, …)``; see ``decode_command``.

    Raises:
        RemoteProtocolError: ``data`` is not a batch of commands.
    """
    try:
        commands = _unpack(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"not a batch of commands: {error}") from error
    if type(commands) is not tuple or not set(map(type, commands)) <= {tuple}:
        raise RemoteProtocolError("not a batch of commands: not an array of arrays")
    return list(commands)


def count_commands(data: bytes) -> int:
    """Return how many commands an undecodable batch claims to hold; at least 1.

    Later serials must follow them, in the same way on every node (R22).
    """
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(data), 1))
    unpacker.feed(data)
    try:
        count = int(unpacker.read_array_header())
    except (ValueError, msgpack.UnpackException):
        return 1
    return max(1, min(count, len(data)))


def claimed_count(data: bytes) -> int | None:
    """Return how many commands the head of a batch claims; None if it is not the head of a batch.

    Examines at most five bytes. If the result is between 1 and the batch's size in bytes, ``apply`` gives
    the batch exactly that many serials, whether it can decode the commands or not (see ``count_commands``).
    """
    head = data[0] if data else 0
    if head & 0xF0 == _FIXARRAY:
        return head & 0x0F
    width = {_ARRAY16: 2, _ARRAY32: 4}.get(head, 0)
    if not width or len(data) <= width:
        return None
    return int.from_bytes(data[1 : 1 + width], "big")


def refused_batch(count: int) -> bytes:
    """Return a batch of ``count`` commands that can't be proposed: each is refused when applied."""
    return struct.pack(">BI", _ARRAY32, count) + b"\xc0" * count


_FIXARRAY, _ARRAY16, _ARRAY32 = 0x90, 0xDC, 0xDD
"""First bytes of msgpack arrays."""


def decode_command(fields: tuple[Any, ...]) -> Command:
    """Decode ``(type, field, …)`` into a command.

    Raises:
        RemoteProtocolError: the type is unknown, or the fields are not those of the type.
    """
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        raise RemoteProtocolError("not a command")
    number = fields[0]
    if tuple(map(type, fields)) != SIGNATURES.get(number):
        raise RemoteProtocolError(f"not a command of a known type with its fields: type {number}")
    return TYPES[number](*fields[1:])


def decode_origin(fields: tuple[Any, ...]) -> OriginCommand:
    """Decode ``(type, field, …)`` into a command that an origin's session may contain.

    Raises:
        RemoteProtocolError: it is not such a command.
    """
    command = decode_command(fields)
    if fields[0] >= FIRST_LEADER_TYPE or isinstance(command, SessionOpen):
        raise RemoteProtocolError(f"not a command of a session: type {fields[0]}")
    if isinstance(command, Acked) and not all(type(seq) is int for seq in command.seqs):
        raise RemoteProtocolError("not sequences")
    return cast(OriginCommand, command)


def decode_leader_command(fields: tuple[Any, ...]) -> LeaderCommand:
    """Decode ``(type, field, …)`` into a leader command.

    Raises:
        RemoteProtocolError: it is not a leader command.
    """
    command = decode_command(fields)
    if fields[0] < FIRST_LEADER_TYPE:
        raise RemoteProtocolError(f"not a leader command: type {fields[0]}")
    return cast(LeaderCommand, command)


def decode_session_open(data: bytes) -> SessionOpen:
    """Decode a batch without a session into its only command.

    Raises:
        RemoteProtocolError: the batch has other or further commands.
    """
    commands = decode_commands(data)
    if len(commands) == 1:
        command = decode_command(commands[0])
        if isinstance(command, SessionOpen):
            return command
    raise RemoteProtocolError("a batch without a session must open one")
