"""How committed entries reach the state machine: in order, each once, each kind its own way."""

from __future__ import annotations

from collections.abc import Callable

from node.errors import CorruptionError
from node.raft.active_membership import Reconfiguration
from node.raft.ports import JournalView, Listener
from node.units import Index, Term


class Applier:
    """Gives the entries that the library calls committed to whom they are for.

    Args:
        journal: holds them.
        apply: takes a batch. What it raises leaves `apply`: half an entry may be applied then.
        reconfiguration: knows what an entry that changes the members says.
        listener: is told of entries that are no batch.
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
        """The last entry that was applied, or passed."""
        self.suspended = False
        """A snapshot is taking the place of the state."""

    def start_from(self, applied: int) -> int:
        """The state machine has applied that much; returns where it stands then.

        Raises:
            CorruptionError: the journal doesn't go on from there.
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
        """Entry ``index`` is committed and next.

        Raises:
            CorruptionError: an entry of a kind that this program doesn't know.
        """
        found = self._journal.term_at(index)
        assert found is not None, f"entry {index} is to be applied but isn't there"
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
