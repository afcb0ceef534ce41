"""The STAN messages on the wire, in both directions."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from node.errors import RemoteProtocolError
from node.protocol import streaming as stan
from node.protocol import streaming_pb2 as pb

DECODERS: list[Callable[[bytes], Any]] = [
    stan.decode_publish,
    stan.decode_pub_ack,
    stan.decode_message,
    stan.decode_ack,
    stan.decode_connect,
    stan.decode_connect_response,
    stan.decode_ping,
    stan.decode_ping_response,
    stan.decode_subscription,
    stan.decode_subscription_response,
    stan.decode_unsubscribe,
    stan.decode_unsubscribe_response,
    stan.decode_close,
    stan.decode_close_response,
]


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("garbage", [b"dummy", b"\x0a", b"\x0a\x05abc", b"\xff" * 12, b"\x00\x01"])
def test_garbage_is_refused(decode: Callable[[bytes], Any], garbage: bytes) -> None:
    """PUB-02, SUB-01, UNS-05, UNS-06, CON-04: ``dummy`` is the garbage that the clients' suites send."""
    with pytest.raises(RemoteProtocolError):
        decode(garbage)


@pytest.mark.parametrize("decode", DECODERS)
def test_empty_payload_is_a_message_of_defaults(decode: Callable[[bytes], Any]) -> None:
    """SUB-02: an empty request is decodable; what it lacks is found later."""
    value = decode(b"")
    if isinstance(value, tuple) and type(value) is not tuple:
        assert value == type(value)()
    else:
        assert not value


@pytest.mark.parametrize("decode", DECODERS)
def test_unknown_fields_are_ignored(decode: Callable[[bytes], Any]) -> None:
    unknown = b"\xf8\x3f\x01" + b"\xfa\x3f\x03abc" + b"\xf9\x3f" + bytes(8) + b"\xfb\x3f\xfc\x3f"
    assert decode(unknown) == decode(b"")


@pytest.mark.parametrize(
    "decode", [stan.decode_publish, stan.decode_ack, stan.decode_connect, stan.decode_close]
)
def test_text_that_is_no_utf8_is_refused(decode: Callable[[bytes], Any]) -> None:
    for text in (b"\xff", b"\xc3", b"\xed\xa0\x80"):  # the last one is half a surrogate pair
        with pytest.raises(RemoteProtocolError):
            decode(b"\x0a%c%b" % (len(text), text))


@pytest.mark.parametrize(
    "request_",
    [
        stan.PublishRequest("me", "g", "foo", "r", b"\x00\xff", b"conn"),
        stan.PublishRequest(data=b"x" * 300_000),
    ],
)
def test_publish(request_: stan.PublishRequest) -> None:
    assert stan.decode_publish(stan.encode_publish(request_)) == request_


@pytest.mark.parametrize("seq", [0, 1, 2**64 - 1])
def test_ack(seq: int) -> None:
    assert stan.decode_ack(stan.encode_ack(stan.Ack("foo", seq))) == stan.Ack("foo", seq)


def test_ack_in_another_order_of_fields() -> None:
    assert stan.decode_ack(b"\x10\x07\x0a\x03foo") == stan.Ack("foo", 7)


def test_negative_numbers_survive() -> None:
    """CON-02 and pitfall 5: a negative int32 is a ten-byte varint, and is echoed."""
    request = stan.ConnectRequest("me", "hb", 1, b"conn", -5, -(2**31))
    encoded = stan.encode_connect(request)
    assert b"\x28\xfb" + b"\xff" * 8 + b"\x01" in encoded
    assert stan.decode_connect(encoded) == request
    response = stan.ConnectResponse(ping_interval_s=-5, ping_max_out=-1, protocol=1)
    assert stan.decode_connect_response(stan.encode_connect_response(response)) == response
    asked = stan.SubscriptionRequest(max_in_flight=-1, ack_wait_s=-1, start=-1, start_delta_ns=-(2**63))
    assert stan.decode_subscription(stan.encode_subscription(asked)) == asked


def test_subscription() -> None:
    request = stan.SubscriptionRequest(
        "me", "foo", "queue", "inbox", 1024, 30, "durable", stan.StartPosition.SEQUENCE_START, 2**64 - 1, 5
    )
    assert stan.decode_subscription(stan.encode_subscription(request)) == request


def test_unknown_start_position_is_the_servers_to_refuse() -> None:
    """SUB-05."""
    assert stan.decode_subscription(b"\x50\x05").start == 5


