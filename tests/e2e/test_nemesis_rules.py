"""The nemesis's checker bites: each broken promise is told, and what may happen is not.

And its schedule is the seed's: faults overlap, are bounded, and what is demanded meanwhile is what can be.
"""

from __future__ import annotations

import math
import random
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from e2e.nemesis.history import Cursor, History, Trouble
from e2e.nemesis.pace import Pace
from e2e.nemesis.run import torment
from e2e.nemesis.schedule import AT_ONCE, SUITS, rounds
from e2e.nemesis.standing import Standing

from node.core import refusals
from node.demo.history import Ack, Delivery, Link

ACK_WAIT_S = 2.0
HERE, THERE = Link("here", 0, "n1"), Link("there", 0, "n2")


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def cursor(history: History) -> Cursor:
    return history.cursor("group", "foo", ACK_WAIT_S)


def publish(history: History, message: str, at_s: float) -> None:
    history.published_s[message] = at_s
    history.answered("foo", message, "", at_s + 0.01)


def deliver(history: History, seq: int, at_s: float, link: Link = HERE, count: int = 0) -> None:
    delivery = Delivery(at_s, link.client, link, count, count > 0)
    history.received(history.cursors["group"], seq, f"m{seq}", delivery)


def ack(cursor: Cursor, seq: int, at_s: float, link: Link = HERE) -> None:
    cursor.events[seq].append(Ack(at_s, link.client, link))


def trouble(history: History, node: str, began_s: float, over_s: float, **what: bool) -> None:
    found = Trouble("trouble", frozenset([node]), began_s, **what)
    found.led_s, found.over_s = began_s + 0.5, over_s
    history.troubles.append(found)


def broken(history: History) -> list[str]:
    return [violation.rule for violation in history.judge(is_complete=True)]


def test_what_should_be(history: History, cursor: Cursor) -> None:
    """Delivered once and acked; forgotten, and delivered again when its AckWait has passed."""
    for seq in (1, 2):
        publish(history, f"m{seq}", 10.0)
        deliver(history, seq, 10.01)
    ack(cursor, 1, 10.02)
    deliver(history, 2, 12.02, THERE, count=1)
    ack(cursor, 2, 12.03, THERE)
    assert broken(history) == []


def test_lost(history: History, cursor: Cursor) -> None:
    publish(history, "m1", 10.0)
    assert broken(history) == ["lost"]
    assert history.judge(is_complete=False) == []


def test_gap(history: History, cursor: Cursor) -> None:
    deliver(history, 2, 10.0)
    assert broken(history) == ["lost"]


def test_two_messages_with_one_sequence(history: History, cursor: Cursor) -> None:
    deliver(history, 1, 10.0)
    history.received(history.cursor("other", "foo", 2.0), 1, "m7", Delivery(10.0, "there", THERE, 0, False))
    assert "diverged" in broken(history)


def test_stored_twice(history: History, cursor: Cursor) -> None:
    deliver(history, 1, 10.0)
    history.received(cursor, 2, "m1", Delivery(10.0, "here", HERE, 0, False))
    assert "diverged" in broken(history)


def test_refused(history: History, cursor: Cursor) -> None:
    history.answered("foo", "m1", "too many channels", 10.0)
    assert broken(history) == ["refused"]


def test_refused_for_want_of_a_leader(history: History, cursor: Cursor) -> None:
    """While nodes are hurt it may be, and is never stored; while all are well it may not."""
    trouble(history, "n1", 9.0, 12.0)
    for seq, at_s in ((1, 10.0), (2, 10.0), (3, 13.0)):
        history.published_s[f"m{seq}"] = at_s
        history.answered("foo", f"m{seq}", refusals.NO_LEADER, at_s)
    assert [v.text for v in history.judge(is_complete=True)] == ["m3, though all nodes were well"]
    deliver(history, 1, 11.0)
    told = [v.text for v in history.judge(is_complete=True) if v.rule == "refused"]
    assert told == ["m1 was refused, and stored all the same", "m3, though all nodes were well"]


def test_out_of_order(history: History, cursor: Cursor) -> None:
    deliver(history, 2, 10.0)
    deliver(history, 1, 10.1)
    assert broken(history) == ["order"]


def test_again_without_its_flag(history: History, cursor: Cursor) -> None:
    deliver(history, 1, 10.0)
    deliver(history, 1, 12.0, THERE)
    assert broken(history) == ["flag"]


def test_flag_without_count(history: History, cursor: Cursor) -> None:
    history.received(cursor, 1, "m1", Delivery(10.0, "here", HERE, 0, True))
    assert broken(history) == ["flag"]


def test_count_goes_back(history: History, cursor: Cursor) -> None:
    deliver(history, 1, 10.0, count=3)
    deliver(history, 1, 12.0, count=1)
    assert broken(history) == ["flag"]


def test_again_after_its_ack(history: History, cursor: Cursor) -> None:
    deliver(history, 1, 10.0)
    ack(cursor, 1, 10.0)
    deliver(history, 1, 12.0, count=1)
    assert broken(history) == ["acked"]


