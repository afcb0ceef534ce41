"""Routing of published messages, on one node and across nodes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from node.errors import RemoteProtocolError
from node.protocol.peer import FRAME_BYTES_MAX, encode_frame
from node.server import subscriptions
from node.server.interest import InterestChange
from node.server.routing import (
    CROWDED_BYTES,
    FULL_BYTES,
    GROUPS_MAX,
    GROUPS_SMALL,
    LEAVE_STEP,
    LocalSubscription,
    Routing,
)
from node.server.steps import STEP
from node.server.subscriptions import COPIES_MAX


class Client:
    """A connection that keeps its deliveries."""

    def __init__(self, routing: Routing, epoch: int) -> None:
        self.routing = routing
        self.epoch = epoch
        self.has_left = False
        self.subscriptions: dict[bytes, LocalSubscription] = {}
        self.got: list[tuple[bytes, ...]] = []
        self.closed = False
        self.writable = True

    def sub(self, subject: bytes, queue: bytes = b"", **options: Any) -> LocalSubscription:
        sid = b"%d" % (len(self.subscriptions) + 1)
        self.subscriptions[sid] = self.routing.subscribe(self, subject, queue, sid, **options)
        self.routing.flush()
        return self.subscriptions[sid]

    def unsub(self, subscription: LocalSubscription) -> None:
        del self.subscriptions[subscription.sid]
        self.routing.unsubscribe(subscription)
        self.routing.flush()

    def pub(self, subject: bytes, payload: bytes = b"", reply: bytes = b"", **options: Any) -> int:
        return self.routing.publish(self, subject, reply, b"", payload, **options)

    def deliver(
        self, subscription: LocalSubscription, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        if not subscription.gone:
            self.got.append((subscription.sid, subject, reply, headers, payload))

    def payloads(self) -> list[bytes]:
        got, self.got = [message[-1] for message in self.got], []
        return got


class Cluster:
    """Nodes linked to each other. Frames wait until ``settle``."""

    def __init__(self, *names: str) -> None:
        self.frames: list[tuple[str, str, Any]] = []
        self.changes: dict[str, list[tuple[str, InterestChange]]] = {name: [] for name in names}
        self.queued = 0
        """Bytes queued on each link."""
        self.nodes = {name: self._node(name) for name in names}
        self.epochs = 0
        self.lose: bool = False
        for name in names:
            for other in names:
                if other != name:
                    self.nodes[name].peer_up(other)
        self.settle()

    def _node(self, name: str) -> Routing:
        return Routing(
            name,
            send=lambda peer, value: self.frames.append((name, peer, value)),
            queued_bytes=lambda _peer: self.queued,
            has_capacity=lambda _peer: self.queued < 1 << 20,
            on_interest_change=lambda node, changes: self.changes[name].extend((node, c) for c in changes),
        )

    def client(self, node: str) -> Client:
        self.epochs += 1
        return Client(self.nodes[node], self.epochs)

    def settle(self) -> None:
        while self.frames:
            source, target, value = self.frames.pop(0)
            if not self.lose:
                self.nodes[target].peer_frame(source, value)


@pytest.fixture
def alone() -> Routing:
    return Routing("n1", send=lambda peer, value: pytest.fail("there is nobody to send to"))


# --- one node ---------------------------------------------------------------------------------------


def test_a_message_reaches_only_its_subscribers(alone: Routing) -> None:
    """NET-16, NET-27: subjects are case-sensitive; the reply subject is passed on."""
    ann, bob = Client(alone, 1), Client(alone, 2)
    ann.sub(b"orders.new")
    assert bob.pub(b"orders.new", b"1", b"_INBOX.x") == 1
    assert bob.pub(b"Orders.new", b"2") == 0
    assert ann.got == [(b"1", b"orders.new", b"_INBOX.x", b"", b"1")]


def test_wildcards(alone: Routing) -> None:
    """NET-15."""
    ann = Client(alone, 1)
    ann.sub(b"a.*.c.>")
    sent = [b"a.b.c.d", b"a.b.c.d.e", b"a.b.c", b"a.b.x.d", b"a.b.b.c.d"]
    assert [ann.pub(subject) for subject in sent] == [1, 1, 0, 0, 0]


def test_overlapping_subscriptions_of_one_connection_each_get_a_copy(alone: Routing) -> None:
    """NET-20."""
    ann = Client(alone, 1)
    ann.sub(b"a.b")
    ann.sub(b"a.*")
    assert ann.pub(b"a.b") == 2
    assert [message[0] for message in ann.got] == [b"1", b"2"]


def test_echo_off_means_not_to_oneself(alone: Routing) -> None:
    """NET-19."""
    ann, bob = Client(alone, 1), Client(alone, 2)
    for client in (ann, bob):
        client.sub(b"a")
        client.sub(b"a", b"q")
    assert ann.pub(b"a", b"x", echo=False) == 2
    assert ann.got == []
    assert len(bob.got) == 2
    assert ann.pub(b"a", b"x") == 3


def test_a_queue_group_gets_one_copy_and_all_members_get_some(alone: Routing) -> None:
    """NET-21, NET-22: plain subscriptions get theirs in addition."""
    members = [Client(alone, number) for number in range(3)]
    for member in members:
        member.sub(b"work.*", b"q")
    watcher = Client(alone, 9)
    watcher.sub(b"work.a")
    for _ in range(1000):
        assert watcher.pub(b"work.a") == 2
    counts = [len(member.got) for member in members]
    assert sum(counts) == 1000
    assert min(counts) > 200
    assert len(watcher.got) == 1000


def test_two_groups_at_once_use_all_their_members(alone: Routing) -> None:
    """A turn counter shared by two groups of two would always pick the same two members."""
    members = {name: Client(alone, number) for number, name in enumerate(["q1", "q2", "r1", "r2"], 1)}
    for name, member in members.items():
        member.sub(b"a", name[:1].encode())
    for _ in range(10):
        members["q1"].pub(b"a")
    assert [len(member.got) for member in members.values()] == [5, 5, 5, 5]


def test_same_queue_name_on_two_patterns_is_two_groups(alone: Routing) -> None:
    ann = Client(alone, 1)
    ann.sub(b"a.b", b"q")
    ann.sub(b"a.*", b"q")
    assert ann.pub(b"a.b") == 2


def test_unsubscribed_at_once_and_twice_does_no_harm(alone: Routing) -> None:
    """NET-23."""
    ann = Client(alone, 1)
    plain, member = ann.sub(b"a"), ann.sub(b"a", b"q")
    assert ann.pub(b"a") == 2
    ann.unsub(plain)
    ann.unsub(member)
    alone.unsubscribe(plain)
    alone.unsubscribe(member)
    assert ann.pub(b"a") == 0
    assert alone.subscription_count == 0


def test_what_is_denied_within_a_pattern_is_not_heard(alone: Routing) -> None:
    ann, bob = Client(alone, 1), Client(alone, 2)
    ann.sub(b"a.>", denied=(b"a.secret.*",))
    ann.sub(b"a.>", b"q", denied=(b"a.secret.*",))
    assert bob.pub(b"a.secret.x") == 0
    assert bob.pub(b"a.open.x") == 2


def test_what_is_denied_within_a_pattern_is_not_delivered_either(alone: Routing) -> None:
    """Deliveries of the streaming service obey permissions like publishes."""
    ann, bob = Client(alone, 1), Client(alone, 2)
    ann.sub(b">", denied=(b"_INBOX.bob.>",))
    ann.sub(b">", b"q", denied=(b"_INBOX.bob.>",))
    assert not alone.local_receivers(b"_INBOX.bob.1")
    assert not alone.reachable(b"_INBOX.bob.1")
    member = bob.sub(b">", b"q")
    assert list(alone.local_receivers(b"_INBOX.bob.1")) == [member], "the member that may hear it"
    assert len(alone.local_receivers(b"_INBOX.ann.1")) == 2


def test_a_subject_that_is_no_literal_goes_nowhere_unless_asked(alone: Routing) -> None:
    """NET-18's routing: only a pedantic client's is routed, after an error."""
    ann = Client(alone, 1)
    ann.sub(b"a.*")
    for _ in range(2):
        assert ann.pub(b"a.*") == 0
        assert ann.pub(b"a..") == 0
        assert ann.pub(b"a.*", as_written=True) == 1


def test_a_service_hears_what_is_no_literal(alone: Routing) -> None:
    """PUB-05: a publish to ``a.>`` is a request that the service refuses with an error; no client gets it."""
    reachable: list[bytes] = []
    alone.serve(b"s.>", lambda _source, subject, _reply, _payload: reachable.append(subject))
    ann = Client(alone, 1)
    ann.sub(b"s.>")
    for subject in (b"s.>", b"s.*", b"s..", b"s.a."):
        assert ann.pub(subject) == 1
    assert reachable == [b"s.>", b"s.*", b"s..", b"s.a."]
    assert ann.pub(b"t.*") == 0


def test_routes_follow_every_change(alone: Routing) -> None:
    """A cached route must not outlive the subscriptions it was made of."""
    ann, bob = Client(alone, 1), Client(alone, 2)
    assert ann.pub(b"a.b") == 0
    steps: list[tuple[bytes, bytes]] = [
        (b"a.b", b""),
        (b"a.*", b""),
        (b">", b""),
        (b"a.>", b"q"),
        (b"*.b", b"q"),
    ]
    subscriptions = []
    for number, (pattern, queue) in enumerate(steps, 1):
        subscriptions.append(bob.sub(pattern, queue))
        assert ann.pub(b"a.b") == number
        assert len(alone.local_receivers(b"a.b")) == number
    handle = alone.serve(b"a.*", lambda *_: None)
    assert ann.pub(b"a.b") == 6
    handle.close()
    handle.close()
    for number, subscription in enumerate(subscriptions, 1):
        bob.unsub(subscription)
        assert ann.pub(b"a.b") == 5 - number


def test_routes_are_bounded(alone: Routing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.server.route_cache.CACHED_ROUTES_MAX", 10)
    ann = Client(alone, 1)
    ann.sub(b"s.>")
    for number in range(100):
        assert ann.pub(b"s.%d" % number) == 1
        assert alone.route_count <= 10
    made = alone.routes_made
    ann.sub(b"other.*")
    assert ann.pub(b"s.99") == 1
    assert alone.routes_made == made


def reachable_at(routing: Routing, *subjects: bytes) -> list[bytes]:
    return [subject for subject in subjects if routing.reachable(subject)]


def test_who_leaves_with_many_subscriptions_does_so_in_steps(alone: Routing) -> None:
    """100,000 took 0.9 s in one go. Meanwhile they get no deliveries and don't make an inbox reachable."""
    bob, ann = Client(alone, 1), Client(alone, 2)
    for number in range(3 * STEP):
        ann.sub(b"a.%d" % number)
        ann.sub(b"work", b"crew")
    bob.sub(b"work", b"crew")
    bob.sub(b"a.1")
    alone.remove(ann)
    assert alone.where(b"a.2") is None
    assert alone.where(b"a.1") == ("n1", 1)
    assert alone.subscription_count > 2
    for _ in range(3):
        assert bob.pub(b"work", b"", b"job") == 1
    assert [message[1] for message in bob.got] == [b"job"] * 3 or len(bob.got) == 3
    assert ann.got == []
    steps = 0
    while alone.works:
        before = alone.subscription_count
        alone.work()
        assert before - alone.subscription_count <= STEP
        steps += 1
    assert steps >= 6
    assert alone.subscription_count == 2
    assert reachable_at(alone, b"a.1", b"a.2") == [b"a.1"]
    assert alone.work() is None


