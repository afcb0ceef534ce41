"""R23: when the settings of a node's file are proposed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from node.config.model import Config, Limits
from node.config.replicated import settings
from node.core.commands import Configure
from node.core.effects import OK, Outcome, Refused
from node.core.settings import Settings
from node.core.state import State
from node.server.settings_sync import SettingsSync

MINE = Config(limits=Limits(max_msgs=7))


class Origin:
    def __init__(self, outcome: Outcome = OK) -> None:
        self.proposed: list[tuple[int, bool]] = []
        self._outcome = outcome

    def submit(self, command: Configure, answer: Callable[[Outcome], None]) -> None:
        self.proposed.append((command.settings["max_msgs"], command.only_if_unset))
        answer(self._outcome)

    def flush(self) -> None:
        pass


def settings_sync(origin: Origin, agreed: Config | None, **options: Any) -> SettingsSync:
    state = State()
    if agreed is not None:
        state.settings = Settings.of(settings(agreed))
    return SettingsSync(lambda: state, lambda: MINE, origin, **{"proposes": False, **options})


def test_a_cluster_without_settings_gets_those_of_the_file() -> None:
    origin = Origin()
    settings_sync(origin, None).begin()
    assert origin.proposed == [(7, True)]


def test_a_file_that_differs_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    origin = Origin()
    here = settings_sync(origin, Config(limits=Limits(max_msgs=8)))
    here.begin()
    assert here.different() == ["max_msgs"]
    assert not origin.proposed
    assert "differs from the cluster's settings, which stay in force: max_msgs" in caplog.text


def test_a_file_with_the_same_settings_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    origin = Origin()
    settings_sync(origin, MINE, proposes=True).begin()
    assert not origin.proposed
    assert not caplog.records


def test_a_node_that_proposes_does_so_at_its_start() -> None:
    origin = Origin()
    settings_sync(origin, Config(), proposes=True).begin()
    assert origin.proposed == [(7, False)]


def test_a_refusal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    settings_sync(Origin(Refused("no sense")), MINE).propose(only_if_unset=False)
    assert "refused this node's settings: no sense" in caplog.text
