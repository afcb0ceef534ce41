"""Limits: inheritance, counts, bytes, age (L1 to L6, S2)."""

from __future__ import annotations

import pytest
from conversation import EPOCH_NS, SECOND, Conversation, publishes

from node.core.commands import Configure, PauseExpiry
from node.core.effects import OK, Drop
from node.core.limits import limits_of
from node.core.settings import Settings


def talk_of(**settings: object) -> Conversation:
    talk = Conversation(**settings)
    talk.connect("me")
    return talk


@pytest.mark.parametrize(
    ("name", "max_msgs", "max_bytes"),
    [("foo.bar", 0, 1000), ("foo.baz", 400, 1000), ("foo.a.b", 400, 5), ("zoo", 10, 5)],
)
def test_inheritance(name: str, max_msgs: int, max_bytes: int) -> None:
    """LIM-05, LIM-06: global, then each matching entry, the widest first; 0 is unlimited, absent inherits."""
    settings = Settings.of(
        {
            "max_msgs": 10,
            "max_bytes": 5,
            "channels": {
                "foo.bar": {"max_msgs": 0},
                "foo.*": {"max_bytes": 1000},
                "foo.>": {"max_msgs": 400},
            },
        }
    )
    limits = limits_of(settings, name)
    assert (limits.max_msgs, limits.max_bytes) == (max_msgs, max_bytes)


def test_the_order_of_entries_does_not_matter() -> None:
    """``>`` is wider than ``foo.>``, that than ``foo.*``, that than ``foo.bar``, however they are written."""
    entries = {
        ">": {"max_msgs": 1},
        "foo.>": {"max_msgs": 2},
        "foo.*": {"max_msgs": 3},
        "foo.bar": {"max_msgs": 4},
    }
    for names in ([*entries], [*reversed(entries)]):
        while names:
            settings = Settings.of({"channels": {name: entries[name] for name in names}})
            narrowest = max(names, key=list(entries).index)
            assert limits_of(settings, "foo.bar").max_msgs == entries[narrowest]["max_msgs"]
            names.remove(narrowest)


def test_max_msgs() -> None:
    """LIM-01, L2: the oldest go, read or not; the sequence goes on."""
    talk = talk_of(max_msgs=5)
    answer = talk.publish(10)
    log = talk.state.channels["foo"].log
    assert (log.first, log.last, len(log)) == (6, 10, 5)
    assert answer.effects.dropped == [Drop(1, 5)]
    assert answer.outcomes == [OK] * 10


def test_max_bytes_keeps_the_newest() -> None:
    """LIM-02, L1: several small ones go for a large one; the newest stays though it alone is too large."""
    talk = talk_of(max_bytes=300)
    talk.publish(5)
    log = talk.state.channels["foo"].log
    each = log.size(1)
    assert each == 20 + 12
    talk.publish(5)
    assert (log.first, log.last, log.bytes) == (2, 10, 9 * each)
    talk.say(*publishes(size=200))
    assert (log.first, log.last) == (9, 11)
    talk.say(*publishes(size=1000))
    assert (log.first, log.last) == (12, 12)
    talk.publish()
    assert (log.first, log.last, log.bytes) == (13, 13, each)


def test_sizes_are_those_of_the_encoded_messages() -> None:
    """R27: sequence and timestamp included; across the sequence at which a varint grows."""
    talk = talk_of()
    talk.publish(126)
    talk.publish(4)
    log = talk.state.channels["foo"].log
    framing = 2 + 10  # tag and sequence; tag and timestamp
    assert [log.size(seq) for seq in (126, 127, 128, 129)] == [
        20 + framing,
        20 + framing,
        21 + framing,
        21 + framing,
    ]


def test_the_first_drop_is_told_once() -> None:
    """L2: an operator is told the first time a channel reaches its limits."""
    talk = talk_of(max_msgs=1)
    assert talk.publish().effects.warnings == []
    assert len(talk.publish().effects.warnings) == 1
    assert talk.publish().effects.warnings == []


