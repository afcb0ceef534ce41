"""Who serves behind an external NATS server: in which queue group, and from when until when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from node.server.external_nats import serving as module
from node.server.external_nats.serving import Serving

LEASE_S = 0.15


class Node:
    """Leadership, engine and connection of one node, as a test wants them."""

    def __init__(self) -> None:
        self.node = "n1"
        self.term = 1
        self.leader: str | None = None
        self.is_serving = False
        self.caught_up = True
        self.has_majority_linked = True
        self.was_handed_over = False
        self.successor: tuple[str, int] | None = None
        self.age_s = 0.0
        self.problem = ""
        self.told: list[tuple[str, int, int, bool]] = []
        self.kicked = 0
        self.subscribed: Callable[[], None] = lambda: None
        self.done: list[Any] = []
        self.is_open = False
        self.routing = self
        self.may_take = lambda: True
        self.may_deliver = lambda: True
        self.serving = Serving(
            self,  # type: ignore[arg-type]
            self,
            self,
            cluster_id="c",
            lease_s=LEASE_S,
            tell=self.told.append,
            kick=self._kick,
        )

    def _kick(self) -> None:
        self.kicked += 1

    # the engine
    def is_successor(self, peer: str, term: int) -> bool:
        return self.successor == (peer, term)

    def majority_age_s(self) -> float:
        return self.age_s

    # the connection
    def open(self, queue: bytes) -> None:
        self.is_open = True
        self.done.append(queue)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.done.append("closed")

    def follow(self, leader: tuple[str, int] | None) -> None:
        self.done.append(leader)

    def once_subscribed(self, served: Callable[[], None]) -> None:
        self.subscribed = served

    def take_held(self) -> None:
        pass

    # what a test does
    def leads(self, term: int, *, was_handed_over: bool = False) -> None:
        self.term, self.leader, self.is_serving = term, self.node, True
        self.was_handed_over = was_handed_over
        self.serving.update()

    def follows(self, leader: str | None, term: int) -> None:
        self.term, self.leader, self.is_serving = term, leader, False
        self.serving.update()


def test_a_leader_serves_and_a_follower_does_not() -> None:
    node = Node()
    node.follows("n2", 1)
    node.leads(2)
    assert node.done == [("n2", 1), b"_STANCHION-c-2"]
    assert node.told == [("serving", 2, 2, False)]
    node.follows("n3", 3)
    assert node.done[2:] == ["closed", ("n3", 3)]


def test_a_leader_that_was_asked_to_takes_its_predecessors_group() -> None:
    """So each request reaches one of the two, while both are subscribed."""
    node = Node()
    node.serving.told(4, 2, is_subscribed=True)
    node.serving.told(3, 3, is_subscribed=True)  # late, and of an earlier term
    node.leads(5, was_handed_over=True)
    assert node.done[-1] == b"_STANCHION-c-2"
    assert node.told == [("serving", 5, 2, False)]


def test_a_leader_that_was_elected_otherwise_has_a_group_of_its_own() -> None:
    """Its predecessor may hang, and would keep its share of the requests."""
    node = Node()
    node.serving.told(4, 2, is_subscribed=True)
    node.leads(5)
    assert node.done[-1] == b"_STANCHION-c-5"


def test_the_group_is_reported_to_newly_linked_peers() -> None:
    node = Node()
    node.serving.peer_up()
    assert node.told == []
    node.leads(2)
    node.serving.peer_up()
    assert node.told == [("serving", 2, 2, False)] * 2


def test_requests_are_taken_only_with_a_lease() -> None:
    node = Node()
    node.leads(2)
    assert node.may_take()
    for name, value in (("age_s", LEASE_S), ("has_majority_linked", False), ("caught_up", False)):
        before = getattr(node, name)
        setattr(node, name, value)
        assert not node.may_take(), name
        setattr(node, name, before)
    assert node.may_take()


def test_requests_are_taken_after_a_hand_over_but_not_after_another_election() -> None:
    node = Node()
    node.leads(2)
    node.follows(None, 3)
    assert node.is_open, "requests wait until it is known who leads"
    assert not node.may_take()
    node.successor = ("n2", 3)
    node.serving.told(3, 2, is_subscribed=True)
    node.follows("n2", 3)
    assert node.may_take()
    assert not node.is_open
    node.follows("n3", 4)
    assert not node.may_take()


def test_a_leader_that_hands_over_stays_subscribed_until_its_successor_is(monkeypatch: Any) -> None:
    """Else nobody was, and what clients sent meanwhile was lost."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    node = Node()
    node.leads(2)
    assert node.may_deliver()
    node.successor = ("n2", 3)
    node.follows("n2", 3)
    assert node.is_open
    assert node.may_take(), "it forwards what comes"
    assert not node.may_deliver(), "its successor does"
    node.serving.told(3, 2, is_subscribed=False)
    node.serving.update()
    assert (node.is_open, node.kicked) == (True, 0)
    node.serving.told(3, 2, is_subscribed=True)
    assert node.kicked == 1
    node.serving.update()
    assert not node.is_open

    unresponsive = Node()
    unresponsive.leads(2)
    unresponsive.successor = ("n2", 3)
    unresponsive.follows("n2", 3)
    now[0] += module.SUCCESSOR_S - 0.1
    unresponsive.serving.update()
    assert unresponsive.is_open
    now[0] += 0.1
    unresponsive.serving.update()
    assert not unresponsive.is_open, "it reaches no NATS server, perhaps"


def test_subscriptions_at_the_server_are_reported_to_peers() -> None:
    node = Node()
    node.leads(2)
    node.subscribed()
    node.serving.peer_up()
    assert node.told == [("serving", 2, 2, False), *[("serving", 2, 2, True)] * 2]
    node.leads(4)
    node.serving.peer_up()
    assert node.told[3:] == [("serving", 2, 2, True)], "another term's subscriptions are not known yet"


def test_the_group_of_a_predecessor_that_never_served_is_not_known() -> None:
    """The last one known may be that of a leader that hangs, and would keep its share of the requests."""
    node = Node()
    node.serving.told(2, 2, is_subscribed=True)
    node.leads(5, was_handed_over=True)
    assert node.done[-1] == b"_STANCHION-c-5"


def test_without_a_leader_the_service_is_closed_soon(monkeypatch: Any) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    node = Node()
    node.leads(2)
    node.follows(None, 3)
    assert node.is_open
    now[0] += module.LEADERLESS_S
    node.serving.update()
    assert not node.is_open


async def test_a_leader_that_reaches_no_server_hands_over(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    handed: list[float] = []

    async def hand_over() -> None:
        handed.append(trio.current_time())

    node.leads(2)
    node.problem = "no connection with NATS server x"
    began_s = trio.current_time()
    module_time = module.time.monotonic
    module.time.monotonic = trio.current_time  # type: ignore[assignment]
    try:
        with trio.move_on_after(3 * module.CUT_OFF_S):
            await node.serving.run(trio.sleep_forever, hand_over)
    finally:
        module.time.monotonic = module_time
    assert len(handed) == 2
    assert handed[0] - began_s >= module.CUT_OFF_S
