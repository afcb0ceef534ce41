"""Profiles of runs: which faults happen, how often, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from node.simulator.network import ROUGH, WILD, Weather
from node.simulator.schedule import LINKS, rates

WARM_UP_S = 3.0
"""Time before the first fault."""

LEADER_WITHIN_S = 5.0
"""Within this time after the faults have ended there must be a leader."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The settings of a kind of run."""

    name: str
    rates: Mapping[str, float] = field(default_factory=dict)
    """Acts per second of virtual time, by kind (`node.simulator.schedule`)."""
    weather: Weather = ROUGH
    """The weather in a storm."""
    files: bool = False
    """The nodes use the real store, in files in memory."""
    spares: int = 0
    """Number of machines that do not belong to the cluster at the start."""
    seconds: float = 20.0
    """Virtual seconds of a run, warm-up and recovery included. A run takes longer if recovery does."""

    @property
    def faults_s(self) -> float:
        """The seconds of a run in which acts happen."""
        return max(0.0, self.seconds - WARM_UP_S - LEADER_WITHIN_S)

    @property
    def power(self) -> bool:
        """Whether machines may lose their power."""
        return bool(self.rates.get("power"))

    @property
    def cuts_links(self) -> bool:
        return any(self.rates.get(kind) for kind in LINKS)


_NONE: Mapping[str, float] = {}
_NODES = {"crash": 2, "majority": 0.5, "all": 0.5, "pause": 1, "leave": 1, "hand_over": 1}
_LINKS = {"cut": 2, "partition": 1.5, "isolate": 0.5}
_CLIENTS = {"drop": 1, "stall": 1, "close": 1, "unsubscribe": 1, "die": 0.3}
_DISKS = {"slow_disk": 1, "slow_disks": 1, "sync_error": 1, "write_error": 0.5, "full_disk": 1}

PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quiet", seconds=14.0),
        Profile("kills", rates(1.0, **_NODES, **_CLIENTS)),
        Profile("partitions", rates(1.4, **_NODES, **_LINKS)),
        Profile("storms", rates(1.4, **_NODES, **_LINKS, storm=4)),
        Profile(
            "elections",
            rates(2.5, isolate=2, pause=2, crash=2, hand_over=1, leave=0.5, storm=2),
            weather=WILD,
        ),
        Profile(
            "members", rates(1.6, add=3, remove=2, replace=2, power=1, **_NODES, **_LINKS), spares=2
        ),
        Profile(
            "recovery",
            rates(1.2, lost_for_good=4, crash=2, power=1, pause=1, cut=1, close=1, unsubscribe=1, drop=1),
            spares=2,
            seconds=24.0,
        ),
        Profile("clients", rates(3.3, **_CLIENTS)),
        Profile("disks", rates(1.4, crash=1, power=2, blackout=1, rot=0.5, rotten_store=0.5, **_DISKS)),
        Profile(
            "snapshots", rates(0.8, mid_snapshot=6, crash=1, power=1, hand_over=0.5, cut=0.5, full_disk=0.5)
        ),
        Profile(
            "lmdb",
            rates(1.4, crash=2, power=3, blackout=0.5, mid_snapshot=4, full_disk=0.5, rotten_store=0.3),
            files=True,
        ),
        Profile(
            "brutal",
            rates(
                2.0, power=1, blackout=0.3, storm=0.3, rot=0.1, rotten_store=0.1, set_clock=1,
                **_NODES, **_LINKS, **_DISKS, **_CLIENTS,
            ),
        ),
    )
}  # fmt: skip
"""The profiles by name. ``clients`` has no faults of nodes, ``quiet`` none at all."""


def changed(profile: Profile, seconds: float | None = None, rates: Mapping[str, float] = _NONE) -> Profile:
    """Return the profile with another length or with other rates of some acts."""
    return replace(
        profile,
        seconds=profile.seconds if seconds is None else seconds,
        rates={**profile.rates, **rates},
    )
