"""Requests of a node to clients: each is either answered or missed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from node.server.requests import Requests
from node.server.system import System


class Wire:
    """Routing that only the requests use."""

    def __init__(self) -> None:
        self.handler: Callable[..., None] | None = None
        self.pattern = b""
        self.announced = False
        self.published: list[tuple[bytes, bytes]] = []

    def serve(self, pattern: bytes, handler: Callable[..., None], *, announce: bool = False) -> Any:
        self.pattern, self.handler, self.announced = pattern, handler, announce

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
        assert (headers, payload) == (b"", b"")
        self.published.append((subject, reply))
        return 0

    def answer(self, reply: bytes) -> None:
        assert self.handler is not None
        self.handler(None, reply, b"", b"")


class Asking:
    def __init__(self) -> None:
        self.wire = Wire()
        self.now = 50.0
        self.kicks = 0
        host = System(monotonic_ns=lambda: int(self.now * 1e9), random_bytes=lambda size: b"r" * size)
        self.requests = Requests(self.wire, host, self._kick)
        self.came: list[str] = []

    def _kick(self) -> None:
        self.kicks += 1

    def ask(self, name: str, timeout_s: float) -> bytes:
        """Send a request to the inbox ``name``. Returns its reply subject."""
        self.requests.ask(
            name, lambda: self.came.append(f"{name} answered"), lambda: self.came.append(f"{name} missed"),
            timeout_s,
        )  # fmt: skip
        subject, reply = self.wire.published[-1]
        assert subject == name.encode()
        return reply


def test_answers_arrive_under_one_announced_prefix() -> None:
    """The client may be connected to another node: the prefix is announced."""
    asking = Asking()
    reply = asking.ask("hb.a", 1.0)
    assert asking.wire.announced
    assert asking.wire.pattern.startswith(b"_INBOX.")
    assert asking.wire.pattern.endswith(b".*")
    assert reply.startswith(asking.wire.pattern[:-1])
    assert len(asking.wire.pattern.split(b".")[1]) == 22


def test_a_client_cannot_answer_for_another() -> None:
    """A client learns the prefix and its own reply subject, but not those of others."""
    asking = Asking()
    replies = [asking.ask(f"hb.{number}", 1.0) for number in range(100)]
    tails = {reply.rpartition(b".")[2] for reply in replies}
    assert len(tails) == 100
    assert {len(tail) for tail in tails} == {22}
    for number in range(200):
        asking.wire.answer(asking.wire.pattern[:-1] + b"%d" % number)
    assert not asking.came


def test_an_answer_counts_once() -> None:
    asking = Asking()
    reply = asking.ask("hb.a", 1.0)
    asking.wire.answer(reply)
    asking.wire.answer(reply)
    asking.now += 5
    asking.requests.tick()
    assert asking.came == ["hb.a answered"]


def test_no_answer_in_time_is_a_miss_and_a_later_one_nothing() -> None:
    asking = Asking()
    reply = asking.ask("hb.a", 0.5)
    asking.now += 0.49
    asking.requests.tick()
    assert asking.came == []
    asking.now += 0.01
    asking.requests.tick()
    asking.wire.answer(reply)
    assert asking.came == ["hb.a missed"]


def test_the_driver_knows_when_to_look_again() -> None:
    """It is the earliest of the open requests. Each new request and each answer wakes the driver."""
    asking = Asking()
    assert asking.requests.next_deadline() is None
    asking.ask("slow", 10.0)
    first = asking.ask("quick", 0.5)
    assert asking.requests.next_deadline() == 50.5
    asking.wire.answer(first)
    assert asking.requests.next_deadline() == 60.0
    assert asking.kicks == 3


def test_requests_are_told_apart() -> None:
    asking = Asking()
    asking.ask("hb.a", 1.0)
    reply = asking.ask("hb.b", 1.0)
    asking.wire.answer(reply)
    asking.now += 1
    asking.requests.tick()
    assert asking.came == ["hb.b answered", "hb.a missed"]


def test_an_answer_without_a_request_is_ignored() -> None:
    asking = Asking()
    asking.wire.answer(asking.wire.pattern[:-1] + b"99")
    assert asking.came == []


def test_unreachable_clients_miss_nothing() -> None:
    """While the NATS server is away no timeout runs; then all requests are repeated with full timeouts."""
    asking = Asking()
    reply = asking.ask("hb.a", 1.0)
    asking.requests.suspend()
    asking.now += 100.0
    asking.requests.tick()
    assert asking.requests.next_deadline() is None
    asking.requests.ask("hb.b", lambda: asking.came.append("b answered"), lambda: None, 1.0)
    assert len(asking.wire.published) == 1
    asking.requests.resume()
    assert [subject for subject, _ in asking.wire.published] == [b"hb.a", b"hb.a", b"hb.b"]
    asking.now += 0.9
    asking.requests.tick()
    assert asking.came == []
    asking.wire.answer(reply)
    asking.now += 0.2
    asking.requests.tick()
    assert asking.came == ["hb.a answered"]


def test_a_suspension_of_this_process_extends_timeouts() -> None:
    """R17, R4: a live client was replaced because its node was suspended for its half second."""
    asking = Asking()
    reply = asking.ask("hb.a", 0.5)
    asking.ask("hb.b", 0.7)
    asking.now += 0.1
    asking.now += 3.0
    asking.requests.paused(3.0)
    asking.requests.tick()
    asking.wire.answer(reply)
    assert asking.came == ["hb.a answered"]
    assert asking.requests.next_deadline() == pytest.approx(50 + 3.7)
    asking.now += 0.6
    asking.requests.tick()
    assert asking.came == ["hb.a answered", "hb.b missed"]


def test_an_immediate_answer_is_handled() -> None:
    """Like services of this node, if a client names such a subject as its inbox."""
    asking = Asking()
    asking.requests.suspend()
    for name in ("hb.a", "hb.b"):
        asking.requests.ask(name, lambda: asking.came.append("answered"), lambda: None, 1.0)
    publish = asking.wire.publish

    def answered_at_once(*message: Any, **options: Any) -> int:
        asking.wire.answer(message[2])
        return publish(*message, **options)

    asking.wire.publish = answered_at_once  # type: ignore[method-assign]
    asking.requests.resume()
    assert asking.came == ["answered", "answered"]
