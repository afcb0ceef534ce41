"""Which names are valid, what a pattern matches, and who is interested."""

from __future__ import annotations

import pytest

from node.protocol import subjects
from node.protocol.subjects import (
    Interest,
    covers,
    literal,
    matches,
    overlap,
    valid_channel,
    valid_client_id,
    valid_subject,
)

DEEP = b".".join([b"a"] * 2047)
"""As many tokens as a control line of 4,096 bytes can hold."""


@pytest.mark.parametrize(
    "subject",
    [
        b"a",
        b"a.b",
        b"*",
        b">",
        b"a.*",
        b"*.b.*",
        b"a.>",
        b"a*",
        b"a>",
        b">a",
        b"a.b>.c",
        "ü.ö".encode(),
        DEEP,
    ],
)
def test_valid_subject(subject: bytes) -> None:
    assert valid_subject(subject)


@pytest.mark.parametrize(
    "subject",
    [b"", b".", b"a..b", b".a", b"a.", b"a.>.b", b">.>", b"a b", b"a\t", b"\na", b"a\r", b"a\x0b", b"\x0c"],
)
def test_invalid_subject(subject: bytes) -> None:
    """NET-17."""
    assert not valid_subject(subject)
    assert not literal(subject)


def test_wildcards_inside_a_longer_token_are_ordinary_characters() -> None:
    assert literal(b"a*.>b.c>")
    assert not literal(b"a.*")
    assert not literal(b"a.>")
    assert not matches(b"a*", b"ab")
    assert matches(b"a*", b"a*")


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        (b"a.b", b"a.b", True),
        (b"a.b", b"a.B", False),  # NET-16
        (b"a.*", b"a.b", True),
        (b"a.*", b"a", False),
        (b"a.*", b"a.b.c", False),
        (b"*", b"a", True),
        (b">", b"a", True),
        (b">", b"a.b.c", True),
        (b"a.>", b"a", False),  # NET-15: one token or more
        (b"a.>", b"a.b", True),
        (b"a.>", b"a.b.c", True),
        (b"*.b.>", b"a.b.c.d", True),
        (b"*.b.>", b"a.c.c.d", False),
    ],
)
def test_matches(pattern: bytes, subject: bytes, *, expected: bool) -> None:
    assert matches(pattern, subject) is expected


@pytest.mark.parametrize(
    ("pattern", "narrower", "expected"),
    [
        (b"a.*", b"a.b", True),
        (b"a.*", b"a.*", True),
        (b"a.*", b"a.>", False),
        (b"a.*", b">", False),
        (b"*.b", b">.b", False),
        (b"a.>", b"a.>", True),
        (b"a.>", b"a.*.>", True),
        (b"a.*.>", b"a.>", False),
        (b">", b"a.*.>", True),
        (b"a.b", b"a.*", False),
        (b"a.>", b"a", False),
    ],
)
def test_covers(pattern: bytes, narrower: bytes, *, expected: bool) -> None:
    assert covers(pattern, narrower) is expected


@pytest.mark.parametrize(
    ("pattern", "other", "expected"),
    [
        (b"a.*", b"*.b", True),
        (b"a.*", b"b.*", False),
        (b"a.>", b"*.*.c", True),
        (b"a.>", b"a", False),
        (b"a", b"a.>", False),
        (b">", b"a.b", True),
        (b"a.*", b"a.b.c", False),
        (b"a.b", b"a.b", True),
    ],
)
def test_overlap(pattern: bytes, other: bytes, *, expected: bool) -> None:
    assert overlap(pattern, other) is expected
    assert overlap(other, pattern) is expected


@pytest.mark.parametrize("name", ["foo", "foo.bar", "a-b_c", "übung.ß", "$SYS", "a" * 255, "ü" * 127])
def test_valid_channel(name: str) -> None:
    assert valid_channel(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "a*", "a.>", "*", ".a", "a.", ".", "a..b", "a/b", "/"),  # PUB-05, SUB-06
        *("a b", "a\t", "\n", "a\n", "a\x00", "a\x7f", "a\x85", "a\xa0b", "a\u2028"),
        *("a" * 256, "ü" * 128),  # more than 255 bytes
    ],
)
def test_invalid_channel(name: str) -> None:
    assert not valid_channel(name)


