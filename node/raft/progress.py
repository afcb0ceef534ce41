"""Replication of a leader's log to its peers: one `Progress` per peer, as in etcd-io/raft.

The library sends each peer the rest of the log every period, resends entries in flight after each partial ack
(PS-36), has no window (PS-38), and follows every refusal, also the outdated ones of a burst. One divergent
entry and a lag of more than a batch then keep a follower from ever catching up (PS-21). This module replaces
its sending. A peer is in one of four states:

``probe``
    The entry up to which its log agrees with the leader's is unknown: one frame is in flight, and its answer
    decides.
``replicate``
    It is known: frames are sent without waiting, up to a window of bytes; a new commit index is sent at once.
``snapshot``
    The log no longer holds what it needs: it only receives heartbeats.
``lost``
    It repeatedly refuses entries that it acknowledged in this term: its disk lost data. It is probed once per
    heartbeat, and what it acknowledged still counts, because an ack can't be withdrawn.

A learner is sent the same as a voter but is not counted. A removed member still receives the log until it has
learned of its removal, or for ``FAREWELL_S``.

An ack never moves ``next`` back (PS-1). A refusal is accepted only if it refuses the present probe. The
library, not this module, decides what is committed, from ``match``.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from node.raft.frames import Alive, Append
from node.raft.ports import Clock, Entry, JournalView, Limits, Message

FAREWELL_S = 5.0
"""Seconds for which a removed member receives the log after its removal was committed, if it can't be reached
sooner."""

CAUGHT_UP_ENTRIES = 16
"""A learner that lacks at most this many entries is caught up: about 1 MiB at most."""

_DOUBTS = 3
"""After this many consecutive refusals of acknowledged entries, the peer has lost them."""


class ProgressState(enum.StrEnum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"
    LOST = "lost"


class Progress:
    """The leader's view of one peer, and the frames in flight to it."""

    __slots__ = (
        "_doubts",
        "_inflight",
        "asked",
        "commit_sent",
        "connected",
        "counts",
        "directory",
        "inflight_bytes",
        "leaves_at",
        "leaving",
        "match",
        "name",
        "next",
        "reminded_at",
        "state",
        "voter",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.connected = False
        self.voter = True
        """True if it is a voter in the membership in force."""
        self.directory = ""
        """The directory id of that voter."""
        self.counts = True
        """True if it is connected as that voter: not a learner, and not another copy of the log under the
        voter's name."""
        self.leaving: int | None = None
        """Index of the entry that removed it; None for a member."""
        self.leaves_at: float | None = None
        """When it stops receiving the log; None until its removal is committed."""
        self.match = 0
        self.next = 1
        self.reminded_at = 0.0
        """When the listener was last asked for a snapshot."""
        self._doubts = 0
        self.probe(1)

    def probe(self, next_index: int) -> None:
        """Probe from ``next_index``: whether the peer's log agrees there is unknown."""
        self.state = ProgressState.PROBE
        self.next = next_index
        self.asked: int | None = None
        """In ``probe``: the ``prev`` of the frame whose answer is awaited."""
        self.commit_sent = 0
        self._inflight: deque[tuple[int, int]] = deque()
        self.inflight_bytes = 0

    @property
    def place(self) -> int:
        """The entry that the next frame follows; while a probe is in flight, its ``prev``."""
        return self.next - 1 if self.asked is None else self.asked

    def sent(self, last: int, size_bytes: int) -> None:
        """Register that entries up to ``last`` were sent."""
        if self.state is not ProgressState.REPLICATE:
            self.asked = self.next - 1
        self.next = last + 1
        self._inflight.append((last, size_bytes))
        self.inflight_bytes += size_bytes

    def may_send(self, last: int, window_bytes: int) -> bool:
        """Return whether another frame of entries may be sent; ``last`` is the end of the leader's log."""
        if self.state is ProgressState.REPLICATE:
            return self.next <= last and self.inflight_bytes < window_bytes
        return self.next <= last and self.asked is None

    def acked(self, match: int) -> bool:
        """Handle an ack: the peer's log equals the leader's up to ``match``. Returns True if ``match``
        advanced.
        """
        while self._inflight and self._inflight[0][0] <= match:
            self.inflight_bytes -= self._inflight.popleft()[1]
        self._doubts = 0
        advanced = match > self.match
        self.match = max(self.match, match)
        if self.state is ProgressState.REPLICATE:
            self.next = max(self.next, self.match + 1)
        elif self.state is ProgressState.SNAPSHOT or self.asked is None or match >= self.asked:
            self.probe(self.match + 1)
            self.state = ProgressState.REPLICATE
        return advanced

    def refused(self, refused: int, hint: int, last: int) -> bool:
        """Handle a refusal of entries after ``refused``. Returns True if the peer lost entries that it
        acknowledged.
        """
        probing = self.state in {ProgressState.PROBE, ProgressState.LOST}
        if (
            self.state is ProgressState.SNAPSHOT
            or refused < self.match
            or (probing and refused != self.asked)
        ):
            return False  # the answer to an outdated frame, or one of a burst of which another was accepted
        self.probe(max(self.match + 1, min(hint, refused, last + 1)))
        if hint > self.match or not probing or refused > self.match:
            return False
        self.asked = self.match  # it would refuse again: wait for the heartbeat
        self._doubts += 1
        if self._doubts >= _DOUBTS:
            self.state = ProgressState.LOST
        return self._doubts == _DOUBTS


class Replicator:
    """Sends the leader's log to its peers. Idle (`stop`) on every other node."""

    def __init__(
        self,
        *,
        peers: Sequence[str],
        journal: JournalView,
        clock: Clock,
        limits: Limits,
        remind_s: float,
        send: Callable[[str, Message], None],
        heartbeat_payload: Callable[[], object],
        needs_snapshot: Callable[[str], None],
    ) -> None:
        self.progress_by_peer: dict[str, Progress] = {}
        self._some_leave = False
        self._linked: dict[str, str | None] = {}
        self._journal = journal
        self._clock = clock
        self._limits = limits
        self._remind_s = remind_s
        self._send = send
        self._heartbeat_payload = heartbeat_payload
        self._needs_snapshot = needs_snapshot
        self._term = 0
        self._leading = False
        self.set_members(peers, dict.fromkeys(peers, ""), since=0)

    # --- members ------------------------------------------------------------------------------------

    def set_members(self, peers: Sequence[str], voters: Mapping[str, str], *, since: int) -> None:
        """Use another membership.

        Args:
            peers: the members without this node.
            voters: the voters among them, with the directory of each.
            since: the index of its entry.
        """
        for name in peers:
            if name not in self.progress_by_peer:
                peer_progress = self.progress_by_peer[name] = Progress(name)
                peer_progress.connected = name in self._linked
                peer_progress.reminded_at = self._clock() - self._remind_s
                peer_progress.probe(self._journal.last_index + 1)
        for name, peer_progress in self.progress_by_peer.items():
            peer_progress.voter, peer_progress.directory = name in voters, voters.get(name, "")
            peer_progress.counts = self._is_counted(peer_progress)
            if name in peers:
                peer_progress.leaving = peer_progress.leaves_at = None
            elif peer_progress.leaving is None:
                peer_progress.leaving = since
        self._some_leave = any(
            peer_progress.leaving is not None for peer_progress in self.progress_by_peer.values()
        )

    def _is_counted(self, peer_progress: Progress) -> bool:
        return peer_progress.voter and self._linked.get(peer_progress.name) in {None, peer_progress.directory}

    def gone(self, commit: int) -> list[str]:
        """Remove the removed members that need no more frames; return their names."""
        if not self._some_leave:
            return []
        gone = [
            peer_progress.name
            for peer_progress in self.progress_by_peer.values()
            if self._is_gone(peer_progress, commit)
        ]
        for name in gone:
            del self.progress_by_peer[name]
        return gone

    def _is_gone(self, peer_progress: Progress, commit: int) -> bool:
        if peer_progress.leaving is None or commit < peer_progress.leaving:
            return False
        if peer_progress.leaves_at is None:
            peer_progress.leaves_at = self._clock() + FAREWELL_S
        is_informed = (
            self._leading
            and peer_progress.commit_sent >= peer_progress.leaving
            and not peer_progress.connected
        )
        return is_informed or self._clock() >= peer_progress.leaves_at

    def is_linked(self, peer: str) -> bool:
        """Return whether there is a connection to ``peer``, a member or not."""
        return peer in self._linked

    def caught_up(self, peer: str) -> bool:
        """Return whether ``peer`` has nearly the whole log, acknowledged on the present connection."""
        peer_progress = self.progress_by_peer.get(peer)
        return (
            self._leading
            and peer_progress is not None
            and peer_progress.connected
            and peer_progress.state is ProgressState.REPLICATE
            and peer_progress.match + CAUGHT_UP_ENTRIES >= self._journal.last_index
        )

    # --- leading ------------------------------------------------------------------------------------

    def lead(self, term: int) -> None:
        """Start leading ``term``, before its no-op is in the log."""
        self._term, self._leading = term, True
        for peer_progress in self.progress_by_peer.values():
            peer_progress.match = 0
            peer_progress.reminded_at = self._clock() - self._remind_s
            peer_progress.probe(self._journal.last_index + 1)

    def stop(self) -> None:
        self._leading = False

    def connected(self, peer: str, commit: int, directory: str | None = None) -> None:
        """Handle a new connection: frames in flight on the old one may be lost.

        The acks of a learner count only on the connection on which they came: a learner that reconnects may
        have lost its disk meanwhile and is admitted nevertheless. The same applies to a peer whose directory
        differs from that of the voter of its name. Directory None: compare names only.
        """
        self._linked[peer] = directory
        peer_progress = self.progress_by_peer.get(peer)
        if peer_progress is None:
            return
        peer_progress.connected = True
        peer_progress.counts = self._is_counted(peer_progress)
        if not peer_progress.counts:
            peer_progress.match = 0
        if self._leading:
            peer_progress.probe(
                peer_progress.match + 1 if peer_progress.match else self._journal.last_index + 1
            )
            self._fill(peer_progress, commit, {}, beat=True)

    def disconnected(self, peer: str) -> None:
        """Handle the end of the connection; see `connected` on the acks of a learner."""
        peer_progress = self.progress_by_peer.get(peer)
        if peer_progress is not None:
            peer_progress.connected = False
            if not peer_progress.counts:
                peer_progress.match = 0
        self._linked.pop(peer, None)

    def replicate(self, commit: int, *, beat: bool = False) -> None:
        """Send every peer the entries that its window allows, and the commit index if it has changed.

        Peers at the same index get the same message object, so that it is encoded only once.

        Args:
            commit: the commit index.
            beat: a heartbeat is due: every peer gets at least one frame, and answers it.
        """
        if self._leading:
            frames: dict[int, tuple[Message, int, int]] = {}
            for peer_progress in self.progress_by_peer.values():
                self._fill(peer_progress, commit, frames, beat=beat)

    def feed(self, peer: str, commit: int) -> None:
        """Send one peer the entries that its window allows now."""
        if self._leading and peer in self.progress_by_peer:
            self._fill(self.progress_by_peer[peer], commit, {}, beat=False)

    # --- frames -----------------------------------------------------------------------------------

    def _fill(
        self, peer_progress: Progress, commit: int, frames: dict[int, tuple[Message, int, int]], *, beat: bool
    ) -> None:
        if not peer_progress.connected:
            return
        if not self._has(peer_progress.place):
            self._keep_alive(peer_progress, commit, beat=beat)
            return
        last, sent = self._journal.last_index, False
        while peer_progress.may_send(last, self._limits.window_bytes):
            if peer_progress.next not in frames:
                if self._journal.length_at(peer_progress.next) > self._limits.entry_bytes_max:
                    self._keep_alive(peer_progress, commit, beat=beat)  # see `oversize`
                    return
                frames[peer_progress.next] = self._entries(peer_progress.next, commit)
            message, end, size_bytes = frames[peer_progress.next]
            self._send(peer_progress.name, message)
            peer_progress.sent(end, size_bytes)
            sent = True
        if sent:
            peer_progress.commit_sent = commit
        elif beat:
            prev = peer_progress.place
            if peer_progress.state is not ProgressState.REPLICATE:
                peer_progress.asked = prev
            self._send(peer_progress.name, self._append(prev, commit, [], ask=True))
            peer_progress.commit_sent = commit
        elif peer_progress.state is ProgressState.REPLICATE and peer_progress.commit_sent < commit:
            self._send(peer_progress.name, self._append(peer_progress.next - 1, commit, [], ask=False))
            peer_progress.commit_sent = commit

    def _has(self, prev: int) -> bool:
        """Return whether a frame can follow ``prev``: the log holds its term and the entries after it."""
        return prev >= self._journal.first_index and prev + 1 >= self._journal.first_readable

    def _keep_alive(self, peer_progress: Progress, commit: int, *, beat: bool) -> None:
        if peer_progress.state is not ProgressState.SNAPSHOT:
            peer_progress.probe(peer_progress.place + 1)
            peer_progress.state = ProgressState.SNAPSHOT
        if self._clock() - peer_progress.reminded_at >= self._remind_s:
            peer_progress.reminded_at = self._clock()
            self._needs_snapshot(peer_progress.name)
        if beat:
            self._send(peer_progress.name, Alive(self._term, commit, self._heartbeat_payload()).encode())

    def _entries(self, index: int, commit: int) -> tuple[Message, int, int]:
        entries = self._journal.read(index, self._limits.frame_bytes)
        assert entries, f"the log ends before entry {index}"
        size_bytes = sum(len(payload) for _, _, payload in entries)
        return self._append(index - 1, commit, entries, ask=True), entries[-1][0], size_bytes

    def _append(self, prev: int, commit: int, entries: list[Entry], *, ask: bool) -> Message:
        prev_term = self._journal.term_at(prev)
        assert prev_term is not None, f"entry {prev} is not in the log"
        return Append(self._term, prev, prev_term, commit, entries, ask, self._heartbeat_payload()).encode()
