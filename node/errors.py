"""Every error family of Stanchion.

Four families say whose fault it is and what happens now; anything else that escapes is a bug of
ours and may stop the node. Translate at the boundary, once, with ``from``: an ``OSError`` in
``store`` or ``raft``, a trio error in ``server``.
"""

from __future__ import annotations


class NodeError(Exception):
    """The root of all errors that this package raises on purpose."""


class RemoteProtocolError(NodeError):
    """A client or peer broke its protocol: tell it if we can, then drop it."""


class RefusedError(NodeError):
    """A well-formed request that we decline; ``str(error)`` is the text on the wire."""


class ConflictError(RefusedError):
    """Refused because something of its kind is under way: ask again when that is done."""


class UnavailableError(NodeError):
    """No leader or no quorum: the outcome is unknown, and the same serial is forwarded again."""


class CorruptionError(NodeError):
    """Stored bytes fail their checksum or contradict each other: stop rather than guess."""


class DiskError(NodeError):
    """The disk refused a write or a sync. It is never retried: the node stops at once."""


class ConfigError(NodeError):
    """A configuration that can't be used.

    Args:
        problems: every mistake found, one line each: file, line, column, what is wrong, what was expected.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class IdentityError(NodeError):
    """A directory, certificate or peer that belongs to another node or another cluster."""
