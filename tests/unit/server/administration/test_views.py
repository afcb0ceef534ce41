"""What operators are shown."""

from __future__ import annotations

from typing import Any

import pytest
from conversation import LATE, SECOND, Conversation

from node.core.commands import SubscriptionPause
from node.errors import RefusedError
from node.server.administration import views


def talk_of(**settings: Any) -> Conversation:
    talk = Conversation(**settings)
    talk.connect("me")
    return talk


def test_a_page_is_sorted_and_bounded() -> None:
    rows = [(number, number) for number in (5, 1, 4, 2, 3)]

    def numbers(after: int | None, limit: int) -> tuple[list[Any], Any]:
        page = views.page(rows, after, limit, lambda number: {"n": number}, "rows")
        return [row["n"] for row in page["rows"]], page["next"]

    assert numbers(None, 2) == ([1, 2], 2)
    assert numbers(2, 2) == ([3, 4], 4)
    assert numbers(4, 2) == ([5], None)
    assert numbers(3, 2) == ([4, 5], None)
    with pytest.raises(RefusedError):
        numbers(None, 0)


def test_an_empty_channel() -> None:
    """S2: nothing was ever stored, so first and last are 0."""
    talk = talk_of(max_inactivity_ns=9 * SECOND)
    talk.subscribe("A")
    shown = views.channel_in_full(talk.state, talk.state.channels["foo"])
    assert (shown["first"], shown["last"], shown["first_time_ns"], shown["inactive_in_s"]) == (
        0,
        0,
        None,
        None,
    )
    talk.close("A")
    assert views.channel_in_full(talk.state, talk.state.channels["foo"])["inactive_in_s"] == 9


def test_a_subscription_and_how_it_is() -> None:
    talk = talk_of()
    talk.subscribe("A", durable="d", mif=2)
    talk.publish(5)
    shown = views.subscription(talk.find("A"))
    marks = ("online", "unreachable", "stalled", "paused")
    assert [shown[mark] for mark in marks] == [True, False, True, False]
    assert (shown["cursor"], shown["behind"], shown["unacked"]) == (2, 3, 2)
    talk.away("me")
    assert views.subscription(talk.find("A"))["unreachable"]
    talk.close("A")
    shown = views.subscription(talk.find("A"))
    assert [shown[mark] for mark in marks] == [False, False, False, False]


def test_remaining_ack_wait() -> None:
    """It runs; what is due has none left; in a pause it stands still."""
    talk = talk_of()
    talk.subscribe("A", wait=10)
    talk.publish(at=0)
    talk.publish(at=3)
    talk.unresponsive("me")
    talk.tick(at=4)

    def left() -> list[float]:
        shown = views.subscription_in_full(talk.state, talk.find("A"))
        return [message["due_in_s"] for message in shown["unacked_shown"]]

    assert left() == [6, 9]
    talk.say(SubscriptionPause(1, True, LATE))
    talk.tick(at=50)
    assert left() == [6, 9]
    assert views.subscription_in_full(talk.state, talk.find("A"))["paused_for_s"] == 46


def test_long_lists_are_cut() -> None:
    talk = talk_of()
    talk.checked = False
    for n in range(102):
        talk.subscribe(f"A{n}", queue="q", mif=1)
    assert len(views.subscription_in_full(talk.state, talk.find("A1"))["members"]) == 100
    assert len(views.channel_in_full(talk.state, talk.state.channels["foo"])["subscriptions_shown"]) == 100
    assert len(views.client_in_full(talk.state.clients["me"])["subscriptions_shown"]) == 100
