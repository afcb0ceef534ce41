"""Clusters that route to each other: whose requests go where, and who delivers."""

from __future__ import annotations

from typing import Any

import pytest

from node.errors import RemoteProtocolError
from node.server.routes.offered_services import is_offered
from node.server.routes.remote_routes import cluster_of
from node.server.routing import LocalSubscription, Routing


class Client:
    """A connection that keeps what it is given."""

    def __init__(self, routing: Routing, epoch: int) -> None:
        self.routing = routing
        self.epoch = epoch
        self.has_left = False
        self.subscriptions: dict[bytes, LocalSubscription] = {}
        self.got: list[bytes] = []
        self.closed = False
        self.writable = True

    def sub(self, subject: bytes, queue: bytes = b"") -> None:
        sid = b"%d" % (len(self.subscriptions) + 1)
        self.subscriptions[sid] = self.routing.subscribe(self, subject, queue, sid)
        self.routing.flush()

    def pub(self, subject: bytes, payload: bytes = b"", reply: bytes = b"") -> int:
        return self.routing.publish(self, subject, reply, b"", payload)

    def deliver(
        self, subscription: LocalSubscription, _subject: bytes, _reply: bytes, _headers: bytes, payload: bytes
    ) -> None:
        assert not subscription.gone
        self.got.append(payload)


class Pipe:
    """One end of a link between nodes of two clusters."""

    def __init__(self, world: World, source: str, target: str) -> None:
        self.writable = True
        self.closed = False
        self._put = lambda value: world.frames.append((source, target, value))

    def send(self, value: Any) -> None:
        self._put(value)


class World:
    """Nodes called CLUSTER/NODE. Frames wait until ``settle``."""

    def __init__(self, *keys: str) -> None:
        self.frames: list[tuple[str, str, Any]] = []
        self.served: list[tuple[str, bytes, bytes]] = []
        """What came to a service: the node, the subject, the payload."""
        self.nodes = {key: self._node(key) for key in keys}
        self.epoch = 0
        for key in keys:
            for other in keys:
                if cluster_of(key) == cluster_of(other) and key != other:
                    self.nodes[key].peer_up(other.partition("/")[2])
        for key in keys:
            for other in keys:
                if key < other and cluster_of(key) != cluster_of(other):
                    self.link(key, other)
        self.settle()

    def _node(self, key: str) -> Routing:
        cluster, _, name = key.partition("/")
        routing = Routing(
            name,
            send=lambda peer, value: self.frames.append(
                (key, peer if "/" in peer else f"{cluster}/{peer}", value)
            ),
            cluster=cluster,
            offers=is_offered,
        )
        served = b"_STAN.pub." + cluster.encode() + b".>"
        routing.serve(served, lambda _, subject, _reply, payload: self.served.append((key, subject, payload)))
        routing.serve(b"_ADMIN.>", lambda *_: self.served.append((key, b"", b"")))
        return routing

    def link(self, one: str, other: str) -> None:
        for source, target in ((one, other), (other, one)):
            self.nodes[source].remote_up(target, Pipe(self, source, target))

    def cut(self, one: str, other: str) -> None:
        self.settle()
        self.nodes[one].remote_down(other)
        self.nodes[other].remote_down(one)

    def settle(self) -> None:
        while self.frames:
            source, target, value = self.frames.pop(0)
            if cluster_of(source) == cluster_of(target):
                self.nodes[target].peer_frame(source.partition("/")[2], value)
            else:
                self.nodes[target].remote_frame(source, value)

    def client(self, key: str) -> Client:
        self.epoch += 1
        return Client(self.nodes[key], self.epoch)


@pytest.fixture
def world() -> World:
    return World("A/n1", "A/n2", "B/n1", "B/n2", "B/n3")


def test_plain_messages_go_everywhere_once(world: World) -> None:
    """Subjects, wildcards and replies, between nodes of the same name in two clusters."""
    listeners = {key: world.client(key) for key in world.nodes}
    for listener in listeners.values():
        listener.sub(b"news.*")
    world.settle()
    assert listeners["A/n1"].pub(b"news.today", b"x") == 5
    world.settle()
    assert {key: listener.got for key, listener in listeners.items()} == {key: [b"x"] for key in world.nodes}


