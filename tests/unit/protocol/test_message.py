"""Stored messages as bytes are what protobuf itself would read and, but for the order, write."""

from __future__ import annotations

import pytest

from node.protocol import streaming_pb2 as pb
from node.protocol.message import message, message_body, message_size, redelivered, varint, varint_size

NOW = 1_700_000_000_123_456_789
EDGES = [0, 1, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21, 2**28, 2**32, 2**63 - 1]


@pytest.mark.parametrize("seq", [*EDGES, 2**64 - 1])
@pytest.mark.parametrize("timestamp_ns", [*EDGES, NOW])
def test_sequence_and_timestamp(seq: int, timestamp_ns: int) -> None:
    body = message_body("foo", "", b"hello")
    data = message(seq, timestamp_ns, body)
    assert len(data) == message_size(seq, timestamp_ns, len(body))
    decoded = pb.MsgProto.FromString(data)
    assert (decoded.sequence, decoded.timestamp) == (seq, timestamp_ns)
    assert decoded.SerializeToString(deterministic=True) == data  # nothing is there that need not be


@pytest.mark.parametrize("subject", ["", "a", "ü" * 63, "ü" * 64, "x" * 255])
@pytest.mark.parametrize("reply", ["", "_INBOX.a"])
@pytest.mark.parametrize("data", [b"", b"\x00", b"d" * 127, b"d" * 128, b"d" * 70_000])
def test_body(subject: str, reply: str, data: bytes) -> None:
    decoded = pb.MsgProto.FromString(message_body(subject, reply, data))
    assert decoded == pb.MsgProto(subject=subject, reply=reply, data=data)


def test_redelivery_adds_to_the_message() -> None:
    """RDL-01, RDL-03: flag and count are added, and a second marking replaces the first."""
    first = message(7, NOW, message_body("foo", "r", b"hello"))
    for count in (1, 200, 2**32 - 1):
        again = redelivered(first, count)
        assert again.startswith(first)
        decoded = pb.MsgProto.FromString(redelivered(redelivered(first, 3), count))
        assert decoded == pb.MsgProto.FromString(again)
        assert decoded.redelivered
        assert decoded.redeliveryCount == count
        assert (decoded.sequence, decoded.data, decoded.timestamp) == (7, b"hello", NOW)


@pytest.mark.parametrize("value", [*EDGES, 2**64 - 1])
def test_varint_size(value: int) -> None:
    assert len(varint(value)) == varint_size(value)
