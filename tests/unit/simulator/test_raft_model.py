"""The model of a Raft server: what each rule allows and forbids."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from node.raft.frames import Ack, Append, Vote, VoteRequest
from node.raft.membership import Membership
from node.raft.ports import Role
from node.simulator.raft_checks import ViolationError
from node.simulator.raft_model import RaftModel

THREE = Membership.initial_voters(["n1", "n2", "n3"])


def journal(*terms: int, durable: int | None = None, members: tuple[int, Membership] | None = None) -> Any:
    """A log with entries of these terms from index 1; with ``members`` one of them contains a membership."""
    placed = None if members is None else (members[0], members[1].encode())
    return SimpleNamespace(
        first_index=1,
        first_readable=1,
        last_index=len(terms),
        durable_index=len(terms) if durable is None else durable,
        membership=placed,
        membership_at=lambda index: placed if placed is not None and placed[0] <= index else None,
        term_at=lambda index: terms[index - 1] if 0 < index <= len(terms) else None,
    )


def engine(term: int, *, leads: bool = False, commit: int = 1, members: Membership = THREE) -> Any:
    return SimpleNamespace(
        role=Role.LEADER if leads else Role.FOLLOWER,
        term=term,
        commit_index=commit,
        membership=members,
    )


def broken(rule: str) -> Any:
    return pytest.raises(ViolationError, match=rule)


class Cluster:
    """The model with frames of other servers; n1 is the server under test."""

    def __init__(self) -> None:
        self.model = RaftModel()

    def asks(self, candidate: str, term: int, last: tuple[int, int]) -> None:
        """Send a candidate's vote request to n1."""
        request = VoteRequest(term, last[1], last[0], transfer=False).encode()
        self.model.sent(candidate, "n1", request, journal())

    def asked(self, candidate: str, term: int, log: Any) -> None:
        self.model.received("n1", candidate, VoteRequest(term, 1, 0, transfer=False).encode(), log)

    def elected(self, term: int, log: Any) -> None:
        self.model.received("n1", "n2", Vote(term).encode(), log)
        self.model.stepped("n1", engine(term, leads=True), log)


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    cluster.model.started("n1", 1)
    return cluster


def test_one_vote_per_term_and_only_for_a_log_at_least_as_good(cluster: Cluster) -> None:
    log = journal(0, 1)
    for candidate, last in (("n2", (1, 2)), ("n3", (1, 2))):
        cluster.asks(candidate, 2, last)
        cluster.asked(candidate, 2, log)
    cluster.model.sent("n1", "n2", Vote(2).encode(), log)
    cluster.model.sent("n1", "n2", Vote(2).encode(), log)  # the first reply was lost
    cluster.model.started("n1", 1)
    with broken("votes in term 2 for n2 and for n3"):
        cluster.model.sent("n1", "n3", Vote(2).encode(), log)
    cluster.model.emptied("n1")
    cluster.asked("n3", 2, log)
    cluster.model.sent("n1", "n3", Vote(2).encode(), log)  # a wiped directory is another server


def test_a_candidate_has_voted_for_itself(cluster: Cluster) -> None:
    log = journal(0, 1)
    cluster.asks("n2", 2, (1, 2))
    cluster.asked("n2", 2, log)
    cluster.model.sent("n1", "n2", Vote(2).encode(), log)
    with broken("for n2 and for n1"):
        cluster.asks("n1", 2, (1, 2))


@pytest.mark.parametrize("last", [(0, 2), (1, 1), (0, 9)])
def test_no_vote_for_a_worse_log(cluster: Cluster, last: tuple[int, int]) -> None:
    log = journal(0, 1)
    cluster.asks("n2", 2, last)
    cluster.asked("n2", 2, log)
    with broken("vote rule"):
        cluster.model.sent("n1", "n2", Vote(2).encode(), log)


def test_a_leader_has_the_votes_of_a_majority_in_its_term(cluster: Cluster) -> None:
    log = journal(0, 2)
    cluster.model.received("n1", "n2", Vote(1).encode(), log)
    with broken("election rule"):
        cluster.model.stepped("n1", engine(2, leads=True), log)
    cluster.elected(3, journal(0, 2, 3))


def test_a_leader_commits_entries_acknowledged_by_a_majority_in_its_term(cluster: Cluster) -> None:
    log = journal(0, 1, 2)
    cluster.model.received("n1", "n2", Ack(1, 3).encode(), log)
    cluster.elected(2, log)
    with broken(r"commits entry 3: .* \['n1'\] have acknowledged it"):
        cluster.model.stepped("n1", engine(2, leads=True, commit=3), log)
    cluster.model.received("n1", "n3", Ack(2, 3).encode(), log)
    cluster.model.stepped("n1", engine(2, leads=True, commit=3), log)


def test_its_own_copy_counts_when_it_is_durable(cluster: Cluster) -> None:
    log = journal(0, 2, durable=1)
    cluster.elected(2, log)
    cluster.model.received("n1", "n3", Ack(2, 2).encode(), log)
    with broken("commit rule"):
        cluster.model.stepped("n1", engine(2, leads=True, commit=2), log)


