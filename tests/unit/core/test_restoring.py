"""A state from its records."""

from __future__ import annotations

import msgpack
import pytest
from conversation import Conversation

from node.core.records import restore
from node.errors import CorruptionError


def story() -> Conversation:
    talk = Conversation()
    talk.connect("z", "me", "a")
    talk.subscribe("B", durable="d")
    talk.subscribe("A", channel="bar")
    talk.publish(3)
    talk.close("B")
    talk.subscribe("B", durable="d")
    return talk


def test_no_records_are_a_new_state() -> None:
    assert restore([]).applied == 0


def test_everything_iterates_in_the_same_order() -> None:
    """R30: clients as registered, a client's subscriptions as opened or resumed, channels as created."""
    talk = story()
    again = restore(sorted(talk.records.items()))
    assert list(again.clients) == ["z", "me", "a"]
    assert list(again.channels) == ["foo", "bar"]
    assert list(again.subscriptions) == [1, 2]
    assert list(again.clients["me"].subscriptions) == list(talk.state.clients["me"].subscriptions) == [2, 1]
    assert again.by_ack_inbox.keys() == talk.state.by_ack_inbox.keys()
    assert again.next_deadline() == 30_000_000_000


def test_records_share_what_an_entry_sent() -> None:
    """One record for all messages of an entry, as before: not one for each."""
    talk = story()
    again = restore(sorted(talk.records.items()))
    (record,) = {id(record) for record in again.subscriptions[1].unacked.values()}
    assert record


@pytest.mark.parametrize("kind", [b"m", b"c", b"h", b"l", b"g", b"s", b"u"])
def test_a_missing_record_is_noticed(kind: bytes) -> None:
    """Stop rather than guess: every kind but sessions is referred to by another."""
    records = story().records
    gone = min(key for key in records if key[:1] == kind and (kind != b"c" or b"me" in records[key]))
    del records[gone]
    with pytest.raises(CorruptionError):
        restore(sorted(records.items()))


def test_garbage_is_noticed() -> None:
    records = story().records
    for key in [*records]:
        for garbage in (b"", b"\xc1", b"\x90"):
            with pytest.raises(CorruptionError):
                restore(sorted({**records, key: garbage}.items()))


@pytest.mark.parametrize("written", [1, 99])
def test_another_releases_format_is_noticed(written: int) -> None:
    records = story().records
    meta = list(msgpack.unpackb(records[b"m"]))
    meta[0] = written
    with pytest.raises(
        CorruptionError, match=f"format {written}, .* reads .*: use the release .* or replace"
    ):
        restore(sorted({**records, b"m": msgpack.packb(meta)}.items()))
