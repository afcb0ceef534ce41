"""The databases of the environment, and what is read from them when it is opened.

::

    messages   channel, first sequence  →  block (see ``blocks``)
    floors     channel                  →  last sequence dropped
    state      the core's keys          →  the core's values
    meta       "checkpoint"             →  format, applied and previous (index, term)

All four are created in one transaction: a crash leaves a complete new store or none.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import lmdb

from node.errors import CorruptionError
from node.store import blocks
from node.store.environment import ADVICE, Database, check_size, translate
from node.store.values import Values
from node.units import Index, Term

_FORMAT = 1
META_KEY = b"checkpoint"
FLOORS, STATE, META = b"floors", b"state", b"meta"
_META = struct.Struct(">8sHQQQQ")
_MAGIC = b"stanchn\x00"
_FLOOR = struct.Struct(">Q")


class Meta(NamedTuple):
    """Index and term of the last applied entry, and of the entry before it."""

    applied: tuple[Index, Term]
    previous: tuple[Index, Term]

    def encode(self, values: Values) -> bytes:
        return values.encode(META, META_KEY, _META.pack(_MAGIC, _FORMAT, *self.applied, *self.previous))


def _decode_meta(values: Values, stored: bytes) -> Meta:
    path, value = values.path, values.decode(META, META_KEY, stored)
    if len(value) < 10 or not value.startswith(_MAGIC):
        raise CorruptionError(f"{path}: not a Stanchion store, or an encrypted one. {ADVICE}")
    version = int.from_bytes(value[8:10], "big")
    if version != _FORMAT or len(value) != _META.size:
        raise CorruptionError(
            f"{path}: the store has format {version}, and this release reads format {_FORMAT} only:"
            " use the release that wrote it, or replace the node (stanchion cluster replace)"
        )
    _, _, index, term, previous_index, previous_term = _META.unpack(value)
    return Meta((index, term), (previous_index, previous_term))


class Databases(NamedTuple):
    messages: Database
    floors: Database
    state: Database
    meta: Database


def floor_record(values: Values, channel: int, floor: int) -> tuple[bytes, bytes]:
    """Return key and value of a channel's floor."""
    key = blocks.channel_key(channel)
    return key, values.encode(FLOORS, key, _FLOOR.pack(floor))


def decode_block(values: Values, key: bytes, stored: memoryview | bytes) -> blocks.Block:
    """Return the block stored under ``key``.

    Raises:
        CorruptionError: it is not the value written there; the text says what to do.
    """
    try:
        return blocks.decode(key, stored, values.value_cipher)
    except CorruptionError as error:
        raise CorruptionError(f"{values.path}: {error}. {ADVICE}") from error


def applied_in(values: Values, *, whole: bool = False) -> tuple[tuple[Index, Term], tuple[Index, Term]]:
    """Return applied and previous (index, term) of a store that no process has open, such as a copy.

    The store is not changed.

    Args:
        values: of that store.
        whole: also read and verify all other records and messages.

    Raises:
        CorruptionError: it is not a store, or it is damaged.
        DiskError: it can't be read.
    """
    path = values.path
    try:
        environment = lmdb.open(str(path), readonly=True, create=False, lock=False, max_dbs=4)
    except lmdb.Error as error:
        raise translate(path, error) from error
    try:
        check_size(path, environment)
        databases, meta, _ = load(values, environment)
        if whole:
            _verify(values, environment, databases)
    except lmdb.Error as error:
        raise translate(path, error) from error
    finally:
        environment.close()
    return meta.applied, meta.previous


def records_in(values: Values) -> list[tuple[bytes, bytes]]:
    """Return the core's records of a store that no process has open, in the order of their keys.

    The store is not changed.

    Raises:
        CorruptionError: it is not a store, or it is damaged.
        DiskError: it can't be read.
    """
    path = values.path
    try:
        environment = lmdb.open(str(path), readonly=True, create=False, lock=False, max_dbs=4)
    except lmdb.Error as error:
        raise translate(path, error) from error
    try:
        check_size(path, environment)
        databases, _, _ = load(values, environment)
        with environment.begin() as transaction:
            return [
                (bytes(key), values.decode(STATE, key, stored))
                for key, stored in transaction.cursor(databases.state)
            ]
    except lmdb.Error as error:
        raise translate(path, error) from error
    finally:
        environment.close()


def _verify(values: Values, environment: lmdb.Environment, databases: Databases) -> None:
    with environment.begin() as transaction:
        for key, stored in transaction.cursor(databases.state):
            values.decode(STATE, key, stored)
        for key, stored in transaction.cursor(databases.messages):
            decode_block(values, key, stored)


def load(values: Values, environment: lmdb.Environment) -> tuple[Databases, Meta, dict[int, int]]:
    """Open the databases, or create them in a new environment; read applied index and floors.

    Raises:
        CorruptionError: a part is missing, damaged or of another format.
    """
    path = values.path
    if environment.stat()["entries"] == 0:
        return _make(values, environment)
    try:
        databases = Databases(
            *(environment.open_db(name.encode(), create=False) for name in Databases._fields)
        )
    except lmdb.NotFoundError as error:
        raise CorruptionError(f"{path}: a part of the store is missing: {error}. {ADVICE}") from error
    with environment.begin() as transaction:
        stored = transaction.get(META_KEY, db=databases.meta)
        if stored is None:
            raise CorruptionError(f"{path}: the store has lost its checkpoint record. {ADVICE}")
        meta = _decode_meta(values, stored)
        floors = {}
        for key, stored in transaction.cursor(databases.floors):
            floor = _FLOOR.unpack(values.decode(FLOORS, key, stored))[0]
            floors[blocks.split_channel_key(key)] = int(floor)
    return databases, meta, floors


def _make(values: Values, environment: lmdb.Environment) -> tuple[Databases, Meta, dict[int, int]]:
    if environment.flags()["readonly"]:
        raise CorruptionError(f"{values.path}: the store is empty. {ADVICE}")
    meta = Meta((Index(0), Term(0)), (Index(0), Term(0)))
    with environment.begin(write=True) as transaction:
        databases = Databases(
            *(environment.open_db(name.encode(), transaction) for name in Databases._fields)
        )
        transaction.put(META_KEY, meta.encode(values), db=databases.meta)
    return databases, meta, {}
