"""Every pysyncobj defect in docs/raft-engine.md has a test of the damage and a test of the repair.

`test_stock_safety`, `test_stock_liveness` and `test_stock_costs` run the scenario on the unmodified library
and show the damage. The tests named below, most of them in this package, show that the engine prevents it.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
STOCK = ("test_stock_safety.py", "test_stock_liveness.py", "test_stock_costs.py")
TABLES = (TESTS.parent / "docs" / "raft-engine.md").read_text(encoding="utf-8")
DEFECTS = re.findall(r"^\| (PS-\d+) \|", TABLES, re.MULTILINE)

SAFETY = "unit/raft/test_engine_safety.py"
LIVENESS = "unit/raft/test_engine_liveness.py"
BOOTSTRAP = "unit/server/membership/test_bootstrap.py"
MEMBERS = "unit/raft/test_engine_membership.py"
TRANSPORT = "unit/raft/test_transport.py"
TRANSFER = "unit/store/test_transfer.py"

REPAIRED: dict[str, list[tuple[str, str]]] = {
    "PS-1": [
        (SAFETY, "test_ps_1_copy_of_an_earlier_frame_removes_nothing"),
        ("unit/raft/test_append_check.py", "test_entries_that_are_there_are_passed_over"),
    ],
    "PS-2": [(SAFETY, "test_ps_2_heartbeat_without_a_place_commits_nothing")],
    "PS-3": [(SAFETY, "test_ps_3_commit_index_starts_where_the_state_is")],
    "PS-4": [
        (SAFETY, "test_ps_4_vote_waits_for_the_disk_and_is_given_once"),
        ("property/raft/test_journal_crash.py", "test_any_crash_point"),
    ],
    "PS-5": [(SAFETY, "test_ps_5_ack_of_an_earlier_leadership_counts_for_nothing")],
    "PS-6": [(SAFETY, "test_ps_6_snapshot_is_acknowledged_when_the_log_durably_stands_on_it")],
    "PS-7": [
        (TRANSFER, "test_a_cut_costs_only_what_was_under_way"),
        (TRANSFER, "test_a_damaged_part_is_sent_again"),
        (TRANSFER, "test_the_hash_of_the_whole_decides"),
    ],
    "PS-8": [
        (SAFETY, "test_ps_8_membership_entries_are_not_the_librarys"),
        (MEMBERS, "test_one_change_at_a_time"),
    ],
    "PS-9": [
        (MEMBERS, "test_membership_is_read_back_at_a_start"),
        (MEMBERS, "test_follower_goes_by_an_uncommitted_change"),
    ],
    "PS-10": [
        (SAFETY, "test_ps_10_offered_snapshot_of_what_the_log_has_is_not_taken"),
        (SAFETY, "test_ps_6_older_snapshot_over_a_newer_state_stops_the_node"),
    ],
    "PS-11": [(SAFETY, "test_ps_11_one_voter_has_one_vote")],
    "PS-12": [(SAFETY, "test_ps_12_append_with_a_hole_breaks_the_protocol")],
    "PS-13": [(SAFETY, "test_ps_13_failed_apply_stops_the_engine_for_good")],
    "PS-14": [(SAFETY, "test_ps_14_leader_counts_itself_when_its_disk_is_done")],
    "PS-15": [
        ("unit/raft/test_recovery.py", "test_a_drop_cut_short_leaves_no_gap"),
        ("unit/raft/test_journal.py", "test_drop_takes_whole_segments_and_keeps_two_entries"),
    ],
    "PS-16": [(SAFETY, "test_ps_16_leader_is_ready_when_everything_before_its_term_is_applied")],
    "PS-17": [(BOOTSTRAP, "test_an_empty_node_among_others_with_state_is_refused")],
    "PS-18": [
        ("unit/raft/test_engine.py", "test_unknown_nodes_are_refused"),
        (TRANSPORT, "test_unknown_nodes_are_refused_with_a_reason"),
        (MEMBERS, "test_vote_of_another_copy_under_a_voters_name_does_not_count"),
    ],
    "PS-19": [(SAFETY, "test_ps_19_commit_ends_where_the_frame_ends")],
    "PS-20": [(SAFETY, "test_ps_20_conflict_with_what_is_committed_stops_the_node")],
    "PS-21": [(LIVENESS, "test_ps_21_divergence_and_a_long_lag_are_caught_up_at_once")],
    "PS-22": [(LIVENESS, "test_ps_22_entry_beyond_the_frame_limit_travels_whole")],
    "PS-23": [(LIVENESS, "test_ps_23_refusal_skips_a_whole_term")],
    "PS-24": [
        (LIVENESS, "test_ps_24_frame_from_before_the_logs_beginning_is_taken"),
        (LIVENESS, "test_ps_24_follower_with_a_longer_log_is_asked_within_the_leaders"),
    ],
    "PS-25": [
        (LIVENESS, "test_ps_25_leader_of_the_past_is_told_and_steps_down"),
        (LIVENESS, "test_ps_25_candidate_of_the_past_is_told"),
    ],
    "PS-26": [(LIVENESS, "test_ps_26_node_that_was_cut_off_deposes_nobody")],
    "PS-27": [(LIVENESS, "test_ps_27_leader_that_lost_its_majority_does_not_campaign_at_once")],
    "PS-28": [(LIVENESS, "test_ps_28_vote_is_repeated_for_the_same_candidate")],
    "PS-29": [("unit/server/test_origin.py", "test_unapplied_batches_are_resent_to_a_new_leader_in_order")],
    "PS-30": [
        (LIVENESS, "test_ps_30_leadership_is_handed_over_when_the_successor_has_everything"),
        ("unit/server/test_proposer.py", "test_a_leader_that_hands_over_proposes_nothing_more"),
    ],
    "PS-31": [(LIVENESS, "test_ps_31_peer_that_needs_a_snapshot_costs_one_frame_a_heartbeat")],
    "PS-32": [(LIVENESS, "test_ps_32_entry_leaves_when_it_is_proposed")],
    "PS-33": [(LIVENESS, "test_ps_33_node_without_connections_waits")],
    "PS-34": [
        (
            "unit/server/disk/test_checkpointing.py",
            "test_a_connected_follower_is_waited_for_until_the_journal_is_large",
        )
    ],
    "PS-35": [(LIVENESS, "test_ps_35_entries_are_read_once_to_be_sent")],
    "PS-36": [(LIVENESS, "test_ps_36_partial_ack_sends_nothing_twice")],
    "PS-37": [(LIVENESS, "test_ps_37_payloads_are_loaded_to_be_applied_and_not_to_be_committed")],
    "PS-38": [(LIVENESS, "test_ps_38_window_bounds_what_is_on_the_way")],
    "PS-39": [
        (LIVENESS, "test_ps_39_peers_at_the_same_place_share_a_frame"),
        (TRANSPORT, "test_one_encoding_is_sent_to_all_peers"),
    ],
    "PS-40": [("unit/raft/test_entry_cache.py", "test_the_oldest_written_go_first")],
    "PS-41": [("unit/raft/test_pysyncobj_adapter.py", "test_no_thread_socket_poller_file_or_pickle")],
    "PS-42": [
        ("unit/test_imports.py", "test_nothing_pickles"),
        ("unit/raft/test_pysyncobj_adapter.py", "test_no_thread_socket_poller_file_or_pickle"),
    ],
    "PS-43": [(TRANSPORT, "test_unknown_nodes_are_refused_with_a_reason")],
    "PS-44": [
        ("unit/protocol/test_peer.py", "test_a_long_frame_is_refused_before_it_arrives"),
        ("unit/protocol/test_peer.py", "test_an_array_holds_so_many_items_at_most"),
    ],
    "PS-45": [
        (SAFETY, "test_ps_45_messages_of_the_library_are_none"),
        ("unit/raft/test_library_log.py", "test_commands_of_the_library_become_no_ops"),
    ],
    "PS-46": [
        (TRANSPORT, "test_a_name_that_is_not_the_certificates_is_refused"),
        ("unit/raft/test_security.py", "test_both_ends_speak_tls_1_3_only_and_ask_for_a_certificate"),
    ],
    "PS-47": [("unit/raft/test_pysyncobj_adapter.py", "test_import_leaves_the_standard_library_alone")],
}


@cache
def names_in(path: str) -> frozenset[str]:
    text = (TESTS / path).read_text(encoding="utf-8")
    return frozenset(re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE))


def test_every_documented_defect_is_listed() -> None:
    assert sorted(REPAIRED) == sorted(DEFECTS)
    assert len(DEFECTS) == 47


@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_is_shown_in_the_unmodified_library(defect: str) -> None:
    shown = frozenset().union(*(names_in(f"unit/raft/{name}") for name in STOCK))
    assert any(name.startswith(f"test_{defect.lower().replace('-', '_')}_") for name in shown)


@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_is_shown_to_be_repaired(defect: str) -> None:
    missing = [(path, name) for path, name in REPAIRED[defect] if name not in names_in(path)]
    assert missing == []
