"""Decided deliveries are written to their clients' sockets soon, whichever node crashes (R10, R15)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from seed_search import SeedSearch

from node.core.commands import NOTHING_UNWRITTEN, Unwritten
from node.server.losses import Losses
from node.simulator.cluster_run import Case, attempt
from node.simulator.profiles import PROFILES


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_without_reports_of_unwritten_entries_deliveries_are_lost(
    seeds: SeedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R10, R15: without reports of unwritten entries, a node killed after the commit loses its deliveries."""
    monkeypatch.setattr(
        Losses, "unwritten", lambda self, before, now, now_ns, since_ns: Unwritten(NOTHING_UNWRITTEN, 0, 0)
    )

    def broken(seed: int) -> str | None:
        failure = attempt(Case(seed, PROFILES["kills"], 3)).failure
        return "unwritten" if failure is not None and "no node has written" in failure.text else None

    seeds.find(20, broken)
