"""Many wrong passwords don't prevent other logins."""

from __future__ import annotations

import threading
from typing import Any

import bcrypt
import pytest
import trio
import trio.testing

from node.errors import UnavailableError
from node.server.auth import Authenticator, Check, Identity, User
from node.server.password_checks import PasswordChecks, Turns


def drained(turns: Turns[Any]) -> list[Any]:
    found = []
    while (item := turns.next()) is not None:
        found.append(item)
    return found


def test_addresses_take_turns_and_within_an_address_its_users() -> None:
    turns: Turns[str] = Turns()
    for number in range(3):
        turns.add("attacker", "ann", f"attack {number}")
    turns.add("attacker", "bob", "bob, at the attacker's")
    turns.add("office", "ann", "ann, at the office")
    turns.add("home", "ann", "ann, at home")
    assert drained(turns) == [
        "attack 0",
        "ann, at the office",
        "ann, at home",
        "bob, at the attacker's",
        "attack 1",
        "attack 2",
    ]


def test_a_full_line_gives_up_the_oldest_of_whoever_has_most() -> None:
    turns: Turns[int] = Turns(address_max=3, total_max=5)
    assert [turns.add("a", "x", number) for number in range(3)] == [None] * 3
    assert turns.add("a", "y", 3) == 0
    assert turns.add("b", "x", 4) is None
    assert turns.add("c", "x", 5) is None
    assert turns.add("d", "x", 6) == 1
    turns.discard("c", "x", 5)
    turns.discard("c", "x", 5)  # twice does nothing
    assert drained(turns) == [2, 4, 6, 3]
    assert turns.add("a", "x", 7) is None
    assert drained(turns) == [7]


class SlowCheck(Check):
    """A comparison that ends when the test lets it."""

    def __init__(self, authenticator: Authenticator, given: str, user: str = "ann") -> None:
        super().__init__(authenticator, "hash", given, Identity(user), user)
        self.begun = 0
        self.end = threading.Event()

    def run(self) -> Identity | None:
        self.begun += 1
        assert self.end.wait(10)
        return Identity("ann")


async def began(check: SlowCheck) -> None:
    with trio.fail_after(10):
        while not check.begun:  # noqa: ASYNC110 - begun by a thread
            await trio.sleep(0.001)


async def test_who_leaves_does_not_free_a_processor_that_is_still_busy() -> None:
    checks, authenticator = PasswordChecks(1), Authenticator()
    first, second = SlowCheck(authenticator, "1"), SlowCheck(authenticator, "2")
    async with trio.open_nursery() as clients:
        with trio.CancelScope() as leaving:
            async with trio.open_nursery() as one:
                one.start_soon(checks.compare, first, "a")
                await began(first)
                leaving.cancel()
        clients.start_soon(checks.compare, second, "b")
        await trio.testing.wait_all_tasks_blocked()
        assert second.begun == 0
        first.end.set()
        await began(second)
        second.end.set()


async def test_who_leaves_before_its_turn_is_not_compared() -> None:
    checks, authenticator = PasswordChecks(1), Authenticator()
    first, second = SlowCheck(authenticator, "1"), SlowCheck(authenticator, "2")
    async with trio.open_nursery() as clients:
        clients.start_soon(checks.compare, first, "a")
        await began(first)
        with trio.move_on_after(0):
            await checks.compare(second, "b")
        first.end.set()
    await trio.testing.wait_all_tasks_blocked()
    assert second.begun == 0


async def test_the_same_password_is_compared_once_for_all() -> None:
    checks, authenticator = PasswordChecks(1), Authenticator()
    several = [SlowCheck(authenticator, "same") for _ in range(10)]
    outcomes = []

    async def log_in(check: SlowCheck) -> None:
        outcomes.append(await checks.compare(check, "a"))

    async with trio.open_nursery() as clients:
        for check in several:
            clients.start_soon(log_in, check)
        with trio.fail_after(10):
            while not any(check.begun for check in several):  # noqa: ASYNC110 - begun by a thread
                await trio.sleep(0.001)
        for check in several:
            check.end.set()
    assert outcomes == [Identity("ann")] * 10
    assert sum(check.begun for check in several) == 1


async def test_too_many_of_one_address_and_one_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """Not one of another address."""
    checks, authenticator = PasswordChecks(1, address_max=2), Authenticator()
    running = SlowCheck(authenticator, "running")
    refused, let_in = [], []

    async def log_in(number: int, host: str) -> None:
        check = SlowCheck(authenticator, f"{number}")
        check.end.set()
        try:
            await checks.compare(check, host)
            let_in.append(number)
        except UnavailableError:
            refused.append(number)

    async with trio.open_nursery() as clients:
        clients.start_soon(checks.compare, running, "attacker")
        await began(running)
        for number, host in enumerate(["attacker", "office", "attacker", "attacker", "attacker"]):
            clients.start_soon(log_in, number, host)
            await trio.testing.wait_all_tasks_blocked()
        assert refused == [0, 2]
        running.end.set()
    assert let_in == [3, 1, 4]  # in turns
    assert "too many passwords wait to be compared" in caplog.text


async def test_a_comparison_that_fails_is_raised_where_it_is_waited_for() -> None:
    class Broken(SlowCheck):
        def run(self) -> Identity | None:
            raise ZeroDivisionError

    checks = PasswordChecks(1)
    with pytest.raises(ZeroDivisionError):
        await checks.compare(Broken(Authenticator(), "x"), "a")
    check = SlowCheck(Authenticator(), "y")
    check.end.set()
    assert await checks.compare(check, "a") == Identity("ann")


def test_a_wrong_password_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeating it costs nothing; timing doesn't reveal other tried names."""
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
    authenticator = Authenticator([User("ann", hashed)])
    unknown = authenticator.begin({"user": "nobody", "pass": "guess"})
    assert isinstance(unknown, Check)
    assert unknown.run() is None
    assert authenticator.begin({"user": "nobody", "pass": "guess"}) is None
    check = authenticator.begin({"user": "ann", "pass": "guess"})
    assert isinstance(check, Check)  # not known from the name whose hash it borrowed
    assert check.run() is None
    assert authenticator.begin({"user": "ann", "pass": "guess"}) is None
    assert isinstance(authenticator.begin({"user": "ann", "pass": "right"}), Check)
    monkeypatch.setattr("node.server.auth.WRONG_KEPT_MAX", 1)
    other = authenticator.begin({"user": "ann", "pass": "another"})
    assert isinstance(other, Check)
    other.run()
    other.run()
    assert len(authenticator._wrong) <= 2
