"""The bytes of the journal: records, and the header in front of each segment. No I/O.

A record is::

    marker 4 | crc32c 4 | length 4 | kind 1 | delta 4 | seq 8 | index 8 | term 8 | payload

all little-endian. The checksum covers everything behind it and is seeded with the journal's id and
the segment's number, so a record found in another segment or another journal is no record.

Two numbers make damage tell its story. ``seq`` counts the records of a journal from its first day,
without gaps. ``seq - delta`` is the first record of the same flush, and flushes follow each other:
when a record was written, *everything before the first record of its flush was already synced*. So
if a record is bad and a later one is good, the later one knows: had the bad one been synced, it is
damage; were both in one flush, a power cut tore that flush, and nobody was promised anything.

Of the last flush no later record tells. So once it is synced a *seal* is written behind it, without
a sync of its own: a record that says nothing, is no part of the log, and lies where the next flush
begins, which overwrites it. It may be missing after a power cut, as long as the kernel hadn't written
it yet; where it is, the flush before it was whole.

The header is written and synced before its segment gets its name, so it is never torn. It carries
what must outlive the segments before it: term, vote, and the membership in force.

An entry that changes the members is a kind of its own, so that recovery knows without decrypting
anything which membership is in force where.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias, cast

import msgpack
from google_crc32c import extend  # 6 times faster than zlib.crc32, and CRC32C finds more

from node.units import Index, Term

FORMAT = 2
"""What is written. Format 1 knew no changes of members; it is read, and goes as segments are dropped."""
_FORMATS = (1, 2)
RECORD_BYTES = 41
"""What a record takes in front of its payload."""

HEADER_BYTES = 4096
"""A header takes this much, or a multiple: no later write shares a disk block with it."""

_LEAD = struct.Struct("<4sI")
_BODY = struct.Struct("<IBIQQQ")
_HEADER = struct.Struct("<8sHII")
_MAGIC = b"STANJRNL"
_CAPACITY = "capacity"
assert _LEAD.size + _BODY.size == RECORD_BYTES


class Kind(IntEnum):
    """What a record says."""

    ENTRY = 1
    """Entry ``index`` of ``term`` is appended; the payload is the entry's."""
    TRUNCATE = 2
    """Entry ``index`` and all later ones are removed. Payload: the membership that is in force again, if
    one of those was a membership and the log knows an earlier one."""
    VOTE = 3
    """The node is in ``term``; ``index`` is 1 if it voted, for the node named by the payload."""
    BASE = 5
    """The log starts over behind a snapshot at ``index``, ``term``. Payload: term of the entry before, and
    the membership that the snapshot was taken with, if it is known."""
    ENCRYPTED = 6
    """As ``ENTRY``, and the payload is encrypted. A journal has only the one or only the other."""
    MEMBERSHIP = 7
    """As ``ENTRY``, and the payload is an entry type byte and a membership. Never encrypted."""
    SEGMENT_END = 8
    """Nothing: what is before it was synced. ``seq`` is the next record's, which takes its place."""


Placed: TypeAlias = tuple[int, bytes]
"""An encoded membership, and the index of the entry that brought it, or of a snapshot taken with it."""


@dataclass(slots=True)
class Record:
    """A record as it was found; not frozen, for millions are made at a start."""

    kind: int
    seq: int
    flush_first: int
    """The first record of the flush that wrote this one."""
    index: Index
    term: Term
    payload: bytes


