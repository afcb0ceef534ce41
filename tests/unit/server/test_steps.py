"""A job in steps."""

from __future__ import annotations

from collections.abc import Iterator

from node.server.steps import ends


def test_a_step_is_bounded_and_the_end_is_told_once_there_is_nothing_left() -> None:
    done: list[int] = []

    def job() -> Iterator[None]:
        for number in range(10):
            done.append(number)
            yield

    running = job()
    assert [(ends(running, 4), len(done)) for _ in range(3)] == [(False, 4), (False, 8), (True, 10)]
    assert ends(running, 4)


def test_an_empty_job_ends_at_once() -> None:
    assert ends(iter(()))
