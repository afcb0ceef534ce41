"""Encryption at rest: the keys of a node's directory, and what seals and opens its journal and store.

Three kinds of secrets, each protecting the next:

* *pass phrases*, from the configuration: the current one and, while it is being changed, those before;
* the *master*, 32 random bytes, in ``sealing.json`` once for each pass phrase: encrypted under what scrypt
  makes of that pass phrase and a random salt. It opens under no other, which is how a wrong pass
  phrase is told at once;
* *data keys*, 32 random bytes with a random id, in ``sealing.json`` encrypted under the master. The last
  one writes, all read.

So a pass phrase is changed without touching the data: a new master encrypts the old data keys and one
more, which writes from then on. Who once knew the old pass phrase *and* has a copy of the old file can
read what was sealed until then, and nothing later.

Data keys are drawn by each directory for itself, so no two nodes ever write under one key. A snapshot is a
copy of another node's store, and what it is sealed with travels with it: `Keyring.export` is that node's
``sealing.json``, as useless without a pass phrase as it is on the disk, and `Keyring.adopt` adds
its data keys to those that are read here. All nodes therefore need a pass phrase in common.

**No nonce repeats.** A data key encrypts nothing itself. Each `Sealer`, that is each start of a process and
each purpose, draws a session of 96 random bits and derives from data key, session, purpose and cipher
(HKDF-SHA256) a key of its own, under which its nonces are a 64-bit counter. Nothing needs to be kept across
starts, and a directory put back from a copy goes on under a new session. For a nonce to come
twice under one key two sessions would have to be equal: for a million starts a chance of 2^-57.

A sealed value, which names all that is needed to open it but the secret::

    u8 cipher (1 AES-256-GCM, 2 ChaCha20-Poly1305) │ data key's id 8 │ session 12 │ u64 counter │
    ciphertext, as long as the value │ tag 16

The tag also covers the first three and a *context*: where the value belongs. Moved elsewhere, it no
longer opens. What this can't show is that a value was replaced by an older one of the same place: it
protects disks that are lost, copied or thrown away, not those that somebody writes to meanwhile.

Values are opened or refused; what isn't sealed is never taken for a value.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from node.errors import ConfigError, CorruptionError, DiskError, RemoteProtocolError

SEALING_FILE: Final = "sealing.json"
OVERHEAD: Final = 45
"""Bytes that a sealed value is longer than the value."""

KEYS_MAX: Final = 500
"""Data keys one directory may read: one for each change of the pass phrase, of every node there ever was."""

_FORMAT = 1
_SIZE_MAX = 1 << 16
_CIPHERS: Final = {"aes-256-gcm": 1, "chacha20-poly1305": 2}
_NAMES: Final = {code: name for name, code in _CIPHERS.items()}
_ID_BYTES, _SESSION_BYTES, _COUNTER_BYTES, _NONCE_BYTES, _TAG_BYTES = 8, 12, 8, 12, 16
_KEY_BYTES = 32
_HEAD_BYTES = 1 + _ID_BYTES + _SESSION_BYTES
_BODY_AT = _HEAD_BYTES + _COUNTER_BYTES
_PAD = bytes(_NONCE_BYTES - _COUNTER_BYTES)
_SESSIONS_MAX = 4096
"""Derived keys held; a store that was written in more sessions derives some again."""

_N, _R, _P = 1 << 15, 8, 3
"""scrypt: 32 MiB, three times, a quarter of a second: what OWASP asks for, in its form for little memory."""
_SCRYPT_BYTES_MAX = 1 << 28
_SLOTS_MAX = 16


class _Aead(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes | memoryview, associated_data: bytes | None) -> bytes: ...


def _aead(cipher: int, key: bytes) -> _Aead:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

    return AESGCM(key) if cipher == _CIPHERS["aes-256-gcm"] else ChaCha20Poly1305(key)


def _session_aead(cipher: int, key: bytes, session: bytes, purpose: str) -> _Aead:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = f"stanchion {_FORMAT} {_NAMES[cipher]} {purpose}".encode()
    return _aead(cipher, HKDF(SHA256(), _KEY_BYTES, session, info).derive(key))


class Sealer:
    """Seals and opens the values of one purpose. Any number of threads may use it."""

    def __init__(self, keys: Mapping[bytes, bytes], writing: bytes, cipher: str, purpose: str) -> None:
        from cryptography.exceptions import InvalidTag

        self._invalid = InvalidTag
        self._keys = keys
        self._purpose = purpose
        code = _CIPHERS[cipher]
        session = secrets.token_bytes(_SESSION_BYTES)
        self._head = bytes((code,)) + writing + session
        self._writer = _session_aead(code, keys[writing], session, purpose)
        self._counter = itertools.count()  # its next() is one step: no two threads get the same
        self._readers = {self._head: self._writer}

    def __repr__(self) -> str:
        return f"Sealer({self._purpose})"

    def seal(self, value: bytes, context: bytes) -> bytes:
        """The value, sealed for one place. Costs 1.5 µs, and 0.15 µs for each KiB (AES; ChaCha 0.3 µs)."""
        counter = next(self._counter).to_bytes(_COUNTER_BYTES, "big")
        sealed = self._writer.encrypt(_PAD + counter, value, self._head + context)
        return b"".join((self._head, counter, sealed))

    def open(self, sealed: bytes | memoryview, context: bytes) -> bytes:
        """What was sealed for this place.

        Raises:
            CorruptionError: it isn't that; the text says why, but not where.
        """
        head = bytes(sealed[:_HEAD_BYTES])
        if len(sealed) < OVERHEAD or head[0] not in _NAMES:
            raise CorruptionError("it is not sealed, and this node takes nothing that isn't")
        reader = self._readers.get(head) or self._reader(head)
        nonce = _PAD + bytes(sealed[_HEAD_BYTES:_BODY_AT])
        try:
            return reader.decrypt(nonce, sealed[_BODY_AT:], head + context)
        except self._invalid:
            raise CorruptionError("it isn't what was sealed for this place") from None

    def _reader(self, head: bytes) -> _Aead:
        key_id, session = head[1 : 1 + _ID_BYTES], head[1 + _ID_BYTES :]
        key = self._keys.get(key_id)
        if key is None:
            raise CorruptionError(f"it is sealed with key {key_id.hex()}, which {SEALING_FILE} doesn't have")
        if len(self._readers) >= _SESSIONS_MAX:
            self._readers = {}  # the writer stays in its own place
        reader = self._readers[head] = _session_aead(head[0], key, session, self._purpose)
        return reader


@dataclass(frozen=True, slots=True)
class _Slot:
    """The master under one pass phrase."""

    n: int
    r: int
    p: int
    salt: bytes
    master: bytes

    @classmethod
    def make(cls, phrase: str, master: bytes) -> _Slot:
        blank = cls(_N, _R, _P, secrets.token_bytes(16), b"")
        return blank.holding(master, blank.stretch(phrase))

    def holding(self, master: bytes, key: bytes) -> _Slot:
        """The same for another master."""
        return replace(self, master=_wrap(key, master, b"master"))

    def stretch(self, phrase: str) -> bytes:
        """The key that the pass phrase is here. This is what takes its time."""
        # hashlib's scrypt, for it lets other threads run meanwhile
        return hashlib.scrypt(
            phrase.encode(),
            salt=self.salt,
            n=self.n,
            r=self.r,
            p=self.p,
            maxmem=_SCRYPT_BYTES_MAX,
            dklen=_KEY_BYTES,
        )


@dataclass(frozen=True, slots=True, repr=False)
class _Opened:
    """A slot, opened by a pass phrase."""

    at: int
    slot: _Slot
    key: bytes
    master: bytes


@dataclass(frozen=True, slots=True)
class _Document:
    """What ``sealing.json`` says."""

    slots: tuple[_Slot, ...]
    ids: tuple[bytes, ...]
    """Of the data keys; the last one writes."""
    ring: bytes
    """The data keys, one behind the other, under the master."""

    @classmethod
    def make(cls, slots: Sequence[_Slot], master: bytes, keys: Mapping[bytes, bytes]) -> _Document:
        ring = _wrap(master, b"".join(keys.values()), b"".join(keys))
        return cls(tuple(slots), tuple(keys), ring)

    def opened_by(self, phrase: str, likely: int = 0) -> _Opened | None:
        """The slot that the pass phrase opens; slot ``likely`` is tried first."""
        for at in sorted(range(len(self.slots)), key=lambda at: at != likely):
            slot = self.slots[at]
            key = slot.stretch(phrase)
            master = _unwrap(key, slot.master, b"master")
            if master is not None:
                return _Opened(at, slot, key, master)
        return None

    def keys(self, master: bytes) -> dict[bytes, bytes]:
        """The data keys by id.

        Raises:
            ValueError: master and ring don't fit.
        """
        ring = _unwrap(master, self.ring, b"".join(self.ids))
        if ring is None or len(ring) != _KEY_BYTES * len(self.ids):
            raise ValueError("the keys don't fit the master")
        cut = [ring[at : at + _KEY_BYTES] for at in range(0, len(ring), _KEY_BYTES)]
        return dict(zip(self.ids, cut, strict=True))

    def encode(self) -> bytes:
        values = {
            "slots": [
                {
                    "kdf": "scrypt",
                    "n": slot.n,
                    "r": slot.r,
                    "p": slot.p,
                    "salt": _to_text(slot.salt),
                    "master": _to_text(slot.master),
                }
                for slot in self.slots
            ],
            "keys": [key_id.hex() for key_id in self.ids],
            "ring": _to_text(self.ring),
        }
        document = {"format": _FORMAT, "sealing": values, "sha256": _checksum([_FORMAT, values])}
        return json.dumps(document, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> _Document:
        """What the bytes of a file say.

        Raises:
            ValueError: it is none, a damaged one, or one of a later format.
        """
        try:
            document = json.loads(data)
        except RecursionError:
            raise ValueError("not a file of keys") from None
        match document:
            case {"format": int(version), "sealing": dict(values), "sha256": str(checksum)}:
                pass
            case _:
                raise ValueError("not a file of keys")
        if checksum != _checksum([version, values]):
            raise ValueError("it is damaged")
        if version != _FORMAT:
            raise ValueError(f"it has format {version}, and this release reads format {_FORMAT} only")
        match values:
            case {"slots": [*slots], "keys": [*ids], "ring": str(ring)}:
                found = cls(tuple(map(_slot, slots)), tuple(map(_id, ids)), _from_text(ring))
            case _:
                raise ValueError("parts of it are missing")
        if not 0 < len(found.slots) <= _SLOTS_MAX or not 0 < len(set(found.ids)) == len(ids) <= KEYS_MAX:
            raise ValueError("it has too many parts, or none")
        return found


def _slot(values: object) -> _Slot:
    match values:
        case {
            "kdf": "scrypt",
            "n": int(n),
            "r": int(r),
            "p": int(p),
            "salt": str(salt),
            "master": str(master),
        } if (
            n > 1 and not n & (n - 1) and min(r, p) > 0 and 128 * n * r <= _SCRYPT_BYTES_MAX // 2 and p <= 16
        ):
            return _Slot(n, r, p, _from_text(salt), _from_text(master))
        case _:
            raise ValueError("a key derivation that this release doesn't know")


def _id(value: object) -> bytes:
    key_id = bytes.fromhex(value) if isinstance(value, str) else b""
    if len(key_id) != _ID_BYTES:
        raise ValueError("a key without a proper id")
    return key_id


class Keyring:
    """The keys of one directory, opened. Neither it nor its sealers show a secret in any text."""

    def __init__(
        self, path: Path, phrases: Sequence[str], cipher: str, document: _Document, master: bytes
    ) -> None:
        self.path = path
        self.changed = False
        """The pass phrases were changed with this start: copies made for others before are out of date."""
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
        """Open the keys of a node's directory, or make them in a new one.

        If the pass phrases aren't those of the last time, the file is written anew for exactly these,
        and a new data key writes. Takes a quarter of a second for each pass phrase, twice that when one is
        new.

        Args:
            directory: the node's own; nobody else uses it.
            phrases: the current pass phrase, then those before that may still be needed.
            cipher: ``aes-256-gcm`` or ``chacha20-poly1305``: what new values are sealed with.
            empty: there is no data in the directory yet.

        Raises:
            ConfigError: none of the pass phrases is the right one, or there is data that isn't sealed.
            CorruptionError: the file is damaged.
            DiskError: the disk refused.
        """
        phrases = list(dict.fromkeys(phrases))
        path = directory / SEALING_FILE
        stored = _read(path)
        if stored is None:
            if not empty:
                raise ConfigError(
                    [
                        f"{directory}: store.encryption is set, but there is no {SEALING_FILE} beside the "
                        "data. Data that was written without encryption can't be encrypted where it is: "
                        "start with an empty directory. If the file was lost, put it back from a copy."
                    ]
                )
            return cls._renewed(path, phrases, cipher, [None] * len(phrases), {})
        try:
            document = _Document.decode(stored)
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
                    "sealed with. If it was changed, name the one before in store.encryption.previous_keys."
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
        opened: Sequence[_Opened | None],
        keys: Mapping[bytes, bytes],
    ) -> Keyring:
        """Write the file for these pass phrases, with one more data key."""
        if len(phrases) > _SLOTS_MAX or len(keys) >= KEYS_MAX:
            raise ConfigError([f"{path}: at most {_SLOTS_MAX} pass phrases and {KEYS_MAX} data keys"])
        master = secrets.token_bytes(_KEY_BYTES)
        keys = {**keys, secrets.token_bytes(_ID_BYTES): secrets.token_bytes(_KEY_BYTES)}
        slots = [
            _Slot.make(phrase, master) if found is None else found.slot.holding(master, found.key)
            for phrase, found in zip(phrases, opened, strict=True)
        ]
        document = _Document.make(slots, master, keys)
        _write(path, document.encode())
        keyring = cls(path, phrases, cipher, document, master)
        keyring.changed = True
        return keyring

    @property
    def key_ids(self) -> list[str]:
        """Of all data keys that are read; the last one writes."""
        return [key_id.hex() for key_id in self._document.ids]

    def sealer(self, purpose: str) -> Sealer:
        """A sealer in a session of its own; what was sealed for one purpose opens for no other."""
        return Sealer(self._keys, self._writing, self._cipher, purpose)

    def export(self) -> bytes:
        """What a node with one of our pass phrases needs to read our store. Not secret."""
        return self._document.encode()

    def adopt(self, exported: bytes) -> None:
        """Read from now on, and after a restart, what another node sealed. In a worker thread.

        Args:
            exported: what its `export` said.

        Raises:
            RemoteProtocolError: it is none of ours: no pass phrase in common, or garbage.
            DiskError: the disk refused.
        """
        try:
            document = _Document.decode(exported)
            opened = next(filter(None, map(document.opened_by, self._phrases)), None)
            if opened is None:
                raise RemoteProtocolError("it is sealed with another pass phrase than this node's")
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
        self._document = document = _Document.make(self._document.slots, self._master, keys)
        _write(self.path, document.encode())
        self._keys.update(new)  # sealers look into it, in other threads too: it only ever grows


def refuse_sealed(directory: Path) -> None:
    """For a node that doesn't encrypt.

    Raises:
        ConfigError: its directory is sealed.
    """
    path = directory / SEALING_FILE
    if path.exists():
        raise ConfigError(
            [
                f"{path}: this directory is encrypted, but the configuration has no store.encryption: "
                "give it the pass phrase (key_env or key_file)"
            ]
        )


def _wrap(key: bytes, secret: bytes, context: bytes) -> bytes:
    """A key wraps a few times in its life, at starts and for new keys: random nonces are plenty."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _aead(_CIPHERS["aes-256-gcm"], key).encrypt(nonce, secret, b"stanchion keys " + context)


def _unwrap(key: bytes, wrapped: bytes, context: bytes) -> bytes | None:
    from cryptography.exceptions import InvalidTag

    if len(wrapped) < _NONCE_BYTES + _TAG_BYTES:
        return None
    nonce, sealed = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
    try:
        return _aead(_CIPHERS["aes-256-gcm"], key).decrypt(nonce, sealed, b"stanchion keys " + context)
    except InvalidTag:
        return None


def _checksum(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_text(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_SIZE_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DiskError(f"{path}: can't be read: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    """Replace the file, at once or not at all, durably."""
    draft = path.with_name(path.name + ".tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()  # of a process that did not come to its end
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
