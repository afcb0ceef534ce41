"""Requests to the leader, whoever that is when they are carried out."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest

from node.errors import RefusedError, RemoteProtocolError
from node.server.administration.asking import (
    AGAIN_S,
    GIVE_UP_S,
    NO_LEADER_S,
    SHARED_MAX,
    WAITING_MAX,
    Answer,
    Asking,
)


class Member:
    """One node of a cluster, with one verb: it keeps what it is asked."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.asking = Asking(name, self.send, first_number=100)
        self.asking.register("add", self.add)
        self.asked: list[tuple[dict[str, Any], Answer]] = []

    def send(self, peer: str, value: Any) -> bool:
        self.cluster.sent.append((self.name, peer, value))
        return True

    def add(self, fields: dict[str, Any], answer: Answer) -> None:
        if not fields:
            raise RefusedError("nothing to add")
        self.asked.append((fields, answer))


class Cluster:
    """Members whose frames arrive at once, unless they get lost."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any]] = []
        self.members = {name: Member(self, name) for name in ("n1", "n2", "n3")}
        self.answers: list[Any] = []

    def leader_is(self, leader: str | None, term: int = 1) -> None:
        for member in self.members.values():
            member.asking.leader_is(leader, term)
        self.settle()

    def settle(self, *, lose: bool = False) -> None:
        while self.sent:
            source, target, value = self.sent.pop(0)
            if not lose:
                self.members[target].asking.frame(source, value)

    def ask(self, verb: str = "add", at: str = "n1", **fields: Any) -> None:
        self.members[at].asking.ask(verb, fields, self.answers.append)
        self.settle()

    def pump(self, now_s: float) -> None:
        for member in self.members.values():
            member.asking.pump(now_s)
        self.settle()


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    cluster.leader_is("n2")
    return cluster


@pytest.mark.parametrize("at", ["n1", "n2"])
def test_the_leader_is_asked_and_its_answer_comes_back(cluster: Cluster, at: str) -> None:
    """Also if it is the very node that was asked."""
    cluster.ask(at=at, name="n4")
    ((fields, answer),) = cluster.members["n2"].asked
    assert fields == {"name": "n4"}
    for value in ({"progress": "half"}, {"ok": 1}, {"ok": 2}):
        answer(value)
    cluster.settle()
    assert cluster.answers == [{"progress": "half"}, {"ok": 1}]


def test_a_refusal_is_an_answer(cluster: Cluster) -> None:
    cluster.ask()
    cluster.ask("remove", name="x")
    assert cluster.answers == [
        {"error": "nothing to add"},
        {"error": "the leader, n2, doesn't know the request 'remove'"},
    ]


def test_a_leader_at_work_isn_t_asked_to_begin_again(cluster: Cluster) -> None:
    """It is asked again all the same, for the request or its answer may have been lost."""
    cluster.ask(name="n4")
    for second in range(5):
        cluster.pump(second * AGAIN_S)
    assert len(cluster.members["n2"].asked) == 1
    cluster.members["n2"].asked[0][1]({"ok": 1})
    cluster.settle(lose=True)
    assert cluster.answers == []
    cluster.pump(10)
    assert len(cluster.members["n2"].asked) == 2
    cluster.members["n2"].asked[1][1]({"ok": 2})
    cluster.settle()
    assert cluster.answers == [{"ok": 2}]
    cluster.pump(20)
    assert len(cluster.members["n2"].asked) == 2


def test_unanswered_requests_are_sent_to_the_next_leader(cluster: Cluster) -> None:
    """What the last one still says doesn't count: it may not be true any more."""
    cluster.ask(name="n4")
    cluster.leader_is(None)
    cluster.members["n2"].asked[0][1]({"ok": "late"})
    cluster.leader_is("n1")
    assert cluster.answers == []
    assert [fields for fields, _ in cluster.members["n1"].asked] == [{"name": "n4"}]
    cluster.members["n1"].asked[0][1]({"ok": 1})
    assert cluster.answers == [{"ok": 1}]


def test_a_leader_of_another_term_begins_anew(cluster: Cluster) -> None:
    """It has dropped what it was at when its term ended."""
    cluster.ask(at="n2", name="n4")
    cluster.leader_is("n2", 2)
    assert len(cluster.members["n2"].asked) == 2


