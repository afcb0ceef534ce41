"""Bad input gets the error that the protocol names, or the door; nobody else notices."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest
from e2e.harness import Cluster, until
from e2e.wire import Wire

from node.protocol import nats
from node.protocol import streaming as stan

CLUSTER = "test-cluster"
TRUNCATED = b"\x0a\x10abc"  # a field of 16 bytes, of which there are three
BAD_CHANNELS = ["", ".a", "a.", "a..b", "a.*", "a.>", "a/b", "a b", "a\tb", "x" * 256]


@pytest.fixture(params=["leader", "follower"])
def at(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    return cluster.leader() if request.param == "leader" else cluster.follower()


@pytest.fixture
def port(cluster: Cluster, at: str) -> int:
    return cluster.ports[at]["client"]


@pytest.fixture(autouse=True)
def nobody_is_disturbed(cluster: Cluster, port: int, unique: str) -> Iterator[None]:
    """Beside every test: another client of the same node goes on, and no node changes its mind."""
    before = [cluster.page(name, "/raftz")["term"] for name in cluster.names]
    with Wire(port) as bystander:
        bystander.hello()
        bystander.send(nats.sub(b"by." + unique.encode(), b"", b"1"))
        yield
        bystander.send(nats.pub(b"by." + unique.encode(), b"", b"still here"))
        assert bystander.message() == b"still here"
    assert len(cluster.running) == 3
    assert [cluster.page(name, "/raftz")["term"] for name in cluster.names] == before


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        wire.hello()
        yield wire


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"NONSENSE\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"-ERR 'Unknown Protocol Operation'\r\n"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
        (b"PUB a 3\r\nabcd\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
        (b"PUB a 1048577\r\n", b"-ERR 'Maximum Payload Violation'\r\n"),
        (b"PUB a 99999999999999999999\r\n", b""),
        (b"PUB a\r\n", b""),
        (b"PUB a b c d\r\n", b""),
        (b"PUB a -1\r\n", b""),
        (b"CONNECT {broken\r\n", b""),
        (b"CONNECT []\r\n", b""),
    ],
    ids=repr,
)
def test_broken_protocol(wire: Wire, sent: bytes, answer: bytes) -> None:
    wire.send(sent)
    rest = wire.rest()
    assert rest == answer or (not answer and rest.startswith(b"-ERR '"))


def test_endless_line(wire: Wire) -> None:
    wire.send(b"PUB " + b"a" * 5000)
    assert wire.rest().startswith(b"-ERR 'maximum control line exceeded")


def test_garbage_before_connect(port: int) -> None:
    with Wire(port) as wire:
        wire.send(os.urandom(64) + b"\r\n" + os.urandom(6000))
        assert wire.rest().startswith(b"-ERR '")


def test_largest_payload_is_taken(wire: Wire) -> None:
    wire.send(nats.sub(b"large", b"", b"1") + nats.pub(b"large", b"", b"x" * 1048576))
    assert len(wire.message()) == 1048576


def test_invalid_subject_costs_only_the_subscription(wire: Wire) -> None:
    wire.send(b"SUB a..b 1\r\n")
    assert wire.line() == b"-ERR 'Invalid Subject'"
    assert wire.answers()


@pytest.mark.parametrize("payload", [TRUNCATED, b"dummy"], ids=["truncated", "garbage"])
def test_undecodable_requests(wire: Wire, payload: bytes) -> None:
    """Each request subject answers with its own error."""
    connected = stan.decode_connect_response(wire.ask(f"_STAN.discover.{CLUSTER}", payload))
    assert connected.error == "stan: invalid connection request"
    ack = stan.decode_pub_ack(wire.ask(f"_STAN.pub.{CLUSTER}.foo", payload))
    assert ack.error == "stan: invalid publish request"
    subscribed = stan.decode_subscription_response(wire.ask(f"_STAN.sub.{CLUSTER}", payload))
    assert subscribed.error == "stan: invalid subscription request"
    for subject in ("unsub", "subclose"):
        error = stan.decode_unsubscribe_response(wire.ask(f"_STAN.{subject}.{CLUSTER}", payload))
        assert error == "stan: invalid unsubscribe request"
    error = stan.decode_close_response(wire.ask(f"_STAN.close.{CLUSTER}", payload))
    assert error == "stan: invalid close request"


def test_undecodable_ping_is_not_answered(wire: Wire) -> None:
    wire.send(nats.sub(b"_INBOX.p", b"", b"1"))
    for payload in (TRUNCATED, b""):
        wire.send(nats.pub(f"_STAN.discover.{CLUSTER}.pings".encode(), b"_INBOX.p", payload))
    assert wire.nothing_came()


def test_other_cluster_id(wire: Wire) -> None:
    assert wire.ask("_STAN.discover.elsewhere", b"") == b"NATS/1.0 503\r\n\r\n"


def test_bad_connect_requests(wire: Wire) -> None:
    def error(request: stan.ConnectRequest) -> str:
        answer = wire.ask(f"_STAN.discover.{CLUSTER}", stan.encode_connect(request))
        return stan.decode_connect_response(answer).error

    invalid_id = "stan: invalid clientID: only alphanumeric and `-` or `_` characters allowed"
    assert error(stan.ConnectRequest("fine", "")) == "stan: invalid connection request"
    for client_id in ("", "with space", "dotted.id", "ümlaut", "a" * 5 + "\n"):
        assert error(stan.ConnectRequest(client_id, "_INBOX.h")) == invalid_id


def test_unknown_client(wire: Wire, unique: str) -> None:
    publish = stan.PublishRequest("ghost", "guid", unique, "", b"", b"unknown")
    ack = stan.decode_pub_ack(wire.ask(f"_STAN.pub.{CLUSTER}.{unique}", stan.encode_publish(publish)))
    assert ack == ("guid", "stan: invalid publish request")
    request = stan.SubscriptionRequest("ghost", unique, "", "_INBOX.x", 1, 30)
    answer = wire.ask(f"_STAN.sub.{CLUSTER}", stan.encode_subscription(request))
    assert stan.decode_subscription_response(answer).error == "stan: unknown clientID"
    answer = wire.ask(f"_STAN.close.{CLUSTER}", stan.encode_close(stan.CloseRequest("ghost")))
    assert stan.decode_close_response(answer) == "stan: unknown clientID"
    answer = wire.ask(f"_STAN.discover.{CLUSTER}.pings", stan.encode_ping(stan.PingRequest(b"unknown")))
    assert stan.decode_ping_response(answer) == "client has been replaced or is no longer registered"
    unsubscribe = stan.encode_unsubscribe(stan.UnsubscribeRequest("ghost", f"no-{unique}", "_INBOX.x"))
    for subject in ("unsub", "subclose"):
        answer = wire.ask(f"_STAN.{subject}.{CLUSTER}", unsubscribe)
        assert stan.decode_unsubscribe_response(answer) == "stan: unknown channel"


def test_bad_channel_names(wire: Wire, unique: str) -> None:
    assert not wire.register(unique).error
    for channel in BAD_CHANNELS:
        publish = stan.PublishRequest(unique, "guid", channel, "", b"", unique.encode())
        ack = stan.decode_pub_ack(wire.ask(f"_STAN.pub.{CLUSTER}.x", stan.encode_publish(publish)))
        assert ack == ("guid", "stan: invalid publish request"), channel
        request = stan.SubscriptionRequest(unique, channel, "", "_INBOX.x", 1, 30)
        answer = wire.ask(f"_STAN.sub.{CLUSTER}", stan.encode_subscription(request))
        assert stan.decode_subscription_response(answer).error == "stan: invalid subject", channel


def test_channel_that_differs_only_in_case(wire: Wire, unique: str) -> None:
    wire.register(unique)

    def publish(channel: str) -> str:
        request = stan.PublishRequest(unique, "guid", channel, "", b"", unique.encode())
        answer = wire.ask(f"_STAN.pub.{CLUSTER}.{channel}", stan.encode_publish(request))
        return stan.decode_pub_ack(answer).error

    assert publish(f"case.{unique}") == ""
    assert publish(f"Case.{unique}") == (
        f'rejecting channel "Case.{unique}" because channel "case.{unique}" alreay exists '
        "(different cases not allowed)"
    )


def test_subject_and_channel_must_agree(wire: Wire, unique: str) -> None:
    """Or permissions on the subject could be got round."""
    wire.register(unique)
    request = stan.PublishRequest(unique, "guid", f"{unique}.b", "", b"", unique.encode())
    answer = wire.ask(f"_STAN.pub.{CLUSTER}.{unique}.a", stan.encode_publish(request))
    assert stan.decode_pub_ack(answer).error == "stan: invalid publish request"


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("client_id", "", "stan: clientID missing"),
        ("ack_wait_s", 0, "stan: invalid ack wait time, should be >= 1s"),
        ("ack_wait_s", -5, "stan: invalid ack wait time, should be >= 1s"),
        ("max_in_flight", 0, "stan: invalid MaxInflight, should be >= 1"),
        ("max_in_flight", -1, "stan: invalid MaxInflight, should be >= 1"),
        ("start", 5, "stan: invalid start position"),
        ("start", -1, "stan: invalid start position"),
    ],
)
def test_bad_subscriptions(wire: Wire, unique: str, field: str, value: int | str, error: str) -> None:
    wire.register(unique)
    good = stan.SubscriptionRequest(unique, unique, "", "_INBOX.x", 1, 30)
    answer = wire.ask(f"_STAN.sub.{CLUSTER}", stan.encode_subscription(good._replace(**{field: value})))
    assert stan.decode_subscription_response(answer).error == error


def test_garbage_on_the_peer_port(cluster: Cluster, at: str) -> None:
    """It is dropped, with a line in the log that says where it came from."""
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(4096),
        b"\xff" * 64,
        b"\x00\x00\x00\x05\x01\xc1aaa",
    ):
        with socket.create_connection(("127.0.0.1", cluster.ports[at]["peer"]), timeout=10) as peer:
            mine = f"127.0.0.1:{peer.getsockname()[1]}"
            with contextlib.suppress(OSError):  # it may be reset at any moment, even before it is closed
                peer.sendall(garbage)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(4096):
                    pass
        until(f"a line about {mine}", lambda mine=mine: mine in cluster.log(at).read_text())


def test_silent_and_half_open_peers_are_let_go(cluster: Cluster, at: str) -> None:
    """Connections that say nothing, or stop in the middle of a frame, hold nobody up."""
    peers = [socket.create_connection(("127.0.0.1", cluster.ports[at]["peer"]), timeout=10) for _ in range(5)]
    peers[0].sendall(b"\x00\x00\x10\x00\x01")
    for peer in peers:
        peer.close()
    assert cluster.get(at, "/healthz")[0] == 200