def test_an_entry_of_an_earlier_term_is_committed_by_a_later_one_only(cluster: Cluster) -> None:
    """Figure 8 of the paper."""
    log = journal(0, 1, 2)
    cluster.elected(2, log)
    cluster.model.received("n1", "n3", Ack(2, 2).encode(), log)
    with broken("of term 1 by counting"):
        cluster.model.stepped("n1", engine(2, leads=True, commit=2), log)


def test_a_follower_commits_only_reported_and_verified_entries(cluster: Cluster) -> None:
    log = journal(0, 1, 1, 1)
    cluster.model.received("n1", "n2", Append(1, 2, 1, 9, [], ask=True, heartbeat_payload=None).encode(), log)
    cluster.model.stepped("n1", engine(1, commit=2), log)
    with broken("only 2 was reported"):
        cluster.model.stepped("n1", engine(1, commit=3), log)
    cluster.model.installed("n1", 3)
    cluster.model.stepped("n1", engine(1, commit=3), log)


def test_commit_index_and_term_never_fall(cluster: Cluster) -> None:
    log = journal(0, 1, 1)
    cluster.model.installed("n1", 3)
    cluster.model.stepped("n1", engine(1, commit=3), log)
    with broken("commits 2 after 3"):
        cluster.model.stepped("n1", engine(1, commit=2), log)
    cluster.model.received("n1", "n2", Vote(2).encode(), log)
    cluster.model.stepped("n1", engine(2, leads=True, commit=3), log)
    with broken("term rule"):
        cluster.model.stepped("n1", engine(1, commit=3), log)


def test_a_leader_only_appends_to_its_log(cluster: Cluster) -> None:
    cluster.elected(2, journal(0, 1, 2))
    with broken("append-only"):
        cluster.model.stepped("n1", engine(2, leads=True), journal(0, 1))


def test_an_ack_names_durable_entries(cluster: Cluster) -> None:
    cluster.model.stepped("n1", engine(1), journal(0, 1))
    cluster.model.sent("n1", "n2", Ack(1, 2).encode(), journal(0, 1, durable=2))
    with broken("ack rule"):
        cluster.model.sent("n1", "n2", Ack(1, 2).encode(), journal(0, 1, durable=1))


def test_an_ack_names_an_entry_of_the_leaders_log(cluster: Cluster) -> None:
    """Log matching starts here: an acknowledged entry is the one that the leader has at that index."""
    log = journal(0, 1, 1)
    heartbeat = Append(2, 3, 2, 1, [], ask=True, heartbeat_payload=None).encode()
    cluster.model.received("n1", "n2", heartbeat, log)
    cluster.model.stepped("n1", engine(2), log)
    with broken("matching rule: n1 acknowledges entry 3 of term 2 to n2, it has one of term 1"):
        cluster.model.sent("n1", "n2", Ack(2, 3).encode(), log)
    cluster.model.sent("n1", "n2", Ack(2, 3).encode(), journal(0, 1, 2))
    cluster.model.sent("n1", "n2", Ack(2, 2).encode(), log)


def test_the_members_are_those_in_the_log(cluster: Cluster) -> None:
    two = THREE.without("n3")
    with broken("membership rule"):
        cluster.model.stepped("n1", engine(1), journal(0, 1, members=(2, two)))


def test_a_removed_server_has_no_vote_and_its_acks_do_not_count(cluster: Cluster) -> None:
    two = THREE.without("n3")
    log = journal(0, 1, 2, members=(2, two))
    cluster.model.received("n1", "n3", Vote(2).encode(), log)
    with broken("election rule"):
        cluster.model.stepped("n1", engine(2, leads=True, members=two), log)
    cluster.model.received("n1", "n2", Vote(3).encode(), log)
    log = journal(0, 1, 3, members=(2, two))
    cluster.model.stepped("n1", engine(3, leads=True, members=two), log)
    cluster.model.received("n1", "n3", Ack(3, 3).encode(), log)
    with broken("commit rule"):
        cluster.model.stepped("n1", engine(3, leads=True, commit=3, members=two), log)


def test_members_change_one_at_a_time(cluster: Cluster) -> None:
    log = journal(0, 2, members=(1, THREE))
    cluster.elected(2, log)
    cluster.model.received("n1", "n2", Ack(2, 2).encode(), log)
    cluster.model.stepped("n1", engine(2, leads=True, commit=2), log)
    two = THREE.without("n3")
    cluster.model.stepped(
        "n1", engine(2, leads=True, commit=2, members=two), journal(0, 2, 2, members=(3, two))
    )
    one = two.without("n2")
    with broken("begins a change"):
        cluster.model.stepped(
            "n1", engine(2, leads=True, commit=2, members=one), journal(0, 2, 2, 2, members=(4, one))
        )


def test_one_voter_differs_at_most(cluster: Cluster) -> None:
    log = journal(0, 2, members=(1, THREE))
    cluster.elected(2, log)
    cluster.model.received("n1", "n2", Ack(2, 2).encode(), log)
    cluster.model.stepped("n1", engine(2, leads=True, commit=2), log)
    one = THREE.without("n3").without("n2")
    with broken("at once"):
        cluster.model.stepped(
            "n1", engine(2, leads=True, commit=2, members=one), journal(0, 2, 2, members=(3, one))
        )
