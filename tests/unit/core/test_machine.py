"""``apply``: order, times, versions, and what it can't read."""

from __future__ import annotations

import msgpack
import pytest
from conversation import Conversation, client_open, publishes

from node.core.commands import (
    ClientOpen,
    Publish,
    RaiseVersion,
    SessionOpen,
    SubscriptionOpen,
    Tick,
)
from node.core.effects import OK, Deliver, Effects, Refused
from node.core.entries import (
    Batch,
    Entry,
    encode_commands,
    encode_entry,
    encode_leader_command,
)
from node.core.machine import Machine, UnsupportedVersionError
from node.core.state import State


def talk_of() -> Conversation:
    talk = Conversation()
    talk.connect("me")
    return talk


def raw(talk: Conversation, first: int, data: bytes) -> Effects:
    return talk.entry([Batch(talk.session, first, 1, data)], [])


def test_an_entry_is_decoded_applied_and_dispatched() -> None:
    """R1, R2: stored, then delivered, then answered; the record says when and by which entry."""
    talk = talk_of()
    talk.subscribe("A")
    effects = talk.publish(2, at=3).effects
    assert effects.deliveries == [Deliver(1, range(1, 3), talk.index)]  # type: ignore[arg-type]
    assert effects.stored[0].first == 1
    assert (effects.replies[0].first, effects.replies[0].last, effects.replies[0].others) == (3, 4, {})
    assert talk.state.subscriptions[1].unacked[2] == (3_000_000_000, talk.index, 1)


def test_every_entry_carries_the_time() -> None:
    """R11, D19: a busy cluster needs no ticks, for any entry's time makes due what is due."""
    talk = talk_of()
    talk.subscribe("A", wait=1)
    talk.publish(at=0)
    assert talk.connect("other").sent == {}
    talk.now = 1
    assert talk.connect("another").sent == {"A": [1]}


def test_keepers_commands_come_first() -> None:
    """R1: whatever the batches of the entry bring."""
    talk = talk_of()
    talk.subscribe("A")
    answer = talk.say(*publishes(), leader_commands=[Tick(99), Tick(1)])
    assert answer.sent == {"A": [1]}


def test_entries_are_applied_in_order_and_once() -> None:
    """An index that was applied already is a bug of the caller."""
    talk = talk_of()
    data = encode_entry(Entry(1, 0, 0, [], []))
    with pytest.raises(AssertionError):
        talk.machine.apply(talk.index, data)


