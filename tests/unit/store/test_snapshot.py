from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from node.encryption.keyring import Keyring
from node.errors import CorruptionError, DiskError, NodeError, RemoteProtocolError
from node.store import snapshot as module
from node.store.snapshot import (
    CHUNK_BYTES,
    Manifest,
    Snapshot,
    find_all,
    install,
    install_note_of,
    load,
    open_reader,
    produce,
)
from node.store.store import Store


def run(store: Store, index: int, term: int = 3) -> None:
    job = store.begin_checkpoint((index, term), (index - 1, 2), [(b"index", b"%d" % index)])
    job.run()
    store.end_checkpoint(job)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store at index 10 with two channels."""
    store = Store.open(tmp_path / "origin")
    store.put(1, 1, [b"message %d" % seq for seq in range(1, 2001)])
    store.put(2, 1, [os.urandom(1000) for _ in range(1000)])
    store.drop(1, 100)
    run(store, 10)
    yield store
    store.close()


def contents(store: Store) -> tuple[object, ...]:
    return (
        store.applied,
        store.previous,
        list(store.records()),
        store.get_many(1, range(1, 2002)),
        store.get_many(2, range(1, 1001)),
    )


# --- producing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [b"message 1234", b"index"])
def test_a_damaged_store_is_not_handed_on(store: Store, tmp_path: Path, part: bytes) -> None:
    """The simulator saw one node's rotten disk stop those who took a snapshot of it."""
    data = tmp_path / "origin" / "data.mdb"
    content = data.read_bytes()
    places = [at for at in range(len(content)) if content.startswith(part, at)]
    with data.open("r+b") as file:
        for at in places:
            file.seek(at + len(part) - 1)
            file.write(b"!")
    with pytest.raises(CorruptionError):
        produce(store, tmp_path / "snapshots")
    assert find_all(tmp_path / "snapshots") == []


def test_a_snapshot_says_what_it_is(store: Store, tmp_path: Path) -> None:
    """Index, term, the entry before, and the shell's own context; a whole one is found again."""
    made = produce(store, tmp_path / "snapshots", context=b"members")
    assert made.path == tmp_path / "snapshots" / "3-10"
    manifest = made.manifest
    assert (manifest.index, manifest.term, manifest.previous, manifest.context) == (10, 3, (9, 2), b"members")
    assert manifest.size == made.data.stat().st_size > 4 * CHUNK_BYTES
    assert find_all(tmp_path / "snapshots") == [made]
    assert Manifest.from_plain(msgpack.unpackb(msgpack.packb(manifest.to_plain()))) == manifest
    assert sorted(path.name for path in made.path.iterdir()) == ["data.mdb", "manifest"]


def test_a_snapshot_is_of_the_last_checkpoint(store: Store, tmp_path: Path) -> None:
    """What is pending or put later isn't in it."""
    expected = contents(store)
    store.put(1, 2001, [b"pending"])
    made = produce(store, tmp_path / "snapshots")
    run(store, 11)
    copy = install(made, tmp_path / "copy")
    try:
        assert contents(copy) == expected
    finally:
        copy.close()


def test_two_are_kept(store: Store, tmp_path: Path) -> None:
    """The newest; one that is being read stays readable."""
    directory = tmp_path / "snapshots"
    first = produce(store, directory)
    read = open_reader(first)
    for index in (11, 12):
        run(store, index)
        produce(store, directory)
    assert [found.manifest.index for found in find_all(directory)] == [12, 11]
    assert not first.path.exists()
    assert len(read(0, CHUNK_BYTES)) == CHUNK_BYTES
    read.close()
    with pytest.raises(DiskError):
        open_reader(first)


def test_nothing_new_is_copied_once(store: Store, tmp_path: Path) -> None:
    """A second snapshot of the same index is the first."""
    made = produce(store, tmp_path / "snapshots")
    assert produce(store, tmp_path / "snapshots") == made


def test_what_is_not_whole_is_no_snapshot(store: Store, tmp_path: Path) -> None:
    """Leftovers of a crash, a cut file, a damaged manifest: passed over, and replaced when needed."""
    directory = tmp_path / "snapshots"
    assert find_all(directory) == []
    made = produce(store, directory)
    (directory / "copy.tmp").mkdir()
    (directory / "4-99").mkdir()
    assert find_all(directory) == [made]
    manifest = (made.path / "manifest").read_bytes()
    (made.path / "manifest").write_bytes(manifest[:20] + b"x" + manifest[21:])
    assert find_all(directory) == []
    made = produce(store, directory)
    assert find_all(directory) == [made]
    os.truncate(made.data, 4096)
    assert load(made.path) is None


