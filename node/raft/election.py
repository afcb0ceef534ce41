"""When a node may campaign, and when a leader must stop: timer, pre-vote, stickiness, quorum.

The library campaigns whenever its deadline has passed (PS-26, PS-27): a node that was cut off comes back
with a higher term and deposes a leader that everybody else hears. Here the timer is ours, and what
it starts is a *pre-vote*: would a majority vote for me? Only with their yes, and only for that one
tick, is the library authorised to campaign. A node that hears a leader says no to pre-votes, and
ignores vote requests (*stickiness*) unless the leader itself asked for the election. A leader that
has no acks of a majority for the longest election timeout steps down (*check-quorum*), so that its
clients don't wait for a node that can commit nothing. Who is counted is the membership in force;
learners are not.

Who merely lost its connection to the leader need not wait out the timer: it asks early, and the
others answer by what they see themselves. So a killed leader is replaced after a few heartbeats,
while one bad cable deposes nobody.

Source: Ongaro, *Consensus: Bridging Theory and Practice*, §4.2.3, §6.2, §9.6.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

from node.raft.ports import Clock, Timing

ATTEMPT_BEATS = 6
"""A node that knows of no leader asks again after so many heartbeats: time for two rounds of votes."""


class Election:
    """The times and votes of one node. It decides; who changes roles is the library."""

    def __init__(self, *, timing: Timing, clock: Clock, rng: random.Random, peers: Sequence[str]) -> None:
        self._timing = timing
        self._clock = clock
        self._rng = rng
        self.deadline = 0.0
        """When this node, hearing nobody, asks for pre-votes."""
        self.authorised = False
        """The library may campaign in this tick."""
        self.transfer = False
        """The campaign was asked for by the leader."""
        self._heard_at = self._asked_at = -math.inf
        self._attempts = 0  # rounds of pre-votes since a leader was heard or lost
        self._pre_vote: tuple[int, set[str]] | None = None
        self._granted: set[str] = set()
        self._contacts: dict[str, float] = {}
        self._others: frozenset[str] = frozenset()
        self._counts = True
        self.set_voters(peers, counts=True)
        self.rearm()

    # --- the electorate -------------------------------------------------------------------------

    def set_voters(self, others: Iterable[str], *, counts: bool) -> None:
        """Go by another membership. Whoever is new counts as heard now, whoever isn't as before.

        Args:
            others: the voters but for this node.
            counts: this node is a voter.
        """
        self._others, self._counts = frozenset(others), counts
        self._pre_vote = None  # those who answered were of another electorate
        now = self._clock()
        for peer in sorted(self._others):
            self._contacts.setdefault(peer, now)

    @property
    def _majority(self) -> int:
        return (len(self._others) + self._counts) // 2 + 1

    # --- the timer ------------------------------------------------------------------------------

    def rearm(self) -> None:
        """Start the timer again at a random timeout, and take back any authority.

        A node that knows of no leader (it has just started, or lost the connection) waits for nobody in
        particular: its timeout begins with ``ATTEMPT_BEATS`` heartbeats and doubles with each attempt, up to
        the configured ones. Who is alone has nobody to hear, and may lead at once.
        """
        low, high = self._timing.election_min_s, self._timing.election_max_s
        if self._heard_at == -math.inf:
            part = min(1.0, ATTEMPT_BEATS * self._timing.heartbeat_s * 2.0 ** min(self._attempts, 16) / low)
            low, high = low * part, high * part
        timeout_s = low + (high - low) * self._rng.random()
        self.deadline = self._clock() + (timeout_s if self._others else 0.0)
        self.authorised = False

    def expired(self) -> bool:
        return self._clock() >= self.deadline

    def authorise(self, *, transfer: bool) -> None:
        self._pre_vote = None
        self.authorised = True
        self.transfer = transfer

    def revoke(self) -> None:
        """The tick is over; authority that wasn't used is gone."""
        self.authorised = self.transfer = False

    # --- the leader, as a follower knows it --------------------------------------------------------

    def leader_contacted(self) -> None:
        self._heard_at = self._clock()
        self._attempts = 0
        self._pre_vote = None

    def hears_leader(self) -> bool:
        """Whether a leader was heard so recently that no other is wanted."""
        return self._clock() - self._heard_at < self._timing.election_min_s

    def lost_leader(self) -> None:
        """The connection to the leader broke: unless it comes back within a few heartbeats, ask."""
        self._heard_at = -math.inf
        self._attempts = 0
        soon = self._clock() + self._timing.heartbeat_s * (1 + self._rng.random())
        self.deadline = min(self.deadline, soon)

    def give_way(self) -> None:
        """Another was promised a vote: let its campaign go first, if only for a moment.

        No longer, for who asks again and again without hearing the answers must not keep the
        others from asking.
        """
        self._pre_vote = None
        self.deadline = max(self.deadline, self._clock() + 2 * self._timing.heartbeat_s)

    # --- votes ------------------------------------------------------------------------------------

    def ask(self, term: int) -> None:
        """Open a round of pre-votes for ``term``."""
        self._pre_vote = (term, set())
        self._attempts += 1
        self._asked_at = self._clock()

    def asks(self, term: int) -> bool:
        """Whether this node has just asked for pre-votes for ``term`` itself.

        Two who ask at the same moment must not both be encouraged: they would both campaign, and
        nobody would win. Only for a heartbeat's time, for the answers may never come.
        """
        just_now = self._clock() - self._asked_at < self._timing.heartbeat_s
        return just_now and self._pre_vote is not None and self._pre_vote[0] == term

    def pre_voted(self, peer: str, term: int) -> bool:
        """Count a voter's granted pre-vote; True when it makes the majority."""
        if (
            peer not in self._others
            or self._pre_vote is None
            or self._pre_vote[0] != term
            or self.hears_leader()
        ):
            return False
        granted = self._pre_vote[1]
        granted.add(peer)
        return len(granted) + self._counts >= self._majority

    def campaigning(self) -> None:
        """A campaign begins: nobody has voted yet."""
        self._granted.clear()

    def voted(self, peer: str) -> bool:
        """Count a vote of this term; False if it doesn't count, or was counted before (PS-11)."""
        if peer not in self._others or peer in self._granted:
            return False
        self._granted.add(peer)
        return True

    # --- check-quorum -----------------------------------------------------------------------------

    def leading(self) -> None:
        """Leadership begins: every voter counts as heard now."""
        self._pre_vote = None
        now = self._clock()
        self._contacts = dict.fromkeys((*self._contacts, *sorted(self._others)), now)

    def contact(self, peer: str) -> None:
        self._contacts[peer] = self._clock()

    def contact_age(self, peer: str) -> float:
        """Seconds since ``peer`` acknowledged something; infinity if it never did."""
        return self._clock() - self._contacts.get(peer, -math.inf)

    def forget(self, peer: str) -> None:
        """It is no member any more."""
        self._contacts.pop(peer, None)

    def majority_age_s(self) -> float:
        """Seconds since a majority of the voters, perhaps with this node, had all acknowledged something."""
        needed = self._majority - self._counts
        ages = sorted(self.contact_age(peer) for peer in self._others)
        return 0.0 if needed <= 0 else ages[needed - 1]

    def has_quorum(self) -> bool:
        """Whether a majority of the voters, perhaps with this node, acknowledged something recently."""
        oldest = self._clock() - self._timing.election_max_s
        recent = sum(self._contacts[peer] > oldest for peer in self._others)
        return recent + self._counts >= self._majority

    def forgive(self, gap_s: float) -> None:
        """This node itself stood still for that long: it doesn't count against anybody."""
        now = self._clock()
        for peer, at in self._contacts.items():
            self._contacts[peer] = min(now, at + gap_s)