def test_field_numbers() -> None:
    """Pitfall 5: there is no field 1 in SubscriptionResponse; start positions are 10, 11, 12."""
    assert stan.encode_subscription_response(ack_inbox="a", error="e") == b"\x12\x01a\x1a\x01e"
    request = stan.SubscriptionRequest(start=1, start_seq=2, start_delta_ns=3)
    assert stan.encode_subscription(request) == b"\x50\x01\x58\x02\x60\x03"


def test_success_has_no_bytes() -> None:
    """UNS-01, PNG-01."""
    assert stan.encode_ping_response() == b""
    assert stan.encode_close_response() == b""
    assert stan.encode_unsubscribe_response() == b""


def test_error_responses() -> None:
    assert stan.decode_ping_response(stan.encode_ping_response("gone")) == "gone"
    assert stan.decode_close_response(stan.encode_close_response("gone")) == "gone"
    assert stan.decode_unsubscribe_response(stan.encode_unsubscribe_response("gone")) == "gone"
    refused = stan.decode_connect_response(stan.encode_connect_response(stan.ConnectResponse(error="no")))
    assert refused == stan.ConnectResponse(error="no")
    answer = stan.decode_subscription_response(stan.encode_subscription_response(error="no"))
    assert answer == stan.SubscriptionResponse("", "no")


def test_connect_response() -> None:
    response = stan.ConnectResponse("p", "s", "u", "c", "", "sc", "pings", 5, 88, 1)
    assert stan.decode_connect_response(stan.encode_connect_response(response)) == response


@pytest.mark.parametrize("guid", ["", "g", "ü" * 63, "g" * 127, "g" * 128, "g" * 5000])
@pytest.mark.parametrize("error", ["", "stan: invalid publish request"])
def test_pub_ack(guid: str, error: str) -> None:
    encoded = stan.encode_pub_ack(guid, error)
    assert encoded == pb.PubAck(guid=guid, error=error).SerializeToString()
    assert stan.decode_pub_ack(encoded) == stan.PubAck(guid, error)


def test_small_requests() -> None:
    assert stan.decode_ping(stan.encode_ping(stan.PingRequest(b"\xff\x00"))) == stan.PingRequest(b"\xff\x00")
    assert stan.decode_close(stan.encode_close(stan.CloseRequest("me"))) == stan.CloseRequest("me")
    request = stan.UnsubscribeRequest("me", "foo", "inbox", "durable")
    assert stan.decode_unsubscribe(stan.encode_unsubscribe(request)) == request


def test_message() -> None:
    """PUB-10: what is delivered has everything, and no checksum."""
    first = stan.message(3, 1_700_000_000_000_000_000, stan.message_body("foo", "r", b"data"))
    expected = stan.Message(3, "foo", "r", b"data", 1_700_000_000_000_000_000)
    assert stan.decode_message(first) == expected
    again = stan.decode_message(stan.redelivered(first, 2))
    assert again == expected._replace(redelivered=True, redelivery_count=2)
    assert pb.MsgProto.FromString(first).CRC32 == 0


def test_generated_code_is_of_this_proto_file(tmp_path: Path) -> None:
    """If this fails, run the command at the head of streaming.proto."""
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools, of the group dev, is not here")
    root = Path(str(resources.files("node"))).parent
    proto = "node/protocol/streaming.proto"
    assert protoc.main(["protoc", f"-I{root}", f"--python_out={tmp_path}", str(root / proto)]) == 0
    generated = (tmp_path / proto.replace(".proto", "_pb2.py")).read_text()
    literal = re.search(r"AddSerializedFile\((b'.*')\)", generated)
    assert literal is not None
    assert ast.literal_eval(literal[1]) == pb.DESCRIPTOR.serialized_pb


@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_protobufs_python_implementation_is_imported_when_it_is_needed(implementation: str) -> None:
    """It was a twentieth of a node's start; where there is nothing else, it is used."""
    code = (
        "import sys; from node.protocol import streaming; "
        "print(streaming.decode_ack(streaming.encode_ack(streaming.Ack('foo', 7))).seq, "
        "'google.protobuf.text_format' in sys.modules); "
        "from google.protobuf.internal import python_message; "
        "print(python_message.GeneratedProtocolMessageType.__name__)"
    )
    environment = os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"7 {implementation == 'python'}\nGeneratedProtocolMessageType\n", done.stderr
