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
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from node.errors import ConfigError

DIALER: Final = "dialer"
ACCEPTOR: Final = "acceptor"

CHALLENGE_BYTES: Final = 32
"""Of random in each challenge: nobody sees one twice."""

TEXT_LENGTH_MIN: Final = 16
"""Characters of a configured secret."""

FILE_NAME: Final = "peer.secret"
_FILE_BYTES_MAX: Final = 4096
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
    state = environment.get("XDG_STATE_HOME", "")
    found = []
    if state.startswith("/"):
        found.append(Path(state))
    elif home is not None and home.is_absolute():
        found.append(home / ".local" / "state")
    paths = [path / "stanchion" / FILE_NAME for path in found]
    return paths if data is None else [*paths, data.absolute().parent / FILE_NAME]


def obtain(
    paths: Iterable[Path], draw: Callable[[], str] = lambda: secrets.token_hex(32)
) -> tuple[Path, str]:
    """Read the secret at the first of ``paths`` that is there or can be made; return the path and the secret.

    Raises:
        ConfigError: none can be read or made, or one is readable by others, belongs to somebody else or is no
            secret.
    """
    problems = []
    for path in paths:
        try:
            try:
                return path, read(path)
            except FileNotFoundError:
                _make(path, draw())
                return path, read(path)
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
    listed = "; ".join(problems) or "this user has no home directory"
    raise ConfigError(
        [
            f"no place for the secret by which nodes on the loopback know one another ({listed}): name a "
            f"file that only its owner can read with cluster.peer_security.secret_file"
        ]
    )


def read(path: Path) -> str:
    """Read a secret that a node has made.

    Raises:
        ConfigError: others can read it, it belongs to somebody else, or it is no secret.
        OSError: it can't be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        text = os.read(descriptor, _FILE_BYTES_MAX) if stat.S_ISREG(status.st_mode) else b""
    finally:
        os.close(descriptor)
    if status.st_uid not in {0, os.geteuid()}:
        raise ConfigError([f"{path}: belongs to user {status.st_uid}, not to the user of this node"])
    if status.st_mode & 0o077:
        raise ConfigError(
            [
                f"{path}: mode {stat.S_IMODE(status.st_mode):04o} lets others read the peer secret: chmod "
                f"600 {path}"
            ]
        )
    return checked(text.decode("utf-8", "replace").strip(), str(path))


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


def _make(path: Path, text: str) -> None:
    """Make the file, unless somebody else has done so meanwhile."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(descriptor, text.encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
