"""The bytes of a membership represent it completely, and invalid bytes are refused."""

from __future__ import annotations

import contextlib

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import RefusedError, RemoteProtocolError
from node.raft.membership import Membership

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
CHANGES = st.lists(st.tuples(st.sampled_from(["learner", "voter", "without"]), NAMES), max_size=20)


@settings(deadline=None)
@given(changes=CHANGES)
def test_every_step_is_refused_or_moves_one_voter(changes: list[tuple[str, str]]) -> None:
    now = Membership.initial_voters("abc")
    for count, (what, name) in enumerate(changes):
        new = now
        with contextlib.suppress(RefusedError):
            match what:
                case "learner":
                    new = now.with_learner(name, f"{name}:{count}")
                case "voter":
                    new = now.with_voter(name, f"directory {count}")
                case _:
                    new = now.without(name)
        assert len(new.copies() ^ now.copies()) <= 1
        assert new.voters
        assert set(new.names) == {*new.voters, *new.learners}
        assert Membership.decode(new.encode()) == new
        now = new


@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        Membership.decode(data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@settings(deadline=None)
@given(value=VALUES | st.tuples(st.just(1), VALUES) | st.tuples(st.just(1), st.lists(st.lists(VALUES))))
def test_other_values_are_refused(value: object) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert Membership.decode(msgpack.packb(value)).voters
