"""Core and sessions alone: machines and origins around a log, with an unreliable forwarder.

There is no consensus engine, no network and no client protocol, only: a log that loses its uncommitted end
when the leader changes; two or three nodes with the real `Origin`, `Proposer` and `Machine`; frames that are
lost, duplicated and reordered; and nodes that lag, restart and install snapshots. So thousands of steps take
a second, and reach situations that whole nodes reach once in a night: R1 to R8 and R15 to R19.

`ReferenceModel` checks deliveries, as in a simulated cluster. In addition: every request of a living process
gets one reply, with the outcome that the log gave it; no publish is stored twice, or after its session has
ended; nodes that applied the same entries have equal states.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from conversation import check_invariants

from node.core import commands as c
from node.core import dispatch, entries, machine, presence, sessions
from node.core.effects import OK, ClientOpened, Effects, Outcome, Probing, Refused, SubscriptionOpened
from node.core.machine import Machine
from node.core.records import digest, restore, take_changes
from node.core.state import State
from node.protocol.message import message_body
from node.protocol.positions import StartPosition
from node.server.clock import ClusterClock, WallClock
from node.server.origin import Origin
from node.server.proposer import HELD_WAIT_S, Proposer
from node.simulator.raft_checks import ViolationError
from node.simulator.reference_model import ReferenceModel
from node.units import SECOND

STEPS = 2000
HEAL_ROUNDS_MAX = 400
FRAMES_MAX = 5000
"""Maximum number of frames in one round of healing."""
EPOCH_NS = 1_700_000_000 * SECOND


class Unnamed:
    """The key of a request that can't be distinguished from others."""


