"""The parts of a node together: catching up (R4), and frames between a leader and its followers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from conversation import Conversation

from node.core.commands import (
    LeaderCommand,
    NewTerm,
    RecoverCluster,
    SessionEnd,
)
from node.core.effects import Refused
from node.core.entries import (
    Batch,
    Entry,
    decode_entry,
    decode_leader_command,
    encode_entry,
    encode_leader_command,
)
from node.core.refusals import NO_LEADER
from node.core.state import Client, State
from node.core.versions import (
    MACHINE_VERSION,
)
from node.errors import CorruptionError, RemoteProtocolError
from node.protocol.message import message
from node.protocol.peer import WIRE_VERSION, decode_body
from node.protocol.streaming import PingRequest, encode_ping
from node.raft.membership import Membership
from node.server.replica import HOLD_ALONE_S, HOLD_S, Replica
from node.server.routing import Routing
from node.server.streaming import Subjects
from node.server.system import System
from node.store.memory import MemoryStore
from node.units import Index

ELECTION_MIN_S = 0.3
DEEP = decode_body(bytes([WIRE_VERSION]) + b"\x91" * 1023 + b"\x01")
"""As deep as a frame may be, and too deep for ``repr``."""
TERM = 4


class Engine:
    """An engine whose position the test sets."""

    def __init__(self) -> None:
        self.term = self.applied_term = TERM
        self.leader: str | None = None
        self.is_ready = False
        self.is_changing = False
        self.proposed: list[tuple[int, bytes]] = []
        self.commit_index = self.applied_index = self.last_index = self.commit_when_elected = 0

    def peer_states(self) -> list[Any]:
        return []

    def propose(self, payload: bytes) -> int:
        self.last_index += 1
        self.proposed.append((self.last_index, payload))
        return self.last_index


class Node:
    """A replica with a clock that the test sets."""

    def __init__(
        self, *, recovered: tuple[str, str] | None = None, bootstrapped: list[str] | None = None
    ) -> None:
        self.now_s = 100.0
        self.sent: list[tuple[str, Any]] = []
        self.kicks = 0
        self.engine = Engine()
        self.replica = Replica(
            "n1",
            Subjects.of("test-cluster"),
            State(cluster_uuid="founded", cluster_tag="tag"),
            MemoryStore(),
            routing=Routing("n1", send=lambda peer, value: None),
            host=System(lambda: int(self.now_s * 1e9), lambda: int(self.now_s * 1e9), bytes),
            send=self._send,
            kick=self._kick,
            bootstrapped=lambda state: (
                None if bootstrapped is None else bootstrapped.append(state.cluster_uuid)
            ),
            caught_up=lambda: None,
            changed=lambda: None,
            election_min_s=ELECTION_MIN_S,
            recovered=recovered,
        )
        self.replica.attach(self.engine)

    def _kick(self) -> None:
        self.kicks += 1

    def _send(self, peer: str, value: Any) -> bool:
        self.sent.append((peer, value))
        return True

    def follow(self, leader: str | None, term: int = TERM) -> None:
        self.engine.leader, self.engine.term, self.engine.applied_term = leader, term, term
        self.replica.role_changed("follower", term, leader, "the test says so")

    def frame(self, commit: int, leader: str = "n2") -> None:
        """Receive an append of the leader, which applies everything up to ``commit``."""
        self.replica.leader_payload_received(leader, (int(self.now_s * 1e9), int(self.now_s * 1e9)))
        self.replica.commit_learned(commit, self.engine.term)
        self.engine.applied_index = self.engine.commit_index = commit
        self.replica.applied_to(commit, self.engine.term)

    @property
    def questions(self) -> list[tuple[str, int]]:
        return [(peer, value[1]) for peer, value in self.sent if value[0] == "where"]


@pytest.fixture
def node() -> Node:
    """A follower of n2 that has caught up."""
    node = Node()
    for peer in ("n2", "n3"):
        node.replica.peer_up(peer, {})
    node.follow("n2")
    node.frame(10)
    assert node.replica.caught_up
    assert not node.questions
    return node


def test_frames_from_before_a_suspension_do_not_end_it(node: Node) -> None:
    """A suspended process finds old frames in its sockets, so it asks for the leader's commit index."""
    node.now_s += 3
    node.replica.paused(3)
    ((peer, question),) = node.questions
    assert peer == "n2"
    for commit in (11, 12, 13):
        node.frame(commit)
        assert not node.replica.caught_up, "the frame may be as old as the pause"
    node.replica.frame("n2", ("here", question, TERM, 14))
    assert not node.replica.caught_up
    node.frame(14)
    assert node.replica.caught_up
    assert not node.replica.executor.held


