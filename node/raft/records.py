"""The bytes of the journal: records, and the header of each segment. No I/O.

A record is::

    marker 4 | crc32c 4 | length 4 | kind 1 | delta 4 | seq 8 | index 8 | term 8 | payload

all little-endian. The checksum covers everything after it and is seeded with the journal's id and the
segment's number, so a record of another segment or journal is invalid.

Two numbers distinguish damage from a torn write. ``seq`` counts the records of a journal from its creation,
without gaps. ``seq - delta`` is the first record of the same flush, and flushes are sequential: when a record
was written, *everything before the first record of its flush was already synced*. If a record is bad and a
later one is good, the later one decides. If the bad record precedes the later record's flush, it was synced,
and is damaged. If both belong to the same flush, a power failure tore that flush, and no message that
depended on it was sent.

No later record covers the last flush. So after its sync a ``SEGMENT_END`` record is written behind it,
without a sync of its own. It carries no data, is not part of the log, and is overwritten by the next flush.
After a power failure it may be missing, if the kernel had not written it yet; if it is present, the flush
before it was complete.

The header is written and synced before its segment gets its name, so it is never torn. It contains what must
survive the segments before it: term, vote, and the membership in force.

An entry that changes the membership has its own record kind, so that recovery knows the memberships without
decrypting anything.
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
"""The format that is written. Format 1 had no membership changes; it is still read, and disappears as
segments are dropped."""
_FORMATS = (1, 2)
RECORD_BYTES = 41
"""Bytes of a record before its payload."""

HEADER_BYTES = 4096
"""The size of a header is a multiple of this, so that no later write shares a disk block with it."""

_LEAD = struct.Struct("<4sI")
_BODY = struct.Struct("<IBIQQQ")
_HEADER = struct.Struct("<8sHII")
_MAGIC = b"STANJRNL"
_CAPACITY = "capacity"
assert _LEAD.size + _BODY.size == RECORD_BYTES


class Kind(IntEnum):
    """The kind of a record."""

    ENTRY = 1
    """Entry ``index`` of ``term`` was appended; the payload is the entry's."""
    TRUNCATE = 2
    """Entry ``index`` and all later ones were removed. Payload: the membership in force again, if a
    membership was removed and the log contains an earlier one."""
    VOTE = 3
    """The node is in ``term``; ``index`` is 1 if it voted, for the node named by the payload."""
    BASE = 5
    """The log restarts after a snapshot at ``index`` and ``term``. Payload: the term of the entry before it,
    and the membership of the snapshot, if known."""
    ENCRYPTED = 6
    """As ``ENTRY``, with an encrypted payload. A journal contains only one of the two kinds."""
    MEMBERSHIP = 7
    """As ``ENTRY``; the payload is an entry type byte and a membership. Never encrypted."""
    SEGMENT_END = 8
    """Everything before this record was synced. ``seq`` is that of the next record, which overwrites it."""


Placed: TypeAlias = tuple[int, bytes]
"""An index and an encoded membership: that of its entry, or of a snapshot that contains it."""


@dataclass(slots=True)
class Record:
    """A decoded record. Not frozen, because millions are created at a start."""

    kind: int
    seq: int
    flush_first: int
    """The ``seq`` of the first record of the same flush."""
    index: Index
    term: Term
    payload: bytes


