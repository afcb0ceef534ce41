"""What a node's file says beside what the cluster has agreed on (R23).

Limits, graces and heartbeat settings are replicated. A file is only ever a proposal: of the first node that
comes to a cluster without any, or when an operator tells a node to read its file again. Else a file that says
otherwise is a warning, for two nodes whose files differ must not take turns in changing everything.
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
    """Where commands of this node go."""

    def submit(self, command: Configure, answer: Callable[[Outcome], None]) -> Any: ...
    def flush(self) -> None: ...


class Agreement:
    """This node's word on the cluster's settings.

    Args:
        state: what the cluster has agreed on.
        config: what the file says, as it was read last.
        origin: takes a proposal.
        proposes: this node's file is right whatever was agreed: it says so at its start.
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
        """A proposal was refused because there was no leader; see `repeat`."""

    def begin(self) -> None:
        """This node has caught up: propose its settings if there are none yet; say so if they differ."""
        if not self._state().settings.set:
            self.propose(only_if_unset=True)
            return
        different = self.different()
        if different and self._proposes:
            self.propose(only_if_unset=False)
        elif different:
            log.warning(
                "this node's file says otherwise than the cluster has agreed on: %s", ", ".join(different)
            )

    def different(self) -> list[str]:
        """The settings in which this node's configuration differs from what the cluster goes by."""
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
                log.error("the cluster refused this node's limits: %s", outcome.text)

        self._origin.submit(Configure(settings(self._config()), only_if_unset), answer)
        self._origin.flush()

    def repeat(self) -> None:
        """There is a leader again: propose what was refused for lack of one."""
        self.waits = False
        self.propose(only_if_unset=self._only_if_unset)
