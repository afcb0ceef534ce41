"""Encryption at rest: what opens, what is refused, and that no secret shows."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node import sealing
from node.errors import ConfigError, CorruptionError, DiskError, RemoteProtocolError
from node.sealing import OVERHEAD, SEALING_FILE, Keyring, Sealer, refuse_sealed

CIPHERS = ["aes-256-gcm", "chacha20-poly1305"]


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass phrase costs a quarter of a second; not here."""
    monkeypatch.setattr(sealing, "_N", 16)


def opened(directory: Path, *phrases: str, cipher: str = "aes-256-gcm", empty: bool = False) -> Keyring:
    return Keyring.open(directory, phrases or ["pass"], cipher=cipher, empty=empty)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return opened(tmp_path, empty=True)


def node(tmp_path: Path, name: str, *phrases: str) -> Keyring:
    """A node's keys in a new directory of its own."""
    (tmp_path / name).mkdir()
    return opened(tmp_path / name, *phrases, empty=True)


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("value", [b"", b"x", b"value" * 100_000])
def test_a_sealed_value_opens_again(tmp_path: Path, cipher: str, value: bytes) -> None:
    """Also out of LMDB's memory, also after a restart with the other cipher; its length tells no more."""
    sealer = opened(tmp_path, cipher=cipher, empty=True).sealer("store")
    stored = sealer.seal(value, b"place")
    assert len(stored) == len(value) + OVERHEAD
    assert len(value) < 4 or value not in stored
    assert sealer.open(memoryview(stored), b"place") == value
    for other in CIPHERS:
        assert opened(tmp_path, cipher=other).sealer("store").open(stored, b"place") == value


def test_a_value_belongs_to_its_place_and_purpose(keyring: Keyring) -> None:
    stored = keyring.sealer("store").seal(b"value", b"place")
    with pytest.raises(CorruptionError, match="for this place"):
        keyring.sealer("store").open(stored, b"elsewhere")
    with pytest.raises(CorruptionError, match="for this place"):
        keyring.sealer("journal").open(stored, b"place")


@pytest.mark.parametrize("cipher", CIPHERS)
def test_every_flipped_bit_and_every_missing_end_is_found(tmp_path: Path, cipher: str) -> None:
    sealer = opened(tmp_path, cipher=cipher, empty=True).sealer("store")
    stored = sealer.seal(b"value", b"")
    for at in range(len(stored) * 8):
        damaged = bytearray(stored)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(CorruptionError):
            sealer.open(bytes(damaged), b"")
    for size in range(len(stored)):
        with pytest.raises(CorruptionError):
            sealer.open(stored[:size], b"")


@pytest.mark.parametrize("plain", [b"", b"plain text", b"\x01plain text" * 100, b"\x02" * 1000])
def test_what_is_not_sealed_is_refused(keyring: Keyring, plain: bytes) -> None:
    """The reference takes it for plain text, and with it whatever anybody writes to the disk."""
    with pytest.raises(CorruptionError):
        keyring.sealer("store").open(plain, b"")


def test_no_nonce_comes_twice(tmp_path: Path) -> None:
    """Not in one sealer, in one thread or several, nor in two; not after a restart or from a copy."""
    directory = tmp_path / "n1"
    directory.mkdir()
    sealers = [opened(directory, empty=True).sealer("store")]
    sealers += [opened(directory).sealer("store"), opened(directory).sealer("journal")]
    seen = set()
    for sealer in sealers:
        with ThreadPoolExecutor(2) as pool:
            stored = list(pool.map(lambda _, sealer=sealer: sealer.seal(b"v", b""), range(500)))
        seen |= {value[: OVERHEAD - 16] for value in stored}
    assert len(seen) == 1500
    assert len({nonce[1:9] for nonce in seen}) == 1, "one data key"
    assert len({nonce[9:21] for nonce in seen}) == 3, "a session for each sealer"


