"""The handshake of a connection between nodes: a hello each way, and proofs of the peer secret.

With TLS the certificates identify both ends, and the acceptor's hello answers the dialer's. Without TLS both
ends first prove that they know the peer secret (`secret`)::

    dialer      hello + {challenge: D, must_prove: whether the acceptor has to prove itself}
    acceptor    {challenge: A, proof: HMAC(acceptor, D, A, the dialer's hello)}
    dialer      {proof: HMAC(dialer, D, A, the dialer's hello)}
    acceptor    hello, or a refusal

An end that requires proofs sends nothing about itself to a peer that has not proved itself, and ignores what
that peer states. So a process that occupies the port of a stopped node can't make a peer stop or accept a
frame.

Earlier releases have no challenge. Their hellos are accepted, and answered, only by nodes that do not require
proofs (``peer_security.mode: none``), for a rolling upgrade. Such a node still proves itself to a peer that
requires it.

A proof covers the establishment of a connection. The frames that follow are not signed: on the loopback only
root can intercept a connection.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final, Protocol

from node.errors import IdentityError
from node.protocol.peer import HEADER_BYTES, HELLO_ITEMS_MAX, FrameError, decode_body, encode_frame
from node.raft.connection import receive_first, receive_hello, send, send_encoded
from node.raft.secret import ACCEPTOR, CHALLENGE_BYTES, DIALER, PeerSecret
from node.raft.tls import ByteStream

ADVICE: Final = (
    "it runs an earlier release, or has another peer_security: see Upgrading in docs/operations.md"
)


class PeerAuth(Protocol):
    """The part of a node's security that a handshake needs."""

    @property
    def secret(self) -> PeerSecret | None:
        """The shared secret; None with TLS, or if there is none."""

    @property
    def requires_proof(self) -> bool:
        """Whether a peer must prove that it knows the secret."""


async def introduce(stream: ByteStream, hello: Mapping[str, Any], auth: PeerAuth) -> Any:
    """Send a hello on a connection that this node has dialed; return the answer, a hello or a refusal.

    Raises:
        IdentityError: the acceptor did not prove that it knows the secret, although it is required.
        LostError: the connection has ended.
        FrameError: the answer is no handshake frame.
    """
    secret = auth.secret
    if secret is None:
        await send(stream, hello)
        return await receive_hello(stream)
    ours = secrets.token_bytes(CHALLENGE_BYTES)
    frame = encode_frame({**hello, "challenge": ours, "must_prove": auth.requires_proof})
    await send_encoded(stream, frame)
    answer = await receive_hello(stream)
    match answer:
        case {"challenge": bytes(theirs), "proof": bytes(proof)} if len(theirs) == CHALLENGE_BYTES:
            shown = {"dialer": ours, "acceptor": theirs, "hello": frame[HEADER_BYTES:]}
            if not secret.is_proof(proof, ACCEPTOR, **shown):
                raise IdentityError("the node at this address doesn't know this cluster's peer secret")
            await send(stream, {"proof": secret.proof(DIALER, **shown)})
            return await receive_hello(stream)
        case {"refused": str(text)} if auth.requires_proof:
            raise IdentityError(f"refused by the peer: {text[:255]}")
        case _ if auth.requires_proof:
            raise IdentityError(f"the node at this address shows no proof of the peer secret: {ADVICE}")
        case _:
            return answer


async def receive_introduction(stream: ByteStream, auth: PeerAuth) -> Any:
    """Receive and verify the hello on a connection that a peer has dialed.

    Raises:
        IdentityError: the dialer did not prove that it knows the secret, although it is required. The caller
            sends it the refusal.
        LostError: the connection has ended.
        NoHelloError: the connection ended before a byte was received.
        FrameError: the frame is no handshake frame.
    """
    body = bytes(await receive_first(stream))
    hello = decode_body(body, HELLO_ITEMS_MAX)
    secret = auth.secret
    if secret is None or not isinstance(hello, Mapping):
        return hello
    theirs = hello.get("challenge")
    if not isinstance(theirs, bytes) or len(theirs) != CHALLENGE_BYTES:
        if auth.requires_proof:
            raise IdentityError(f"the dialer shows no proof of the peer secret: {ADVICE}")
        return hello
    if not (auth.requires_proof or hello.get("must_prove") is True):
        return hello
    ours = secrets.token_bytes(CHALLENGE_BYTES)
    shown = {"dialer": theirs, "acceptor": ours, "hello": body}
    await send(stream, {"challenge": ours, "proof": secret.proof(ACCEPTOR, **shown)})
    match await receive_hello(stream):
        case {"proof": bytes(proof)}:
            if not secret.is_proof(proof, DIALER, **shown):
                raise IdentityError("the dialer doesn't know this cluster's peer secret")
        case _:
            raise FrameError("expected a proof of the peer secret")
    return hello