def test_an_unresponsive_clients_ping_at_the_leader_is_handled_at_once(node: Node) -> None:
    """HBT-06: the ping comes over a client's connection; a follower's frame would have woken the driver."""
    pinged: list[str] = []
    duties: Any = SimpleNamespace(heartbeats=SimpleNamespace(pinged=pinged.append))
    node.replica.duties = duties
    client = Client("me", (1, 1), b"conn", "hb", 1, 5, 3, unresponsive=True)
    node.replica.state.by_conn[b"conn"] = node.replica.state.clients["me"] = client
    before = node.kicks
    payload = encode_ping(PingRequest(b"conn"))
    node.replica.routing.publish(None, b"_STAN.discover.test-cluster.pings", b"reply", b"", payload)
    assert pinged == ["me"]
    assert node.kicks > before


def test_timeouts_do_not_run_while_the_process_is_suspended(node: Node) -> None:
    """R17: the client's answer may be in a socket that was not read yet."""
    missed: list[str] = []
    node.replica.requests.ask("hb", lambda: None, lambda: missed.append("hb"), 0.5)
    node.now_s += 3
    node.replica.paused(3)
    node.replica.requests.tick()
    assert not missed
    node.now_s += 0.6
    node.replica.requests.tick()
    assert missed


def test_gap_between_frames_is_a_pause_too(node: Node) -> None:
    node.now_s += ELECTION_MIN_S
    node.frame(11)
    assert not node.replica.caught_up
    ((_, question),) = node.questions
    node.replica.frame("n2", ("here", question, TERM, 11))
    assert node.replica.caught_up


def test_answer_to_an_earlier_question_is_none(node: Node) -> None:
    node.replica.paused(3)
    node.replica.paused(3)
    (_, first), (_, second) = node.questions
    node.replica.frame("n2", ("here", first, TERM, 10))
    assert not node.replica.caught_up
    node.replica.frame("n2", ("here", second, TERM - 1, 10))
    node.replica.frame("n3", ("here", second, TERM, 10))
    assert not node.replica.caught_up, "another leader's"
    node.replica.frame("n2", ("here", second, TERM, 10))
    assert node.replica.caught_up


def test_question_is_put_again(node: Node) -> None:
    """To the next leader at once; to the same one when its link is back, or without an answer."""
    node.replica.paused(3)
    node.follow("n3", TERM + 1)
    node.replica.peer_down("n3")
    node.replica.peer_up("n3", {})
    assert [peer for peer, _ in node.questions] == ["n2", "n3", "n3"]
    assert node.replica.pump() <= node.now_s + ELECTION_MIN_S
    node.now_s += ELECTION_MIN_S
    node.replica.pump()
    assert len(node.questions) == 4
    node.replica.frame("n3", ("here", node.questions[-1][1], TERM + 1, 10))
    node.now_s += ELECTION_MIN_S
    node.replica.pump()
    assert len(node.questions) == 4


def test_deposed_leader_forgets_what_it_meant_to_prove(node: Node) -> None:
    """It was suspended as a leader; the index it waited for is now an old entry of another leader."""
    node.engine.leader, node.engine.is_ready = "n1", True
    node.replica.role_changed("leader", TERM + 1, "n1", "elected")
    node.engine.term = TERM + 1
    node.replica.pump()  # ready
    node.replica.paused(3)
    node.follow("n3", TERM + 2)
    for commit in range(11, 20):
        node.frame(commit, leader="n3")
        assert not node.replica.caught_up