def test_very_many_subscriptions_leave_at_a_pace() -> None:
    """Each removal costs time on every node. A message sent in steps doesn't wait for it."""
    now_s = 1000.0
    routing = Routing("n1", send=lambda peer, value: None, clock=lambda: now_s)
    ann = Client(routing, 1)
    for number in range(30_000):
        ann.sub(b"a.%d" % number)
    routing.remove(ann)
    began_s, calls = now_s, 0
    while routing.works:
        before = routing.subscription_count
        pause_s = routing.work()
        assert before - routing.subscription_count <= LEAVE_STEP
        if pause_s:
            assert routing.work() == pytest.approx(pause_s)
            assert before - routing.subscription_count <= LEAVE_STEP, "not before it is time"
            now_s += pause_s
        calls += 1
    assert calls >= 30_000 / LEAVE_STEP
    assert 1.2 < now_s - began_s < 4.0
    assert routing.subscription_count == 0


def test_a_few_subscriptions_go_at_once(alone: Routing) -> None:
    ann = Client(alone, 1)
    ann.sub(b"a")
    ann.sub(b"b", b"q")
    alone.remove(ann)
    assert alone.subscription_count == 0
    assert not alone.works


def test_leaving_a_great_queue_group_looks_at_nobody_else(alone: Routing) -> None:
    """The newest of 50,000 members took 2.7 s to unsubscribe 50,000 times, because of a linear search."""

    class Counted(list[LocalSubscription]):
        looked_at = 0

        def __iter__(self) -> Any:
            type(self).looked_at += len(self)
            return super().__iter__()

        def remove(self, _value: LocalSubscription) -> None:
            raise AssertionError("searched for")

    ann = Client(alone, 1)
    members = [ann.sub(b"work", b"crew") for _ in range(100)]
    group = alone._group_by_key[b"work", b"crew"]
    group.members = Counted(group.members)
    for place in (99, 0, 50, *range(1, 50), *range(51, 99)):
        ann.unsub(members[place])
    assert Counted.looked_at == 0
    assert alone._group_by_key == {}


