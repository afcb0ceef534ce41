"""Machine versions: what a release knows, and what an older one must not touch (R24).

New behaviour takes effect through the log, at one place in it, once every member can do it. So an entry
names the version it was made for. A node that doesn't know that version stops *before* it applies the entry:
what it would make of it is not what the others make of it.
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
"""The newest machine version this release knows (rule R24).

Version 1 was released: no decision of it changes any more. Version 2 still grows, until a release writes it.
A command that is added to a version which was released makes the next one.
"""


class Feature(NamedTuple):
    """A decision that ``apply`` takes in another way from one machine version on.

    The code asks ``FEATURE.active(state.version)`` at the place where it decides, and keeps the earlier
    decision for lower versions: nodes of the older release still apply the same entries.
    """

    since: int
    """The first machine version that has it."""
    summary: str
    """What is decided from then on, for people who read a log of an earlier version."""

    def active(self, version: int) -> bool:
        """Return True if the machine version in effect has this feature. Costs one comparison."""
        return version >= self.since


UNSUBSCRIBE_BY_NAME_OFFLINE_ONLY = Feature(
    2, "An unsubscribe by durable name ends an offline durable only; before, also one that is online."
)

CLIENTS_BOUNDED = Feature(2, "No more than CLIENTS_MAX client IDs are registered; before, any number.")

FREES_DROPPED = Feature(
    2, "A stalled member has room when all it was sent has left the log; before, after its AckWait (D24)."
)

LOCATION = Feature(2, "A client's record says where it is connected, as far as leaders acted on it (R15).")

RETRIED_SUBSCRIBE = Feature(
    2,
    "A durable whose answer may be lost, or that nobody hears, is replaced; before, refused as a duplicate.",
)

EVEN_BURSTS = Feature(
    2, "Of a burst a member gets less when it is a second behind the quickest; before, 100 ms (D15)."
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
"""The machine version that brought a command; those not here are of the first.

Below that version nobody proposes it, and ``apply`` takes it for one it doesn't know: a node of an older
release, which really doesn't, must decide alike (R24).
"""


class UnsupportedVersionError(NodeError):
    """An entry, or a checkpoint, needs a machine version that this release doesn't know."""


def check_version(needed: int, release: str, known: int | None = None) -> None:
    """Is ``needed`` a version that this release knows?

    Args:
        needed: what an entry or a checkpoint was made for.
        release: the release that brought it into effect; empty if that isn't known here.
        known: the newest that is known; None: what this release knows.

    Raises:
        UnsupportedVersionError: no; it says what to start instead.
    """
    known = MACHINE_VERSION if known is None else known
    if needed > known:
        newer = f"stanchion {release} or a newer release" if release else "a newer release"
        raise UnsupportedVersionError(
            f"the log needs machine version {needed}, this release knows up to {known}: start {newer}. "
            "Nothing was applied of it, and nothing is lost"
        )


def claimed_version(data: bytes) -> int:
    """The version that an entry names which can't be decoded otherwise; 0 if not even that."""
    try:
        fields: Any = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, msgpack.UnpackException):
        return 0
    return fields[0] if isinstance(fields, list) and fields and type(fields[0]) is int else 0


def too_new(command: Command | type[Command], version: int) -> bool:
    """While ``version`` is in effect, nobody proposes this, and who applies it doesn't know it."""
    kind = command if isinstance(command, type) else type(command)
    return SINCE.get(kind, 1) > version
