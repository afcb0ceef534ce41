"""The choice of the connection that is evicted when too many are in their handshake."""

from __future__ import annotations

from contextlib import ExitStack

from node.raft.greeting import Greeting, Greetings


def admit(stack: ExitStack, greetings: Greetings, *addresses: str) -> list[Greeting]:
    return [stack.enter_context(greetings.admitted(address)) for address in addresses]


def evicted(greetings: list[Greeting]) -> list[int]:
    return [number for number, greeting in enumerate(greetings) if greeting.was_evicted]


async def test_oldest_silent_one_of_the_same_address_goes() -> None:
    greetings = Greetings(10, 3)
    with ExitStack() as stack:
        own = admit(stack, greetings, "a", "a", "a", "b")
        own[0].has_sent = True
        admit(stack, greetings, "a")
        assert evicted(own) == [1]
        own[2].has_sent = True
        admit(stack, greetings, "a", "a")
        assert evicted(own) == [1]
        assert len(greetings) == 4
    assert len(greetings) == 0


async def test_one_that_speaks_goes_if_all_do() -> None:
    greetings = Greetings(10, 2)
    with ExitStack() as stack:
        own = admit(stack, greetings, "a", "a")
        for greeting in own:
            greeting.has_sent = True
        admit(stack, greetings, "a")
        assert evicted(own) == [0]


async def test_address_with_most_makes_room_for_others() -> None:
    """An address with many connections evicts none of another address."""
    greetings = Greetings(6, 4)
    with ExitStack() as stack:
        peers = admit(stack, greetings, "peer", "peer")
        noise = admit(stack, greetings, *["noise"] * 20)
        peers += admit(stack, greetings, "peer")
        assert evicted(peers) == []
        assert len(evicted(noise)) == 17
        assert len(greetings) == 6


async def test_many_addresses_are_bounded_together() -> None:
    greetings = Greetings(6, 4)
    with ExitStack() as stack:
        admit(stack, greetings, *(f"address{number}" for number in range(100)))
        assert len(greetings) == 6
    assert len(greetings) == 0
