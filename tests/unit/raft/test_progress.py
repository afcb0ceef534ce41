"""Replication progress of one peer: probing, replicating, losing entries."""

from __future__ import annotations

from node.raft.ports import Limits, Message
from node.raft.progress import FAREWELL_S, Progress, ProgressState, Replicator
from node.simulator.journal import MemoryJournal, Tape


class Bench:
    """A leader's sending side with ten entries of a byte each, one a frame."""

    def __init__(
        self, *, frame_bytes: int = 1, window_bytes: int = 4, entry_bytes_max: int = 1 << 20
    ) -> None:
        self.now = 0.0
        self.journal = MemoryJournal(Tape())
        for index in range(1, 11):
            self.journal.append(index, 1, b"\x01")
        self.sent: list[Message] = []
        self.snapshots: list[str] = []
        self.replicator = Replicator(
            peers=["b"],
            journal=self.journal,
            clock=lambda: self.now,
            limits=Limits(
                frame_bytes=frame_bytes, window_bytes=window_bytes, entry_bytes_max=entry_bytes_max
            ),
            remind_s=2.0,
            send=lambda peer, message: self.sent.append(message),
            heartbeat_payload=lambda: None,
            needs_snapshot=self.snapshots.append,
        )
        self.peer_progress = self.replicator.progress_by_peer["b"]
        self.replicator.connected("b", 0)
        self.replicator.lead(1)

    def took(self) -> list[tuple[int, int]]:
        """Return ``prev`` and the number of entries of each frame since the last call."""
        frames = [(message["prev"], len(message["entries"])) for message in self.sent]
        self.sent.clear()
        return frames


def test_leadership_begins_with_one_question() -> None:
    bench = Bench()
    bench.journal.append(11, 1, b"\x00")
    bench.replicator.replicate(0, beat=True)
    assert bench.took() == [(10, 1)]
    bench.replicator.replicate(0)
    assert bench.took() == []
    bench.replicator.replicate(0, beat=True)
    assert bench.took() == [(10, 0)]  # the question again, without its burden


def test_answer_opens_the_window() -> None:
    bench = Bench()
    bench.peer_progress.probe(3)
    bench.replicator.replicate(0)
    assert bench.took() == [(2, 1)]
    assert bench.peer_progress.acked(3)
    bench.replicator.feed("b", 0)
    assert bench.took() == [(3, 1), (4, 1), (5, 1), (6, 1)]
    assert bench.peer_progress.inflight_bytes == 4
    bench.peer_progress.acked(5)
    bench.replicator.feed("b", 0)
    assert bench.took() == [(7, 1), (8, 1)]


def test_commit_is_told_once_to_those_who_follow() -> None:
    bench = Bench()
    bench.peer_progress.probe(11)
    bench.replicator.replicate(0, beat=True)
    bench.peer_progress.acked(10)
    bench.took()
    bench.replicator.replicate(7)
    bench.replicator.replicate(7)
    assert [(frame["prev"], frame["commit"], frame["ask"]) for frame in bench.sent] == [(10, 7, False)]


def test_lost_frame_is_found_by_the_next_heartbeat() -> None:
    bench = Bench()
    bench.peer_progress.probe(9)
    bench.replicator.replicate(0)
    bench.peer_progress.acked(9)
    bench.replicator.feed("b", 0)
    bench.took()
    bench.replicator.replicate(0, beat=True)
    assert bench.took() == [(10, 0)]
    assert not bench.peer_progress.refused(10, 10, 10)
    bench.replicator.feed("b", 0)
    assert bench.took() == [(9, 1)]


def test_new_connection_asks_behind_what_is_known() -> None:
    bench = Bench()
    bench.peer_progress.probe(5)
    bench.replicator.replicate(0)
    bench.peer_progress.acked(5)
    bench.replicator.feed("b", 0)
    bench.took()
    bench.replicator.disconnected("b")
    bench.replicator.replicate(0, beat=True)
    assert bench.took() == []
    bench.replicator.connected("b", 0)
    assert bench.took() == [(5, 1)]
    assert bench.peer_progress.state is ProgressState.PROBE


def test_place_that_leaves_the_log_needs_a_snapshot() -> None:
    bench = Bench()
    bench.peer_progress.probe(3)
    bench.replicator.replicate(0)
    bench.took()
    bench.journal.drop_before(6)
    bench.replicator.replicate(4, beat=True)
    assert bench.peer_progress.state is ProgressState.SNAPSHOT
    assert [frame["type"] for frame in bench.sent] == ["alive"]
    bench.replicator.replicate(4)
    bench.now = 2.5
    bench.replicator.replicate(4)
    assert bench.snapshots == ["b", "b"]
    bench.sent.clear()
    bench.peer_progress.acked(3)  # it is alive, and still there
    bench.replicator.feed("b", 4)
    assert bench.peer_progress.state is ProgressState.SNAPSHOT
    bench.peer_progress.acked(8)  # it has the snapshot
    bench.replicator.feed("b", 4)
    assert bench.took() == [(8, 1), (9, 1)]


def test_entries_without_payload_cant_be_sent() -> None:
    """After a snapshot the log has the terms of two entries without payloads."""
    bench = Bench()
    bench.journal.reset((20, 2), (19, 1))
    bench.journal.append(21, 2, b"\x01")
    bench.peer_progress.probe(20)
    bench.replicator.replicate(0)
    assert bench.peer_progress.state is ProgressState.SNAPSHOT
    bench.peer_progress.acked(20)
    bench.replicator.feed("b", 0)
    assert bench.took() == [(20, 1)]


