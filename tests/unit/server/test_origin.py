"""An origin's requests survive the leader (R5–R8, R21)."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from node.core import versions
from node.core.commands import (
    Acked,
    ClientClose,
    Publish,
)
from node.core.effects import OK, Outcome, Refused, Replies, SessionOpened
from node.core.entries import (
    BATCH_SIZE_MAX,
    decode_commands,
    encoded_size,
)
from node.core.refusals import NOT_YET
from node.server.origin import (
    BATCH_BYTES,
    COMMAND_OVERHEAD,
    UNAPPLIED_BYTES_MAX,
    UNAPPLIED_COMMANDS_MAX,
    Origin,
)

SESSION = (5, 0)


class Wire:
    """Frames that an origin has sent to the leader."""

    def __init__(self) -> None:
        self.frames: list[tuple[Any, ...]] = []

    def take(self, kind: str) -> list[tuple[Any, ...]]:
        taken = [frame for frame in self.frames if frame[0] == kind]
        self.frames.clear()
        return taken

    def serials(self) -> list[tuple[int, int]]:
        return [(frame[3], frame[4]) for frame in self.take("batch")]


def opened_origin() -> tuple[Origin, Wire]:
    wire = Wire()
    origin = Origin("n1", wire.frames.append, secrets.token_bytes)
    origin.leader_changed(1)
    nonce = decode_commands(wire.take("open")[0][2])[0][2]
    origin.opened(SessionOpened("n1", nonce, SESSION))
    wire.frames.clear()
    return origin, wire


def close(origin: Origin, answers: list[Outcome]) -> None:
    origin.submit(ClientClose("c"), answers.append)
    origin.flush()


def test_a_session_is_opened_before_anything_else() -> None:
    """R5: earlier requests are forwarded once the session is open."""
    wire = Wire()
    origin = Origin("n1", wire.frames.append, secrets.token_bytes)
    close(origin, [])
    origin.leader_changed(3)
    assert [frame[0] for frame in wire.frames] == ["open", "held"]
    nonce = decode_commands(wire.take("open")[0][2])[0][2]
    origin.opened(SessionOpened("n1", nonce, SESSION))
    assert wire.serials() == [(1, 1)]


def test_serials_follow_each_other_without_gaps() -> None:
    origin, wire = opened_origin()
    for _ in range(3):
        origin.submit(ClientClose("c"), None)
    origin.flush()
    close(origin, [])
    assert wire.serials() == [(1, 3), (4, 4)]


def test_unapplied_batches_are_resent_to_a_new_leader_in_order() -> None:
    """R8: an origin never abandons a request that has a serial."""
    origin, wire = opened_origin()
    answers: list[Outcome] = []
    close(origin, answers)
    close(origin, answers)
    close(origin, answers)
    origin.applied(Replies("n1", SESSION, 1, 1))
    origin.applied_to(1)
    wire.frames.clear()
    origin.leader_changed(None)
    assert wire.frames == []
    origin.leader_changed(2)
    assert wire.serials() == [(2, 2), (3, 3)]
    assert answers == [OK]


def test_batches_applied_without_a_leader_are_not_resent() -> None:
    """R8: it reached the log before the link broke; only later requests are for the next leader."""
    origin, wire = opened_origin()
    close(origin, [])
    close(origin, [])
    wire.frames.clear()
    origin.leader_changed(None)
    origin.applied_to(2)
    close(origin, [])
    origin.leader_changed(2)
    assert wire.serials() == [(3, 3)]
    origin.leader_changed(None)
    origin.applied_to(3)
    origin.resend(1, 1)
    close(origin, [])
    origin.leader_changed(3)
    assert wire.serials() == [(4, 4)]


def test_all_forwarded_follows_the_last_batch() -> None:
    """R9: the new leader's first entry waits for it."""
    origin, wire = opened_origin()
    close(origin, [])
    wire.frames.clear()
    origin.leader_changed(2)
    assert [frame[0] for frame in wire.frames] == ["batch", "held"]
    assert wire.take("held")[0][1:] == (2, SESSION, 2)


def test_all_forwarded_without_a_session_counts_the_kept_commands() -> None:
    """R9: the leader waits until as many commands have arrived in the session that is being opened."""
    wire = Wire()
    origin = Origin("n1", wire.frames.append, secrets.token_bytes)
    close(origin, [])
    close(origin, [])
    origin.leader_changed(2)
    assert wire.take("held")[0][1:] == (2, None, 3)


