"""The files of the journal: names, creation, reading, damage.

A segment is created under a temporary name. Space is allocated, the header is written and synced, the file is
renamed, and the directory is synced. Only then is the first record written. So a file with a segment's name
has a complete header and belongs to the journal, whatever happened later. A temporary file is ignored.

The header states the size with which the file was created, and no operation makes it smaller: a file that is
shorter has lost its end. Without that, a last segment that was cut at the end of a record would look like one
that was not written further. Segments of an earlier release do not state it. So the journal writes no more to
such a segment: new records go into a new one, whose header states how far the one before was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from node.errors import CorruptionError
from node.raft.disk import Disk, File
from node.raft.records import (
    RECORD_BYTES,
    Frame,
    Header,
    HeaderError,
    Record,
    decode_header,
    header_bytes,
)

_NAME = re.compile(r"segment-([0-9a-f]{16})\.log")
_TEMPORARY = re.compile(r"segment-[0-9a-f]{16}\.tmp")
_WINDOW_BYTES = 1 << 20
_ZEROS = bytes(_WINDOW_BYTES)
_LEAD_BYTES = 64

_ADVICE = (
    "This node's data can't be trusted: do not delete parts of it. Restore the whole directory from a "
    "copy, or replace the node (stanchion cluster replace) and let it take a snapshot from the others."
)


class JournalDamageError(CorruptionError):
    """The journal's bytes contradict each other or their checksums.

    Args:
        problem: what is wrong.
        file: the file, as named in messages to the operator.
        offset: position in the file, in bytes.
        index: the log index expected or stored there.
    """

    def __init__(self, problem: str, *, file: str, offset: int, index: int) -> None:
        super().__init__(f"{file}: {problem} (byte {offset}, log index {index}). {_ADVICE}")
        self.file = file
        self.offset = offset
        self.index = index


def segment_name(number: int) -> str:
    return f"segment-{number:016x}.log"


def segment_number(name: str) -> int | None:
    """Return the number of the segment with this file name; None if it is no segment's name."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1], 16)


def is_temporary(name: str) -> bool:
    """Return whether this is the name of a segment whose creation was not finished."""
    return _TEMPORARY.fullmatch(name) is not None


class Segment:
    """One file of the journal. `create` and `remove` may run in a worker thread."""

    __slots__ = ("_disk", "_file", "capacity", "frame", "header", "number", "start")

    def __init__(self, disk: Disk, header: Header, *, capacity: int, record_bytes: int = 0) -> None:
        """Describe a segment that does not exist yet; `create` creates it.

        Args:
            disk: the directory of the segment.
            header: written before its records.
            capacity: size of the file in bytes, preallocated; larger if the first record needs it.
            record_bytes: size of the first record.
        """
        self._disk = disk
        self._file: File | None = None
        self.header = header
        self.number = header.number
        self.frame = Frame(header.journal_id, header.number)
        self.start = header.size
        self.capacity = max(capacity, self.start + record_bytes)

    @classmethod
    def open(cls, disk: Disk, number: int) -> Segment:
        """Open an existing segment.

        Raises:
            JournalDamageError: its header is invalid or belongs to another segment, or the file is too short.
        """
        name = segment_name(number)
        file = disk.open(name)
        try:
            head = file.read(0, header_bytes(file.read(0, _LEAD_BYTES)))
            header = decode_header(head)
            if header.number != number:
                raise HeaderError(f"the file holds segment {header.number}")
            if header.capacity is not None and file.size() < header.capacity:
                raise HeaderError(
                    f"the file was made {header.capacity} bytes long and has {file.size()}: its end is "
                    f"missing"
                )
        except HeaderError as error:
            file.close()
            raise JournalDamageError(str(error), file=disk.describe(name), offset=0, index=0) from error
        segment = cls(disk, header, capacity=file.size())
        segment._file = file
        return segment

    @property
    def exists(self) -> bool:
        return self._file is not None

    @property
    def file(self) -> File:
        assert self._file is not None, f"segment {self.number} is not created yet"
        return self._file

    def create(self) -> None:
        """Create the file, durably; see the module docstring.

        Raises:
            DiskError: a disk operation failed.
        """
        name = segment_name(self.number)
        temporary = name.replace(".log", ".tmp")
        file = self._disk.open(temporary, create=True)
        file.allocate(self.capacity)
        self.header = replace(self.header, capacity=self.capacity)
        file.write(0, [self.header.encode()])
        file.sync()
        self._disk.rename(temporary, name)
        self._disk.sync_dir()
        self._file = file

    def remove(self) -> None:
        """Delete the file, durably.

        Raises:
            DiskError: a disk operation failed.
        """
        self.close()
        self._disk.unlink(segment_name(self.number))
        self._disk.sync_dir()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def damage(self, problem: str, *, offset: int, index: int) -> JournalDamageError:
        """Return the error for damage in this segment."""
        where = self._disk.describe(segment_name(self.number))
        return JournalDamageError(problem, file=where, offset=offset, index=index)

    # --- reading ----------------------------------------------------------------------------------

    def record(self, offset: int, length: int) -> Record | None:
        """Return the record at ``offset`` with a payload of ``length`` bytes; None if it is incomplete or
        invalid.
        """
        return self.frame.decode(self.file.read(offset, RECORD_BYTES + length))

    def records(self) -> Iterator[tuple[int, Record]]:
        """Yield (offset, record) from the first record on, up to the first invalid one.

        Keeps one window of 1 MiB in memory, or one record if that is longer.
        """
        file, frame, size = self.file, self.frame, self.file.size()
        at = origin = self.start
        window = b""
        while True:
            if at - origin + RECORD_BYTES > len(window):
                origin, window = at, file.read(at, _WINDOW_BYTES)
            length = frame.length(window, at - origin)
            if length is None or at + length > size:
                return
            if at - origin + length > len(window):
                origin, window = at, file.read(at, max(length, _WINDOW_BYTES))
            record = frame.decode(window, at - origin)
            if record is None:
                return
            yield at, record
            at += length

    def tail(self, at: int) -> Tail:
        """Return what follows ``at``, the end of the last valid record."""
        file = self.file
        size = file.size()
        end = at
        latest_flush_first = 0
        overlap = RECORD_BYTES  # a marker may lie across two windows
        for origin in range(at, size, _WINDOW_BYTES):
            window = file.read(origin, _WINDOW_BYTES + overlap)
            if window[:_WINDOW_BYTES] == _ZEROS[: min(_WINDOW_BYTES, len(window))]:
                continue
            end = max(end, origin + len(window.rstrip(b"\0")))
            found = window.find(self.frame.marker)
            while found >= 0:
                record = self._record_if_any(origin + found, size)
                if record is not None:
                    latest_flush_first = max(latest_flush_first, record.flush_first)
                found = window.find(self.frame.marker, found + 1)
        return Tail(end - at, latest_flush_first)

    def _record_if_any(self, offset: int, size: int) -> Record | None:
        length = self.frame.length(self.file.read(offset, RECORD_BYTES))
        if length is None or offset + length > size:
            return None
        return self.frame.decode(self.file.read(offset, length))


class Tail(NamedTuple):
    """The rest of a segment after its last valid record."""

    garbage: int
    """Bytes up to the last non-zero one; 0 if only preallocated space follows."""
    latest_flush_first: int
    """The greatest ``flush_first`` of all valid records found there; 0 if there are none."""
