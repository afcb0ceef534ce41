"""Plain NATS between clients of different nodes."""

from __future__ import annotations

import select

from e2e.harness import Cluster, until
from e2e.wire import TIMEOUT_S, Wire

from node.protocol import nats


def received(cluster: Cluster, subject: str) -> None:
    """Until every node knows that somebody listens."""

    def known() -> bool:
        views = [cluster.page(name, f"/subsz?subs=1&test={subject}") for name in cluster.names]
        return all(view["total"] for view in views)

    until(f"interest in {subject}", known)


def test_publish_reaches_subscribers_on_every_node(cluster: Cluster, unique: str) -> None:
    subject = unique.encode()
    with Wire(cluster.ports["n1"]["client"]) as a, Wire(cluster.ports["n2"]["client"]) as b:
        a.hello()
        b.hello()
        a.send(nats.sub(subject + b".*", b"", b"1"))
        b.send(nats.sub(subject + b".>", b"", b"1"))
        assert a.answers()
        assert b.answers()
        with Wire(cluster.ports["n3"]["client"]) as c:
            c.hello()
            ask_until_answered(c, a, subject)
            ask_until_answered(c, b, subject)


def ask_until_answered(sender: Wire, receiver: Wire, subject: bytes) -> None:
    """Interest takes a moment to travel: publish until something comes."""
    sender.send(nats.pub(subject + b".x", b"", b"hello"))
    receiver.socket.settimeout(0.2)
    for _ in range(50):
        try:
            assert receiver.message() == b"hello"
        except TimeoutError:
            sender.send(nats.pub(subject + b".x", b"", b"hello"))
        else:
            return
    raise AssertionError("nothing came")


def test_request_is_answered_from_another_node(cluster: Cluster, unique: str) -> None:
    subject = unique.encode()
    with Wire(cluster.ports["n1"]["client"]) as service, Wire(cluster.ports["n2"]["client"]) as client:
        service.hello()
        client.hello()
        service.send(nats.sub(subject, b"workers", b"1"))
        assert service.answers()
        # Until the interest has travelled there is nobody to answer, and the client is told so.
        until("a responder", lambda: b"503" not in answer(client, service, subject))


def answer(client: Wire, service: Wire, subject: bytes) -> bytes:
    """What the client hears: the service's answer, or that nobody is there."""
    client.send(nats.sub(b"_INBOX.me", b"", b"9") + nats.pub(subject, b"_INBOX.me", b"2+2"))
    ready = select.select([service.socket, client.socket], [], [], TIMEOUT_S)[0]
    if service.socket not in ready:
        return client.message()
    line = service.line().split(b" ")
    assert line[0] == b"MSG"
    assert service.line() == b"2+2"
    service.send(nats.pub(line[3], b"", b"4"))
    reply = client.message()
    assert reply == b"4"
    return reply


def test_queue_group_across_nodes_gets_one_copy(cluster: Cluster, unique: str) -> None:
    subject = unique.encode()
    wires = [Wire(cluster.ports[name]["client"]) for name in cluster.names]
    try:
        for wire in wires:
            wire.hello()
            wire.send(nats.sub(subject, b"group", b"1") + nats.sub(subject + b".end", b"", b"2"))
            assert wire.answers()
        received(cluster, f"{unique}.end")
        for _ in range(30):
            wires[0].send(nats.pub(subject, b"", b"work"))
        wires[0].send(nats.pub(subject + b".end", b"", b"end"))
        taken = [count_until_end(wire) for wire in wires]
        assert sum(taken) == 30
        assert taken[0] == 30, "members of the publisher's own node are preferred"
    finally:
        for wire in wires:
            wire.socket.close()


def count_until_end(wire: Wire) -> int:
    count = 0
    while wire.message() != b"end":
        count += 1
    return count
