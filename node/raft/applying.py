"""Applies committed entries: each once, in order, by its type."""

from __future__ import annotations

from collections.abc import Callable

from node.errors import CorruptionError
from node.raft.active_membership import Reconfiguration
from node.raft.ports import JournalView, Listener
from node.units import Index, Term


class Applier:
    """Passes committed entries to the state machine and the listener.

    Args:
        journal: holds the entries.
        apply: applies one batch. If it raises, the error propagates out of `apply`: the entry may be half
            applied.
        reconfiguration: returns the membership of an entry that changes it.
        listener: is notified of entries that are no batch.
    """

    def __init__(
        self,
        *,
        journal: JournalView,
        apply: Callable[[Index, Term, bytes], None],
        reconfiguration: Reconfiguration,
        listener: Listener,
    ) -> None:
        self._journal = journal
        self._apply = apply
        self._reconfiguration = reconfiguration
        self._listener = listener
        self.index = 0
        """The last entry that was applied, or skipped because it is no batch."""
        self.suspended = False
        """True while a snapshot replaces the state."""

    def start_from(self, applied: int) -> int:
        """Start from the state machine's applied index and return the index to continue from, at least 1.

        Raises:
            CorruptionError: the journal does not hold the entries that follow ``applied``.
        """
        first, last = self._journal.first_index, self._journal.last_index
        applied = max(applied, 1)  # entry 1 is the same no-op in every log
        if not max(first, self._journal.first_readable - 1) <= applied <= last:
            raise CorruptionError(
                f"the state has applied entry {applied}, but the journal holds entries "
                f"{self._journal.first_readable} to {last}"
            )
        self.index = applied
        return applied

    def apply(self, index: int, payload: bytes) -> None:
        """Apply entry ``index``, which is committed and follows the last applied one.

        Raises:
            CorruptionError: the entry has an unknown type.
        """
        found = self._journal.term_at(index)
        assert found is not None, f"entry {index} must be applied but is not in the journal"
        at, term = Index(index), Term(found)
        match payload[:1]:
            case b"\x01":
                self._apply(at, term, payload[1:])
                self.index = index
            case b"\x00":
                self.index = index
                self._listener.applied_to(at, term)
            case b"\x02":
                self.index = index
                self._listener.applied_to(at, term)
                self._listener.membership_committed(self._reconfiguration.at(index), at)
            case kind:
                raise CorruptionError(f"entry {index} has the unknown type {kind!r}")
