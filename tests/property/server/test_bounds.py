"""Whatever clients do, every frame between nodes and every entry of the log stays within its bounds.

Two nodes with all their parts but the consensus engine, whose log is committed at once. Bounds are scaled
down by 32, and so is what clients may send: so the bounds are met, and things are split, in every example.
The state begins with what the first release took: names as long as a message may be."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.core import clients
from node.core.commands import ClientOpen, Command, InitCluster, SessionOpen, SubscriptionOpen
from node.core.entries import Batch, Entry, encode_commands, encode_entry, encode_leader_command
from node.core.state import State
from node.errors import UnavailableError
from node.protocol import nats, peer, subjects
from node.protocol import streaming as stan
from node.protocol.peer import FrameDecoder
from node.raft.membership import Membership
from node.server import interest, origin, proposer, routing, streaming, subscriptions
from node.server.auth import Authenticator
from node.server.connection import Connection
from node.server.context import ClientLimits, Context, ServerInfo
from node.server.replica import Replica
from node.server.streaming import Subjects
from node.server.system import System
from node.store.memory import MemoryStore
from node.units import Index

SCALE = 32
PAYLOAD = (8 << 20) // SCALE
LINE = (1 << 20) // SCALE
FRAME = (16 << 20) // SCALE
ITEMS = 128
"""Of an array in a frame. (65,536 by 32 would still be more than a quick test can make.)"""
ENTRY = FRAME - (64 << 10) // SCALE
NAME = 1024 // SCALE
BOUNDS = (
    (peer, "FRAME_BYTES_MAX", FRAME),
    (proposer, "ENTRY_BYTES", proposer.ENTRY_BYTES // SCALE),
    (proposer, "ENTRY_SIZE_MAX", ENTRY),
    (proposer, "BATCH_SIZE_MAX", PAYLOAD + (64 << 10) // SCALE),
    (proposer, "LEADER_COMMANDS_MAX", 16),
    (origin, "BATCH_BYTES", origin.BATCH_BYTES // SCALE),
    (origin, "UNAPPLIED_BYTES_MAX", origin.UNAPPLIED_BYTES_MAX // SCALE),
    (subscriptions, "FAN_OUT_MAX", 100),
    (routing, "GROUPS_MAX", 31),
    (routing, "GROUPS_SMALL", 4),
    (routing, "GROUP_BYTES_MAX", routing.GROUP_BYTES_MAX // SCALE),
    (routing, "GROUP_BYTES_SMALL", routing.GROUP_BYTES_SMALL // SCALE),
    (interest, "ITEMS_MAX", 60),
    (interest, "ITEM_BYTES_MAX", LINE),
    (subjects, "NAME_SIZE_MAX", NAME),
    (streaming, "NAME_SIZE_MAX", NAME),
    (streaming, "PAYLOAD_SIZE_MAX", PAYLOAD),
    (streaming, "ACKS_GATHERED_MAX", streaming.ACKS_GATHERED_MAX // SCALE),
    (streaming, "CLIENTS_PER_CONNECTION_MAX", 8),
    (clients, "CLIENTS_MAX", 40),
)
NODES = ("n1", "n2")


@contextmanager
def scaled_down() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, bound, value in BOUNDS:
            patch.setattr(module, bound, value)
        patch.setattr(proposer, "refused_batch", _no_batch_is_too_large)
        yield


def _no_batch_is_too_large(count: int) -> bytes:
    raise AssertionError(f"a batch of {count} commands is too large")


def sent_and_received(value: Any) -> Any:
    """What the other node makes of a frame, which has to fit.

    Raises:
        FrameError: the link would break.
    """
    decoder = FrameDecoder(FRAME, ITEMS)
    (received,) = decoder.feed(peer.encode_frame(value))
    return received


class Engine:
    """The log of both nodes, as one of them sees it."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self._world = world
        self.is_changing = False
        self.applied_index = 0
        self.commit_when_elected = 0

    @property
    def term(self) -> int:
        return self._world.term

    applied_term = term

    @property
    def leader(self) -> str:
        return self._world.leader

    @property
    def is_ready(self) -> bool:
        return self.leader == self.name

    @property
    def last_index(self) -> int:
        return len(self._world.log)

    commit_index = last_index

    def peer_states(self) -> list[Any]:
        return []

    def propose(self, payload: bytes) -> int:
        if not self.is_ready:
            raise UnavailableError("not the leader")
        assert len(payload) <= ENTRY, "an entry that no frame can hold"
        term, index = self._world.term, len(self._world.log) + 1
        entries = [(1 << 62, 1 << 62, b"0" + payload)]
        append = {"type": "append", "x": (1 << 62, 1 << 62), "term": 1 << 62, "prev": 1 << 62}
        sent_and_received((0, append | {"prev_term": 1 << 62, "commit": 1, "entries": entries, "ask": True}))
        self._world.log.append((term, payload))
        return index


