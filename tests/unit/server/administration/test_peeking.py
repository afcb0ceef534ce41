"""Looking at messages without consuming them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from node.core.log import MessageLog
from node.core.settings import Limits
from node.core.state import Channel
from node.errors import RefusedError
from node.protocol.message import message, message_body
from node.server.administration.peeking import SHOWN_MAX, peek
from node.units import ChannelID


class Stored:
    """A channel and its messages."""

    def __init__(self, *data: bytes, first: int = 1, reply: str = "") -> None:
        self.channel = Channel(ChannelID(7), "foo", (1, 1), Limits(0, 0, 0, 0, 0))
        bodies = [message_body("foo", reply, each) for each in data]
        self.payloads: dict[int, bytes | None] = {
            seq: message(seq, 10 * seq, body) for seq, body in enumerate(bodies, first)
        }
        self.channel.log = MessageLog()
        for seq in range(1, first + len(data)):
            self.channel.log.append([len(self.payloads.get(seq) or b"")], 10 * seq)
        self.channel.log.drop_before(first)
        self.read = 0

    def get_many(self, channel: int, seqs: Sequence[int]) -> list[bytes | None]:
        assert channel == 7
        self.read += len(seqs)
        return [self.payloads[seq] for seq in seqs]

    def peek(self, start: int = 1, count: int = 10, data_max: int = 100) -> dict[str, Any]:
        return peek(self, self.channel, start=start, count=count, data_max=data_max)

    def seqs(self, **options: int) -> tuple[list[int], int | None]:
        seen = self.peek(**options)
        return [shown["seq"] for shown in seen["messages"]], seen["next"]


def test_a_message_is_shown_with_its_fields() -> None:
    seen = Stored(b"hello", reply="r").peek()
    shown = {"seq": 1, "time_ns": 10, "reply": "r", "size": 5, "data": "hello"}
    assert seen == {"channel": "foo", "messages": [shown], "next": None}


def test_where_to_begin_and_where_to_go_on() -> None:
    """Below the first: there. Below 0: so many from the end."""
    stored = Stored(*[b"x"] * 5, first=3)
    assert stored.seqs() == ([3, 4, 5, 6, 7], None)
    assert stored.seqs(start=4, count=2) == ([4, 5], 6)
    assert stored.seqs(start=-2) == ([6, 7], None)
    assert stored.seqs(start=-99, count=1) == ([3], 4)
    assert stored.seqs(start=8) == ([], None)
    assert Stored().seqs(start=-1) == ([], None)


def test_data_that_is_no_text_is_base64() -> None:
    """A character that is cut is no reason; one that is broken is."""
    assert Stored(b"\xff\x00").peek()["messages"][0]["base64"] == "/wA="
    assert Stored("aß".encode()).peek(data_max=2)["messages"][0]["data"] == "a"
    assert Stored("aß".encode()[:2]).peek(data_max=2)["messages"][0]["base64"] == "YcM="
    assert Stored(b"abc").peek(data_max=0)["messages"][0] == {
        "seq": 1, "time_ns": 10, "reply": "", "size": 3, "data": "",
    }  # fmt: skip


def test_an_answer_is_bounded() -> None:
    """At least one message is shown, whatever its size; no more is read than is shown."""
    stored = Stored(*[b"x" * 60_000] * 5)
    seqs, following = stored.seqs(data_max=64 * 1024)
    assert (seqs, following) == ([1, 2], 3)
    assert stored.read == 2
    assert SHOWN_MAX > 2 * 60_000
    large = Stored(*[b"x" * 9_000_000] * 2)
    assert large.seqs() == ([1], 2)


def test_messages_missing_in_the_store_are_omitted() -> None:
    stored = Stored(b"a", b"b")
    stored.payloads[1] = None
    assert stored.seqs() == ([2], None)


@pytest.mark.parametrize(("count", "data_max"), [(0, 1), (501, 1), (1, -1), (1, 65_537)])
def test_numbers_out_of_range_are_refused(count: int, data_max: int) -> None:
    with pytest.raises(RefusedError):
        Stored(b"a").peek(count=count, data_max=data_max)