def test_only_a_leader_that_knows_answers(node: Node) -> None:
    def answers() -> list[Any]:
        return [value for _, value in node.sent if value[0] == "here"]

    node.replica.frame("n3", ("where", 7))
    assert not answers()
    node.engine.leader, node.engine.is_ready, node.engine.commit_index = "n1", True, 42
    node.replica.role_changed("leader", TERM + 1, "n1", "elected")
    node.replica.frame("n3", ("where", 7))
    assert answers() == [("here", 7, TERM + 1, 42)]
    node.replica.read_index.hold()
    node.replica.frame("n3", ("where", 8))
    assert len(answers()) == 1, "it may have been deposed while it stood still"


def test_a_follower_that_lost_acknowledged_entries_stops(node: Node) -> None:
    """Only the leader can detect it. The node's vote could elect a leader that lacks acknowledged entries."""
    node.replica.lost_entries("n3", 12, 10)
    assert node.sent[-1] == ("n3", ("lost", 12, 10))
    node.replica.role_changed("follower", TERM, "n2", "a leader")
    node.replica.frame("n3", ("lost", 12, 10))  # not the leader
    node.engine.last_index = 12
    node.replica.frame("n2", ("lost", 12, 10))  # this node's log has the entry
    node.engine.last_index = 10
    with pytest.raises(
        CorruptionError, match=r"entry 12 to the leader n2, but its log ends at 10: .*cluster replace n1 NEW"
    ):
        node.replica.frame("n2", ("lost", 12, 10))


def test_followers_know_how_wrong_their_wall_clock_is(node: Node) -> None:
    """R13: the leader's frames carry the median."""
    now_ns = int(node.now_s * 1e9)
    node.replica.leader_payload_received("n2", (now_ns, now_ns - 20_000_000_000))
    assert node.replica.wall_clock.wrong
    assert node.replica.wall_clock.offset_ns == 20_000_000_000


def test_a_leader_without_an_earlier_leaders_time_uses_its_voters_times(node: Node) -> None:
    """R12: the times that they had before its election, not those from its own frames."""
    fresh = Node()
    fresh.engine.term = TERM + 1
    fresh.replica.follower_payload_received("n2", (0, True, (50_000_000_000, TERM)))
    fresh.replica.follower_payload_received("n3", (0, True, None))
    fresh.engine.leader, fresh.engine.is_ready = "n1", True
    fresh.replica.role_changed("leader", TERM + 1, "n1", "elected")
    fresh.replica.follower_payload_received("n3", (0, True, (90_000_000_000, TERM + 1)))
    assert fresh.replica.clock.now() == 0
    fresh.replica.pump()
    assert fresh.replica.clock.now() == 50_000_000_000
    assert node.replica.follower_payload()[2] is not None, "it heard the leader"


# --- members --------------------------------------------------------------------------------------

THREE = Membership.initial_voters(["n1", "n2", "n3"])


def test_requests_for_the_leader_are_sent_to_it(node: Node) -> None:
    """The next leader is asked as soon as it is reachable; this node's own handlers wait until it serves."""
    answers: list[Any] = []
    node.replica.asking.ask("cluster.remove", {"name": "n9"}, answers.append)
    peer, (kind, number, verb, _) = node.sent[-1]
    assert (peer, kind, verb) == ("n2", "ask", "cluster.remove")
    node.follow("n3", TERM + 1)
    assert node.sent[-1] == ("n3", ("ask", number, verb, '{"name": "n9"}'))
    node.replica.frame("n3", ("told", number, '{"ok": 1}'))
    assert answers == [{"ok": 1}]
    node.replica.frame("n3", ("ask", 5, verb, '{"name": "n9"}'))
    assert node.sent[-1][1][0] != "told", "it doesn't lead"
    for frame in [("told", number), DEEP, ("lost", DEEP, DEEP), ("ask", 5, verb, "[" * 100_000)]:
        with pytest.raises(RemoteProtocolError):
            node.replica.frame("n3", frame)


