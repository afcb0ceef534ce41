"""Which routes are cached, and which are still valid when interest has changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.subjects import has_wildcard, matches
from node.server import route_cache
from node.server.route_cache import RECENT_MAX, SUBJECT_MAX, RouteCache
from node.server.subscriptions import empty_route


def remembering(*subjects: bytes) -> RouteCache:
    known = RouteCache()
    for subject in subjects:
        known.remember(subject, empty_route())
    return known


def true(known: RouteCache, *subjects: bytes) -> list[bytes]:
    return [subject for subject in subjects if known.valid_route(subject) is not None]


tokens = st.sampled_from([b"a", b"b", b"_INBOX"])
subjects = st.lists(tokens, min_size=1, max_size=4).map(b".".join)
patterns = st.tuples(
    st.lists(st.one_of(tokens, st.just(b"*")), min_size=0, max_size=3),
    st.sampled_from([b"*", b">", b"a"]),
).map(lambda parts: b".".join([*parts[0], parts[1]]))


@given(st.lists(subjects, max_size=12), st.lists(patterns, max_size=6))
def test_a_changed_pattern_invalidates_matching_routes(known: list[bytes], changed: list[bytes]) -> None:
    """All other routes stay valid."""
    remembered = remembering(*known)
    for pattern in changed:
        remembered.forget(pattern)
    for subject in dict.fromkeys(known):
        concerned = any(
            matches(pattern, subject) if has_wildcard(pattern) else pattern == subject for pattern in changed
        )
        assert (remembered.valid_route(subject) is None) == concerned
        remembered.remember(subject, empty_route())
        assert true(remembered, subject) == [subject]


def test_other_patterns_keep_a_route() -> None:
    """However many there are: each new connection adds a pattern."""
    many = [b"_INBOX.%d.1" % number for number in range(5000)]
    known = remembering(*many, b"_INBOX.mine.1", b"_INBOX.mine")
    known.forget(b"_INBOX.mine.*")
    assert true(known, *many, b"_INBOX.mine.1", b"_INBOX.mine") == [*many, b"_INBOX.mine"]


def test_routes_of_clients_that_have_left_are_dropped() -> None:
    """They are never used again; routes that others use stay."""
    known = remembering(b"said")
    most = 0
    for number in range(5000):
        known.forget(b"_INBOX.%d.*" % number)
        known.remember(b"_INBOX.%d.1" % number, empty_route())
        known.forget(b"_INBOX.%d.*" % number)
        assert true(known, b"said") == [b"said"]
        most = max(most, len(known))
    assert most < 2 * RECENT_MAX


def test_a_route_that_is_too_old_to_check_is_computed_again() -> None:
    known = remembering(b"a", b"b")
    for number in range(RECENT_MAX):
        known.forget(b"x.%d.*" % number)
    assert true(known, b"a") == [b"a"]
    known.forget(b"x.*")
    assert true(known, b"a", b"b") == [b"a"]


def test_the_oldest_of_too_many_routes_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all: a client that publishes to ever new subjects must not cost others all their routes."""
    monkeypatch.setattr(route_cache, "CACHED_ROUTES_MAX", 16)
    known = remembering(*(b"%d" % number for number in range(16)))
    assert len(known) == 16
    known.remember(b"new", empty_route())
    assert [*known] == [*(b"%d" % number for number in range(3, 16)), b"new"]


def test_the_route_of_a_very_long_subject_is_not_cached() -> None:
    """A client that sends to thirty thousand of them once would take 4 KiB for each."""
    known = remembering(b"a." + b"x" * (SUBJECT_MAX - 2), b"a." + b"x" * (SUBJECT_MAX - 1))
    assert [len(subject) for subject in known] == [SUBJECT_MAX]
    known.forget(b"a." + b"x" * (SUBJECT_MAX - 1))
    known.forget(b"a." + b"x" * (SUBJECT_MAX - 2))
    assert not known