def test_looking_up_inboxes_computes_no_routes(alone: Routing) -> None:
    """A leader checks all inboxes: with more inboxes than cached routes, each scan computed all again."""
    ann = Client(alone, 1)
    ann.sub(b"_INBOX.a")
    made = alone.routes_made
    assert alone.where(b"_INBOX.a") == ("n1", 1)
    assert alone.where(b"_INBOX.b") is None
    assert alone.routes_made == made
    assert alone.route_count == 0


def test_a_request_nobody_answers_counts_whom_it_asked(alone: Routing) -> None:
    ann = Client(alone, 1)
    for number in range(80):
        ann.sub(b"reply.%d" % number) if number % 2 else ann.sub(b"reply.1")
    before = alone.spent
    alone.matching(b"reply.1")
    assert alone.spent - before >= 5


def test_a_wildcard_subscription_spares_the_plans_of_other_prefixes(alone: Routing) -> None:
    ann = Client(alone, 1)
    ann.sub(b"acks.1")
    assert ann.pub(b"acks.1") == 1
    made = alone.routes_made
    ann.sub(b"_INBOX.abc.*")
    ann.pub(b"acks.1")
    assert alone.routes_made == made


def test_services_hear_clients_and_so_do_plain_subscribers() -> None:
    """Pitfall 4: ``_STAN`` traffic reaches plain subscribers in addition to the server."""
    routing = Routing("n1", send=lambda peer, value: None)
    ann = Client(routing, 1)
    ann.sub(b"_STAN.pub.c.>")
    reachable: list[tuple[Any, ...]] = []
    routing.serve(b"_STAN.pub.c.>", lambda *args: reachable.append(args))
    routing.serve(b"_STAN.pub.>", lambda *args: reachable.append(args))
    assert ann.pub(b"_STAN.pub.c.x", b"data", b"reply") == 3
    assert reachable == [(ann, b"_STAN.pub.c.x", b"reply", b"data")] * 2
    assert ann.payloads() == [b"data"]
    assert routing.subscription_count == 3


