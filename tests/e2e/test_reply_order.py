"""Answers behind deliveries (R2): who has its last publish acknowledged finds all messages in the other
sockets.

The clients' own suites depend on it: stan.py publishes 2,048 messages to a queue group of five connections,
waits for the last acknowledgement, and counts what the five have.
"""

from __future__ import annotations

import socket

import pytest
from e2e.harness import Cluster
from e2e.wire import Wire

from node.protocol import nats, streaming
from node.protocol.positions import StartPosition

pytestmark = pytest.mark.slow

MEMBERS = 5
COUNT = 2048


def open_client(cluster: Cluster, name: str, client_id: str) -> Wire:
    wire = Wire(cluster.ports[name]["client"])
    wire.hello()
    wire.send(nats.sub(f"_INBOX.hb.{client_id}".encode(), b"", b"heartbeats"))  # or it counted as absent
    assert not wire.register(client_id).error
    return wire


def subscribe(wire: Wire, client_id: str, channel: str, queue: str) -> None:
    inbox = f"_INBOX.{client_id}.messages"
    wire.send(nats.sub(inbox.encode(), b"", b"messages"))
    request = streaming.SubscriptionRequest(
        client_id, channel, queue, inbox, 1024, 30, "", StartPosition.NEW_ONLY
    )
    answer = wire.ask("_STAN.sub.test-cluster", streaming.encode_subscription(request))
    assert not streaming.decode_subscription_response(answer).error


def publish(wire: Wire, client_id: str, channel: str, count: int) -> None:
    """Publish in one go, and wait for the last acknowledgement."""
    inbox = f"_INBOX.{client_id}.acks".encode()
    subject = f"_STAN.pub.test-cluster.{channel}".encode()
    publishes = [
        nats.pub(
            subject,
            inbox,
            streaming.encode_publish(
                streaming.PublishRequest(client_id, f"g{n}", channel, "", b"task-%d" % n, client_id.encode())
            ),
        )
        for n in range(count)
    ]
    wire.send(nats.sub(inbox, b"", b"acks") + b"".join(publishes))
    for _ in range(count):
        assert not streaming.decode_pub_ack(wire.message()).error
    wire.send(nats.unsub(b"acks", None))


def arrived(wire: Wire) -> int:
    """How many messages lie in the socket now. Nothing is waited for."""
    data = wire.left()
    wire.socket.setblocking(False)
    try:
        while more := wire.socket.recv(1 << 20):
            data += more
    except BlockingIOError:
        pass
    finally:
        wire.socket.settimeout(10)
    return data.count(b".messages messages ")


@pytest.fixture(params=["leader", "follower"])
def at(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    return cluster.leader() if request.param == "leader" else cluster.follower()


def test_a_burst_is_delivered_when_it_is_acknowledged(cluster: Cluster, at: str, unique: str) -> None:
    """Ten bursts to a queue group, each more than the 500 messages that an entry sends to one group."""
    members = [open_client(cluster, at, f"{unique}-{n}") for n in range(MEMBERS)]
    publisher = open_client(cluster, at, f"{unique}-publisher")
    try:
        for number in range(10):
            channel = f"{unique}.{number}"
            for n, member in enumerate(members):
                subscribe(member, f"{unique}-{n}", channel, "group")
            publish(publisher, f"{unique}-publisher", channel, COUNT)
            shares = [arrived(member) for member in members]
            assert sum(shares) == COUNT, f"burst {number}: {shares}"
    finally:
        for wire in (*members, publisher):
            wire.socket.close()


def test_many_subscriptions_have_a_message_when_it_is_acknowledged(
    cluster: Cluster, at: str, unique: str
) -> None:
    """Thirty plain subscriptions, a connection each: all thirty have it."""
    readers = [open_client(cluster, at, f"{unique}-{n}") for n in range(30)]
    publisher = open_client(cluster, at, f"{unique}-publisher")
    try:
        for n, reader in enumerate(readers):
            subscribe(reader, f"{unique}-{n}", unique, "")
        for number in range(20):
            publish(publisher, f"{unique}-publisher", unique, 1)
            assert [arrived(reader) for reader in readers] == [1] * len(readers), number
    finally:
        for wire in (*readers, publisher):
            wire.socket.close()


def test_a_subscriber_that_does_not_read_holds_up_no_publisher(
    cluster: Cluster, at: str, unique: str
) -> None:
    """Its socket is full, and its deliveries have no room: others are acknowledged as fast as ever."""
    stuck = open_client(cluster, at, f"{unique}-stuck")
    publisher = open_client(cluster, at, f"{unique}-publisher")
    try:
        stuck.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        subscribe(stuck, f"{unique}-stuck", unique, "")
        body = b"x" * 200_000
        inbox = b"_INBOX.acks"
        publisher.send(nats.sub(inbox, b"", b"acks"))
        for n in range(100):
            request = streaming.PublishRequest(
                f"{unique}-publisher", f"g{n}", unique, "", body, f"{unique}-publisher".encode()
            )
            subject = f"_STAN.pub.test-cluster.{unique}".encode()
            publisher.send(nats.pub(subject, inbox, streaming.encode_publish(request)))
            publisher.socket.settimeout(5)
            assert not streaming.decode_pub_ack(publisher.message()).error
    finally:
        stuck.socket.close()
        publisher.socket.close()
