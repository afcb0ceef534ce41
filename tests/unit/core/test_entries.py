"""Entries and their commands as bytes, there and back; and what is none."""

from __future__ import annotations

import pytest

from node.core.commands import (
    Acked,
    ClientReplace,
    Configure,
    Publish,
    Tick,
)
from node.core.entries import (
    NUMBER_OF,
    SIGNATURES,
    TYPES,
    Batch,
    Entry,
    claimed_count,
    count_commands,
    decode_command,
    decode_commands,
    decode_entry,
    decode_leader_command,
    decode_origin,
    encode_commands,
    encode_entry,
    encode_leader_command,
    encoded_size,
    refused_batch,
)
from node.errors import RemoteProtocolError


def test_commands_there_and_back() -> None:
    commands = [
        Publish("", b"conn", "foo", b"body"),
        Acked("foo", "ack", (1, 2, 3)),
        ClientReplace("me", (7, 2), b"c", "hb", 1, -5, 3, 99),
        Configure({"channels": {"a": {"max_msgs": 1}}}, True),
    ]
    again = [decode_origin(fields) for fields in decode_commands(encode_commands(list(commands)))]
    assert again == commands
    assert [type(command) for command in again] == [type(command) for command in commands]


@pytest.mark.parametrize("count", [1, 15, 16, 70, 65_535, 65_536])
def test_the_head_of_a_batch_says_how_many_commands_it_holds(count: int) -> None:
    """R7: the leader believes it, so it has to be what ``apply`` goes by, whether it can decode them or
    not.
    """
    commands = encode_commands([Tick(4)] * count)
    refused = refused_batch(count)
    assert claimed_count(commands) == claimed_count(refused) == count
    assert len(decode_commands(commands)) == count_commands(commands) == count_commands(refused) == count
    with pytest.raises(RemoteProtocolError):
        decode_commands(refused)


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\xdc", b"\xdc\x01", b"\xdd\x00\x00\x01", b"\x81\x01\x02"])
def test_what_has_no_head_of_a_batch_claims_nothing(data: bytes) -> None:
    assert claimed_count(data) is None


def test_a_commands_size_is_what_it_takes_in_a_batch() -> None:
    command = ClientReplace("me", (7, 2), b"c" * 300, "hb", 1, -5, 3, 99)
    assert len(encode_commands([command] * 3)) == 1 + 3 * encoded_size(command)


def test_an_entry_there_and_back() -> None:
    batch = Batch((5, 1), 3, 2, encode_commands([Publish("", b"c", "foo", b"x")]))
    entry = Entry(1, 10, 20, [encode_leader_command(Tick(4))], [batch, Batch(None, 0, 0, b"\x90")])
    assert decode_entry(encode_entry(entry)) == entry
    assert decode_leader_command(entry.leader_commands[0]) == Tick(4)


def test_numbers_are_for_ever() -> None:
    """They stand in logs on disks: none may change its meaning."""
    numbers = {number: command.__name__ for number, command in TYPES.items()}
    assert numbers == {
        1: "SessionOpen",
        2: "ClientOpen",
        3: "ClientReplace",
        4: "ClientKeep",
        5: "ClientClose",
        6: "ClientCheck",
        7: "Publish",
        8: "SubscriptionOpen",
        9: "SubscriptionClose",
        10: "Unsubscribe",
        11: "Acked",
        12: "Configure",
        13: "ChannelDelete",
        14: "ChannelPurge",
        15: "SubscriptionRemove",
        16: "SubscriptionSeek",
        17: "SubscriptionPause",
        18: "ClientKick",
        19: "SubscriptionReplace",
        32: "Tick",
        33: "NewTerm",
        34: "ColdStart",
        35: "ClientAway",
        36: "ClientBack",
        37: "SubscriptionAway",
        38: "SubscriptionBack",
        39: "ClientUnresponsive",
        40: "ClientRemove",
        41: "ChannelExpire",
        42: "RaiseVersion",
        43: "InitCluster",
        44: "RecoverCluster",
        45: "SessionEnd",
        46: "PauseExpiry",
        47: "PauseRedelivery",
        48: "HeartbeatMissed",
        50: "ClientUnreachable",
        51: "ClientReachable",
        52: "SubscriptionUnreachable",
        53: "SubscriptionReachable",
    }


def test_signatures_follow_the_fields() -> None:
    assert SIGNATURES[NUMBER_OF[Publish]] == (int, str, bytes, str, bytes)
    assert SIGNATURES[NUMBER_OF[Acked]] == (int, str, str, tuple)
    assert SIGNATURES[NUMBER_OF[ClientReplace]] == (int, str, tuple, bytes, str, int, int, int, int)
    assert SIGNATURES[NUMBER_OF[Configure]] == (int, dict, bool)
    assert SIGNATURES.keys() == TYPES.keys()


@pytest.mark.parametrize("fields", [(), (99,), (32,), (32, "1"), (32, True), (32, 1, 2), ("32", 1), ([], 1)])
def test_what_is_no_command(fields: tuple[object, ...]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_command(fields)
