"""A node's figures, as monitoring shows them."""

from __future__ import annotations

import math

import pytest

from node.server.monitor_adapter import age_ns


@pytest.mark.parametrize(("age_s", "shown"), [(None, None), (math.inf, None), (0.0, 0), (1.5, 1_500_000_000)])
def test_a_peer_that_was_never_heard_has_no_age(age_s: float | None, shown: int | None) -> None:
    """Its contact is infinitely long ago: /raftz and /streaming/serverz answered 500."""
    assert age_ns(age_s) == shown
