"""The keys of one directory: opening them, renewing them for new pass phrases, adopting other nodes' keys."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from node.errors import ConfigError, CorruptionError, DiskError, RemoteProtocolError

from .ciphers import ID_BYTES, KEY_BYTES
from .document import ENCRYPTION_FILE, KEYS_MAX, SLOTS_MAX, Document, Opened, Slot
from .value_cipher import ValueCipher

_SIZE_MAX = 1 << 16


class Keyring:
    """The opened keys of one directory. Neither it nor its ciphers show a secret in any text."""

    def __init__(
        self, path: Path, phrases: Sequence[str], cipher: str, document: Document, master: bytes
    ) -> None:
        self.path = path
        self.changed = False
        """The pass phrases changed with this start, so earlier exports of the keys are out of date."""
        self._phrases = tuple(phrases)
        self._cipher = cipher
        self._document = document
        self._master = master
        self._keys = document.keys(master)
        self._writing = document.ids[-1]

    def __repr__(self) -> str:
        return f"Keyring({self.path}, {len(self._keys)} keys)"

    @classmethod
    def open(cls, directory: Path, phrases: Sequence[str], *, cipher: str, empty: bool) -> Keyring:
        """Open the keys of a node's directory, or create them in a new one.

        If the pass phrases differ from those of the last start, the file is rewritten for exactly these,
        with a new data key. Takes a quarter of a second for each pass phrase, twice that for a new one.

        Args:
            directory: the node's own; no other process uses it.
            phrases: the current pass phrase, then earlier ones that may still be needed.
            cipher: ``aes-256-gcm`` or ``chacha20-poly1305``, for new values.
            empty: there is no data in the directory yet.

        Raises:
            ConfigError: none of the pass phrases is correct, or there is data that is not encrypted.
            CorruptionError: the file is damaged.
            DiskError: a disk operation failed.
        """
        phrases = list(dict.fromkeys(phrases))
        path = directory / ENCRYPTION_FILE
        stored = _read(path)
        if stored is None:
            if not empty:
                raise ConfigError(
                    [
                        f"{directory}: store.encryption is set, but there is no {ENCRYPTION_FILE} beside the "
                        "data. Data that was written without encryption can't be encrypted where it is: "
                        "start with an empty directory. If the file was lost, put it back from a copy."
                    ]
                )
            return cls._renewed(path, phrases, cipher, [None] * len(phrases), {})
        try:
            document = Document.decode(stored)
            opened = [document.opened_by(phrase, at) for at, phrase in enumerate(phrases)]
            master = next((found.master for found in opened if found is not None), None)
            keys = {} if master is None else document.keys(master)
        except ValueError as error:
            raise CorruptionError(
                f"{path}: the keys of this directory can't be read: {error}. Put the file back from a copy, "
                "or replace the node (stanchion cluster replace)."
            ) from error
        if master is None:
            raise ConfigError(
                [
                    f"{path}: the pass phrase of store.encryption is not the one that this directory is "
                    "encrypted with. If it was changed, add the old one to store.encryption.previous_keys."
                ]
            )
        if [found and found.at for found in opened] == list(range(len(document.slots))):
            return cls(path, phrases, cipher, document, master)
        return cls._renewed(path, phrases, cipher, opened, keys)

    @classmethod
    def _renewed(
        cls,
        path: Path,
        phrases: Sequence[str],
        cipher: str,
        opened: Sequence[Opened | None],
        keys: Mapping[bytes, bytes],
    ) -> Keyring:
        """Write the file for these pass phrases, with one more data key."""
        if len(phrases) > SLOTS_MAX or len(keys) >= KEYS_MAX:
            raise ConfigError([f"{path}: at most {SLOTS_MAX} pass phrases and {KEYS_MAX} data keys"])
        master = secrets.token_bytes(KEY_BYTES)
        keys = {**keys, secrets.token_bytes(ID_BYTES): secrets.token_bytes(KEY_BYTES)}
        slots = [
            Slot.make(phrase, master) if found is None else found.slot.holding(master, found.key)
            for phrase, found in zip(phrases, opened, strict=True)
        ]
        document = Document.make(slots, master, keys)
        _write(path, document.encode())
        keyring = cls(path, phrases, cipher, document, master)
        keyring.changed = True
        return keyring

    @property
    def key_ids(self) -> list[str]:
        """Ids of all data keys that decrypt; the last one encrypts."""
        return [key_id.hex() for key_id in self._document.ids]

    def value_cipher(self, purpose: str) -> ValueCipher:
        """Return a cipher with its own session. A value of one purpose cannot be decrypted for another."""
        return ValueCipher(self._keys, self._writing, self._cipher, purpose)

    def export(self) -> bytes:
        """Return what a node with a common pass phrase needs to read this node's store. Not secret."""
        return self._document.encode()

    def adopt(self, exported: bytes) -> None:
        """Add the keys of another node, durably, to decrypt what it encrypted. In a worker thread.

        Args:
            exported: the other node's `export`.

        Raises:
            RemoteProtocolError: there is no common pass phrase, or ``exported`` is invalid.
            DiskError: a disk operation failed.
        """
        try:
            document = Document.decode(exported)
            opened = next(filter(None, map(document.opened_by, self._phrases)), None)
            if opened is None:
                raise RemoteProtocolError("it is encrypted with another pass phrase than this node's")
            theirs = document.keys(opened.master)
        except ValueError as error:
            raise RemoteProtocolError(f"its keys can't be read: {error}") from error
        new = {key_id: key for key_id, key in theirs.items() if key_id not in self._keys}
        if not new:
            return
        if len(new) + len(self._keys) > KEYS_MAX:
            raise RemoteProtocolError(f"with its keys this node would have more than {KEYS_MAX}")
        others = {key_id: key for key_id, key in self._keys.items() if key_id != self._writing}
        keys = {**others, **new, self._writing: self._keys[self._writing]}
        self._document = document = Document.make(self._document.slots, self._master, keys)
        _write(self.path, document.encode())
        self._keys.update(new)  # ciphers in other threads read it: keys are only ever added


def refuse_encrypted(directory: Path) -> None:
    """Check that the directory of a node without encryption is not encrypted.

    Raises:
        ConfigError: it is encrypted.
    """
    path = directory / ENCRYPTION_FILE
    if path.exists():
        raise ConfigError(
            [
                f"{path}: this directory is encrypted, but the configuration has no store.encryption: "
                "give it the pass phrase (key_env or key_file)"
            ]
        )


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_SIZE_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DiskError(f"{path}: can't be read: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    """Replace the file atomically and durably."""
    draft = path.with_name(path.name + ".tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()  # left by a process that crashed
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise DiskError(f"{path}: can't be written: {error.strerror}") from error