def test_follower_of_somebody_else_sends_nothing() -> None:
    bench = Bench()
    bench.replicator.stop()
    bench.replicator.replicate(0, beat=True)
    bench.replicator.feed("b", 0)
    bench.replicator.connected("b", 0)
    assert bench.sent == []


def test_refusals_are_believed_only_if_they_answer_the_question() -> None:
    peer_progress = Progress("b")
    peer_progress.probe(9)
    peer_progress.sent(9, 1)
    assert not peer_progress.refused(7, 2, 20)
    assert peer_progress.next == 10
    assert not peer_progress.refused(8, 5, 20)
    assert peer_progress.next == 5
    peer_progress.sent(5, 1)
    peer_progress.acked(5)
    assert not peer_progress.refused(4, 2, 20)  # long past
    assert peer_progress.state is ProgressState.REPLICATE


def test_hint_beyond_the_own_log_is_cut() -> None:
    peer_progress = Progress("b")
    peer_progress.probe(9)
    peer_progress.sent(9, 1)
    peer_progress.refused(8, 151, 20)
    assert peer_progress.next == 8


def test_what_was_acknowledged_is_lost_when_refused_again_and_again() -> None:
    peer_progress = Progress("b")
    peer_progress.probe(5)
    peer_progress.sent(5, 1)
    peer_progress.acked(5)
    assert not peer_progress.refused(7, 2, 20)  # it may have been on the way for long: ask
    assert peer_progress.place == 5
    peer_progress.sent(6, 1)
    reports = [peer_progress.refused(5, 2, 20) for _ in range(4)]
    assert reports == [False, False, True, False]
    assert peer_progress.state is ProgressState.LOST
    assert peer_progress.match == 5
    assert not peer_progress.may_send(20, 100)
    peer_progress.acked(5)
    assert peer_progress.state is ProgressState.REPLICATE


# --- members that come and go ---------------------------------------------------------------------------


def test_a_new_learner_is_probed_and_sent_the_log() -> None:
    bench = Bench()
    bench.replicator.connected("c", 0)  # a stranger, as far as the log goes
    assert "c" not in bench.replicator.progress_by_peer
    bench.replicator.set_members(["b", "c"], {"b": ""}, since=10)
    learner = bench.replicator.progress_by_peer["c"]
    assert (learner.connected, learner.voter, learner.next) == (True, False, 11)
    bench.replicator.replicate(0, beat=True)
    assert learner.refused(10, 1, 10) is False
    assert learner.next == 1
    assert not bench.replicator.caught_up("c")
    assert learner.acked(10)
    assert bench.replicator.caught_up("c")


def test_acks_of_a_learner_last_as_long_as_its_connection() -> None:
    bench = Bench()
    bench.peer_progress.acked(10)
    bench.replicator.disconnected("b")
    assert bench.peer_progress.match == 10
    bench.replicator.set_members(["b"], {}, since=10)
    bench.replicator.connected("b", 0)
    assert bench.peer_progress.match == 0
    bench.peer_progress.acked(10)
    bench.replicator.disconnected("b")
    assert bench.peer_progress.match == 0


def test_who_left_is_served_until_it_knows() -> None:
    bench = Bench()
    bench.replicator.set_members([], {}, since=10)
    assert (bench.peer_progress.leaving, bench.peer_progress.voter) == (10, False)
    assert bench.replicator.gone(9) == []
    bench.peer_progress.acked(10)
    bench.replicator.replicate(10)
    assert bench.peer_progress.commit_sent == 10
    assert bench.replicator.gone(10) == []  # it may not have read it
    bench.replicator.disconnected("b")
    assert bench.replicator.gone(10) == ["b"]
    assert bench.replicator.progress_by_peer == {}


def test_who_left_and_is_away_is_waited_for_only_so_long() -> None:
    bench = Bench()
    bench.replicator.disconnected("b")
    bench.replicator.set_members([], {}, since=10)
    assert bench.replicator.gone(10) == []
    bench.now += FAREWELL_S
    assert bench.replicator.gone(10) == ["b"]


def test_who_is_back_before_it_was_gone_has_not_left() -> None:
    bench = Bench()
    bench.replicator.set_members([], {}, since=10)
    assert bench.replicator.gone(10) == []
    bench.replicator.set_members(["b"], {"b": ""}, since=11)
    bench.now += 2 * FAREWELL_S
    assert bench.replicator.gone(11) == []
    assert bench.peer_progress.voter


def test_an_entry_that_no_frame_can_hold_is_not_sent() -> None:
    """The first release could leave one in a log: its leader stopped when it had to send it."""
    bench = Bench(frame_bytes=10, entry_bytes_max=50)
    bench.journal.append(11, 1, b"\x01" * 51)
    bench.journal.append(12, 1, b"\x01")
    bench.peer_progress.probe(10)
    bench.replicator.replicate(0)
    assert bench.took() == [(9, 1)]
    bench.peer_progress.acked(10)
    bench.replicator.replicate(12)
    assert bench.sent == []
    assert (bench.peer_progress.state, bench.snapshots) == (ProgressState.SNAPSHOT, ["b"])
    bench.replicator.replicate(12, beat=True)
    assert [message["type"] for message in bench.sent] == ["alive"]
    bench.sent.clear()
    bench.peer_progress.acked(11)  # it has installed the snapshot
    bench.replicator.replicate(12)
    assert bench.took() == [(11, 1)]
