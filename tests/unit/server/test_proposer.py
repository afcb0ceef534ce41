"""The leader's proposer: order and sequence of batches, time, entries (R7, R9, R21)."""

from __future__ import annotations

from typing import Any

import pytest
from conversation import Conversation, publishes

from node.core.commands import (
    ClientClose,
    ClientUnresponsive,
    ColdStart,
    InitCluster,
    LeaderCommand,
    NewTerm,
    PauseRedelivery,
    Publish,
    SessionOpen,
    Tick,
)
from node.core.effects import Refused
from node.core.entries import (
    BATCH_COMMANDS_MAX,
    BATCH_SIZE_MAX,
    ENTRY_SIZE_MAX,
    Entry,
    decode_entry,
    decode_leader_command,
    encode_commands,
    refused_batch,
)
from node.core.machine import Machine
from node.core.refusals import UNDECODABLE
from node.core.state import State
from node.errors import RemoteProtocolError
from node.protocol.peer import FRAME_BYTES_MAX, encode_frame
from node.server import proposer
from node.server.clock import ClusterClock, WallClock
from node.server.proposer import (
    ENTRY_BYTES,
    HELD_WAIT_S,
    IN_FLIGHT_MAX,
    LEADER_COMMANDS_MAX,
    READ_WAIT_S,
    SESSION_OPEN_BYTES_MAX,
    Proposer,
)
from node.units import Index

TERM = 3
SESSION = (1, 1)
"""The session of node n1, as `Conversation` opens it."""


class Engine:
    """An engine that accepts every proposal; the test decides when it is applied."""

    def __init__(self) -> None:
        self.is_ready = True
        self.term = TERM
        self.commit_when_elected = 7
        self.proposed: list[bytes] = []

    def propose(self, payload: bytes) -> int:
        self.proposed.append(payload)
        return 100 + len(self.proposed)

    @property
    def entries(self) -> list[Entry]:
        return [decode_entry(payload) for payload in self.proposed]

    @property
    def last(self) -> Entry:
        return self.entries[-1]


class Leader:
    """The leader of term 3, with a state in which n1 has a session."""

    def __init__(self, state: State | None = None) -> None:
        self.state = Conversation().state if state is None else state
        self.monotonic_ns = 0
        self.engine = Engine()
        self.again: list[tuple[str, tuple[Any, ...]]] = []
        clock = ClusterClock(lambda: self.monotonic_ns)
        clock.lead()
        self.proposer = Proposer(
            self.engine,
            lambda: self.state,
            clock,
            WallClock(lambda: self.monotonic_ns, lambda: self.monotonic_ns),
            bootstrap_commands=lambda term: [InitCluster(term, "founding", "tag")],
            answer=lambda node, frame: self.again.append((node, frame)),
        )
        self.now = 50.0
        self.proposer.lead(TERM)

    def ready(self, *connected: str, cold: bool = False) -> None:
        self.proposer.ready(self.now, connected or ("n1",), cold=cold)

    def opened(self) -> Leader:
        """Return a leader after the first entry of its term, with nothing in flight."""
        self.ready()
        self.held("n1")
        self.pump()
        self.applied()
        self.engine.proposed.clear()
        return self

    def pump(self, after_s: float = 0.0) -> bool:
        self.now += after_s
        self.monotonic_ns += int(after_s * 1e9)
        return self.proposer.pump(self.now)

    def applied(self) -> None:
        """Apply every proposed entry."""
        self.proposer.applied(1000)

    def held(self, *nodes: str, session: tuple[int, int] | None = None, next_serial: int = 1) -> None:
        for node in nodes:
            self.proposer.frame(node, ("held", TERM, session, next_serial))

    def batch(
        self,
        first: int,
        last: int | None = None,
        *,
        node: str = "n1",
        session: tuple[int, int] = SESSION,
        term: int = TERM,
        data: bytes | None = None,
    ) -> None:
        count = (first if last is None else last) - first + 1
        commands = encode_commands([Publish("", b"c", "foo", b"m")] * count) if data is None else data
        frame = ("batch", term, session, first, first + count - 1, first, commands)
        self.proposer.frame(node, frame)


