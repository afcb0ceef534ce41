"""Removes uncommitted log entries that are larger than a frame between nodes.

Leaders of the first release proposed entries of any size, and stopped when they had to send one larger than a
frame. The entry was already in their own log, where it blocked every later leader: it could neither be sent
nor skipped. This release proposes no such entry (`server.proposer`), and must handle existing ones:

* A committed one was proposed by the only voter of its cluster. A peer that needs it receives a snapshot
  instead (`progress`).
* An uncommitted one can never be committed: no other node has it. It is removed when the node starts, as if
  the write had failed. Nothing depends on it, because its node alone is not a majority.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from node.protocol.peer import FRAME_BYTES_MAX
from node.raft.membership import Membership

log = logging.getLogger("stanchion.raft")

SURELY_UNSENT_BYTES: Final = FRAME_BYTES_MAX
"""An entry that takes more bytes in the journal was never sent. A frame adds more to an entry than
encryption, which adds a few dozen bytes."""


class Journal(Protocol):
    """The part of the journal that this module uses."""

    @property
    def first_readable(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def membership(self) -> tuple[int, bytes] | None: ...
    def membership_at(self, index: int) -> tuple[int, bytes] | None: ...
    def length_at(self, index: int) -> int: ...
    def truncate(self, from_index: int) -> None: ...


def drop_uncommitted(journal: Journal, initial_voters: Membership, applied: int) -> int | None:
    """Remove the first entry that is larger than a frame, and all that follow it, if it is not committed.

    Args:
        journal: the node's journal, before an engine uses it.
        initial_voters: in force while the log names no members.
        applied: index of the last entry in the store: everything up to it is committed.

    Returns:
        The index of that entry; None if nothing was removed.

    Raises:
        RemoteProtocolError: the log contains an invalid membership.
        DiskError: a disk operation failed earlier.
    """
    first = max(applied + 1, journal.first_readable)
    for index in range(first, journal.last_index + 1):
        if journal.length_at(index) > SURELY_UNSENT_BYTES:
            break
    else:
        return None
    for later in range(index, journal.last_index + 1):
        placed = journal.membership_at(later)
        members = initial_voters if placed is None else Membership.decode(placed[1])
        if len(members.voters) < 2:
            return None  # this node alone is, or became, a majority
    log.warning(
        "entry %d of the log, %d bytes, cannot be sent to other nodes and was never committed: it is "
        "removed, with all that follows it, up to entry %d",
        index, journal.length_at(index), journal.last_index,
    )  # fmt: skip
    journal.truncate(index)
    return index
