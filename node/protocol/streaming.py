"""Codecs of the STAN messages: protobuf bytes to NamedTuples and back.

The only module that uses the generated protobuf code. It has both directions: a server decodes requests and
encodes responses, a client the reverse. An absent field has its type's default, so an empty payload is valid
for every message; unknown fields are ignored; text that is not UTF-8 makes a message undecodable. The server
checks the meaning of the values.

Fields have this project's names and units (``channel`` for ``subject``, ``queue`` for ``qGroup``). Values are
NamedTuples because a node creates tens of thousands per second.

Source: the streaming protocol, "Messages".
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any, NamedTuple


class _LateModule(ModuleType):
    """A module that is imported when one of its attributes is first used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


# protobuf imports its Python implementation although it uses the one in C. That takes a twentieth of the time
# that a node needs to start.
sys.modules.setdefault(
    "google.protobuf.internal.python_message", _LateModule("google.protobuf.internal.python_message")
)

# ruff: noqa: E402  # the imports below depend on it
from google.protobuf.message import DecodeError

from node.errors import RemoteProtocolError
from node.protocol import streaming_pb2 as pb
from node.protocol.message import message, message_body, message_size, redelivered
from node.protocol.positions import StartPosition

__all__ = [
    "Ack",
    "CloseRequest",
    "ConnectRequest",
    "ConnectResponse",
    "Message",
    "PingRequest",
    "PubAck",
    "PublishRequest",
    "StartPosition",
    "SubscriptionRequest",
    "SubscriptionResponse",
    "UnsubscribeRequest",
    "decode_ack",
    "decode_close",
    "decode_close_response",
    "decode_connect",
    "decode_connect_response",
    "decode_message",
    "decode_ping",
    "decode_ping_response",
    "decode_pub_ack",
    "decode_publish",
    "decode_subscription",
    "decode_subscription_response",
    "decode_unsubscribe",
    "decode_unsubscribe_response",
    "encode_ack",
    "encode_close",
    "encode_close_response",
    "encode_connect",
    "encode_connect_response",
    "encode_ping",
    "encode_ping_response",
    "encode_pub_ack",
    "encode_publish",
    "encode_subscription",
    "encode_subscription_response",
    "encode_unsubscribe",
    "encode_unsubscribe_response",
    "message",
    "message_body",
    "message_size",
    "redelivered",
]


# --- values ----------------------------------------------------------------------------------------


class PublishRequest(NamedTuple):
    """PubMsg. The publisher is ``conn_id`` if it is not empty, else ``client_id``."""

    client_id: str = ""
    guid: str = ""
    channel: str = ""
    reply: str = ""
    data: bytes = b""
    conn_id: bytes = b""


class PubAck(NamedTuple):
    """``error`` is empty on success, here and in all responses."""

    guid: str = ""
    error: str = ""


class Message(NamedTuple):
    """MsgProto."""

    seq: int = 0
    channel: str = ""
    reply: str = ""
    data: bytes = b""
    timestamp_ns: int = 0
    redelivered: bool = False
    redelivery_count: int = 0


class Ack(NamedTuple):
    channel: str = ""
    seq: int = 0


class ConnectRequest(NamedTuple):
    """``ping_interval_s`` and ``ping_max_out`` may be negative, and are echoed unchanged."""

    client_id: str = ""
    heartbeat_inbox: str = ""
    protocol: int = 0
    conn_id: bytes = b""
    ping_interval_s: int = 0
    ping_max_out: int = 0


class ConnectResponse(NamedTuple):
    pub_prefix: str = ""
    sub_requests: str = ""
    unsub_requests: str = ""
    close_requests: str = ""
    error: str = ""
    sub_close_requests: str = ""
    ping_requests: str = ""
    ping_interval_s: int = 0
    ping_max_out: int = 0
    protocol: int = 0


class PingRequest(NamedTuple):
    conn_id: bytes = b""


class SubscriptionRequest(NamedTuple):
    """No number is checked: ``start`` may be any int32."""

    client_id: str = ""
    channel: str = ""
    queue: str = ""
    inbox: str = ""
    max_in_flight: int = 0
    ack_wait_s: int = 0
    durable: str = ""
    start: int = StartPosition.NEW_ONLY
    start_seq: int = 0
    start_delta_ns: int = 0