def test_all_forwarded_without_a_session_does_not_count_applied_commands() -> None:
    origin, wire = opened_origin()
    close(origin, [])
    close(origin, [])
    origin.applied_to(1)
    origin.ended()
    wire.frames.clear()
    origin.leader_changed(2)
    assert wire.take("held")[0][1:] == (2, None, 2)


def test_a_request_gets_its_outcome_once() -> None:
    origin, _ = opened_origin()
    answers: list[Outcome] = []
    close(origin, answers)
    refusal = Replies("n1", SESSION, 1, 1, {1: Refused("no")})
    origin.applied(refusal)
    origin.applied(refusal)
    assert answers == [Refused("no")]


def test_publishes_are_answered_in_bulk() -> None:
    origin, _ = opened_origin()
    answered: list[tuple[Any, Outcome]] = []
    origin.publish_answered = lambda pending, outcome: answered.append((pending, outcome))
    for guid in ("a", "b"):
        origin.submit_publish(Publish("", b"conn", "foo", b"body"), (b"reply", guid), 50)
    origin.flush()
    origin.applied(Replies("n1", SESSION, 1, 2, {2: Refused("too many channels")}))
    assert answered == [((b"reply", "a"), OK), ((b"reply", "b"), Refused("too many channels"))]


def test_outcomes_of_other_nodes_and_sessions_are_ignored() -> None:
    origin, _ = opened_origin()
    answers: list[Outcome] = []
    close(origin, answers)
    origin.applied(Replies("n2", SESSION, 1, 1))
    origin.applied(Replies("n1", (4, 0), 1, 1))
    assert answers == []


def test_the_leader_can_request_a_resend() -> None:
    """R7: a gap is filled by the origin, not by the log."""
    origin, wire = opened_origin()
    for _ in range(3):
        close(origin, [])
    wire.frames.clear()
    origin.resend(1, 2)
    assert wire.serials() == [(2, 2), (3, 3)]
    origin.resend(9, 1)  # the leader of another term
    assert wire.serials() == []


def test_a_session_ended_by_another_process_is_replaced_and_renumbered() -> None:
    """R5: unapplied commands of the old session are sent in the new one, from serial 1."""
    origin, wire = opened_origin()
    answers: list[Outcome] = []
    for _ in range(3):
        close(origin, answers)
    origin.applied(Replies("n1", SESSION, 1, 1))
    origin.applied_to(1)
    wire.frames.clear()
    origin.opened(SessionOpened("n1", b"somebody else's", (9, 0)))
    nonce = decode_commands(wire.take("open")[0][2])[0][2]
    origin.opened(SessionOpened("n1", nonce, (10, 0)))
    assert wire.serials() == [(1, 1), (2, 2)]
    origin.applied(Replies("n1", (10, 0), 1, 2, {2: Refused("x")}))
    assert answers == [OK, OK, Refused("x")]


def test_a_session_that_was_ended_is_followed_by_another() -> None:
    """The simulator saw a node's clients unheard for ever: let in by an entry that another leader overwrote,
    added again by the next, it went on in the session that had been ended in between.
    """
    origin, wire = opened_origin()
    answers: list[Outcome] = []
    close(origin, answers)
    close(origin, answers)
    origin.applied(Replies("n1", SESSION, 1, 1))
    origin.applied_to(1)
    wire.frames.clear()
    origin.ended()
    assert origin.session is None
    nonce = decode_commands(wire.take("open")[0][2])[0][2]
    origin.opened(SessionOpened("n1", nonce, (10, 0)))
    assert wire.serials() == [(1, 1)]
    origin.applied(Replies("n1", (10, 0), 1, 1))
    assert answers == [OK, OK]


def test_a_session_requested_twice_is_opened_once() -> None:
    """Notified of its session again, the origin counted from 1 again and lost requests (the simulator)."""
    origin, wire = opened_origin()
    answers: list[Outcome] = []
    close(origin, answers)
    close(origin, answers)
    nonce = origin._nonce
    origin.applied(Replies("n1", SESSION, 1, 1))
    origin.applied_to(1)
    wire.frames.clear()
    origin.opened(SessionOpened("n1", nonce, SESSION))  # the second request, applied late
    origin.leader_changed(2)
    assert wire.serials() == [(2, 2)]
    origin.applied(Replies("n1", SESSION, 2, 2, {2: Refused("no")}))
    assert answers == [OK, Refused("no")]


