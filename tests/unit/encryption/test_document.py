"""The file of keys: whatever is wrong with it is found, wherever it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.encryption.document import ENCRYPTION_FILE, checksum_of
from node.encryption.keyring import Keyring
from node.encryption.value_cipher import ValueCipher
from node.errors import CorruptionError, RemoteProtocolError

from .conftest import opened


def spoiled(document: bytes, **values: object) -> bytes:
    """The file with something else in it, its checksum right again."""
    whole = json.loads(document)
    changed = {**whole["sealing"], **values}
    version = whole["format"] if "format" not in values else changed.pop("format")
    return json.dumps(
        {"format": version, "sealing": changed, "sha256": checksum_of([version, changed])}
    ).encode()


GARBAGE = [
    b"", b"{}", b"[" * 60_000, b"\xff", b"null",
    *(("slots", slots) for slots in ([], [{}], [1], "x", [{"kdf": "md5"}])),
    *(("keys", keys) for keys in ([], ["00"], ["xx"], [1], ["00" * 8] * 2)),
    ("keys", [f"{n:016x}" for n in range(501)]),
    *(("ring", ring) for ring in ("", "AAAA", "?", 5, "A" * 80)),
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: str(garbage)[:30])
def test_a_damaged_file_is_refused_wherever_it_comes_from(
    tmp_path: Path, keyring: Keyring, garbage: bytes | tuple[str, object]
) -> None:
    """Our own says what to do; another node's is that node's fault."""
    content = garbage if isinstance(garbage, bytes) else spoiled(keyring.export(), **{garbage[0]: garbage[1]})
    with pytest.raises(RemoteProtocolError, match="can't be read"):
        keyring.adopt(content)
    (tmp_path / ENCRYPTION_FILE).write_bytes(content)
    with pytest.raises(CorruptionError, match=r"keys of this directory can't be read.*cluster replace"):
        opened(tmp_path)


@pytest.mark.parametrize("cost", [{"n": 1 << 28}, {"n": 100}, {"r": 1 << 20}, {"p": 1000}, {"n": True}])
def test_nobody_makes_us_work_for_long(keyring: Keyring, cost: dict[str, int]) -> None:
    """What a pass phrase costs is said by the file, and a file may come from another node."""
    slot = json.loads(keyring.export())["sealing"]["slots"][0]
    with pytest.raises(RemoteProtocolError, match="doesn't know"):
        keyring.adopt(spoiled(keyring.export(), slots=[{**slot, **cost}]))


def test_a_flipped_bit_in_the_file_is_found(tmp_path: Path, keyring: Keyring) -> None:
    path = tmp_path / ENCRYPTION_FILE
    good = path.read_bytes()
    for at in range(0, len(good), 7):
        path.write_bytes(good[:at] + bytes([good[at] ^ 2]) + good[at + 1 :])
        with pytest.raises(CorruptionError, match="can't be read"):
            opened(tmp_path)


def test_a_later_format_is_refused_by_name(tmp_path: Path, keyring: Keyring) -> None:
    (tmp_path / ENCRYPTION_FILE).write_bytes(spoiled(keyring.export(), format=2))
    with pytest.raises(CorruptionError, match="format 2"):
        opened(tmp_path)


def test_the_real_cost_of_a_pass_phrase(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is what it says: scrypt in 32 MiB, three times over."""
    monkeypatch.undo()
    keyring = opened(tmp_path, empty=True)
    slot = json.loads(keyring.export())["sealing"]["slots"][0]
    assert (slot["kdf"], slot["n"], slot["r"], slot["p"]) == ("scrypt", 32768, 8, 3)
    assert isinstance(opened(tmp_path).value_cipher("store"), ValueCipher)