def test_without_a_leader_for_long_that_is_the_answer(cluster: Cluster) -> None:
    cluster.leader_is(None)
    cluster.ask(name="n4")
    cluster.pump(1)
    cluster.pump(NO_LEADER_S)
    assert cluster.answers == []
    cluster.pump(1 + NO_LEADER_S)
    assert cluster.answers == [{"error": "there has been no leader for 10 s"}]


def test_every_request_is_answered_in_the_end(cluster: Cluster) -> None:
    """Else a node that never comes, added again and again, used up the room for requests."""
    cluster.ask(name="n4")
    cluster.pump(GIVE_UP_S - 1)
    assert cluster.answers == []
    cluster.pump(GIVE_UP_S)
    assert cluster.answers == [{"error": "add took longer than 600 s; ask again"}]
    asked = len(cluster.members["n2"].asked)
    cluster.pump(GIVE_UP_S + 5)
    assert len(cluster.members["n2"].asked) == asked


def test_number_of_waiting_requests_is_bounded(cluster: Cluster) -> None:
    cluster.leader_is(None)
    for number in range(WAITING_MAX + 1):
        cluster.ask(name=f"n{number}")
    assert cluster.answers == [{"error": "64 requests wait for the leader; try again later"}]


@pytest.mark.parametrize(
    ("within", "waited_s"), [(30, 30), (0.5, 0.5), (1e9, GIVE_UP_S), (math.nan, GIVE_UP_S)]
)
def test_within_limits_the_wait_for_an_answer(cluster: Cluster, within: float, waited_s: float) -> None:
    cluster.pump(100)
    cluster.ask(name="n4", within=within)
    cluster.pump(100 + waited_s - 0.25)
    assert cluster.answers == []
    cluster.pump(100 + waited_s)
    assert cluster.answers == [{"error": f"add took longer than {waited_s:g} s; ask again"}]


def test_identical_requests_are_merged(cluster: Cluster) -> None:
    """A script that adds a node which never comes; what others ask for is not refused because of it."""
    for _ in range(3 * WAITING_MAX):
        cluster.ask(name="n4")
    again = {"error": f"{SHARED_MAX} others have made the same request add; ask again"}
    assert cluster.answers == [again] * (3 * WAITING_MAX - SHARED_MAX)
    cluster.ask(verb="unknown")
    assert "doesn't know the request" in cluster.answers.pop()["error"]
    cluster.members["n2"].asked[0][1]({"ok": "what was found before the last one asked"})
    cluster.settle()
    assert {"ok": 1} not in cluster.answers
    cluster.members["n2"].asked[-1][1]({"ok": 1})
    cluster.settle()
    assert cluster.answers[-SHARED_MAX:] == [{"ok": 1}] * SHARED_MAX


@pytest.mark.parametrize(
    "frame",
    [
        ("ask", 1, "add"),
        ("ask", 1, "add", "{"),
        ("told", 1, "[]"),
        ("tell", 1, "{}"),
        ("told", "x", "{}"),
        ("told", 1, "[" * 100_000),
    ],
)
def test_malformed_frames(cluster: Cluster, frame: tuple[Any, ...]) -> None:
    with pytest.raises(RemoteProtocolError):
        cluster.members["n2"].asking.frame("n1", frame)


def test_progress_repeated_by_the_next_leader_is_reported_once(cluster: Cluster) -> None:
    """A leader that is removed says that it hands over; should it lead again, it says so again."""
    cluster.ask(name="n4")
    for leader, term in (("n2", 1), ("n3", 2), ("n2", 3)):
        cluster.leader_is(leader, term)
        cluster.members[leader].asked[-1][1]({"progress": f"{leader[0]} hands over first"})
        cluster.settle()
    cluster.members["n2"].asked[-1][1]({"progress": "removed"})
    cluster.settle()
    assert cluster.answers == [{"progress": "n hands over first"}, {"progress": "removed"}]


def test_a_request_without_caller_is_dropped(cluster: Cluster) -> None:
    """Of two who asked for the same, one may still be there."""
    gone: set[str] = set()
    answers: list[Any] = []
    asking = cluster.members["n1"].asking
    for who in ("first", "second"):
        told = functools.partial(lambda who, _value: answers.append(who), who)
        asking.ask("add", {"name": "n4"}, told, functools.partial(gone.__contains__, who))
    cluster.settle()
    gone.add("first")
    cluster.pump(AGAIN_S)
    cluster.members["n2"].asked[-1][1]({"progress": "half"})
    cluster.settle()
    assert answers == ["second"]
    gone.add("second")
    assert asking.pump(2 * AGAIN_S) == math.inf
    assert cluster.sent == []
