"""The frame parser raises only `RemoteProtocolError`, whatever a peer sends."""

from __future__ import annotations

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import RemoteProtocolError
from node.raft.frames import parse

KINDS = ("append", "alive", "ack", "refusal", "stale", "vote", "voted", "prevote", "prevoted", "takeover")
FIELDS = (
    "term",
    "prev",
    "prev_term",
    "commit",
    "entries",
    "ask",
    "match",
    "refused",
    "next",
    "granted",
    "current",
)
FIELDS += ("last_index", "last_term", "transfer", "x")

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=4)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
plausible = (
    st.integers(0, 3)
    | st.booleans()
    | st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.binary(max_size=2)), max_size=3)
)


@given(
    st.dictionaries(st.sampled_from(FIELDS), plausible | values),
    st.sampled_from(KINDS) | values,
)
@settings(deadline=None, max_examples=400)
def test_one_error(fields: dict, kind: object) -> None:
    message = fields | {"type": kind}
    try:
        frame = parse(message)
    except RemoteProtocolError:
        return
    assert parse(msgpack.unpackb(msgpack.packb(frame.encode()))) == frame or frame != frame  # not a number