def test_a_handler_may_publish_subscribe_and_close(alone: Routing) -> None:
    ann = Client(alone, 1)
    ann.sub(b"reply")
    ann.sub(b"request")

    def answer(source: Any, _subject: bytes, reply: bytes, _payload: bytes) -> None:
        alone.publish(None, reply, b"", b"", b"answer")
        alone.remove(source)

    alone.serve(b"request", answer)
    assert ann.pub(b"request", b"", b"reply") == 2, "the plan it began with"
    assert ann.payloads() == [b"answer"], "but nothing goes to a connection that has ended"


def test_local_receivers_are_remembered(alone: Routing) -> None:
    ann, bob = Client(alone, 1), Client(alone, 2)
    one = ann.sub(b"_INBOX.a")
    member = bob.sub(b"_INBOX.a", b"q")
    bob.sub(b"_INBOX.a", b"q")
    receivers = alone.local_receivers(b"_INBOX.a")
    assert list(receivers) == [one, member], "every plain subscription, and one of each queue group"
    assert alone.local_receivers(b"_INBOX.a") is receivers
    assert len(alone.matching(b"_INBOX.a")) == 3
    receivers[0].deliver(b"_INBOX.a", b"data")
    assert ann.got == [(b"1", b"_INBOX.a", b"", b"", b"data")]


# --- several nodes ----------------------------------------------------------------------------------


def test_a_message_crosses_to_the_node_that_wants_it_once() -> None:
    """NET-35."""
    cluster = Cluster("n1", "n2", "n3")
    ann, bob, cat = cluster.client("n1"), cluster.client("n2"), cluster.client("n2")
    bob.sub(b"a.*")
    cat.sub(b"a.b")
    cluster.settle()
    assert cluster.nodes["n1"].publish(ann, b"a.b", b"r", b"NATS/1.0\r\n\r\n", b"x") == 1, "one node"
    assert [(source, target) for source, target, _ in cluster.frames] == [("n1", "n2")]
    cluster.settle()
    assert bob.got == cat.got == [(b"1", b"a.b", b"r", b"NATS/1.0\r\n\r\n", b"x")]


def test_order_across_nodes_is_kept() -> None:
    """NET-38."""
    cluster = Cluster("n1", "n2")
    ann, bob = cluster.client("n1"), cluster.client("n2")
    bob.sub(b"a")
    cluster.settle()
    for number in range(1000):
        ann.pub(b"a", b"%d" % number)
    cluster.settle()
    assert bob.payloads() == [b"%d" % number for number in range(1000)]


def test_local_queue_members_come_first_then_one_node_is_told_the_group() -> None:
    cluster = Cluster("n1", "n2", "n3")
    publisher, here = cluster.client("n1"), cluster.client("n1")
    there, also_there, far = cluster.client("n2"), cluster.client("n2"), cluster.client("n3")
    local = here.sub(b"work", b"q")
    for member in (there, also_there, far):
        member.sub(b"work", b"q")
    cluster.settle()
    for _ in range(9):
        assert publisher.pub(b"work") == 1
    cluster.settle()
    assert len(here.payloads()) == 9
    here.unsub(local)
    for _ in range(90):
        assert publisher.pub(b"work") == 1
    cluster.settle()
    counts = [len(member.payloads()) for member in (there, also_there, far)]
    assert counts == [30, 30, 30], "a node with twice the members gets twice as many"


def test_one_frame_carries_plain_copies_and_queue_turns() -> None:
    cluster = Cluster("n1", "n2")
    ann, bob = cluster.client("n1"), cluster.client("n2")
    bob.sub(b"a")
    bob.sub(b"a", b"q")
    bob.sub(b"*", b"r")
    cluster.settle()
    assert ann.pub(b"a") == 3
    assert len(cluster.frames) == 1
    cluster.settle()
    assert sorted(message[0] for message in bob.got) == [b"1", b"2", b"3"]


def test_more_queue_groups_than_a_frame_can_name_get_the_message_in_several() -> None:
    """4,600 groups with names of 3.9 KB made a frame that no peer accepts, and the node failed."""
    cluster = Cluster("n1", "n2")
    ann, bob = cluster.client("n1"), cluster.client("n2")
    bob.sub(b"a")
    for number in range(4000):
        bob.sub(b"a", b"%04d" % number + b"q" * 3900)
    cluster.settle()
    payload = b"m" * (8 << 20)
    assert ann.pub(b"a", payload) == 4001
    assert all(len(encode_frame(value)) <= FRAME_BYTES_MAX for _, _, value in cluster.frames)
    cluster.settle()
    assert Counter(message[0] for message in bob.got) == {b"%d" % sid: 1 for sid in range(1, 4002)}


