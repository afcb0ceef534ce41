"""The picture shows the whole model and fits the screen."""

from __future__ import annotations

import io

from rich.console import Console

from node.demo.picture import HEIGHT, picture, screen_lines
from node.demo.show import Countdown, NodeView, Show, Slots


def drawn(show: Show, now_s: float, *, width: int = 120, lines: int = 6) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(picture(show, now_s, lines=lines, width=width))
    return console.export_text()


def a_show() -> Show:
    show = Show(100.0, seed=1)
    show.nodes = {
        "n1": NodeView("n1", "leader", 2, 30, 30, 30, 4),
        "n2": NodeView("n2", "down"),
        "n3": NodeView("n3", "follower", 2, 30, 29, 30, 5, is_paused=True),
    }
    show.channels = [{"name": "demo.orders", "msgs": 12, "bytes": 2048, "subs_count": 1, "subscriptions": []}]
    show.countdowns = [Countdown("holder-1", seq, 5, 1, 111.0) for seq in range(9)]
    show.happened(108.0, "kill", "kill -9 n2")
    show.redelivered(109.0, "due", "holder-1", "holder-1, 5 s", 7)
    show.redelivered(109.1, "due", "holder-1", "holder-1, 5 s", 8)
    return show


def test_the_picture_has_all_parts() -> None:
    text = drawn(a_show(), 110.0)
    for word in ("leader", "killed", "paused", "demo.orders", "kill -9 n2", "2 messages → holder-1", "1.0 s"):
        assert word in text


def test_due_messages_wait_for_a_leader() -> None:
    show = a_show()
    show.leaderless_since_s = 110.9
    text = drawn(show, 111.1)
    assert "no leader for 200 ms" in text
    assert "due, waiting for a leader" in text


def test_it_fits_a_small_screen() -> None:
    show = a_show()
    for number in range(50):
        show.happened(109.0, "phase", f"event {number}")
        show.redelivered(109 + number, "due", "holder-1", "holder-1, 5 s", number)
    text = drawn(show, 110.0, width=80, lines=screen_lines(24))
    assert len(text.splitlines()) <= 24
    assert all(len(line) <= 80 for line in text.splitlines())
    for word in ("killed", "paused", "demo.orders", "unacked", "event 49", "AckWait", "leader"):
        assert word in text
    assert "…" not in text
    assert len(drawn(show, 110.0, lines=10).splitlines()) <= HEIGHT + 10


def test_a_message_keeps_its_slot_while_it_is_unacknowledged() -> None:
    """Otherwise its countdown could not be followed."""
    slots = Slots(2)
    first = slots.choose("a", 5, dict.fromkeys(range(1, 10), 1))
    assert len(first) == 2
    assert slots.choose("a", 5, dict.fromkeys(range(1, 30), 1)) == first
    gone, stays = first
    assert stays in slots.choose("a", 5, {seq: 1 for seq in range(1, 30) if seq != gone})