def test_a_malformed_heartbeat_payload_is_ignored(node: Node) -> None:
    """However deeply nested it is."""
    for note in (None, (), DEEP):
        node.replica.leader_payload_received("n2", note)
        node.replica.follower_payload_received("n2", note)


def test_only_members_decide_whether_the_start_is_cold(node: Node) -> None:
    """R13, R14: the clocks of other nodes don't count either."""
    node.replica.follower_payload_received("n3", (0, True, None))
    node.replica.membership_changed(THREE, Index(0))
    node.replica.follower_payload_received("n4", (0, True, None))
    assert node.replica._members_that_served == {"n3": True}
    node.replica.membership_changed(THREE.without("n3"), Index(9))
    assert node.replica._members_that_served == {}


def test_a_member_whose_session_was_ended_opens_another(node: Node) -> None:
    """R5: it was removed for a while. In the simulator the clients of such a node stayed unreachable for
    ever."""

    def apply(index: int, duties: list[LeaderCommand], batches: list[Batch]) -> None:
        entry = Entry(
            MACHINE_VERSION, index, index, [encode_leader_command(command) for command in duties], batches
        )
        node.replica.apply(index, TERM, encode_entry(entry))

    def opened() -> list[bytes]:
        taken = [value[2] for _, value in node.sent if value[0] == "open"]
        node.sent.clear()
        return taken

    node.replica.membership_changed(THREE, Index(0))
    apply(11, [NewTerm(TERM, 0)], [Batch(None, 0, 0, opened()[0])])
    session = node.replica.origin.session
    assert session is not None
    node.replica.membership_changed(THREE.without("n1"), Index(12))
    apply(13, [SessionEnd(TERM, "n1", session)], [])
    assert opened() == []  # no member, no session
    node.replica.membership_changed(THREE, Index(14))
    apply(15, [], [])
    again = opened()
    assert len(again) == 1
    apply(16, [], [Batch(None, 0, 0, again[0])])
    assert node.replica.origin.session not in {None, session}


def lead(node: Node) -> list[list[Any]]:
    """Elect the node and let it serve. Returns the leader commands of its entries, as they are applied."""
    entries: list[list[Any]] = []
    node.engine.leader, node.engine.is_ready, node.engine.term = "n1", True, TERM + 1
    node.replica.role_changed("leader", TERM + 1, "n1", "elected")
    for _ in range(6):
        node.now_s += 0.2
        node.replica.pump()
        proposed, node.engine.proposed = node.engine.proposed, []
        for index, payload in proposed:
            entries.append(
                [decode_leader_command(fields) for fields in decode_entry(payload).leader_commands]
            )
            node.replica.apply(index, TERM + 1, payload)
    return entries


def test_recovered_data_gets_its_new_cluster_uuid_once() -> None:
    """The leader proposes it with its second entry, and the shell is notified when it is applied."""
    bootstrapped: list[str] = []
    node = Node(recovered=("new", "founded"), bootstrapped=bootstrapped)
    assert bootstrapped == ["founded"]
    entries = lead(node)
    recover_commands = [
        command for entry in entries for command in entry if isinstance(command, RecoverCluster)
    ]
    assert recover_commands == [RecoverCluster(TERM + 1, "new", "founded")]
    assert bootstrapped == ["founded", "new"]
    assert node.replica.state.cluster_tag == "tag"
    again = Node()
    assert not any(isinstance(command, RecoverCluster) for entry in lead(again) for command in entry)


def test_a_leader_takes_requests_once_it_serves(node: Node) -> None:
    node.replica.membership_changed(THREE, Index(0))
    node.replica.reconfiguration.committed = THREE
    node.sent.clear()
    lead(node)
    node.replica.frame("n3", ("ask", 5, "cluster.remove", '{"name": "n9"}'))
    node.replica.pump()
    assert ("n3", ("told", 5, '{"ok": {"name": "n9", "role": "none", "changed": false}}')) in node.sent


