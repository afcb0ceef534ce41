"""Names that nobody can guess."""

from __future__ import annotations

import secrets

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_NAME_LENGTH = 22
"""62 ** 22 is more than 2 ** 130: as hard to guess as a key."""


def random_name() -> str:
    """22 random letters and digits, one token of a subject."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(RANDOM_NAME_LENGTH))
