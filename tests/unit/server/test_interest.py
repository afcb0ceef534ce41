"""The exchange of interest between two nodes, with small and large interest. Convergence: tests/property."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from node.server import interest
from node.server.interest import ITEMS_MAX, PARTS_MAX, Exchange, InterestChange, Key, Remote
from node.server.steps import STEP


class End:
    """One node's exchange, and its frames on the way to the other node."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wire: deque[Any] = deque()
        self.has_capacity = True
        self.known: dict[Key, Remote] = {}
        self.changes: list[InterestChange] = []
        self.exchange = Exchange(
            name,
            send=lambda _peer, frame: self.wire.append(frame),
            came=lambda remote: self.known.__setitem__((remote.subject, remote.queue), remote),
            went=lambda remote: self.known.__delitem__((remote.subject, remote.queue)),
            changed=lambda node, changes: self.changes.extend(changes) if node != name else None,
            has_capacity=lambda _peer: self.has_capacity,
        )

    def subscribe(self, *subjects: bytes, epoch: int = 1) -> None:
        for subject in subjects:
            self.exchange.own.add((subject, b""), epoch)
        self.exchange.flush()

    def unsubscribe(self, *subjects: bytes, epoch: int = 1) -> None:
        for subject in subjects:
            self.exchange.own.remove((subject, b""), epoch)
        self.exchange.flush()


class Pair:
    def __init__(self) -> None:
        self.a, self.b = End("a"), End("b")

    def up(self) -> None:
        self.a.exchange.peer_up("b")
        self.b.exchange.peer_up("a")

    def deliver(self) -> None:
        """Deliver all frames that are on the way."""
        while self.a.wire or self.b.wire:
            for one, other in ((self.a, self.b), (self.b, self.a)):
                while one.wire:
                    other.exchange.received(one.name, one.wire.popleft())

    def settle(self) -> None:
        """Run until neither node has work left."""
        for _ in range(10_000):
            self.deliver()
            if not [end for end in (self.a, self.b) if end.exchange.works]:
                return
            self.a.exchange.work()
            self.b.exchange.work()
        raise AssertionError("it never ends")


@pytest.fixture
def pair() -> Pair:
    return Pair()


def many(count: int) -> list[bytes]:
    return [b"s.%d" % number for number in range(count)]


def test_a_small_interest_is_sent_when_the_link_comes_up(pair: Pair) -> None:
    pair.a.subscribe(b"x", b"y")
    pair.up()
    pair.deliver()
    assert pair.b.exchange.complete("a")
    assert [key for key, _ in pair.b.exchange.items("a")] == [b"x", b"y"]


def test_a_large_interest_is_sent_in_parts_as_the_link_has_capacity(pair: Pair) -> None:
    """72 MB of interest broke a link with an outbox of 64 MB again and again."""
    subjects = many(20 * ITEMS_MAX)
    pair.a.subscribe(*subjects)
    pair.a.has_capacity = False
    pair.up()
    assert len(pair.a.wire) == 1, "the first part shows that there is more"
    assert len(pair.a.wire[0][3]) == ITEMS_MAX
    assert pair.a.exchange.works
    pair.a.exchange.work()
    assert len(pair.a.wire) == 1
    pair.a.has_capacity = True
    pair.a.exchange.work()
    assert len(pair.a.wire) == 1 + PARTS_MAX
    pair.deliver()
    assert not pair.b.exchange.complete("a")
    assert pair.b.exchange.size("a") == (1 + PARTS_MAX) * ITEMS_MAX, "taken as it comes"
    pair.settle()
    assert pair.b.exchange.complete("a")
    assert set(pair.b.known) == {(subject, b"") for subject in subjects}


def test_changes_go_ahead_of_the_rest_of_the_whole_interest(pair: Pair) -> None:
    """A request must not overtake the interest in its reply."""
    pair.a.subscribe(*many(20 * ITEMS_MAX))
    pair.up()
    pair.a.subscribe(b"inbox")
    pair.a.unsubscribe(b"s.0", b"s.4999")
    pair.deliver()
    assert (b"inbox", b"") in pair.b.known
    assert (b"s.0", b"") not in pair.b.known
    assert not pair.b.exchange.complete("a")
    pair.settle()
    assert pair.b.exchange.complete("a")
    assert set(pair.b.known) == {(subject, b"") for subject in [b"inbox", *many(4999)[1:]]}


