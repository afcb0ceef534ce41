"""The checker finds violations and accepts what the rules excuse."""

from __future__ import annotations

import pytest

from node.demo.checker import ackwait_error, check, handed_over, silence, why
from node.demo.history import Ack, Cursor, Delivery, History, Hit, Link

CHANNEL = "c"
AT_N1 = Link("sub", 0, "n1")
AT_N2 = Link("sub", 1, "n2")


class Recorded:
    """A history with one cursor. Messages are published 10 ms before they are seen."""

    def __init__(self, ack_wait_s: float = 5, *, is_group: bool = False, is_measured: bool = False) -> None:
        self.history = History()
        self.cursor = self.history.add_cursor(
            Cursor("cursor", CHANNEL, ack_wait_s, is_group=is_group, is_measured=is_measured)
        )

    def stored(self, message: str, at_s: float) -> Recorded:
        self.history.publishing(CHANNEL, message, at_s - 0.01)
        self.history.answered(CHANNEL, message, "", at_s)
        return self

    def got(
        self, at_s: float, resends: int = 0, *, seq: int = 1, link: Link = AT_N1, flagged: bool | None = None
    ) -> Delivery:
        message = f"m{seq}"
        self.history.published.setdefault(CHANNEL, {}).setdefault(message, at_s - 0.01)
        flag = resends > 0 if flagged is None else flagged
        delivery = Delivery(at_s, link.client, link, resends, flag)
        self.history.received(self.cursor, seq, message, delivery)
        return delivery

    def acked(self, at_s: float, *, seq: int = 1, link: Link = AT_N1) -> Ack:
        ack = Ack(at_s, link.client, link)
        self.history.acked(self.cursor, seq, ack)
        return ack

    def receipts(self, *times_s: float, link: Link = AT_N1) -> Recorded:
        """Each was sent at that time and answered 10 ms later."""
        for at_s in times_s:
            self.history.receipt(link, at_s, at_s + 0.01)
        return self

    def killed(self, node: str, at_s: float, ready_s: float | None, role: str = "leader") -> Hit:
        hit = Hit(node, "kill", at_s, role, ready_s=ready_s)
        self.history.hits.append(hit)
        return hit

    def paused(self, node: str, at_s: float, resumed_s: float, ready_s: float) -> Hit:
        hit = Hit(node, "pause", at_s, "leader", resumed_s=resumed_s, ready_s=ready_s)
        self.history.hits.append(hit)
        return hit

    def rules(self, end_s: float = 100.0) -> list[str]:
        return [violation.rule for violation in check(self.history, end_s).violations]

    def errors_ms(self) -> list[int]:
        return [round(error_s * 1000) for error_s in check(self.history, 100).ackwait_errors_s]


# --- lost -----------------------------------------------------------------------------------------


def test_a_quiet_history_breaks_nothing() -> None:
    recorded = Recorded().stored("m1", 1.0)
    recorded.got(1.01)
    recorded.acked(1.02)
    assert recorded.rules() == []


def test_a_stored_message_that_never_arrives_is_lost() -> None:
    recorded = Recorded().stored("m1", 1.0).stored("m2", 1.1)
    recorded.got(1.01)
    recorded.acked(1.02)
    assert recorded.rules() == ["lost"]


def test_a_publish_that_was_never_acknowledged_may_be_lost() -> None:
    recorded = Recorded()
    recorded.history.publishing(CHANNEL, "m1", 1.0)
    assert recorded.rules() == []


def test_a_skipped_sequence_is_lost() -> None:
    recorded = Recorded()
    for seq in (1, 3):
        recorded.got(1.0, seq=seq)
        recorded.acked(1.1, seq=seq)
    assert recorded.rules() == ["lost"]


def test_two_messages_under_one_sequence_diverge() -> None:
    recorded = Recorded()
    recorded.got(1.0)
    recorded.history.received(recorded.cursor, 1, "another", Delivery(6.0, "sub", AT_N1, 1, True))
    recorded.acked(6.1)
    assert recorded.rules() == ["diverged"]


def test_a_refused_publish_is_reported() -> None:
    recorded = Recorded()
    recorded.history.answered(CHANNEL, "m1", "no", 1.0)
    assert recorded.rules() == ["refused"]


def test_a_publish_that_is_declined_without_a_leader_is_never_stored() -> None:
    """R8: a publish may be refused without a leader; then it must not be stored."""
    recorded = Recorded()
    recorded.history.was_declined(CHANNEL, "m2")
    recorded.got(1.0)
    recorded.acked(1.1)
    assert recorded.rules() == []
    recorded.history.was_declined(CHANNEL, "m1")
    assert recorded.rules() == ["refused"]


