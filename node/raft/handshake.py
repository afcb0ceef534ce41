"""The first frames of a connection between nodes: a hello each way, and the proofs of the peer secret.

Under TLS the certificates say who is there, and the dialer's hello is answered by the acceptor's. Without TLS
both ends prove first that they know the peer secret (`secret`)::

    dialer      hello + {challenge: D, must_prove: whether the acceptor has to prove itself}
    acceptor    {challenge: A, proof: HMAC(acceptor, D, A, the dialer's hello)}
    dialer      {proof: HMAC(dialer, D, A, the dialer's hello)}
    acceptor    hello, or a refusal

An end that requires proofs sends nothing about itself to one that has shown none, and believes nothing that
such a one says: a process that holds the port of a stopped node can't make a peer stop or take a frame.

Releases before this one know no challenge. Their hellos are taken, and sent to them, only by nodes that don't
require proofs (``peer_security.mode: none``): that is for a rolling upgrade. Such a node still proves
itself to one that wants it.

A proof covers the establishment of a connection. What follows on it is not signed: on a loopback nobody but
root gets between two sockets.
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
    "it runs an earlier release, or its peer_security is another: see Upgrading in docs/operations.md"
)


class Knowledge(Protocol):
    """What is asked of a node's security."""

    @property
    def secret(self) -> PeerSecret | None:
        """What peers share; None: there is TLS, or nothing."""

    @property
    def requires_proof(self) -> bool:
        """Whether a peer must know the secret."""


async def introduce(stream: ByteStream, hello: Mapping[str, Any], knows: Knowledge) -> Any:
    """Say hello on a connection that this node has dialed; return the answer, a hello or a refusal.

    Raises:
        IdentityError: the acceptor doesn't know the secret, and has to.
        LostError: the connection has ended.
        FrameError: no frame of a handshake.
    """
    secret = knows.secret
    if secret is None:
        await send(stream, hello)
        return await receive_hello(stream)
    ours = secrets.token_bytes(CHALLENGE_BYTES)
    frame = encode_frame({**hello, "challenge": ours, "must_prove": knows.requires_proof})
    await send_encoded(stream, frame)
    answer = await receive_hello(stream)
    match answer:
        case {"challenge": bytes(theirs), "proof": bytes(proof)} if len(theirs) == CHALLENGE_BYTES:
            shown = {"dialer": ours, "acceptor": theirs, "hello": frame[HEADER_BYTES:]}
            if not secret.is_proof(proof, ACCEPTOR, **shown):
                raise IdentityError("who answers there doesn't know this cluster's peer secret")
            await send(stream, {"proof": secret.proof(DIALER, **shown)})
            return await receive_hello(stream)
        case {"refused": str(text)} if knows.requires_proof:
            raise IdentityError(f"refused by the peer: {text[:255]}")
        case _ if knows.requires_proof:
            raise IdentityError(f"who answers there shows no proof of the peer secret: {ADVICE}")
        case _:
            return answer


async def receive_introduction(stream: ByteStream, knows: Knowledge) -> Any:
    """Receive the hello on a connection that a peer has dialed, and have it proven.

    Raises:
        IdentityError: the dialer doesn't know the secret, and has to. The caller tells it so.
        LostError: the connection has ended.
        NoHelloError: before anything was said.
        FrameError: no frame of a handshake.
    """
    body = bytes(await receive_first(stream))
    hello = decode_body(body, HELLO_ITEMS_MAX)
    secret = knows.secret
    if secret is None or not isinstance(hello, Mapping):
        return hello
    theirs = hello.get("challenge")
    if not isinstance(theirs, bytes) or len(theirs) != CHALLENGE_BYTES:
        if knows.requires_proof:
            raise IdentityError(f"the dialer shows no proof of the peer secret: {ADVICE}")
        return hello
    if not (knows.requires_proof or hello.get("must_prove") is True):
        return hello
    ours = secrets.token_bytes(CHALLENGE_BYTES)
    shown = {"dialer": theirs, "acceptor": ours, "hello": body}
    await send(stream, {"challenge": ours, "proof": secret.proof(ACCEPTOR, **shown)})
    match await receive_hello(stream):
        case {"proof": bytes(proof)}:
            if not secret.is_proof(proof, DIALER, **shown):
                raise IdentityError("the dialer doesn't know this cluster's peer secret")
        case _:
            raise FrameError("no proof where one has to be")
    return hello
