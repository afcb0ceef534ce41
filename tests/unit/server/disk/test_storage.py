"""What a node keeps is opened whole, or not at all; in memory there is no directory."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from node.config.model import Cluster, Config, Encryption, Node, PreviousKey, Raft, Store
from node.config.values import Address, Secret
from node.encryption import document
from node.encryption.keyring import Keyring
from node.errors import ConfigError, CorruptionError, DiskError, IdentityError
from node.raft import disk as disk_module
from node.raft.identity import Identity, save_identity
from node.raft.membership import Membership
from node.server.disk.storage import open_storage
from node.server.membership.node_identity import bootstrap_node, first_members
from node.store import store as lmdb_store
from node.store.snapshot import install, produce


def config(directory: Path, kind: str = "file", *phrases: str) -> Config:
    """For a node that encrypts, if there are pass phrases."""
    nodes = MappingProxyType({"n1": Node(Address("127.0.0.1", 4222))})
    key, *before = [Secret("text", phrase) for phrase in phrases] or [None]
    encryption = Encryption(key=key, previous_keys=tuple(PreviousKey(old) for old in before if old))
    store = Store(store=kind, dir=directory, encryption=encryption if phrases else None)
    return Config(cluster=Cluster(nodes=nodes), store=store)


def test_a_directory_is_made_and_kept(tmp_path: Path) -> None:
    """Identity, journal and store are found again; nobody else may open them meanwhile."""
    here = config(tmp_path / "data")
    identity = bootstrap_node("test-cluster", "n1", Membership.initial_voters(["n1"]))
    with ExitStack() as stack:
        storage = open_storage(here, "n1", stack)
        assert storage.identity is None
        save_identity(storage.disk, identity)
        storage.journal.append(1, 1, b"entry")
        flush = storage.journal.begin_flush()
        assert flush is not None
        flush.run()
        storage.journal.end_flush(flush)
        with ExitStack() as other, pytest.raises(IdentityError, match="another process"):
            open_storage(here, "n1", other)
    with ExitStack() as stack:
        storage = open_storage(here, "n1", stack)
        assert storage.identity == identity
        assert storage.journal.payload_at(1) == b"entry"
        assert storage.store.applied == (0, 0)
    with ExitStack() as stack, pytest.raises(IdentityError, match="n1"):
        open_storage(here, "n2", stack)


def test_a_new_directory_is_for_its_owner_only_and_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What clients published lies there. And no power cut may take the directory itself: the node that found
    none afterwards would take itself for a new one."""
    synced: list[Path] = []
    monkeypatch.setattr(disk_module, "_sync_directory", synced.append)
    with ExitStack() as stack:
        open_storage(config(tmp_path / "data" / "n1"), "n1", stack)
    assert (tmp_path / "data" / "n1").stat().st_mode & 0o777 == 0o700
    assert {tmp_path, tmp_path / "data"} <= {*synced}


def test_files_that_an_earlier_release_made_for_the_group_become_the_owners(tmp_path: Path) -> None:
    directory = tmp_path / "data" / "n1"
    with ExitStack() as stack:
        open_storage(config(directory), "n1", stack)
    mode = {path: path.stat().st_mode & 0o777 for path in directory.rglob("*")}
    assert all(each & 0o077 == 0 for each in mode.values()), mode
    (directory / "store").chmod(0o750)
    (directory / "store" / "data.mdb").chmod(0o640)
    (directory / "somebody's.txt").touch(mode=0o644)
    with ExitStack() as stack:
        open_storage(config(directory), "n1", stack)
    assert (directory / "store").stat().st_mode & 0o777 == 0o700
    assert (directory / "store" / "data.mdb").stat().st_mode & 0o777 == 0o600
    assert (directory / "somebody's.txt").stat().st_mode & 0o077


def test_a_directory_that_can_not_be_made_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"in the way")
    with ExitStack() as stack, pytest.raises(DiskError, match="data"):
        open_storage(config(tmp_path / "data" / "n1"), "n1", stack)


