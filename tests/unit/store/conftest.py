"""What several tests of the store need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from node.sealing import document
from node.sealing.keyring import Keyring


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Keyring]:
    """The keys of a directory, made or opened: ``keyring("n1")``. The pass phrase costs nothing here."""
    monkeypatch.setattr(document, "_N", 16)

    def opened(name: str, phrase: str = "pass") -> Keyring:
        directory = tmp_path / f"keys-{name}"
        new = not directory.exists()
        directory.mkdir(exist_ok=True)
        return Keyring.open(directory, [phrase], cipher="aes-256-gcm", empty=new)

    return opened