def test_held_by_two(history: History, cursor: Cursor) -> None:
    """A queue message goes to another member while the first still has it."""
    publish(history, "m1", 10.0)
    deliver(history, 1, 10.0)
    deliver(history, 1, 10.5, THERE, count=1)
    assert broken(history) == ["early"]


def test_killed_holder_hands_over(history: History, cursor: Cursor) -> None:
    publish(history, "m1", 10.0)
    deliver(history, 1, 10.0)
    history.gone_s["here"] = 10.1
    deliver(history, 1, 10.5, THERE, count=1)
    assert broken(history) == []


def test_ack_dies_with_its_node_and_only_then(history: History, cursor: Cursor) -> None:
    acked = Ack(10.0, "here", HERE)
    assert history.counts_from_s(acked) == 11.0
    trouble(history, "n1", 10.5, 13.0, kills=True)
    assert history.counts_from_s(acked) == math.inf
    assert history.counts_from_s(Ack(9.0, "here", HERE)) == 10.0
    assert history.counts_from_s(Ack(10.0, "there", THERE)) == 12.0  # from when somebody led again


def test_ack_to_a_node_that_stands_still_counts_when_it_goes_on(history: History, cursor: Cursor) -> None:
    trouble(history, "n1", 10.5, 13.0, stops=True)
    assert history.counts_from_s(Ack(10.2, "here", HERE)) == 14.0


def test_ack_over_a_link_that_breaks(history: History, cursor: Cursor) -> None:
    history.broken_s[HERE] = 10.5
    assert history.counts_from_s(Ack(10.0, "here", HERE)) == math.inf
    assert history.counts_from_s(Ack(9.0, "here", HERE)) == 10.0


@pytest.mark.parametrize(("at_s", "rules"), [(13.5, []), (14.5, ["flag"])])
def test_old_bytes_of_a_node_that_stood_still(
    history: History, cursor: Cursor, at_s: float, rules: list[str]
) -> None:
    """They are excused, for a second."""
    trouble(history, "n1", 10.0, 13.0, stops=True)
    deliver(history, 1, 12.0, THERE, count=1)
    deliver(history, 1, at_s, HERE)
    assert broken(history) == rules


@pytest.mark.parametrize(("at_s", "rules"), [(12.6, []), (12.9, ["flag"]), (13.3, []), (13.9, ["flag"])])
def test_what_a_node_that_was_cut_off_does_not_know(
    history: History, cursor: Cursor, at_s: float, rules: list[str]
) -> None:
    """What the others learnt half a second ago, at most: it performs nothing until it knows."""
    trouble(history, "n1", 10.0, 13.0)
    deliver(history, 1, 12.2 if at_s < 13 else 13.0, THERE, count=1)
    deliver(history, 1, at_s, HERE)
    assert broken(history) == rules


# --- troubles that overlap ------------------------------------------------------------------------


def test_a_trouble_excuses_its_own_nodes_only(history: History, cursor: Cursor) -> None:
    """n1 stood still while n2 was killed: what is acknowledged at n1 is not lost with n2, only late."""
    trouble(history, "n1", 10.0, 13.0, stops=True)
    trouble(history, "n2", 11.0, 15.0, kills=True)
    assert history.counts_from_s(Ack(10.2, "here", HERE)) == 14.0
    assert history.counts_from_s(Ack(10.5, "there", THERE)) == math.inf
    assert history.counts_from_s(Ack(12.9, "here", HERE)) == 14.0


def test_while_nobody_leads_an_ack_counts_for_nothing(history: History, cursor: Cursor) -> None:
    """n1 is paused; then n2 dies, and nobody has a majority until it is back."""
    trouble(history, "n1", 10.0, 13.0, stops=True)
    trouble(history, "n2", 11.0, 15.0, kills=True)
    history.troubles[1].led_s = 14.5
    assert history.counts_from_s(Ack(10.6, "third", Link("third", 0, "n3"))) == 15.5


def test_an_ack_given_to_the_next_process_does_not_die_with_the_last(
    history: History, cursor: Cursor
) -> None:
    trouble(history, "n1", 10.0, 15.0, kills=True)
    history.troubles[0].died_s = 10.1
    assert history.counts_from_s(Ack(9.5, "here", HERE)) == math.inf
    assert history.counts_from_s(Ack(12.0, "here", HERE)) == 16.0


def test_what_died_with_its_node_comes_soon(history: History, cursor: Cursor) -> None:
    """Within a second from when its client is back and somebody leads; it does not wait for its AckWait."""
    publish(history, "m1", 1.0)
    back = Link("here", 1, "n2")
    history.broken_s[HERE], history.made_s[back] = 1.1, 1.2
    trouble(history, "n1", 0.9, 5.0, kills=True)  # somebody leads again from 1.4 on
    deliver(history, 1, 2.3, back, count=1)
    assert broken(history) == []
    publish(history, "m2", 1.0)
    deliver(history, 2, 2.5, back, count=1)
    assert broken(history) == ["late"]


