"""How a leader brings its log to its peers: one state, one window and one place in the log for each.

The library sends each peer the rest of the log every period, resends what is in flight after each
partial ack (PS-36), knows no window (PS-38), and obeys every refusal, also the stale ones of a burst, so
that one divergent entry and a lag of more than a batch keep a follower from ever catching up (PS-21).
This replaces its sending. A peer is in one of four states:

``probe``
    where its log agrees with ours isn't known: one frame is out, and its answer decides.
``replicate``
    it is: frames follow each other without waiting, up to a window of bytes; a commit is told at once.
``snapshot``
    what it needs is no longer in the log: it only hears that a leader is alive.
``lost``
    it refuses again and again what it had acknowledged in this very term: its disk lost something.
    It is asked once a heartbeat and counted for what it acknowledged: that can't be taken back.

A learner is sent what a voter is, and counts for nothing. Who is no member any more is served until
it was told so, or for a while.

A success never moves ``next`` back (PS-1); a refusal is believed only if it refuses what is being
asked now. Nothing here decides what is committed: the library does, from ``match``.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from node.raft.frames import Alive, Append
from node.raft.ports import Clock, Entry, JournalView, Limits, Message

FAREWELL_S = 5.0
"""So long a removed member is served after its removal was committed, if it can't be reached sooner."""

CAUGHT_UP_ENTRIES = 16
"""A learner that lacks no more than this is as good as up to date: about a MiB at the very most."""

_DOUBTS = 3
"""So many refusals of what was acknowledged, one after the other, mean that it is lost."""


