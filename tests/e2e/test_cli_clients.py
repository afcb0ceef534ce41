"""``stanchion pub`` and ``sub`` as a person uses them, Ctrl-C included."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from e2e.harness import STANCHION, Child, Cluster, until
from e2e.ports import Guard


def client_ids(cluster: Cluster) -> set[str]:
    page = cluster.page(cluster.leader(), "/streaming/clientsz?limit=1000")
    return {client["id"] for client in page["clients"]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sub_leaves_no_client_behind(
    cluster: Cluster, unique: str, tmp_path: Path, guard: Guard, number: signal.Signals
) -> None:
    """Its client ID stayed registered until its heartbeats had failed, after 446 s."""
    command = [str(STANCHION), "sub", unique, "--client-id", unique, "--server", cluster.address("n2")]
    child = Child("sub", command, tmp_path / "sub.log", guard)
    until("the client", lambda: unique in client_ids(cluster))
    until("the subscription", lambda: cluster.get("n2", f"/streaming/channelsz?channel={unique}")[0] == 200)
    child.signal(number)
    assert child.wait(10) == 0
    until("the client to be gone", lambda: unique not in client_ids(cluster), timeout_s=5)
