"""Answers to clients that move to another node."""

from __future__ import annotations

import pytest

from node.server.moving import KEPT_MAX, MovingReplies, owners_pattern


class Routing:
    def __init__(self) -> None:
        self.reachable: set[bytes] = set()
        self.sent: list[tuple[bytes, bytes]] = []

    def reachable_by_owner(self, inbox: bytes) -> bool:
        return inbox in self.reachable

    def send(self, inbox: bytes, payload: bytes) -> None:
        if inbox in self.reachable:
            self.sent.append((inbox, payload))

    def moving(self) -> MovingReplies:
        return MovingReplies(self.reachable_by_owner, self.send)


def test_an_answer_waits_until_its_client_is_reachable() -> None:
    routing = Routing()
    moving = routing.moving()
    for number in range(3):
        moving.send(b"a", b"%d" % number)
    moving.send(b"b", b"other")
    moving.interest_changed()
    assert (routing.sent, moving.count) == ([], 4)
    routing.reachable.add(b"a")
    moving.send(b"a", b"3")
    assert routing.sent == [(b"a", b"0"), (b"a", b"1"), (b"a", b"2"), (b"a", b"3")]
    assert moving.count == 1


def test_a_reachable_client_is_answered_once() -> None:
    routing = Routing()
    routing.reachable.add(b"a")
    moving = routing.moving()
    moving.send(b"a", b"1")
    moving.interest_changed()
    assert (routing.sent, moving.count) == ([(b"a", b"1")], 0)


def test_answers_to_clients_that_never_return_are_bounded() -> None:
    moving = Routing().moving()
    for number in range(KEPT_MAX + 10):
        moving.send(b"%d" % (number % 7), b"")
    assert (moving.count, moving.dropped) == (KEPT_MAX, 10)


@pytest.mark.parametrize(
    ("pattern", "inbox", "is_owners"),
    [
        (b"_STAN.acks.abc", b"_STAN.acks.abc", True),
        (b"_STAN.acks.*", b"_STAN.acks.abc", False),
        (b"_STAN.>", b"_STAN.acks.abc", False),
        (b"_INBOX.abc", b"_INBOX.abc", True),
        (b"_INBOX.*", b"_INBOX.abc", False),
        (b"_INBOX.>", b"_INBOX.abc.7", False),
        (b"_INBOX.abc.*", b"_INBOX.abc.7", True),
        (b"_INBOX.abc.>", b"_INBOX.abc.7", True),
        (b">", b"_INBOX.abc.7", False),
        (b"*.abc.7", b"_INBOX.abc.7", False),
        (b"inbox", b"inbox", True),
    ],
)
def test_another_client_is_not_taken_for_the_owner(pattern: bytes, inbox: bytes, is_owners: bool) -> None:
    assert owners_pattern(pattern, inbox) is is_owners