class Frame:
    """Encodes and decodes the records of one segment."""

    __slots__ = ("_seed", "marker")

    def __init__(self, journal_id: bytes, number: int) -> None:
        self._seed = extend(0, journal_id + number.to_bytes(8, "little"))
        # No zero byte, so preallocated space never looks like a record. Different in each segment, so that a
        # client can't publish a payload full of markers to slow down recovery.
        noise = extend(self._seed, b"marker").to_bytes(4, "little")
        self.marker = bytes(byte | 1 for byte in noise)

    def encode(self, kind: int, seq: int, delta: int, index: int, term: int, payload: bytes) -> bytes:
        """Return the bytes of a record before its payload."""
        body = _BODY.pack(len(payload), kind, delta, seq, index, term)
        crc: int = extend(extend(self._seed, body), payload)
        return self.marker + crc.to_bytes(4, "little") + body

    def encode_segment_end(self, seq: int) -> bytes:
        """Return the record that marks everything before record ``seq``, the next one, as synced."""
        return self.encode(Kind.SEGMENT_END, seq, 0, 0, 0, b"")

    def length(self, data: bytes, at: int = 0) -> int | None:
        """Return the length of the record at ``at``, payload included; None if no record starts there."""
        if not data.startswith(self.marker, at):
            return None
        return RECORD_BYTES + int.from_bytes(data[at + 8 : at + 12], "little")

    def decode(self, data: bytes, at: int = 0) -> Record | None:
        """Return the record at ``at``; None if it is incomplete or invalid."""
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
    """The header of a segment: its identity, and the state when it began."""

    journal_id: bytes
    number: int
    """1, 2, 3 …, without gaps; old segments are dropped."""
    first_seq: int
    """The number of the segment's first record."""
    next_index: Index
    """The index of the next entry to be appended."""
    term: Term
    voted_for: str | None
    membership: Placed | None
    """The membership in force when the segment begins, with its index; None if the log contains none."""
    capacity: int | None = None
    """Size of the file when it was created; None if an earlier release created it."""

    @property
    def size(self) -> int:
        """Size of the header in bytes, independent of ``capacity``."""
        return len(self.encode())

    def encode(self) -> bytes:
        """Encode the header. An earlier release reads the fields and ignores what follows them."""
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
    """The bytes are no valid header; the text says why. For `node.raft.segments` only."""


def header_bytes(lead: bytes) -> int:
    """Return the size of the header, from the first bytes of a segment.

    Raises:
        HeaderError: the file is no segment, or has an unsupported format.
    """
    if len(lead) < _HEADER.size:
        raise HeaderError("the segment has no header")
    magic, version, size, _crc = _HEADER.unpack_from(lead)
    if magic != _MAGIC:
        raise HeaderError("the file is not a segment of a journal")
    if version not in _FORMATS:
        raise HeaderError(
            f"the segment has format {version}, this release reads up to format {FORMAT}: use the release "
            "that wrote it, or replace the node (stanchion cluster replace)"
        )
    if size == 0 or size % HEADER_BYTES:
        raise HeaderError("the segment's header is damaged")
    return int(size)


def decode_header(data: bytes) -> Header:
    """Decode a header from exactly its bytes.

    Raises:
        HeaderError: the checksum is wrong.
    """
    magic, version, size, crc = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    lead = _HEADER.pack(magic, version, size, 0)
    if len(data) != size or extend(extend(0, lead), body) != crc:
        raise HeaderError("the segment's header is damaged")
    unpacker = msgpack.Unpacker()
    unpacker.feed(body)
    journal_id, number, first_seq, next_index, term, voted_for, membership = unpacker.unpack()
    more = unpacker.unpack() if unpacker.tell() < len(body) else 0  # the padding zeros decode as the number 0
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
    """Return the payload of a ``TRUNCATE`` record."""
    return b"" if membership is None else cast(bytes, msgpack.packb(membership))


def unpack_placed(payload: bytes) -> Placed | None:
    if not payload:
        return None
    index, membership = msgpack.unpackb(payload)
    return int(index), bytes(membership)


def pack_base(previous_term: int, membership: bytes | None) -> bytes:
    """Return the payload of a ``BASE`` record."""
    return previous_term.to_bytes(8, "little") + (membership or b"")


def unpack_base(payload: bytes) -> tuple[Term, bytes | None]:
    """Return the term of the entry before the base, and the membership of the base, if known."""
    return Term(int.from_bytes(payload[:8], "little")), payload[8:] or None
