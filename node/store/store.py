"""The store: messages and records in LMDB, moved from one applied index to the next as a whole.

Applying an entry changes memory at once (``messages``), and the disk only at a checkpoint (``checkpoint``).
The journal has every entry above the applied index, so after a crash these entries are replayed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb

from node.errors import CorruptionError
from node.store import blocks
from node.store.checkpoint import Checkpoint, Tail
from node.store.environment import (
    ADVICE,
    KEY_SIZE_MAX,
    MAP_SIZE,
    open_environment,
    translate,
)
from node.store.interface import CheckpointJob
from node.store.layout import STATE, Meta, decode_block, load
from node.store.messages import GONE, Messages
from node.store.values import Values
from node.units import Index, Term

if TYPE_CHECKING:
    from node.encryption.value_cipher import ValueCipher

CACHE_BYTES = 32 * 1024 * 1024
"""Bytes of memory for messages that are already stored: the newest, so that delivering them needs no read."""

BLOCK_CACHE_BYTES = 4 * 1024 * 1024
"""Bytes of memory for blocks read back, so that a slow reader does not verify a block repeatedly."""


class Store:
    """The applied state of one node: recent changes in memory, checkpoints on disk.

    Opened with ``Store.open``. All methods except ``Checkpoint.run`` and ``copy_to`` belong to one thread.
    """

    def __init__(self, values: Values, environment: lmdb.Environment, cache_bytes: int) -> None:
        self.path = values.path
        self._values = values
        self._environment = environment
        self._databases, self._meta, floors = load(values, environment)
        self._garbage = set(floors)
        self._messages = Messages(cache_bytes, floors, self._last_stored)
        self._blocks: OrderedDict[bytes, blocks.Block] = OrderedDict()
        self._blocks_bytes = 0
        self._tails: dict[int, Tail] = {}
        self._job: Checkpoint | None = None
        self.closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        map_size: int = MAP_SIZE,
        cache_bytes: int = CACHE_BYTES,
        value_cipher: ValueCipher | None = None,
    ) -> Store:
        """Open the store in the directory ``path``, or create a new one there.

        Args:
            path: a directory for the store only; its parent exists.
            map_size: bytes of address space, the maximum size of the store.
            cache_bytes: bytes of memory for messages already stored; 0 keeps none.
            value_cipher: encrypts every value on the disk; None: nothing is encrypted.

        Raises:
            CorruptionError: the store is damaged, has another format, or is encrypted with other keys.
            DiskError: it can't be opened, created or mapped.
        """
        environment = open_environment(path, map_size)
        try:
            return cls(Values(path, value_cipher), environment, cache_bytes)
        except BaseException as error:
            environment.close()
            if isinstance(error, lmdb.Error):
                raise translate(path, error) from error
            raise

    def close(self) -> None:
        """Close the environment. Pending changes are lost: the journal has them."""
        assert self._job is None or not self._job.running, "a checkpoint is running"
        self.closed = True
        self._environment.close()

    @property
    def applied(self) -> tuple[Index, Term]:
        return self._meta.applied

    @property
    def previous(self) -> tuple[Index, Term]:
        return self._meta.previous

    @property
    def pending_bytes(self) -> int:
        return self._messages.pending_bytes

    @property
    def pending_messages(self) -> int:
        return self._messages.pending_messages

    @property
    def unwritten_bytes(self) -> int:
        """Payload bytes that the file may not have yet, of the running and the next checkpoint."""
        return self._messages.frozen_bytes + self._messages.pending_bytes

    @property
    def has_garbage(self) -> bool:
        return bool(self._garbage)

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of the environment's file."""
        info, stat = self._environment.info(), self._environment.stat()
        return int((info["last_pgno"] + 1) * stat["psize"])

    @property
    def reusable_bytes(self) -> int:
        """Unused bytes of the environment's file, left by dropped data."""
        page_bytes = self._environment.stat()["psize"]
        with self._environment.begin() as transaction:
            stats = [transaction.stat(database) for database in self._databases]
        stats.append(self._environment.stat())
        used = sum(each["branch_pages"] + each["leaf_pages"] + each["overflow_pages"] for each in stats)
        return max(0, self.bytes_on_disk - int(used) * int(page_bytes))

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        try:
            with self._environment.begin(self._databases.state) as transaction:
                for key, stored in transaction.cursor():
                    yield key, self._values.decode(STATE, key, stored)
        except lmdb.Error as error:
            raise translate(self.path, error) from error

    def put(self, channel: int, first: int, messages: Sequence[bytes]) -> None:
        self._messages.put(channel, first, messages)

    def drop(self, channel: int, up_to: int) -> None:
        assert 0 <= up_to < GONE
        self._messages.drop(channel, up_to)

    def drop_channel(self, channel: int) -> None:
        self._messages.drop_channel(channel)
        self._tails.pop(channel, None)

    def get(self, channel: int, seq: int) -> bytes | None:
        return self.get_many(channel, (seq,))[0]

    def get_many(self, channel: int, seqs: Sequence[int]) -> list[bytes | None]:
        found, in_store = self._messages.find(channel, seqs)
        if in_store:
            self._read(channel, seqs, found, in_store)
        return found

    def begin_checkpoint(
        self,
        applied: tuple[int, int],
        previous: tuple[int, int],
        changes: Iterable[tuple[bytes, bytes | None]],
    ) -> Checkpoint:
        assert self._job is None, "one checkpoint at a time"
        assert applied >= self._meta.applied, "the applied index never goes back"
        written = dict(changes)
        assert all(0 < len(key) <= KEY_SIZE_MAX for key in written), "a key LMDB can't hold"
        batch = self._messages.freeze()
        garbage = self._messages.floors_of(chain(self._garbage, batch.floors))
        meta = Meta(
            (Index(applied[0]), Term(applied[1])),
            (Index(previous[0]), Term(previous[1])),
        )
        self._garbage = set()
        self._job = Checkpoint(
            self._values,
            self._environment,
            self._databases,
            meta,
            batch,
            changes=written,
            garbage=garbage,
            tails=self._tails,
        )
        return self._job

    def end_checkpoint(self, job: CheckpointJob) -> None:
        assert job is self._job, "not the checkpoint that was begun"
        assert self._job.done, "after a failed checkpoint the node must stop"
        job, self._job = self._job, None
        self._meta = job.meta
        self._tails = job.tails
        self._garbage |= job.unfinished
        self._messages.settle(job.batch)
        for channel in job.forgotten:
            self._messages.forget(channel)
            self._tails.pop(channel, None)

    def copy_to(self, directory: Path) -> None:
        """Write a consistent, compact copy of the last durable checkpoint into an empty directory.

        In a worker thread; reads and checkpoints continue meanwhile.

        Raises:
            DiskError: it can't be written.
            CorruptionError: LMDB found its own pages damaged.
        """
        try:
            self._environment.copy(str(directory), compact=True)
        except lmdb.Error as error:
            raise translate(self.path, error) from error

    def values_in(self, copy: Path) -> Values:
        """Return the `Values` that decode a copy of this store."""
        return Values(copy, self._values.value_cipher)

    def _last_stored(self, channel: int) -> int:
        try:
            with self._environment.begin(self._databases.messages) as transaction:
                cursor = transaction.cursor()
                beyond = cursor.set_range(blocks.key(channel, GONE))
                if not (cursor.prev() if beyond else cursor.last()):
                    return 0
                key = cursor.key()
                if blocks.split_key(key)[0] != channel:
                    return 0
                return decode_block(self._values, key, cursor.value()).end - 1
        except lmdb.Error as error:
            raise translate(self.path, error) from error

    def _read(
        self, channel: int, seqs: Sequence[int], found: list[bytes | None], in_store: list[int]
    ) -> None:
        """Read the in_store messages from the store into ``found``, block by block."""
        try:
            with self._environment.begin(self._databases.messages, buffers=True) as transaction:
                cursor = transaction.cursor()
                block = None
                for position in in_store:
                    seq = seqs[position]
                    if block is None or not block.first <= seq < block.end:
                        block = self._block_with(cursor, channel, seq)
                    if block is None:
                        raise CorruptionError(
                            f"{self.path}: message {seq} of channel {channel} is missing. {ADVICE}"
                        )
                    found[position] = block.message(seq)
        except lmdb.Error as error:
            raise translate(self.path, error) from error

    def _block_with(self, cursor: lmdb.Cursor[memoryview], channel: int, seq: int) -> blocks.Block | None:
        """Return the block with a sequence. It is verified when read, not when found in the cache."""
        key = blocks.key(channel, seq)
        if not cursor.set_range(key):
            if not cursor.last():
                return None
        elif cursor.key() != key and not cursor.prev():
            return None
        key = bytes(cursor.key())
        if blocks.split_key(key)[0] != channel:
            return None
        block = self._blocks.get(key)
        if block is None or seq >= block.end:  # it may have grown meanwhile: see MERGE_BELOW
            block = decode_block(self._values, key, cursor.value())
            self._keep(key, block)
        else:
            self._blocks.move_to_end(key)
        return block if seq < block.end else None

    def _keep(self, key: bytes, block: blocks.Block) -> None:
        older = self._blocks.pop(key, None)
        self._blocks_bytes += block.size - (0 if older is None else older.size)
        self._blocks[key] = block
        while self._blocks_bytes > BLOCK_CACHE_BYTES:
            self._blocks_bytes -= self._blocks.popitem(last=False)[1].size
