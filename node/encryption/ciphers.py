"""The two ciphers, their sizes, and wrapping a key in another key."""

from __future__ import annotations

import secrets
from typing import Final, Protocol

FORMAT: Final = 1
"""Format version of derived keys and of the key file."""

CIPHERS: Final = {"aes-256-gcm": 1, "chacha20-poly1305": 2}
NAMES: Final = {code: name for name, code in CIPHERS.items()}
ID_BYTES, SESSION_BYTES, COUNTER_BYTES, NONCE_BYTES, TAG_BYTES = 8, 12, 8, 12, 16
KEY_BYTES = 32


class Aead(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes | memoryview, associated_data: bytes | None) -> bytes: ...


def aead(cipher: int, key: bytes) -> Aead:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

    return AESGCM(key) if cipher == CIPHERS["aes-256-gcm"] else ChaCha20Poly1305(key)


def wrap(key: bytes, secret: bytes, context: bytes) -> bytes:
    """Encrypt ``secret``. Random nonces are safe: a key wraps only at starts and for new keys."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + aead(CIPHERS["aes-256-gcm"], key).encrypt(nonce, secret, b"stanchion keys " + context)


def unwrap(key: bytes, wrapped: bytes, context: bytes) -> bytes | None:
    from cryptography.exceptions import InvalidTag

    if len(wrapped) < NONCE_BYTES + TAG_BYTES:
        return None
    nonce, encrypted = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
    try:
        return aead(CIPHERS["aes-256-gcm"], key).decrypt(nonce, encrypted, b"stanchion keys " + context)
    except InvalidTag:
        return None
