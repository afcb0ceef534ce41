"""`check_append` for any two logs that agree as far as something is committed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from node.raft.append_check import Accept, check_append
from node.raft.frames import Append
from node.simulator.journal import MemoryJournal, Tape

Terms = list[int]


@st.composite
def situations(draw: st.DrawFn) -> tuple[Terms, Terms, int, int, int, int, int]:
    """Both logs' terms from entry 1 on, the frame's place and length, commit indexes, first entry."""
    steps = st.lists(st.integers(0, 2), max_size=8)

    def grow(terms: Terms) -> Terms:
        for step in draw(steps):
            terms = [*terms, terms[-1] + step]
        return terms

    common = grow([0])
    leader = grow(common)
    other = draw(
        st.sampled_from(
            (leader[: draw(st.integers(len(common), len(leader)))], grow([*common, common[-1] + 1]))
        )
    )
    # Two entries of one term are the same entry, made by the one leader of that term: a divergent
    # tail has terms that the leader's log doesn't have.
    if other[: len(leader)] != leader[: len(other)]:
        tail = [term for term in other[len(common) :] if term not in leader]
        other = common + tail
    committed = draw(st.integers(1, len(common)))
    prev = draw(st.integers(1, len(leader)))
    length = draw(st.integers(0, len(leader) - prev))
    first = draw(st.integers(1, committed))
    return leader, other, prev, length, committed, draw(st.integers(0, len(leader))), first


@given(situations())
@settings(deadline=None, max_examples=300)
def test_judgement(situation: tuple[Terms, Terms, int, int, int, int, int]) -> None:
    leader, follower, prev, length, committed, leader_commit, first = situation
    log = MemoryJournal(Tape())
    for index, term in enumerate(follower, start=1):
        log.append(index, term, b"\x01%d" % term)
    log.drop_before(first)
    entries = [
        (index, leader[index - 1], b"\x01%d" % leader[index - 1])
        for index in range(prev + 1, prev + length + 1)
    ]
    append = Append(max(leader), prev, leader[prev - 1], leader_commit, entries, True, None)

    verdict = check_append(append, log, committed)

    if isinstance(verdict, Accept):
        assert verdict.match == prev + length
        assert verdict.commit == min(leader_commit, verdict.match)
        if verdict.entries:
            assert verdict.entries[0][0] == verdict.prev + 1 > committed
            if verdict.prev < log.last_index:  # something goes, so it must differ
                assert log.term_at(verdict.prev + 1) != leader[verdict.prev]
                log.truncate(verdict.prev + 1)
            for entry in verdict.entries:
                log.append(*entry)
        have = [log.term_at(index) for index in range(log.first_index, verdict.match + 1)]
        assert have == leader[log.first_index - 1 : verdict.match]
    else:
        assert verdict.refused == prev
        assert committed < verdict.next <= prev
        assert prev > len(follower) or follower[prev - 1] != leader[prev - 1]