def test_an_unacknowledged_message_without_redelivery_is_lost() -> None:
    recorded = Recorded(5)
    recorded.got(1.0)
    assert recorded.rules(end_s=9.0) == ["lost"]


def test_a_redelivery_that_is_far_too_late_is_late() -> None:
    """It is late, not lost: on a busy machine it arrives later."""
    recorded = Recorded()
    recorded.got(1.0)
    recorded.got(9.0, 1)
    recorded.acked(9.1)
    assert recorded.rules(end_s=10.0) == ["late"]


def test_a_due_redelivery_is_late_even_if_acknowledged() -> None:
    recorded = Recorded()
    recorded.got(1.0)
    recorded.acked(9.0)
    assert recorded.rules(end_s=10.0) == ["late"]


def test_an_unacknowledged_message_that_no_node_has_is_lost() -> None:
    recorded = Recorded(5)
    recorded.got(1.0)
    assert recorded.rules(end_s=7.9) == ["lost"]


def test_an_unacknowledged_message_may_wait_for_its_ack_wait() -> None:
    recorded = Recorded(5)
    recorded.history.is_settled = False
    recorded.got(1.0)
    assert recorded.rules(end_s=7.9) == []


def test_a_message_that_a_node_has_as_unacknowledged_is_not_lost() -> None:
    """Two messages of a queue group counted as lost: they arrived one AckWait after the end of the demo."""
    recorded = Recorded(30).stored("m1", 1.0).stored("m2", 1.1)
    recorded.history.is_settled = False
    recorded.got(1.2)
    recorded.acked(1.3)
    assert recorded.rules(end_s=10) == ["late"]
    recorded.history.is_settled = True
    assert recorded.rules(end_s=10) == ["lost"]


def test_a_message_of_a_dead_member_without_redelivery_is_lost() -> None:
    recorded = Recorded(30, is_group=True)
    recorded.got(1.0)
    recorded.history.ended["sub"] = 1.2
    assert recorded.rules(end_s=10) == ["lost"]


def test_a_message_of_a_dead_member_goes_to_another() -> None:
    recorded = Recorded(30, is_group=True)
    recorded.got(1.0)
    recorded.history.ended["sub"] = 1.2
    other = Link("other", 0, "n2")
    recorded.got(4.5, 1, link=other)
    recorded.acked(4.6, link=other)
    assert recorded.rules(end_s=10) == []
    assert handed_over(recorded.history) == [("cursor", 1, pytest.approx(3.3))]


# --- duplicates -----------------------------------------------------------------------------------


def test_a_redelivery_without_the_flag_is_a_duplicate() -> None:
    recorded = Recorded(5)
    recorded.got(1.0)
    recorded.got(6.1, 0)
    recorded.acked(6.2)
    assert recorded.rules() == ["duplicate"]


def test_a_group_shares_the_flag() -> None:
    """The flag counts for the group: another member received the message before."""
    recorded = Recorded(5, is_group=True)
    recorded.got(1.0)
    other = Link("other", 0, "n2")
    recorded.got(6.1, 0, link=other)
    recorded.acked(6.2, link=other)
    assert recorded.rules() == ["duplicate"]


def test_the_buffers_of_a_paused_node_may_be_stale() -> None:
    """Until it has acknowledged a publish that was sent when it had gone on."""
    recorded = Recorded(1, is_group=True)
    recorded.paused("n1", 1.0, resumed_s=4.0, ready_s=1.5)
    other = Link("other", 0, "n2")
    recorded.got(2.0, 1, link=other)
    recorded.acked(2.1, link=other)
    recorded.receipts(2.2, 2.3, link=other)
    recorded.receipts(4.05)
    recorded.got(4.055, 0, link=AT_N1)
    recorded.acked(4.2)
    assert recorded.rules() == []
    recorded.got(4.3, 0, link=AT_N1)
    recorded.acked(4.4)
    assert recorded.rules() == ["duplicate", "duplicate"]  # without its flag, and after its acknowledgement


def test_a_redelivery_after_a_committed_ack_is_a_duplicate() -> None:
    recorded = Recorded(5).receipts(1.2, 1.3)
    recorded.got(1.0)
    recorded.acked(1.1)
    recorded.got(6.0, 1)
    recorded.acked(6.1)
    assert recorded.rules() == ["duplicate"]


def test_one_receipt_shows_that_an_ack_was_read_the_next_that_it_is_committed() -> None:
    """A node may reorder the operations of one read."""
    recorded = Recorded(5).receipts(1.05, 1.2)
    recorded.got(1.0)
    recorded.acked(1.1)
    recorded.got(6.0, 1)
    recorded.acked(6.1)
    assert recorded.rules() == []