class ProgressState(enum.StrEnum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"
    LOST = "lost"


class Progress:
    """What a leader knows about one peer, and what is on the way to it."""

    __slots__ = (
        "_doubts",
        "_inflight",
        "asked",
        "commit_told",
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
        """By the membership in force."""
        self.directory = ""
        """The one it votes with."""
        self.counts = True
        """It is that voter: not a learner, and not another copy of the log under a voter's name."""
        self.leaving: int | None = None
        """The entry that removed it; None for a member."""
        self.leaves_at: float | None = None
        """When it is served no more; None until its removal is committed."""
        self.match = 0
        self.next = 1
        self.reminded_at = 0.0
        """When a snapshot was last called for."""
        self._doubts = 0
        self.probe(1)

    def probe(self, next_index: int) -> None:
        """Start again from a place in the log that has to be agreed upon."""
        self.state = ProgressState.PROBE
        self.next = next_index
        self.asked: int | None = None
        """In ``probe``: the ``prev`` of the frame whose answer is awaited."""
        self.commit_told = 0
        self._inflight: deque[tuple[int, int]] = deque()
        self.inflight_bytes = 0

    @property
    def place(self) -> int:
        """The entry that the next frame follows: in a probe that is out, what it asked about."""
        return self.next - 1 if self.asked is None else self.asked

    def sent(self, last: int, size_bytes: int) -> None:
        """Entries up to ``last`` left for the peer."""
        if self.state is not ProgressState.REPLICATE:
            self.asked = self.next - 1
        self.next = last + 1
        self._inflight.append((last, size_bytes))
        self.inflight_bytes += size_bytes

    def may_send(self, last: int, window_bytes: int) -> bool:
        """Whether another frame of entries may leave; ``last`` is the end of our log."""
        if self.state is ProgressState.REPLICATE:
            return self.next <= last and self.inflight_bytes < window_bytes
        return self.next <= last and self.asked is None

    def acked(self, match: int) -> bool:
        """The peer's log is ours up to ``match``. True if that is news."""
        while self._inflight and self._inflight[0][0] <= match:
            self.inflight_bytes -= self._inflight.popleft()[1]
        self._doubts = 0
        news = match > self.match
        self.match = max(self.match, match)
        if self.state is ProgressState.REPLICATE:
            self.next = max(self.next, self.match + 1)
        elif self.state is ProgressState.SNAPSHOT or self.asked is None or match >= self.asked:
            self.probe(self.match + 1)
            self.state = ProgressState.REPLICATE
        return news

    def refused(self, refused: int, hint: int, last: int) -> bool:
        """The peer can't take what follows ``refused``. True if it lost what it had acknowledged."""
        probing = self.state in {ProgressState.PROBE, ProgressState.LOST}
        if (
            self.state is ProgressState.SNAPSHOT
            or refused < self.match
            or (probing and refused != self.asked)
        ):
            return False  # an old frame that arrived late, or one of a burst: its neighbour was believed
        self.probe(max(self.match + 1, min(hint, refused, last + 1)))
        if hint > self.match or not probing or refused > self.match:
            return False
        self.asked = self.match  # it would only refuse again: wait for the heartbeat
        self._doubts += 1
        if self._doubts >= _DOUBTS:
            self.state = ProgressState.LOST
        return self._doubts == _DOUBTS


class Replicator:
    """Sends a leader's log. Idle (`stop`) on every other node."""

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
        """Go by another membership.

        Args:
            peers: the members but for this node.
            voters: those of them that count, and the directory each votes with.
            since: the entry that brought it.
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
        """Forget the removed members that need nothing more; return their names."""
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
        told = (
            self._leading
            and peer_progress.commit_told >= peer_progress.leaving
            and not peer_progress.connected
        )
        return told or self._clock() >= peer_progress.leaves_at

    def is_linked(self, peer: str) -> bool:
        """Whether there is a connection to ``peer``, a member or not."""
        return peer in self._linked

    def caught_up(self, peer: str) -> bool:
        """Whether ``peer`` has nearly everything, acknowledged on the present connection."""
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
        """Leadership of ``term`` begins, before its no-op is in the log."""
        self._term, self._leading = term, True
        for peer_progress in self.progress_by_peer.values():
            peer_progress.match = 0
            peer_progress.reminded_at = self._clock() - self._remind_s
            peer_progress.probe(self._journal.last_index + 1)

    def stop(self) -> None:
        self._leading = False

    def connected(self, peer: str, commit: int, directory: str | None = None) -> None:
        """A new connection: what was on the way in the old one may be lost.

        A learner's acks count on the connection they came on, no longer: who comes back may have lost
        its disk meanwhile, and be admitted all the same. So it is with another directory than the
        voter's of that name. None: it is whom its name says.
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
        """No connection is left; see `connected` on what becomes of a learner's acks."""
        peer_progress = self.progress_by_peer.get(peer)
        if peer_progress is not None:
            peer_progress.connected = False
            if not peer_progress.counts:
                peer_progress.match = 0
        self._linked.pop(peer, None)

    def replicate(self, commit: int, *, beat: bool = False) -> None:
        """Send every peer what its window admits, and the commit index if that is news.

        Peers at the same place get the very same message object, so it need be encoded only once.

        Args:
            commit: the commit index.
            beat: a heartbeat is due: every peer gets at least one frame, and answers it.
        """
        if self._leading:
            frames: dict[int, tuple[Message, int, int]] = {}
            for peer_progress in self.progress_by_peer.values():
                self._fill(peer_progress, commit, frames, beat=beat)

    def feed(self, peer: str, commit: int) -> None:
        """Send one peer what its window admits now."""
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
            peer_progress.commit_told = commit
        elif beat:
            prev = peer_progress.place
            if peer_progress.state is not ProgressState.REPLICATE:
                peer_progress.asked = prev
            self._send(peer_progress.name, self._append(prev, commit, [], ask=True))
            peer_progress.commit_told = commit
        elif peer_progress.state is ProgressState.REPLICATE and peer_progress.commit_told < commit:
            self._send(peer_progress.name, self._append(peer_progress.next - 1, commit, [], ask=False))
            peer_progress.commit_told = commit

    def _has(self, prev: int) -> bool:
        """Whether a frame can follow ``prev``: its term and what comes after it are in the log."""
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
