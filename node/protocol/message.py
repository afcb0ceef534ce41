"""Encode stored messages: the wire form of MsgProto, assembled from parts and never parsed.

A message is encoded once, when it is published, and read by every subscriber. The part set by its publisher
(subject, reply, data) is its *body*; sequence and timestamp are known only after the cluster has ordered it.
Protobuf allows fields in any order, and a later field replaces an earlier one, so the parts are
concatenated::

    1 sequence │ body: 2 subject, 3 reply, 4 data │ 5 timestamp │ 6 redelivered, 7 redeliveryCount
               └ made by the origin               │ by apply    └ only in a redelivery

Pure functions over bytes. The core uses them, so they need no protobuf runtime. ``streaming`` decodes
messages.

Source: the streaming protocol's MsgProto; protobuf encoding, "Last One Wins".
"""

from __future__ import annotations

from functools import lru_cache

_TIMESTAMPS_CACHED = 256
"""All messages of an entry have the same timestamp, and are usually delivered together."""


def varint(value: int) -> bytes:
    """Return the protobuf varint of ``value``, 0 to 2**64 - 1."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x200000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    low = bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F | 0x80))
    return low + varint(value >> 21)


def varint_size(value: int) -> int:
    """Return the length of ``varint(value)`` in bytes, 1 to 10."""
    return (value.bit_length() + 6) // 7 or 1


def message_body(subject: str, reply: str, data: bytes) -> bytes:
    """Return the part of a message that its publisher sets: MsgProto fields 2, 3 and 4."""
    name = subject.encode()
    if len(name) < 0x80 and len(data) < 0x80 and not reply and name and data:  # nearly all messages
        return b"\x12%c%b\x22%c%b" % (len(name), name, len(data), data)
    parts: list[bytes] = []
    for tag, value in ((b"\x12", name), (b"\x1a", reply.encode()), (b"\x22", data)):
        if value:
            parts += (tag, varint(len(value)), value)
    return b"".join(parts)


def message(seq: int, timestamp_ns: int, body: bytes) -> bytes:
    """Return a complete MsgProto for the first delivery.

    Args:
        seq: 0 to 2**64 - 1.
        timestamp_ns: Unix time, 0 to 2**63 - 1.
        body: from ``message_body``.
    """
    if not seq:
        return body + _timestamp(timestamp_ns)
    return b"\x08%b%b%b" % (varint(seq), body, _timestamp(timestamp_ns))


@lru_cache(maxsize=_TIMESTAMPS_CACHED)
def _timestamp(timestamp_ns: int) -> bytes:
    return b"\x28" + varint(timestamp_ns) if timestamp_ns else b""


def message_size(seq: int, timestamp_ns: int, body_size: int) -> int:
    """Return ``len(message(seq, timestamp_ns, body))`` for a body of ``body_size`` bytes."""
    size = body_size
    if seq:
        size += 1 + (seq.bit_length() + 6) // 7
    if timestamp_ns:
        size += 1 + (timestamp_ns.bit_length() + 6) // 7
    return size


def redelivered(message: bytes, count: int) -> bytes:
    """Return ``message`` marked as redelivery number ``count``, 1 to 2**32 - 1.

    An already marked message gets the new count: the last field wins.
    """
    return b"%b\x30\x01\x38%b" % (message, varint(count))