class Node:
    """A process: an origin and a machine restored from its disk; and a proposer, used while it leads."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.disk: dict[bytes, bytes] = {}
        self.life = 0
        self.start()

    def start(self) -> None:
        """Start a new process from the last checkpoint."""
        world = self.world
        self.life += 1
        self.machine = Machine(restore(sorted(self.disk.items())))
        self.applied = max(self.machine.state.applied, 0)
        self.origin = Origin(self.name, self.forward, world.rng.randbytes)
        self.origin.publish_answered = world.publish_answered
        self.leader: str | None = None
        clock = ClusterClock(lambda: world.now_ns)
        clock.seen(self.state.time_ns)
        self.clock = clock
        self.wall_clock = WallClock(lambda: world.now_ns, lambda: EPOCH_NS + world.now_ns)
        self.wall_clock.seen(self.state.timestamp_ns, self.state.time_ns)
        self.proposer = Proposer(
            world,
            lambda: self.state,
            clock,
            self.wall_clock,
            bootstrap_commands=lambda term: [c.InitCluster(term, "founding", "tag")],
            answer=lambda node, frame: world.send(self.name, node, frame),
        )
        self.unanswered: set[object] = set()

    @property
    def state(self) -> State:
        return self.machine.state

    def forward(self, frame: tuple[Any, ...]) -> None:
        """Send the waiting batches of its origin to the leader."""
        if self.leader == self.name:
            self.proposer.frame(self.name, frame)
        elif self.leader is not None:
            self.world.send(self.name, self.leader, frame)

    def frame(self, sender: str, frame: tuple[Any, ...]) -> None:
        if frame[0] == "again":
            self.origin.resend(frame[1], frame[2])
        else:
            self.proposer.frame(sender, frame)

    def learn(self, leader: str | None) -> None:
        """Learn the leader, after an election or a reconnect."""
        self.leader = leader
        self.origin.leader_changed(self.world.term if leader is not None else None)

    def apply(self) -> None:
        """Apply the next committed entry."""
        self.applied += 1
        payload = self.world.log[self.applied - 1][1]
        if payload is not None:
            effects = self.machine.apply(self.applied, payload)
            self.clock.seen(self.state.time_ns)
            self.wall_clock.seen(self.state.timestamp_ns, self.state.time_ns)
            self.world.check_applied(self, payload, effects)
            for opened in effects.sessions:
                self.origin.opened(opened)
            for replies in (*effects.opened, *effects.replies):
                self.origin.applied(replies)
            session = self.state.sessions.get(self.name)
            if session is not None and session.id == self.origin.session:
                self.origin.applied_to(session.applied)
        self.proposer.applied(self.applied)

    def checkpoint(self) -> None:
        for key, value in take_changes(self.state):
            if value is None:
                self.disk.pop(key, None)
            else:
                self.disk[key] = value
        self.checkpointed = self.applied

    def install(self, other: Node) -> None:
        """Install the state of a node that is ahead. This node never applies the entries in between."""
        self.disk = dict(other.disk)
        self.machine = Machine(restore(sorted(self.disk.items())))
        self.applied = self.state.applied
        self.clock.seen(self.state.time_ns)
        self.wall_clock.seen(self.state.timestamp_ns, self.state.time_ns)
        session = self.state.sessions.get(self.name)
        if session is not None:
            self.origin.restored(session.id, session.nonce, session.applied, session.outcomes)
        self.learn(self.leader)


class World:
    """The log, the forwarder, the requests of clients, and the checks. `Proposer` uses it as its engine."""

    def __init__(self, seed: int, nodes: int) -> None:
        self.rng = random.Random(seed)
        self.now_ns = 5 * SECOND
        self.log: list[tuple[int, bytes | None]] = []
        self.committed = 0
        self.term = 0
        self.leads: str | None = None
        self.commit_when_elected = 0
        self.reference = ReferenceModel()
        self.digests: dict[int, bytes] = {}
        self.effects: dict[int, Effects] = {}
        self.truth: dict[object, Outcome] = {}
        """The outcome of each request in the log, by its key."""
        self.answers: dict[object, Outcome] = {}
        self.frames: list[tuple[str, str, int, tuple[Any, ...]]] = []
        self.published = 0
        self.asked = 0
        self.delivered: list[tuple[str, int]] = []
        self.ready_at = 0
        self.calm = False
        self.now_what: list[Callable[[], None]] = []
        self.nodes = {f"n{number}": Node(self, f"n{number}") for number in range(1, nodes + 1)}

    # --- the engine, as the leader's proposer uses it ----------------------------------------------

    @property
    def is_ready(self) -> bool:
        return self.leads is not None and self.nodes[self.leads].applied >= self.ready_at

    def propose(self, payload: bytes) -> int:
        self.log.append((self.term, payload))
        return len(self.log)

    # --- the forwarder ----------------------------------------------------------------------------

    def send(self, sender: str, receiver: str, frame: tuple[Any, ...]) -> None:
        self.frames.append((sender, receiver, self.nodes[receiver].life, frame))

    def forward(self) -> None:
        """Deliver, lose or duplicate a frame; in order only after all faults have ended."""
        if not self.frames:
            return
        at = 0 if self.calm or self.rng.random() < 0.6 else self.rng.randrange(len(self.frames))
        sender, receiver, life, frame = self.frames.pop(at)
        if not self.calm and self.rng.random() < 0.1:
            return
        if not self.calm and self.rng.random() < 0.1:
            self.frames.append((sender, receiver, life, frame))
        node = self.nodes[receiver]
        if node.life == life:
            node.frame(sender, frame)

    # --- the log ----------------------------------------------------------------------------------

    def elect(self) -> None:
        """Start a new term. A part of the uncommitted entries survives and is committed now."""
        if self.leads is not None:
            self.nodes[self.leads].proposer.follow()
        self.term += 1
        del self.log[self.rng.randint(self.committed, len(self.log)) :]
        far = [name for name, node in self.nodes.items() if node.applied <= self.committed]
        self.leads = self.rng.choice(far)
        leader = self.nodes[self.leads]
        self.commit_when_elected = self.rng.randint(leader.applied, self.committed)
        self.log.append((self.term, None))
        self.ready_at = len(self.log)
        leader.clock.lead()
        leader.proposer.lead(self.term)
        leader.readied = False  # type: ignore[attr-defined]
        leader.learn(self.leads)

    def lead(self) -> None:
        """Run one iteration of the leader's loop."""
        if self.leads is None or not self.is_ready:
            return
        leader = self.nodes[self.leads]
        if not leader.readied:  # type: ignore[attr-defined]
            leader.readied = True  # type: ignore[attr-defined]
            leader.proposer.ready(self.now_ns / SECOND, self.nodes, cold=self.term == 1)
        if leader.proposer.open and leader.proposer.idle and self.needs_time(leader):
            leader.proposer.propose_command(c.Tick(self.term))
        leader.proposer.pump(self.now_ns / SECOND)

    def needs_time(self, leader: Node) -> bool:
        deadline = leader.state.next_deadline()
        return leader.state.marked or (deadline is not None and deadline <= leader.clock.now())

    def commit(self) -> None:
        if self.committed < len(self.log):
            self.committed = self.rng.randint(self.committed + 1, len(self.log))

    def apply(self, node: Node) -> None:
        for _ in range(self.rng.randint(1, 4)):
            if node.applied < self.committed:
                node.apply()

    # --- checks -----------------------------------------------------------------------------------

    def check_applied(self, node: Node, payload: bytes, effects: Effects) -> None:
        """Check an applied entry: later nodes must have the same effects as the first one."""
        index = effects.index
        if index not in self.effects:
            self.effects[index] = effects
            self.digests[index] = digest(node.state)
            self.record_truth(payload, effects)
            self.reference.entry(index, payload, effects, node.state)
            check_invariants(node.state)
            self.check_bounds(effects, node.state)
            for deliver in effects.deliveries:
                ack_inbox = node.state.subscriptions[deliver.subscription].ack_inbox
                self.delivered += [(ack_inbox, seq) for seq in deliver.seqs]
        elif effects != self.effects[index] or digest(node.state) != self.digests[index]:
            raise ViolationError("state machine safety", f"{node.name} differs after entry {index}")

    def record_truth(self, payload: bytes, effects: Effects) -> None:
        for batch in entries.decode_entry(payload).batches:
            for replies in effects.replies:
                if batch.session is None or replies.session != batch.session:
                    continue
                for serial, fields in enumerate(entries.decode_commands(batch.commands), batch.first_serial):
                    if replies.first <= serial <= replies.last:
                        key = request_key(entries.decode_origin(fields))
                        if key is not None:
                            self.truth.setdefault(key, replies.others.get(serial, OK))

    def check_bounds(self, effects: Effects, state: State) -> None:
        """Check R19, and that the leader ticks until no group is marked."""
        sent: dict[int, int] = {}
        for deliver in effects.deliveries:
            group = state.subscriptions[deliver.subscription].group.id
            sent[group] = sent.get(group, 0) + len(deliver.seqs)
        if sum(sent.values()) > dispatch.ENTRY_MESSAGES_MAX + dispatch.GROUP_MESSAGES_MAX:
            raise ViolationError("bounds", f"entry {effects.index} sends {sent}")

    def answered(self, node: Node, life: int, key: object, outcome: Outcome) -> None:
        if node.life != life or key not in node.unanswered:
            raise ViolationError("one answer", f"{key} got a second reply, or one for a dead process")
        node.unanswered.discard(key)
        self.answers[key] = outcome
        if not isinstance(key, Unnamed) and self.truth.get(key) != outcome:
            raise ViolationError(
                "outcome", f"{key}: the reply is {outcome}, the log has {self.truth.get(key)}"
            )

    def publish_answered(self, pending: tuple[Any, ...], outcome: Outcome) -> None:
        _, _, node, life, key = pending  # reply subject and guid come first
        self.answered(node, life, key, outcome)

    # --- requests of clients ----------------------------------------------------------------------

    def submit(self, node: Node, command: c.OriginCommand) -> None:
        key, life = request_key(command) or Unnamed(), node.life
        node.unanswered.add(key)
        if isinstance(command, c.Publish):
            node.origin.submit_publish(command, (b"", b"", node, life, key), entries.encoded_size(command))
            return

        def answer(outcome: Outcome) -> None:
            self.answered(node, life, key, outcome)
            if isinstance(outcome, Probing) and isinstance(command, c.ClientOpen):
                self.now_what.append(lambda: self.decide(node, life, command, outcome))

        node.origin.submit(command, answer)

    def decide(self, node: Node, life: int, command: c.ClientOpen, probing: Probing) -> None:
        """Finish a registration: the client with this ID has answered the probe, or not (R17)."""
        if node.life != life:
            return
        self.asked += 1
        if self.rng.random() < 0.4:
            self.submit(node, c.ClientKeep(probing.client_id, probing.generation))
        else:
            name, _, inbox, *rest = command
            conn_id = b"%d" % self.asked
            self.submit(node, c.ClientReplace(name, probing.generation, conn_id, inbox, *rest))
        node.origin.flush()

    def ask(self) -> None:
        """Let a random client send a request to a random node."""
        rng = self.rng
        node = rng.choice(list(self.nodes.values()))
        if node.origin.full:
            return
        self.asked += 1
        client = f"c{rng.randrange(4)}"
        valid_until = node.clock.now() + rng.choice((0, 2, 2, 2)) * SECOND
        what = rng.random()
        if what < 0.4:
            self.publish(node, client)
        elif what < 0.7 and self.delivered:
            self.ack(node)
        elif what < 0.78:
            conn_id = b"%d" % self.asked
            self.submit(node, c.ClientOpen(client, conn_id, f"hb.{self.asked}", 1, 5, 3, valid_until))
        elif what < 0.8:
            self.submit(node, c.ClientClose(client))
        elif what < 0.93:
            queue = rng.choice(("", "", "q"))
            durable = rng.choice(("", "d"))
            inbox, ack_inbox = f"in.{client}.{rng.randrange(3)}", f"ack.{self.asked}"
            wait_ns, most = rng.choice((1, 3, 9)) * SECOND, rng.choice((1, 4, 50))
            self.submit(
                node,
                c.SubscriptionOpen(
                    client, "foo", queue, durable, inbox, ack_inbox, most, wait_ns,
                    StartPosition.FIRST, 0, 0, valid_until,
                ),
            )  # fmt: skip
        else:
            self.leave(node)
        if rng.random() < 0.7:
            node.origin.flush()

    def publish(self, node: Node, client: str) -> None:
        for _ in range(self.rng.choice((1, 1, 3, 12))):
            self.published += 1
            data = f"{node.name}.{node.life}/{self.published}".encode()
            self.submit(node, c.Publish(client, b"", "foo", message_body("foo", "", data)))

    def ack(self, node: Node) -> None:
        count = min(len(self.delivered), self.rng.choice((1, 3, 10)))
        acked = [self.delivered.pop(self.rng.randrange(len(self.delivered))) for _ in range(count)]
        for ack_inbox, seq in acked:
            seqs = (seq,) if self.rng.random() < 0.9 else (seq, 10_000)
            node.origin.submit(c.Acked("foo", ack_inbox, seqs))
        node.origin.submit(c.Acked("foo", "ack.nobody", (1, 2, 3)))

    def leave(self, node: Node) -> None:
        subscriptions = [sub for sub in node.state.subscriptions.values() if sub.online]
        if subscriptions:
            sub = self.rng.choice(subscriptions)
            if self.rng.random() < 0.5:
                command: c.OriginCommand = c.SubscriptionClose(sub.client_id, "foo", sub.ack_inbox)
            else:
                command = c.Unsubscribe(sub.client_id, "foo", sub.ack_inbox, "")
            node.origin.submit(command)

    def command_as_leader(self) -> None:
        """Propose a leader command: of this term or a past one, about a present or a removed object (R16)."""
        leader = self.nodes[self.leads] if self.leads else None
        if leader is None or not leader.proposer.open or not leader.state.clients:
            return
        rng, state = self.rng, leader.state
        term = self.term if rng.random() < 0.8 else self.term - 1
        client = rng.choice(list(state.clients.values()))
        generation = client.generation if rng.random() < 0.8 else (1, 1)
        since_ns = max(0, state.time_ns - rng.choice((0, 1, 3)) * SECOND)
        back_ns = since_ns + state.applied % 3 * SECOND
        commands: list[Any] = [
            c.ClientAway(term, client.id, generation, since_ns),
            c.ClientBack(term, client.id, generation, since_ns, back_ns),
            c.ClientUnresponsive(term, client.id, generation, rng.random() < 0.5),
        ]
        if rng.random() < 0.1:
            commands.append(c.ClientRemove(term, client.id, generation))
        if client.subscriptions:
            sub = rng.choice(list(client.subscriptions.values()))
            of_sub = sub.generation if rng.random() < 0.8 else (1, 1)
            commands.append(c.SubscriptionAway(term, sub.id, of_sub, since_ns))
            commands.append(c.SubscriptionBack(term, sub.id, of_sub, since_ns, back_ns))
        leader.proposer.propose_command(rng.choice(commands))

    # --- a run ------------------------------------------------------------------------------------

    def step(self) -> None:
        rng = self.rng
        self.now_ns += int(rng.expovariate(1 / 0.03) * SECOND)
        node = rng.choice(list(self.nodes.values()))
        what = rng.random()
        if what < 0.25:
            self.ask()
        elif what < 0.5:
            for _ in range(2):
                self.forward()
        elif what < 0.66:
            self.lead()
            self.commit()
        elif what < 0.84:
            self.apply(node)
        elif what < 0.88:
            self.command_as_leader()
        elif what < 0.92:
            node.learn(self.leads if rng.random() < 0.8 else None)
        elif what < 0.945:
            node.checkpoint()
        elif what < 0.953:
            self.elect()
        elif what < 0.963:
            self.restart(node)
        elif self.now_what:
            self.now_what.pop(rng.randrange(len(self.now_what)))()
        else:
            self.snapshot(node)

    def restart(self, node: Node) -> None:
        if node.name == self.leads:
            self.leads = None
        node.start()

    def snapshot(self, node: Node) -> None:
        others = [other for other in self.nodes.values() if other.disk and node.name != self.leads]
        if others:
            other = self.rng.choice(others)
            if restore(sorted(other.disk.items())).applied > node.applied:
                node.install(other)

    def heal(self) -> None:
        """End all faults. Every request must get its reply, and all nodes must reach the same state."""
        self.calm = True
        self.elect()
        for node in self.nodes.values():
            node.origin.flush()
        for round_ in range(HEAL_ROUNDS_MAX):
            self.now_ns += int(HELD_WAIT_S * SECOND)
            if round_ < 2:
                for node in self.nodes.values():
                    node.learn(self.leads)
            while self.now_what:
                self.now_what.pop()()
            for _ in range(FRAMES_MAX):
                self.forward()
            if self.frames:
                raise ViolationError("liveness", "frames go to and fro for ever")
            self.lead()
            self.committed = len(self.log)
            for node in self.nodes.values():
                while node.applied < self.committed:
                    node.apply()
            if round_ > 3 and not any(node.unanswered or node.origin.waits for node in self.nodes.values()):
                break

    def finish(self) -> None:
        for node in self.nodes.values():
            if node.unanswered:
                raise ViolationError(
                    "liveness", f"{node.name} never answered {sorted(map(str, node.unanswered))[:5]}"
                )
        if len({digest(node.state) for node in self.nodes.values()}) != 1:
            raise ViolationError("convergence", "the nodes end in different states")
        for key, outcome in self.answers.items():
            if isinstance(key, bytes) and (outcome is OK or outcome == OK) != (key in self.reference.stored):
                raise ViolationError("durability", f"{key!r} was answered with {outcome}")