def test_an_ack_that_died_with_its_node_does_not_count() -> None:
    recorded = Recorded(5).receipts(1.6)
    recorded.got(1.0)
    recorded.acked(1.5)
    recorded.killed("n1", 2.0, ready_s=2.2)
    recorded.history.link_broke(AT_N1, 2.0)
    recorded.receipts(2.5, 2.6, link=AT_N2)
    recorded.got(6.1, 1, link=AT_N2)
    recorded.acked(6.2, link=AT_N2)
    assert recorded.rules() == []


def test_an_ack_that_an_old_leader_could_not_commit_does_not_count() -> None:
    """Its leader had lost its majority; a busy machine kept it alive for seconds after. Judged by the clock,
    84 messages that came again as promised were called duplicates."""
    recorded = Recorded(5)
    recorded.got(0.5)
    recorded.acked(0.9)
    recorded.killed("n1", 4.0, ready_s=4.2)
    recorded.history.link_broke(AT_N1, 4.0)
    recorded.got(5.6, 1, link=AT_N2)
    recorded.acked(5.7, link=AT_N2)
    assert recorded.rules() == []


def test_acks_that_are_forgotten_at_a_failover_are_noticed() -> None:
    """The next leader does not know what the last one had committed: through another connection, and node."""
    recorded = Recorded(5).receipts(1.0, 1.1)
    recorded.got(0.5)
    recorded.acked(0.9)
    recorded.killed("n1", 2.0, ready_s=2.2)
    recorded.history.link_broke(AT_N1, 2.0)
    recorded.receipts(2.4, link=AT_N2)
    recorded.got(5.6, 1, link=AT_N2)
    recorded.acked(5.7, link=AT_N2)
    assert recorded.rules() == ["duplicate"]


def test_a_node_that_may_be_behind_is_excused() -> None:
    """The node sent the message before it had applied the ack."""
    recorded = Recorded(5, is_group=True).receipts(1.2, 1.3)
    recorded.got(1.0)
    recorded.acked(1.1)
    recorded.got(6.0, 1, link=Link("other", 0, "n2"))
    recorded.acked(6.1, link=Link("other", 0, "n2"))
    assert recorded.rules() == []
    recorded.receipts(1.5, link=Link("other", 0, "n2"))
    assert recorded.rules() == ["duplicate"]


def test_a_delivery_after_the_last_committed_ack_is_not_lost() -> None:
    recorded = Recorded(5).receipts(6.05, 6.2)
    recorded.got(1.0)
    recorded.acked(5.99)
    recorded.got(6.01, 1)
    assert recorded.rules() == []


def test_counts_rise() -> None:
    recorded = Recorded(1)
    recorded.got(1.0)
    recorded.got(2.01, 1)
    recorded.got(3.02, 1)
    recorded.acked(3.1)
    assert recorded.rules() == ["count"]


def test_a_count_without_a_flag_is_wrong() -> None:
    recorded = Recorded(1)
    recorded.got(1.0, 1, flagged=False)
    recorded.acked(1.1)
    assert recorded.rules() == ["count"]


# --- what died with a connection -------------------------------------------------------------------


def back_at(made_s: float, came_s: float) -> Recorded:
    """Its node was killed at 2.0; it is connected again at ``made_s``, and gets the message at ``came_s``."""
    recorded = Recorded(30)
    recorded.history.published.setdefault(CHANNEL, {})["m1"] = 1.95
    recorded.killed("n1", 2.0, ready_s=2.2)
    recorded.history.link_broke(AT_N1, 2.0)
    recorded.history.link_made(AT_N2, made_s)
    recorded.got(came_s, 1, link=AT_N2)
    recorded.acked(came_s + 0.1, link=AT_N2)
    return recorded


def test_unwritten_messages_of_a_dead_node_arrive_within_a_second() -> None:
    assert back_at(2.3, 3.2).rules() == []
    assert back_at(2.3, 31.9).rules() == ["late"]


def test_unwritten_messages_wait_for_a_leader() -> None:
    assert back_at(2.05, 3.15).rules() == []
    assert back_at(2.05, 3.25).rules() == ["late"]


def test_a_slow_machine_excuses_unwritten_messages() -> None:
    recorded = back_at(2.3, 4.2)
    assert recorded.rules() == ["late"]
    recorded.history.waits[3.9] = 1.0
    assert recorded.rules() == []


# --- early ----------------------------------------------------------------------------------------


def test_a_redelivery_before_ack_wait_is_early() -> None:
    recorded = Recorded(5)
    recorded.got(1.0)
    recorded.got(5.9, 1)
    recorded.acked(6.0)
    assert recorded.rules() == ["early"]


