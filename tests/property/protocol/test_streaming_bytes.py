"""The STAN messages: any value survives, any garbage gives ``RemoteProtocolError`` and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import RemoteProtocolError
from node.protocol import streaming as stan
from node.protocol import streaming_pb2 as pb
from node.protocol.message import message, message_body, message_size, redelivered

text = st.text(max_size=20)
blob = st.binary(max_size=20)
int32 = st.integers(-(2**31), 2**31 - 1)
uint64 = st.integers(0, 2**64 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)

PAIRS: list[tuple[Callable[[Any], bytes], Callable[[bytes], Any], st.SearchStrategy[Any]]] = [
    (
        stan.encode_publish,
        stan.decode_publish,
        st.builds(stan.PublishRequest, text, text, text, text, blob, blob),
    ),
    (stan.encode_ack, stan.decode_ack, st.builds(stan.Ack, text, uint64)),
    (
        stan.encode_connect,
        stan.decode_connect,
        st.builds(stan.ConnectRequest, text, text, int32, blob, int32, int32),
    ),
    (
        stan.encode_connect_response,
        stan.decode_connect_response,
        st.builds(stan.ConnectResponse, text, text, text, text, text, text, text, int32, int32, int32),
    ),
    (
        stan.encode_subscription,
        stan.decode_subscription,
        st.builds(stan.SubscriptionRequest, text, text, text, text, int32, int32, text, int32, uint64, int64),
    ),
    (
        stan.encode_unsubscribe,
        stan.decode_unsubscribe,
        st.builds(stan.UnsubscribeRequest, text, text, text, text),
    ),
    (stan.encode_close, stan.decode_close, st.builds(stan.CloseRequest, text)),
    (stan.encode_ping, stan.decode_ping, st.builds(stan.PingRequest, blob)),
    (lambda ack: stan.encode_pub_ack(*ack), stan.decode_pub_ack, st.builds(stan.PubAck, text, text)),
]


@pytest.mark.parametrize(("encode", "decode", "values"), PAIRS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_round_trip(
    encode: Callable[[Any], bytes], decode: Callable[[bytes], Any], values: Any, data: st.DataObject
) -> None:
    value = data.draw(values)
    encoded = encode(value)
    assert decode(encoded) == value
    cut = encoded[: data.draw(st.integers(0, len(encoded)))]
    with contextlib.suppress(RemoteProtocolError):
        decode(cut)


@pytest.mark.parametrize("decode", [pair[1] for pair in PAIRS])
@given(garbage=st.binary(max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_garbage(decode: Callable[[bytes], Any], garbage: bytes) -> None:
    try:
        value = decode(garbage)
    except RemoteProtocolError:
        return
    for field in value:
        if isinstance(field, str):
            field.encode()  # no half surrogate pairs


@given(
    seq=uint64,
    timestamp_ns=st.integers(0, 2**63 - 1),
    subject=text,
    reply=text,
    data=st.binary(max_size=300),
    count=st.integers(1, 2**32 - 1),
)
@settings(deadline=None)
def test_message_bytes_are_what_protobuf_reads(
    seq: int, timestamp_ns: int, subject: str, reply: str, data: bytes, count: int
) -> None:
    body = message_body(subject, reply, data)
    encoded = message(seq, timestamp_ns, body)
    assert len(encoded) == message_size(seq, timestamp_ns, len(body))
    expected = pb.MsgProto(sequence=seq, subject=subject, reply=reply, data=data, timestamp=timestamp_ns)
    assert pb.MsgProto.FromString(encoded) == expected
    expected.redelivered, expected.redeliveryCount = True, count
    assert pb.MsgProto.FromString(redelivered(encoded, count)) == expected