def test_without_capacity_changes_are_kept_by_key(pair: Pair) -> None:
    """If a client subscribes and unsubscribes many times, only the latest state is sent."""
    pair.up()
    pair.settle()
    pair.a.has_capacity = False
    for epoch in range(1, 1000):
        pair.a.subscribe(b"x", b"y", epoch=epoch)
        pair.a.unsubscribe(b"x", b"y", epoch=epoch)
    pair.a.subscribe(b"x", epoch=1000)
    assert not pair.a.wire
    pair.a.has_capacity = True
    pair.a.exchange.work()
    assert len(pair.a.wire) == 1
    pair.settle()
    assert [(remote.subject, remote.epoch) for remote in pair.b.known.values()] == [(b"x", 1000)]


def test_receiving_a_frame_is_a_small_step(pair: Pair) -> None:
    pair.up()
    pair.settle()
    pair.a.subscribe(*many(3 * ITEMS_MAX))
    assert [len(frame[2]) for frame in pair.a.wire] == [ITEMS_MAX] * 3
    pair.settle()
    pair.a.subscribe(*(b"%d." % number + b"x" * 4000 for number in range(100)))
    assert max(sum(len(item[0]) for item in frame[2]) for frame in pair.a.wire) <= (
        interest.ITEM_BYTES_MAX + 4096
    )


def test_items_missing_from_a_new_whole_interest_are_removed_in_steps(pair: Pair) -> None:
    pair.a.subscribe(*many(2000))
    pair.up()
    pair.settle()
    pair.a.wire.clear()
    pair.a.unsubscribe(*many(1500))
    pair.a.wire.clear()  # lost
    pair.b.changes.clear()
    pair.a.exchange.tick()
    pair.deliver()
    assert not pair.b.exchange.complete("a")
    pair.settle()
    assert pair.b.exchange.complete("a")
    assert set(pair.b.known) == {(subject, b"") for subject in many(2000)[1500:]}
    assert len(pair.b.changes) == 1500


def test_the_items_of_an_unlinked_node_do_not_count_and_are_removed_in_steps(pair: Pair) -> None:
    pair.a.subscribe(*many(1000))
    pair.up()
    pair.settle()
    pair.b.changes.clear()
    remote = pair.b.known[b"s.7", b""]
    assert remote.is_up
    pair.b.exchange.peer_down("a")
    assert not remote.is_up
    assert pair.b.known
    while pair.b.exchange.works:
        before = len(pair.b.known)
        pair.b.exchange.work()
        assert before - len(pair.b.known) <= STEP
    assert not pair.b.known
    assert len(pair.b.changes) == 1000


def test_a_link_returns_while_the_old_interest_is_being_removed(pair: Pair) -> None:
    gone: list[Remote] = []
    pair.a.subscribe(*many(1000))
    pair.up()
    pair.settle()
    pair.b.exchange._went = gone.append
    pair.a.exchange.peer_down("b")
    pair.b.exchange.peer_down("a")
    pair.up()
    pair.settle()
    assert pair.b.exchange.complete("a")
    assert len(gone) == 1000
    assert {remote.is_up for remote in pair.b.known.values()} == {True}
    assert len(pair.b.known) == 1000


def test_an_older_release_can_receive_a_whole_interest_in_parts(pair: Pair) -> None:
    """Parts are numbered without gaps, only the last is marked as last, and no change comes between them."""
    pair.a.subscribe(*many(4 * ITEMS_MAX))
    pair.a.has_capacity = False
    pair.up()
    pair.a.has_capacity = True
    pair.a.subscribe(b"x")
    pair.a.exchange.work()
    pair.a.subscribe(b"y")
    frames = list(pair.a.wire)
    kinds = [frame[0] for frame in frames]
    assert kinds == ["whole"] * (len(kinds) - 1) + ["change"]
    assert [frame[1] for frame in frames] == list(range(len(frames)))
    assert [frame[2] for frame in frames[:-1]] == [False] * (len(frames) - 2) + [True]