def request_key(command: c.OriginCommand) -> object:
    """Return the key of a request, however often it is sent; None if others may be equal."""
    match command:
        case c.Publish(_, _, _, body):
            from node.protocol.streaming import decode_message

            return decode_message(body).data
        case c.SubscriptionOpen(ack_inbox=ack_inbox):
            return ack_inbox
        case c.ClientOpen(conn_id=conn_id) | c.ClientReplace(conn_id=conn_id):
            return (type(command).__name__, conn_id)
        case _:
            return None


def run(seed: int) -> World:
    world = World(seed, 2 + seed % 2)
    world.elect()
    for _ in range(STEPS):
        world.step()
    world.heal()
    world.finish()
    return world


@pytest.fixture(autouse=True)
def _small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small bounds, so that work is left for later entries (R19)."""
    monkeypatch.setattr(dispatch, "ENTRY_MESSAGES_MAX", 20)
    monkeypatch.setattr(dispatch, "GROUP_MESSAGES_MAX", 7)


@pytest.mark.parametrize("block", range(6))
def test_invariants_hold(block: int) -> None:
    for seed in range(block * 5, block * 5 + 5):
        try:
            run(seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def test_soak(soak_seconds: float) -> None:
    import time

    end = time.monotonic() + soak_seconds / 4
    seed = 1_000_000
    while time.monotonic() < end:
        run(seed)
        seed += 1
    if not soak_seconds:
        pytest.skip("takes as long as --soak-seconds says")


def test_what_happens_in_a_run() -> None:
    """Requests of all kinds succeed, and fail."""
    worlds = [run(seed) for seed in range(100, 104)]
    outcomes = {type(outcome) for world in worlds for outcome in world.truth.values()}
    assert outcomes >= {type(OK), Refused, ClientOpened, SubscriptionOpened, Probing}
    assert all(len(world.reference.stored) > 30 for world in worlds)
    assert sum(world.reference.applied for world in worlds) > 200


# --- tests of the checkers: remove a rule and expect a violation ----------------------------------


def _taken_again(patch: pytest.MonkeyPatch) -> None:
    """Let the leader accept batches twice, which alone is harmless."""
    take = Proposer._take

    def take_again(self: Proposer, node: str, frame: tuple[Any, ...]) -> None:
        queue = self._queue(node)
        if queue.session == frame[2]:
            queue.taken = min(queue.taken, frame[3] - 1)
        take(self, node, frame)

    patch.setattr(Proposer, "_take", take_again)


def _applied_again(patch: pytest.MonkeyPatch) -> None:
    _taken_again(patch)
    patch.setattr(sessions, "skip_seen", lambda session, first, count: 0)


def _ended_sessions_are_trusted(patch: pytest.MonkeyPatch) -> None:
    find = sessions.find_session

    def find_session(state: State, session_id: tuple[int, int]) -> Any:
        return find(state, session_id) or next(iter(state.sessions.values()), None)

    patch.setattr(sessions, "find_session", find_session)


def _gaps_reach_the_log(patch: pytest.MonkeyPatch) -> None:
    take = Proposer._take

    def take_anything(self: Proposer, node: str, frame: tuple[Any, ...]) -> None:
        self._queue(node).session, self._queue(node).taken = frame[2], frame[3] - 1
        take(self, node, frame)

    patch.setattr(Proposer, "_take", take_anything)


def _outcomes_are_not_kept(patch: pytest.MonkeyPatch) -> None:
    restored = Origin.restored

    def without(self: Origin, session: Any, nonce: bytes, applied: int, outcomes: dict[int, Outcome]) -> None:
        restored(self, session, nonce, applied, {})

    patch.setattr(Origin, "restored", without)


def _past_leaders_are_obeyed(patch: pytest.MonkeyPatch) -> None:
    apply = machine.apply_leader_command

    def obey(turn: Any, command: Any) -> None:
        apply(turn, command if isinstance(command, c.NewTerm) else command._replace(term=turn.state.term))

    patch.setattr(machine, "apply_leader_command", obey)


def _generations_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(presence, "find_client", lambda state, client_id, generation: state.clients.get(client_id))


def _sessions_restart_at_serial_1(patch: pytest.MonkeyPatch) -> None:
    opened = Origin.opened

    def opened_again(self: Origin, effect: Any) -> None:
        if effect.nonce == self._nonce:
            self._session = None
        opened(self, effect)

    patch.setattr(Origin, "opened", opened_again)


def _nothing_is_resent(patch: pytest.MonkeyPatch) -> None:
    def leader_changed(self: Origin, term: int | None) -> None:
        self._term = term
        if term is not None and self._session is None:
            self._open()
            self._forward_unsent()

    patch.setattr(Origin, "leader_changed", leader_changed)
    patch.setattr(Origin, "resend", lambda self, term, serial: None)


def _an_entry_has_no_bounds(patch: pytest.MonkeyPatch) -> None:
    work_off = dispatch._work_off
    patch.setattr(
        dispatch, "_work_off", lambda turn, marked, send, budget: work_off(turn, marked, send, 1 << 30)
    )


MUTATIONS = {
    "each request once (R5)": (_applied_again, 20),
    "ended sessions stay ended (R5)": (_ended_sessions_are_trusted, 120),
    "a session is opened once (R5)": (_sessions_restart_at_serial_1, 60),
    "outcomes are kept (R6)": (_outcomes_are_not_kept, 60),
    "no gaps (R7)": (_gaps_reach_the_log, 20),
    "what is not applied is resent (R8)": (_nothing_is_resent, 20),
    "the term of a leader command (R16)": (_past_leaders_are_obeyed, 20),
    "the generation in a leader command (R16)": (_generations_are_not_compared, 20),
    "bounded entries (R19)": (_an_entry_has_no_bounds, 60),
}
"""The removed rule, and the number of seeds within which a violation must be found."""


def test_a_leader_that_takes_batches_twice_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: apply skips commands that it has applied before, whatever the leader does."""
    _taken_again(monkeypatch)
    for seed in range(10):
        run(seed)


@pytest.mark.parametrize("rule", MUTATIONS)
def test_without_a_rule_something_breaks(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_away, seeds = MUTATIONS[rule]
    take_away(monkeypatch)
    for seed in range(seeds):
        try:
            run(seed)
        except (ViolationError, AssertionError, KeyError, RecursionError):
            return
    pytest.fail(f"{seeds} seeds without {rule}, and no violation")