def test_sessions_of_earlier_processes_are_ignored() -> None:
    """R5: a restarted node applies entries in which earlier processes of it opened sessions."""
    wire = Wire()
    origin = Origin("n1", wire.frames.append, secrets.token_bytes)
    origin.leader_changed(1)
    nonce = decode_commands(wire.take("open")[0][2])[0][2]
    origin.opened(SessionOpened("n1", b"of an earlier process", (3, 0)))
    assert wire.frames == []
    origin.opened(SessionOpened("n1", nonce, SESSION))
    assert origin.session == SESSION


def test_outcomes_in_a_snapshot_answer_requests() -> None:
    """R6: requests applied by skipped entries are answered from the session's outcomes."""
    origin, wire = opened_origin()
    answers: list[Outcome] = []
    close(origin, answers)
    close(origin, answers)
    nonce = origin._nonce
    origin.restored(SESSION, nonce, 1, {1: Refused("kept")})
    assert answers == [Refused("kept")]
    wire.frames.clear()
    origin.leader_changed(2)
    assert wire.serials() == [(2, 2)]


def test_a_full_origin_is_relaxed_when_half_is_applied() -> None:
    """R21: credit."""
    origin, _ = opened_origin()
    for _ in range(UNAPPLIED_COMMANDS_MAX):
        origin.submit(ClientClose("c"), None)
    origin.flush()
    assert origin.full
    assert not origin.relaxed
    origin.applied_to(UNAPPLIED_COMMANDS_MAX)
    assert origin.relaxed


def test_a_batch_closes_before_it_would_be_too_large() -> None:
    """The largest publish behind a nearly full batch made a batch that no leader accepted."""
    origin, wire = opened_origin()
    for _ in range(100):
        origin.submit(ClientClose("c" * 500), None)
    largest = Publish("", b"c" * 1024, "foo", b"m" * (8 << 20))
    origin.submit_publish(largest, (b"reply", "guid"), encoded_size(largest))
    origin.flush()
    sizes = [len(frame[-1]) for frame in wire.frames]
    assert wire.serials() == [(1, 100), (101, 101)]
    assert max(sizes) <= BATCH_SIZE_MAX


def test_a_batch_has_a_bounded_number_of_commands() -> None:
    """However small they are: applying each takes time on every node."""
    origin, wire = opened_origin()
    for _ in range(5000):
        origin.submit(ClientClose(""), None)
    origin.flush()
    assert max(last - first for first, last in wire.serials()) < BATCH_BYTES // COMMAND_OVERHEAD


def test_requests_count_with_their_real_sizes() -> None:
    """Counted as 256 bytes each, requests of megabytes made an entry that no frame can hold."""
    origin, wire = opened_origin()
    for _ in range(3):
        origin.submit(ClientClose("c" * 1_000_000), None)
    origin.flush()
    assert wire.serials() == [(1, 1), (2, 2), (3, 3)]
    assert not origin.full
    origin.submit(ClientClose("c" * 2_000_000), lambda _outcome: None)
    assert origin.full
    origin.flush()
    assert origin.full
    origin.applied_to(4)
    assert origin.relaxed


def test_waiting_answers_count_too() -> None:
    """A publish's reply subject and guid are kept until it is applied."""
    origin, _ = opened_origin()
    count = 0
    while not origin.full:
        count += 1
        publish = Publish("", b"conn", "foo", b"")
        origin.submit_publish(publish, (b"r" * 4000, "g" * 1000), encoded_size(publish))
    assert count < UNAPPLIED_BYTES_MAX // 5000 + 1


def test_each_batch_carries_the_lowest_waiting_serial() -> None:
    """R6: the session forgets the outcomes below it."""
    origin, wire = opened_origin()
    close(origin, [])
    close(origin, [])
    assert [frame[5] for frame in wire.take("batch")] == [1, 1]
    origin.applied_to(2)
    close(origin, [])
    assert [frame[5] for frame in wire.take("batch")] == [3]


def test_a_command_that_some_member_does_not_support_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """R24: it is refused at once, and gets no serial."""
    monkeypatch.setitem(versions.SINCE, ClientClose, 2)
    origin, wire = opened_origin()
    answers: list[Outcome] = []
    close(origin, answers)
    assert answers == [Refused(NOT_YET)]
    assert wire.frames == []
    origin.version = lambda: 2
    close(origin, answers)
    assert wire.serials() == [(1, 1)]


