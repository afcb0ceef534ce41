"""Entries that no frame between nodes can hold: what the first release could leave in a log.

Its leaders proposed entries of any size, and ended themselves when they had to send one larger than a
frame. By then it was in their own log, where it kept every later leader from getting on: it could neither
be sent nor be left out. This release proposes no such entry (`server.proposer`), and must go on with what
is there:

* One that is committed was proposed by a node that was its cluster's only voter. A peer that needs it is sent
  a snapshot instead (`progress`).
* One that isn't can never be: nobody else has it. It is removed when the node starts, as if the write had
  failed. Nothing depends on it, for its own node is not a majority.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from node.protocol.peer import FRAME_BYTES_MAX
from node.raft.membership import Membership

log = logging.getLogger("stanchion.raft")

SURELY_UNSENT_BYTES: Final = FRAME_BYTES_MAX
"""An entry that takes more bytes in the journal was never sent: a frame has more than it around an entry, and
encryption adds a few dozen bytes to one."""


class Journal(Protocol):
    """What is needed of the journal."""

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
    """Remove from the log the first entry that no frame can hold, and what follows it, if it isn't committed.

    Args:
        journal: the node's, before an engine uses it.
        initial_voters: in force as long as the log names no members.
        applied: index of the last entry in the store: everything up to it is committed.

    Returns:
        The index of that entry; None if nothing was removed.

    Raises:
        RemoteProtocolError: the log says what is no membership.
        DiskError: the disk refused earlier.
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
