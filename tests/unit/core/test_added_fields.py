"""Fields that later machine versions added to the records of version 1 (R24)."""

from __future__ import annotations

import pytest

from node.core import added_fields
from node.core.added_fields import pack_added, unpack_added
from node.core.state import Session


@pytest.fixture(autouse=True)
def _one_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if ``applied`` had been added to `Session`."""
    monkeypatch.setitem(added_fields.ADDED, Session, ("applied",))
    monkeypatch.setitem(added_fields._DEFAULTS, Session, {"applied": 0})


def session(applied: int = 0) -> Session:
    return Session("n1", (3, 1), b"nonce", applied)


def test_a_default_is_not_written() -> None:
    """So the record is that of version 1."""
    assert pack_added(session()) == ()
    assert pack_added(session(7)) == ({"applied": 7},)


@pytest.mark.parametrize("applied", [0, 7])
def test_what_is_written_is_read(applied: int) -> None:
    read = session()
    unpack_added(read, pack_added(session(applied)))
    assert read.applied == applied


def test_a_field_of_a_later_release_is_refused() -> None:
    with pytest.raises(ValueError, match="a Session with a field 'lowest_waited' that this release lacks"):
        unpack_added(session(), [{"lowest_waited": 7}])
    with pytest.raises(TypeError, match="a Session with int instead of added fields"):
        unpack_added(session(), [7])  # type: ignore[list-item]
