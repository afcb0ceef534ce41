"""Leader commands that have no module of their own (R16, R24)."""

from __future__ import annotations

from conversation import Conversation

from node.core.commands import ClientRemove, InitCluster, NewTerm, RaiseVersion, RecoverCluster, Tick


def test_a_client_is_removed_once_and_only_the_one_that_was_meant() -> None:
    """R16, CLU-22: proposed twice, or for the client before: nothing."""
    talk = Conversation()
    talk.connect("me")
    generation = talk.state.clients["me"].generation
    remove = ClientRemove(1, "me", generation)
    talk.say(leader_commands=[remove, remove])
    assert talk.state.clients == {}
    talk.connect("me")
    talk.say(leader_commands=[remove, ClientRemove(0, "me", talk.state.clients["me"].generation)])
    assert "me" in talk.state.clients


def test_a_cluster_is_bootstrapped_once() -> None:
    """Its first leader draws the identity; a later one's is ignored, and so is a deposed one's."""
    talk = Conversation()
    talk.say(leader_commands=[InitCluster(0, "zero", "0")])
    talk.say(leader_commands=[InitCluster(1, "one", "tag")])
    talk.say(leader_commands=[InitCluster(1, "two", "other")])
    assert (talk.state.cluster_uuid, talk.state.cluster_tag) == ("one", "tag")


def test_a_recovered_cluster_is_another_with_the_same_tag() -> None:
    """Who proposes it twice, or for another cluster, changes nothing (R16, R18)."""
    talk = Conversation()
    talk.say(leader_commands=[InitCluster(1, "one", "tag")])
    talk.say(leader_commands=[RecoverCluster(1, "x", "other"), RecoverCluster(0, "x", "one")])
    assert talk.state.cluster_uuid == "one"
    talk.say(leader_commands=[RecoverCluster(1, "two", "one"), RecoverCluster(1, "three", "one")])
    assert (talk.state.cluster_uuid, talk.state.cluster_tag) == ("two", "tag")


def test_the_version_only_rises() -> None:
    """R24."""
    talk = Conversation()
    talk.say(leader_commands=[RaiseVersion(1, 1, "0.1"), RaiseVersion(1, 0, "0.0")])
    assert (talk.state.version, talk.state.release) == (2, "")


def test_the_term_is_the_highest_taken_over() -> None:
    """R10, R16: a take-over of the same term, or an older, is ignored."""
    talk = Conversation()
    talk.say(leader_commands=[NewTerm(3, talk.index), Tick(1), Tick(3), NewTerm(2, 0)])
    assert talk.state.term == 3