def test_a_frame_names_a_bounded_number_of_queue_groups() -> None:
    """70,000 groups with short names passed the limit of bytes and broke the receiver's limit of items."""
    cluster = Cluster("n1", "n2")
    ann, bob = cluster.client("n1"), cluster.client("n2")
    for number in range(2500):
        bob.sub(b"a", b"%d" % number)
    cluster.settle()
    ann.pub(b"a")
    assert [len(value[-1]) for _, _, value in cluster.frames] == [GROUPS_SMALL] * 19 + [68]
    cluster.settle()
    assert len(bob.got) == 2500
    ann.pub(b"a", b"m" * 1_000_000)  # which each frame repeats
    assert [len(value[-1]) for _, _, value in cluster.frames] == [GROUPS_MAX, GROUPS_MAX, 500]


def test_who_publishes_more_than_a_link_takes_is_held_up() -> None:
    """A message for many groups with long names makes megabytes of frames, which would break the link."""
    cluster = Cluster("n1", "n2")
    ann, bob, eve = cluster.client("n1"), cluster.client("n2"), cluster.client("n1")
    bob.sub(b"a")
    cluster.settle()
    cluster.queued = CROWDED_BYTES - 1
    ann.pub(b"a")
    assert not cluster.nodes["n1"].is_held_up(ann)
    cluster.queued = CROWDED_BYTES
    ann.pub(b"a")
    assert cluster.nodes["n1"].is_held_up(ann)
    assert not cluster.nodes["n1"].is_held_up(eve)
    assert len(cluster.frames) == 2
    cluster.queued = 0
    assert not cluster.nodes["n1"].is_held_up(ann)


def test_a_message_for_very_many_goes_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """70,000 queue groups take a third of a second, in which a leader would send nothing."""
    monkeypatch.setattr(subscriptions, "FAN_OUT_MAX", 2 * STEP)
    cluster = Cluster("n1", "n2")
    one = cluster.nodes["n1"]
    ann, bob, eve = cluster.client("n1"), cluster.client("n2"), cluster.client("n1")
    for number in range(2 * STEP):
        bob.sub(b"a", b"%d" % number)
    for _ in range(STEP):
        eve.sub(b"a")
    cluster.settle()
    spent = one.spent
    assert ann.pub(b"a", b"m") == 3 * STEP
    assert one.spent - spent >= 3 * STEP, "the publisher's step ends"
    assert one.is_held_up(ann)
    assert not one.is_held_up(eve)
    one.work()
    assert 0 < len(eve.got) <= STEP
    assert not cluster.frames
    while one.works:
        one.work()
    assert not one.is_held_up(ann)
    assert eve.payloads() == [b"m"] * STEP
    cluster.settle()
    assert len(bob.got) == 2 * STEP


def test_who_listens_a_thousand_times_to_all_inboxes_is_answered_a_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The node's own messages reach their client, with a limited number of deliveries."""
    monkeypatch.setattr(subscriptions, "FAN_OUT_MAX", 100)
    cluster = Cluster("n1", "n2")
    eve, ann = cluster.client("n1"), cluster.client("n1")
    for number in range(100):
        eve.sub(b"_INBOX.>")
        eve.sub(b">", b"%d" % number)
    ann.sub(b"_INBOX.ann.*")
    one = cluster.nodes["n1"]
    one.publish(None, b"_INBOX.ann.1", b"", b"", b"answer", to_services=False)
    assert ann.payloads() == [b"answer"]
    assert len(eve.got) == COPIES_MAX + 100
    receivers = one.local_receivers(b"_INBOX.ann.1")
    assert sum(receiver.connection is ann for receiver in receivers) == 1
    assert len(receivers) == COPIES_MAX + 1


def test_a_full_link_is_spared_clients_messages(caplog: pytest.LogCaptureFixture) -> None:
    """The node's own messages are sent; others are dropped, with a log line now and then."""
    cluster = Cluster("n1", "n2")
    ann, bob = cluster.client("n1"), cluster.client("n2")
    bob.sub(b"a")
    for number in range(300):
        bob.sub(b"a", b"%d" % number)
    cluster.settle()
    cluster.queued = FULL_BYTES
    for _ in range(3):
        ann.pub(b"a")
    assert cluster.frames == []
    assert cluster.nodes["n1"].dropped == {"n2": 3}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    cluster.nodes["n1"].publish(None, b"a", b"", b"", b"")
    assert len(cluster.frames) == 3
    cluster.nodes["n1"].remove(ann)
    assert not cluster.nodes["n1"].is_held_up(ann)