def message(size: int, channel: str = "foo") -> bytes:
    """Return a batch of one publish with ``size`` bytes in total."""
    empty = len(encode_commands([Publish("", b"c", channel, b"m" * 70_000)])) - 70_000
    return encode_commands([Publish("", b"c", channel, b"m" * (size - empty))])


def keepers(entry: Entry) -> list[LeaderCommand]:
    return [decode_leader_command(fields) for fields in entry.leader_commands]


def serials(entry: Entry) -> list[int]:
    return [batch.first_serial for batch in entry.batches]


# --- the first entry of a term --------------------------------------------------------------------


def test_the_first_entry_waits_until_all_have_forwarded_what_they_held() -> None:
    """R9: messages acknowledged without a leader are in it, so they aren't due."""
    leader = Leader()
    leader.ready("n1", "n2")
    leader.batch(1)
    leader.held("n1")
    assert not leader.pump()
    leader.held("n2")
    assert leader.pump()
    assert keepers(leader.engine.last)[0] == NewTerm(TERM, 7)
    assert serials(leader.engine.last) == [1]


def test_it_waits_150_ms_at_most() -> None:
    """R9: a connected member that sends nothing delays the entry no longer."""
    leader = Leader()
    leader.ready("n1", "n2")
    leader.held("n1")
    assert leader.proposer.next_deadline() == leader.now + HELD_WAIT_S
    assert not leader.pump(HELD_WAIT_S - 0.01)
    assert leader.pump(0.02)
    assert leader.proposer.next_deadline() is None
    assert leader.proposer.open


def test_an_origin_that_must_resend_has_not_forwarded_all() -> None:
    """R9: its frame names the last serial it had kept."""
    leader = Leader()
    leader.ready("n1")
    leader.batch(2)
    leader.held("n1", session=SESSION, next_serial=3)
    assert leader.again == [("n1", ("again", TERM, 1))]
    assert not leader.pump()
    leader.batch(1)
    assert not leader.pump()
    leader.batch(2)
    assert leader.pump()


@pytest.mark.parametrize("origins", [1, 3])
def test_no_redelivery_before_all_kept_batches_are_applied(origins: int) -> None:
    """R9 above 64 KiB: the ack is in the last of several entries, and its message is due."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", wait=1)
    talk.publish()
    talk.term = TERM
    leader = Leader(talk.state)
    nodes = [f"n{number}" for number in range(1, origins + 1)]
    leader.ready(*nodes)
    for number, node in enumerate(nodes, 1):  # only n1 has a session in the state
        first = talk.serial if node == "n1" else 1
        for serial in range(first, first + 6):
            data = encode_commands(publishes(1, size=30_000))
            leader.batch(serial, node=node, session=(SESSION[0], number), data=data)
    leader.batch(talk.serial + 6, data=encode_commands([talk.acked("A", 1)]))
    leader.held(*nodes)
    leader.pump(5.0)
    assert not leader.pump(0.1), "all that was held is on its way"
    sent: list[int] = []
    for payload in leader.engine.proposed:
        talk.index += 1
        sent += [seq for deliver in talk.apply(payload).deliveries for seq in deliver.seqs]
    assert len(leader.engine.proposed) > 2
    assert sent == [*range(2, 6 + 2)], "new ones all the while, and never what was acknowledged"
    assert not talk.state.redelivery_paused


def test_nothing_is_sent_again_before_a_process_without_a_session_has_forwarded_what_it_held() -> None:
    """R9: it started without a leader, and forwards an ack when its session is in the log."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", wait=1)
    talk.publish()
    talk.term = TERM
    leader = Leader(talk.state)
    leader.ready("n1", "n2")
    leader.held("n1")
    opens = encode_commands([SessionOpen("n2", b"nonce")])
    leader.proposer.frame("n2", ("open", TERM, opens))
    leader.held("n2", next_serial=3)  # two commands
    sent: list[int] = []

    def pump(after_s: float = 0.0) -> None:
        while leader.pump(after_s):
            after_s = 0.0
            for payload in leader.engine.proposed:
                talk.index += 1
                sent.extend(seq for each in talk.apply(payload).deliveries for seq in each.seqs)
            leader.engine.proposed.clear()
            leader.applied()

    pump(5.0)
    assert talk.state.redelivery_paused
    assert leader.proposer.next_deadline() == leader.now + READ_WAIT_S
    session = talk.state.sessions["n2"].id
    leader.batch(1, node="n2", session=session)
    pump(0.1)
    assert talk.state.redelivery_paused
    leader.batch(2, node="n2", session=session, data=encode_commands([talk.acked("A", 1)]))
    pump()
    assert not talk.state.redelivery_paused
    assert leader.proposer.next_deadline() is None
    assert 1 not in sent


