"""Entry points of the two commands ``stanchion`` and ``nats-streaming-server``.

Install the signal handlers, then import the rest.
"""

from __future__ import annotations

import gc
import signal
import sys

from node.cli import early_signals

gc.disable()  # the imports create about 100,000 objects and no garbage


def stanchion() -> int:
    """Run ``stanchion`` with the process's arguments; returns the exit status."""
    is_node = sys.argv[1:2] == ["node"]
    statuses: dict[int, int] = {signal.SIGTERM: 0, signal.SIGINT: 0} if is_node else {signal.SIGINT: 130}
    early_signals.install(statuses, remember=is_node)
    from node.cli.main import main

    return main()


def reference() -> int:
    """Run ``nats-streaming-server`` with the process's arguments; returns the exit status."""
    early_signals.install({signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGINT: 0}, remember=True)
    from node.cli.reference import main

    return main()


if __name__ == "__main__":
    sys.exit(stanchion())
