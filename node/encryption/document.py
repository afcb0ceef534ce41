"""The key file `ENCRYPTION_FILE`: the master under each pass phrase, and the data keys under the master.

A file may come from another node, so nothing in it is trusted, neither sizes nor the cost of a pass phrase.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from .ciphers import FORMAT, ID_BYTES, KEY_BYTES, unwrap, wrap

ENCRYPTION_FILE: Final = "sealing.json"

KEYS_MAX: Final = 500
"""Maximum data keys of a directory: one for each change of the pass phrase, of every node there ever was."""

SLOTS_MAX = 16
_N, _R, _P = 1 << 15, 8, 3
"""scrypt parameters: 32 MiB, three passes, 0.25 s; OWASP's recommendation for little memory."""
_SCRYPT_BYTES_MAX = 1 << 28


@dataclass(frozen=True, slots=True)
class Slot:
    """The master, encrypted under one pass phrase."""

    n: int
    r: int
    p: int
    salt: bytes
    master: bytes

    @classmethod
    def make(cls, phrase: str, master: bytes) -> Slot:
        blank = cls(_N, _R, _P, secrets.token_bytes(16), b"")
        return blank.holding(master, blank.stretch(phrase))

    def holding(self, master: bytes, key: bytes) -> Slot:
        """Return the slot with another master."""
        return replace(self, master=wrap(key, master, b"master"))

    def stretch(self, phrase: str) -> bytes:
        """Derive the slot's key from the pass phrase, which takes a quarter of a second."""
        # hashlib's scrypt, because it releases the interpreter lock
        return hashlib.scrypt(
            phrase.encode(),
            salt=self.salt,
            n=self.n,
            r=self.r,
            p=self.p,
            maxmem=_SCRYPT_BYTES_MAX,
            dklen=KEY_BYTES,
        )


@dataclass(frozen=True, slots=True, repr=False)
class Opened:
    """A slot that a pass phrase has decrypted."""

    at: int
    slot: Slot
    key: bytes
    master: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """The contents of the key file."""

    slots: tuple[Slot, ...]
    ids: tuple[bytes, ...]
    """Ids of the data keys; the last one encrypts."""
    ring: bytes
    """The data keys, concatenated and encrypted under the master."""

    @classmethod
    def make(cls, slots: Sequence[Slot], master: bytes, keys: Mapping[bytes, bytes]) -> Document:
        ring = wrap(master, b"".join(keys.values()), b"".join(keys))
        return cls(tuple(slots), tuple(keys), ring)

    def opened_by(self, phrase: str, likely: int = 0) -> Opened | None:
        """Return the slot that the pass phrase decrypts, None if none; slot ``likely`` is tried first."""
        for at in sorted(range(len(self.slots)), key=lambda at: at != likely):
            slot = self.slots[at]
            key = slot.stretch(phrase)
            master = unwrap(key, slot.master, b"master")
            if master is not None:
                return Opened(at, slot, key, master)
        return None

    def keys(self, master: bytes) -> dict[bytes, bytes]:
        """Return the data keys by id.

        Raises:
            ValueError: master and keys don't match.
        """
        ring = unwrap(master, self.ring, b"".join(self.ids))
        if ring is None or len(ring) != KEY_BYTES * len(self.ids):
            raise ValueError("the keys don't fit the master")
        cut = [ring[at : at + KEY_BYTES] for at in range(0, len(ring), KEY_BYTES)]
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
        document = {"format": FORMAT, "sealing": values, "sha256": checksum_of([FORMAT, values])}
        return json.dumps(document, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Document:
        """Decode the bytes of a key file.

        Raises:
            ValueError: it is not a key file, it is damaged, or it has a later format.
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
        if checksum != checksum_of([version, values]):
            raise ValueError("it is damaged")
        if version != FORMAT:
            raise ValueError(f"it has format {version}, and this release reads format {FORMAT} only")
        match values:
            case {"slots": [*slots], "keys": [*ids], "ring": str(ring)}:
                found = cls(tuple(map(_slot, slots)), tuple(map(_id, ids)), _from_text(ring))
            case _:
                raise ValueError("parts of it are missing")
        if not 0 < len(found.slots) <= SLOTS_MAX or not 0 < len(set(found.ids)) == len(ids) <= KEYS_MAX:
            raise ValueError("it has too many parts, or none")
        return found


def _slot(values: object) -> Slot:
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
            return Slot(n, r, p, _from_text(salt), _from_text(master))
        case _:
            raise ValueError("a key derivation that this release doesn't know")


def _id(value: object) -> bytes:
    key_id = bytes.fromhex(value) if isinstance(value, str) else b""
    if len(key_id) != ID_BYTES:
        raise ValueError("a key without a proper id")
    return key_id


def checksum_of(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_text(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
