"""All error classes of Stanchion.

Each class says which side is at fault and how to react. Any other exception is a bug and may stop the node.
Translate errors at the boundary, once, with ``from``: an ``OSError`` in ``store`` or ``raft``, a trio error
in ``server``.
"""

from __future__ import annotations


class NodeError(Exception):
    """The base class of all errors that this package raises on purpose."""


class RemoteProtocolError(NodeError):
    """A client or peer broke its protocol: report it to the remote side if possible, then disconnect."""


class RefusedError(NodeError):
    """A well-formed request is refused; ``str(error)`` is the text on the wire."""


class ConflictError(RefusedError):
    """Refused because a similar operation is in progress: try again when it has finished."""


class UnavailableError(NodeError):
    """No leader or no quorum: the outcome is unknown, and the same serial is forwarded again."""


class CorruptionError(NodeError):
    """Stored bytes fail their checksum or contradict each other: the node stops."""


class DiskError(NodeError):
    """A write or sync failed. It is never retried: the node stops at once."""


class ConfigError(NodeError):
    """An invalid configuration.

    Args:
        problems: every mistake found, one line each: file, line, column, what is wrong, what was expected.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class IdentityError(NodeError):
    """A directory, certificate or peer belongs to another node or another cluster."""