# --- without a leader -------------------------------------------------------------------------------

REFUSED = Refused("no leader")


def publish(origin: Origin, number: int) -> None:
    origin.submit_publish(Publish("c", b"", "foo", b"%d" % number), (b"%d" % number, ""), 64)


def test_requests_that_never_left_this_node_can_be_refused() -> None:
    """R8: its serials are assigned again; forwarded requests wait for their outcomes."""
    origin, wire = opened_origin()
    answered: list[tuple[Any, Outcome]] = []
    origin.publish_answered = lambda pending, outcome: answered.append((int(pending[0]), outcome))
    publish(origin, 1)
    origin.flush()
    origin.leader_changed(None)
    publish(origin, 2)
    origin.flush()
    outcomes: list[Outcome] = []
    close(origin, outcomes)
    assert origin.refuse(REFUSED) == 2
    assert answered == [(2, REFUSED)]
    assert outcomes == [REFUSED]
    wire.frames.clear()
    origin.leader_changed(2)
    publish(origin, 3)
    origin.flush()
    assert wire.serials() == [(1, 1), (2, 2)]
    origin.applied(Replies("n1", SESSION, 1, 2))
    assert answered == [(2, REFUSED), (1, OK), (3, OK)]


def test_later_requests_are_refused_at_once_until_there_is_a_leader() -> None:
    origin, wire = opened_origin()
    answered: list[tuple[Any, Outcome]] = []
    origin.publish_answered = lambda pending, outcome: answered.append((int(pending[0]), outcome))
    origin.leader_changed(None)
    assert origin.refuse(REFUSED) == 0
    publish(origin, 1)
    outcomes: list[Outcome] = []
    close(origin, outcomes)
    assert (answered, outcomes) == ([(1, REFUSED)], [REFUSED])
    assert not origin.waits
    origin.leader_changed(2)
    wire.frames.clear()
    publish(origin, 2)
    origin.flush()
    assert wire.serials() == [(1, 1)]


def test_with_a_leader_nothing_is_refused() -> None:
    origin, _wire = opened_origin()
    assert origin.refuse(REFUSED) == 0
    assert origin.refusal is None


def test_acknowledgements_outlive_a_refusal() -> None:
    """Clients don't send them again: they are kept in order, up to a limit."""
    origin, wire = opened_origin()
    origin.leader_changed(None)
    origin.submit(Acked("foo", "a", [1]))
    close(origin, [])
    origin.submit(Acked("foo", "a", [2]))
    origin.refuse(REFUSED)
    origin.submit(Acked("foo", "a", [3]))
    origin.leader_changed(2)
    (frame,) = wire.take("batch")
    assert [fields[3] for fields in decode_commands(frame[6])] == [(1,), (2,), (3,)]
    assert (frame[3], frame[4]) == (1, 3)


def test_a_flood_of_acknowledgements_without_a_leader_is_bounded() -> None:
    origin, _wire = opened_origin()
    origin.leader_changed(None)
    origin.refuse(REFUSED)
    for _ in range(6000):
        origin.submit(Acked("foo", "a", list(range(1000, 1100))))
    assert origin.dropped > 0
    assert not origin.full, "clients are read from"


def test_batches_keep_their_size_over_a_time_without_a_leader() -> None:
    """R21: kept commands are sent in batches that fill entries evenly."""
    origin, wire = opened_origin()
    origin.leader_changed(None)
    for _ in range(64):
        origin.submit_publish(Publish("c", b"", "foo", bytes(8192)), (b"", ""), 8192)
    origin.flush()
    origin.leader_changed(2)
    sizes = [len(frame[6]) for frame in wire.take("batch")]
    assert len(sizes) == 10, "seven of these in each"
    assert max(sizes) <= BATCH_BYTES


def test_a_stopping_node_refuses_later_requests() -> None:
    origin, _wire = opened_origin()
    answered: list[tuple[Any, Outcome]] = []
    origin.publish_answered = lambda pending, outcome: answered.append((int(pending[0]), outcome))
    publish(origin, 1)
    origin.refuse_new(REFUSED)
    publish(origin, 2)
    origin.leader_changed(2)
    publish(origin, 3)
    assert answered == [(2, REFUSED), (3, REFUSED)]
    origin.flush()
    origin.applied(Replies("n1", SESSION, 1, 1))
    assert answered[-1] == (1, OK)