@pytest.mark.parametrize("at_s", [5.96, 6.0, 6.2])
def test_fifty_milliseconds_are_not_early(at_s: float) -> None:
    recorded = Recorded(5)
    recorded.got(1.0)
    recorded.got(at_s, 1)
    recorded.acked(at_s)
    assert recorded.rules() == []


def test_a_delivery_that_was_slow_makes_no_redelivery_early() -> None:
    """It was sent at once and arrived late; its AckWait started when it was sent."""
    recorded = Recorded(5)
    recorded.history.publishing(CHANNEL, "m1", 1.0)
    recorded.got(1.5)
    recorded.got(6.02, 1)
    recorded.acked(6.1)
    assert recorded.rules() == []


def test_not_even_a_slow_delivery_excuses_one_before_its_publish_and_ack_wait() -> None:
    recorded = Recorded(5)
    recorded.history.publishing(CHANNEL, "m1", 1.0)
    recorded.got(1.5)
    recorded.got(5.95, 1)
    recorded.acked(6.1)
    assert recorded.rules() == ["early"]


def test_the_second_redelivery_waits_as_well() -> None:
    recorded = Recorded(1)
    recorded.got(1.0)
    recorded.got(2.01, 1)
    recorded.got(2.5, 2)
    recorded.acked(2.6)
    assert recorded.rules() == ["early"]


def test_a_timer_restarted_by_a_new_leader_is_late() -> None:
    recorded = Recorded(5, is_measured=True)
    recorded.got(1.0)
    recorded.killed("n2", 2.0, ready_s=2.2)
    recorded.got(7.2, 1)
    recorded.acked(7.3)
    assert recorded.rules() == ["late"]


def test_redelivering_everything_at_an_election_is_early() -> None:
    recorded = Recorded(5)
    recorded.got(1.0)
    recorded.killed("n2", 3.0, ready_s=3.2)
    recorded.got(3.3, 1)
    recorded.acked(3.4)
    assert recorded.rules() == ["early"]


def test_messages_to_a_dead_connection_may_be_redelivered_at_once() -> None:
    recorded = Recorded(5)
    recorded.got(2.5)
    recorded.killed("n1", 3.0, ready_s=3.2)
    recorded.history.link_broke(AT_N1, 3.0)
    recorded.history.link_made(AT_N2, 3.1)
    recorded.got(3.5, 1, link=AT_N2)
    recorded.acked(3.6, link=AT_N2)
    assert recorded.rules() == []


def test_messages_sent_long_before_the_link_broke_may_not() -> None:
    recorded = Recorded(5)
    recorded.got(1.0)
    recorded.killed("n1", 3.0, ready_s=3.2)
    recorded.history.link_broke(AT_N1, 3.0)
    recorded.history.link_made(AT_N2, 3.1)
    recorded.got(3.5, 1, link=AT_N2)
    recorded.acked(3.6, link=AT_N2)
    assert recorded.rules() == ["early"]


def test_messages_to_a_reconnected_client_may_be_redelivered_at_once() -> None:
    """The cluster notices a reconnected client after a moment."""
    recorded = Recorded(5)
    recorded.history.link_broke(AT_N1, 3.0)
    recorded.history.link_made(AT_N2, 3.1)
    recorded.got(3.2, link=AT_N2)
    recorded.got(3.4, 1, link=AT_N2)
    recorded.acked(3.5, link=AT_N2)
    assert recorded.rules() == []


def test_a_client_that_reconnected_long_ago_has_no_excuse() -> None:
    recorded = Recorded(5)
    recorded.history.link_broke(AT_N1, 3.0)
    recorded.history.link_made(AT_N2, 3.1)
    recorded.got(4.2, link=AT_N2)
    recorded.got(4.4, 1, link=AT_N2)
    recorded.acked(4.5, link=AT_N2)
    assert recorded.rules() == ["early"]


def test_a_dead_members_messages_go_to_others_at_once() -> None:
    recorded = Recorded(30, is_group=True)
    recorded.got(1.0)
    recorded.history.ended["sub"] = 1.5
    other = Link("other", 0, "n2")
    recorded.got(1.6, 1, link=other)
    recorded.acked(1.7, link=other)
    assert recorded.rules() == []


def test_a_living_members_messages_stay_with_it() -> None:
    recorded = Recorded(30, is_group=True)
    recorded.got(1.0)
    other = Link("other", 0, "n2")
    recorded.got(1.6, 1, link=other)
    recorded.acked(1.7, link=other)
    assert recorded.rules() == ["early"]