class SubscriptionResponse(NamedTuple):
    ack_inbox: str = ""
    error: str = ""


class UnsubscribeRequest(NamedTuple):
    """A request to unsubscribe or close. ``inbox`` is the ack inbox or the message inbox."""

    client_id: str = ""
    channel: str = ""
    inbox: str = ""
    durable: str = ""


class CloseRequest(NamedTuple):
    client_id: str = ""


_make = tuple.__new__
"""Makes a NamedTuple from a tuple, a third faster than calling its class; used for every message."""

_UNDECODABLE = (DecodeError, UnicodeDecodeError)
"""The second error occurs only if protobuf runs without its C part."""


def _refused(kind: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"not a {kind}")


# --- requests --------------------------------------------------------------------------------------
# All decode_… functions raise RemoteProtocolError for bytes that are not such a message. Protobuf parses in
# C; hand-written decoders of the common forms were not measurably faster.


def decode_publish(data: bytes) -> PublishRequest:
    try:
        m = pb.PubMsg.FromString(data)
    except _UNDECODABLE as error:
        raise _refused("PubMsg") from error
    return _make(PublishRequest, (m.clientID, m.guid, m.subject, m.reply, m.data, m.connID))


def encode_publish(request: PublishRequest) -> bytes:
    client_id, guid, channel, reply, data, conn_id = request
    return pb.PubMsg(
        clientID=client_id, guid=guid, subject=channel, reply=reply, data=data, connID=conn_id
    ).SerializeToString()


def decode_ack(data: bytes) -> Ack:
    try:
        m = pb.Ack.FromString(data)
    except _UNDECODABLE as error:
        raise _refused("Ack") from error
    return _make(Ack, (m.subject, m.sequence))


def encode_ack(ack: Ack) -> bytes:
    return pb.Ack(subject=ack.channel, sequence=ack.seq).SerializeToString()


def decode_connect(data: bytes) -> ConnectRequest:
    try:
        m = pb.ConnectRequest.FromString(data)
    except _UNDECODABLE as error:
        raise _refused("ConnectRequest") from error
    return ConnectRequest(
        m.clientID, m.heartbeatInbox, m.protocol, m.connID, m.pingInterval, m.pingMaxOut
    )  # fmt: skip


def encode_connect(request: ConnectRequest) -> bytes:
    return pb.ConnectRequest(
        clientID=request.client_id,
        heartbeatInbox=request.heartbeat_inbox,
        protocol=request.protocol,
        connID=request.conn_id,
        pingInterval=request.ping_interval_s,
        pingMaxOut=request.ping_max_out,
    ).SerializeToString()


def decode_ping(data: bytes) -> PingRequest:
    try:
        return PingRequest(pb.Ping.FromString(data).connID)
    except _UNDECODABLE as error:
        raise _refused("Ping") from error


def encode_ping(request: PingRequest) -> bytes:
    return pb.Ping(connID=request.conn_id).SerializeToString()


def decode_subscription(data: bytes) -> SubscriptionRequest:
    try:
        m = pb.SubscriptionRequest.FromString(data)
    except _UNDECODABLE as error:
        raise _refused("SubscriptionRequest") from error
    return SubscriptionRequest(
        m.clientID,
        m.subject,
        m.qGroup,
        m.inbox,
        m.maxInFlight,
        m.ackWaitInSecs,
        m.durableName,
        m.startPosition,
        m.startSequence,
        m.startTimeDelta,
    )


def encode_subscription(request: SubscriptionRequest) -> bytes:
    return pb.SubscriptionRequest(
        clientID=request.client_id,
        subject=request.channel,
        qGroup=request.queue,
        inbox=request.inbox,
        maxInFlight=request.max_in_flight,
        ackWaitInSecs=request.ack_wait_s,
        durableName=request.durable,
        startPosition=pb.StartPosition.ValueType(request.start),
        startSequence=request.start_seq,
        startTimeDelta=request.start_delta_ns,
    ).SerializeToString()


def decode_unsubscribe(data: bytes) -> UnsubscribeRequest:
    try:
        m = pb.UnsubscribeRequest.FromString(data)
    except _UNDECODABLE as error:
        raise _refused("UnsubscribeRequest") from error
    return UnsubscribeRequest(m.clientID, m.subject, m.inbox, m.durableName)