def test_what_the_node_sends_to_a_subject_of_a_clients_choice_reaches_no_service(alone: Routing) -> None:
    """A heartbeat to a subject that a service answers would be answered for ever."""
    asked: list[bytes] = []
    alone.serve(b"_STANCHION.admin.c.>", lambda _source, subject, *_: asked.append(subject))
    alone.serve(b"own.>", lambda _source, subject, *_: asked.append(subject))
    ann = Client(alone, 1)
    ann.sub(b"own.a")
    assert alone.publish(None, b"_STANCHION.admin.c.x", b"reply", b"", b"", to_services=False) == 0
    assert alone.publish(None, b"own.a", b"reply", b"", b"", to_services=False) == 1
    assert asked == []
    assert [message[1] for message in ann.got] == [b"own.a"]
    assert alone.is_served(b"own.a")
    assert not alone.is_served(b"other.a")


def test_a_queue_member_that_just_left_loses_the_message() -> None:
    cluster = Cluster("n1", "n2")
    ann, bob = cluster.client("n1"), cluster.client("n2")
    member = bob.sub(b"a", b"q")
    cluster.settle()
    ann.pub(b"a")
    cluster.nodes["n2"].unsubscribe(member)
    cluster.settle()
    assert bob.got == []


def test_only_announced_services_are_known_elsewhere() -> None:
    """Every node serves the streaming subjects itself; answers may arrive at any node."""
    cluster = Cluster("n1", "n2")
    reachable: list[tuple[Any, ...]] = []
    for name, node in cluster.nodes.items():
        node.serve(b"_STAN.pub.>", lambda *args, name=name: reachable.append((name, *args)))
        if name == "n2":
            handle = node.serve(b"_INBOX.n2.*", lambda *args: reachable.append(("n2", *args)), announce=True)
    cluster.settle()
    ann = cluster.client("n1")
    assert ann.pub(b"_STAN.pub.x", b"1") == 1
    assert ann.pub(b"_INBOX.n2.7", b"2") == 1
    cluster.settle()
    assert reachable == [
        ("n1", ann, b"_STAN.pub.x", b"", b"1"),
        ("n2", None, b"_INBOX.n2.7", b"", b"2"),
    ]
    assert not cluster.nodes["n1"].reachable(b"_INBOX.n2.7"), "a service is no client"
    handle.close()
    cluster.settle()
    assert ann.pub(b"_INBOX.n2.7", b"2") == 0


def test_interest_travels_before_the_request_that_needs_it() -> None:
    """A request in the same read as the subscription to its reply subject must get its answer."""
    cluster = Cluster("n1", "n2")
    ann, bob = cluster.client("n1"), cluster.client("n2")
    bob.sub(b"ask")
    cluster.settle()
    ann.subscriptions[b"9"] = cluster.nodes["n1"].subscribe(ann, b"_INBOX.1", b"", b"9")  # not flushed
    ann.pub(b"ask", b"", b"_INBOX.1")
    assert [value[0] for _, _, value in cluster.frames] == ["change", "msg"]
    cluster.settle()
    assert bob.pub(b"_INBOX.1", b"answer") == 1


def test_a_lost_nodes_interest_ends_and_returns_complete() -> None:
    cluster = Cluster("n1", "n2")
    one = cluster.nodes["n1"]
    bob = cluster.client("n2")
    bob.sub(b"inbox")
    bob.sub(b"work", b"q")
    cluster.settle()
    assert one.where(b"inbox") == ("n2", bob.epoch)
    assert one.complete("n2")
    one.peer_down("n2")
    one.peer_down("n2")
    assert not one.reachable(b"inbox")
    assert not one.complete("n2")
    assert cluster.client("n1").pub(b"work") == 0
    one.peer_up("n2")
    cluster.nodes["n2"].peer_up("n1")
    assert not one.complete("n2")
    cluster.settle()
    assert one.complete("n2")
    assert one.where(b"inbox") == ("n2", bob.epoch)
    assert cluster.client("n1").pub(b"work") == 1


def test_wildcard_subscriptions_make_a_subject_reachable() -> None:
    cluster = Cluster("n1", "n2")
    cluster.client("n2").sub(b"_INBOX.abc.*")
    cluster.client("n2").sub(b"group", b"q")
    cluster.settle()
    for node in cluster.nodes.values():
        assert node.reachable(b"_INBOX.abc.1")
        assert node.reachable(b"group")
        assert not node.reachable(b"_INBOX.abd.1")


def test_where_prefers_who_subscribed_to_just_this_then_the_newest() -> None:
    """A subscriber of everything must not count as the client, nor a dead connection as its next one."""
    cluster = Cluster("n1", "n2")
    one = cluster.nodes["n1"]
    old, new, watcher = cluster.client("n2"), cluster.client("n1"), cluster.client("n1")
    watcher.sub(b">")
    assert one.where(b"inbox") is None
    assert one.where_any(b"inbox") == ("n1", watcher.epoch)
    old.sub(b"inbox")
    cluster.settle()
    assert one.where(b"inbox") == ("n2", old.epoch)
    new.sub(b"inbox")
    assert one.where(b"inbox") == ("n1", new.epoch)
    one.remove(new)
    assert one.where(b"inbox") == one.where_any(b"inbox") == ("n2", old.epoch)
    assert one.receives(b"inbox", ("n1", watcher.epoch))
    assert not one.receives(b"inbox", ("n1", new.epoch))
    one.remove(watcher)
    assert not one.receives(b"inbox", ("n1", watcher.epoch))


