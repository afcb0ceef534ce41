"""Hellos, and the choice between two connections: the rules of `Slot` from both ends."""

from __future__ import annotations

from typing import Any

import pytest

from node.errors import IdentityError
from node.protocol.peer import FrameError
from node.raft.links import INSTANCE_BYTES, RAFT, CollisionError, Hello, Slot, refusal

GOOD: dict[str, Any] = {
    "link": RAFT,
    "node": "n1",
    "to": "n2",
    "instance": b"i" * INSTANCE_BYTES,
    "epoch": 1,
    "warm": True,
}


def hello(epoch: int, instance: bytes = b"i" * INSTANCE_BYTES) -> Hello:
    return Hello.of(GOOD | {"epoch": epoch, "instance": instance})


def test_a_hello_carries_the_servers_fields_too() -> None:
    read = Hello.of(GOOD)
    assert (read.link, read.node, read.to, read.epoch) == (RAFT, "n1", "n2", 1)
    assert read.fields["warm"] is True


@pytest.mark.parametrize(
    "wrong",
    [
        {"link": "other"},
        {"link": ["raft"]},
        {"link": None},
        {"node": ""},
        {"node": 7},
        {"node": "n" * 256},
        {"node": "n1\nnode n2 up"},  # names are logged
        {"to": None},
        {"instance": b"short"},
        {"instance": "i" * INSTANCE_BYTES},
        {"epoch": 0},
        {"epoch": "1"},
        {"epoch": True},
    ],
)
def test_a_hello_that_says_too_little_or_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FrameError):
        Hello.of(GOOD | wrong)


@pytest.mark.parametrize("value", [None, (), ("raft",), b"hello", 1])
def test_what_is_no_map_is_no_hello(value: Any) -> None:
    with pytest.raises(FrameError):
        Hello.of(value)


def test_a_refusal_reaches_the_refused_in_words() -> None:
    with pytest.raises(IdentityError, match="refused by the peer: another cluster"):
        Hello.of(refusal(IdentityError("another cluster")))
    with pytest.raises(CollisionError, match="ahead"):
        Hello.of(refusal(CollisionError("our own connection is ahead")))


def test_a_vacant_slot_takes_any_connection() -> None:
    slot: Slot[str] = Slot("n2", "n1", RAFT)
    slot.check_append(hello(1))
    assert slot.take("a", hello(1)) is None
    assert slot.current == "a"


def test_a_later_connection_of_the_same_process_replaces_the_present_one() -> None:
    """The peer would not have dialed if its end of the present connection were open."""
    slot: Slot[str] = Slot("n2", "n1", RAFT)
    slot.take("a", hello(3))
    slot.check_append(hello(4))
    assert slot.take("b", hello(4)) == "a"
    assert not slot.release("a"), "the replaced one has nothing to announce any more"
    assert slot.current == "b"
    assert slot.release("b")


def test_a_connection_that_was_overtaken_is_refused() -> None:
    """Its hello was delayed; the peer already holds the present connection."""
    slot: Slot[str] = Slot("n2", "n1", RAFT)
    slot.take("b", hello(4))
    for epoch in (3, 4):
        with pytest.raises(CollisionError, match="overtaken"):
            slot.check_append(hello(epoch))


def test_a_peer_that_was_restarted_is_let_in_at_once() -> None:
    """Its epoch restarts; the end of the old connection may not be known yet."""
    slot: Slot[str] = Slot("n2", "n1", RAFT)
    slot.take("a", hello(1000))
    slot.check_append(hello(1, b"j" * INSTANCE_BYTES))


def test_when_both_dial_at_once_the_smaller_names_connection_stays() -> None:
    """Both ends make the same choice, so exactly one of the two connections remains."""
    smaller: Slot[str] = Slot("n1", "n2", RAFT)
    larger: Slot[str] = Slot("n2", "n1", RAFT)
    smaller.dialing = larger.dialing = True
    with pytest.raises(CollisionError, match="ahead"):
        smaller.check_append(hello(1))
    larger.check_append(hello(1))