class World:
    """Two nodes, their clients, and what is on its way between them."""

    def __init__(self, old: list[Command]) -> None:
        self.now_s = 100.0
        self.term = 1
        self.leader = "n1"
        self.log: list[tuple[int, bytes]] = []
        self.frames: deque[tuple[str, str, str, Any]] = deque()
        self.numbers = count(1)
        self.replicas = {name: self._replica(name) for name in NODES}
        self.clients: list[Client] = []
        self._take_over_state(old)
        for name, replica in self.replicas.items():
            (other,) = {*NODES} - {name}
            replica.peer_up(other, {})
            replica.routing.peer_up(other)
        self.lead("n1")

    def _replica(self, name: str) -> Replica:
        def send(other: str, value: Any) -> bool:
            self.frames.append((name, other, "raft", sent_and_received((0, value))[1]))
            return True

        replica = Replica(
            name,
            Subjects.of("c"),
            State(),
            MemoryStore(),
            routing=routing.Routing(
                name,
                send=lambda other, value: self.frames.append(
                    (name, other, "route", sent_and_received(value))
                ),
            ),
            host=System(
                lambda: int(self.now_s * 1e9),
                lambda: int(self.now_s * 1e9),
                lambda size: next(self.numbers).to_bytes(size),
            ),
            send=send,
            kick=lambda: None,
            bootstrapped=lambda _state: None,
            caught_up=lambda: None,
            changed=lambda: None,
            election_min_s=0.3,
        )
        replica.membership_changed(Membership.initial_voters(NODES), Index(0))
        replica.attach(Engine(name, self))  # type: ignore[arg-type]
        return replica

    def _take_over_state(self, old: list[Command]) -> None:
        """The log of the first release: it took any names, and entries that a node alone commits."""
        session = Batch(None, 0, 0, encode_commands([SessionOpen("n0", b"nonce")]))
        leader_commands = [encode_leader_command(InitCluster(1, "founding", "T" * 22))]
        self.log.append((1, encode_entry(Entry(1, 1, 1, leader_commands, [session]))))
        for number, command in enumerate(old, 1):
            batch = Batch((1, 1), number, number, encode_commands([command]))
            self.log.append((1, encode_entry(Entry(1, 1, 1, [], [batch]))))
        self.settle()

    def lead(self, name: str) -> None:
        self.term += 1
        self.leader = name
        for replica in self.replicas.values():
            engine: Any = replica.engine
            engine.commit_when_elected = len(self.log)
            role = "leader" if replica.node == name else "follower"
            replica.role_changed(role, self.term, name, "the test says so")
        self.settle()

    def later(self, seconds: float) -> None:
        self.now_s += seconds
        self.settle()

    def settle(self) -> None:
        """Until nothing more happens."""
        busy = True
        while busy:
            busy = False
            for name, replica in self.replicas.items():
                engine: Any = replica.engine
                while engine.applied_index < len(self.log):
                    engine.applied_index += 1
                    term, payload = self.log[engine.applied_index - 1]
                    replica.apply(engine.applied_index, term, payload)
                    busy = True
                before = len(self.log)
                if self.term > 1:
                    replica.pump()
                busy = busy or len(self.log) > before or replica.routing.works
                for client in getattr(self, "clients", ()):
                    busy = (client.node == name and client.go_on()) or busy
            while self.frames:
                busy = True
                source, target, link, value = self.frames.popleft()
                if link == "raft":
                    self.replicas[target].frame(source, value)
                else:
                    self.replicas[target].routing.peer_frame(source, value)

    def client(self, node: str) -> Client:
        client = Client(self, node, len(self.clients) + 1)
        self.clients.append(client)
        return client


