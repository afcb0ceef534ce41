"""The process's own figures."""

from __future__ import annotations

import os

from node.monitor.process import ProcessMeter


def test_a_look_shows_memory_files_and_cores() -> None:
    process = ProcessMeter().look()
    assert process.memory > 1_000_000
    assert process.open_fds > 2
    assert process.cores == os.cpu_count()


def test_processor_use_is_measured_over_half_a_second_at_least() -> None:
    now = 10.0
    meter = ProcessMeter(lambda: now)
    now = 10.1
    assert meter.look().cpu == 0.0
    sum(i * i for i in range(200_000))
    now = 11.0
    used = meter.look().cpu
    assert used > 0
    now = 11.2
    assert meter.look().cpu == used
