"""Requests to change the members: who answers them, and in which words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from node.config.values import Address
from node.server.administration.asking import Asking
from node.server.administration.requests import Administration, Answer, subject
from node.server.auth import ANONYMOUS, OPERATOR, Identity
from node.server.membership.requests import NAME_SIZE_MAX, serve_go_requests, serve_membership


class Client:
    """A connection of this node."""

    def __init__(self, identity: Identity = ANONYMOUS) -> None:
        self.address = ("127.0.0.1", 50_000)
        self.identity = identity


CLIENT = Client()


class Node:
    """A node that leads, and does nothing by itself."""

    def __init__(self) -> None:
        self.served: dict[bytes, Callable[..., None]] = {}
        self.published: list[tuple[bytes, bytes]] = []
        self.asked: list[tuple[str, dict[str, Any], Answer]] = []
        self.listens = True
        self.asking = asking = Asking("n1", lambda peer, value: True, 1)
        for verb in ("cluster.add", "cluster.remove", "cluster.members"):
            asking.register(verb, self._doing(verb))
        asking.leader_is("n1", 1)
        self.administration = Administration("shop", self)
        serve_membership(self.administration, asking)
        serve_go_requests(self, "shop", asking, {"n4": Address("h", 6)})

    def _doing(self, verb: str) -> Callable[[dict[str, Any], Answer], None]:
        return lambda fields, answer: self.asked.append((verb, fields, answer))

    def serve(self, pattern: bytes, handler: Callable[..., None]) -> None:
        self.served[pattern] = handler

    def publish(
        self,
        source: None,
        subject: bytes,
        reply: bytes,
        headers: bytes,
        payload: bytes,
        *,
        to_services: bool,
    ) -> int:
        assert not to_services
        self.published.append((subject, payload))
        return 1

    def reachable(self, subject: bytes) -> bool:
        return self.listens

    def go(self, what: str, name: bytes, *answers: dict[str, Any]) -> list[bytes]:
        """Make the Go server's request; what is replied when the leader says ``answers``."""
        subject = f"_STAN.raft.shop.node.{what}".encode()
        before = len(self.asked)
        self.published.clear()
        self.served[subject](CLIENT, subject, b"r", name)
        for answer in answers:
            self.asked[before][2](answer)
        assert all(subject == b"r" for subject, _ in self.published)
        return [payload for _, payload in self.published]


@pytest.fixture
def node() -> Node:
    return Node()


def test_requests_of_the_go_server(node: Node) -> None:
    """CLU-18: its words, to its subjects; the address comes from this node's file."""
    assert node.go("add", b"n4", {"progress": "…"}, {"ok": {}}) == [b"+OK"]
    assert node.asked[0][:2] == ("cluster.add", {"name": "n4", "peer": "h:6", "wait": False})
    assert node.go("remove", b"n2", {"ok": {}}) == [b"+OK"]
    assert node.asked[1][:2] == ("cluster.remove", {"name": "n2"})
    assert node.go("add", b"") == [b'-ERR adding node "": invalid node ID']
    assert node.go("add", b"n5") == [
        b'-ERR adding node "n5": its address is not in this node\'s configuration'
    ]
    assert node.go("remove", b"n1", {"error": "no"}) == [b'-ERR removing node "n1": no']
    for what in ("add", "remove"):
        (reply,) = node.go(what, b"n" * (NAME_SIZE_MAX + 1))
        assert reply.endswith(b"invalid node ID")


def test_a_request_without_subscriber_is_cancelled(node: Node) -> None:
    """Its inbox is gone, and with it the request: else 64 of them would be in the others' way for minutes."""

    admin = subject("shop", "cluster.remove")
    node.served[subject("shop", ">")](Client(OPERATOR), admin, b"r", b'{"name": "n4"}')
    node.go("remove", b"n2")
    go = b"_STAN.raft.shop.node.remove"
    node.served[go](CLIENT, go, b"", b"n3")  # which wants no reply
    node.asking.pump(1.0)
    assert [fields["name"] for _, fields, _ in node.asked] == ["n4", "n2", "n3"]
    node.listens = False
    node.asking.pump(2.0)
    assert [waiting.fields for waiting in node.asking._waiting.values()] == ['{"name": "n3"}']
    assert node.administration._unanswered == 0
    node.asked[0][2]({"ok": {}})
    assert node.published == []


def test_a_request_without_reply_subject_gets_no_answer(node: Node) -> None:
    subject = b"_STAN.raft.shop.node.remove"
    node.served[subject](CLIENT, subject, b"", b"n2")
    node.asked[0][2]({"ok": {}})
    assert node.published == []


@pytest.mark.parametrize("what", ["add", "remove"])
def test_other_clusters_clients_change_no_members(node: Node, what: str) -> None:
    """They may use the streaming service, and its subjects begin alike."""
    subject = f"_STAN.raft.shop.node.{what}".encode()
    node.served[subject](None, subject, b"r", b"n4")
    ((_, reply),) = node.published
    assert b"only clients of this cluster's nodes may ask" in reply
    assert node.asked == []


def test_operators_requests_have_their_verbs(node: Node) -> None:
    assert set(node.served) == {
        b"_STANCHION.admin.shop.>",
        b"_STAN.raft.shop.node.add",
        b"_STAN.raft.shop.node.remove",
    }


@pytest.mark.parametrize("what", ["add", "remove"])
def test_a_client_without_credentials_can_not_change_members(node: Node, what: str) -> None:
    subject = f"_STAN.raft.shop.node.{what}".encode()
    node.served[subject](Client(Identity("guest")), subject, b"r", b"n4")
    ((_, reply),) = node.published
    assert b"clients without credentials may not ask" in reply
    node.served[subject](Client(Identity("ann", proven=True)), subject, b"r", b"n4")
    assert len(node.asked) == 1
