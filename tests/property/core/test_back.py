"""Who comes back gets what it missed, and nothing of the rest before its AckWait (R15)."""

from __future__ import annotations

from conversation import Conversation
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.commands import Unwritten

WAIT_S = 20
TIMES = st.integers(min_value=0, max_value=15)


@settings(deadline=None, max_examples=80)
@given(
    sent=st.lists(TIMES, min_size=1, max_size=12).map(sorted),
    gone=TIMES,
    away=st.integers(min_value=0, max_value=8),
    settling=st.integers(min_value=0, max_value=3),
    acked=st.sets(st.integers(min_value=1, max_value=12)),
    queue=st.booleans(),
    written=st.none() | st.integers(min_value=0, max_value=12),
)
def test_a_client_that_moved_gets_exactly_what_it_missed(
    sent: list[int], gone: int, away: int, settling: int, acked: set[int], queue: bool, written: int | None
) -> None:
    """Its connection went, ``away`` later its inboxes are heard, ``settling`` later that is applied.

    ``written``: so many of the messages are known to have been written to the connection that went. None: a
    leader of machine version 1 does not say.
    """
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", mif=100, wait=WAIT_S, queue="q" if queue else "")
    reachable, applied = gone + away, gone + away + settling
    first = {seq: at for seq, at in enumerate(sent, 1) if at <= applied}
    entries = [talk.index]
    for at in first.values():
        talk.publish(1, at=at)
        entries.append(talk.index)
    talk.ack("A", *acked, at=max(talk.now, 0))
    waiting = {seq: at for seq, at in first.items() if seq not in acked}
    missed = {
        seq
        for seq, at in waiting.items()
        if at < reachable and (gone <= at or (written is not None and seq > written))
    }
    redelivery_due = {seq for seq, at in waiting.items() if at + WAIT_S <= applied}
    unwritten = None if written is None else Unwritten(entries[min(written, len(first))], 0, 0)
    answer = talk.back("me", since=gone, reachable=reachable, at=applied, unwritten=unwritten)
    assert answer.redelivered("A") == dict.fromkeys(sorted(missed | redelivery_due), 1)
    for seq, at in waiting.items():
        if seq not in missed | redelivery_due and at + WAIT_S > talk.now:
            assert seq not in talk.tick(at=at + WAIT_S - 0.001).sent.get("A", [])
    last = max((*waiting.values(), applied)) + 2 * WAIT_S
    talk.tick(at=last)
    assert {record.deliveries for record in talk.find("A").unacked.values()} <= {2, 3}
    assert set(talk.find("A").unacked) == set(waiting)