# --- late -----------------------------------------------------------------------------------------


def test_ack_wait_continues_across_a_kill() -> None:
    recorded = Recorded(5, is_measured=True)
    recorded.got(1.0)
    recorded.killed("n2", 3.0, ready_s=3.2)
    recorded.got(6.03, 1)
    recorded.acked(6.1)
    assert recorded.errors_ms() == [30]
    assert recorded.rules() == []


def test_without_a_hit_nothing_is_measured() -> None:
    recorded = Recorded(5, is_measured=True)
    recorded.got(1.0)
    recorded.got(6.5, 1)
    recorded.acked(6.6)
    assert recorded.errors_ms() == []


def test_a_message_due_without_a_leader_counts_from_the_new_leader() -> None:
    recorded = Recorded(5, is_measured=True)
    recorded.got(1.0)
    recorded.killed("n2", 5.9, ready_s=6.5)
    recorded.got(6.55, 1)
    recorded.acked(6.6)
    assert recorded.errors_ms() == [50]


def test_a_message_due_just_before_the_kill_may_not_have_been_sent() -> None:
    recorded = Recorded(5, is_measured=True)
    recorded.got(1.0)
    recorded.killed("n2", 6.02, ready_s=6.5)
    recorded.got(6.51, 1)
    recorded.acked(6.6)
    assert recorded.errors_ms() == [10]


def test_ack_wait_of_a_message_seen_just_before_the_kill_may_restart() -> None:
    recorded = Recorded(5, is_measured=True)
    recorded.got(2.95)
    recorded.killed("n2", 3.0, ready_s=3.5)
    recorded.got(8.53, 1)
    recorded.acked(8.6)
    assert recorded.errors_ms() == [30]


def test_ack_wait_of_a_message_seen_earlier_may_not_restart() -> None:
    recorded = Recorded(5, is_measured=True)
    recorded.got(2.8)
    recorded.killed("n2", 3.0, ready_s=3.5)
    recorded.got(8.53, 1)
    recorded.acked(8.6)
    assert recorded.errors_ms() == [730]
    assert recorded.rules() == ["late"]


def test_subscribers_at_the_killed_node_are_not_measured() -> None:
    recorded = Recorded(5)
    first = recorded.got(1.0)
    recorded.killed("n1", 3.0, ready_s=3.2)
    recorded.history.link_broke(AT_N1, 3.0)
    second = recorded.got(6.9, 1, link=AT_N2)
    assert ackwait_error(recorded.history, recorded.cursor, first, second) is None


# --- why ------------------------------------------------------------------------------------------


def test_reasons() -> None:
    recorded = Recorded(5, is_group=True)
    first = recorded.got(1.0)
    due = recorded.got(6.0, 1)
    assert why(recorded.history, recorded.cursor, first, due) == "due"
    recorded.history.ended["sub"] = 6.1
    given = recorded.got(6.2, 2, link=Link("other", 0, "n2"))
    assert why(recorded.history, recorded.cursor, due, given) == "redistributed"
    assert why(recorded.history, recorded.cursor, None, given) == "came back"


def test_reason_of_a_message_sent_to_a_dead_connection() -> None:
    recorded = Recorded(5)
    first = recorded.got(2.5)
    recorded.history.link_broke(AT_N1, 3.0)
    again = recorded.got(3.3, 1, link=AT_N2)
    assert why(recorded.history, recorded.cursor, first, again) == "came back"


# --- figures --------------------------------------------------------------------------------------


def test_silence_is_the_longest_gap_around_the_hit() -> None:
    hit = Hit("n1", "kill", 10.0, "leader", ready_s=10.4)
    assert silence([1.0, 9.99, 10.5, 10.6, 13.0], hit, 20.0) == pytest.approx(2.4)
    assert silence([1.0, 9.99, 10.5, 11.6, 20.0], hit, 20.0) == pytest.approx(1.1)
    assert silence([9.99], hit, 20.0) == pytest.approx(10.01)


def test_a_long_history_is_checked_in_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay of publishes is computed only for late messages."""
    looks = 0
    longest_wait = History.longest_wait

    def counted(self: History, from_s: float, to_s: float) -> float:
        nonlocal looks
        looks += 1
        return longest_wait(self, from_s, to_s)

    monkeypatch.setattr(History, "longest_wait", counted)
    recorded = Recorded(5)
    for seq in range(1, 2001):
        recorded.stored(f"m{seq}", 1.0 + seq / 1000)
        recorded.got(1.01 + seq / 1000, seq=seq)
        recorded.acked(1.02 + seq / 1000, seq=seq)
    assert recorded.rules() == []
    assert looks == 0