def test_a_version_that_is_not_known_is_not_applied() -> None:
    """R24: neither an entry of it, nor the command that brings it."""
    machine = Machine(State())
    for entry in (
        Entry(3, 5, 5, [], []),
        Entry(1, 5, 5, [encode_leader_command(RaiseVersion(0, 3, "9.0"))], []),
    ):
        with pytest.raises(UnsupportedVersionError, match="machine version 3"):
            machine.apply(1, encode_entry(entry))  # type: ignore[arg-type]
    assert machine.state.applied == machine.state.time_ns == 0
    machine.apply(1, encode_entry(Entry(1, 5, 5, [encode_leader_command(RaiseVersion(0, 1, "0.1"))], [])))  # type: ignore[arg-type]
    assert machine.state.version == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"garbage",
        msgpack.packb([1, 2, 3]),
        msgpack.packb([1, "now", 3, [], []]),
        msgpack.packb([1, -2, 3, [], []]),
        msgpack.packb([1, 2, 1 << 63, [], []]),
        msgpack.packb([1, 2, 3, [], [[None, 1, 1]]]),
        msgpack.packb([1, 2, 3, [], [["x", 1, 1, b""]]]),
        msgpack.packb([1, 2, 3, [], [[None, 1, 1, "text"]]]),
        msgpack.packb([1, 2, 3, [], 7]),
    ],
)
def test_what_is_no_entry_is_ignored_alike(data: bytes) -> None:
    """R22: with a warning; nothing but the index moves."""
    talk = talk_of()
    before = talk.state.time_ns
    talk.index += 1
    effects = talk.apply(data)
    assert len(effects.warnings) == 1
    assert effects == Effects(talk.index, warnings=effects.warnings)
    assert talk.state.applied == talk.index
    assert talk.state.time_ns == before


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("text",),
        (99, 1, 2),
        (7, "me", b"me", "foo"),
        (7, "me", b"me", "foo", "body as text"),
        (7, "me", b"me", 5, b"body"),
        (7, 5, b"me", "foo", b"body"),
        (11, "foo", "ack", 5),
        (11, "foo", "ack", ["x"]),
        (11, "foo", "ack", [[]]),
        (1, "n1", b"nonce"),
        (32, 1),
        (40, 1, "me", [1, 1]),
        (12, {"max_msgs": "many"}),
        (True, "me", b"me", "foo", b"body"),
    ],
)
def test_a_command_that_is_none_is_refused_and_the_others_are_not(command: tuple[object, ...]) -> None:
    """R22: alike on every node, with a warning that names its origin; its serial is used up."""
    talk = talk_of()
    good = (7, "", b"me", "foo", b"body")
    effects = raw(talk, 2, msgpack.packb([good, command, good]))
    assert effects.replies[0].others == {3: Refused("stan: undecodable request")}
    assert effects.replies[0].last == 4
    assert "node n1" in effects.warnings[0].text
    assert talk.state.channels["foo"].log.last == 2


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 1),
        (b"\xc1", 1),
        (b"\x93", 1),  # says three, and has no byte for any
        (b"\x93\xc1\xc1\xc1", 3),
        (msgpack.packb([[7], 5, [7]]), 3),
        (b"\xdd" + b"\xff" * 4, 5),  # says four milliards
    ],
)
def test_a_batch_that_is_none_is_refused_as_a_whole(data: bytes, count: int) -> None:
    """R22: as many serials are used up as it says it has, within reason, so that the next follows it."""
    talk = talk_of()
    effects = raw(talk, 2, data)
    replies = effects.replies[0]
    assert replies.last == 1 + count
    assert set(replies.others.values()) == {Refused("stan: undecodable request")}
    raw(talk, 2 + count, encode_commands(publishes()))
    assert talk.state.channels["foo"].log.last == 1


def test_an_empty_entry_is_fine() -> None:
    talk = talk_of()
    assert talk.entry([], []) == Effects(talk.index)


@pytest.mark.parametrize("command", [Publish("", b"me", "foo", b"x"), Tick(1)])
def test_a_batch_without_session_opens_one_or_is_ignored(command: Publish | Tick) -> None:
    """R5, R22: nothing else may come without."""
    talk = talk_of()
    for data in (encode_commands([command]), encode_commands([SessionOpen("n1", b"x")] * 2), b"\xc1"):
        effects = talk.entry([Batch(None, 1, 1, data)], [])
        assert len(effects.warnings) == 1
        assert effects.sessions == []
    assert talk.publish().outcome == OK


def test_a_keepers_command_that_is_none_is_ignored() -> None:
    """R22: with a warning; the rest of the entry counts."""
    talk = talk_of()
    commands = encode_commands(publishes())
    for fields in ((33,), (7, "me", b"me", "foo", b"x"), (99, 1), ("x",), (39, 1, "me", [1, 1], "yes")):
        talk.index += 1
        entry = Entry(1, 0, 0, [fields], [Batch(talk.session, talk.serial, 1, commands)])
        talk.serial += 1
        effects = talk.apply(encode_entry(entry))
        assert len(effects.warnings) == 1
        assert effects.stored


def test_commands_of_every_kind_in_one_entry() -> None:
    """R1: each in its place; a client that leaves and comes back within one entry."""
    talk = Conversation()
    opened: list[ClientOpen | SubscriptionOpen] = [client_open("me"), talk.subscription("A", durable="d")]
    answer = talk.say(*opened, *publishes(2))
    assert answer.sent == {"A": [1, 2]}
    answer = talk.say(
        talk.acked("A", 1), *publishes(), talk.subscription("B"), client_open("me"), client_open("me", b"x")
    )
    assert answer.sent == {"A": [3]}