def test_long_names_are_refused_before_they_are_remembered() -> None:
    subjects._valid_channel.cache_clear()
    assert not valid_channel("x" * 1_000_000)
    assert subjects._valid_channel.cache_info().currsize == 0


@pytest.mark.parametrize("client_id", ["a", "A_b-9", "-", "_", "0" * 300])
def test_valid_client_id(client_id: str) -> None:
    """CON-06."""
    assert valid_client_id(client_id)


@pytest.mark.parametrize("client_id", ["", "a b", "a.b", "a:b", "a,b", "a*", "a!", "a\n", "ä", "٣"])
def test_invalid_client_id(client_id: str) -> None:
    """CON-05."""
    assert not valid_client_id(client_id)


def test_interest_keeps_the_order_of_insertion() -> None:
    interest: Interest[str] = Interest()
    for number, pattern in enumerate((b"a.>", b"a.b", b"*.b", b"a.*", b">", b"a.c")):
        interest.insert(pattern, f"{number} {pattern.decode()}")
    assert interest.match(b"a.b") == ["0 a.>", "1 a.b", "2 *.b", "3 a.*", "4 >"]
    assert interest.match(b"a.c") == ["0 a.>", "3 a.*", "4 >", "5 a.c"]
    assert interest.match(b"b") == ["4 >"]
    assert len(interest) == 6


def test_interest_one_value_under_two_patterns_matches_twice() -> None:
    """NET-20: one copy for each subscription."""
    interest: Interest[int] = Interest()
    interest.insert(b"a", 1)
    interest.insert(b">", 1)
    assert interest.match(b"a") == [1, 1]
    interest.remove(b"a", 1)
    assert interest.match(b"a") == [1]


def test_interest_inserting_again_changes_nothing() -> None:
    interest: Interest[int] = Interest()
    for pattern in (b"a", b"*"):
        interest.insert(pattern, 1)
        interest.insert(pattern, 2)
        interest.insert(pattern, 1)
    assert len(interest) == 4
    assert interest.match(b"a") == [1, 2, 1, 2]
    assert interest.match(b"b") == [1, 2]


@pytest.mark.parametrize("pattern", [b"a.b", b"a.*", b"a.>", b">", b"*.*"])
def test_interest_what_was_remembered_is_forgotten_in_time(pattern: bytes) -> None:
    interest: Interest[int] = Interest()
    before = interest.match(b"a.b")
    assert before == []
    interest.insert(pattern, 1)
    now = interest.match(b"a.b")
    assert now == [1]
    interest.remove(pattern, 1)
    assert interest.match(b"a.b") == []
    assert (before, now) == ([], [1])  # lists handed out earlier stay as they were


@pytest.mark.parametrize("pattern", [b"a.b", b"a.*", b"a.>", b"a.*.c", b"x.*"])
def test_interest_removing_what_is_not_there(pattern: bytes) -> None:
    interest: Interest[int] = Interest()
    interest.insert(b"a.b", 1)
    interest.insert(b"a.*", 1)
    interest.insert(b"a.>", 1)
    with pytest.raises(KeyError):
        interest.remove(pattern, 2)
    assert len(interest) == 3


def test_interest_leaves_nothing_behind() -> None:
    interest: Interest[int] = Interest()
    for number in range(100):
        pattern = b"_INBOX.%d.*" % number
        interest.insert(pattern, number)
        interest.insert(b"_INBOX.%d.*.>" % number, number)
        interest.remove(pattern, number)
        interest.remove(b"_INBOX.%d.*.>" % number, number)
    assert len(interest) == 0
    assert interest._root.is_empty
    assert not interest._literals


def test_interest_remembers_a_bounded_number_of_subjects() -> None:
    interest: Interest[int] = Interest()
    interest.insert(b"a.*", 1)
    for number in range(subjects.MATCHES_CACHED_MAX + 10):
        assert interest.match(b"a.%d" % number) == [1]
    assert len(interest._cached) == 10


def test_interest_deep_patterns() -> None:
    """Two thousand tokens must not exhaust the stack."""
    interest: Interest[int] = Interest()
    pattern = DEEP[:-1] + b"*"
    interest.insert(pattern, 1)
    interest.insert(DEEP[:-1] + b">", 2)
    assert interest.match(DEEP) == [1, 2]
    interest.remove(pattern, 1)
    interest.remove(DEEP[:-1] + b">", 2)
    assert interest._root.is_empty
