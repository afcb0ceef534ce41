"""The answers of a follower to a leader, without an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from node.raft.following import Follower
from node.raft.frames import Ack, Alive


def test_a_follower_without_a_place_in_its_leaders_log_acknowledges_what_is_committed() -> None:
    """PS-2, PS-5: the rest of its log may come from an earlier leader, and was not compared.

    A leader that counted it would commit entries that are not there.
    """
    sent: list[tuple[str, Any]] = []
    nothing = SimpleNamespace(
        leader_contacted=lambda: None,
        leader_payload_received=lambda peer, payload: None,
        commit_learned=lambda commit, term: None,
        cause="",
    )
    follower = Follower(
        name="n2",
        library=SimpleNamespace(
            current_term=3, leader="n1", commit=5, leader_contacted=lambda peer, term: None
        ),
        journal=SimpleNamespace(last_index=9),
        election=nothing,
        voting=nothing,
        durable_outbox=SimpleNamespace(send=lambda peer, durable_send: sent.append((peer, durable_send))),
        reconfiguration=nothing,
        listener=nothing,
    )
    follower.alive("n1", Alive(3, 5, None))
    assert sent == [("n1", Ack(3, 5))]
