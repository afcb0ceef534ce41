"""What the tests of sealing need: keys of directories, at no cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.encryption import document
from node.encryption.keyring import Keyring


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass phrase costs a quarter of a second; not here."""
    monkeypatch.setattr(document, "_N", 16)


def opened(directory: Path, *phrases: str, cipher: str = "aes-256-gcm", empty: bool = False) -> Keyring:
    return Keyring.open(directory, phrases or ["pass"], cipher=cipher, empty=empty)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return opened(tmp_path, empty=True)


def node(tmp_path: Path, name: str, *phrases: str) -> Keyring:
    """A node's keys in a new directory of its own."""
    (tmp_path / name).mkdir()
    return opened(tmp_path / name, *phrases, empty=True)
