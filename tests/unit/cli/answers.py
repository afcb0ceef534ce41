"""A fake cluster with prepared answers, for the commands that ask one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import pytest

from node.cli import channel, client, config, listing, subscription


class Asked:
    """Records the requests of the command line and returns prepared answers in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.repeatable: list[bool] = []
        self.answers: list[Any] = []
        for module in (channel, client, config, listing, subscription):
            monkeypatch.setattr(module, "administer", self.administer)

    def administer(
        self,
        args: argparse.Namespace,
        verb: str,
        fields: Mapping[str, Any] | None = None,
        *,
        repeats: bool = False,
    ) -> Any:
        self.requests.append((verb, dict(fields or {})))
        self.repeatable.append(repeats)
        return self.answers.pop(0)


def row(**values: Any) -> dict[str, Any]:
    """Return a subscription as a node shows it."""
    return {
        "id": 3,
        "channel": "foo",
        "client": "me",
        "durable": "d",
        "queue": "",
        "online": True,
        "unreachable": False,
        "stalled": False,
        "paused": False,
        "cursor": 7,
        "behind": 2,
        "unacked": 1,
        "max_in_flight": 10,
    } | values