def test_a_process_without_a_session_is_waited_for_500_ms_at_most() -> None:
    """R9: however much it reports to keep. A node that keeps nothing is not waited for."""
    leader = Leader()
    leader.ready("n1", "n2", "n3")
    leader.held("n1", "n3")
    leader.held("n2", next_serial=2**62)
    assert leader.pump()
    assert keepers(leader.engine.last)[-1] == PauseRedelivery(TERM, True)
    leader.applied()
    assert not leader.pump(READ_WAIT_S - 0.01)
    assert leader.pump(0.02)
    assert keepers(leader.engine.last) == [PauseRedelivery(TERM, False)]
    leader.applied()
    leader.batch(1, node="n2", session=(9, 9))
    assert leader.pump()
    leader.applied()
    assert not leader.pump(1)


def test_no_redelivery_while_acks_are_read_after_a_suspension() -> None:
    """R9: all nodes were suspended for 12 s. Acks sent meanwhile are in sockets."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", wait=5)
    talk.publish(2)
    talk.term = TERM
    leader = Leader(talk.state).opened()
    talk.say(leader_commands=[NewTerm(TERM, talk.index)])
    sent: list[int] = []

    def pump(after_s: float = 0.0) -> None:
        while leader.pump(after_s):
            after_s = 0.0
            for payload in leader.engine.proposed:
                talk.index += 1
                sent.extend(seq for each in talk.apply(payload).deliveries for seq in each.seqs)
            leader.engine.proposed.clear()
            leader.applied()

    leader.now += 12
    leader.monotonic_ns += 12 * 10**9
    leader.proposer.propose_command(Tick(TERM))
    leader.proposer.hold_redelivery(leader.now)
    pump()
    assert talk.state.redelivery_paused
    assert leader.proposer.next_deadline() == leader.now + READ_WAIT_S
    leader.batch(talk.serial, data=encode_commands([talk.acked("A", 1)]))
    pump(0.1)
    assert sent == []
    pump(READ_WAIT_S)
    assert sent == [2]
    assert not talk.state.redelivery_paused
    assert leader.proposer.next_deadline() is None


def test_a_leader_elected_after_a_pause_waits_for_acks_too() -> None:
    leader = Leader()
    leader.proposer.hold_redelivery(leader.now)
    leader.ready()
    leader.held("n1")
    assert leader.pump(0.1)
    assert keepers(leader.engine.last)[-1] == PauseRedelivery(TERM, True)
    assert leader.proposer.next_deadline() is None, "an entry is on its way, and tells when it is applied"
    assert not leader.pump(READ_WAIT_S)
    leader.applied()
    assert leader.pump()
    assert keepers(leader.engine.last) == [PauseRedelivery(TERM, False)]
    leader.applied()
    assert not leader.pump(1)


def test_a_leader_of_version_1_pauses_nothing() -> None:
    """R24: the older release doesn't support the command."""
    leader = Leader(Conversation(version=1).state)
    leader.ready("n1")
    for serial in range(1, 5):
        leader.batch(serial, data=encode_commands(publishes(1, size=30_000)))
    leader.held("n1")
    while leader.pump():
        leader.applied()
    assert [keepers(entry) for entry in leader.engine.entries[1:]] == [[]]
    assert PauseRedelivery(TERM, True) not in keepers(leader.engine.entries[0])


def test_it_bootstraps_a_cluster_without_identity() -> None:
    """R18: its first leader draws the cluster UUID and the cluster's tag, once."""
    leader = Leader()
    leader.ready()
    leader.held("n1")
    leader.pump()
    assert InitCluster(TERM, "founding", "tag") in keepers(leader.engine.last)
    bootstrapped = Leader()
    bootstrapped.state.cluster_uuid = "known"
    bootstrapped.ready()
    bootstrapped.held("n1")
    bootstrapped.pump()
    assert keepers(bootstrapped.engine.last) == [NewTerm(TERM, 7)]