def test_a_copy_that_would_fill_the_disk_is_not_begun(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that makes it lives on that disk."""
    status = os.statvfs(tmp_path)
    little = 2 * store.bytes_on_disk // status.f_frsize - 1

    class Status:
        f_bavail, f_frsize = little, status.f_frsize

    monkeypatch.setattr(os, "statvfs", lambda path: Status)
    with pytest.raises(DiskError, match="no space for a snapshot"):
        produce(store, tmp_path / "snapshots")
    assert not list((tmp_path / "snapshots").iterdir())


def test_a_full_disk_is_a_disk_error(store: Store, tmp_path: Path) -> None:
    """So is a place that can't be written."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match="can't be written"):
        produce(store, tmp_path / "file")


# --- manifests of peers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain[:-1],
        lambda plain: [2, *plain[1:]],
        lambda plain: [*plain[:4], 0, *plain[5:]],
        lambda plain: [*plain[:4], 1 << 62, *plain[5:]],
        lambda plain: [*plain[:4], -5, *plain[5:]],
        lambda plain: [*plain[:5], b"short", *plain[6:]],
        lambda plain: [*plain[:6], plain[6] + b"\0\0\0\0", plain[7]],
        lambda plain: [*plain[:7], b"x" * 70_000],
        lambda plain: [*plain[:3], [99, 1], *plain[4:]],
        lambda plain: [plain[0], -1, *plain[2:]],
        lambda plain: [plain[0], "10", *plain[2:]],
        lambda plain: {"manifest": plain},
        lambda plain: None,
    ],
)
def test_a_manifest_that_makes_no_sense(change: Callable[[Any], object]) -> None:
    """Is the peer's fault, and nothing else happens."""
    size = CHUNK_BYTES + 1
    plain = Manifest(10, 3, (9, 2), size, b"s" * 32, b"c" * 8).to_plain()
    assert Manifest.from_plain(plain).size == size
    with pytest.raises(RemoteProtocolError):
        Manifest.from_plain(change(plain))


# --- installing ----------------------------------------------------------------------------------


def received_from(store: Store, tmp_path: Path) -> Snapshot:
    return produce(store, tmp_path / "received")


def test_install_replaces_a_store(store: Store, tmp_path: Path) -> None:
    """All of it, and the new one goes on from there."""
    old = Store.open(tmp_path / "store")
    old.put(1, 1, [b"old"])
    old.put(9, 1, [b"old"])
    run(old, 5)
    old.close()
    received = received_from(store, tmp_path)
    new = install(received, tmp_path / "store")
    try:
        assert contents(new) == contents(store)
        assert new.get(9, 1) is None
        assert not received.path.exists()
        new.put(1, 2001, [b"on"])
        run(new, 11)
        assert new.get_many(1, [2000, 2001]) == [b"message 2000", b"on"]
    finally:
        new.close()