def test_late_is_judged_by_how_slow_the_machine_is(history: History, cursor: Cursor) -> None:
    publish(history, "m1", 1.0)
    deliver(history, 1, 2.6)
    assert broken(history) == ["late"]
    history.pace.late.append((2.0, 0.7))
    assert broken(history) == []
    history.pace.late.clear()
    history.pace.started(4, 3.2)
    assert broken(history) == []
    history.pace.started(4, 2.2)
    assert broken(history) == ["late"]


def test_of_a_group_only_what_nobody_was_sent_before_may_be_late(history: History, cursor: Cursor) -> None:
    cursor.is_group = True
    publish(history, "m1", 1.0)
    deliver(history, 1, 4.5, count=1)  # its first member has died, and never told what it was sent
    assert broken(history) == []
    publish(history, "m2", 1.0)
    deliver(history, 2, 4.5)
    assert broken(history) == ["late"]


def test_while_a_client_is_away_or_its_node_is_hurt_nothing_is_late(history: History, cursor: Cursor) -> None:
    publish(history, "m1", 1.0)
    trouble(history, "n1", 0.9, 3.0, stops=True)
    deliver(history, 1, 3.9)
    assert broken(history) == []


def test_lateness_is_that_of_the_span_alone() -> None:
    pace = Pace(late=[(1.0, 0.5), (2.0, 0.2), (4.0, 1.0)])
    assert pace.late_s(0.0, 5.0) == pytest.approx(1.7)
    assert pace.late_s(0.8, 1.9) == pytest.approx(0.3)
    assert pace.late_s(3.5, 3.8) == pytest.approx(0.3)
    assert pace.late_s(4.1, 5.0) == 0.0


# --- how a failure is told ------------------------------------------------------------------------


class _Broken:
    """A network and a cluster whose start fails, as a client's task does: with a group of exceptions."""

    kind = "none"
    names = ("n1", "n2", "n3")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = self

    def address(self, name: str) -> str:
        return f"127.0.0.1:{name[1:]}"

    def start(self) -> None:
        raise ExceptionGroup("tasks", [ExceptionGroup("clients", [OSError("no more sockets")])])


async def test_an_exception_ends_the_run_as_a_violation_with_its_seed(tmp_path: Path) -> None:
    """A group of exceptions alone told neither the seed nor, in its last lines, the reason."""
    broken: Any = _Broken(tmp_path)
    run = await torment(broken, broken, 4711, 1.0)
    assert [violation.rule for violation in run.violations] == ["ended"]
    last = run.told().splitlines()[-5:]
    assert any("seed 4711" in line for line in last)
    assert any("ended: the run ended with OSError: no more sockets" in line for line in last)
    assert "STANCHION_NEMESIS_SEED=4711" in last[-1]


# --- the schedule, and what is demanded meanwhile -------------------------------------------------


def test_one_seed_makes_one_schedule() -> None:
    first, again = ([*islice(rounds(random.Random(5)), 20)] for _ in range(2))
    assert first == again
    assert first != [*islice(rounds(random.Random(6)), 20)]


def test_faults_of_a_round_overlap() -> None:
    """Each begins while the one before it is in effect; never more than allowed; every fault has its turn."""
    drawn = [*islice(rounds(random.Random(1)), 40)]
    assert {len(each.faults) for each in drawn} == {1, 2, AT_ONCE}
    for each in drawn:
        assert each.faults[0].after_s == 0
        for before, fault in pairwise(each.faults):
            assert before.after_s <= fault.after_s <= before.after_s + before.for_s
    known = {name for _, names in SUITS for name in names}
    assert {fault.fault for each in drawn for fault in each.faults} == known


@pytest.fixture
def three() -> Standing:
    return Standing(["n1", "n2", "n3"])


def test_a_leader_is_demanded_of_a_majority_that_is_whole(three: Standing) -> None:
    assert three.circles()[0] == ("n1", "n2", "n3")
    three.fell(["n2"])
    assert three.circles() == [("n1", "n3")]
    three.cut([("n1", "n3")])  # one direction is enough
    assert three.circles() == []
    three.rose(["n2"])
    assert three.circles() == [("n1", "n2"), ("n2", "n3")]
    three.mend([("n1", "n3")])
    assert len(three.circles()) == 4


def test_a_direction_is_whole_when_all_that_cut_it_are_over(three: Standing) -> None:
    three.cut([("n1", "n2"), ("n1", "n3")])
    three.cut([("n1", "n2")])
    three.mend([("n1", "n2"), ("n1", "n3")])
    assert [*three.cuts] == [("n1", "n2")]
    three.mend([("n1", "n2")])
    assert not three.cuts


def test_who_may_start_cold(three: Standing) -> None:
    """A majority of newcomers, if nobody who was there before can tell them better."""
    three.fell(["n1", "n2"], kills=True)
    assert not three.may_start_cold()
    three.rose(["n1", "n2"])
    assert not three.may_start_cold()  # n3 has lived
    three.fell(["n3"])
    assert three.may_start_cold()
    three.rose(["n3"])
    three.cut([("n3", "n1")])
    assert three.may_start_cold()
    three.mend([("n3", "n1")])
    three.all_well()
    three.fell(["n3"], kills=True)
    assert not three.may_start_cold()