def test_a_moved_inbox_is_noticed_everywhere() -> None:
    """R15: the count stays one, the epoch shows it."""
    cluster = Cluster("n1", "n2")
    first, second = cluster.client("n2"), cluster.client("n2")
    subscription = first.sub(b"inbox")
    cluster.settle()
    for changes in cluster.changes.values():
        changes.clear()
    second.subscriptions[b"1"] = cluster.nodes["n2"].subscribe(second, b"inbox", b"", b"1")
    first.unsub(subscription)
    cluster.settle()
    moved = ("n2", InterestChange(b"inbox", b"", first.epoch, second.epoch))
    assert cluster.changes == {"n1": [moved], "n2": [moved]}


def test_the_change_feed_tells_what_came_and_went() -> None:
    cluster = Cluster("n1", "n2")
    ann = cluster.client("n2")
    ann.sub(b"inbox")
    more = ann.sub(b"inbox")
    ann.unsub(more)
    cluster.settle()
    cluster.nodes["n2"].remove(ann)
    cluster.settle()
    expected = [
        ("n2", InterestChange(b"inbox", b"", 0, ann.epoch)),
        ("n2", InterestChange(b"inbox", b"", ann.epoch, 0)),
    ]
    assert cluster.changes == {"n1": expected, "n2": expected}


def test_a_stuck_connection_is_unreachable_but_still_served() -> None:
    """R3: its interest is reported as ended, and returns when it reads again."""
    cluster = Cluster("n1", "n2")
    one, two = cluster.nodes["n1"], cluster.nodes["n2"]
    ann, bob = cluster.client("n2"), cluster.client("n1")
    ann.sub(b"inbox")
    two.set_stuck(ann, True)
    cluster.settle()
    assert not one.reachable(b"inbox")
    assert not two.reachable(b"inbox")
    assert bob.pub(b"inbox", b"x") == 1
    cluster.settle()
    assert ann.payloads() == [b"x"]
    two.set_stuck(ann, False)
    cluster.settle()
    assert one.where(b"inbox") == two.where(b"inbox") == ("n2", ann.epoch)
    two.set_stuck(ann, True)
    two.remove(ann)
    cluster.settle()
    assert not one.reachable(b"inbox")


def test_a_lost_change_is_noticed_by_the_next_one() -> None:
    cluster = Cluster("n1", "n2")
    one = cluster.nodes["n1"]
    bob = cluster.client("n2")
    cluster.lose = True
    bob.sub(b"lost")
    cluster.settle()
    cluster.lose = False
    bob.sub(b"next")
    source, target, value = cluster.frames.pop(0)
    one.peer_frame(source, value)
    assert cluster.frames == [("n1", "n2", ["again"])]
    assert not one.complete(source)
    assert target == "n1"
    cluster.settle()
    assert one.complete("n2")
    assert one.reachable(b"lost")
    assert one.reachable(b"next")


def test_a_lost_change_that_nothing_follows_is_noticed_by_a_tick() -> None:
    cluster = Cluster("n1", "n2")
    bob = cluster.client("n2")
    subscription = bob.sub(b"a")
    cluster.settle()
    cluster.lose = True
    bob.unsub(subscription)
    cluster.settle()
    cluster.lose = False
    assert cluster.nodes["n1"].reachable(b"a")
    cluster.nodes["n2"].tick()
    cluster.settle()
    assert not cluster.nodes["n1"].reachable(b"a")


def test_a_send_may_find_its_link_broken() -> None:
    """The transport closes a link when its queue is full, and reports it within the send."""
    broken = False

    def send(peer: str, _value: Any) -> None:
        if broken:
            routing.peer_down(peer)

    routing = Routing("n1", send=send)
    ann = Client(routing, 1)
    attempts = (
        routing.tick,
        lambda: ann.sub(b"b"),
        lambda: ann.pub(b"a"),
        lambda: routing.peer_frame("n2", ["again"]),
        lambda: routing.peer_frame("n2", ["mark", 77]),
    )
    for attempt in attempts:
        broken = False
        for peer in ("n2", "n3"):
            routing.peer_up(peer)
            routing.peer_frame(peer, ["whole", 0, True, [[b"a", b"", 1, 1], [b"a", b"q", 1, 1]]])
        broken = True
        attempt()
        assert not routing.complete("n2")


def test_a_large_interest_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.server.interest.ITEMS_MAX", 10)
    cluster = Cluster("n1", "n2")
    one, two = cluster.nodes["n1"], cluster.nodes["n2"]
    bob = cluster.client("n2")
    for number in range(35):
        bob.sub(b"s.%d" % number)
    cluster.settle()
    one.peer_up("n2")
    two.peer_up("n1")
    parts = [frame for frame in cluster.frames if frame[1] == "n1"]
    assert [(value[1], value[2]) for _, _, value in parts] == [(0, False), (1, False), (2, False), (3, True)]
    assert one.reachable(b"s.34"), "the old table holds until the new one is whole"
    cluster.settle()
    assert one.complete("n2")
    assert one.peer_interest_count("n2") == 35
    two.remove(bob)
    assert len(cluster.frames) == 4
    cluster.settle()
    assert one.peer_interest_count("n2") == 0