class Client:
    """A connection, and what it has been told."""

    def __init__(self, world: World, node: str, number: int) -> None:
        self.node = node
        replica = world.replicas[node]
        context = Context(
            routing=replica.routing,
            service=replica,
            info=ServerInfo("ID", node, "h", 1),
            clock=lambda: world.now_s,
            limits=ClientLimits(max_payload=PAYLOAD, max_control_line=LINE, max_pending=1 << 30),
            authenticator=Authenticator([]),
        )
        self._connection = Connection(context, cid=number, epoch=number, address=("127.0.0.1", 5))
        self._parser = nats.ClientParser(1 << 30)
        self._sids = count(1)
        self.ack_inboxes: list[tuple[str, str]] = []
        self.say(b'CONNECT {"verbose":false,"headers":true}\r\n')
        self.say(nats.sub(b"_INBOX.%d.*" % number, b"", b"replies"))
        self.inbox = b"_INBOX.%d.r" % number

    def say(self, data: bytes) -> None:
        self._connection.received(data)

    def go_on(self) -> bool:
        """Take the next step, if there is one; read what was sent."""
        busy = self._connection.resting
        if busy:
            self._connection.go_on()
        data = b"".join(self._connection.take())
        self._connection.sent(len(data))
        self._parser.feed(data)
        for reply in self._parser.ops():
            if isinstance(reply, nats.Msg) and reply.sid == b"replies":
                self._hear(reply.payload)
        return busy

    def _hear(self, payload: bytes) -> None:
        response = stan.decode_subscription_response(payload)
        if response.ack_inbox.startswith("_INBOX.T"):
            self.ack_inboxes.append(("foo", response.ack_inbox))

    def sub(self, subject: bytes, queue: bytes) -> None:
        self.say(nats.sub(subject, queue, b"%d" % next(self._sids)))

    def ask(self, subject: str, *payloads: bytes) -> None:
        """Make requests, all in one read."""
        fitting = [payload for payload in payloads if len(payload) <= PAYLOAD]
        self.say(b"".join(nats.pub(subject.encode(), self.inbox, payload) for payload in fitting))


# --- what clients do ------------------------------------------------------------------------------

