"""The rules that both directions of the NATS protocol share."""

from __future__ import annotations

import pytest

from node.errors import RemoteProtocolError
from node.protocol.lines import (
    NUMBER_MAX,
    ProtocolViolation,
    json_object,
    may_start,
    name_prefixes,
    number,
)

NAMES = frozenset((b"PUB", b"PING"))
PREFIXES = name_prefixes(NAMES)


def test_prefixes() -> None:
    assert {b"P", b"PU", b"PUB", b"PI", b"PIN", b"PING"} == PREFIXES


@pytest.mark.parametrize(
    "line", [b"", b"  ", b"p", b"Pu", b"PUB", b"PUB ", b"ping\r", b"PING x", b" PUB" + b" " * 20]
)
def test_possible_starts(line: bytes) -> None:
    assert may_start(line, NAMES, PREFIXES)


@pytest.mark.parametrize("line", [b"X", b"PUBX", b"PU ", b"PI\r", b"X" * 5000, b" X", b"\x00"])
def test_impossible_starts(line: bytes) -> None:
    assert not may_start(line, NAMES, PREFIXES)


@pytest.mark.parametrize(
    ("digits", "value"),
    [
        (b"0", 0),
        (b"007", 7),
        (b"0" * 5000, 0),
        (b"9" * 18, 10**18 - 1),
        (b"9" * 19, NUMBER_MAX),
        (b"9" * 5000, NUMBER_MAX),
    ],
)
def test_numbers(digits: bytes, value: int) -> None:
    """Also longer ones than ``int`` takes."""
    assert number(digits) == value


@pytest.mark.parametrize(
    "digits", [b"", b"+5", b"-1", b" 1", b"1_0", b"0x1", b"1.0", b"1e3", "٣".encode(), b"\xb2"]
)
def test_no_numbers(digits: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        number(digits)


def test_violations_are_the_other_ends_fault() -> None:
    assert issubclass(ProtocolViolation, RemoteProtocolError)
    assert ProtocolViolation("why").wire == b""


def test_pairs_of_surrogates_are_text() -> None:
    assert json_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}
    for half in (b'{"a": "\\ud83d"}', b'{"\\ude00": 1}', b'{"a": [{"b": "\\uDE00"}]}'):
        with pytest.raises(ProtocolViolation):
            json_object(half)


@pytest.mark.parametrize("depth", [100, 5_000, 500_000])
def test_deeply_nested_json_is_refused_or_read(depth: int) -> None:
    """The JSON parser recurses: what is too deep for it is the client's fault, not a crash of ours."""
    text = b'{"a":' * depth + b"1" + b"}" * depth
    try:
        assert isinstance(json_object(text), dict)
    except ProtocolViolation:
        assert depth > 100
