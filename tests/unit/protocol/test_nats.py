"""What clients say, as the server's parser understands it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from node.protocol.lines import OPS_MAX, LineParser
from node.protocol.nats import (
    ClientParser,
    Connect,
    Hpub,
    Op,
    Parser,
    Ping,
    Pong,
    ProtocolViolation,
    Pub,
    Sub,
    Unsub,
    connect,
    hpub,
    pub,
    sub,
    unsub,
)

UNKNOWN = b"-ERR 'Unknown Protocol Operation'\r\n"
TOO_LARGE = b"-ERR 'Maximum Payload Violation'\r\n"
TOO_LONG = b"-ERR 'maximum control line exceeded'\r\n"


def parse(data: bytes, max_payload: int = 100) -> list[Op]:
    parser = Parser(max_payload)
    parser.feed(data)
    return parser.ops()


def violation(data: bytes, max_payload: int = 100) -> bytes:
    """What is on the wire before the connection closes."""
    with pytest.raises(ProtocolViolation) as caught:
        parse(data, max_payload)
    return caught.value.wire


@pytest.mark.parametrize(
    ("data", "op"),
    [
        (b"PING\r\n", Ping()),
        (b"PONG\r\n", Pong()),
        (b"PING\n", Ping()),
        (b"PING \t\r\n", Ping()),
        (b"SUB a 1\r\n", Sub(b"a", b"", b"1")),
        (b"SUB a q 1\r\n", Sub(b"a", b"q", b"1")),
        (b"UNSUB 1\r\n", Unsub(b"1", None)),
        (b"UNSUB 1 5\r\n", Unsub(b"1", 5)),
        (b"UNSUB 1 0\r\n", Unsub(b"1", 0)),
        (b"PUB a 0\r\n\r\n", Pub(b"a", b"", b"")),  # NET-11
        (b"PUB a 3\r\nabc\r\n", Pub(b"a", b"", b"abc")),
        (b"PUB a r 3\r\nabc\r\n", Pub(b"a", b"r", b"abc")),  # NET-27
        (b"PUB a 4\n\r\n\r\n\r\n", Pub(b"a", b"", b"\r\n\r\n")),  # a payload may hold anything
        (b"PUB a 0000000000003\r\nabc\r\n", Pub(b"a", b"", b"abc")),
        (b"HPUB a 12 15\r\nNATS/1.0\r\n\r\nabc\r\n", Hpub(b"a", b"", b"NATS/1.0\r\n\r\n", b"abc")),
        (b"HPUB a r 12 12\r\nNATS/1.0\r\n\r\n\r\n", Hpub(b"a", b"r", b"NATS/1.0\r\n\r\n", b"")),
        (b"CONNECT {}\r\n", Connect({})),
        (b'CONNECT\t {"name" : "a b\\u00e9"} \r\n', Connect({"name": "a bé"})),
        (b'CONNECT {"a":["\xc3\xa9"]}\r\n', Connect({"a": ["é"]})),
    ],
)
def test_operations(data: bytes, op: Op) -> None:
    assert parse(data) == [op]


@pytest.mark.parametrize("data", [b"pub a r 1\r\nx\r\n", b"Pub a r 1\r\nx\r\n", b"pUB  a\tr \t1 \r\nx\r\n"])
def test_names_in_any_case(data: bytes) -> None:
    """NET-08."""
    assert parse(data) == [Pub(b"a", b"r", b"x")]
    assert parse(b"sub A 1\r\nping\r\nunsub 1\r\n") == [Sub(b"A", b"", b"1"), Ping(), Unsub(b"1", None)]


def test_several_blanks_between_arguments() -> None:
    """NET-09: so writes the Python client where a queue or a reply is empty."""
    assert parse(b"SUB a  1\r\nPUB a  3\r\nabc\r\n") == [Sub(b"a", b"", b"1"), Pub(b"a", b"", b"abc")]


def test_blank_lines_and_unknown_operations() -> None:
    """NET-13."""
    for data in (b"FOO\r\n", b"\r\n", b"\n", b"PINGS\r\n", b"PIN\r\n", b"INFO {}\r\n", b"+OK\r\n"):
        assert violation(data) == UNKNOWN
    assert violation(b"CONNECT{}\r\n") == UNKNOWN


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n", b"X", b"PUX", b"SUB\x00"]
)
def test_strangers_are_recognised_at_once(data: bytes) -> None:
    """A TLS or HTTP client waits for an answer and may never send a line end."""
    assert violation(data) == UNKNOWN


@pytest.mark.parametrize(
    "data",
    [
        b"PUB\r\n",
        b"PUB a\r\n",
        b"PUB a b c 1\r\nx\r\n",
        b"PUB a -1\r\n",
        b"PUB a +1\r\nx\r\n",
        b"PUB a 1_0\r\n",
        b"PUB a 0x1\r\n",
        b"PUB a 1.0\r\n",
        b"PUB a x\r\n",
        b"PUB a \xd9\xa3\r\n",
        b"HPUB a 1\r\n",
        b"HPUB a r s 1 1\r\n",
        b"HPUB a 2 1\r\n",
        b"HPUB a -1 1\r\n",
        b"HPUB a +0 0\r\n\r\n",
        b"SUB\r\n",
        b"SUB a\r\n",
        b"SUB a b c d\r\n",
        b"UNSUB\r\n",
        b"UNSUB 1 2 3\r\n",
        b"UNSUB 1 -1\r\n",
        b"UNSUB 1 +5\r\n",
        b"CONNECT\r\n",
        b"CONNECT \r\n",
        b"CONNECT {\r\n",
        b"CONNECT []\r\n",
        b"CONNECT 1\r\n",
        b"CONNECT null\r\n",
        b"CONNECT {} {}\r\n",
        b'CONNECT {"a":NaN}\r\n',
        b'CONNECT {"a":"\xff"}\r\n',
        b'CONNECT {"user":"\\ud800"}\r\n',
        b"CONNECT " + b"[" * 4000 + b"\r\n",
        b"CONNECT " + b'{"a":' * 700 + b"\r\n",
        b"\xff\xfeC\x00O\x00"[2:] + b"\r\n",
    ],
)
def test_malformed_operations_close(data: bytes) -> None:
    """With no text, except where the name itself is unknown."""
    assert violation(data) in (b"", UNKNOWN)
    assert violation(data) == (UNKNOWN if data.startswith(b"C\x00") else b"")


def test_payload_at_and_above_the_bound() -> None:
    """NET-12: refused at its control line, without reading it."""
    assert parse(b"PUB a 5\r\nabcde\r\n", max_payload=5) == [Pub(b"a", b"", b"abcde")]
    assert violation(b"PUB a 6\r\n", max_payload=5) == TOO_LARGE
    assert violation(b"HPUB a 3 6\r\n", max_payload=5) == TOO_LARGE  # the total counts
    assert parse(b"HPUB a 3 5\r\nabcde\r\n", max_payload=5) == [Hpub(b"a", b"", b"abc", b"de")]


@pytest.mark.parametrize("digits", [9, 10, 19, 20, 1000, 4000])
def test_huge_numbers(digits: int) -> None:
    assert violation(b"PUB a %b\r\n" % (b"9" * digits)) == TOO_LARGE
    assert parse(b"PUB a %b3\r\nabc\r\n" % (b"0" * (digits - 1))) == [Pub(b"a", b"", b"abc")]
    [op] = parse(b"UNSUB 1 %b\r\n" % (b"9" * digits))
    assert op == Unsub(b"1", int("9" * digits) if digits < 18 else 10**18)


@pytest.mark.parametrize("end", [b"\n\r", b"xx", b"\n\n", b"\r\r"])
def test_payload_must_end_with_crlf(end: bytes) -> None:
    assert violation(b"PUB a 3\r\nabc" + end) == UNKNOWN
    assert violation(b"pub a 3\r\nabc" + end) == UNKNOWN
    assert violation(b"HPUB a 1 3\r\nabc" + end) == UNKNOWN


def test_longest_control_line() -> None:
    """NET-14: 4,096 bytes without the line ending are allowed, in one piece or not."""
    fits = b"SUB " + b"a" * 4090 + b" 1"
    assert len(fits) == 4096
    for ending in (b"\n", b"\r\n"):
        assert parse(fits + ending) == [Sub(b"a" * 4090, b"", b"1")]
        assert violation(b"SUB a" + fits[4:] + ending) == TOO_LONG
    assert parse(fits + b"\r") == []
    assert violation(fits + b"1\n") == TOO_LONG
    assert violation(fits + b"\r\r") == TOO_LONG
    assert violation(fits + b"11") == TOO_LONG  # no line end is waited for
    assert violation(b"x" * 5000) == UNKNOWN


def test_control_line_bound_is_configurable() -> None:
    parser = Parser(10, max_control_line=7)
    parser.feed(b"SUB a 1\r\nSUB aa 1\r\n")
    assert parser.ops() == [Sub(b"a", b"", b"1")]
    with pytest.raises(ProtocolViolation):
        parser.ops()


@pytest.mark.parametrize("separator", [b"\r", b"\x0b", b"\x0c", b"\t"])
def test_no_argument_holds_white_space(separator: bytes) -> None:
    """A subject with a CR or a form feed would stall a Node client for ever, when written to it."""
    assert parse(b"PUB a%bb 1\r\nx\r\n" % separator) == [Pub(b"a", b"b", b"x")]


def test_operations_before_a_violation_come_first() -> None:
    parser = Parser(10)
    parser.feed(b"PING\r\nPUB a 1\r\nx\r\nFOO\r\nPING\r\n")
    assert parser.ops() == [Ping(), Pub(b"a", b"", b"x")]
    for _ in range(2):
        with pytest.raises(ProtocolViolation, match="unknown operation"):
            parser.ops()
        parser.feed(b"PING\r\n" * 100_000)
    assert not parser._rest
    assert not parser._fresh


def test_one_at_a_time() -> None:
    parser = Parser(10)
    assert parser.next_op() is None
    parser.feed(b"PING\r\nPONG\r\nSUB a 1\r\nPI")
    assert parser.next_op() == Ping()
    assert parser.ops() == [Pong(), Sub(b"a", b"", b"1")]
    parser.feed(b"NG\r\n\r\n")
    assert parser.next_op() == Ping()
    for _ in range(2):
        with pytest.raises(ProtocolViolation):
            parser.next_op()


def test_connect_must_come_first_when_it_is_asked_for() -> None:
    """AUT-03: and nothing of a stranger's payload is kept."""
    for data in (b"PUB a 1000000\r\n", b"P", b"ping\r\n", b"\r\n", b" CONNECT {}\r\n"):
        parser = Parser(10, connect_first=True)
        parser.feed(data)
        with pytest.raises(ProtocolViolation) as caught:
            parser.ops()
        assert caught.value.wire == b"-ERR 'Authorization Violation'\r\n"
    parser = Parser(10, connect_first=True)
    for cut in (b"c", b"onnect ", b"{}\r", b"\nPING\r\n", b"PING\r\n"):
        parser.feed(cut)
    assert parser.ops() == [Connect({})]
    assert parser.ops() == [Ping(), Ping()]


