"""Machine versions (R24): an older release stops before it decides otherwise than the others."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from conversation import Conversation

from node.core import versions
from node.core.commands import (
    ClientCheck,
    RaiseVersion,
    Tick,
)
from node.core.effects import OK, Refused
from node.core.entries import (
    Entry,
    encode_entry,
    encode_leader_command,
)
from node.core.machine import Machine
from node.core.records import all_records, restore
from node.core.refusals import UNDECODABLE
from node.core.state import State
from node.core.versions import Feature, UnsupportedVersionError


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that knows version 3, which brought ``ClientCheck``."""
    monkeypatch.setattr(Machine, "version", 3)
    monkeypatch.setattr(versions, "MACHINE_VERSION", 3)
    monkeypatch.setitem(versions.SINCE, ClientCheck, 3)


def raised() -> Conversation:
    talk = Conversation()
    talk.connect("me")
    assert talk.say(ClientCheck(b"me")).outcome == Refused(UNDECODABLE)
    talk.say(leader_commands=[RaiseVersion(1, 3, "0.3.0")])
    assert (talk.state.version, talk.state.release) == (3, "0.3.0")
    return talk


@pytest.mark.usefixtures("newer")
def test_new_behaviour_begins_at_one_place_in_the_log() -> None:
    """Before it the command is unknown, as it is to nodes of the older release that apply the same entry."""
    talk = raised()
    assert talk.say(ClientCheck(b"me")).outcome == OK
    talk.say(leader_commands=[RaiseVersion(1, 1, "0.1.0")])
    assert (talk.state.version, talk.state.release) == (3, "0.3.0")


@pytest.mark.usefixtures("newer")
def test_a_keepers_command_of_a_later_version_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(versions.SINCE, Tick, 3)
    talk = Conversation()
    answer = talk.say(leader_commands=[Tick(1)])
    assert [warning.text for warning in answer.effects.warnings] == [
        "entry 2: a leader command is ignored: version 2 has no command of type 32"
    ]


def test_an_older_release_names_the_one_it_needs() -> None:
    entry = encode_entry(Entry(1, 5, 5, [encode_leader_command(RaiseVersion(1, 3, "0.3.0"))], []))
    state = State()
    with pytest.raises(UnsupportedVersionError, match=r"version 3, .* up to 2: start stanchion 0\.3\.0"):
        Machine(state).apply(1, entry)  # type: ignore[arg-type]
    assert (state.applied, state.time_ns, state.rolled) == (0, 0, b"")


@pytest.mark.parametrize("entry", [[3], [3, "another", {"shape": 1}], [3, 5, 5, [], []]])
def test_an_entry_of_another_shape_is_no_poison(entry: list[Any]) -> None:
    """R22 has entries that can't be decoded ignored by all; those of a later version are not such."""
    with pytest.raises(UnsupportedVersionError):
        Machine(State()).apply(1, msgpack.packb(entry))  # type: ignore[arg-type]


def test_a_checkpoint_of_a_later_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older release started on a newer one's directory."""
    with monkeypatch.context() as patch:
        patch.setattr(Machine, "version", 3)
        patch.setattr(versions, "MACHINE_VERSION", 3)
        talk = Conversation()
        talk.say(leader_commands=[RaiseVersion(1, 3, "0.3.0")])
        records = sorted(all_records(talk.state))
        assert restore(records).release == "0.3.0"
    with pytest.raises(UnsupportedVersionError, match=r"start stanchion 0\.3\.0"):
        restore(records)


def test_a_feature_is_active_from_its_version_on() -> None:
    feature = Feature(2, "it is decided in another way")
    assert [feature.active(version) for version in (1, 2, 3)] == [False, True, True]