def test_an_identity_that_names_no_members_gets_them_at_the_first_start(tmp_path: Path) -> None:
    """One of an earlier format. Later changes of the file are none of who votes."""
    here = config(tmp_path)
    with ExitStack() as stack:
        save_identity(open_storage(here, "n1", stack).disk, Identity("test-cluster", "f", "t", "n1"))
    nodes = {name: Node(Address("127.0.0.1", 4222)) for name in ("n1", "n2", "n3")}
    three = replace(here, cluster=Cluster(nodes=MappingProxyType(nodes)))
    for changed in (three, here):
        with ExitStack() as stack:
            storage = open_storage(changed, "n1", stack)
            assert storage.identity is not None
            assert storage.identity.cluster_uuid == "f"
            assert first_members(storage.identity, Membership.initial_voters(["n1"])) == (
                0,
                Membership.initial_voters(nodes),
            )


def test_relaxed_durability_says_so_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At every start; it is the journal that doesn't wait for the disk."""
    here = replace(config(tmp_path), raft=Raft(durability="relaxed"))
    with ExitStack() as stack:
        journal = open_storage(here, "n1", stack).journal
        journal.append(1, 1, b"entry")
        flush = journal.begin_flush()
        assert flush is not None
        assert flush._relaxed
        flush.run()
        journal.end_flush(flush)
    (warning,) = caplog.messages
    assert warning.startswith(
        "raft.durability is relaxed: publishes are acknowledged before they are on any disk"
    )


def test_a_snapshot_whose_journal_did_not_follow(tmp_path: Path) -> None:
    """The process died between the two; the journal goes on behind what is in the store."""
    here = config(tmp_path)
    with ExitStack() as stack:
        store = open_storage(here, "n1", stack).store
        job = store.begin_checkpoint((7, 3), (6, 2), [(b"key", b"value")])
        job.run()
        store.end_checkpoint(job)
    with ExitStack() as stack:
        storage = open_storage(here, "n1", stack)
        assert storage.journal.term_at(7) == 3
        assert storage.journal.term_at(6) == 2
        assert storage.journal.last_index == 7


def test_a_snapshot_whose_journal_did_not_follow_brought_its_members(tmp_path: Path) -> None:
    """Whoever belonged to the cluster by the log before it, perhaps uncommitted, is of no interest."""
    here = config(tmp_path / "here")
    other = lmdb_store.Store.open(tmp_path / "other")
    job = other.begin_checkpoint((7, 3), (6, 2), [(b"key", b"value")])
    job.run()
    other.end_checkpoint(job)
    received = produce(other, tmp_path / "received")
    other.close()
    with ExitStack() as stack:
        storage = open_storage(here, "n1", stack)
        storage.journal.append(1, 1, b"\x02members of a log that is gone")
        flush = storage.journal.begin_flush()
        assert flush is not None
        flush.run()
        storage.journal.end_flush(flush)
    directory = next(path for path in (tmp_path / "here").rglob("store") if path.is_dir())
    install(received, directory, note=b"members at entry 7").close()
    with ExitStack() as stack:
        journal = open_storage(here, "n1", stack).journal
        assert (journal.last_index, journal.membership) == (7, (7, b"members at entry 7"))


def member(here: Config, last: int, applied: int, *, dropped: int = 0) -> None:
    """A node with a vote, a log up to entry ``last`` and a store of entry ``applied``."""
    with ExitStack() as stack:
        storage = open_storage(here, "n1", stack)
        save_identity(storage.disk, Identity("test-cluster", "f", "t", "n1"))
        storage.journal.set_term(7, "n1")
        for index in range(1, last + 1):
            storage.journal.append(index, 1, bytes(100))
        flush = storage.journal.begin_flush()
        assert flush is not None
        flush.run()
        storage.journal.end_flush(flush)
        storage.journal.drop_before(dropped)
        sweep = storage.journal.begin_sweep()
        if sweep is not None:
            sweep.run()
        if applied:
            job = storage.store.begin_checkpoint((applied, 1), (applied - 1, 1), [])
            job.run()
            storage.store.end_checkpoint(job)


