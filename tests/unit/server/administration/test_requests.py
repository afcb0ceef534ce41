"""Who may ask a node for what, and what a request may look like."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from node.errors import RefusedError
from node.limited_log import LINES_MAX
from node.server.administration.requests import (
    ANSWER_SIZE_MAX,
    REQUEST_SIZE_MAX,
    UNANSWERED_MAX,
    Administration,
    Answer,
    subject,
)
from node.server.auth import ANONYMOUS, BEARER, OPERATOR, Identity


class Client:
    """A connection, as far as administration looks at it."""

    def __init__(self, host: str = "127.0.0.1", identity: Identity | None = OPERATOR) -> None:
        self.address = (host, 50_000)
        self.identity = identity


class Node:
    """Administration behind routing that keeps what is published."""

    def __init__(self) -> None:
        self.handler: Callable[..., None]
        self.pattern = b""
        self.published: list[tuple[bytes, Any]] = []
        self.listens = True
        self.administration = Administration("shop", self)
        self.requests: list[tuple[dict[str, Any], Answer]] = []
        self.administration.register(
            "greet", self.greet, required={"name": str}, optional={"times": int, "factor": (int, float)}
        )

    def serve(self, pattern: bytes, handler: Callable[..., None]) -> None:
        self.pattern, self.handler = pattern, handler

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
        self.published.append((subject, json.loads(payload)))
        return 1

    def reachable(self, subject: bytes) -> bool:
        return self.listens and subject == b"_INBOX.r"

    def greet(self, fields: dict[str, Any], answer: Answer) -> None:
        if fields["name"] == "nobody":
            raise RefusedError("nobody is here")
        self.requests.append((fields, answer))

    def ask(self, payload: Any, *, verb: str = "greet", client: Client | None = None) -> Any:
        """The answer, if there is one already."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.published.clear()
        self.handler(client or Client(), subject("shop", verb), b"_INBOX.r", data)
        return self.published[-1][1] if self.published else None


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_request_is_handled_and_answered_when_its_time_has_come(node: Node) -> None:
    """Progress may go before; after the answer there is no more."""
    assert node.pattern == b"_STANCHION.admin.shop.>"
    assert node.ask({"name": "ann"}) is None
    fields, answer = node.requests[0]
    assert fields == {"name": "ann"}
    for value in ({"progress": "waving"}, {"ok": [1]}, {"error": "too late"}, {"progress": "nor this"}):
        answer(value)
    assert node.published == [(b"_INBOX.r", {"progress": "waving"}), (b"_INBOX.r", {"ok": [1]})]


def test_a_handler_refuses_by_raising(node: Node) -> None:
    assert node.ask({"name": "nobody"}) == {"error": "nobody is here"}


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "greet: 'name' is missing"),
        ({}, "greet: 'name' is missing"),
        (b"{", "greet: not JSON"),
        (b"\xff", "greet: not JSON"),
        (b"[" * 60_000, "greet: not JSON"),
        (["ann"], "expected a JSON object, not a list"),
        (b"null", "expected a JSON object, not null"),
        ({"name": 5}, "'name' can't be a number"),
        ({"name": "a", "times": True}, "'times' can't be true or false"),
        (b'{"name": "a", "times": ' + b"[" * 400 + b"]" * 400 + b"}", "'times' can't be a list"),
        ({"name": "a", "times": 1.5}, "'times' can't be a number"),
        ({"name": "a", "nmae": "b", "factor": {}}, "no such field: 'nmae'; 'factor' can't be an object"),
        ({"name": "x" * REQUEST_SIZE_MAX}, f"at most {REQUEST_SIZE_MAX}"),
    ],
)
def test_malformed_requests_are_refused_with_a_reason(node: Node, payload: Any, said: str) -> None:
    assert said in node.ask(payload)["error"]
    assert node.requests == []


def test_numbers_are_numbers(node: Node) -> None:
    """JSON has one kind of them."""
    assert node.ask({"name": "a", "times": 2, "factor": 3}) is None
    assert node.ask({"name": "a", "factor": 3.5}) is None


def test_refusal_of_an_unknown_verb_lists_the_verbs(node: Node) -> None:
    assert node.ask({}, verb="gret") == {"error": "unknown request 'gret'; this node has greet"}
    assert "unknown request '*'" in node.ask({}, verb="*")["error"]


@pytest.mark.parametrize(
    ("client", "may"),
    [
        (Client("127.0.0.1", OPERATOR), True),
        (Client("10.0.0.1", OPERATOR), True),
        (Client("127.0.0.1", ANONYMOUS), False),  # a proxy makes all its clients look local
        (Client("::1", ANONYMOUS), False),
        (Client("10.0.0.1", ANONYMOUS), False),
        (Client("10.0.0.1", BEARER), True),
        (Client("10.0.0.1", Identity("ann", proven=True)), True),
        (Client("10.0.0.1", Identity("guest")), False),  # what everybody is taken for
        (Client("127.0.0.1", None), False),
        (None, False),  # published by a node itself
    ],
)
def test_authorized_clients(node: Node, client: Client | None, may: bool) -> None:
    node.handler(client, subject("shop", "greet"), b"r", b'{"name": "a"}')
    assert bool(node.requests) == may
    if not may:
        [(_, answer)] = node.published
        assert "administration needs the operator token" in answer["error"]


def test_refusals_are_a_few_lines_in_the_log(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(1000):
        node.ask({"name": "a"}, client=Client(identity=ANONYMOUS))
        node.handler(Client(), subject("shop", "greet"), b"", b"{}")
    assert len(caplog.records) <= 2 * LINES_MAX


def test_a_request_without_reply_subject_is_ignored(node: Node) -> None:
    node.handler(Client(), subject("shop", "greet"), b"", b'{"name": "a"}')
    assert node.requests == node.published == []


def test_an_answer_too_large_says_so(node: Node) -> None:
    node.ask({"name": "ann"})
    node.requests[0][1]({"ok": "x" * ANSWER_SIZE_MAX})
    assert "ask for less" in node.published[-1][1]["error"]


def test_number_of_unanswered_requests_is_bounded(node: Node) -> None:
    """Requests that wait for a leader who doesn't come are bounded, and room comes back."""
    for _ in range(UNANSWERED_MAX):
        assert node.ask({"name": "ann"}) is None
    assert "try again later" in node.ask({"name": "ann"})["error"]
    node.requests[0][1]({"ok": 1})
    assert node.ask({"name": "ann"}) is None


def test_a_request_whose_caller_is_gone_is_finished(node: Node) -> None:
    """Then it counts for nothing any more, and nothing is published."""
    node.ask({"name": "ann"})
    ((_, answer),) = node.requests
    administration = node.administration
    assert (administration.is_given_up(answer), administration._unanswered) == (False, 1)
    node.listens = False
    assert (administration.is_given_up(answer), administration._unanswered) == (True, 0)
    assert administration.is_given_up(answer)
    answer({"ok": 1})
    assert (node.published, administration._unanswered) == ([], 0)
    assert not administration.is_given_up(lambda _value: None)
