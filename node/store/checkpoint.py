"""A checkpoint: write to the disk what was applied since the last one, in one transaction.

A checkpoint is created and ended on the event loop, and runs in a worker thread, a few times a second. While
it runs it uses only its arguments. ``layout`` describes the databases.

Its work is bounded by the changes, with one exception: a dropped channel may have a million messages. So its
floor hides them at once, and each checkpoint deletes at most ``GARBAGE_BLOCKS_MAX`` blocks below the floors.
``unfinished`` has the channels with more to delete.

A channel that gets a message now and then would have one block per message. So a checkpoint rewrites the
channel's last block together with new messages if it is smaller than ``MERGE_BELOW``: LMDB writes whole
pages anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import lmdb

from node.errors import DiskError
from node.store import blocks
from node.store.environment import translate
from node.store.layout import META_KEY, STATE, Databases, Meta, decode_block, floor_record
from node.store.messages import GONE, Batch, Run
from node.store.values import Values

GARBAGE_BLOCKS_MAX = 1000
"""Maximum number of blocks that one checkpoint deletes."""

MERGE_BELOW = 3000
"""Bytes. While a channel's last block is smaller, it is rewritten together with new messages."""


class Tail(NamedTuple):
    """A channel's last block, if it is small enough to be rewritten."""

    first: int
    end: int


class Checkpoint:
    """A checkpoint.

    Args:
        values: encodes the values.
        environment: the LMDB environment, with ``databases``.
        meta: the applied index after this checkpoint.
        batch: the new messages and the changed floors.
        changes: records; None deletes one.
        garbage: floors below which blocks may remain.
        tails: the last blocks of channels that are small.
    """

    def __init__(
        self,
        values: Values,
        environment: lmdb.Environment,
        databases: Databases,
        meta: Meta,
        batch: Batch,
        *,
        changes: dict[bytes, bytes | None],
        garbage: dict[int, int],
        tails: dict[int, Tail],
    ) -> None:
        self._path = values.path
        self._values = values
        self._environment = environment
        self._databases = databases
        self.meta = meta
        self.batch = batch
        self._changes = changes
        self._garbage = garbage
        self.tails = dict(tails)
        self.unfinished: set[int] = set()
        """Channels with more to delete."""
        self.forgotten: list[int] = []
        """Dropped channels whose last block was deleted."""
        self.running = self.done = False

    def run(self) -> None:
        """Write and sync everything. Call it once, in a worker thread.

        Raises:
            DiskError: the disk is full, or failed.
            CorruptionError: LMDB found its own pages damaged.
        """
        assert not self.done
        self.running = True
        try:
            with self._environment.begin(write=True) as transaction:
                self._write_messages(transaction)
                self._write_floors(transaction)
                self._delete_garbage(transaction)
                self._write_state(transaction)
                transaction.put(META_KEY, self.meta.encode(self._values), db=self._databases.meta)
        except lmdb.Error as error:
            raise translate(self._path, error) from error
        except OSError as error:
            raise DiskError(f"{self._path}: the checkpoint failed: {error}") from error
        finally:
            self.running = False
        self.done = True

    def _write_messages(self, transaction: lmdb.Transaction[bytes]) -> None:
        by_channel: dict[int, list[Run]] = {}
        for run in self.batch.runs:
            by_channel.setdefault(run.channel, []).append(run)
        cursor = transaction.cursor(self._databases.messages)
        for channel in sorted(by_channel):
            runs = by_channel[channel]
            tail = self._take_tail(transaction, channel, runs[0].first)
            cursor.putmulti(self._encode(channel, tail, runs))

    def _take_tail(self, transaction: lmdb.Transaction[bytes], channel: int, first: int) -> list[Run]:
        """Return the channel's last block as a run, if it is small and new messages follow it directly."""
        tail = self.tails.pop(channel, None)
        if tail is None or tail.end != first:
            return []
        key = blocks.key(channel, tail.first)
        stored = transaction.get(key, db=self._databases.messages)
        if stored is None:
            return []  # dropped and deleted meanwhile
        return [Run(channel, tail.first, decode_block(self._values, key, stored).messages(), 0)]

    def _encode(self, channel: int, tail: list[Run], runs: list[Run]) -> Iterator[tuple[bytes, bytes]]:
        """Yield the runs as blocks, as few as their size allows."""
        held: list[bytes] = []
        size = 0
        first = (tail or runs)[0].first
        for run in chain(tail, runs):
            assert run.first == first + len(held), "a channel drops its oldest messages first"
            for message in run.messages:
                cost = len(message) + blocks.MESSAGE_OVERHEAD
                if held and size + cost > blocks.BLOCK_BYTES_MAX:
                    yield self._block(channel, first, held)
                    first += len(held)
                    held, size = [], 0
                held.append(message)
                size += cost
        yield self._block(channel, first, held)
        if size < MERGE_BELOW:
            self.tails[channel] = Tail(first, first + len(held))

    def _block(self, channel: int, first: int, messages: list[bytes]) -> tuple[bytes, bytes]:
        key = blocks.key(channel, first)
        return key, blocks.encode(key, messages, self._values.value_cipher)

    def _write_floors(self, transaction: lmdb.Transaction[bytes]) -> None:
        cursor = transaction.cursor(self._databases.floors)
        cursor.putmulti(
            [
                floor_record(self._values, channel, floor)
                for channel, floor in sorted(self.batch.floors.items())
            ]
        )

    def _delete_garbage(self, transaction: lmdb.Transaction[bytes]) -> None:
        budget = GARBAGE_BLOCKS_MAX
        for channel, floor in self._garbage.items():
            keys, finished = self._garbage_of(transaction, channel, floor, budget)
            for key in keys:
                transaction.delete(key, db=self._databases.messages)
            budget -= len(keys)
            if not finished:
                self.unfinished.add(channel)
            elif floor == GONE:
                transaction.delete(blocks.channel_key(channel), db=self._databases.floors)
                self.forgotten.append(channel)

    def _garbage_of(
        self, transaction: lmdb.Transaction[bytes], channel: int, floor: int, limit: int
    ) -> tuple[list[bytes], bool]:
        """Return keys of up to ``limit`` blocks that are wholly below the floor, and True if these are all.

        The key of the next block shows whether a block ends at or below the floor, so no page of an old
        block is read from the disk. Only a channel's last block must be read.
        """
        cursor = transaction.cursor(self._databases.messages)
        if not cursor.set_range(blocks.key(channel, 0)):
            return [], True
        keys: list[bytes] = []
        for key in cursor.iternext(keys=True, values=False):
            at, first = blocks.split_key(key)
            if at != channel:
                break
            if first > floor:
                return (keys if first == floor + 1 else keys[:-1]), True
            if len(keys) > limit:
                return keys[:-1], False
            keys.append(key)
        if keys:
            stored = transaction.get(keys[-1], b"", db=self._databases.messages)
            if decode_block(self._values, keys[-1], stored).end > floor + 1:
                keys.pop()
        return keys[:limit], len(keys) <= limit

    def _write_state(self, transaction: lmdb.Transaction[bytes]) -> None:
        put: list[tuple[bytes, bytes]] = []
        for key, value in sorted(self._changes.items()):
            if value is None:
                transaction.delete(key, db=self._databases.state)
            else:
                put.append((key, self._values.encode(STATE, key, value)))
        transaction.cursor(self._databases.state).putmulti(put)
