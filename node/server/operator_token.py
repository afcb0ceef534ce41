"""The operator token: it distinguishes the user who runs a node from the other clients of the node.

A connection that sends it as ``auth_token`` in CONNECT may make every request of an operator
(`administration`). Unless the token is configured (``clients.operator_token_file``), the first node of a
system user makes a file with it in that user's state directory, and each node keeps a copy in its own
directory. Both files are readable by that user only. The command line looks for them there, so a user who may
read the node's directory needs no option.

A node that can't store the file starts nevertheless: then operators are the users and tokens of the
configuration.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from node import private_files
from node.config.model import Config
from node.errors import ConfigError

log = logging.getLogger("stanchion.administration")

FILE_NAME: Final = "operator.token"
WHAT: Final = "operator token"
LENGTH_MIN: Final = 16
"""Characters."""


def operator_token(config: Config) -> str:
    """Return the token of this node; empty if there is no place to store one.

    Args:
        config: the configuration of this node (``Config.for_node``).

    Raises:
        ConfigError: a configured token is too short.
    """
    configured = config.clients.operator_token
    if configured is not None:
        text = configured.reveal()
        if len(text) < LENGTH_MIN:
            raise ConfigError([_too_short("clients.operator_token", text)])
        return text
    directory = config.store.dir if config.store.store == "file" else None
    own = [] if directory is None else [directory / FILE_NAME]
    try:
        path, text = private_files.obtain([*state_paths(), *own], WHAT)
        if len(text) < LENGTH_MIN:
            raise ConfigError([_too_short(str(path), text)])
        if own and not _is_there(own[0], text):
            private_files.put(own[0], text)
    except (OSError, ConfigError) as error:
        log.warning("no operator token: %s; operators must connect as a user of the configuration", error)
        return ""
    return text


def _too_short(where: str, text: str) -> str:
    return f"{where}: an {WHAT} needs at least {LENGTH_MIN} characters, this one has {len(text)}"


def found(directories: Sequence[Path]) -> str:
    """Return the token of a node on this machine; empty if this user may read none.

    Args:
        directories: node directories to look in first.
    """
    for path in (*(directory / FILE_NAME for directory in directories), *state_paths()):
        try:
            return private_files.read(path, WHAT)
        except (OSError, ConfigError):
            continue
    return ""


def state_paths() -> list[Path]:
    """Return the files that may hold this user's token."""
    return private_files.state_paths(os.environ, private_files.home(), FILE_NAME)


def _is_there(path: Path, text: str) -> bool:
    try:
        return private_files.read(path, WHAT) == text
    except (OSError, ConfigError):
        return False