sizes = st.sampled_from(
    [0, 1, NAME - 1, NAME, NAME + 1, 3000, LINE // 2, LINE - 200, PAYLOAD // 2, PAYLOAD - 300, PAYLOAD - 100]
)
old_sizes = st.sampled_from([10, 3000, PAYLOAD // 2, PAYLOAD - 100])
node_numbers = st.integers(0, 1)
short = st.integers(0, 5)
waits = st.sampled_from([0.0, 0.0, 4.0, 11.0, 31.0])
"""Seconds that pass before the nodes get to what they were asked: what time brings falls together with it."""


def name(prefix: str, size: int) -> str:
    return prefix + "x" * (size - len(prefix))


def old_name(number: int, size: int) -> str:
    return name(f"aged{number}", size)


actions = st.one_of(
    st.tuples(st.just("groups"), node_numbers, st.integers(1, 300), sizes),
    st.tuples(st.just("message"), node_numbers, sizes, sizes),
    st.tuples(st.just("connect"), node_numbers, short, sizes, sizes, sizes),
    st.tuples(st.just("subscribe"), node_numbers, short, sizes, sizes, sizes),
    st.tuples(st.just("publish"), node_numbers, st.integers(0, 40), sizes, sizes, waits),
    st.tuples(st.just("acks"), node_numbers, st.integers(1, 300), sizes),
    st.tuples(st.just("end"), node_numbers, short, sizes, st.booleans()),
    st.tuples(st.just("close"), node_numbers, short, sizes),
    st.tuples(st.just("old"), node_numbers, st.lists(short, min_size=1, max_size=6)),
    st.tuples(st.just("ping"), node_numbers, sizes),
    st.tuples(st.just("later"), waits),
    st.tuples(st.just("lead"), node_numbers),
)


def act(world: World, old: list[int], ours: list[Client], action: tuple[Any, ...]) -> None:
    match action:
        case "groups", node, number, size:
            for each in range(number):
                queue = name(f"q{each}.", min(size, LINE - 100)).encode()
                ours[node].sub(b"news", queue)
        case "message", node, size, headers:
            block = b"NATS/1.0\r\n" + b"h" * min(headers, PAYLOAD // 4) + b"\r\n\r\n"
            payload = b"m" * min(size, PAYLOAD - len(block))
            ours[node].say(nats.hpub(b"news", ours[node].inbox, block, payload))
        case "connect", node, number, size, inbox, conn:
            request = stan.ConnectRequest(
                name(f"c{number}", size), name(f"hb{number}.", inbox), 1, name(f"k{number}", conn).encode()
            )
            ours[node].ask("_STAN.discover.c", stan.encode_connect(request))
        case "subscribe", node, number, queue, durable, inbox:
            request = stan.SubscriptionRequest(
                f"c{number}",
                "foo",
                queue=name("", queue),
                durable=name("", durable),
                inbox=name("in.", inbox),
                max_in_flight=1000,
                ack_wait_s=30,
                start=4,
            )
            ours[node].ask("_STAN.sub.c", stan.encode_subscription(request))
        case "publish", node, number, size, guid, wait_s:
            small = stan.PublishRequest("c0", name("g", min(guid, 1000)), "foo", "", b"d" * 50)
            large = stan.PublishRequest("c0", name("g", min(guid, 1000)), "foo", "", b"d" * size)
            ours[node].ask(
                "_STAN.pub.c.foo", *[stan.encode_publish(small)] * number, stan.encode_publish(large)
            )
            world.now_s += wait_s
        case "acks", node, number, size:
            inboxes = ours[node].ack_inboxes or [(name("foo", size), "_INBOX." + "T" * 22 + ".nobody")]
            channel, inbox = inboxes[number % len(inboxes)]
            acks = [stan.encode_ack(stan.Ack(channel, (1 << 64) - 1 - each)) for each in range(number)]
            ours[node].ask(inbox, *acks)
        case "end", node, number, size, for_good:
            request = stan.UnsubscribeRequest(f"c{number}", "foo", name("in.", size), name("", size))
            subject = "_STAN.unsub.c" if for_good else "_STAN.subclose.c"
            ours[node].ask(subject, stan.encode_unsubscribe(request))
        case "close", node, number, size:
            ours[node].ask("_STAN.close.c", stan.encode_close(stan.CloseRequest(name(f"c{number}", size))))
        case "old", node, numbers:  # together, in one read, what names clients of the first release
            numbers = [number for number in numbers if number < len(old)]
            closes = [stan.encode_close(stan.CloseRequest(old_name(each, old[each]))) for each in numbers]
            ours[node].ask("_STAN.close.c", *closes)
        case "ping", node, size:
            ours[node].ask("_STAN.discover.c.pings", stan.encode_ping(stan.PingRequest(b"k" * size)))
        case "later", seconds:
            world.later(seconds)
        case "lead", node:
            world.lead(NODES[node])
    world.settle()


def old_state(sizes: list[int]) -> list[Command]:
    """Clients and subscriptions of the first release, with names of these sizes."""
    never = 1 << 62
    commands: list[Command] = []
    for number, size in enumerate(sizes):
        client = old_name(number, size)
        inbox = name(f"oldhb{number}", size // 4)
        commands.append(ClientOpen(client, b"k" * (size // 4) + b"%d" % number, inbox, 1, 5, 3, never))
        commands.append(
            SubscriptionOpen(
                client, "foo", "", name("d", size // 4), inbox, f"ack{number}", 10, 10**9, 4, 0, 0, never
            )
        )
    return commands


LARGEST = PAYLOAD - 100


@settings(deadline=None, max_examples=100)
@example(old=[], script=[("groups", 1, 300, LINE - 100), ("message", 0, LARGEST, 0)])
@example(old=[], script=[("groups", 1, 300, 0), ("message", 0, LARGEST, 0)])
@example(old=[LARGEST] * 6, script=[("lead", 1)])
@example(old=[LARGEST] * 6, script=[("old", 0, [0, 1, 2]), ("old", 1, [3, 4, 5])])
@example(
    old=[LARGEST] * 2,
    script=[("lead", 1), ("later", 4.0), ("later", 31.0), ("publish", 1, 0, LARGEST, 0, 11.0)],
)
@given(st.lists(old_sizes, max_size=6), st.lists(actions, max_size=25))
def test_every_frame_and_entry_stays_within_its_bounds(old: list[int], script: list[tuple[Any, ...]]) -> None:
    with scaled_down():
        world = World(old_state(old))
        ours = [world.client(node) for node in NODES]
        ours[0].ask("_STAN.discover.c", stan.encode_connect(stan.ConnectRequest("c0", "hb0", 0)))
        world.settle()
        for action in script:
            act(world, old, ours, action)
        for node in (1, 0):  # whoever leads next has to speak of all of it
            world.lead(NODES[node])
            for seconds in (4.0, 31.0, 11.0):
                world.later(seconds)
        states = [replica.state for replica in world.replicas.values()]
        assert states[0].rolled == states[1].rolled
        assert not any(replica.origin.waits for replica in world.replicas.values())
        for client in states[0].clients.values():
            if not client.id.startswith("aged"):
                assert max(len(client.id), len(client.heartbeat_inbox), len(client.conn_id)) <= NAME
        for sub in states[0].subscriptions.values():
            if not sub.client_id.startswith("aged"):
                assert max(len(sub.durable), len(sub.queue), len(sub.inbox)) <= NAME