def test_a_lost_part_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.server.interest.ITEMS_MAX", 10)
    cluster = Cluster("n1", "n2")
    bob = cluster.client("n2")
    for number in range(35):
        bob.sub(b"s.%d" % number)
    cluster.settle()
    for lost in range(4):
        cluster.nodes["n2"].peer_up("n1")
        del cluster.frames[lost]
        cluster.settle()
        cluster.nodes["n2"].tick()
        cluster.settle()
        assert cluster.nodes["n1"].complete("n2")
        assert cluster.nodes["n1"].peer_interest_count("n2") == 35


def test_frames_of_a_link_that_is_gone_are_ignored() -> None:
    cluster = Cluster("n1")
    cluster.nodes["n1"].peer_frame("n2", ["whole", 0, True, [[b"a", b"", 1, 1]]])
    assert not cluster.nodes["n1"].reachable(b"a")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [1],
        ["what"],
        ["whole", 0, True],
        ["whole", 0, True, [[b"a", b"", 1]]],
        ["whole", 0, True, [[b"a..b", b"", 1, 1]]],
        ["whole", 0, True, [[b"a", b"", -1, 1]]],
        ["whole", 0, True, [[b"a", b"", 0, 1]]],
        ["whole", 0, True, [["a", b"", 1, 1]]],
        ["change", "0", []],
        ["mark", None],
        ["msg", b"a", b"", b"", b""],
        ["msg", b"a", b"", b"", b"", False, [[b"a"]]],
        ["msg", b"", b"", b"", b"", True, []],
        ["msg", b"a 1 0\r\n\r\n-ERR", b"", b"", b"", True, []],
        ["msg", b"a", b"r 0\r\n\r\nPING", b"", b"", True, []],
    ],
)
def test_malformed_frames_are_the_peers_fault(value: Any) -> None:
    cluster = Cluster("n1", "n2")
    with pytest.raises(RemoteProtocolError):
        cluster.nodes["n1"].peer_frame("n2", value)


def test_frames_may_arrive_as_tuples() -> None:
    """The decoder of peer frames returns arrays as tuples."""
    cluster = Cluster("n1", "n2")
    one, ann = cluster.nodes["n1"], cluster.client("n1")
    ann.sub(b"b")
    one.peer_frame("n2", ("whole", 0, True, ((b"a", b"q", 1, 5),)))
    assert one.where(b"a") == ("n2", 5)
    one.peer_frame("n2", ("msg", b"b", b"", b"", b"x", True, ((b"b", b"q"),)))
    assert ann.payloads() == [b"x"]


def test_counts_by_subject_do_not_leak() -> None:
    """Short connections leave nothing behind."""
    cluster = Cluster("n1", "n2")
    for _ in range(20):
        client = cluster.client("n1")
        for subject in (b"a", b"a.*", b"_INBOX.>"):
            client.sub(subject)
            client.sub(subject, b"q")
        cluster.nodes["n1"].remove(client)
    cluster.settle()
    assert cluster.nodes["n1"].subscription_count == 0
    assert cluster.nodes["n2"].peer_interest_count("n1") == 0
    assert Counter(change.now == 0 for _, change in cluster.changes["n2"]) == {True: 120, False: 120}


def test_requests_of_operators_go_to_services_alone() -> None:
    """Neither to subscribers of everything on this node, nor to other nodes; replies go as usual."""
    cluster = Cluster("n1", "n2")
    spies = [cluster.client("n1"), cluster.client("n2")]
    for spy in spies:
        spy.sub(b">")
        spy.sub(b"_STANCHION.admin.c.*", b"q")
    cluster.settle()
    asked: list[bytes] = []
    cluster.nodes["n1"].serve(b"_STANCHION.admin.c.>", lambda _, subject, *_more: asked.append(subject))
    operator = cluster.client("n1")
    assert operator.pub(b"_STANCHION.admin.c.kick", b"{}", b"_INBOX.op") == 1
    assert operator.pub(b"_STANCHION.admin.other.kick") == 0
    assert operator.pub(b"_STANCHION.admin.c.kick", as_written=True) == 1
    assert cluster.frames == []
    message = ["msg", b"_STANCHION.admin.c.kick", b"", b"", b"x", True, []]
    cluster.nodes["n1"].peer_frame("n2", message)
    assert asked == [b"_STANCHION.admin.c.kick"] * 2, "not announced: other nodes can't ask"
    assert [spy.got for spy in spies] == [[], []]
    cluster.nodes["n1"].publish(None, b"_INBOX.op", b"", b"", b"{}")
    cluster.settle()
    assert [len(spy.got) for spy in spies] == [1, 1]