# --- without a leader (R8) --------------------------------------------------------------------------


MEMBERS = Membership.initial_voters(["n1", "n2", "n3"])


def test_requests_are_kept_through_an_election_and_refused_after_it(node: Node) -> None:
    """A majority is linked: a leader may be elected any moment."""
    node.replica.membership_changed(MEMBERS, Index(1))
    node.follow(None, TERM + 1)
    node.now_s += HOLD_S - 0.1
    node.replica.pump()
    assert node.replica.origin.refusal is None
    node.now_s += 0.2
    node.replica.pump()
    assert node.replica.origin.refusal == Refused(NO_LEADER)
    node.follow("n2", TERM + 2)
    assert node.replica.origin.refusal is None


def test_without_a_majority_requests_are_refused_soon(node: Node) -> None:
    node.replica.membership_changed(MEMBERS, Index(1))
    node.replica.peer_down("n2")
    node.replica.peer_down("n3")
    node.now_s += HOLD_ALONE_S - 0.01
    assert node.replica.pump() <= node.now_s + 0.02, "it wants to be called when it is time"
    assert node.replica.origin.refusal is None
    node.now_s += 0.02
    node.replica.pump()
    assert node.replica.origin.refusal == Refused(NO_LEADER)


def test_a_leader_without_a_majority_takes_no_requests(node: Node) -> None:
    """Its proposals could be committed later, although its clients got an error."""
    node.replica.membership_changed(MEMBERS, Index(1))
    lead(node)
    assert node.replica.takes_requests
    node.replica.peer_down("n2")
    assert node.replica.takes_requests
    node.replica.peer_down("n3")
    assert not node.replica.takes_requests
    node.now_s += HOLD_ALONE_S
    node.replica.pump()
    assert node.replica.origin.refusal is not None
    node.replica.peer_up("n3", {})
    assert node.replica.takes_requests
    assert node.replica.origin.refusal is None


def test_a_snapshot_brings_another_past_to_compare(node: Node) -> None:
    """R30: digests from before the snapshot are not of this state."""
    node.replica.membership_changed(Membership.initial_voters(["n1", "n2", "n3"]), Index(0))
    node.replica.divergence.applied(State(milestone=(4096, b"never compared")))
    node.replica.installed(State(cluster_uuid="founded", cluster_tag="tag"), MemoryStore(), since=0)
    for peer in ("n2", "n3"):
        node.replica.frame(peer, ("state", [(4096, b"another")]))


def test_a_snapshot_leaves_no_delivery_to_its_ack_wait(node: Node) -> None:
    """R6: messages that skipped entries dispatched to clients of this node are delivered at once."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("in", mif=100)
    since = talk.index
    store = MemoryStore()
    stored = talk.publish(2).effects.stored[0]
    bodies = enumerate(stored.bodies, stored.first)
    store.put(stored.channel, stored.first, [message(seq, stored.timestamp_ns, body) for seq, body in bodies])
    got: list[bytes] = []

    class Receiver:
        """A client of this node that subscribes to every inbox, and its connection."""

        writable, closed, written, outbox_bytes = True, False, 0, 0

        @property
        def connection(self) -> Receiver:
            return self

        def deliver(self, subject: bytes, payload: bytes) -> None:
            got.append(subject)

    receiver = Receiver()
    node.replica.executor._receivers = lambda inbox: [receiver]
    node.replica.installed(talk.state, store, since)
    assert got == [b"in", b"in"]


def test_a_majority_is_linked_with_half_of_the_others(node: Node) -> None:
    node.replica.membership_changed(Membership.initial_voters(["n1", "n2", "n3", "n4", "n5"]), Index(1))
    assert node.replica.has_majority_linked, "three of five"
    node.replica.peer_down("n3")
    assert not node.replica.has_majority_linked, "two of five"
