"""Compares a node's configuration file with the settings of the cluster (R23).

Limits, grace periods and heartbeat settings are replicated. A file is only a proposal. It is proposed if the
cluster has no settings yet, or when an operator requests a reload. Otherwise a difference is only a warning:
two nodes whose files differ must not take turns in changing everything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from node.config.model import Config
from node.config.replicated import settings
from node.core import refusals
from node.core.commands import Configure
from node.core.effects import Outcome, Refused
from node.core.state import State

log = logging.getLogger("stanchion.node")


class Origin(Protocol):
    """The part of the origin that is needed here."""

    def submit(self, command: Configure, answer: Callable[[Outcome], None]) -> Any: ...
    def flush(self) -> None: ...


class SettingsSync:
    """Proposes this node's settings to the cluster, and reports differences.

    Args:
        state: the replicated state with the cluster's settings.
        config: the configuration as it was last read.
        origin: submits a proposal.
        proposes: propose this node's settings at its start, even if the cluster has others.
    """

    def __init__(
        self, state: Callable[[], State], config: Callable[[], Config], origin: Origin, *, proposes: bool
    ) -> None:
        self._state = state
        self._config = config
        self._origin = origin
        self._proposes = proposes
        self._only_if_unset = True
        self.waits = False
        """True if a proposal was refused because there was no leader; see `repeat`."""

    def begin(self) -> None:
        """Propose this node's settings if the cluster has none yet; else log differences.

        Called when this node has caught up.
        """
        if not self._state().settings.set:
            self.propose(only_if_unset=True)
            return
        different = self.different()
        if different and self._proposes:
            self.propose(only_if_unset=False)
        elif different:
            log.warning(
                "this node's file differs from the cluster's settings, which stay in force: %s "
                "(change the file, or apply it: stanchion config apply FILE)",
                ", ".join(different),
            )

    def different(self) -> list[str]:
        """Return the settings in which this node's configuration differs from the cluster's."""
        agreed = self._state().settings.values()
        return sorted(key for key, value in settings(self._config()).items() if agreed.get(key) != value)

    def propose(self, *, only_if_unset: bool) -> None:
        """Propose this node's settings to the cluster."""

        def answer(outcome: Outcome) -> None:
            if not isinstance(outcome, Refused):
                return
            if outcome.text == refusals.NO_LEADER:
                self.waits, self._only_if_unset = True, only_if_unset
            else:
                log.error("the cluster refused this node's settings: %s", outcome.text)

        self._origin.submit(Configure(settings(self._config()), only_if_unset), answer)
        self._origin.flush()

    def repeat(self) -> None:
        """Repeat a proposal that was refused because there was no leader."""
        self.waits = False
        self.propose(only_if_unset=self._only_if_unset)
