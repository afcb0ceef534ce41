"""Frames decode to what was encoded; anything else raises `RemoteProtocolError`."""

from __future__ import annotations

import msgpack
import pytest

from node.errors import RemoteProtocolError
from node.raft.frames import (
    Ack,
    Alive,
    Append,
    PreVote,
    PreVoteRequest,
    Refusal,
    Stale,
    TimeoutNow,
    Vote,
    VoteRequest,
    parse,
)

FRAMES = [
    Append(3, 5, 2, 4, [(6, 2, b"\x01x"), (7, 3, b"\x00")], True, [1, "note"]),
    Append(3, 5, 2, 4, [], False, None),
    Alive(3, 9, None),
    Ack(3, 7, {"warm": True}),
    Refusal(3, 5, 2, None),
    Stale(4),
    VoteRequest(4, 7, 3, True),
    Vote(4, "note"),
    PreVoteRequest(4, 7, 3),
    PreVote(4, False, 5, None),
    TimeoutNow(3),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_frames_survive_the_wire(frame) -> None:
    assert parse(msgpack.unpackb(msgpack.packb(frame.encode()))) == frame


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_missing_and_wrong_fields_are_refused(frame) -> None:
    whole = frame.encode()
    for key in whole:
        if key != "x":
            with pytest.raises(RemoteProtocolError):
                parse({name: value for name, value in whole.items() if name != key})
            limit = 1 << (64 if "term" in key or key == "current" else 63)
            for wrong in (None, -1, limit, 1.0, "1", [[]]):
                with pytest.raises(RemoteProtocolError):
                    parse(whole | {key: wrong})


@pytest.mark.parametrize(
    "entries",
    [
        [(7, 2, b"\x01")],  # a hole
        [(5, 2, b"\x01")],  # prev once more
        [(6, 1, b"\x01")],  # a term that goes back
        [(6, 4, b"\x01")],  # a term that isn't yet
        [(6, 2, b"")],  # no type byte
        [(6, 2, "\x01")],
        [(6, True, b"\x01")],
        [(6, 2)],
        [6],
    ],
)
def test_entries_must_follow_each_other(entries: list) -> None:
    with pytest.raises(RemoteProtocolError, match="can't follow entry 5"):
        parse(Append(3, 5, 2, 4, entries, True, None).encode())


def test_append_follows_something() -> None:
    with pytest.raises(RemoteProtocolError):
        parse(Append(3, 0, 0, 4, [], True, None).encode())
