"""The operator token: what the user who runs a node has, and other clients of the node have not.

Who CONNECTs with it as ``auth_token`` may make every request of an operator (`administration`). Unless it
is configured (``clients.operator_token_file``), it is a file that the first node makes for the user it runs
as, in the user's state directory, and a copy of that in each node's own directory. Both are readable by that
user only, and the command line looks for them there: so it works without typing for whoever may read the
node's directory.

A node without a place for the file goes on: then operators are users and tokens of the configuration.
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
    """The token of this node; empty if there is no place for one.

    Args:
        config: for this node (``Config.for_node``).

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
        log.warning("this node has no operator token: %s; operators need a user of the configuration", error)
        return ""
    return text


def _too_short(where: str, text: str) -> str:
    return f"{where}: an {WHAT} of {len(text)} characters, where at least {LENGTH_MIN} are needed"


def found(directories: Sequence[Path]) -> str:
    """The token of a node on this machine, if this user may read it; else empty.

    Args:
        directories: of nodes.
    """
    for path in (*(directory / FILE_NAME for directory in directories), *state_paths()):
        try:
            return private_files.read(path, WHAT)
        except (OSError, ConfigError):
            continue
    return ""


def state_paths() -> list[Path]:
    """Where the token of this user lies."""
    return private_files.state_paths(os.environ, private_files.home(), FILE_NAME)


def _is_there(path: Path, text: str) -> bool:
    try:
        return private_files.read(path, WHAT) == text
    except (OSError, ConfigError):
        return False
