"""Decides when a node may campaign and when a leader must step down: timer, pre-vote, stickiness, quorum.

The library campaigns whenever its deadline has passed (PS-26, PS-27). A node that was cut off from the
network then returns with a higher term and deposes a healthy leader. Here the engine owns the timer, and an
expired timer starts a *pre-vote*: the node asks whether a majority would vote for it. Only if a majority
grants it, and only for one tick, is the library authorised to campaign. A node that has recent contact with a
leader denies pre-votes and ignores vote requests (*stickiness*), unless the leader itself asked for the
election. A leader without acks of a majority for the longest election timeout steps down (*check-quorum*), so
that clients do not wait for a node that can commit nothing. Votes and acks are counted by the membership in
force, without learners.

A node that lost its connection to the leader does not wait for its timer: it asks for pre-votes early, and
the other voters answer by their own contact with the leader. So a killed leader is replaced after a few
heartbeats, while a single broken connection deposes no leader.

Source: Ongaro, *Consensus: Bridging Theory and Practice*, §4.2.3, §6.2, §9.6.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

from node.raft.ports import Clock, Timing

ATTEMPT_BEATS = 6
"""A node without a known leader asks again after this many heartbeats: time for two rounds of votes."""


class Election:
    """The election timer and the vote counts of one node. The library changes the role."""

    def __init__(self, *, timing: Timing, clock: Clock, rng: random.Random, peers: Sequence[str]) -> None:
        self._timing = timing
        self._clock = clock
        self._rng = rng
        self.deadline = 0.0
        """When this node asks for pre-votes if no leader contacts it before."""
        self.authorised = False
        """True if the library may campaign in this tick."""
        self.transfer = False
        """True if the leader asked for the campaign (`TimeoutNow`)."""
        self._leader_contact_at = self._asked_at = -math.inf
        self._attempts = 0  # rounds of pre-votes since the last contact with a leader, or since it was lost
        self._pre_vote: tuple[int, set[str]] | None = None
        self._granted: set[str] = set()
        self._contacts: dict[str, float] = {}
        self._others: frozenset[str] = frozenset()
        self._counts = True
        self.set_voters(peers, counts=True)
        self.rearm()

    # --- voters ---------------------------------------------------------------------------------

    def set_voters(self, others: Iterable[str], *, counts: bool) -> None:
        """Use another membership. The contact time of a new voter is now; the others keep theirs.

        Args:
            others: the voters without this node.
            counts: True if this node is a voter.
        """
        self._others, self._counts = frozenset(others), counts
        self._pre_vote = None  # the answers came from other voters
        now = self._clock()
        for peer in sorted(self._others):
            self._contacts.setdefault(peer, now)

    @property
    def _majority(self) -> int:
        return (len(self._others) + self._counts) // 2 + 1

    # --- the timer ------------------------------------------------------------------------------

    def rearm(self) -> None:
        """Restart the timer with a random timeout, and revoke the authority to campaign.

        For a node without a known leader (it has just started, or lost the connection) the timeout begins
        with ``ATTEMPT_BEATS`` heartbeats and doubles with each attempt, up to the configured values. A node
        without other voters may lead at once.
        """
        low, high = self._timing.election_min_s, self._timing.election_max_s
        if self._leader_contact_at == -math.inf:
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
        """End the authority to campaign, at the end of the tick."""
        self.authorised = self.transfer = False

    # --- contact with the leader -------------------------------------------------------------------

    def leader_contacted(self) -> None:
        self._leader_contact_at = self._clock()
        self._attempts = 0
        self._pre_vote = None

    def has_leader_contact(self) -> bool:
        """Return whether a leader has contacted this node within the shortest election timeout."""
        return self._clock() - self._leader_contact_at < self._timing.election_min_s

    def lost_leader(self) -> None:
        """Ask for pre-votes after one or two heartbeats, unless the connection to the leader comes back
        before.
        """
        self._leader_contact_at = -math.inf
        self._attempts = 0
        soon = self._clock() + self._timing.heartbeat_s * (1 + self._rng.random())
        self.deadline = min(self.deadline, soon)

    def yield_to_candidate(self) -> None:
        """Let a peer that was granted a pre-vote campaign first: postpone this node's own attempt by two
        heartbeats.

        The delay is short because that peer may ask again and again without receiving the answers, and must
        not keep the other voters from asking.
        """
        self._pre_vote = None
        self.deadline = max(self.deadline, self._clock() + 2 * self._timing.heartbeat_s)

    # --- votes ------------------------------------------------------------------------------------

    def ask(self, term: int) -> None:
        """Begin a round of pre-votes for ``term``."""
        self._pre_vote = (term, set())
        self._attempts += 1
        self._asked_at = self._clock()

    def asks(self, term: int) -> bool:
        """Return whether this node has itself asked for pre-votes for ``term`` within the last heartbeat.

        If two nodes that ask at the same moment granted each other a pre-vote, both would campaign and
        neither would win. The limit is one heartbeat because the answers may never arrive.
        """
        just_now = self._clock() - self._asked_at < self._timing.heartbeat_s
        return just_now and self._pre_vote is not None and self._pre_vote[0] == term

    def pre_voted(self, peer: str, term: int) -> bool:
        """Count a granted pre-vote of a voter; returns True when it completes a majority."""
        if (
            peer not in self._others
            or self._pre_vote is None
            or self._pre_vote[0] != term
            or self.has_leader_contact()
        ):
            return False
        granted = self._pre_vote[1]
        granted.add(peer)
        return len(granted) + self._counts >= self._majority

    def campaigning(self) -> None:
        """Reset the vote count at the start of a campaign."""
        self._granted.clear()

    def voted(self, peer: str) -> bool:
        """Count a vote of this term; returns False if it does not count or was counted before (PS-11)."""
        if peer not in self._others or peer in self._granted:
            return False
        self._granted.add(peer)
        return True

    # --- check-quorum -----------------------------------------------------------------------------

    def leading(self) -> None:
        """Set the contact time of every voter to now, at the start of a leadership."""
        self._pre_vote = None
        now = self._clock()
        self._contacts = dict.fromkeys((*self._contacts, *sorted(self._others)), now)

    def contact(self, peer: str) -> None:
        self._contacts[peer] = self._clock()

    def contact_age(self, peer: str) -> float:
        """Return the seconds since ``peer`` acknowledged something; infinity if it never did."""
        return self._clock() - self._contacts.get(peer, -math.inf)

    def forget(self, peer: str) -> None:
        """Forget a peer that is no longer a member."""
        self._contacts.pop(peer, None)

    def majority_age_s(self) -> float:
        """Return the time in seconds within which a majority of the voters, including this node if it votes,
        has acknowledged.
        """
        needed = self._majority - self._counts
        ages = sorted(self.contact_age(peer) for peer in self._others)
        return 0.0 if needed <= 0 else ages[needed - 1]

    def has_quorum(self) -> bool:
        """Return whether a majority of the voters, including this node if it votes, has acknowledged
        recently.
        """
        oldest = self._clock() - self._timing.election_max_s
        recent = sum(self._contacts[peer] > oldest for peer in self._others)
        return recent + self._counts >= self._majority

    def ignore_pause(self, gap_s: float) -> None:
        """Ignore the time for which this node itself was paused: move all contact times forward by
        ``gap_s``.
        """
        now = self._clock()
        for peer, at in self._contacts.items():
            self._contacts[peer] = min(now, at + gap_s)