def test_max_age_goes_by_the_entrys_timestamp() -> None:
    """LIM-03, L4, L6: gone once the timestamp is max_age later, on every node alike, any entry will do."""
    talk = talk_of(max_age_ns=5 * SECOND)
    talk.publish(2, at=1)
    talk.publish(at=2)
    assert talk.state.next_age() == EPOCH_NS + 6 * SECOND
    assert talk.tick(at=5.999).effects.dropped == []
    assert talk.tick(at=6).effects.dropped == [Drop(1, 2)]
    assert talk.state.next_age() == EPOCH_NS + 7 * SECOND
    talk.tick(at=9)
    log = talk.state.channels["foo"].log
    assert (log.first, log.last, log.bytes) == (4, 3, 0)
    assert talk.state.next_age() is None
    talk.publish()
    assert log.last == 4


def test_age_waits_behind_the_other_limits() -> None:
    """The oldest message was pushed out: the deadline armed for it finds nothing, and is armed anew."""
    talk = talk_of(max_age_ns=5 * SECOND, max_msgs=1)
    talk.publish(at=1)
    talk.publish(at=3)
    assert talk.tick(at=6).effects.dropped == []
    assert talk.tick(at=8).effects.dropped == [Drop(1, 2)]


def test_lower_limits_apply_to_what_is_there() -> None:
    """L5, R23: with the Configure that brings them; a channel's own limits are found anew."""
    talk = talk_of()
    talk.publish(10, at=0)
    talk.publish(2, channel="bar")
    answer = talk.say(Configure({"max_msgs": 4, "channels": {"bar": {"max_msgs": 0}}}, False))
    assert answer.effects.dropped == [Drop(1, 6)]
    talk.say(Configure({"max_age_ns": SECOND}, False), at=0.5)
    assert talk.state.next_age() == EPOCH_NS + SECOND
    assert len(talk.tick(at=1).effects.dropped) == 2
    talk.publish()
    talk.say(Configure({}, False))
    assert talk.state.next_age() is None


def test_a_file_is_proposed_only_to_a_state_that_has_none() -> None:
    """R23: only_if_unset."""
    talk = Conversation()
    assert talk.say(Configure({"max_msgs": 7}, True)).outcome == OK
    assert talk.say(Configure({"max_msgs": 8}, True)).outcome == OK
    assert talk.state.settings.max_msgs == 7
    talk.say(Configure({"max_msgs": 9}, False))
    assert talk.state.settings.max_msgs == 9
    assert talk.say(Configure({"nonsense": 1}, False)).refusal == "stan: invalid configuration: nonsense"
    assert talk.state.settings.max_msgs == 9


def test_configure_settles_what_its_entry_has_published() -> None:
    """R1: publishes before and after it, one entry: limits hold for all of them at its end."""
    talk = talk_of()
    talk.say(*publishes(3), Configure({"max_msgs": 2}, False), *publishes(3))
    log = talk.state.channels["foo"].log
    assert (log.first, log.last) == (5, 6)


def test_expiry_is_paused_while_the_leaders_clock_is_wrong() -> None:
    """R13: nothing goes for its age meanwhile; counts and sizes still let messages go."""
    talk = Conversation(max_age_ns=5 * SECOND, max_msgs=3)
    talk.connect("me")
    talk.publish(2, at=0)
    told = talk.say(leader_commands=[PauseExpiry(talk.term, True), PauseExpiry(talk.term, True)], at=4)
    assert len(told.effects.warnings) == 1
    assert talk.state.next_age() is None, "the leader need not tick for them"
    talk.tick(at=60)
    log = talk.state.channels["foo"].log
    assert (log.first, log.last) == (1, 2)
    talk.publish(2)
    assert (log.first, log.last) == (2, 4)
    talk.say(leader_commands=[PauseExpiry(talk.term - 1, False)])
    assert talk.state.expiry_paused, "another term's"
    told = talk.say(leader_commands=[PauseExpiry(talk.term, False)])
    assert [warning.text for warning in told.effects.warnings] == ["messages are dropped for their age again"]
    assert (log.first, log.last) == (3, 4)