@pytest.mark.parametrize("applied", [0, 80])
@pytest.mark.parametrize("remains", [False, True])
def test_without_its_journal_a_node_is_refused(tmp_path: Path, applied: int, *, remains: bool) -> None:
    """It would vote a second time in a term, and lack what it acknowledged: the disk wasn't mounted."""
    here = config(tmp_path)
    member(here, 100, applied)
    shutil.rmtree(tmp_path / "journal")
    if remains:
        (tmp_path / "journal").mkdir()
        (tmp_path / "journal" / "lost+found").mkdir()
    for _ in range(2):
        with (
            ExitStack() as stack,
            pytest.raises(IdentityError, match=r"journal of node n1 is gone.*replace n1"),
        ):
            open_storage(here, "n1", stack)


@pytest.mark.parametrize("applied", [0, 3])
def test_a_store_from_before_the_journal_begins_is_refused(tmp_path: Path, applied: int) -> None:
    """The store's directory is gone, or is an old copy, and the journal no longer reaches back to it."""
    here = replace(config(tmp_path / "here"), raft=Raft(journal_segment=8192))
    member(config(tmp_path / "old"), 200, applied)
    member(here, 200, 190, dropped=180)
    shutil.rmtree(tmp_path / "here" / "store")
    (tmp_path / "old" / "store").rename(tmp_path / "here" / "store")
    with ExitStack() as stack, pytest.raises(CorruptionError, match=r"the store .*older copy.*replace"):
        open_storage(here, "n1", stack)


def test_a_journal_that_ends_before_the_store_is_refused(tmp_path: Path) -> None:
    """An old copy. Only a snapshot, which leaves a note, or a power cut makes the store the newer one."""
    here = config(tmp_path / "here")
    member(config(tmp_path / "old"), 50, 40)
    member(here, 100, 80)
    shutil.rmtree(tmp_path / "here" / "journal")
    (tmp_path / "old" / "journal").rename(tmp_path / "here" / "journal")
    with (
        ExitStack() as stack,
        pytest.raises(CorruptionError, match=r"ends at entry 50, .* store has entry 80"),
    ):
        open_storage(here, "n1", stack)
    with ExitStack() as stack:
        relaxed = replace(here, raft=Raft(durability="relaxed"))
        assert open_storage(relaxed, "n1", stack).journal.last_index == 80


def test_in_memory_nothing_is_written_and_nothing_is_found(tmp_path: Path) -> None:
    here = config(tmp_path / "never", "memory")
    for _ in range(2):
        with ExitStack() as stack:
            storage = open_storage(here, "n1", stack)
            assert storage.identity is None
            assert storage.journal.last_index == 0
            storage.journal.append(1, 1, b"entry")
            save_identity(storage.disk, Identity("test-cluster", "f", "t", "n1"))
            storage.store.put(1, 1, [b"message"])
    assert list(tmp_path.iterdir()) == []


def test_opened_storage_is_closed_when_a_later_step_fails(tmp_path: Path) -> None:
    """A store that can't be opened leaves neither a lock nor an open journal behind."""
    (tmp_path / "store").write_text("not a directory")
    for _ in range(2):
        with ExitStack() as stack, pytest.raises(DiskError, match="store"):
            open_storage(config(tmp_path), "n1", stack)
    (tmp_path / "store").unlink()
    with ExitStack() as stack:
        open_storage(config(tmp_path), "n1", stack)