def test_bytearrays_may_be_reused_by_the_caller() -> None:
    buffer = bytearray(b"PUB a 3\r\nabc\r\n")
    parser = Parser(10)
    parser.feed(buffer)
    buffer[:] = b"\0" * len(buffer)
    assert parser.ops() == [Pub(b"a", b"", b"abc")]
    assert isinstance(parser.ops(), list)


def test_payloads_are_bytes_however_they_came() -> None:
    parser = Parser(10)
    for byte in b"PUB a r 3\r\nabc\r\n":
        parser.feed(bytearray([byte]))
        for op in parser.ops():
            assert [type(field) for field in op] == [bytes, bytes, bytes]


def test_a_large_payload_in_many_pieces_is_looked_at_once() -> None:
    """Eight megabytes in small pieces must cost eight megabytes, not their square."""

    class Counting(Parser):
        scans = 0

        def _scan(self, data: bytes, ops: list[Op]) -> int:
            self.scans += 1
            return super()._scan(data, ops)

    parser = Counting(8 << 20)
    parser.feed(b"PUB a %d\r\n" % (8 << 20))
    assert parser.ops() == []
    for _ in range(8 << 10):
        parser.feed(b"x" * 1024)
        assert parser.ops() == []
    parser.feed(b"\r\n")
    [op] = parser.ops()
    assert isinstance(op, Pub)
    assert len(op.payload) == 8 << 20
    assert parser.scans == 2


