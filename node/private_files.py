"""Small files with a secret that only their owner may read.

A file is written under a temporary name and then linked to its own, so two processes that start at the same
moment use the same secret. A file that others can read, or that belongs to another user, is refused.

Source: XDG Base Directory Specification.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from node.errors import ConfigError

FILE_BYTES_MAX: Final = 4096


def home() -> Path | None:
    """Return the user's home directory; None if there is neither ``HOME`` nor an entry for the user."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def state_paths(environment: Mapping[str, str], home: Path | None, name: str) -> list[Path]:
    """Return the path of this user's file ``name`` in the state directory; no path if there is none.

    Args:
        environment: of this process.
        home: the user's home directory; None if there is none.
        name: of the file.
    """
    state = environment.get("XDG_STATE_HOME", "")
    if state.startswith("/"):
        return [Path(state) / "stanchion" / name]
    if home is not None and home.is_absolute():
        return [home / ".local" / "state" / "stanchion" / name]
    return []


def obtain(
    paths: Iterable[Path], what: str, draw: Callable[[], str] = lambda: secrets.token_hex(32)
) -> tuple[Path, str]:
    """Read the secret in the first of ``paths`` that exists or can be created; return path and secret.

    Args:
        paths: possible paths, the preferred one first.
        what: name of the secret in errors.
        draw: creates a new secret.

    Raises:
        ConfigError: a file is readable by others or belongs to another user.
        OSError: no file can be read or created.
    """
    problems = []
    for path in paths:
        try:
            try:
                return path, read(path, what)
            except FileNotFoundError:
                make(path, draw())
                return path, read(path, what)
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
    raise OSError("; ".join(problems) or "this user has no home directory")


def read(path: Path, what: str) -> str:
    """Read the secret in a file.

    Args:
        path: the file.
        what: name of the secret in errors.

    Raises:
        ConfigError: others can read it, or it belongs to another user.
        OSError: it can't be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        text = os.read(descriptor, FILE_BYTES_MAX) if stat.S_ISREG(status.st_mode) else b""
    finally:
        os.close(descriptor)
    if os.geteuid() not in {0, status.st_uid} and status.st_uid != 0:
        raise ConfigError([f"{path}: belongs to user {status.st_uid}, not to the user of this process"])
    if status.st_mode & 0o077:
        raise ConfigError(
            [f"{path}: mode {stat.S_IMODE(status.st_mode):04o} lets others read the {what}: chmod 600 {path}"]
        )
    return text.decode("utf-8", "replace").strip()


def make(path: Path, text: str) -> None:
    """Create the file, readable by its owner only, unless it exists meanwhile.

    Raises:
        OSError: it can't be created.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = _draft(path, text)
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()


def put(path: Path, text: str) -> None:
    """Create or replace the file.

    Raises:
        OSError: it can't be created.
    """
    _draft(path, text).replace(path)


def _draft(path: Path, text: str) -> Path:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, text.encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return draft