def test_it_proposes_a_cold_start_if_no_member_has_served() -> None:
    """R14: after NewTerm, which begins the term; not in later entries."""
    leader = Leader()
    leader.ready(cold=True)
    leader.held("n1")
    leader.pump()
    assert keepers(leader.engine.last)[-1] == ColdStart(TERM)
    leader.applied()
    leader.batch(1)
    leader.pump()
    assert keepers(leader.engine.last) == []


def test_nothing_is_proposed_before_the_leader_is_ready() -> None:
    """Its own no-op must be applied: only then is everything committed before it in its state."""
    leader = Leader()
    leader.engine.is_ready = False
    leader.ready()
    leader.held("n1")
    assert not leader.pump(1)
    leader.engine.is_ready = True
    assert leader.pump()


def test_what_came_before_it_was_ready_is_not_lost() -> None:
    """Origins forward as soon as a leader is known, which may be before its no-op is applied."""
    leader = Leader()
    leader.batch(1)
    leader.held("n1")
    leader.ready("n1")
    assert leader.pump()
    assert serials(leader.engine.last) == [1]


# --- sequence -------------------------------------------------------------------------------------


def test_a_batch_is_taken_in_sequence_only() -> None:
    """R7: a gap never reaches the log; the origin gets the serial to resend from."""
    leader = Leader().opened()
    leader.batch(1, 2)
    leader.batch(4)
    assert leader.again == [("n1", ("again", TERM, 3))]
    leader.batch(3)
    leader.batch(4)
    leader.pump()
    assert serials(leader.engine.last) == [1, 3, 4]


def test_a_batch_that_was_taken_is_not_taken_again() -> None:
    """Origins resend after every broken link."""
    leader = Leader().opened()
    leader.batch(1, 2)
    leader.batch(1, 2)
    leader.pump()
    assert serials(leader.engine.last) == [1]
    assert leader.again == []


def test_what_the_session_had_applied_before_is_not_taken() -> None:
    """The state has the last applied serial of a session when the term begins."""
    talk = Conversation()
    talk.connect("me")
    leader = Leader(talk.state).opened()
    leader.batch(1)
    leader.batch(2)
    leader.pump()
    assert serials(leader.engine.last) == [2]


def test_another_terms_frames_are_dropped() -> None:
    """R7: a batch is meant for one term; the origin resends it for the next."""
    leader = Leader().opened()
    leader.batch(1, term=TERM - 1)
    leader.batch(1, term=TERM + 1)
    assert not leader.pump()
    leader.proposer.follow()
    leader.batch(1)
    assert not leader.pump()


def test_a_session_that_opened_in_this_term_counts_from_one() -> None:
    """R5: a restarted node has another session; apply decides whether it is open."""
    leader = Leader().opened()
    leader.batch(1)
    leader.batch(1, session=(9, 0))
    leader.batch(2, session=(9, 0))
    leader.pump()
    assert [batch.session for batch in leader.engine.last.batches] == [SESSION, (9, 0), (9, 0)]


def test_an_open_request_goes_into_the_log_without_a_session() -> None:
    leader = Leader().opened()
    leader.proposer.frame("n2", ("open", TERM, encode_commands([SessionOpen("n2", b"nonce")])))
    leader.pump()
    assert leader.engine.last.batches[0].session is None


def test_a_node_opens_a_session_for_itself_only() -> None:
    """R5: a session ends the earlier one of its node, so another node must not open it."""
    leader = Leader().opened()
    for commands in (
        encode_commands([SessionOpen("n1", b"nonce")]),
        encode_commands([SessionOpen("n2", b"n" * SESSION_OPEN_BYTES_MAX)]),
        encode_commands([ClientClose("c")]),
        b"\xc1",
    ):
        with pytest.raises(RemoteProtocolError):
            leader.proposer.frame("n2", ("open", TERM, commands))
    assert not leader.pump()