def test_a_queue_group_spans_clusters(world: World) -> None:
    """One member gets a message: one here if there is one, else one elsewhere."""
    far = [world.client("B/n1"), world.client("B/n2")]
    for member in far:
        member.sub(b"jobs", b"q")
    world.settle()
    sender = world.client("A/n1")
    for number in range(10):
        assert sender.pub(b"jobs", b"%d" % number) == 1
    world.settle()
    assert sorted(far[0].got + far[1].got) == [b"%d" % number for number in range(10)]
    assert far[0].got
    assert far[1].got


def test_a_request_is_served_by_one_node_of_the_other_cluster_in_order(world: World) -> None:
    """Three could serve it; publishes of one client that went to several would overtake each other."""
    client = world.client("A/n2")
    for number in range(5):
        assert client.pub(b"_STAN.pub.B.foo", b"%d" % number) == 1
    world.settle()
    assert world.served == [("B/n1", b"_STAN.pub.B.foo", b"%d" % number) for number in range(5)]


def test_an_invalid_channel_is_for_the_other_cluster_to_refuse(world: World) -> None:
    """PUB-05: a publish to ``a.>`` isn't routed to anybody but the service, which answers in words."""
    assert world.client("A/n1").pub(b"_STAN.pub.B.a.>", b"x") == 1
    world.settle()
    assert world.served == [("B/n1", b"_STAN.pub.B.a.>", b"x")]


def test_subscribers_to_request_subjects_receive_requests_too(world: World) -> None:
    """Test suites of clients listen to the service's own subjects."""
    spies = [world.client("A/n1"), world.client("B/n1"), world.client("B/n3")]
    for spy in spies:
        spy.sub(b"_STAN.pub.B.>")
    world.settle()
    world.client("A/n1").pub(b"_STAN.pub.B.foo", b"x")
    world.settle()
    assert [spy.got for spy in spies] == [[b"x"]] * 3
    assert len(world.served) == 1


def test_only_the_service_is_offered(world: World) -> None:
    """What operators ask goes to their own cluster; nobody serves what is unknown."""
    client = world.client("A/n1")
    assert client.pub(b"_STAN.pub.C.foo") == 0
    before = list(world.served)
    assert client.pub(b"_ADMIN.x") == 1
    world.settle()
    assert world.served == [*before, ("A/n1", b"", b"")]
    world.nodes["B/n1"].remote_frame("A/n1", ["ask", b"_ADMIN.x", b"", b"", b"", True, []])
    assert world.served == [*before, ("A/n1", b"", b"")], "a node that guesses"


def test_only_the_gateway_delivers(world: World) -> None:
    """A delivery is made by every node for its own clients; for a guest's by its home alone."""
    client = world.client("A/n2")
    client.sub(b"inbox")
    world.settle()
    receivers = {key: routing.local_receivers(b"inbox") for key, routing in world.nodes.items()}
    assert {key: len(found) for key, found in receivers.items()} == {
        "A/n1": 0, "A/n2": 1, "B/n1": 1, "B/n2": 0, "B/n3": 0,
    }  # fmt: skip
    receivers["B/n1"][0].deliver(b"inbox", b"x")
    world.settle()
    assert client.got == [b"x"]
    assert all(routing.reachable(b"inbox") for routing in world.nodes.values())


def test_another_node_becomes_the_gateway(world: World) -> None:
    """When the link breaks, or its node dies: requests and deliveries go another way from then on."""
    client = world.client("A/n2")
    client.sub(b"inbox")
    world.cut("A/n2", "B/n1")
    world.settle()
    client.pub(b"_STAN.pub.B.foo", b"x")
    world.settle()
    assert world.served == [("B/n2", b"_STAN.pub.B.foo", b"x")]
    assert [len(world.nodes[key].local_receivers(b"inbox")) for key in ("B/n1", "B/n2", "B/n3")] == [0, 1, 0]
    world.link("A/n2", "B/n1")
    world.settle()
    assert [len(world.nodes[key].local_receivers(b"inbox")) for key in ("B/n1", "B/n2", "B/n3")] == [0, 1, 0]
    for node in ("B/n1", "B/n2", "B/n3"):
        world.cut("A/n2", node)
    assert client.pub(b"_STAN.pub.B.foo") == 0, "nobody: no responders"
    assert world.nodes["A/n2"].remote_routes.home("B") is None


