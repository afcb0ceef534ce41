"""How bytes are cut never changes what comes out, and nothing but ``ProtocolViolation`` is raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.lines import LineParser, ProtocolViolation
from node.protocol.nats import ClientParser, Parser, connect, hpub, pub, sub, unsub
from node.protocol.nats_replies import OK, PING, PONG, err, hmsg, info, msg

AnyParser = LineParser[Any]

words = st.text("abX.*>\t\xe9", min_size=1, max_size=5).map(lambda s: s.replace("\t", "t").encode())
payloads = st.binary(max_size=20) | st.sampled_from([b"\r\n", b"PUB a 1\r\n", b"\r", b""])
headers = st.sampled_from([b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\na: b\r\n\r\n", b""])
fields = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2)
garbage = st.binary(max_size=12) | st.lists(
    st.sampled_from(
        [*b"PUBHSNGICOMERKTpub0123456789{}[]\"'+-\r\n \t\x0b\x0c\xff\x00"],
    ),
    max_size=12,
).map(bytes)

requests = st.one_of(
    st.builds(connect, fields),
    st.builds(pub, words, words | st.just(b""), payloads),
    st.builds(hpub, words, words | st.just(b""), headers, payloads),
    st.builds(sub, words, words | st.just(b""), words),
    st.builds(unsub, words, st.none() | st.integers(0, 10**25)),
    st.sampled_from([PING, PONG]),
)
replies = st.one_of(
    st.builds(info, fields),
    st.builds(msg, words, words, words | st.just(b""), payloads),
    st.builds(hmsg, words, words, words | st.just(b""), headers, payloads),
    st.builds(err, st.text(max_size=5)),
    st.sampled_from([PING, PONG, OK]),
)


def variants(pieces: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Also in the spellings and with the mistakes that other programs have."""
    return st.one_of(
        pieces,
        pieces.map(lambda piece: piece.replace(b"\r\n", b"\n", 1)),
        pieces.map(lambda piece: piece.replace(b" ", b" \t ", 1)),
        pieces.map(bytes.lower),
        st.tuples(pieces, st.integers(0, 60)).map(lambda both: both[0][: both[1]]),
    )


def streams(pieces: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    most = st.lists(variants(pieces), max_size=6).map(b"".join)
    return st.tuples(most, st.just(b"") | garbage, st.lists(pieces, max_size=2).map(b"".join)).map(b"".join)


def outcome(parser: AnyParser, chunks: list[bytes], step: Callable[[AnyParser], list[Any]]) -> Any:
    """All operations, and what ended them."""
    ops: list[Any] = []
    for chunk in chunks:
        parser.feed(chunk)
        try:
            while more := step(parser):
                ops += more
        except ProtocolViolation as violation:
            return ops, str(violation), violation.wire
    return ops, "", b""


def all_ops(parser: AnyParser) -> list[Any]:
    return parser.ops()


def one_op(parser: AnyParser) -> list[Any]:
    op = parser.next_op()
    return [] if op is None else [op]


def server() -> AnyParser:
    return Parser(max_payload=30, max_control_line=60)


def guarded_server() -> AnyParser:
    return Parser(max_payload=30, max_control_line=60, connect_first=True)


def client() -> AnyParser:
    return ClientParser(max_payload=30, max_control_line=60)


@pytest.mark.parametrize(
    ("make", "pieces"), [(server, requests), (guarded_server, requests), (client, replies)]
)
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_cut(
    make: Callable[[], AnyParser], pieces: st.SearchStrategy[bytes], data: st.DataObject
) -> None:
    stream = data.draw(streams(pieces))
    if make is guarded_server:
        stream = data.draw(st.sampled_from([b"", b"CONNECT {}\r\n", b"connect {}\n", b"C"])) + stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole = outcome(make(), [stream], all_ops)
    assert outcome(make(), chunks, all_ops) == whole
    assert outcome(make(), chunks, one_op) == whole
    assert outcome(make(), [stream[i : i + 1] for i in range(len(stream))], all_ops) == whole

    late = make()  # everything is fed before anyone looks
    for chunk in chunks:
        late.feed(chunk)
    assert outcome(late, [b""], all_ops) == whole


@pytest.mark.parametrize("make", [server, guarded_server, client])
@given(stream=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_garbage(make: Callable[[], AnyParser], stream: bytes) -> None:
    parser = make()
    outcome(parser, [stream], all_ops)
    assert len(parser._rest) <= 60 + 30 + 4  # what is kept is bounded


@given(ops=st.lists(requests, max_size=8))
@settings(deadline=None)
def test_what_the_encoders_write_is_understood(ops: list[bytes]) -> None:
    parser = Parser(max_payload=1000)
    parser.feed(b"".join(ops))
    found, _, _ = outcome(parser, [b""], all_ops)
    assert len(found) == len(ops)
