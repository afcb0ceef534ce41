"""The demo's clients repeat unanswered requests, as applications do."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from node.client import Client
from node.core.refusals import NO_LEADER, STOPPING
from node.demo.history import History
from node.demo.load import Load, Station
from node.errors import NodeError, RefusedError, UnavailableError


class Asked(Client):
    """Answers each attempt with the next of a list; then it is subscribed."""

    def __init__(self, *answers: NodeError) -> None:
        self.answers = list(answers)
        self.attempts = 0

    async def subscribe(self, *_args: Any, **_options: Any) -> Any:
        self.attempts += 1
        await trio.lowlevel.checkpoint()
        if self.answers:
            raise self.answers.pop(0)


async def subscribe(client: Client) -> None:
    load = Load({}, "c", History(), lambda *_notified: None, random.Random(1))
    await load._subscribe(Station(client, load.history, {}), "foo", lambda _message: None)


async def test_a_subscription_is_asked_for_until_it_is_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """On a busy machine the answer took longer than 2 s, and the demonstration failed."""
    client = Asked(UnavailableError("no answer"), RefusedError(NO_LEADER), RefusedError(STOPPING))
    await subscribe(client)
    assert client.attempts == 4


async def test_a_subscription_that_is_refused_ends_the_demonstration() -> None:
    client = Asked(RefusedError("stan: invalid subject"))
    with pytest.raises(RefusedError, match="invalid subject"):
        await subscribe(client)
    assert client.attempts == 1
