"""The peer secret: what a node knows and a stranger on the loopback does not.

Without TLS a node proves to a peer that it knows a secret which all nodes share (`handshake`). The secret is
configured (``cluster.peer_security.secret_file`` or ``secret_env``), or it is a file that the first node to
start makes: one for each user of the machine, in the user's state directory. That is enough because peers
without TLS are on one loopback; and nodes of several clusters there share it too, as routing peers must.

The file is readable by its owner only, and is refused otherwise. It is made under another name and linked, so
nodes that start at the same moment agree on one.

Source: RFC 2104 (HMAC); XDG Base Directory Specification.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from node import private_files
from node.errors import ConfigError

DIALER: Final = "dialer"
ACCEPTOR: Final = "acceptor"

CHALLENGE_BYTES: Final = 32
"""Of random in each challenge: nobody sees one twice."""

TEXT_LENGTH_MIN: Final = 16
"""Characters of a configured secret."""

FILE_NAME: Final = "peer.secret"
WHAT: Final = "peer secret"
_PURPOSE: Final = b"stanchion peer link 1"


class PeerSecret:
    """A shared secret, and the proofs of knowing it. Never shown or logged."""

    __slots__ = ("_key",)

    def __init__(self, text: str) -> None:
        self._key = hashlib.sha256(_PURPOSE + b"\0" + text.encode()).digest()

    def proof(self, role: str, *, dialer: bytes, acceptor: bytes, hello: bytes) -> bytes:
        """Return the proof that one end gives.

        Args:
            role: ``dialer`` or ``acceptor``, the end that gives it: neither end can be sent its own proof
                back.
            dialer: the challenge that the dialer has drawn.
            acceptor: the challenge that the acceptor has drawn.
            hello: the dialer's hello as it was sent: link and names are proven with it.
        """
        message = b"\0".join(
            (_PURPOSE, role.encode(), dialer, acceptor, hashlib.sha256(hello).digest())
        )  # the lengths of all parts but the role are fixed
        return hmac.new(self._key, message, hashlib.sha256).digest()

    def is_proof(self, given: bytes, role: str, *, dialer: bytes, acceptor: bytes, hello: bytes) -> bool:
        """Whether ``given`` is that proof, in a time that does not depend on it."""
        return hmac.compare_digest(given, self.proof(role, dialer=dialer, acceptor=acceptor, hello=hello))


def default_paths(environment: Mapping[str, str], home: Path | None, data: Path | None) -> list[Path]:
    """Return where the secret of this user may be, the preferred place first.

    Args:
        environment: of this process.
        home: the user's home directory; None if there is none.
        data: the node's own directory; None if it keeps nothing. The secret lies beside it where the user has
            no usable home, as service accounts have not.
    """
    paths = private_files.state_paths(environment, home, FILE_NAME)
    return paths if data is None else [*paths, data.absolute().parent / FILE_NAME]


def obtain(
    paths: Iterable[Path], draw: Callable[[], str] = lambda: secrets.token_hex(32)
) -> tuple[Path, str]:
    """Read the secret at the first of ``paths`` that is there or can be made; return the path and the secret.

    Raises:
        ConfigError: none can be read or made, or one is readable by others, belongs to somebody else or is no
            secret.
    """
    try:
        path, text = private_files.obtain(paths, WHAT, draw)
    except OSError as error:
        raise ConfigError(
            [
                f"no place for the secret by which nodes on the loopback know one another ({error}): name a "
                f"file that only its owner can read with cluster.peer_security.secret_file"
            ]
        ) from error
    return path, checked(text, str(path))


def read(path: Path) -> str:
    """Read a secret that a node has made.

    Raises:
        ConfigError: others can read it, it belongs to somebody else, or it is no secret.
        OSError: it can't be read.
    """
    return checked(private_files.read(path, WHAT), str(path))


def checked(text: str, where: str) -> str:
    """Return ``text`` if it can be a secret.

    Raises:
        ConfigError: it is too short.
    """
    if len(text) < TEXT_LENGTH_MIN:
        raise ConfigError(
            [f"{where}: a peer secret of {len(text)} characters, where at least {TEXT_LENGTH_MIN} are needed"]
        )
    return text
