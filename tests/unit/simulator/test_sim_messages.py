"""Messages of simulated publishers can be identified, and verified to be complete."""

from __future__ import annotations

from node.simulator.scaled_bounds import BOUNDS
from node.simulator.sim_messages import guid_of, is_whole, message_of


def test_a_message_identifies_itself() -> None:
    sizes = set()
    for number in range(200):
        guid = f"c1/2/{number}"
        message = message_of(guid, sized=True)
        assert guid_of(message) == guid.encode()
        assert is_whole(message)
        assert not is_whole(message + b".")
        sizes.add(len(message) - len(guid))
    assert len(sizes) > 8
    assert max(sizes) > BOUNDS["node.server.proposer"]["ENTRY_BYTES"]
    assert message_of("c1/2/3", sized=False) == b"c1/2/3"
    assert is_whole(b"c1/2/3")
