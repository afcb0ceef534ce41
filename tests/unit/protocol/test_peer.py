"""Frames between nodes: what goes over the wire, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from node.protocol import peer
from node.protocol.peer import FrameDecoder, FrameError, decode_body, encode_frame, frame_length, shown


def raw(body: bytes, version: int = peer.WIRE_VERSION) -> bytes:
    return (len(body) + 1).to_bytes(4, "big") + bytes([version]) + body


def test_a_frame_is_length_version_and_msgpack() -> None:
    """The bytes are fixed: another release must read them."""
    assert encode_frame({"a": [1, b"x"]}) == b"\x00\x00\x00\x09\x01\x81\xa1a\x92\x01\xc4\x01x"


def test_arrays_come_out_as_tuples() -> None:
    """What a peer sent can't be changed by whoever reads it."""
    assert FrameDecoder().feed(encode_frame([1, [2, {"k": [3]}]])) == [(1, (2, {"k": (3,)}))]


def test_several_frames_in_one_read_come_out_together() -> None:
    frames = b"".join(encode_frame(n) for n in range(3))
    assert FrameDecoder().feed(frames) == [0, 1, 2]


def test_a_frame_cut_anywhere_comes_out_once_it_is_complete() -> None:
    """The first read ends in the middle of a frame, the next brings the rest and more."""
    decoder = FrameDecoder()
    first, second = encode_frame("first" * 100), encode_frame("second")
    assert decoder.feed(first[:3]) == []
    assert decoder.feed(first[3:200]) == []
    assert decoder.buffered_bytes == 200
    assert decoder.feed(first[200:] + second[:-1]) == ["first" * 100]
    assert decoder.feed(second[-1:]) == ["second"]
    assert decoder.buffered_bytes == 0


def test_nothing_is_copied_back_into_the_callers_buffer() -> None:
    """A bytearray that was fed may be cleared at once."""
    decoder = FrameDecoder()
    data = bytearray(encode_frame(b"payload") + b"\x00")
    (value,) = decoder.feed(data)
    data.clear()
    assert value == b"payload"


@pytest.mark.parametrize(
    ("garbage", "problem"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "a frame of 1195725856 bytes"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "a frame of 369295618 bytes"),  # a TLS client hello
        (b"\x00\x00\x00\x00", "a frame of 0 bytes"),
        (b"\x00\x00\x00\x01\x01", "a frame of 1 bytes"),
        (raw(b"\xc0", version=2), "frame version 2; this node supports 1"),
        (raw(b"\xc1"), "invalid msgpack"),
        (raw(b"\x92\x01"), "invalid msgpack"),  # an item is missing
        (raw(b"\x01\x02"), "invalid msgpack"),  # one too many
        (raw(b"\xa1\xff"), "invalid msgpack"),  # no UTF-8
        (raw(b"\x81\x01\x02"), "invalid msgpack"),  # a map by numbers
        (raw(b"\x81\x90\x01"), "invalid msgpack"),  # a map by arrays
        (raw(b"\xd4\x05\x00"), "invalid msgpack"),  # an extension
        (raw(b"\xc7\x00\x05"), "extension type 5"),  # one without content
        (raw(b"\xd6\xff\x00\x00\x00\x01"), "invalid msgpack"),  # a timestamp
        (raw(b"\x91" * 5000 + b"\x01"), "invalid msgpack"),  # arrays in arrays in arrays
        (raw(b"\xdd\xff\xff\xff\xff" * 3), "invalid msgpack"),  # four thousand million items
        (raw(b"\xdf\xff\xff\xff\xff" * 3), "invalid msgpack"),
        (raw(b"\xc6\xff\xff\xff\xff" * 3), "invalid msgpack"),
    ],
)
def test_garbage_is_refused_after_what_was_good(garbage: bytes, problem: str) -> None:
    """The frames ahead of it are delivered; afterwards nothing is, whatever comes."""
    decoder = FrameDecoder()
    assert decoder.feed(encode_frame("good") + garbage) == ["good"]
    assert isinstance(decoder.error, FrameError)
    assert problem in str(decoder.error)
    assert decoder.feed(encode_frame("late")) == []
    assert decoder.buffered_bytes == 0


def test_a_long_frame_is_refused_before_it_arrives() -> None:
    """Four bytes are enough to know; nothing is gathered."""
    decoder = FrameDecoder(frame_bytes_max=1000)
    just_right = encode_frame(b"x" * (1000 - 5 - 3))
    assert len(just_right) == 1000
    assert len(decoder.feed(just_right)) == 1
    assert decoder.feed((997).to_bytes(4, "big")) == []
    assert "a frame of 997 bytes; expected 2 to 996" in str(decoder.error)


def test_an_array_holds_so_many_items_at_most() -> None:
    decoder = FrameDecoder(items_max=10)
    assert decoder.feed(encode_frame(list(range(10)))) == [tuple(range(10))]
    assert decoder.feed(encode_frame(list(range(11)))) == []
    assert decoder.error is not None


def test_a_hello_is_read_piece_by_piece() -> None:
    """Before the hello only as many bytes are read as it has."""
    frame = encode_frame({"node": "n1"})
    assert frame_length(frame[:4], peer.HELLO_BYTES_MAX) == len(frame) - 4
    assert decode_body(frame[4:], peer.HELLO_ITEMS_MAX) == {"node": "n1"}


@pytest.mark.parametrize("value", [object(), {1, 2}, 1 << 64, "\ud800"])
def test_what_msgpack_cannot_hold_is_our_own_mistake(value: Any) -> None:
    """It is raised to whoever sends it, and the next frame is not spoilt by it."""
    with pytest.raises((TypeError, ValueError, OverflowError)):
        encode_frame([b"already packed", value])
    assert FrameDecoder().feed(encode_frame(1)) == [1]


def test_whatever_came_can_be_shown() -> None:
    """As deep as msgpack takes it, ``repr`` fails; as long as a frame may be, it makes a longer text yet."""
    deep = decode_body(bytes([peer.WIRE_VERSION]) + b"\x91" * 1023 + b"\x01")
    with pytest.raises(RecursionError):
        repr(deep)
    assert shown(deep) == "((((...),),),)"
    assert shown(b"x" * 1_000_000) == "b'xxxxxxxxxxxxxxxxxxxx'..."
    assert shown({"key": [1, (b"payload" * 9, None)]}) == "{'key': [1, (b'payloadpayloadpayloa'..., None)]}"
    assert len(shown((10**1000, "x" * 1000, [{i: i} for i in range(1000)]))) < 300
