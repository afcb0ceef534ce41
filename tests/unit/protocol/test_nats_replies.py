"""What servers say: exactly these bytes, and what a client makes of them."""

from __future__ import annotations

import json

import pytest

from node.protocol.lines import ProtocolViolation
from node.protocol.nats_replies import (
    NO_RESPONDERS_HEADERS,
    OK,
    PING,
    PONG,
    ClientParser,
    Err,
    Info,
    Msg,
    Ok,
    Ping,
    Pong,
    Reply,
    err,
    hmsg,
    info,
    msg,
    publish_denied,
    quoted,
    subscription_denied,
)


def parse(data: bytes) -> list[Reply]:
    parser = ClientParser()
    parser.feed(data)
    return parser.ops()


def test_exact_bytes() -> None:
    """Node and Python match lines with regular expressions: one blank, no padding."""
    assert (PING, PONG, OK) == (b"PING\r\n", b"PONG\r\n", b"+OK\r\n")
    assert msg(b"a", b"1", b"", b"x") == b"MSG a 1 1\r\nx\r\n"
    assert msg(b"a", b"1", b"r", b"") == b"MSG a 1 r 0\r\n\r\n"  # NET-11
    assert err("Stale Connection") == b"-ERR 'Stale Connection'\r\n"


def test_no_responders() -> None:
    """NET-30."""
    assert hmsg(b"r", b"1", b"", NO_RESPONDERS_HEADERS, b"") == b"HMSG r 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"


def test_replies() -> None:
    data = b"".join(
        [
            info({"server_id": "x", "max_payload": 1, "headers": True}),
            msg(b"a", b"1", b"", b"x"),
            msg(b"a", b"1", b"r", b""),
            hmsg(b"a", b"1", b"", b"NATS/1.0\r\n\r\n", b"x"),
            hmsg(b"a", b"1", b"r", b"NATS/1.0\r\n\r\n", b""),
            OK,
            err("Invalid Subject"),
            PING,
            PONG,
        ]
    )
    assert parse(data) == [
        Info({"server_id": "x", "max_payload": 1, "headers": True}),
        Msg(b"a", b"1", b"", b"", b"x"),
        Msg(b"a", b"1", b"r", b"", b""),
        Msg(b"a", b"1", b"", b"NATS/1.0\r\n\r\n", b"x"),
        Msg(b"a", b"1", b"r", b"NATS/1.0\r\n\r\n", b""),
        Ok(),
        Err("Invalid Subject"),
        Ping(),
        Pong(),
    ]
    assert parse(b"msg a\t1  1 \r\nx\r\nping\r\n-err 'x'\n") == [
        Msg(b"a", b"1", b"", b"", b"x"),
        Ping(),
        Err("x"),
    ]


@pytest.mark.parametrize("nodes", [3, 20, 500])
def test_info_line_fits_the_node_client(nodes: int) -> None:
    """NET-02, CONN-B, CONN-C."""
    urls = [f"node-{number}.example.org:4222" for number in range(nodes)]
    fields = {"server_id": "x", "connect_urls": urls}
    line = info(fields)
    assert len(line) <= 4096
    assert line.startswith(b"INFO {")
    assert line.endswith(b"}\r\n")
    assert line.count(b"\n") == 1
    written = json.loads(line[5:])["connect_urls"]
    assert written == urls[: len(written)]
    assert len(written) == nodes if nodes <= 20 else len(line) > 4000
    assert fields["connect_urls"] == urls
    assert len(urls) == nodes


def test_info_that_cannot_fit() -> None:
    with pytest.raises(ValueError, match="of at most 4096"):
        info({"server_name": "x" * 4096, "connect_urls": ["a:1"]})


def test_err_stays_one_short_line_whatever_it_quotes() -> None:
    line = err('Permissions Violation for Publish to "a\r\nPING\r\n' + "é" * 4000 + '"')
    assert line.decode().startswith("-ERR 'Permissions Violation for Publish to \"a PING éé")
    assert line.endswith(b"'\r\n")
    assert line.count(b"\n") == 1
    assert len(line) < 1100


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"-ERR 'it''s'\r\n", "it''s"),
        (b"-ERR bare\r\n", "bare"),
        (b"-ERR\r\n", ""),
        (b"-ERR '\xff'\r\n", "�"),
    ],
)
def test_error_texts(data: bytes, text: str) -> None:
    assert parse(data) == [Err(text)]


@pytest.mark.parametrize(
    "data",
    [
        b"FOO\r\n",
        b"\r\n",
        b"SUB a 1\r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 r s 1\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 +1\r\nx\r\n",
        b"MSG a 1 1\r\nxyz",
        b"HMSG a 1 2 1\r\n",
        b"HMSG a 1 1\r\n",
        b"HMSG a 1 1 1\r\nxyz",
        b"MSG a 1 99999999999\r\n",
        b"INFO\r\n",
        b"INFO []\r\n",
        b"INFO {\r\n",
        b"INFO " + b"[" * 30_000 + b"\r\n",
        b"INFO " + b"x" * 40_000,
    ],
)
def test_broken_servers(data: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        parse(data)
    assert caught.value.wire == b""


def test_operations_before_a_violation_come_first() -> None:
    parser = ClientParser()
    parser.feed(b"PING\r\nMSG a 1 1\r\nx\r\nFOO\r\n")
    assert parser.ops() == [Ping(), Msg(b"a", b"1", b"", b"", b"x")]
    with pytest.raises(ProtocolViolation):
        parser.ops()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"a.b", '"a.b"'),
        (b'a"b\\', '"a\\"b\\\\"'),
        ("é.\u00a0\u2028".encode(), '"é.\\u00a0\\u2028"'),
        (b"\xff\x01\x7f\x07", '"\\xff\\x01\\x7f\\a"'),
        ("\U0001f600\U000e0001".encode(), '"\U0001f600\\U000e0001"'),
    ],
)
def test_names_are_quoted_as_go_quotes_them(name: bytes, text: str) -> None:
    assert quoted(name) == text


def test_denials_name_subject_and_queue() -> None:
    """nats-server's words: clients look for the subject and the queue in them, or wait for ever."""
    assert publish_denied(b"x") == 'Permissions Violation for Publish to "x"'
    assert subscription_denied(b"c", b"") == 'Permissions Violation for Subscription to "c"'
    assert subscription_denied(b"c", b"q") == 'Permissions Violation for Subscription to "c" using queue "q"'
