"""Which plans are remembered, and which are forgotten when interest changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.subjects import matches
from node.server import plans
from node.server.plans import SUBJECT_MAX, Plans
from node.server.subscriptions import NOBODY


def remembering(*subjects: bytes) -> Plans:
    known = Plans()
    for subject in subjects:
        known.remember(subject, NOBODY)
    return known


tokens = st.sampled_from([b"a", b"b", b"_INBOX"])
subjects = st.lists(tokens, min_size=1, max_size=4).map(b".".join)
patterns = st.tuples(
    st.lists(st.one_of(tokens, st.just(b"*")), min_size=0, max_size=3),
    st.sampled_from([b"*", b">", b"a"]),
).map(lambda parts: b".".join([*parts[0], parts[1]]))


@given(st.lists(subjects, max_size=12), st.lists(patterns, max_size=4))
def test_whatever_a_pattern_may_match_is_forgotten(known: list[bytes], changed: list[bytes]) -> None:
    """And what is remembered twice, forgotten and remembered again is like any other."""
    remembered = remembering(*known)
    for pattern in changed:
        remembered.forget(pattern)
        assert not [subject for subject in remembered if matches(pattern, subject)]
        for subject in known:
            remembered.remember(subject, NOBODY)
    for subject in known:
        remembered.forget(subject)
    assert not remembered
    assert not remembered._heads


def test_the_inboxes_of_others_are_not_even_looked_at() -> None:
    """However many there are: who connects brings a pattern of its own."""
    many = [b"_INBOX.%d.1" % n for n in range(plans.PLANS_SEARCHED_MAX + 1)]
    known = remembering(*many, b"_INBOX.mine.1", b"_INBOX.mine.2", b"_INBOX.mine")
    known.forget(b"_INBOX.mine.*")
    assert set(known) == {*many, b"_INBOX.mine"}


def test_too_many_are_all_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "PLANS_MAX", 3)
    monkeypatch.setattr(plans, "PLANS_SEARCHED_MAX", 1)
    assert len(remembering(b"a", b"b.c.d", b"c")) == 3
    assert [*remembering(b"a", b"b.c.d", b"c", b"d")] == [b"d"]
    known = remembering(b"a.b", b"b.c.d")
    known.forget(b"x.*")
    assert not known
    assert not known._heads


def test_a_very_long_subject_is_not_remembered() -> None:
    """Thirty thousand of them would take as many times four KiB, for whoever sends each just once."""
    known = remembering(b"a." + b"x" * (SUBJECT_MAX - 2), b"a." + b"x" * (SUBJECT_MAX - 1))
    assert [len(subject) for subject in known] == [SUBJECT_MAX]
    known.forget(b"a.*")
    known.forget(b"a." + b"x" * (SUBJECT_MAX - 1))
    assert not known
