"""A cluster of one node's data: what is said of it, and what is refused."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from node.config.load import load
from node.config.model import Config
from node.core.commands import (
    InitCluster,
    NewTerm,
)
from node.core.entries import (
    Entry,
    encode_entry,
    encode_leader_command,
)
from node.errors import ConfigError, IdentityError, RefusedError
from node.raft.disk import RealDisk
from node.raft.identity import DirectoryLock, Identity, read_identity, save_identity
from node.raft.journal import Journal
from node.raft.membership import Member, Membership
from node.raft.ports import EntryType
from node.server.disk.recovering import recover
from node.server.disk.storage import open_storage
from node.server.membership.bootstrap import Bootstrap
from node.server.membership.members import Members
from node.server.membership.node_identity import first_members

STAMP = 1_790_000_000_000_000_000


def config(folder: Path, cluster_id: str = "after", **store: Any) -> Config:
    file = folder / f"{cluster_id}.yaml"
    nodes = "{n1: {client: '127.0.0.1:1', peer: '127.0.0.1:2'}}"
    lines = "".join(f"\n  {key}: {value}" for key, value in store.items())
    file.write_text(
        f"cluster: {{id: {cluster_id}, nodes: {nodes}}}\nstore:\n  dir: data{lines}\n", encoding="utf-8"
    )
    return load(str(file), node="n1")


def entry(*commands: Any) -> bytes:
    return bytes([EntryType.BATCH]) + encode_entry(
        Entry(1, 5, STAMP, [encode_leader_command(command) for command in commands], [])
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the directory of a node of cluster ``before``, whose log has four entries."""
    with ExitStack() as stack:
        storage = open_storage(config(tmp_path, "before"), "n1", stack)
        save_identity(storage.disk, Identity("before", "f", "tag", "n1"))
        journal = storage.journal
        journal.append(1, 0, bytes([EntryType.NO_OP]))
        journal.append(2, 1, bytes([EntryType.NO_OP]))
        journal.append(3, 1, entry(NewTerm(1, 1), InitCluster(1, "f", "tag")))
        journal.append(4, 2, bytes([EntryType.NO_OP]))
        flush = journal.begin_flush()
        assert flush is not None
        flush.run()
        journal.end_flush(flush)
    return tmp_path


def identity(folder: Path) -> Identity | None:
    return read_identity(RealDisk(folder / "data"))


def test_the_data_becomes_another_clusters(folder: Path) -> None:
    """Its only member is this node, with a directory of its own; nothing of the log is cut off."""
    looked = recover(config(folder), "n1", pretend=True)
    assert identity(folder) == Identity("before", "f", "tag", "n1")
    recovered = recover(config(folder), "n1")
    assert recovered == looked
    assert (recovered.old_cluster, recovered.new_cluster, recovered.index) == ("before", "after", 4)
    assert recovered.timestamp_ns == STAMP
    new = identity(folder)
    assert new is not None
    assert (new.cluster_id, new.node, new.recovered_from) == ("after", "n1", "f")
    assert new.cluster_uuid not in {"", "f"}
    journal = Journal.open(RealDisk(folder / "data" / "journal"))
    assert journal.membership is not None
    index, encoded = journal.membership
    member = Membership.decode(encoded).get("n1")
    assert member is not None
    assert (index, member.voter, member.directory) == (5, True, new.directory)
    assert journal.term_at(5) == 2
    journal.close()


def test_once_more_is_another_cluster_again(folder: Path) -> None:
    recover(config(folder), "n1")
    with pytest.raises(RefusedError, match="needs another ID"):
        recover(config(folder), "n1")
    recover(config(folder, "later"), "n1")
    new = identity(folder)
    assert new is not None
    assert (new.cluster_id, new.recovered_from) == ("later", "f")


def test_earlier_log_entries_are_ignored(folder: Path) -> None:
    """Its last entry, never committed, removed n1: that is applied as well, and must not end the node."""
    with ExitStack() as stack:
        journal = open_storage(config(folder, "before"), "n1", stack).journal
        journal.append(5, 2, bytes([EntryType.MEMBERSHIP]) + Membership.initial_voters(["n2", "n3"]).encode())
        flush = journal.begin_flush()
        assert flush is not None
        flush.run()
        journal.end_flush(flush)
    recover(config(folder), "n1")
    new = identity(folder)
    assert new is not None
    since, first = first_members(new, Membership.initial_voters(["n1", "n2", "n3"]))
    only = Membership((Member("n1", "", True, new.directory),))
    assert (since, first) == (6, only)
    ended: list[int] = []
    bootstrap = Bootstrap("n1", "after", ["n1"], new, "c:1", lambda: None)
    members = Members(
        "n1", {}, bootstrap, directory=new.directory, since=since, removed=ended.append, changed=lambda: None
    )
    members.membership_changed(only, 6)
    members.membership_committed(Membership.initial_voters(["n2", "n3"]), 5)
    members.membership_committed(only, 6)
    assert ended == []
    members.membership_changed(Membership.initial_voters(["n2"]), 9)
    members.membership_committed(Membership.initial_voters(["n2"]), 9)
    assert ended == [9]


def test_the_old_id_is_refused(folder: Path) -> None:
    """Nodes of the old cluster that come back would take it for their own."""
    with pytest.raises(RefusedError, match="the new cluster needs another ID"):
        recover(config(folder, "before"), "n1")
    assert identity(folder) == Identity("before", "f", "tag", "n1")
    assert recover(config(folder, "before"), "n1", pretend=True).index == 4


def test_a_running_node_is_left_alone(folder: Path) -> None:
    with DirectoryLock(folder / "data"), pytest.raises(IdentityError, match="another process uses"):
        recover(config(folder), "n1")


def test_a_node_keeps_its_name(folder: Path) -> None:
    with pytest.raises(IdentityError, match="this is data of node n1"):
        recover(config(folder), "n2")


def test_where_there_is_nothing_nothing_is_recovered(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="no such directory"):
        recover(config(tmp_path), "n1")
    (tmp_path / "data").mkdir()
    with pytest.raises(IdentityError, match="no cluster's data"):
        recover(config(tmp_path), "n1")


def test_a_directory_that_can_not_be_read_is_left_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "a pass phrase")
    with pytest.raises(ConfigError):
        recover(config(folder, encryption="{key_env: KEY}"), "n1")
    assert identity(folder) == Identity("before", "f", "tag", "n1")
