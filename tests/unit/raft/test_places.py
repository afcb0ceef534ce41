"""A position decodes to its segment and offset, and grows with the journal."""

from __future__ import annotations

import pytest

from node.raft.places import OFFSET_BITS, Places


@pytest.mark.parametrize("origin", [1, (1 << 24) - 1, (1 << 60)])
def test_positions(origin: int) -> None:
    places = Places(origin)
    made = [(origin + more, offset) for more in (0, 1, 1 << 20) for offset in (0, 1, (1 << OFFSET_BITS) - 1)]
    positions = [places.position(*each) for each in made]
    assert positions == sorted(positions)
    assert [(places.segment(each), places.offset(each)) for each in positions] == made
    assert max(positions) < 1 << 64
