"""The peer secret, which nodes without TLS share and other processes on the loopback do not know.

Without TLS a node proves to a peer that it knows a secret that all nodes share (`handshake`). The secret is
configured (``cluster.peer_security.secret_file`` or ``secret_env``). Otherwise the first node to start
creates a file in the user's state directory, one per user of the machine. That is sufficient because peers
without TLS are on one loopback. Nodes of several clusters on it share the file too, as routing peers must.

The file must be readable by its owner only; otherwise it is refused. It is created under a temporary name and
linked, so that nodes that start at the same moment use the same secret.

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
"""Random bytes of a challenge, enough that none is used twice."""

TEXT_LENGTH_MIN: Final = 16
"""Minimum number of characters of a configured secret."""

FILE_NAME: Final = "peer.secret"
WHAT: Final = "peer secret"
_PURPOSE: Final = b"stanchion peer link 1"


class PeerSecret:
    """A shared secret, and the proofs of knowing it. Never shown or logged."""

    __slots__ = ("_key",)

    def __init__(self, text: str) -> None:
        self._key = hashlib.sha256(_PURPOSE + b"\0" + text.encode()).digest()

    def proof(self, role: str, *, dialer: bytes, acceptor: bytes, hello: bytes) -> bytes:
        """Return the proof that one end sends.

        Args:
            role: ``dialer`` or ``acceptor``, the end that sends it, so that a proof can't be sent back to its
                sender.
            dialer: the challenge drawn by the dialer.
            acceptor: the challenge drawn by the acceptor.
            hello: the dialer's hello as it was sent: the proof covers its link and names.
        """
        message = b"\0".join(
            (_PURPOSE, role.encode(), dialer, acceptor, hashlib.sha256(hello).digest())
        )  # the lengths of all parts but the role are fixed
        return hmac.new(self._key, message, hashlib.sha256).digest()

    def is_proof(self, given: bytes, role: str, *, dialer: bytes, acceptor: bytes, hello: bytes) -> bool:
        """Return whether ``given`` is that proof, in a time that does not depend on ``given``."""
        return hmac.compare_digest(given, self.proof(role, dialer=dialer, acceptor=acceptor, hello=hello))


def default_paths(environment: Mapping[str, str], home: Path | None, data: Path | None) -> list[Path]:
    """Return the paths where this user's secret may be, the preferred one first.

    Args:
        environment: of this process.
        home: the user's home directory; None if there is none.
        data: the node's own directory; None if it stores nothing. The secret is stored beside it if the user
            has no usable home, as service accounts.
    """
    paths = private_files.state_paths(environment, home, FILE_NAME)
    return paths if data is None else [*paths, data.absolute().parent / FILE_NAME]


def obtain(
    paths: Iterable[Path], draw: Callable[[], str] = lambda: secrets.token_hex(32)
) -> tuple[Path, str]:
    """Read or create the secret at the first usable path; return the path and the secret.

    Raises:
        ConfigError: no path is usable, or the file is readable by others, has another owner or is too short.
    """
    try:
        path, text = private_files.obtain(paths, WHAT, draw)
    except OSError as error:
        raise ConfigError(
            [
                f"no place for the secret that nodes on the loopback share ({error}): set "
                f"cluster.peer_security.secret_file to a file that only its owner can read"
            ]
        ) from error
    return path, checked(text, str(path))


def read(path: Path) -> str:
    """Read a secret that a node has created.

    Raises:
        ConfigError: the file is readable by others, has another owner, or is too short.
        OSError: it can't be read.
    """
    return checked(private_files.read(path, WHAT), str(path))


def checked(text: str, where: str) -> str:
    """Return ``text`` if it is long enough for a secret.

    Raises:
        ConfigError: it is too short.
    """
    if len(text) < TEXT_LENGTH_MIN:
        raise ConfigError(
            [f"{where}: a peer secret of {len(text)} characters: expected at least {TEXT_LENGTH_MIN}"]
        )
    return text