class Frame:
    """Encodes and decodes the records of one segment."""

    __slots__ = ("_seed", "marker")

    def __init__(self, journal_id: bytes, number: int) -> None:
        self._seed = extend(0, journal_id + number.to_bytes(8, "little"))
        # No zero in it: preallocated space never looks like a record. Different in each segment, so
        # that nobody can publish a payload full of markers to slow down the search after a crash.
        noise = extend(self._seed, b"marker").to_bytes(4, "little")
        self.marker = bytes(byte | 1 for byte in noise)

    def encode(self, kind: int, seq: int, delta: int, index: int, term: int, payload: bytes) -> bytes:
        """The bytes in front of the payload."""
        body = _BODY.pack(len(payload), kind, delta, seq, index, term)
        crc: int = extend(extend(self._seed, body), payload)
        return self.marker + crc.to_bytes(4, "little") + body

    def encrypt(self, seq: int) -> bytes:
        """What says that all before record ``seq``, which is yet to come, was synced."""
        return self.encode(Kind.SEGMENT_END, seq, 0, 0, 0, b"")

    def length(self, data: bytes, at: int = 0) -> int | None:
        """How many bytes the record at ``at`` claims, payload included; None if none starts there."""
        if not data.startswith(self.marker, at):
            return None
        return RECORD_BYTES + int.from_bytes(data[at + 8 : at + 12], "little")

    def decode(self, data: bytes, at: int = 0) -> Record | None:
        """The record at ``at``, or None if it is not whole there."""
        if at + RECORD_BYTES > len(data):
            return None
        marker, crc = _LEAD.unpack_from(data, at)
        length, kind, delta, seq, index, term = _BODY.unpack_from(data, at + _LEAD.size)
        start = at + RECORD_BYTES
        end = start + length
        if marker != self.marker or end > len(data):
            return None
        if extend(self._seed, data[at + _LEAD.size : end]) != crc:
            return None
        return Record(kind, seq, seq - delta, Index(index), Term(term), data[start:end])


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in front of a segment: whose it is, and what was true when it began."""

    journal_id: bytes
    number: int
    """1, 2, 3 …, without gaps but for old segments that were dropped."""
    first_seq: int
    """The number of the segment's first record."""
    next_index: Index
    """The index of the next entry to be appended."""
    term: Term
    voted_for: str | None
    membership: Placed | None
    """What is in force when the segment begins, and since which entry; None: nothing the log says."""
    capacity: int | None = None
    """Bytes that the file was made with; None: an earlier release made it."""

    @property
    def size(self) -> int:
        """Bytes that the header takes, the same whatever ``capacity`` is."""
        return len(self.encode())

    def encode(self) -> bytes:
        """The header's bytes. An earlier release reads the fields, and not what follows them."""
        fields = (
            self.journal_id,
            self.number,
            self.first_seq,
            self.next_index,
            self.term,
            self.voted_for,
            self.membership,
        )
        capacity = (self.capacity or 0).to_bytes(8, "little")
        body = cast(bytes, msgpack.packb(fields)) + cast(bytes, msgpack.packb({_CAPACITY: capacity}))
        size = -(-(_HEADER.size + len(body)) // HEADER_BYTES) * HEADER_BYTES
        body = body.ljust(size - _HEADER.size, b"\0")
        lead = _HEADER.pack(_MAGIC, FORMAT, size, 0)
        return _HEADER.pack(_MAGIC, FORMAT, size, extend(extend(0, lead), body)) + body


class HeaderError(Exception):
    """Bytes that are no header of ours; the text says why. For `node.raft.segments` only."""


def header_bytes(lead: bytes) -> int:
    """How many bytes the header takes, from the first ones of a segment.

    Raises:
        HeaderError: it is no segment, or one of another format.
    """
    if len(lead) < _HEADER.size:
        raise HeaderError("the segment has no header")
    magic, version, size, _crc = _HEADER.unpack_from(lead)
    if magic != _MAGIC:
        raise HeaderError("this is no segment of a journal")
    if version not in _FORMATS:
        raise HeaderError(
            f"the segment has format {version}, this program reads format {FORMAT}: use the release that "
            "wrote it, or replace the node (stanchion cluster replace)"
        )
    if size == 0 or size % HEADER_BYTES:
        raise HeaderError("the segment's header is damaged")
    return int(size)


def decode_header(data: bytes) -> Header:
    """Decode a header from exactly its bytes.

    Raises:
        HeaderError: a checksum that does not fit.
    """
    magic, version, size, crc = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    lead = _HEADER.pack(magic, version, size, 0)
    if len(data) != size or extend(extend(0, lead), body) != crc:
        raise HeaderError("the segment's header is damaged")
    unpacker = msgpack.Unpacker()
    unpacker.feed(body)
    journal_id, number, first_seq, next_index, term, voted_for, membership = unpacker.unpack()
    more = unpacker.unpack() if unpacker.tell() < len(body) else 0  # the zeros behind are the number 0
    capacity = int.from_bytes(more[_CAPACITY], "little") if isinstance(more, dict) else 0
    return Header(
        journal_id,
        number,
        first_seq,
        Index(next_index),
        Term(term),
        voted_for,
        None if version == 1 or membership is None else (int(membership[0]), bytes(membership[1])),
        capacity or None,
    )


def pack_placed(membership: Placed | None) -> bytes:
    """The payload of a ``TRUNCATE``."""
    return b"" if membership is None else cast(bytes, msgpack.packb(membership))


def unpack_placed(payload: bytes) -> Placed | None:
    if not payload:
        return None
    index, membership = msgpack.unpackb(payload)
    return int(index), bytes(membership)


def pack_base(previous_term: int, membership: bytes | None) -> bytes:
    """The payload of a ``BASE``."""
    return previous_term.to_bytes(8, "little") + (membership or b"")


def unpack_base(payload: bytes) -> tuple[Term, bytes | None]:
    """The term of the entry before the base, and the membership at it, if it is known."""
    return Term(int.from_bytes(payload[:8], "little")), payload[8:] or None