def test_the_requests_of_a_batch_over_the_limit_are_refused_through_the_log() -> None:
    """R22: an older release makes such batches. If dropped, they would be resent for ever."""
    conversation = Conversation()
    leader = Leader(conversation.state).opened()
    commands = encode_commands([Publish("", b"c", "foo", b"m" * BATCH_SIZE_MAX), ClientClose("c")])
    leader.batch(1, 2, data=commands)
    leader.batch(3)
    assert leader.pump()
    leader.applied()
    leader.pump()
    assert [serials(entry) for entry in leader.engine.entries] == [[1, 3]]
    assert max(map(len, leader.engine.proposed)) < ENTRY_BYTES
    effects = Machine(conversation.state).apply(Index(100), leader.engine.proposed[0])
    assert effects.replies[0].others == {1: Refused(UNDECODABLE), 2: Refused(UNDECODABLE)}
    assert conversation.state.sessions["n1"].applied == 3


@pytest.mark.parametrize(
    ("first", "last", "commands"),
    [
        (1, 2, encode_commands([ClientClose("c")])),
        (1, 1, encode_commands([ClientClose("c")] * 2)),
        (1, 1, encode_commands([])),
        (1, 1, b""),
        (1, 1, b"\xdc\x00"),
        (1, 1, b"x"),
        (1, 1000, b"\xdd\x00\x00\x03\xe8"),
        (1, 1 << 40, encode_commands([ClientClose("c")])),
        (1, BATCH_COMMANDS_MAX + 1, refused_batch(BATCH_COMMANDS_MAX + 1)),
        (1, 0, encode_commands([ClientClose("c")])),
        (-5, 1, encode_commands([ClientClose("c")])),
    ],
)
def test_a_batch_holds_just_the_serials_it_says(first: int, last: int, commands: bytes) -> None:
    """R7: otherwise it would leave a gap in its session, at which every node would stop for good."""
    leader = Leader().opened()
    with pytest.raises(RemoteProtocolError):
        leader.proposer.frame("n1", ("batch", TERM, SESSION, first, last, 1, commands))
    assert not leader.pump()


def test_a_node_forwards_nothing_in_the_session_of_another() -> None:
    """It would use up serials of the other node."""
    leader = Leader().opened()
    with pytest.raises(RemoteProtocolError):
        leader.batch(1, node="n2")


def test_a_resend_is_requested_for_too_many_early_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that breaks repeatedly before the leader is ready brings the same batches each time."""
    monkeypatch.setattr(proposer, "EARLY_BYTES_MAX", 100)
    leader = Leader()
    for _ in range(3):
        leader.batch(1, 2)
        leader.batch(3, 6)
    leader.ready()
    assert leader.again[0] == ("n1", ("again", TERM, 1))
    leader.batch(1, 6)
    leader.held("n1")
    assert leader.pump()
    assert serials(leader.engine.last) == [1]


# --- entries --------------------------------------------------------------------------------------


def test_an_idle_leader_proposes_at_once_and_a_busy_one_gathers() -> None:
    """Adaptive group commit: one entry in flight, then one with the batches gathered meanwhile."""
    leader = Leader().opened()
    leader.batch(1)
    assert leader.pump()
    leader.batch(2)
    leader.batch(3)
    assert not leader.pump()
    leader.applied()
    assert leader.pump()
    assert [serials(entry) for entry in leader.engine.entries] == [[1], [2, 3]]
    assert not leader.proposer.idle


def test_it_serves_once_its_first_entry_is_applied_whatever_is_in_flight() -> None:
    """Under load some entry always is: leader duties began seconds late, and no unresponsive client was
    found."""
    leader = Leader()
    leader.ready()
    leader.held("n1")
    leader.pump()
    leader.batch(1)
    leader.pump()
    assert not leader.proposer.serving
    leader.proposer.applied(101)
    leader.batch(2)
    leader.pump()
    assert leader.proposer.serving
    assert not leader.proposer.idle
    leader.proposer.follow()
    assert not leader.proposer.serving


def test_a_full_entry_does_not_wait() -> None:
    """64 KiB justify an entry, as long as few are in flight."""
    leader = Leader().opened()
    leader.batch(1)
    leader.pump()
    serial = 2
    for _ in range(2 * IN_FLIGHT_MAX):
        leader.batch(serial, data=message(ENTRY_BYTES))
        leader.pump()
        serial += 1
    assert len(leader.engine.proposed) == IN_FLIGHT_MAX


def test_origins_take_turns() -> None:
    """R21: an origin that sends a lot doesn't delay the others."""
    leader = Leader().opened()
    for serial in (1, 2, 3):
        leader.batch(serial, data=message(20_000))
    leader.batch(1, node="n2", session=(8, 0), data=message(20_000, "bar"))
    leader.pump()
    first = leader.engine.last
    assert [b"bar" in batch.commands for batch in first.batches] == [False, True, False]
    assert sum(len(batch.commands) for batch in first.batches) <= ENTRY_BYTES