class Crash(BaseException):
    """The process ends here."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the process end before the given file operation of ``install``."""
    count = 0

    def guarded(operation: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            nonlocal count
            if count == step:
                raise Crash
            count += 1
            return operation(*args, **options)

        return call

    monkeypatch.setattr(module, "sync_file", guarded(module.sync_file))
    monkeypatch.setattr(module, "sync_directory", guarded(module.sync_directory))
    monkeypatch.setattr(module.shutil, "rmtree", guarded(module.shutil.rmtree))
    for name in ("mkdir", "unlink", "rename"):
        monkeypatch.setattr(Path, name, guarded(getattr(Path, name)))
    monkeypatch.setattr(Store, "open", guarded(Store.open))


def test_a_crash_while_installing_leaves_the_old_or_the_new(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it falls; and installing again, if it still can be, makes it the new one."""
    outcomes: list[str] = []
    for step in range(20):
        path = tmp_path / f"store{step}"
        old = Store.open(path)
        old.put(1, 1, [b"old"])
        run(old, 5)
        expected_old = contents(old)
        old.close()
        received = received_from(store, tmp_path)
        with monkeypatch.context() as patched:
            crash_at(patched, step)
            try:
                install(received, path).close()
                crashed = False
            except Crash:
                crashed = True
        after = Store.open(path)
        found = contents(after)
        after.close()
        assert found in (expected_old, contents(store))
        outcomes.append("old" if found == expected_old else "new")
        if outcomes[-1] == "old":
            again = install(received, path)
            assert contents(again) == contents(store)
            again.close()
        if not crashed:
            break
    else:
        pytest.fail("more steps than expected")
    assert outcomes == sorted(outcomes, reverse=True), "old until the rename, new from then on"
    assert outcomes.count("old") >= 4
    assert outcomes.count("new") >= 3


def test_a_note_lies_beside_the_store_before_it_is_the_new_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the process ends: the new store has the new note, the old store the old one or none."""
    seen = set()
    for step in range(25):
        path = tmp_path / f"noted{step}"
        with monkeypatch.context() as patched:
            crash_at(patched, step)
            try:
                install(received_from(store, tmp_path), path, note=b"note").close()
                crashed = False
            except Crash:
                crashed = True
        if (path / "data.mdb").exists():
            installed = Store.open(path)
            assert install_note_of(path, installed.applied) == b"note"
            assert install_note_of(path, (installed.applied[0] + 1, installed.applied[1])) == b""
            installed.close()
        seen.add((path / "data.mdb").exists())
        if not crashed:
            break
    else:
        pytest.fail("more steps than expected")
    assert seen == {False, True}
    assert install_note_of(tmp_path / "nowhere", (1, 1)) == b""


def test_the_rename_is_made_durable(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before it gets its name, the directory after."""
    received = received_from(store, tmp_path)
    target = tmp_path / "store" / "data.mdb"
    seen: list[tuple[str, bool]] = []
    sync_file, sync_directory = module.sync_file, module.sync_directory

    def watched_file(path: Path) -> None:
        seen.append((path.parent.name, target.exists()))
        sync_file(path)

    def watched_directory(path: Path) -> None:
        seen.append((path.name, target.exists()))
        sync_directory(path)

    monkeypatch.setattr(module, "sync_file", watched_file)
    monkeypatch.setattr(module, "sync_directory", watched_directory)
    install(received, tmp_path / "store").close()
    assert seen == [("3-10", False), (tmp_path.name, False), ("store", True)]


def test_a_snapshot_of_another_index_is_not_installed(store: Store, tmp_path: Path) -> None:
    """A manifest that lies about its contents is the peer's fault; the old store stays."""
    received = received_from(store, tmp_path)
    lying = Snapshot(received.path, replace(received.manifest, index=11))
    with pytest.raises(RemoteProtocolError, match="another index"):
        install(lying, tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("damage", [b"", b"garbage" * 5000])
def test_what_is_no_store_is_not_installed(store: Store, tmp_path: Path, damage: bytes) -> None:
    received = received_from(store, tmp_path)
    received.data.write_bytes(damage)
    with pytest.raises((RemoteProtocolError, DiskError)) as raised:
        install(received, tmp_path / "store")
    assert isinstance(raised.value, NodeError)
    assert not (tmp_path / "store").exists()


# --- encrypted ----------------------------------------------------------------------------------------


def encrypted_store(path: Path, keyring: Keyring) -> Store:
    store = Store.open(path, value_cipher=keyring.value_cipher("store"))
    store.put(1, 1, [b"the payload %d" % seq for seq in range(1, 2001)])
    run(store, 10)
    return store


def test_another_node_reads_an_encrypted_snapshot(tmp_path: Path, keyring: Callable[..., Keyring]) -> None:
    """Whose directory has other keys: those of the origin travel with it."""
    theirs, ours = keyring("n1"), keyring("n2")
    origin = encrypted_store(tmp_path / "origin", theirs)
    made = produce(origin, tmp_path / "snapshots", context=theirs.export())
    expected = contents(origin)
    origin.close()
    assert b"the payload" not in made.data.read_bytes()
    ours.adopt(made.manifest.context)
    new = install(made, tmp_path / "copy", value_cipher=ours.value_cipher("store"))
    assert contents(new) == expected
    new.put(1, 2001, [b"and on"])
    run(new, 11)
    new.close()
    again = Store.open(tmp_path / "copy", value_cipher=keyring("n2").value_cipher("store"))
    assert again.get_many(1, [2000, 2001]) == [b"the payload 2000", b"and on"]
    again.close()


def test_a_snapshot_without_its_keys_is_not_installed(
    tmp_path: Path, keyring: Callable[..., Keyring]
) -> None:
    origin = encrypted_store(tmp_path / "origin", keyring("n1"))
    made = produce(origin, tmp_path / "snapshots")
    origin.close()
    for value_cipher in (None, keyring("n2").value_cipher("store")):
        with pytest.raises(RemoteProtocolError):
            install(made, tmp_path / "copy", value_cipher=value_cipher)
    assert not (tmp_path / "copy").exists()


def test_a_snapshot_is_made_anew_when_its_keys_have_changed(store: Store, tmp_path: Path) -> None:
    """Who is to receive it may not be able to read the old ones any more."""
    first = produce(store, tmp_path / "snapshots", context=b"old keys")
    again = produce(store, tmp_path / "snapshots", context=b"new keys")
    assert again.manifest.context == b"new keys"
    assert find_all(tmp_path / "snapshots") == [again]
    assert first.path == again.path