# --- encrypted -------------------------------------------------------------------------------------


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass phrase costs a quarter of a second; not here."""
    monkeypatch.setattr(document, "_N", 16)


def write(here: Config, index: int) -> None:
    """An entry in the journal, a message and a record in the store."""
    with ExitStack() as stack:
        storage = open_storage(here, "n1", stack)
        if storage.identity is None:
            save_identity(storage.disk, Identity("test-cluster", "f", "t", "n1"))
        storage.journal.append(index, 1, b"the-payload in the journal")
        flush = storage.journal.begin_flush()
        assert flush is not None
        flush.run()
        storage.journal.end_flush(flush)
        storage.store.put(1, index, [b"the-payload in the store"])
        job = storage.store.begin_checkpoint((index, 1), (index - 1, 1), [(b"c%d" % index, b"the-client")])
        job.run()
        storage.store.end_checkpoint(job)


def check(here: Config, last: int) -> None:
    with ExitStack() as stack:
        storage = open_storage(here, "n1", stack)
        for index in range(1, last + 1):
            assert storage.journal.payload_at(index) == b"the-payload in the journal"
            assert storage.store.get(1, index) == b"the-payload in the store"
        assert len(list(storage.store.records())) == last


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("cheap")
def test_encrypted_nothing_is_readable_and_everything_is_found_again(tmp_path: Path) -> None:
    here = config(tmp_path, "file", "pass")
    write(here, 1)
    write(here, 2)
    check(here, 2)
    for path in files(tmp_path):
        content = path.read_bytes()
        assert b"the-payload" not in content, path
        assert b"the-client" not in content, path


@pytest.mark.usefixtures("cheap")
def test_encryption_is_neither_turned_on_nor_off_by_the_way(tmp_path: Path) -> None:
    """A plain directory isn't sealed from some day on, and a sealed one needs its pass phrase."""
    plain, encrypted = config(tmp_path / "plain"), config(tmp_path / "sealed", "file", "pass")
    write(plain, 1)
    write(encrypted, 1)
    for here, wrong, why in (
        (plain, config(tmp_path / "plain", "file", "pass"), "can't be encrypted where it is"),
        (encrypted, config(tmp_path / "sealed"), "no store.encryption"),
        (encrypted, config(tmp_path / "sealed", "file", "another"), "not the one"),
    ):
        with ExitStack() as stack, pytest.raises(ConfigError, match=why):
            open_storage(wrong, "n1", stack)
        check(here, 1)


@pytest.mark.usefixtures("cheap")
def test_the_keys_are_made_before_there_is_anything_else(tmp_path: Path) -> None:
    """Else a node that ended during its first start could not start again."""
    (tmp_path / "store").write_text("not a directory")
    here = config(tmp_path, "file", "pass")
    with ExitStack() as stack, pytest.raises(ConfigError):
        open_storage(here, "n1", stack)
    (tmp_path / "store").unlink()
    Keyring.open(tmp_path, ["pass"], cipher="aes-256-gcm", empty=True)
    write(here, 1)
    check(here, 1)


@pytest.mark.usefixtures("cheap")
def test_data_without_its_keys_is_not_taken_for_anything(tmp_path: Path) -> None:
    """Whoever deletes sealing.json gets neither a node that begins anew nor one that reads ciphertext."""
    here = config(tmp_path, "file", "pass")
    write(here, 1)
    (tmp_path / "sealing.json").unlink()
    with ExitStack() as stack, pytest.raises(ConfigError, match="from a copy"):
        open_storage(here, "n1", stack)
    with ExitStack() as stack, pytest.raises(CorruptionError, match="no key"):
        open_storage(config(tmp_path), "n1", stack)


@pytest.mark.usefixtures("cheap")
def test_a_changed_pass_phrase_takes_copies_of_the_old_keys_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write(config(tmp_path, "file", "pass"), 1)
    copies = [tmp_path / name for name in ("snapshots", "received")]
    for phrases in (["new", "pass"], ["new"]):
        for copy in copies:
            (copy / "1-1").mkdir(parents=True)
            (copy / "1-1" / "manifest").write_bytes(b"keys")
        caplog.clear()
        check(config(tmp_path, "file", *phrases), 1)
        assert "is encrypted with key" in caplog.text
        assert not any(copy.exists() for copy in copies)
    write(config(tmp_path, "file", "new"), 2)
    check(config(tmp_path, "file", "new"), 2)
    with ExitStack() as stack, pytest.raises(ConfigError, match="not the one"):
        open_storage(config(tmp_path, "file", "pass"), "n1", stack)