def encode_unsubscribe(request: UnsubscribeRequest) -> bytes:
    client_id, channel, inbox, durable = request
    return pb.UnsubscribeRequest(
        clientID=client_id, subject=channel, inbox=inbox, durableName=durable
    ).SerializeToString()


def decode_close(data: bytes) -> CloseRequest:
    try:
        return CloseRequest(pb.CloseRequest.FromString(data).clientID)
    except _UNDECODABLE as error:
        raise _refused("CloseRequest") from error


def encode_close(request: CloseRequest) -> bytes:
    return pb.CloseRequest(clientID=request.client_id).SerializeToString()


# --- responses -------------------------------------------------------------------------------------


def encode_pub_ack(guid: str, error: str = "") -> bytes:
    size = len(encoded := guid.encode())
    if size < 0x80 and not error and size:  # one for every message: three times as fast by hand
        return b"\x0a%c%b" % (size, encoded)
    return pb.PubAck(guid=guid, error=error).SerializeToString()


def decode_pub_ack(data: bytes) -> PubAck:
    try:
        m = pb.PubAck.FromString(data)
    except _UNDECODABLE as error:
        raise _refused("PubAck") from error
    return PubAck(m.guid, m.error)


def decode_message(data: bytes) -> Message:
    """Decode a MsgProto; ``message.message`` encodes it."""
    try:
        m = pb.MsgProto.FromString(data)
    except _UNDECODABLE as error:
        raise _refused("MsgProto") from error
    return _make(
        Message, (m.sequence, m.subject, m.reply, m.data, m.timestamp, m.redelivered, m.redeliveryCount)
    )


def encode_connect_response(response: ConnectResponse) -> bytes:
    return pb.ConnectResponse(
        pubPrefix=response.pub_prefix,
        subRequests=response.sub_requests,
        unsubRequests=response.unsub_requests,
        closeRequests=response.close_requests,
        error=response.error,
        subCloseRequests=response.sub_close_requests,
        pingRequests=response.ping_requests,
        pingInterval=response.ping_interval_s,
        pingMaxOut=response.ping_max_out,
        protocol=response.protocol,
    ).SerializeToString()


def decode_connect_response(data: bytes) -> ConnectResponse:
    try:
        m = pb.ConnectResponse.FromString(data)
    except _UNDECODABLE as error:
        raise _refused("ConnectResponse") from error
    return ConnectResponse(
        m.pubPrefix,
        m.subRequests,
        m.unsubRequests,
        m.closeRequests,
        m.error,
        m.subCloseRequests,
        m.pingRequests,
        m.pingInterval,
        m.pingMaxOut,
        m.protocol,
    )


def encode_ping_response(error: str = "") -> bytes:
    """Encode to zero bytes on success, like all responses that have only an error."""
    return pb.PingResponse(error=error).SerializeToString()


def decode_ping_response(data: bytes) -> str:
    """Return the error text; empty on success."""
    try:
        return pb.PingResponse.FromString(data).error
    except _UNDECODABLE as error:
        raise _refused("PingResponse") from error


def encode_subscription_response(ack_inbox: str = "", error: str = "") -> bytes:
    return pb.SubscriptionResponse(ackInbox=ack_inbox, error=error).SerializeToString()


def decode_subscription_response(data: bytes) -> SubscriptionResponse:
    try:
        m = pb.SubscriptionResponse.FromString(data)
    except _UNDECODABLE as error:
        raise _refused("SubscriptionResponse") from error
    return SubscriptionResponse(m.ackInbox, m.error)


def encode_unsubscribe_response(error: str = "") -> bytes:
    """Encode a SubscriptionResponse: the protocol has no other response to unsubscribe."""
    return encode_subscription_response(error=error)


def decode_unsubscribe_response(data: bytes) -> str:
    """Return the error text; empty on success."""
    return decode_subscription_response(data).error


def encode_close_response(error: str = "") -> bytes:
    return pb.CloseResponse(error=error).SerializeToString()


def decode_close_response(data: bytes) -> str:
    """Return the error text; empty on success."""
    try:
        return pb.CloseResponse.FromString(data).error
    except _UNDECODABLE as error:
        raise _refused("CloseResponse") from error
