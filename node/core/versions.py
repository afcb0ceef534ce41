"""Machine versions: which entries a release can apply (R24).

New behaviour takes effect through the log, at one position in it, once every member supports it. So an entry
names the version it was made for. A node that does not support that version stops *before* it applies the
entry, because its result would differ from that of the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from node.errors import NodeError

from .commands import (
    ClientReachable,
    ClientUnreachable,
    Command,
    HeartbeatMissed,
    PauseRedelivery,
    SubscriptionReachable,
    SubscriptionReplace,
    SubscriptionUnreachable,
)

MACHINE_VERSION = 2
"""The newest machine version that this release supports (rule R24).

Version 1 was released: none of its decisions may change. Version 2 may still change until a release with it
is published. After that, a new command makes the next version.
"""


class Feature(NamedTuple):
    """A decision of ``apply`` that changes with a machine version.

    The code calls ``FEATURE.active(state.version)`` at the place of the decision, and keeps the earlier
    decision for lower versions: nodes of the older release still apply the same entries.
    """

    since: int
    """The first machine version with the feature."""
    summary: str
    """The new decision, for readers of a log of an earlier version."""

    def active(self, version: int) -> bool:
        """Return True if the machine version in effect has this feature. Costs one comparison."""
        return version >= self.since


UNSUBSCRIBE_BY_NAME_OFFLINE_ONLY = Feature(
    2, "An unsubscribe by durable name ends an offline durable only; before, also one that is online."
)

CLIENTS_BOUNDED = Feature(2, "At most CLIENTS_MAX client IDs are registered; before, any number.")

FREES_DROPPED = Feature(
    2, "A stalled member has capacity when the log has dropped all it holds; before, after AckWait (D24)."
)

LOCATION = Feature(2, "A client's record has its connection, as far as leaders acted on it (R15).")

RETRIED_SUBSCRIBE = Feature(
    2,
    "A durable that is unreachable, or whose reply may be lost, is replaced; before, refused as a duplicate.",
)

EVEN_BURSTS = Feature(
    2, "A member gets less of a burst if it is a second behind the quickest; before, 100 ms (D15)."
)

SINCE: dict[type[Command], int] = {
    ClientUnreachable: 2,
    ClientReachable: 2,
    SubscriptionUnreachable: 2,
    SubscriptionReachable: 2,
    PauseRedelivery: 2,
    HeartbeatMissed: 2,
    SubscriptionReplace: 2,
}
"""The first machine version of a command; 1 if it is not listed.

Below that version no node proposes the command, and ``apply`` treats it as unknown, because a node of an
older release does not know it and the results must be equal (R24).
"""


class UnsupportedVersionError(NodeError):
    """An entry or a checkpoint needs a machine version that this release does not support."""


def check_version(needed: int, release: str, known: int | None = None) -> None:
    """Check that this release supports machine version ``needed``.

    Args:
        needed: the version of an entry or a checkpoint.
        release: the release that raised the cluster to it; empty if not available.
        known: the newest supported version; None: that of this release.

    Raises:
        UnsupportedVersionError: it is not supported; the text names the release to start.
    """
    known = MACHINE_VERSION if known is None else known
    if needed > known:
        newer = f"stanchion {release} or a newer release" if release else "a newer release"
        raise UnsupportedVersionError(
            f"the log needs machine version {needed}, this release supports up to {known}: start {newer}. "
            "Nothing of it was applied, and no data is lost"
        )


def claimed_version(data: bytes) -> int:
    """Return the version that an undecodable entry names; 0 if that is undecodable too."""
    try:
        fields: Any = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, msgpack.UnpackException):
        return 0
    return fields[0] if isinstance(fields, list) and fields and type(fields[0]) is int else 0


def too_new(command: Command | type[Command], version: int) -> bool:
    """Return True if the command needs a later machine version than ``version``."""
    kind = command if isinstance(command, type) else type(command)
    return SINCE.get(kind, 1) > version
