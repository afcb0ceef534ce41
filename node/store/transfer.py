"""Snapshot transfer: two state machines that exchange plain values, without I/O to the peer.

::

    sender                                   receiver
    ["offer", manifest]                 ──►
    ["crcs", offset, bytes] …           ──►                            only if the manifest lacks them
                                        ◄──  ["need", id, offset]      have everything before offset
    ["data", id, offset, crc, bytes] …  ──►
                                        ◄──  ["need", id, offset]      every 1 MiB
                                        ◄──  ["done", id]              verified and on the disk
                                        ◄──  ["refuse", id, why]

A manifest has a checksum for each chunk. For 32 GiB and more they don't fit into one frame with the rest.
Then the offer is the manifest without them, and they are sent in separate frames. An earlier release could
not offer such a snapshot at all, and refuses the offer.

At most ``WINDOW_CHUNKS`` are sent beyond the last ``need``. When a connection is lost, both sides start with
new state machines. The receiver verifies the data on its disk again, chunk by chunk, and it is not sent
twice. A transfer belongs to the snapshot's id, not to a term: another leader with the same bytes may
continue it, a leader with others starts again. Whatever a peer sends, ``RemoteProtocolError`` is the only
error that it causes.

``receive`` writes to the disk: call both state machines in a worker thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

from node.errors import CorruptionError, DiskError, RemoteProtocolError
from node.store.environment import MAP_SIZE
from node.store.parts import DirectoryParts, Parts
from node.store.snapshot import CHUNK_BYTES, Manifest, Snapshot

WINDOW_CHUNKS = 16
"""Maximum number of chunks sent beyond what the receiver has confirmed: 4 MiB."""

CRCS_BYTES_MAX = 512 * 1024
"""Bytes of checksums in one frame: with the rest of an offer they stay below the 1 MiB of a snapshot
connection."""

_REPORT_CHUNKS = 4

Value: TypeAlias = list[Any]
"""A plain value, as decoded by msgpack."""


class SnapshotSender:
    """Sends one snapshot.

    Pass the peer's values to ``receive``, and send what ``next_value`` returns until None.

    Args:
        read: ``read(offset, size) -> bytes`` of the snapshot's file.
    """

    def __init__(self, manifest: Manifest, read: Callable[[int, int], bytes]) -> None:
        self._manifest = manifest
        self._read = read
        self._offered = self._needed = False
        self._crcs_sent = 0
        self._acknowledged = self._sent = 0
        self.done = False
        """The receiver has the complete snapshot on its disk."""
        self.refused: str | None = None
        """The receiver's reason for refusing the snapshot."""

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes that the receiver has, and total bytes."""
        return self._acknowledged, self._manifest.size

    def next_value(self) -> Value | None:
        """Return the next value to send.

        None: nothing until the peer sends something, or the transfer has ended.

        Raises:
            CorruptionError: the snapshot's file does not match its manifest; delete it.
            DiskError: it can't be read.
        """
        manifest = self._manifest
        if not self._offered:
            self._offered = True
            if len(manifest.crcs) <= CRCS_BYTES_MAX:
                self._crcs_sent = len(manifest.crcs)
                return ["offer", manifest.to_plain()]
            return ["offer", manifest.head_to_plain()]
        if self._crcs_sent < len(manifest.crcs) and self.refused is None:
            first = self._crcs_sent
            part = manifest.crcs[first : first + CRCS_BYTES_MAX]
            self._crcs_sent += len(part)
            return ["crcs", first, part]
        if not self._needed or self.done or self.refused is not None:
            return None
        at = self._sent
        if at >= manifest.size or at - self._acknowledged >= WINDOW_CHUNKS * manifest.chunk_bytes:
            return None
        chunk = self._read(at, manifest.chunk_size(at))
        if crc32(chunk) != manifest.crc(at):
            raise CorruptionError(f"snapshot {manifest.snapshot_id} is damaged at byte {at}: delete it")
        self._sent += len(chunk)
        return ["data", manifest.snapshot_id, at, manifest.crc(at), chunk]

    @property
    def _has_offered_all(self) -> bool:
        return self._offered and self._crcs_sent == len(self._manifest.crcs)

    def receive(self, value: object) -> None:
        """Process a value from the peer.

        Raises:
            RemoteProtocolError: the value is invalid here.
        """
        manifest = self._manifest
        match value:
            case ["need", manifest.snapshot_id, int(offset)] if not self._needed and self._has_offered_all:
                if not 0 <= offset <= manifest.size or (
                    offset % manifest.chunk_bytes and offset != manifest.size
                ):
                    raise RemoteProtocolError(f"the peer requests a snapshot from the invalid byte {offset}")
                self._needed = True
                self._acknowledged = self._sent = offset
            case ["need", manifest.snapshot_id, int(offset)] if self._needed:
                if not self._acknowledged <= offset <= self._sent:
                    raise RemoteProtocolError(
                        f"the peer acknowledges a snapshot to the invalid byte {offset}"
                    )
                self._acknowledged = offset
            case ["done", manifest.snapshot_id] if self._needed and self._sent == manifest.size:
                self._acknowledged = manifest.size
                self.done = True
            case ["refuse", manifest.snapshot_id, str(why)] if self._offered:
                self.refused = why[:200]
            case _:
                raise RemoteProtocolError("the peer sent an unexpected reply to a snapshot")


class SnapshotReceiver:
    """Receives one snapshot. Part of it may be on the disk already.

    Args:
        parts: where the snapshot is kept, whole or in part; or a directory for it.
        size_max: bytes; a larger snapshot is refused as invalid.
        wanted: returns the reason for refusing a snapshot, or None to accept it.
        chunk_bytes: the same as the sender's.
    """

    def __init__(
        self,
        parts: Parts | Path,
        *,
        size_max: int = MAP_SIZE,
        wanted: Callable[[Manifest], str | None] = lambda manifest: None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._parts: Parts = DirectoryParts(parts) if isinstance(parts, Path) else parts
        self._size_max = size_max
        self._chunk_bytes = chunk_bytes
        self._wanted = wanted
        self._manifest: Manifest | None = None
        self._head: Manifest | None = None
        """The offered manifest, while its checksums are still being received."""
        self._crcs = bytearray()
        self._open = False
        self._sha = hashlib.sha256()
        self._position = self._reported = 0
        self.received: Snapshot | None = None
        """The complete snapshot, when it is verified and durable: for ``install``."""

    @property
    def progress(self) -> tuple[int, int]:
        """Received bytes and total bytes; (0, 0) before there is an offer."""
        return self._position, 0 if self._manifest is None else self._manifest.size

    def receive(self, value: object) -> list[Value]:
        """Process a value from the peer and return the replies.

        Raises:
            RemoteProtocolError: the value is invalid here, or does not match the manifest.
            DiskError: the disk has not enough free space, or failed.
        """
        try:
            match value:
                case ["offer", [2, *_] as plain] if self._manifest is None and self._head is None:
                    head, _ = Manifest.head_from_plain(plain, self._size_max, self._chunk_bytes)
                    return self._announced(head)
                case ["crcs", int(offset), bytes(part)] if self._head is not None:
                    return self._checksums(self._head, offset, part)
                case ["offer", plain] if self._manifest is None and self._head is None:
                    return self._offered(Manifest.from_plain(plain, self._size_max, self._chunk_bytes))
                case ["data", str(which), int(offset), int(crc), bytes(chunk)] if self._open:
                    return self._data(which, offset, crc, chunk)
                case _:
                    raise RemoteProtocolError("the peer sent an unexpected part of a snapshot")
        except OSError as error:
            raise DiskError(f"{self._parts.describe()}: a snapshot can't be received: {error}") from error

    def close(self) -> None:
        """Close the file. The received part is kept, and another receiver can continue with it."""
        self._open = False
        self._parts.close()

    def _announced(self, head: Manifest) -> list[Value]:
        why = self._wanted(head)
        if why is not None:
            return [["refuse", head.snapshot_id, why]]
        self._head = head
        return []

    def _checksums(self, head: Manifest, offset: int, part: bytes) -> list[Value]:
        if offset != len(self._crcs) or not 0 < len(part) <= len(head.crcs) - offset:
            raise RemoteProtocolError(f"checksums of a snapshot at {offset}, expected at {len(self._crcs)}")
        self._crcs += part
        if len(self._crcs) < len(head.crcs):
            return []
        self._head = None
        return self._begin(replace(head, crcs=bytes(self._crcs)))

    def _offered(self, manifest: Manifest) -> list[Value]:
        why = self._wanted(manifest)
        if why is not None:
            return [["refuse", manifest.snapshot_id, why]]
        return self._begin(manifest)

    def _begin(self, manifest: Manifest) -> list[Value]:
        self._manifest = manifest
        self._parts.begin(manifest)
        self._verify(manifest)
        if self._parts.free_bytes() < manifest.size - self._position:
            raise DiskError(f"{self._parts.describe()}: no space for a snapshot of {manifest.size} bytes")
        self._parts.cut(self._position)
        self._open = True
        self._reported = self._position
        needed: list[Value] = [["need", manifest.snapshot_id, self._position]]
        return needed + self._finish_if_whole()

    def _verify(self, manifest: Manifest) -> None:
        """Set the position after the existing chunks that match the manifest."""
        for chunk in self._parts.chunks():
            at = self._position
            if (
                at >= manifest.size
                or len(chunk) != manifest.chunk_size(at)
                or crc32(chunk) != manifest.crc(at)
            ):
                return
            self._sha.update(chunk)
            self._position += len(chunk)

    def _data(self, which: str, offset: int, crc: int, chunk: bytes) -> list[Value]:
        manifest = self._manifest
        assert manifest is not None
        if which != manifest.snapshot_id or offset != self._position or offset >= manifest.size:
            raise RemoteProtocolError(f"byte {offset} of snapshot {which[:80]}, expected {self._position}")
        if len(chunk) != manifest.chunk_size(offset) or not crc == crc32(chunk) == manifest.crc(offset):
            raise RemoteProtocolError(f"snapshot {which}: the bytes at {offset} don't match its manifest")
        self._parts.write(offset, chunk)
        self._sha.update(chunk)
        self._position += len(chunk)
        answers: list[Value] = []
        if self._position - self._reported >= _REPORT_CHUNKS * manifest.chunk_bytes:
            self._reported = self._position
            answers.append(["need", which, self._position])
        return answers + self._finish_if_whole()

    def _finish_if_whole(self) -> list[Value]:
        manifest = self._manifest
        assert manifest is not None
        if self._position < manifest.size:
            return []
        self._open = False
        if self._sha.digest() != manifest.sha256:
            self._parts.discard()
            raise RemoteProtocolError(f"snapshot {manifest.snapshot_id} doesn't match its manifest")
        self.received = self._parts.finish()
        return [["done", manifest.snapshot_id]]
