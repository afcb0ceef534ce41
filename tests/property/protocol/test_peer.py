"""Frames between nodes: any value, any cut, any garbage."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.peer import FrameDecoder, FrameError, encode_frame

keys = st.text(max_size=8) | st.binary(max_size=8)
plain = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=50)
    | st.binary(max_size=300)
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=5).map(tuple) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def feed_all(pieces: list[bytes]) -> tuple[list[Any], bool]:
    decoder = FrameDecoder(frame_bytes_max=65_536, items_max=256)
    out = [value for piece in pieces for value in decoder.feed(piece)]
    assert decoder.error is None or isinstance(decoder.error, FrameError)
    return out, decoder.error is not None


@settings(deadline=None, max_examples=80)
@given(st.lists(values, max_size=6), st.lists(st.integers(0, 1 << 30), max_size=8))
def test_what_goes_in_comes_out_however_it_is_cut(sent: list[Any], places: list[int]) -> None:
    data = b"".join(encode_frame(value) for value in sent)
    assert feed_all(cut(data, places)) == (sent, False)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(values, max_size=3),
    st.binary(max_size=200),
    st.lists(st.integers(0, 1 << 30), max_size=8),
    st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), max_size=4),
)
def test_no_bytes_can_do_more_than_be_refused(
    sent: list[Any], tail: bytes, places: list[int], flips: list[tuple[int, int]]
) -> None:
    """Damaged frames and noise: the same values and the same verdict, whole or in pieces."""
    data = bytearray(b"".join(encode_frame(value) for value in sent) + tail)
    for place, bits in flips:
        if data:
            data[place % len(data)] ^= bits
    whole = feed_all([bytes(data)])
    pieces = feed_all(cut(bytes(data), places))
    assert repr(pieces) == repr(whole)  # by text: damage may have made a NaN
