"""``Interest`` against the plain definition of matching, and the definition against itself."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.subjects import Interest, covers, literal, matches, overlap, valid_subject

TOKENS = [b"a", b"b", b"a*", b"", b">"]

subjects = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=4).map(b".".join)
patterns = st.one_of(
    st.lists(st.sampled_from([b"a", b"b", b"*", b"*"]), min_size=1, max_size=4).map(b".".join),
    st.lists(st.sampled_from([b"a", b"b", b"*"]), max_size=3).map(lambda t: b".".join([*t, b">"])),
)
values = st.integers(0, 2)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), patterns, values),
        st.tuples(st.just("remove"), patterns, values),
        st.tuples(st.just("match"), subjects, values),
    ),
    max_size=60,
)

WORLD = [b".".join(t) for size in (1, 2, 3, 4, 5) for t in itertools.product((b"a", b"b", b"c"), repeat=size)]


def by_definition(pattern: bytes, subject: bytes) -> bool:
    head, _, tail = pattern.partition(b".")
    token, dot, rest = subject.partition(b".")
    if pattern == b">":
        return True
    if head not in (b"*", token):
        return False
    if not tail or not dot:
        return not tail and not dot
    return by_definition(tail, rest)


@given(pattern=patterns, subject=subjects)
@settings(deadline=None)
def test_matches_is_the_definition(pattern: bytes, subject: bytes) -> None:
    assert matches(pattern, subject) == by_definition(pattern, subject)


@given(steps=steps)
@settings(max_examples=200, deadline=None)
def test_interest_is_a_list_searched_with_matches(steps: list[tuple[str, bytes, int]]) -> None:
    interest: Interest[int] = Interest()
    plain: dict[tuple[bytes, int], None] = {}
    for step, name, value in steps:
        if step == "insert":
            interest.insert(name, value)
            plain.setdefault((name, value))
        elif step == "remove" and (name, value) in plain:
            interest.remove(name, value)
            del plain[name, value]
        else:
            assert interest.match(name) == [v for pattern, v in plain if matches(pattern, name)]
        assert len(interest) == len(plain)
    for pattern, value in plain:
        interest.remove(pattern, value)
    assert interest._root.is_empty
    assert not interest._literals


@given(left=patterns, right=patterns)
@settings(max_examples=60, deadline=None)
def test_covers_and_overlap_are_about_subjects(left: bytes, right: bytes) -> None:
    of_left = {subject for subject in WORLD if matches(left, subject)}
    of_right = {subject for subject in WORLD if matches(right, subject)}
    assert covers(left, right) == (of_right <= of_left)
    assert overlap(left, right) == bool(of_left & of_right)


@given(subject=st.lists(st.sampled_from([*b"ab.*> \t"]), max_size=6).map(bytes))
@settings(deadline=None)
def test_validity_by_tokens(subject: bytes) -> None:
    tokens = subject.split(b".")
    plain = all(tokens) and not any(char in subject for char in b" \t")
    assert valid_subject(subject) == (plain and b">" not in tokens[:-1])
    assert literal(subject) == (plain and b">" not in tokens and b"*" not in tokens)
