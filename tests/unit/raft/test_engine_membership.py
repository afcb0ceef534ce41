"""Membership changes while the group works: which votes count, which node may lead, which peers receive the
log."""

from __future__ import annotations

import pytest

from node.errors import ConflictError, RefusedError, UnavailableError
from node.raft.active_membership import Reconfiguration
from node.raft.engine import Engine
from node.raft.membership import Membership
from node.raft.ports import Limits, Role

ABC = Membership.initial_voters("abc")


def changed(member, new: Membership) -> int:
    """Let the leader append a membership and send it, without waiting for anything."""
    index: int = member.engine.change_membership(new)
    member.engine.replicate()
    return index


def added(table, leader, name: str = "d") -> None:
    """Add a learner and make it a voter, each committed."""
    table.join(name)
    changed(leader, leader.engine.membership.with_learner(name, f"{name}:1"))
    table.advance(0.2)
    assert leader.engine.caught_up(name)
    changed(leader, leader.engine.membership.with_voter(name, f"directory of {name}"))
    table.advance(0.2)
    assert not leader.engine.is_changing


def test_initial_voters_are_in_force_until_the_log_names_others(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    assert leader.engine.membership == ABC
    assert (leader.engine.membership_index, leader.engine.is_changing) == (0, False)
    assert leader.received.memberships == [(ABC, 0)]  # told at the start
    assert leader.received.kept == []


def test_node_enters_as_a_learner_catches_up_and_votes(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    leader.write(b"one", b"two")
    table.settle()
    joining = table.join("d")
    learning = ABC.with_learner("d", "d:1")
    index = changed(leader, learning)
    assert (leader.engine.membership, leader.engine.is_changing) == (learning, True)
    table.advance(0.2)
    assert not leader.engine.is_changing
    assert joining.payloads() == [b"one", b"two"]
    assert joining.engine.membership == learning
    assert joining.received.kept == [(learning, index)]
    states = {state.name: state for state in leader.engine.peer_states()}
    assert (states["d"].voter, states["b"].voter) == (False, True)

    voting = learning.with_voter("d", "dir")
    changed(leader, voting)
    table.advance(0.2)
    for member in table.members.values():
        assert member.engine.membership == voting == member.received.memberships[-1][0]
        assert member.received.kept[-1] == (voting, index + 1)
    table.isolate("c")
    leader.write(b"three")
    table.settle()
    assert leader.payloads()[-1] == b"three"  # three of four
    table.isolate("b")
    leader.write(b"four")
    table.settle()
    assert leader.payloads()[-1] == b"three"  # two of four are no majority


def test_learner_counts_for_nothing(group) -> None:
    """Neither its acks nor its votes count: a leader with a learner and no other voter commits nothing and
    steps down."""
    table = group("abc")
    leader = table.elect("a")
    table.join("d")
    changed(leader, ABC.with_learner("d", "d:1"))
    table.advance(0.2)
    table.isolate("b")
    table.isolate("c")
    commit = leader.engine.commit_index
    leader.write(b"x")
    table.settle()
    assert table["d"].log()[-1][0] == commit + 1  # it has the entry
    assert leader.engine.commit_index == commit
    table.advance(2.0)
    assert leader.engine.role is not Role.LEADER
    assert not any(member.engine.role is Role.LEADER for member in table.members.values())


def test_learner_never_campaigns(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    joining = table.join("d")
    changed(leader, ABC.with_learner("d", "d:1"))
    table.advance(0.2)
    term = leader.engine.term
    for name in "abc":
        table.isolate(name)
    table.wire.clear()
    table.advance(3.0)
    assert joining.engine.role is Role.FOLLOWER
    assert joining.engine.leader is None  # it noticed
    assert joining.engine.term == term
    assert not any(frame["type"] in {"prevote", "vote"} for sender, _, frame in table.wire if sender == "d")
    joining.engine.receive("a", {"type": "takeover", "term": term})
    assert joining.engine.role is Role.FOLLOWER


def test_vote_is_given_to_a_candidate_that_is_not_a_member_here(group) -> None:
    """A node that is behind does not have the entry that makes d a voter; d needs its vote nevertheless."""
    table = group("abc")
    leader = table.elect("a")
    added(table, leader)
    for name in "abc":
        table.isolate(name)
    ignorant = table["b"]
    del ignorant.tape.operations[3:]  # as if it had never got beyond the no-op: of an older membership
    ignorant = table.restart("b")
    assert ignorant.engine.membership == ABC
    table.heal()
    table.isolate("a")
    table.advance(3.0)
    assert {table[name].engine.membership.names for name in "bcd"} == {("a", "b", "c", "d")}
    leaders = [name for name in "bcd" if table[name].engine.is_ready]
    assert len(leaders) == 1


def test_alone_becomes_two_and_two_become_one(group) -> None:
    table = group("a")
    alone = table.elect("a")
    alone.write(b"one")
    table.settle()
    joining = table.join("b")
    changed(alone, alone.engine.membership.with_learner("b", "b:1"))
    table.settle()
    assert not alone.engine.is_changing  # still the only one that counts
    table.advance(0.2)
    changed(alone, alone.engine.membership.with_voter("b", "dir"))
    table.advance(0.2)
    assert joining.payloads() == [b"one"]
    table.isolate("b")
    alone.write(b"two")
    table.settle()
    assert alone.payloads() == [b"one"]  # both are needed now
    table.heal()
    table.advance(0.2)
    assert joining.payloads() == [b"one", b"two"]
    leader = next(member for member in table.members.values() if member.engine.is_ready)
    other = next(name for name in "ab" if name != leader.name)
    changed(leader, leader.engine.membership.without(other))
    table.isolate(other)
    table.settle()
    assert not leader.engine.is_changing
    leader.write(b"three")
    table.settle()
    assert leader.payloads()[-1] == b"three"


# --- what is refused ----------------------------------------------------------------------------------


def test_one_change_at_a_time(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    changed(leader, ABC.with_learner("d", "d:1"))
    with pytest.raises(ConflictError, match="entry 3 is not committed yet"):
        leader.engine.change_membership(ABC.without("b"))
    table.settle()
    changed(leader, leader.engine.membership.without("b"))


def test_only_a_ready_leader_changes_members(group) -> None:
    """A leader that has committed nothing in its own term might override a change that it never received."""
    table = group("abc")
    with pytest.raises(UnavailableError):
        table["b"].engine.change_membership(ABC.without("c"))
    table["a"].engine._election.deadline = table.now
    table["a"].engine.tick()
    while table["a"].engine.role is not Role.LEADER:
        for member in table.members.values():
            member.journal.flush()
            member.engine.on_durable()
        assert table.deliver()
    assert table["a"].engine.role is Role.LEADER
    assert not table["a"].engine.is_ready
    with pytest.raises(UnavailableError, match="not a ready leader"):
        table["a"].engine.change_membership(ABC.without("c"))


def test_changes_that_cannot_be_made(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    engine: Engine = leader.engine
    with pytest.raises(RefusedError, match="has this membership already"):
        engine.change_membership(ABC)
    with pytest.raises(RefusedError, match="transfer leadership first"):
        engine.change_membership(ABC.without("a"))
    with pytest.raises(RefusedError, match="at once"):
        engine.change_membership(ABC.without("b").without("c"))
    replaced = ABC.without("b").with_learner("d", "d:1").with_voter("d", "dir")
    with pytest.raises(RefusedError, match="at once"):
        engine.change_membership(replaced)
    moved = ABC.without("b").with_learner("b", "b:1").with_voter("b", "another")
    with pytest.raises(RefusedError, match="a voter's directory can't be changed"):
        engine.change_membership(moved)
    with pytest.raises(RefusedError, match="can't be made a learner"):
        engine.change_membership(ABC.without("b").with_learner("b", "b:1"))
    with pytest.raises(RefusedError, match="after the cluster was bootstrapped"):
        engine.change_membership(Membership(ABC.with_learner("d", "d:1").members, joinable=True))
    assert engine.last_index == 2  # nothing was appended
    engine.propose(b"and the engine goes on")


# --- undone, lost, read back --------------------------------------------------------------------------


def test_change_is_in_force_when_appended_and_undone_with_its_entry(group) -> None:
    table = group("abc")
    old = table.elect("a")
    table.isolate("a")
    lost = ABC.without("c")
    changed(old, lost)
    assert old.engine.membership == lost
    table.settle()
    table["b"].engine._election.deadline = table.now
    table.advance(2.0)
    leader = next(table[name] for name in "bc" if table[name].engine.is_ready)
    leader.write(b"x")
    table.settle()
    assert old.engine.membership == lost
    table.heal()
    table.advance(1.0)
    assert old.engine.membership == ABC
    assert [membership for membership, _ in old.received.memberships] == [ABC, lost, ABC]
    assert old.received.kept == []
    table.isolate("b")
    table.advance(2.0)
    assert any(table[name].engine.is_ready for name in "ac")


def test_follower_goes_by_an_uncommitted_change(group) -> None:
    """b received the entry of a fourth voter before the leader died: from then on it needs three votes."""
    table = group("abc")
    leader = table.elect("a")
    table.join("d")
    changed(leader, ABC.with_learner("d", "d:1"))
    table.advance(0.2)
    table.cut = {("a", "c"), ("a", "d")}
    changed(leader, leader.engine.membership.with_voter("d", "dir"))
    table.settle()
    table.isolate("a")
    table.isolate("d")
    table.advance(3.0)
    assert table["b"].engine.membership.voters == ("a", "b", "c", "d")
    assert not any(table[name].engine.role is Role.LEADER for name in "bc")
    table.cut = {(x, y) for x, y in table.cut if "a" in (x, y)}  # d is back, which knows nothing of it
    assert not table["d"].engine.membership.is_voter("d")
    table.advance(3.0)
    assert any(table[name].engine.is_ready for name in "bcd")


def test_membership_is_read_back_at_a_start(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    added(table, leader)
    for name in "abcd":
        member = table.restart(name)
        assert member.engine.membership.voters == ("a", "b", "c", "d")
        assert member.received.memberships == [(member.engine.membership, 4)]
    table.isolate("a")
    table.isolate("b")
    table.advance(3.0)
    assert not any(member.engine.role is Role.LEADER for member in table.members.values())
    table.heal()
    table.advance(2.0)
    assert any(member.engine.is_ready for member in table.members.values())


def test_candidate_steps_down_when_its_voters_change(group) -> None:
    """A snapshot with another membership arrives while it waits for votes."""
    table = group("abc")
    table["b"].engine._election.authorise(transfer=False)
    table["b"].engine.tick()
    assert table["b"].engine.role is Role.CANDIDATE
    now = ABC.with_learner("d", "d:1")
    assert table["b"].engine.offered_snapshot(9, 1)
    table["b"].engine.suspend_applying()
    table["b"].engine.snapshot_installed(9, 1, (8, 1), now)
    assert table["b"].engine.role is Role.FOLLOWER
    assert (table["b"].engine.membership, table["b"].engine.membership_index) == (now, 9)
    assert table["b"].received.memberships[-1] == table["b"].received.kept[-1] == (now, 9)


def test_snapshot_carries_the_membership_of_its_index(group) -> None:
    """It is not the membership in force on the sender, which may be undone."""
    table = group("abc")
    leader = table.elect("a")
    first = ABC.with_learner("d", "d:1")
    changed(leader, first)
    table.settle()
    at = leader.engine.applied_index
    second = first.with_learner("e", "e:1")
    changed(leader, second)
    assert leader.engine.membership_at(at) == first
    assert leader.engine.membership_at(at - 1) == ABC
    assert leader.engine.membership == second
    joining = table.join("d")
    joining.engine.suspend_applying()
    joining.engine.snapshot_installed(at, leader.engine.term, (at - 1, leader.engine.term), first)
    joining.stored = at
    assert table.restart("d").engine.membership == first


# --- leaving --------------------------------------------------------------------------------------------


def test_removed_member_is_told_and_then_forgotten(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    index = changed(leader, ABC.without("c"))
    assert leader.engine.peers == ["b", "c"]
    table.advance(0.2)
    now = ABC.without("c")
    assert table["c"].received.kept == [(now, index)]
    assert leader.received.left == []
    table.leave("c")  # its server stops it
    table.advance(0.1)
    assert leader.received.left == ["c"]
    assert leader.engine.peers == ["b"]
    table.advance(6.0)
    assert table["b"].received.left == ["c"]


def test_removed_member_that_is_away_is_waited_for_only_so_long(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    table.isolate("c")
    changed(leader, ABC.without("c"))
    table.advance(4.5)
    assert leader.received.left == []
    table.advance(1.0)
    assert leader.received.left == ["c"]
    assert table["c"].engine.membership == ABC


def test_member_that_left_deposes_nobody(group) -> None:
    """It never received its removal and asks for votes forever, but no other node's term rises."""
    table = group("abc")
    leader = table.elect("a")
    table.isolate("c")
    changed(leader, ABC.without("c"))
    table.advance(6.0)
    term = leader.engine.term
    table.heal()
    table.advance(5.0)
    assert leader.engine.is_ready
    assert leader.engine.term == term


def test_removal_that_was_undone_leaves_a_member(group) -> None:
    table = group("abc")
    old = table.elect("a")
    table.isolate("a")
    changed(old, ABC.without("c"))
    table.advance(2.0)
    table.heal()
    table.advance(8.0)
    assert old.engine.membership == ABC
    assert old.received.left == []
    leader = next(member for member in table.members.values() if member.engine.is_ready)
    leader.write(b"x")
    table.settle()
    assert [member.payloads() for member in table.members.values()] == [[b"x"]] * 3


def test_leader_is_removed_by_its_successor(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    assert leader.engine.transfer_leadership("b")
    table.settle()
    successor = table["b"]
    assert successor.engine.is_ready
    changed(successor, ABC.without("a"))
    table.advance(0.2)
    assert leader.received.kept[-1][0] == ABC.without("a")
    table.leave("a")
    successor.write(b"x")
    table.settle()
    assert table["c"].payloads() == [b"x"]


def test_a_node_removed_by_an_uncommitted_change_may_have_to_lead(group) -> None:
    """Of four voters d is removed, and only d received that before the leader died. The other two can't elect
    a leader.

    d's log is newer, so b and c get no majority of four. d may campaign, without counting itself. It commits
    the change and steps down.
    """
    table = group("abcd")
    leader = table.elect("a")
    table.cut = {("a", "b"), ("a", "c")}
    now = leader.engine.membership.without("d")
    changed(leader, now)
    table.settle()
    table.isolate("a")
    assert table["d"].engine.membership == now
    assert table["b"].engine.membership != now
    table.advance(5.0)
    assert [table[name].engine.membership for name in "bcd"] == [now, now, now]
    assert (Role.LEADER in [role for role, *_ in table["d"].received.roles]) is True
    assert table["d"].engine.role is Role.FOLLOWER
    assert table["d"].received.kept[-1][0] == now
    assert any(table[name].engine.is_ready for name in "bc")


def test_two_of_a_leaving_leaders_three_voters_are_a_majority_and_one_is_not(group) -> None:
    """It doesn't count itself, though the library always does."""
    table = group("abcde")
    leader = table.elect("a")
    table.cut = {("a", "b"), ("a", "c"), ("a", "d")}
    changed(leader, leader.engine.membership.without("e"))
    table.settle()
    table.isolate("a")
    table.isolate("b")
    table.advance(3.0)  # c and d of the four that count: half
    assert not any(table[name].engine.role is Role.LEADER for name in "bcde")
    table.cut = {(x, y) for x, y in table.cut if "a" in (x, y)}
    table.advance(5.0)
    assert any(table[name].engine.is_ready for name in "bcd")


def test_learner_that_comes_back_is_asked_again_what_it_has(group) -> None:
    """It may have lost its disk, so its earlier acks do not count."""
    table = group("abc")
    leader = table.elect("a")
    table.join("d")
    changed(leader, ABC.with_learner("d", "d:1"))
    leader.write(b"x")
    table.advance(0.2)
    assert leader.engine.caught_up("d")
    table.leave("d")
    assert not leader.engine.caught_up("d")
    table.join("d")
    assert not leader.engine.caught_up("d")
    assert {state.name: state.match for state in leader.engine.peer_states()}["d"] == 0
    table.advance(0.2)
    assert leader.engine.caught_up("d")
    assert table["d"].payloads() == [b"x"]
    assert leader.received.lost == []


def test_learner_that_lags_is_not_caught_up(group) -> None:
    table = group("abc", Limits(frame_bytes=10, window_bytes=20))
    leader = table.elect("a")
    for number in range(100):
        leader.write(b"%d" % number)
    table.settle()
    table.join("d")
    changed(leader, ABC.with_learner("d", "d:1"))
    for name in "abc":
        table[name].flush()
    table.deliver(6)
    assert not leader.engine.caught_up("d")
    table.advance(0.2)
    assert leader.engine.caught_up("d")
    assert not leader.engine.caught_up("nobody")
    assert not table["b"].engine.caught_up("d")


def test_node_that_knows_it_was_removed_stays_quiet(group) -> None:
    table = group("abc")
    leader = table.elect("a")
    changed(leader, ABC.without("c"))
    table.advance(0.2)
    gone = table["c"]
    gone.stored = gone.engine.applied_index
    table.isolate("c")
    gone = table.restart("c")
    assert not gone.engine.membership.is_voter("c")
    assert not gone.engine.is_changing  # its store says that it was committed
    table.wire.clear()
    table.advance(3.0)
    assert not any(sender == "c" and frame["type"] == "prevote" for sender, _, frame in table.wire)
    assert gone.engine.role is Role.FOLLOWER


def test_voter_of_the_same_name_and_another_directory_is_another_voter(group) -> None:
    """c was removed and is added again, empty. The old log names c as a voter, but with another directory."""
    table = group("abc")
    leader = table.elect("a")
    changed(leader, ABC.without("c"))
    table.advance(0.2)
    table.leave("c")
    table.advance(0.2)
    again = table.join("c")
    again.directory, again.initial_voters = "new", ABC
    again = table.restart("c")
    table.isolate("a")
    table.isolate("b")
    table.advance(3.0)
    assert again.engine.membership.is_voter("c")  # as the founders' membership has it
    assert again.engine.role is Role.FOLLOWER
    assert not any(frame["type"] == "prevote" for sender, _, frame in table.wire if sender == "c")
    table.heal()
    table.advance(2.0)
    leader = next(table[name] for name in "ab" if table[name].engine.is_ready)
    changed(leader, leader.engine.membership.with_learner("c", "c:1"))
    table.advance(0.2)
    changed(leader, leader.engine.membership.with_voter("c", "new"))
    table.advance(0.2)
    other = "b" if leader.name == "a" else "a"
    assert leader.engine.transfer_leadership("c")
    table.settle()
    assert again.engine.is_ready
    again.write(b"x")
    table.settle()
    assert table[other].payloads() == [b"x"]


def test_acks_of_a_learner_end_with_its_connection(group) -> None:
    """If it becomes a voter while it is disconnected, it does not count until it has acknowledged again."""
    table = group("a")
    leader = table.elect("a")
    table.join("b")
    changed(leader, leader.engine.membership.with_learner("b", "b:1"))
    leader.write(b"x")
    table.advance(0.2)
    table.leave("b")
    index = changed(leader, leader.engine.membership.with_voter("b", "dir"))
    table.settle()
    assert leader.engine.commit_index == index - 1
    again = table.join("b")
    table.settle()
    assert leader.engine.commit_index == index
    assert again.payloads() == [b"x"]


def test_node_that_is_made_the_only_voter_offline_goes_on_alone(group) -> None:
    """This is what a recovery after the loss of a majority writes into the journal while no node runs."""
    table = group("abc")
    leader = table.elect("a")
    leader.write(b"x")
    table.settle()
    table.isolate("b")
    table.isolate("c")
    leader.write(b"not committed")
    leader.flush()
    leader.journal.set_term(leader.journal.term + 1, None)
    leader.journal.append(
        leader.journal.last_index + 1,
        leader.journal.term,
        b"\x02" + Membership.initial_voters(["a"]).encode(),
    )
    leader.journal.flush()
    alone = table.restart("a")
    alone.applied.clear()
    table.advance(1.0)
    assert alone.engine.is_ready
    assert alone.payloads() == [b"x", b"not committed"]
    assert alone.engine.membership.names == ("a",)


# --- what the two rules of change_membership prevent ---------------------------------------------------


def _elected_but_unready(table, name: str, others: str) -> None:
    """Let ``name`` win the votes of ``others``, and drop all frames of its leadership."""
    member = table[name]
    table.now += 0.6
    for other in table.members.values():
        other.engine._election.deadline = table.now + 1
    member.engine._election.deadline = table.now
    member.engine.tick()
    while member.engine.role is not Role.LEADER:
        for voter in (name, *others):
            table[voter].journal.flush()
            table[voter].engine.on_durable()
        assert table.deliver(1)
    table.wire.clear()


def _leader_of_a_minority_change(table):
    """Of abcd, a leads and has made e a voter, which only e received; then b is elected by c and d."""
    leader = table.elect("a")
    table.join("e")
    changed(leader, leader.engine.membership.with_learner("e", "e:1"))
    table.advance(0.2)
    table.cut = {("a", name) for name in "bcd"}
    changed(leader, leader.engine.membership.with_voter("e", "dir"))
    table.settle()
    assert table["e"].engine.membership.is_voter("e")
    table.isolate("a")
    table.isolate("e")
    _elected_but_unready(table, "b", "cd")
    table.cut |= {("b", "d")}  # d has voted, and hears nothing of it
    return table["b"]


def test_leader_with_nothing_committed_of_its_own_changes_nothing(group) -> None:
    """The bug of 2015. b and c are no longer three of four, and not yet two of three."""
    table = group("abcd")
    second = _leader_of_a_minority_change(table)
    table.advance(0.2)
    assert second.engine.role is Role.LEADER
    assert not second.engine.is_ready
    with pytest.raises(UnavailableError):
        second.engine.change_membership(second.engine.membership.without("d"))


def test_if_it_did_what_is_committed_could_be_overwritten(group, monkeypatch: pytest.MonkeyPatch) -> None:
    """b and c commit as two of three; a, with d and e, as three of five: at the same index."""
    table = group("abcd")
    second = _leader_of_a_minority_change(table)
    engine = second.engine
    engine._journal.append(
        engine.last_index + 1, engine.term, b"\x02" + engine.membership.without("d").encode()
    )
    engine._reconfiguration.follow()
    second.write(b"lost")
    table.advance(0.2)
    assert second.payloads() == [b"lost"] == table["c"].payloads()
    table.heal()
    table.isolate("b")
    table.isolate("c")
    table.advance(3.0)
    first = next(table[name] for name in "ade" if table[name].engine.is_ready)
    first.write(b"other", b"other", b"other")
    table.settle()
    index = second.applied[-1][0]
    assert [payload for at, _, payload in first.applied if at == index] != [b"lost"]


def test_two_changes_at_once_would_make_two_majorities(group, monkeypatch: pytest.MonkeyPatch) -> None:
    """a, d and e are three of five while b and c are still two of three."""
    table = group("abc")
    leader = table.elect("a")
    for name in "de":
        table.join(name)
        changed(leader, leader.engine.membership.with_learner(name, f"{name}:1"))
        table.advance(0.2)
    for name in "ade":
        table.cut |= {(name, other) for other in "bc"} | {(other, name) for other in "bc"}
    changed(leader, leader.engine.membership.with_voter("d", "dir d"))
    table.settle()
    both = leader.engine.membership.with_voter("e", "dir e")
    with pytest.raises(ConflictError):
        leader.engine.change_membership(both)
    commit = leader.engine.commit_index
    leader.write(b"waits")
    table.settle()
    assert leader.engine.commit_index == commit  # a and d are two of four

    check = Reconfiguration.check
    monkeypatch.setattr(Reconfiguration, "check", lambda self, new, commit: check(self, new, 1 << 60))
    changed(leader, both)
    table.settle()
    assert leader.payloads() == [b"waits"]  # committed
    table["b"].engine._election.deadline = table.now
    table.advance(1.0)
    other = next(table[name] for name in "bc" if table[name].engine.is_ready)
    other.write(b"other", b"other")
    table.settle()
    assert leader.applied[0][0] in [index for index, _, _ in other.applied]
    assert b"waits" not in other.payloads()


@pytest.mark.parametrize(("said", "elected"), [("new", False), (None, True)])
def test_vote_of_another_copy_under_a_voters_name_does_not_count(group, said: str, elected: bool) -> None:
    """b was away while it was removed, then c was removed and added again, empty: b's log still names a, b
    and c.

    The new c votes for b, whose log is better than its own. If votes were compared by name only, b would lead
    without entries that a has committed.
    """
    table = group("abc")
    leader = table.elect("a")
    table.isolate("b")
    changed(leader, ABC.without("b"))
    table.settle()
    changed(leader, ABC.without("b").without("c"))
    table.settle()
    table.leave("c")
    leader.write(b"committed")
    table.settle()
    assert leader.payloads() == [b"committed"]
    table.heal()
    table.isolate("a")
    table.join("c", said)
    table.advance(3.0)
    assert table["b"].engine.membership == ABC
    assert (table["b"].engine.role is Role.LEADER) is elected


def test_acks_of_another_copy_under_a_voters_name_do_not_count(group) -> None:
    """It still receives the log, because it may be a member by an entry that this log does not have yet."""
    table = group("abc")
    leader = table.elect("a")
    table.leave("c")
    again = table.join("c", "new")
    table.isolate("b")
    leader.write(b"x")
    table.advance(0.3)
    assert [payload for _, _, payload in again.journal.read(3, 1000)] == [b"\x01x"]
    assert leader.payloads() == []
    assert not leader.engine.transfer_leadership()
    table.advance(1.0)
    assert leader.engine.role is not Role.LEADER  # nor does it make a quorum