def test_a_node_bootstrapped_later_offers_its_ack_inboxes_then(world: World) -> None:
    """The tag of ack inboxes is drawn when a cluster is founded."""
    acks = []
    for key in ("B/n1", "B/n2", "B/n3"):
        world.nodes[key].serve(
            b"_INBOX.0123456789abcdefABCDEF.*", lambda _, subject, *_more: acks.append(subject)
        )
    world.settle()
    assert world.client("A/n1").pub(b"_INBOX.0123456789abcdefABCDEF.1") == 1
    world.settle()
    assert acks == [b"_INBOX.0123456789abcdefABCDEF.1"]


def test_a_peer_claims_its_own_service_and_nothing_else(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """One that could claim any subject would answer our clients' connects and our operators' requests."""
    node = world.nodes["A/n1"]
    served: list[bytes] = []
    for pattern in (b"_STAN.discover.A", b"_STANCHION.admin.A.>", b"_INBOX.abcdefABCDEF0123456789.*"):
        node.serve(pattern, lambda _, subject, *_more: served.append(subject))
    world.settle()
    claims = [b">", b"_STAN.discover.A", b"_STAN.>", b"_STANCHION.admin.A.>", b"orders", b"_STAN.pub.*.>"]
    claims += [b"_INBOX.abcdefABCDEF0123456789.*", b"_INBOX.0123456789abcdefABCDEF.*", b"_STAN.pub.B.>"]
    for _ in range(2):
        node.remote_frame("B/n1", ["serves", claims])
    node.remote_routes.up("C/n1", Pipe(world, "A/n1", "C/n1"))
    node.remote_frame("C/n1", ["serves", [b"_STAN.pub.B.>"]])
    world.frames.clear()
    ours = [b"_STAN.discover.A", b"_STANCHION.admin.A.x", b"_INBOX.abcdefABCDEF0123456789.1"]
    for subject in (b"orders", b"_STAN.sub.B", *ours):
        node.publish(None, subject, b"reply", b"", b"x")
    assert world.frames == []
    assert served == ours
    assert node.publish(None, b"_STAN.pub.B.foo", b"", b"", b"x") == 1
    assert [target for _, target, _ in world.frames] == ["B/n1"], "what it does serve"
    assert caplog.text.count("routing peer B/n1 claims to serve") == 1


def test_requests_served_here_go_to_no_peer(world: World) -> None:
    """Whoever comes first: a peer that drew our inbox of acknowledgements would hear of every one."""
    node, tag = world.nodes["A/n1"], b"_INBOX.abcdefABCDEF0123456789"
    node.remote_frame("B/n1", ["serves", [tag + b".*"]])
    assert node.publish(None, tag + b".1", b"", b"", b"x") == 1
    world.frames.clear()
    node.serve(tag + b".*", lambda *_: None)
    assert node.publish(None, tag + b".1", b"", b"", b"x") == 1
    assert [frame for _, _, frame in world.frames if frame[0] == "ask"] == []


@pytest.mark.parametrize(
    "frame",
    [
        ["serves"], ["serves", "x"], ["serves", [b"a..b"]], ["serves", ["x"]], ["serves", [b"a"] * 65],
        ["home"], ["home", 1], ["ask", b"a"], ["ask", b"a", b"", b"", b"", 1, []], [], "x", ["nothing"],
        ["ask", b"a", b"r 0\r\n\r\nPING", b"", b"", True, []],
    ],
)  # fmt: skip
def test_malformed_frames_end_the_link(world: World, frame: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        world.nodes["A/n1"].remote_frame("B/n1", frame)
