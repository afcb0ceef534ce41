"""The handshake: which end proves the secret, in every pairing of modes and releases."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from node.errors import IdentityError
from node.protocol.peer import FrameError
from node.raft.connection import receive_hello, send
from node.raft.handshake import introduce, receive_introduction
from node.raft.security import Plaintext, SharedSecret

HELLO = {"link": "raft", "node": "n1", "to": "n2"}
ANSWER = {"link": "raft", "node": "n2", "to": "n1"}
REQUIRED = SharedSecret(lambda: "the secret of this cluster")
OFFERED = SharedSecret(lambda: "the secret of this cluster", required=False)
OTHER = SharedSecret(lambda: "the secret of another cluster")
OTHER_OFFERED = SharedSecret(lambda: "the secret of another cluster", required=False)
OLD = Plaintext()  # as a release before secrets: it looks at nothing that it doesn't know


async def serve(dialer: Any, acceptor: Any) -> tuple[Any, Any]:
    """Return the results, or errors, of the dialer and of the acceptor."""
    ours, theirs = trio.testing.memory_stream_pair()
    found: dict[str, Any] = {}

    async def accept() -> None:
        try:
            found["acceptor"] = await receive_introduction(theirs, acceptor)
            await send(theirs, ANSWER)
        except IdentityError as error:
            found["acceptor"] = error
            await send(theirs, {"refused": str(error)})
        except Exception as error:
            found["acceptor"] = error

    async def dial() -> None:
        try:
            found["dialer"] = await introduce(ours, HELLO, dialer)
        except Exception as error:
            found["dialer"] = error
            await ours.aclose()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            nursery.start_soon(dial)
    return found["dialer"], found["acceptor"]


@pytest.mark.parametrize(
    ("dialer", "acceptor"),
    [
        (REQUIRED, REQUIRED),
        (REQUIRED, OFFERED),
        (OFFERED, REQUIRED),
        (OFFERED, OFFERED),
        (OFFERED, OTHER_OFFERED),
        (OFFERED, OLD),
        (OLD, OFFERED),
        (OLD, OLD),
    ],
)
async def test_these_find_each_other(dialer: Any, acceptor: Any) -> None:
    answer, hello = await serve(dialer, acceptor)
    assert answer == ANSWER
    assert {key: hello[key] for key in HELLO} == HELLO


@pytest.mark.parametrize(
    ("dialer", "acceptor"),
    [(REQUIRED, OLD), (OLD, REQUIRED), (REQUIRED, OTHER), (OFFERED, OTHER), (OTHER_OFFERED, REQUIRED)],
)
async def test_these_refuse_each_other(dialer: Any, acceptor: Any) -> None:
    answer, hello = await serve(dialer, acceptor)
    if dialer is not OLD:
        assert isinstance(answer, IdentityError)
    else:
        assert "shows no proof" in answer["refused"]
    if acceptor is not OLD:
        assert isinstance(hello, Exception)


async def against(act: Callable[[trio.StapledStream], Awaitable[None]], knows: Any = REQUIRED) -> Any:
    """Return the dialer's error for an impostor's answer."""
    ours, theirs = trio.testing.memory_stream_pair()
    found: Any = None
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(act, theirs)
            try:
                found = await introduce(ours, HELLO, knows)
            except IdentityError as error:
                found = error
    return found


async def test_refusal_of_an_impostor_is_not_trusted() -> None:
    """A process occupies the port of a stopped peer: its refusal is not trusted."""

    async def refuse(stream: Any) -> None:
        await receive_hello(stream)
        await send(stream, {"refused": "you were removed", "settled": b"members", "founding": "f"})

    assert str(await against(refuse)) == "refused by the peer: you were removed"


async def test_impostor_cannot_send_a_proof_back() -> None:
    """It knows proofs of the dialer from another connection, but those are of the other role."""

    async def reflect(stream: Any) -> None:
        hello = await receive_hello(stream)
        proof = REQUIRED.secret.proof("dialer", dialer=hello["challenge"], acceptor=b"a" * 32, hello=b"")
        await send(stream, {"challenge": b"a" * 32, "proof": proof})

    assert "doesn't know this cluster's peer secret" in str(await against(reflect))


async def test_dialer_receives_nothing_before_its_proof() -> None:
    """Without a proof, a process receives only a random number and an HMAC."""
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                with pytest.raises(IdentityError, match="the dialer doesn't know"):
                    await receive_introduction(theirs, REQUIRED)

            nursery.start_soon(accept)
            await send(ours, HELLO | {"challenge": b"d" * 32})
            assert set(await receive_hello(ours)) == {"challenge", "proof"}
            await send(ours, {"proof": b"p" * 32})


@pytest.mark.parametrize("junk", [None, [], {"proof": 7}, {"link": "raft"}])
async def test_junk_for_a_proof_breaks_the_protocol(junk: Any) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                with pytest.raises(FrameError, match="expected a proof"):
                    await receive_introduction(theirs, REQUIRED)

            nursery.start_soon(accept)
            await send(ours, HELLO | {"challenge": b"d" * 32})
            await receive_hello(ours)
            await send(ours, junk)


@pytest.mark.parametrize("challenge", [b"", b"d" * 31, b"d" * 33, "d" * 32, 7])
async def test_challenge_of_another_size_is_none(challenge: Any) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await send(ours, HELLO | {"challenge": challenge})
    with pytest.raises(IdentityError, match="shows no proof"):
        await receive_introduction(theirs, REQUIRED)
