"""A machine with too much to do: nodes get the processor late and little. Nobody is elected for that."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest
from e2e.harness import Cluster, until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SECONDS = float(os.environ.get("STANCHION_OVERLOAD_SECONDS", "8"))
RUN_S, STAND_S = 0.015, 0.25
"""How long each node runs and stands still in turn: as at a load of thirty on two processors, and worse, for
it gets nothing at all in between.
"""

NOTICED_MAX_S = 0.9
"""A killed leader is noticed by its connections, which the kernel closes: after 75 to 150 ms on a quiet
machine, and in any case before an election timeout could have ended.
"""

ROLE = re.compile(r"role (\w+) term (\d+) leader (\S+):")


@contextmanager
def starved(cluster: Cluster) -> Iterator[None]:
    """Every node runs a small part of the time, each at its own moments, within this block."""
    over = Event()
    pids = {name: cluster.children[name].process.pid for name in cluster.running}

    def starve(pid: int, first_s: float) -> None:
        over.wait(first_s)
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(STAND_S)
            os.kill(pid, signal.SIGCONT)
            over.wait(RUN_S)

    threads = [
        Thread(target=starve, args=(pid, number * STAND_S / 3)) for number, pid in enumerate(pids.values())
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def term(cluster: Cluster) -> int:
    return int(cluster.page(cluster.running[0], "/raftz")["term"])


def test_load_alone_elects_nobody_and_a_killed_leader_is_noticed(cluster: Cluster) -> None:
    """With timeouts of 300 to 600 ms the leader changed several times a minute at load 20."""
    leader = cluster.leader()
    before = term(cluster)
    with starved(cluster):
        time.sleep(SECONDS)
    assert term(cluster) == before
    assert cluster.leader() == leader

    sizes = {name: cluster.log(name).stat().st_size for name in cluster.running if name != leader}
    killed_s = time.monotonic()
    cluster.kill(leader)

    def campaigns() -> float | None:
        for name, size in sizes.items():
            if any(int(found[2]) > before for found in ROLE.finditer(cluster.log(name).read_text()[size:])):
                return time.monotonic() - killed_s
        return None

    noticed_s = until("a candidate", campaigns, timeout_s=5)
    assert noticed_s is not None
    print(f"noticed after {1000 * noticed_s:.0f} ms")  # noqa: T201 - shown when it fails
    assert noticed_s <= NOTICED_MAX_S
    cluster.heal()
