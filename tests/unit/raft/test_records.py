"""Records and headers: encoded bytes decode to the same values, all other bytes are refused."""

from __future__ import annotations

import pytest

from node.raft.records import (
    HEADER_BYTES,
    RECORD_BYTES,
    Frame,
    Header,
    HeaderError,
    Kind,
    Record,
    decode_header,
    header_bytes,
    pack_base,
    pack_placed,
    unpack_base,
    unpack_placed,
)

FRAME = Frame(b"j" * 16, 7)
HEADER = Header(b"j" * 16, 7, 100, 50, 3, "b", (9, b"ab"))


def test_record_is_read_back() -> None:
    data = FRAME.encode(Kind.ENTRY, 10, 3, 5, 2, b"payload") + b"payload"
    assert FRAME.length(data) == len(data) == RECORD_BYTES + 7
    assert FRAME.decode(b"??" + data + b"more", 2) == Record(Kind.ENTRY, 10, 7, 5, 2, b"payload")


def test_record_is_bound_to_journal_and_segment() -> None:
    data = FRAME.encode(Kind.ENTRY, 10, 3, 5, 2, b"payload") + b"payload"
    for other in (Frame(b"k" * 16, 7), Frame(b"j" * 16, 8)):
        assert other.length(data) is None
        assert other.decode(other.marker + data[4:]) is None


def test_no_flipped_bit_and_no_cut_gets_through() -> None:
    data = FRAME.encode(Kind.VOTE, 10, 0, 1, 2, b"node") + b"node"
    for bit in range(len(data) * 8):
        hurt = bytearray(data)
        hurt[bit // 8] ^= 1 << bit % 8
        assert FRAME.decode(bytes(hurt)) is None
    for end in range(len(data)):
        assert FRAME.decode(data[:end]) is None


def test_zeros_are_no_record() -> None:
    for number in range(200):
        frame = Frame(b"j" * 16, number)
        assert 0 not in frame.marker
        assert frame.length(bytes(100)) is None


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        Header(b"j" * 16, 1, 1, 1, 0, None, None),
        Header(b"j" * 16, 1, 1, 1, 0, "x", (9, b"n" * 9000)),
    ],
)
def test_header_is_read_back(header: Header) -> None:
    data = header.encode()
    assert header_bytes(data[:64]) == len(data)
    assert len(data) % HEADER_BYTES == 0
    assert decode_header(data) == header


def test_header_of_another_format_says_so() -> None:
    data = bytearray(HEADER.encode())
    data[8] = 9
    with pytest.raises(
        HeaderError, match=r"format 9, this release reads up to format 2: use .* or replace the node"
    ):
        header_bytes(bytes(data))


@pytest.mark.parametrize("data", [b"", b"short", bytes(64), b"STANJRNL\1\0" + bytes(54)])
def test_no_header(data: bytes) -> None:
    with pytest.raises(HeaderError):
        header_bytes(data)


def test_payloads_that_carry_a_membership() -> None:
    for placed in (None, (7, b"members")):
        assert unpack_placed(pack_placed(placed)) == placed
    for membership in (None, b"members"):
        assert unpack_base(pack_base(5, membership)) == (5, membership)
