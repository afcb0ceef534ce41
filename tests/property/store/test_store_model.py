"""The real store does what the fake does, whatever happens to both; nothing that is sent breaks one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.encryption.value_cipher import ValueCipher
from node.errors import RemoteProtocolError
from node.store import checkpoint as module
from node.store.checkpoint import Checkpoint
from node.store.memory import MemoryCheckpoint, MemoryStore
from node.store.snapshot import CHUNK_BYTES, Manifest
from node.store.store import Store
from node.store.transfer import SnapshotReceiver

channels = st.integers(1, 3)
operations = st.one_of(
    st.tuples(st.just("put"), channels, st.integers(1, 5), st.sampled_from([0, 1, 20, 700, 40_000])),
    st.tuples(st.just("repeat"), channels, st.integers(1, 5)),
    st.tuples(st.just("drop"), channels, st.integers(0, 8)),
    st.tuples(st.just("drop channel"), channels),
    st.tuples(st.just("begin"), st.dictionaries(st.binary(min_size=1, max_size=2), st.none() | st.binary())),
    st.tuples(st.just("end")),
    st.tuples(st.just("crash")),
)


class Both:
    """A store and a fake that are told the same."""

    def __init__(self, path: Path, cache_bytes: int, value_cipher: ValueCipher | None) -> None:
        self.path = path
        self.cache_bytes = cache_bytes
        self.value_cipher = value_cipher
        self.real = Store.open(path, cache_bytes=cache_bytes, value_cipher=value_cipher)
        self.fake = MemoryStore()
        self.jobs: tuple[Checkpoint, MemoryCheckpoint] | None = None
        self.index = 0
        self.ids = {1: 1, 2: 2, 3: 3}
        self.lasts: dict[int, int] = {}
        self.stored: tuple[dict[int, int], dict[int, int]] = ({1: 1, 2: 2, 3: 3}, {})
        self.encrypted = self.stored

    def do(self, operation: tuple[object, ...]) -> None:
        match operation:
            case ("put", int(name), int(count), int(size)):
                channel = self.ids[name]
                first = self.lasts.get(channel, 0) + 1
                messages = [(b"%d" % seq).ljust(size, b".") for seq in range(first, first + count)]
                self.lasts[channel] = first + count - 1
                self.put(channel, first, messages)
            case ("repeat", int(name), int(count)):
                channel = self.ids[name]
                first = max(1, self.lasts.get(channel, 0) - count + 1)
                self.put(channel, first, [b"repeated"] * (self.lasts.get(channel, 0) - first + 1))
            case ("drop", int(name), int(behind)):
                up_to = max(0, self.lasts.get(self.ids[name], 0) - behind)
                self.real.drop(self.ids[name], up_to)
                self.fake.drop(self.ids[name], up_to)
            case ("drop channel", int(name)):
                self.real.drop_channel(self.ids[name])
                self.fake.drop_channel(self.ids[name])
                self.ids = {**self.ids, name: max(self.ids.values()) + 1}
            case ("begin", dict(changes)) if self.jobs is None:
                self.index += 1
                applied, previous = (self.index, 1), (self.index - 1, 1)
                self.jobs = (
                    self.real.begin_checkpoint(applied, previous, changes.items()),
                    self.fake.begin_checkpoint(applied, previous, changes.items()),
                )
                self.encrypted = (dict(self.ids), dict(self.lasts))
            case ("end",) if self.jobs is not None:
                for job in self.jobs:
                    job.run()
                self.real.end_checkpoint(self.jobs[0])
                self.fake.end_checkpoint(self.jobs[1])
                self.jobs = None
                self.stored = self.encrypted
            case ("crash",):
                self.real.close()
                self.real = Store.open(
                    self.path, cache_bytes=self.cache_bytes, value_cipher=self.value_cipher
                )
                self.fake = self.fake.after_crash()
                self.jobs = None
                self.index = self.fake.applied[0]
                ids, lasts = self.stored
                self.ids, self.lasts = dict(ids), dict(lasts)

    def put(self, channel: int, first: int, messages: list[bytes]) -> None:
        self.real.put(channel, first, messages)
        self.fake.put(channel, first, messages)

    def check(self) -> None:
        assert self.real.applied == self.fake.applied
        assert self.real.previous == self.fake.previous
        assert list(self.real.records()) == list(self.fake.records())
        for channel in range(1, max(self.ids.values()) + 1):
            seqs = range(self.lasts.get(channel, 0) + 3)
            assert self.real.get_many(channel, seqs) == self.fake.get_many(channel, seqs)


@given(
    st.lists(operations, max_size=40),
    st.sampled_from([0, 3000, 1 << 20]),
    st.sampled_from([1, 1000]),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_the_fake_and_the_real_store_agree(
    steps: list[tuple[object, ...]], cache_bytes: int, garbage_max: int, encrypted: bool
) -> None:
    """Through drops, repeats, checkpoints begun and not ended, and crashes at any point; also sealed."""
    value_cipher = (
        ValueCipher({b"key-id-8": b"k" * 32}, b"key-id-8", "aes-256-gcm", "store") if encrypted else None
    )
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "GARBAGE_BLOCKS_MAX", garbage_max)
        both = Both(Path(directory) / "store", cache_bytes, value_cipher)
        try:
            for step in steps:
                both.do(step)
                both.check()
        finally:
            both.real.close()


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=40) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)
offers = st.tuples(
    st.just("offer"), st.lists(plain_values, min_size=8, max_size=8).map(lambda values: [1, *values[1:]])
).map(list)
parts = st.tuples(
    st.just("data"), st.text(max_size=3), st.integers(), st.integers(), st.binary(max_size=9)
).map(list)


@given(st.booleans(), st.lists(plain_values | offers | parts, max_size=6))
@settings(deadline=None, max_examples=100)
def test_any_garbage_is_a_protocol_error(offered: bool, values: list[object]) -> None:
    """Whatever a peer sends to a receiver, before or after a good offer."""
    manifest = Manifest(10, 3, (9, 2), CHUNK_BYTES, b"s" * 32, b"c" * 4)
    with tempfile.TemporaryDirectory() as directory:
        receiver = SnapshotReceiver(Path(directory))
        if offered:
            assert receiver.receive(["offer", manifest.to_plain()]) == [["need", manifest.snapshot_id, 0]]
        for value in values:
            with pytest.raises(RemoteProtocolError):
                receiver.receive(value)
        receiver.close()