def test_one_large_batch_goes_alone() -> None:
    """The largest possible message fits into an entry, whatever its usual size."""
    leader = Leader().opened()
    leader.batch(1, data=message(1_000_000))
    leader.batch(2)
    leader.pump()
    assert serials(leader.engine.last) == [1]


def test_leader_commands_go_first_in_bounded_numbers() -> None:
    """R19: a new leader may have commands for thousands of clients."""
    leader = Leader().opened()
    for _ in range(LEADER_COMMANDS_MAX + 1):
        leader.proposer.propose_command(Tick(TERM))
    leader.batch(1)
    leader.pump()
    leader.applied()
    leader.pump()
    assert [len(entry.leader_commands) for entry in leader.engine.entries] == [LEADER_COMMANDS_MAX, 1]


def test_leader_commands_go_first_in_bounded_bytes() -> None:
    """Twenty silent clients with IDs of 1 MB, registered by an older release, made an entry no frame can
    hold.
    """
    leader = Leader().opened()
    for number in range(20):
        leader.proposer.propose_command(
            ClientUnresponsive(TERM, f"{number:02}" + "c" * 1_000_000, (1, number), True)
        )
    leader.proposer.propose_command(Tick(TERM))
    leader.proposer.propose_command(Tick(TERM))
    leader.batch(1, data=message(BATCH_SIZE_MAX))
    while leader.pump():
        leader.applied()
    assert [len(entry.leader_commands) for entry in leader.engine.entries] == [1] * 20 + [2]
    assert [len(entry.batches) for entry in leader.engine.entries] == [0] * 20 + [1]
    assert max(map(len, leader.engine.proposed)) <= ENTRY_SIZE_MAX


def test_the_largest_command_an_older_release_left_fits_an_entry() -> None:
    """A client ID of 8 MB was possible: only the maximum payload limited it."""
    leader = Leader().opened()
    leader.proposer.propose_command(ClientUnresponsive(TERM, "c" * (8 << 20), (1, 1), True))
    leader.batch(1, data=message(BATCH_SIZE_MAX))
    leader.pump()
    frame = encode_frame(
        (0, {"type": "append", "entries": [(1 << 62, 1 << 62, b"0" + leader.engine.proposed[0])]})
    )
    assert len(frame) <= FRAME_BYTES_MAX


def test_an_entry_carries_the_time_at_which_it_was_made() -> None:
    """R11: cluster time and timestamp, neither going back."""
    leader = Leader().opened()
    leader.pump(2.0)
    leader.batch(1)
    leader.pump()
    leader.applied()
    leader.batch(2)
    leader.pump(1.0)
    first, second = leader.engine.entries
    assert second.time_ns - first.time_ns == 1_000_000_000
    assert second.timestamp_ns > first.timestamp_ns


def test_a_leader_that_hands_over_proposes_nothing_more() -> None:
    """Origins keep their batches for the next leader."""
    leader = Leader().opened()
    leader.proposer.stop()
    leader.batch(1)
    assert not leader.pump()


def test_what_was_queued_is_gone_with_the_term() -> None:
    """Nothing of an earlier term gets into a later one: origins resend."""
    leader = Leader().opened()
    leader.batch(1)
    leader.proposer.propose_command(Tick(TERM))
    leader.proposer.lead(TERM)
    assert not leader.proposer.open
    leader.ready()
    leader.held("n1")
    leader.pump()
    assert serials(leader.engine.last) == []
    leader.batch(1)
    leader.applied()
    assert leader.pump()


def test_a_leader_elected_again_proposes_again() -> None:
    """A leader whose transfer failed, or that leads again, isn't stopped for ever."""
    leader = Leader().opened()
    leader.proposer.stop()
    leader.batch(1)
    assert not leader.pump()
    leader.proposer.follow()
    leader.proposer.lead(TERM)
    leader.ready()
    leader.held("n1")
    assert leader.pump()