@pytest.mark.parametrize("make", [lambda: Parser(10), ClientParser], ids=["requests", "replies"])
def test_a_call_returns_a_bounded_number_of_operations(make: Callable[[], LineParser[Any]]) -> None:
    """However many one read brings; and nothing is lost between two calls."""
    parser = make()
    parser.feed(b"PING\r\n" * (3 * OPS_MAX) + b"PI")
    assert [len(parser.ops()) for _ in range(4)] == [OPS_MAX, OPS_MAX, OPS_MAX, 0]
    parser.feed(b"NG\r\n" + b"PING\r\n" * OPS_MAX)
    assert len(parser.ops()) == OPS_MAX
    parser.feed(b"PI")
    assert [len(parser.ops()) for _ in range(2)] == [1, 0]
    parser.feed(b"NG\r\n")
    assert parser.ops() == [Ping()]


def test_a_connect_is_the_last_of_its_list() -> None:
    parser = Parser(10)
    parser.feed(b"PING\r\nCONNECT {}\r\nCONNECT {}\r\nPING\r\n")
    assert [len(parser.ops()) for _ in range(4)] == [2, 1, 1, 0]


def test_writers_and_parser_agree() -> None:
    options = {"verbose": False, "name": "é", "protocol": 1}
    data = b"".join(
        [
            connect(options),
            pub(b"a", b"", b"x"),
            pub(b"a", b"r", b""),
            hpub(b"a", b"", b"NATS/1.0\r\n\r\n", b"x"),
            hpub(b"a", b"r", b"NATS/1.0\r\n\r\n", b""),
            sub(b"a.*", b"", b"1"),
            sub(b"a.>", b"q", b"2"),
            unsub(b"1"),
            unsub(b"2", 7),
        ]
    )
    parser = Parser(100)
    parser.feed(data)
    assert parser.ops() == [Connect(options)]
    assert parser.ops() == [
        Pub(b"a", b"", b"x"),
        Pub(b"a", b"r", b""),
        Hpub(b"a", b"", b"NATS/1.0\r\n\r\n", b"x"),
        Hpub(b"a", b"r", b"NATS/1.0\r\n\r\n", b""),
        Sub(b"a.*", b"", b"1"),
        Sub(b"a.>", b"q", b"2"),
        Unsub(b"1", None),
        Unsub(b"2", 7),
    ]
    assert data.split(b"\r\n", 1)[0] == b"CONNECT " + json.dumps(options, separators=(",", ":")).encode()
