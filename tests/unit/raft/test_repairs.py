"""Every defect that docs/raft-engine.md names is shown twice: in the library it does harm, here it can't.

`test_stock_safety`, `test_stock_liveness` and `test_stock_costs` play the scenario with the library as it
comes; the tests below, most of them of this room, show what happens in its place.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
STOCK = ("test_stock_safety.py", "test_stock_liveness.py", "test_stock_costs.py")
TABLES = (TESTS.parent / "docs" / "raft-engine.md").read_text(encoding="utf-8")
DEFECTS = re.findall(r"^\| ([SLPX]\d+) \|", TABLES, re.MULTILINE)

SAFETY = "unit/raft/test_engine_safety.py"
LIVENESS = "unit/raft/test_engine_liveness.py"
BOOTSTRAP = "unit/server/membership/test_bootstrap.py"
MEMBERS = "unit/raft/test_engine_membership.py"
TRANSPORT = "unit/raft/test_transport.py"
TRANSFER = "unit/store/test_transfer.py"

REPAIRED: dict[str, list[tuple[str, str]]] = {
    "S1": [
        (SAFETY, "test_s1_copy_of_an_earlier_frame_removes_nothing"),
        ("unit/raft/test_append_check.py", "test_entries_that_are_there_are_passed_over"),
    ],
    "S2": [(SAFETY, "test_s2_heartbeat_without_a_place_commits_nothing")],
    "S3": [(SAFETY, "test_s3_commit_index_starts_where_the_state_is")],
    "S4": [
        (SAFETY, "test_s4_vote_waits_for_the_disk_and_is_given_once"),
        ("property/raft/test_journal_crash.py", "test_any_crash_point"),
    ],
    "S5": [(SAFETY, "test_s5_ack_of_an_earlier_leadership_counts_for_nothing")],
    "S6": [(SAFETY, "test_s6_snapshot_is_acknowledged_when_the_log_durably_stands_on_it")],
    "S7": [
        (TRANSFER, "test_a_cut_costs_only_what_was_under_way"),
        (TRANSFER, "test_a_damaged_part_is_sent_again"),
        (TRANSFER, "test_the_hash_of_the_whole_decides"),
    ],
    "S8": [
        (SAFETY, "test_s8_membership_entries_are_not_the_librarys"),
        (MEMBERS, "test_one_change_at_a_time"),
    ],
    "S9": [
        (MEMBERS, "test_membership_is_read_back_at_a_start"),
        (MEMBERS, "test_follower_goes_by_an_uncommitted_change"),
    ],
    "S10": [
        (SAFETY, "test_s10_offered_snapshot_of_what_the_log_has_is_not_taken"),
        (SAFETY, "test_s6_older_snapshot_over_a_newer_state_stops_the_node"),
    ],
    "S11": [(SAFETY, "test_s11_one_voter_has_one_vote")],
    "S12": [(SAFETY, "test_s12_append_with_a_hole_breaks_the_protocol")],
    "S13": [(SAFETY, "test_s13_failed_apply_stops_the_engine_for_good")],
    "S14": [(SAFETY, "test_s14_leader_counts_itself_when_its_disk_is_done")],
    "S15": [
        ("unit/raft/test_recovery.py", "test_a_drop_cut_short_leaves_no_gap"),
        ("unit/raft/test_journal.py", "test_drop_takes_whole_segments_and_keeps_two_entries"),
    ],
    "S16": [(SAFETY, "test_s16_leader_is_ready_when_everything_before_its_term_is_applied")],
    "S17": [(BOOTSTRAP, "test_an_empty_node_among_others_with_state_is_refused")],
    "S18": [
        ("unit/raft/test_engine.py", "test_strangers_are_turned_away"),
        (TRANSPORT, "test_strangers_are_refused_and_told_why"),
        (MEMBERS, "test_vote_of_another_copy_under_a_voters_name_does_not_count"),
    ],
    "S19": [(SAFETY, "test_s19_commit_ends_where_the_frame_ends")],
    "S20": [(SAFETY, "test_s20_conflict_with_what_is_committed_stops_the_node")],
    "L1": [(LIVENESS, "test_l1_divergence_and_a_long_lag_are_caught_up_at_once")],
    "L2": [(LIVENESS, "test_l2_entry_beyond_the_frame_limit_travels_whole")],
    "L3": [(LIVENESS, "test_l3_refusal_skips_a_whole_term")],
    "L4": [
        (LIVENESS, "test_l4_frame_from_before_the_logs_beginning_is_taken"),
        (LIVENESS, "test_l4_follower_with_a_longer_log_is_asked_within_the_leaders"),
    ],
    "L5": [
        (LIVENESS, "test_l5_leader_of_the_past_is_told_and_steps_down"),
        (LIVENESS, "test_l5_candidate_of_the_past_is_told"),
    ],
    "L6": [(LIVENESS, "test_l6_node_that_was_cut_off_deposes_nobody")],
    "L7": [(LIVENESS, "test_l7_leader_that_lost_its_majority_does_not_campaign_at_once")],
    "L8": [(LIVENESS, "test_l8_vote_is_repeated_for_the_same_candidate")],
    "L9": [("unit/server/test_origin.py", "test_what_is_not_applied_goes_again_to_a_new_leader_in_order")],
    "L10": [
        (LIVENESS, "test_l10_leadership_is_handed_over_when_the_successor_has_everything"),
        ("unit/server/test_proposer.py", "test_one_who_hands_over_proposes_nothing_more"),
    ],
    "L11": [(LIVENESS, "test_l11_peer_that_needs_a_snapshot_costs_one_frame_a_heartbeat")],
    "L12": [(LIVENESS, "test_l12_entry_leaves_when_it_is_proposed")],
    "L13": [(LIVENESS, "test_l13_node_without_connections_waits")],
    "L14": [
        (
            "unit/server/disk/test_checkpointing.py",
            "test_a_connected_follower_is_waited_for_until_the_journal_is_large",
        )
    ],
    "P1": [(LIVENESS, "test_p1_entries_are_read_once_to_be_sent")],
    "P2": [(LIVENESS, "test_p2_partial_ack_sends_nothing_twice")],
    "P3": [(LIVENESS, "test_p3_payloads_are_loaded_to_be_applied_and_not_to_be_committed")],
    "P4": [(LIVENESS, "test_p4_window_bounds_what_is_on_the_way")],
    "P5": [
        (LIVENESS, "test_p5_peers_at_the_same_place_share_a_frame"),
        (TRANSPORT, "test_one_encoding_goes_to_everybody"),
    ],
    "P6": [("unit/raft/test_entry_cache.py", "test_the_oldest_written_go_first")],
    "P7": [("unit/raft/test_pysyncobj_adapter.py", "test_no_thread_socket_poller_file_or_pickle")],
    "X1": [
        ("unit/test_imports.py", "test_nothing_pickles"),
        ("unit/raft/test_pysyncobj_adapter.py", "test_no_thread_socket_poller_file_or_pickle"),
    ],
    "X2": [(TRANSPORT, "test_strangers_are_refused_and_told_why")],
    "X3": [
        ("unit/protocol/test_peer.py", "test_a_long_frame_is_refused_before_it_arrives"),
        ("unit/protocol/test_peer.py", "test_an_array_holds_so_many_items_at_most"),
    ],
    "X4": [
        (SAFETY, "test_x4_messages_of_the_library_are_none"),
        ("unit/raft/test_library_log.py", "test_commands_of_the_library_become_no_ops"),
    ],
    "X5": [
        (TRANSPORT, "test_a_name_that_is_not_the_certificates_is_refused"),
        ("unit/raft/test_security.py", "test_both_ends_speak_tls_1_3_only_and_ask_for_a_certificate"),
    ],
    "X6": [("unit/raft/test_pysyncobj_adapter.py", "test_import_leaves_the_standard_library_alone")],
}


@cache
def names_in(path: str) -> frozenset[str]:
    text = (TESTS / path).read_text(encoding="utf-8")
    return frozenset(re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE))


def test_every_defect_of_the_tables_is_here() -> None:
    assert sorted(REPAIRED) == sorted(DEFECTS)
    assert len(DEFECTS) == 47


@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_is_shown_in_the_library_as_it_comes(defect: str) -> None:
    shown = frozenset().union(*(names_in(f"unit/raft/{name}") for name in STOCK))
    assert any(name.startswith(f"test_{defect.lower()}_") for name in shown)


@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_is_shown_to_be_repaired(defect: str) -> None:
    missing = [(path, name) for path, name in REPAIRED[defect] if name not in names_in(path)]
    assert missing == []
