"""Keys of a directory: made, opened, renewed, joined by others'; and no secret shows."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from node.encryption import keyring as keyrings
from node.encryption.document import ENCRYPTION_FILE
from node.encryption.keyring import Keyring, refuse_encrypted
from node.errors import ConfigError, CorruptionError, DiskError, RemoteProtocolError

from .conftest import node, opened

# --- the file ------------------------------------------------------------------------------------


def test_the_file_is_for_its_owner_and_holds_no_secret(tmp_path: Path, keyring: Keyring) -> None:
    path = tmp_path / ENCRYPTION_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert "pass" not in text
    for secret in (keyring._master, *keyring._keys.values()):
        assert secret.hex() not in text
        assert base64.b64encode(secret).decode() not in text
    document = json.loads(text)
    assert document["format"] == 1
    assert document["sealing"]["keys"] == keyring.key_ids
    assert [path.name for path in tmp_path.iterdir()] == [ENCRYPTION_FILE]


def test_a_wrong_pass_phrase_is_refused_at_once(tmp_path: Path, keyring: Keyring) -> None:
    before = (tmp_path / ENCRYPTION_FILE).read_bytes()
    with pytest.raises(ConfigError, match=r"not the one .* is encrypted with.*previous_keys"):
        opened(tmp_path, "another", "a third")
    assert (tmp_path / ENCRYPTION_FILE).read_bytes() == before


def test_data_that_is_not_encrypted_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't be encrypted where it is.*from a copy"):
        opened(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_encrypted_directory_is_not_opened_without_a_key(tmp_path: Path) -> None:
    refuse_encrypted(tmp_path)
    opened(tmp_path, empty=True)
    with pytest.raises(ConfigError, match=r"encrypted, but .* no store.encryption"):
        refuse_encrypted(tmp_path)


def test_a_process_that_ended_while_writing_the_file(tmp_path: Path) -> None:
    (tmp_path / (ENCRYPTION_FILE + ".tmp")).write_bytes(b"half")
    opened(tmp_path, empty=True)
    assert [path.name for path in tmp_path.iterdir()] == [ENCRYPTION_FILE]


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    (tmp_path / ENCRYPTION_FILE).mkdir()
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
    stored = [keyring.value_cipher("store").encrypt(b"0", b"")]
    steps: list[list[str]] = [["new", "pass"], ["new"]]
    for number, phrases in enumerate(steps, 1):
        changed = opened(tmp_path, *phrases)
        assert changed.changed
        assert len(changed.key_ids) == number + 1
        again = opened(tmp_path, *phrases)
        assert not again.changed
        value_cipher = again.value_cipher("store")
        stored.append(value_cipher.encrypt(b"%d" % number, b""))
        assert [value_cipher.decrypt(value, b"") for value in stored] == [
            b"%d" % n for n in range(number + 1)
        ]
    assert len({value[1:9] for value in stored}) == 3
    with pytest.raises(ConfigError, match="not the one"):
        opened(tmp_path, "pass")


def test_who_knew_the_old_pass_phrase_reads_nothing_new(tmp_path: Path, keyring: Keyring) -> None:
    """Even with a copy of the file from that time."""
    old = keyring.export()
    value = opened(tmp_path, "new", "pass").value_cipher("store").encrypt(b"value", b"")
    (tmp_path / ENCRYPTION_FILE).write_bytes(old)
    with pytest.raises(CorruptionError, match="doesn't have"):
        opened(tmp_path).value_cipher("store").decrypt(value, b"")


def test_the_order_of_pass_phrases_and_one_given_twice(tmp_path: Path) -> None:
    first = opened(tmp_path, "one", "two", "one", empty=True)
    assert not opened(tmp_path, "one", "two").changed
    assert len(first._document.slots) == 2
    swapped = opened(tmp_path, "two", "one")
    assert swapped.changed, "the current one comes first, so that this is seen as a change"
    assert not opened(tmp_path, "two", "one").changed


def test_there_is_an_end_to_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyrings, "KEYS_MAX", 2)
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
    value = theirs.value_cipher("store").encrypt(b"theirs", b"place")
    reader = ours.value_cipher("store")
    before = ours.key_ids
    ours.adopt(theirs.export())
    assert ours.key_ids == theirs.key_ids + before
    again = opened(tmp_path / "n1")
    assert not again.changed
    for value_cipher in (reader, ours.value_cipher("store"), again.value_cipher("store")):
        assert value_cipher.decrypt(value, b"place") == b"theirs"
        assert value_cipher.encrypt(b"", b"")[1:9].hex() == before[-1]
    content = (tmp_path / "n1" / ENCRYPTION_FILE).read_bytes()
    ours.adopt(theirs.export())
    assert (tmp_path / "n1" / ENCRYPTION_FILE).read_bytes() == content, "nothing new, nothing written"


def test_keys_travel_on(tmp_path: Path) -> None:
    """A store that came from one node and goes to a third is read there."""
    one, two, three = (node(tmp_path, name, "pass") for name in ("n1", "n2", "n3"))
    value = one.value_cipher("store").encrypt(b"value", b"")
    two.adopt(one.export())
    three.adopt(two.export())
    assert three.value_cipher("store").decrypt(value, b"") == b"value"


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
    value = theirs.value_cipher("store").encrypt(b"theirs", b"")
    ours.adopt(theirs.export())
    changed = opened(tmp_path / "n1", "new", "pass")
    assert changed.value_cipher("store").decrypt(value, b"") == b"theirs"


def test_no_text_shows_a_secret(tmp_path: Path) -> None:
    """repr and str of everything, and the texts of errors."""
    keyring = opened(tmp_path, "the-pass-phrase", empty=True)
    texts = [
        repr(keyring),
        str(keyring),
        repr(keyring.value_cipher("store")),
        f"{keyring.value_cipher('journal')}",
    ]
    with pytest.raises(ConfigError) as refused:
        opened(tmp_path, "the-wrong-phrase")
    with pytest.raises(CorruptionError) as damaged:
        keyring.value_cipher("store").decrypt(os.urandom(100), b"")
    texts += [str(refused.value), repr(refused.value), str(damaged.value)]
    secrets = [keyring._master, *keyring._keys.values()]
    for text in texts:
        assert "the-pass-phrase" not in text
        assert "the-wrong-phrase" not in text
        assert not any(secret.hex() in text or repr(secret) in text for secret in secrets)
