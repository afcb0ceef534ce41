"""A node for monitoring to look at, made of the core's own objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from node.core.limits import limits_of
from node.core.settings import Settings
from node.core.state import Channel, Client, Group, Record, State, Subscription
from node.monitor.figures import (
    Agreement,
    Connection,
    EventLoop,
    Identity,
    Interest,
    NatsSubscription,
    Peer,
    Raft,
    Route,
    Traffic,
)
from node.units import SECOND, ChannelID, SubscriptionID

NOW_NS = 1_700_000_000 * SECOND + 5
TAG = "TAGTAGTAGTAGTAGTAGTAGT"


def identity(*, is_clustered: bool = True) -> Identity:
    return Identity(
        name="n1",
        cluster_id="test-cluster",
        server_id="NATS-ID",
        streaming_id="STREAMING-ID",
        version="0.1.0",
        start_ns=NOW_NS - 3_723 * SECOND,
        is_clustered=is_clustered,
        host="127.0.0.1",
        port=4221,
        http_host="127.0.0.1",
        http_port=8221,
        auth_required=False,
        auth_timeout_ns=2 * SECOND,
        max_connections=65536,
        max_payload=1048576,
        max_control_line=4096,
        max_pending=67108864,
        ping_interval_ns=120 * SECOND,
        ping_max=2,
        write_deadline_ns=10 * SECOND,
    )


@dataclass
class FakeSource:
    """A `Source` whose every answer a test may set."""

    identity: Identity = field(default_factory=identity)
    state: State = field(default_factory=State)
    cluster_ns: int = 100 * SECOND
    error: str = ""
    traffic_now: Traffic = field(default_factory=Traffic)
    interest_now: Interest = field(default_factory=lambda: Interest(subscriptions=9, cached=2))
    opened: list[Connection] = field(default_factory=list)
    closed: list[Connection] = field(default_factory=list)
    subscribed: list[NatsSubscription] = field(default_factory=list)
    linked: list[Route] = field(default_factory=list)
    agreed: Agreement = field(default_factory=Agreement)
    told_warnings: list[str] = field(default_factory=list)

    def now_ns(self) -> int:
        return NOW_NS

    def cluster_time_ns(self) -> int:
        return self.cluster_ns

    def warnings(self) -> list[str]:
        return self.told_warnings

    def unhealthy(self) -> str:
        return self.error

    def raft(self) -> Raft:
        return Raft(
            role="leader",
            term=3,
            leader="n1",
            is_ready=True,
            first_index=1,
            last_index=20,
            durable_index=20,
            commit_index=19,
            applied_index=18,
            members=("n1", "n2", "n3"),
            peers=(
                Peer("n2", True, 40_000_000, match_index=19, next_index=20, state="replicate"),
                Peer("n3", False, None),
            ),
            learners=("n3",),
        )

    def agreement(self) -> Agreement:
        return self.agreed

    def event_loop(self) -> EventLoop:
        return EventLoop(1, 3, 12.5)

    def traffic(self) -> Traffic:
        return self.traffic_now

    def interest(self) -> Interest:
        return self.interest_now

    def connect_urls(self) -> Sequence[str]:
        return ["127.0.0.1:4221", "127.0.0.1:4222"]

    @property
    def connection_count(self) -> int:
        return len(self.opened)

    def connections(self, *, closed: bool) -> Iterator[Connection]:
        return iter(self.closed if closed else sorted(self.opened, key=lambda each: each.cid))

    def subscription_count(self) -> int:
        return len(self.subscribed)

    def subscriptions(self, cid: int | None = None) -> Iterator[NatsSubscription]:
        return (each for each in self.subscribed if cid is None or each.cid == cid)

    def routes(self) -> Sequence[Route]:
        return self.linked

    # --- what the cluster holds --------------------------------------------------------------------

    def client(self, name: str) -> Client:
        client = Client(name, (1, len(self.state.clients)), b"", f"_INBOX.hb.{name}", 1, 5, 3)
        self.state.clients[name] = client
        return client

    def channel(self, name: str, sizes: Sequence[int] = ()) -> Channel:
        number = len(self.state.channels) + 1
        channel = Channel(ChannelID(number), name, (2, number), limits_of(self.state.settings, name))
        if sizes:
            channel.log.append(sizes, NOW_NS)
        self.state.channels[name] = channel
        return channel

    def subscription(
        self,
        channel: Channel,
        client: Client | None,
        *,
        durable: str = "",
        queue: str = "",
        last_client: str = "",
    ) -> Subscription:
        number = len(self.state.subscriptions) + 1
        group = next(
            (g for g in channel.groups.values() if queue and (g.durable, g.queue) == (durable, queue)), None
        )
        if group is None:
            owner = "" if queue else (client.id if client else last_client)
            group = Group(number, channel, durable, queue, owner, cursor=0)
            channel.groups[number] = group
        subscription = Subscription(
            SubscriptionID(number),
            (3, number),
            client.id if client else last_client,
            group,
            f"_INBOX.sub.{number}",
            f"_INBOX.{TAG}.{number:022}",
            max_in_flight=3,
            ack_wait_ns=30 * SECOND,
            client=client,
        )
        self.state.subscriptions[number] = subscription
        if client is None:
            group.shadow = subscription
        else:
            group.members.append(subscription)
            client.subscriptions[number] = subscription
        return subscription

    def sent(self, subscription: Subscription, seq: int, *, at_ns: int, deliveries: int = 1) -> None:
        subscription.unacked[seq] = Record(at_ns, 7, deliveries)
        subscription.last_sent = max(subscription.last_sent, seq)
        subscription.group.cursor = max(subscription.group.cursor, seq)


@pytest.fixture
def source() -> FakeSource:
    fake = FakeSource()
    fake.state.settings = Settings()
    fake.state.cluster_tag = TAG
    return fake
