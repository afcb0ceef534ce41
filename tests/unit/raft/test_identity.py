"""A directory states its cluster and node, and is locked by one process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from node.errors import DiskError, IdentityError
from node.raft.disk import RealDisk
from node.raft.identity import (
    IDENTITY_FILE,
    DirectoryLock,
    Identity,
    load_identity,
    recover_identity,
    save_identity,
)
from node.simulator.disk import PowerCutError, SimulatedDisk

WHO = Identity(cluster_id="shop", cluster_uuid="f1", cluster_tag="t" * 22, node="a")


def test_saved_identity_is_loaded(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    assert load_identity(disk, cluster_id="shop", node="a") is None
    save_identity(disk, WHO)
    save_identity(disk, WHO)  # the same again is no change
    assert load_identity(disk, cluster_id="shop", node="a") == WHO
    assert disk.names() == [IDENTITY_FILE]


@pytest.mark.parametrize(
    ("cluster_id", "node", "text"),
    [("other", "a", "belongs to cluster 'shop'"), ("shop", "b", "belongs to node 'a'")],
)
def test_directory_of_another_is_refused(tmp_path: Path, cluster_id: str, node: str, text: str) -> None:
    """RST-10."""
    disk = RealDisk(tmp_path)
    save_identity(disk, WHO)
    with pytest.raises(IdentityError, match=text):
        load_identity(disk, cluster_id=cluster_id, node=node)


def test_another_cluster_uuid_never_overwrites(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    save_identity(disk, WHO)
    with pytest.raises(IdentityError, match="another cluster of the same name"):
        save_identity(disk, Identity("shop", "f2", "t" * 22, "a"))
    assert load_identity(disk, cluster_id="shop", node="a") == WHO


def test_every_flipped_bit_is_noticed_or_harmless() -> None:
    disk = SimulatedDisk(random.Random(1))
    save_identity(disk, WHO)
    for at in range(len(disk.content(IDENTITY_FILE))):
        for bit in range(8):
            disk.rot(IDENTITY_FILE, at, 1 << bit)
            with contextlib.suppress(IdentityError):
                assert load_identity(disk, cluster_id="shop", node="a") == WHO  # white space
            disk.rot(IDENTITY_FILE, at, 1 << bit)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"format": 1}', b"\xff", b'{"format":1,"identity":{},"sha256":""}']
)
def test_garbage_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / IDENTITY_FILE).write_bytes(text)
    with pytest.raises(IdentityError, match="damaged"):
        load_identity(RealDisk(tmp_path), cluster_id="shop", node="a")


def document(version: int, values: dict[str, str]) -> str:
    checksum = hashlib.sha256(json.dumps([version, values], sort_keys=True).encode()).hexdigest()
    return json.dumps({"format": version, "identity": values, "sha256": checksum})


def test_an_earlier_format_is_read(tmp_path: Path) -> None:
    """Format 1 has only the fields of initial members."""
    values = {"cluster_id": "shop", "founding_id": "f1", "cluster_tag": "t" * 22, "node": "a"}
    (tmp_path / IDENTITY_FILE).write_text(document(1, values))
    assert load_identity(RealDisk(tmp_path), cluster_id="shop", node="a") == WHO
    (tmp_path / IDENTITY_FILE).write_text(document(2, values))
    with pytest.raises(IdentityError, match="damaged"):
        load_identity(RealDisk(tmp_path), cluster_id="shop", node="a")


def test_a_joining_node_learns_the_tag_later(tmp_path: Path) -> None:
    """A node added at run time has the cluster UUID at once and receives the tag from the log; it is the same
    directory."""
    disk = RealDisk(tmp_path)
    joined = Identity("shop", "f1", "", "d", directory="x")
    save_identity(disk, joined)
    save_identity(disk, replace(joined, cluster_tag="t"))
    for other in (
        replace(joined, cluster_tag="u"),
        replace(joined, cluster_tag="t", directory="y"),
        replace(joined, cluster_tag="t", membership="00"),
        replace(joined, cluster_tag="t", recovered_from="f0"),
    ):
        with pytest.raises(IdentityError, match="another cluster of the same name"):
            save_identity(disk, other)


def test_recovered_data_belongs_to_another_cluster(tmp_path: Path) -> None:
    """The previous cluster is stored until the log contains the recovery; a second recovery keeps it."""
    disk = RealDisk(tmp_path)
    with pytest.raises(IdentityError, match="no data of a cluster"):
        recover_identity(disk, "new", "g1", "y")
    save_identity(disk, WHO)
    recovered = recover_identity(disk, "new", "g1", "y")
    assert recovered == replace(WHO, cluster_id="new", cluster_uuid="g1", directory="y", recovered_from="f1")
    assert load_identity(disk, cluster_id="new", node="a") == recovered
    with pytest.raises(IdentityError, match="belongs to cluster 'new'"):
        load_identity(disk, cluster_id="shop", node="a")
    assert recover_identity(disk, "newer", "g2", "z").recovered_from == "f1"
    done = Identity("newer", "g2", "t" * 22, "a", "z")
    save_identity(disk, done)
    assert load_identity(disk, cluster_id="newer", node="a") == done


def test_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / IDENTITY_FILE).write_text(document(3, {}))
    with pytest.raises(IdentityError, match="format 3"):
        load_identity(RealDisk(tmp_path), cluster_id="shop", node="a")


@pytest.mark.parametrize("seed", range(30))
def test_power_cut_leaves_all_or_nothing(seed: int) -> None:
    """After a power failure at any point the identity is complete or missing, and can be saved again."""
    disk = SimulatedDisk(random.Random(seed))
    disk.stop_after(seed % 6)
    try:
        save_identity(disk, WHO)
        saved = True
    except PowerCutError:
        saved = False
    disk.power_cut()
    found = load_identity(disk, cluster_id="shop", node="a")
    assert found == WHO if saved else found in (None, WHO)
    save_identity(disk, WHO)
    assert load_identity(disk, cluster_id="shop", node="a") == WHO


def test_second_process_is_kept_out(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path), pytest.raises(IdentityError, match=rf"another process .*{os.getpid()}"):
        DirectoryLock(tmp_path).acquire()
    with DirectoryLock(tmp_path):
        pass


def test_lock_needs_the_directory(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="No such file"):
        DirectoryLock(tmp_path / "missing").acquire()
