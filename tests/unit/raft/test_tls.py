"""TLS over a byte stream: successful and failed handshakes, and reads that return all data."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from node.raft import authority
from node.raft.security import Contexts, MutualTLS
from node.raft.tls import TlsStream


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Contexts]:
    """Contexts of n1 and n2; ``stranger`` trusts another authority only, ``impostor`` has a certificate of
    another one."""
    directory = tmp_path_factory.mktemp("certs")
    authority.init(directory / "own", ["n1", "n2"], {}, 30)
    authority.init(directory / "other", ["n2"], {}, 30)

    def load(node: str, ca: str, own: str) -> Contexts:
        files = directory / own
        return MutualTLS(
            node, directory / ca / "ca.pem", files / f"{node}.pem", files / f"{node}.key"
        ).contexts

    return {
        "n1": load("n1", "own", "own"),
        "n2": load("n2", "own", "own"),
        "stranger": load("n2", "other", "other"),
        "impostor": load("n2", "own", "other"),
    }


def ends(accept: Contexts, dial: Contexts) -> tuple[TlsStream, TlsStream, trio.StapledStream]:
    """Both ends, and the dialing end's plain stream."""
    plain_accept, plain_dial = trio.testing.memory_stream_pair()
    return (
        TlsStream(plain_accept, accept.accept, server_side=True),
        TlsStream(plain_dial, dial.dial, server_side=False),
        plain_dial,
    )


async def error_of(work: Callable[[], Awaitable[object]], expected: str) -> None:
    with trio.fail_after(5), pytest.raises(ssl.SSLError) as caught:
        await work()
    assert expected in str(caught.value.reason)


async def shake_hands(accepted: TlsStream, dialed: TlsStream) -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accepted.do_handshake)
            nursery.start_soon(dialed.do_handshake)


async def test_both_learn_the_others_certificate(contexts: dict[str, Contexts]) -> None:
    accepted, dialed, _ = ends(contexts["n1"], contexts["n2"])
    await shake_hands(accepted, dialed)
    for end, peer in ((accepted, "n2"), (dialed, "n1")):
        certificate = end.peer_certificate()
        assert certificate is not None
        assert certificate["subjectAltName"] == (("DNS", peer),)


async def test_one_read_takes_every_record_that_has_arrived(contexts: dict[str, Contexts]) -> None:
    """Sixty-four records, sent at once, read at once."""
    accepted, dialed, _ = ends(contexts["n1"], contexts["n2"])
    await shake_hands(accepted, dialed)
    sent = bytes(range(256)) * 4096
    await dialed.send_all(sent)
    assert await accepted.receive_some(2 * len(sent)) == sent


async def test_a_read_takes_no_more_than_it_may(contexts: dict[str, Contexts]) -> None:
    """A hello is read up to its last byte and not further."""
    accepted, dialed, _ = ends(contexts["n1"], contexts["n2"])
    await shake_hands(accepted, dialed)
    await dialed.send_all(b"hello and more")
    assert await accepted.receive_some(5) == b"hello"
    assert await accepted.receive_some(100) == b" and more"


async def test_both_directions_at_once(contexts: dict[str, Contexts]) -> None:
    accepted, dialed, _ = ends(contexts["n1"], contexts["n2"])
    await shake_hands(accepted, dialed)
    got = {accepted: bytearray(), dialed: bytearray()}

    async def write(end: TlsStream) -> None:
        for _ in range(20):
            await end.send_all(b"x" * 50_000)

    async def read(end: TlsStream) -> None:
        while len(got[end]) < 1_000_000:
            got[end] += await end.receive_some(65_536)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for end in (accepted, dialed):
                nursery.start_soon(write, end)
                nursery.start_soon(read, end)
    assert got[accepted] == got[dialed] == b"x" * 1_000_000


async def test_an_end_is_an_end_with_or_without_tlss_own(contexts: dict[str, Contexts]) -> None:
    """Data that arrived before it is returned first. Frames have lengths, which reveal a truncated frame."""
    accepted, dialed, plain = ends(contexts["n1"], contexts["n2"])
    await shake_hands(accepted, dialed)
    await dialed.send_all(b"last words")
    await plain.aclose()
    assert await accepted.receive_some(100) == b"last words"
    assert await accepted.receive_some(100) == b""
    assert await accepted.receive_some(100) == b""


async def test_the_dialing_side_receives_the_reason_of_a_refusal(contexts: dict[str, Contexts]) -> None:
    """It is reported by its first read: in TLS 1.3 its handshake ends before its certificate is verified."""
    accepted, dialed, _ = ends(contexts["n1"], contexts["impostor"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(error_of, accepted.do_handshake, "CERTIFICATE_VERIFY_FAILED")
        await dialed.do_handshake()
        await error_of(lambda: dialed.receive_some(100), "TLSV1_ALERT_UNKNOWN_CA")


async def test_the_dialed_side_is_told_why_it_is_refused(contexts: dict[str, Contexts]) -> None:
    accepted, dialed, _ = ends(contexts["n1"], contexts["stranger"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(error_of, dialed.do_handshake, "CERTIFICATE_VERIFY_FAILED")
        await error_of(accepted.do_handshake, "TLSV1_ALERT_UNKNOWN_CA")


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"])
async def test_a_handshake_that_is_none_fails(contexts: dict[str, Contexts], said: bytes) -> None:
    """It neither waits forever nor spins."""
    accepted, _, plain = ends(contexts["n1"], contexts["n2"])
    await plain.send_all(said)
    await plain.aclose()
    with trio.fail_after(5), pytest.raises((ssl.SSLError, trio.BrokenResourceError)):
        await accepted.do_handshake()


async def test_damage_on_the_way_is_an_error(contexts: dict[str, Contexts]) -> None:
    accepted, dialed, plain = ends(contexts["n1"], contexts["n2"])
    await shake_hands(accepted, dialed)
    await plain.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
    await error_of(lambda: accepted.receive_some(100), "BAD_RECORD_MAC")
