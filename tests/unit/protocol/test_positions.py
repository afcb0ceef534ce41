"""The start positions have the wire's numbers."""

from __future__ import annotations

from node.protocol import streaming_pb2 as pb
from node.protocol.positions import StartPosition


def test_start_positions_are_the_wires() -> None:
    assert {position.value for position in StartPosition} == set(pb.StartPosition.values())
    for position in StartPosition:
        assert pb.StartPosition.Name(position).lower() == position.name.replace("_", "").lower()
