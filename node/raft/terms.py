"""Limits how far ahead of its own term a node accepts a peer's term.

Raft requires a node to adopt any later term. A single frame with the greatest possible number would then end
all elections, because no later term exists, and a restart does not help, because the term is on the disk.
Terms grow by one with each election that a majority has granted (pre-vote), so a term far ahead needs
evidence:

- A term up to `LEAP_MAX` ahead is accepted at once, as in Raft.
- A later term is accepted only if a majority of the voters, each on its own connection, has shown a term that
  is at most `LEAP_MAX` behind it. Hellos and frames show terms. One peer is never a majority of three.

A frame with a term that is not accepted is ignored, and this is logged at most once a minute for each peer.
Its link stays up, because later frames are evidence too.

Terms have 64 bits in journal, store and frames. Releases before this module used 63 bits, so a directory
whose term was raised to 2**63 - 1 by such a frame still has as many terms left.

Source: raft-engine.md, Elections.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from node.raft.frames import Frame, PreVote, PreVoteRequest
from node.raft.ports import Clock

log = logging.getLogger("stanchion.raft")

LEAP_MAX: Final = 1 << 24
"""Number of terms. With an election every 0.3 s it takes 58 days to get this far."""

REPEAT_S: Final = 60.0
"""Interval at which an ignored term of one peer is logged."""


def term_of(frame: Frame) -> int:
    """Return the term that the sender of ``frame`` is in."""
    match frame:
        case PreVoteRequest(term=wanted):
            return wanted - 1
        case PreVote(current=current):
            return current
        case _:
            return frame.term


class TermEvidence:
    """The latest term that each connected peer has shown.

    Args:
        clock: monotonic seconds.
        own: returns this node's term.
        voters: returns the voters in force, including this node if it is one.
        counts: returns whether a peer is such a voter, with the directory that the log names.
        name: this node's name.
    """

    def __init__(
        self,
        *,
        name: str,
        clock: Clock,
        own: Callable[[], int],
        voters: Callable[[], Iterable[str]],
        counts: Callable[[str], bool],
    ) -> None:
        self._name = name
        self._clock = clock
        self._own = own
        self._voters = voters
        self._counts = counts
        self._shown: dict[str, int] = {}
        self._logged_at: dict[str, float] = {}

    def connected(self, peer: str, term: int | None) -> None:
        """Register a connection, and the term in its hello; None if an earlier release sent it."""
        self._shown[peer] = term or 0

    def disconnected(self, peer: str) -> None:
        """Forget a connection and the term shown on it."""
        self._shown.pop(peer, None)

    def accepts(self, peer: str, term: int) -> bool:
        """Record the term of a frame; return whether the frame may be processed."""
        if term > self._shown.get(peer, 0):
            self._shown[peer] = term
        own = self._own()
        if term <= own + LEAP_MAX or term <= self._reached_by_majority(own) + LEAP_MAX:
            return True
        self._log_ignored(peer, term, own)
        return False

    def _reached_by_majority(self, own: int) -> int:
        """Return the greatest term that a majority of the voters has reached, as far as shown."""
        terms = sorted(
            (
                own if name == self._name else self._shown.get(name, 0) if self._counts(name) else 0
                for name in self._voters()
            ),
            reverse=True,
        )
        return terms[len(terms) // 2] if terms else 0

    def _log_ignored(self, peer: str, term: int, own: int) -> None:
        now = self._clock()
        if now - self._logged_at.get(peer, -REPEAT_S) < REPEAT_S:
            return
        self._logged_at[peer] = now
        log.error(
            "%s sent term %d, but this node is in term %d and no majority of the voters is near the former: "
            "its frames are ignored. If this continues, its directory is damaged: stop it, and run "
            "stanchion cluster replace %s %s",
            peer,
            term,
            own,
            peer,
            peer,
        )
