"""Subjects across nodes: who hears what, who is told that nobody does, and where clients may go."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
from e2e.harness import Cluster, until
from e2e.wire import Wire

from node.protocol import nats

END = b"end"


@pytest.fixture
def wires(cluster: Cluster) -> Iterator[list[Wire]]:
    """A client on each of n1, n2 and n3."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(cluster.ports[name]["client"])) for name in cluster.names]
        for wire in wires:
            wire.hello()
        yield wires


def listen(cluster: Cluster, wire: Wire, subject: str, queue: str = "", sid: int = 1) -> None:
    """Subscribe, and wait until every node knows."""
    wire.send(nats.sub(subject.encode(), queue.encode(), b"%d" % sid) + nats.PING)
    while wire.message() != b"PONG":  # probes of other subscriptions may come first
        pass
    sample = subject.replace("*", "x").replace(">", "x.y")
    until(f"interest in {subject}", lambda: all(hears(cluster, name, sample) for name in cluster.names))


def hears(cluster: Cluster, name: str, subject: str) -> bool:
    """Whether a request made at node ``name`` reaches somebody."""
    with Wire(cluster.ports[name]["client"]) as probe:
        probe.hello()
        inbox = b"_INBOX.probe"
        probe.send(nats.sub(inbox, b"", b"1") + nats.pub(subject.encode(), inbox, b"probe"))
        return probe.nothing_came()  # else the 503 comes first


def take(wire: Wire) -> list[bytes]:
    """Everything that comes up to ``END``, without the probes."""
    found: list[bytes] = []
    while (payload := wire.message()) != END:
        if payload != b"probe":
            found.append(payload)
    return found


def test_wildcards(cluster: Cluster, wires: list[Wire], unique: str) -> None:
    """Each pattern hears what it matches, once, wherever it was published."""
    first, second, third = wires
    patterns = {f"{unique}.*.b": first, f"{unique}.>": second, f"{unique}.a.b": third}
    for pattern, wire in patterns.items():
        listen(cluster, wire, pattern)
    for wire in wires:
        listen(cluster, wire, f"end.{unique}", sid=2)
    for subject in ("a.b", "x.b", "a.b.c", "a"):
        second.send(nats.pub(f"{unique}.{subject}".encode(), b"", subject.encode()))
    second.send(nats.pub(f"end.{unique}".encode(), b"", END))
    assert take(first) == [b"a.b", b"x.b"]
    assert take(second) == [b"a.b", b"x.b", b"a.b.c", b"a"]
    assert take(third) == [b"a.b"]


def test_queue_group_on_other_nodes(cluster: Cluster, wires: list[Wire], unique: str) -> None:
    """One member in the whole cluster gets each message; both nodes of members get their share."""
    publisher, *members = wires
    for member in members:
        listen(cluster, member, unique, queue="workers")
        listen(cluster, member, f"end.{unique}", sid=2)
    listen(cluster, members[0], unique, sid=3)  # who isn't in the group hears everything
    expected = [b"%d" % n for n in range(100)]
    for payload in expected:
        publisher.send(nats.pub(unique.encode(), b"", payload))
    publisher.send(nats.pub(f"end.{unique}".encode(), b"", END))
    came = take(members[0]) + take(members[1])
    assert sorted(came) == sorted(expected * 2)


def test_payload_and_headers_travel_unchanged(cluster: Cluster, wires: list[Wire], unique: str) -> None:
    sender, _, receiver = wires
    listen(cluster, receiver, unique)
    listen(cluster, receiver, f"end.{unique}", sid=2)
    headers, payload = b"NATS/1.0\r\nKey: value\r\n\r\n", bytes(range(256)) * 4000
    sizes = b"%d %d" % (len(headers), len(headers) + len(payload))
    sender.send(b"HPUB %b reply.here %b\r\n%b%b\r\n" % (unique.encode(), sizes, headers, payload))
    sender.send(nats.pub(f"end.{unique}".encode(), b"", END))
    assert headers + payload in take(receiver)


def test_nobody_is_there(cluster: Cluster, wires: list[Wire], unique: str) -> None:
    """A request into the void is answered at once, also after the only responder has left."""
    asking, _, answering = wires
    asking.send(nats.sub(b"_INBOX.asking", b"", b"1"))
    request = nats.pub(unique.encode(), b"_INBOX.asking", b"anybody?")
    asking.send(request)
    assert asking.message().startswith(b"NATS/1.0 503")
    listen(cluster, answering, unique)
    answering.socket.close()
    until("nobody", lambda: not any(hears(cluster, name, unique) for name in cluster.names))
    asking.send(request)
    assert asking.message().startswith(b"NATS/1.0 503")


@pytest.mark.slow
def test_clients_are_told_of_a_node_that_comes(cluster: Cluster) -> None:
    """By an INFO with all addresses; one that can't take it (protocol 0) is told nothing."""
    cluster.kill("n3")
    cluster.kill("n1")
    cluster.start("n1")
    cluster.wait_ready()
    two, three = ({cluster.address(name) for name in names} for names in (["n1", "n2"], cluster.names))
    port = cluster.ports["n1"]["client"]
    until("the addresses of two", lambda: announced(port) == two)
    with Wire(port) as wire, Wire(port) as old:
        wire.hello(b'{"verbose":false,"protocol":1}')
        old.hello(b'{"verbose":false}')
        cluster.start("n3")
        while urls(wire.line()) != three:
            pass
        assert old.nothing_came()


def announced(port: int) -> set[str]:
    with Wire(port) as wire:
        return urls(wire.info)


def urls(info: bytes) -> set[str]:
    assert info.startswith(b"INFO ")
    return set(json.loads(info[5:])["connect_urls"])