def test_derived_keys_are_bounded(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_SESSIONS_MAX", 3)
    values = [keyring.sealer("store").seal(b"%d" % n, b"") for n in range(10)]
    reader = keyring.sealer("store")
    for _ in range(2):
        assert [reader.open(value, b"") for value in values] == [b"%d" % n for n in range(10)]
    assert len(reader._readers) <= 3
    assert reader.open(reader.seal(b"own", b""), b"") == b"own"


# --- the file ------------------------------------------------------------------------------------


def test_the_file_is_for_its_owner_and_holds_no_secret(tmp_path: Path, keyring: Keyring) -> None:
    path = tmp_path / SEALING_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert "pass" not in text
    for secret in (keyring._master, *keyring._keys.values()):
        assert secret.hex() not in text
        assert sealing._to_text(secret) not in text
    document = json.loads(text)
    assert document["format"] == 1
    assert document["sealing"]["keys"] == keyring.key_ids
    assert [path.name for path in tmp_path.iterdir()] == [SEALING_FILE]


def test_two_directories_have_nothing_in_common(tmp_path: Path) -> None:
    """Equal pass phrases, other keys: no two nodes write under one."""
    one, two = node(tmp_path, "n1", "pass"), node(tmp_path, "n2", "pass")
    assert not set(one.key_ids) & set(two.key_ids)
    assert one._master != two._master
    with pytest.raises(CorruptionError, match=r"which sealing\.json doesn't have"):
        two.sealer("store").open(one.sealer("store").seal(b"value", b""), b"")


def test_a_wrong_pass_phrase_is_refused_at_once(tmp_path: Path, keyring: Keyring) -> None:
    before = (tmp_path / SEALING_FILE).read_bytes()
    with pytest.raises(ConfigError, match=r"not the one that this directory is sealed with.*previous_keys"):
        opened(tmp_path, "another", "a third")
    assert (tmp_path / SEALING_FILE).read_bytes() == before


def test_data_that_is_not_sealed_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't be encrypted where it is.*from a copy"):
        opened(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_sealed_directory_is_not_opened_without_a_key(tmp_path: Path) -> None:
    refuse_sealed(tmp_path)
    opened(tmp_path, empty=True)
    with pytest.raises(ConfigError, match=r"encrypted, but .* no store.encryption"):
        refuse_sealed(tmp_path)


def test_a_process_that_ended_while_writing_the_file(tmp_path: Path) -> None:
    (tmp_path / (SEALING_FILE + ".tmp")).write_bytes(b"half")
    opened(tmp_path, empty=True)
    assert [path.name for path in tmp_path.iterdir()] == [SEALING_FILE]


def spoiled(document: bytes, **values: object) -> bytes:
    """The file with something else in it, its checksum right again."""
    whole = json.loads(document)
    changed = {**whole["sealing"], **values}
    version = whole["format"] if "format" not in values else changed.pop("format")
    return json.dumps(
        {"format": version, "sealing": changed, "sha256": sealing._checksum([version, changed])}
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
    (tmp_path / SEALING_FILE).write_bytes(content)
    with pytest.raises(CorruptionError, match=r"keys of this directory can't be read.*cluster replace"):
        opened(tmp_path)


@pytest.mark.parametrize("cost", [{"n": 1 << 28}, {"n": 100}, {"r": 1 << 20}, {"p": 1000}, {"n": True}])
def test_nobody_makes_us_work_for_long(keyring: Keyring, cost: dict[str, int]) -> None:
    """What a pass phrase costs is said by the file, and a file may come from another node."""
    slot = json.loads(keyring.export())["sealing"]["slots"][0]
    with pytest.raises(RemoteProtocolError, match="doesn't know"):
        keyring.adopt(spoiled(keyring.export(), slots=[{**slot, **cost}]))


def test_a_flipped_bit_in_the_file_is_found(tmp_path: Path, keyring: Keyring) -> None:
    path = tmp_path / SEALING_FILE
    good = path.read_bytes()
    for at in range(0, len(good), 7):
        path.write_bytes(good[:at] + bytes([good[at] ^ 2]) + good[at + 1 :])
        with pytest.raises(CorruptionError, match="can't be read"):
            opened(tmp_path)


def test_a_later_format_is_refused_by_name(tmp_path: Path, keyring: Keyring) -> None:
    (tmp_path / SEALING_FILE).write_bytes(spoiled(keyring.export(), format=2))
    with pytest.raises(CorruptionError, match="format 2"):
        opened(tmp_path)


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    (tmp_path / SEALING_FILE).mkdir()
    with pytest.raises(DiskError, match="can't be read"):
        opened(tmp_path)
    with pytest.raises(DiskError, match="can't be written"):
        opened(tmp_path / "missing", empty=True)


# --- changing the pass phrase ------------------------------------------------------------------------


def test_a_restart_changes_nothing(tmp_path: Path, keyring: Keyring) -> None:
    assert keyring.changed
    again = opened(tmp_path)
    assert not again.changed
    assert again.export() == keyring.export()


def test_a_changed_pass_phrase(tmp_path: Path, keyring: Keyring) -> None:
    """The new one with the old beside it, then the new one alone; each step has a data key of its own."""
    stored = [keyring.sealer("store").seal(b"0", b"")]
    steps: list[list[str]] = [["new", "pass"], ["new"]]
    for number, phrases in enumerate(steps, 1):
        changed = opened(tmp_path, *phrases)
        assert changed.changed
        assert len(changed.key_ids) == number + 1
        again = opened(tmp_path, *phrases)
        assert not again.changed
        sealer = again.sealer("store")
        stored.append(sealer.seal(b"%d" % number, b""))
        assert [sealer.open(value, b"") for value in stored] == [b"%d" % n for n in range(number + 1)]
    assert len({value[1:9] for value in stored}) == 3
    with pytest.raises(ConfigError, match="not the one"):
        opened(tmp_path, "pass")


def test_who_knew_the_old_pass_phrase_reads_nothing_new(tmp_path: Path, keyring: Keyring) -> None:
    """Even with a copy of the file from that time."""
    old = keyring.export()
    value = opened(tmp_path, "new", "pass").sealer("store").seal(b"value", b"")
    (tmp_path / SEALING_FILE).write_bytes(old)
    with pytest.raises(CorruptionError, match="doesn't have"):
        opened(tmp_path).sealer("store").open(value, b"")


def test_the_order_of_pass_phrases_and_one_given_twice(tmp_path: Path) -> None:
    first = opened(tmp_path, "one", "two", "one", empty=True)
    assert not opened(tmp_path, "one", "two").changed
    assert len(first._document.slots) == 2
    swapped = opened(tmp_path, "two", "one")
    assert swapped.changed, "the current one comes first, so that this is seen as a change"
    assert not opened(tmp_path, "two", "one").changed


def test_there_is_an_end_to_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "KEYS_MAX", 2)
    opened(tmp_path, "one", empty=True)
    keyring = opened(tmp_path, "two", "one")
    with pytest.raises(ConfigError, match="at most"):
        opened(tmp_path, "three", "two")
    with pytest.raises(RemoteProtocolError, match="more than 2"):
        keyring.adopt(node(tmp_path, "other", "two").export())
    with pytest.raises(ConfigError, match="at most"):
        opened(tmp_path, *map(str, range(17)), "two")


# --- another node's store ------------------------------------------------------------------------------


def test_another_nodes_values_open_once_its_keys_are_adopted(tmp_path: Path) -> None:
    """By sealers that exist already too, and after a restart; we still write under our own key."""
    ours, theirs = node(tmp_path, "n1", "pass"), node(tmp_path, "n2", "pass")
    value = theirs.sealer("store").seal(b"theirs", b"place")
    reader = ours.sealer("store")
    before = ours.key_ids
    ours.adopt(theirs.export())
    assert ours.key_ids == theirs.key_ids + before
    again = opened(tmp_path / "n1")
    assert not again.changed
    for sealer in (reader, ours.sealer("store"), again.sealer("store")):
        assert sealer.open(value, b"place") == b"theirs"
        assert sealer.seal(b"", b"")[1:9].hex() == before[-1]
    content = (tmp_path / "n1" / SEALING_FILE).read_bytes()
    ours.adopt(theirs.export())
    assert (tmp_path / "n1" / SEALING_FILE).read_bytes() == content, "nothing new, nothing written"


def test_keys_travel_on(tmp_path: Path) -> None:
    """A store that came from one node and goes to a third is read there."""
    one, two, three = (node(tmp_path, name, "pass") for name in ("n1", "n2", "n3"))
    value = one.sealer("store").seal(b"value", b"")
    two.adopt(one.export())
    three.adopt(two.export())
    assert three.sealer("store").open(value, b"") == b"value"


def test_while_the_pass_phrase_is_changed_node_by_node(tmp_path: Path) -> None:
    """Those that have changed and those that haven't read each other's, in both directions."""
    old, new, newer = (
        node(tmp_path, "n1", "old"),
        node(tmp_path, "n2", "new", "old"),
        node(tmp_path, "n3", "new"),
    )
    old.adopt(new.export())
    new.adopt(old.export())
    new.adopt(newer.export())
    newer.adopt(new.export())
    with pytest.raises(RemoteProtocolError, match="another pass phrase"):
        newer.adopt(old.export())


def test_a_pass_phrase_is_changed_where_others_keys_are(tmp_path: Path) -> None:
    ours, theirs = node(tmp_path, "n1", "pass"), node(tmp_path, "n2", "pass")
    value = theirs.sealer("store").seal(b"theirs", b"")
    ours.adopt(theirs.export())
    changed = opened(tmp_path / "n1", "new", "pass")
    assert changed.sealer("store").open(value, b"") == b"theirs"


def test_no_text_shows_a_secret(tmp_path: Path) -> None:
    """repr and str of everything, and the texts of errors."""
    keyring = opened(tmp_path, "the-pass-phrase", empty=True)
    texts = [repr(keyring), str(keyring), repr(keyring.sealer("store")), f"{keyring.sealer('journal')}"]
    with pytest.raises(ConfigError) as refused:
        opened(tmp_path, "the-wrong-phrase")
    with pytest.raises(CorruptionError) as damaged:
        keyring.sealer("store").open(os.urandom(100), b"")
    texts += [str(refused.value), repr(refused.value), str(damaged.value)]
    secrets = [keyring._master, *keyring._keys.values()]
    for text in texts:
        assert "the-pass-phrase" not in text
        assert "the-wrong-phrase" not in text
        assert not any(secret.hex() in text or repr(secret) in text for secret in secrets)


def test_the_real_cost_of_a_pass_phrase(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is what it says: scrypt in 32 MiB, three times over."""
    monkeypatch.undo()
    keyring = opened(tmp_path, empty=True)
    slot = json.loads(keyring.export())["sealing"]["slots"][0]
    assert (slot["kdf"], slot["n"], slot["r"], slot["p"]) == ("scrypt", 32768, 8, 3)
    assert isinstance(opened(tmp_path).sealer("store"), Sealer)
