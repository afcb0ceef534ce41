"""Checks of Raft's guarantees for logs, made at each change, at a cost that doesn't grow with the logs.

*Log matching*: two journals that have an entry with the same index and term have the same entry there, and
the entry before it has the same term in both. By induction, all earlier entries are equal, too. *Leader
completeness*: an elected server has the last entry that was committed in an earlier term, and by log
matching all earlier ones. *Commitment*: no server commits a different entry at a committed index.

Source: Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm*, figure 3.
"""

from __future__ import annotations

from node.raft.ports import JournalView
from node.simulator.raft_checks import ViolationError


class LogChecker:
    """Checks every entry that any journal gets, every commit and every election."""

    def __init__(self) -> None:
        self._entries: dict[tuple[int, int], tuple[bytes, int | None]] = {}
        """By index and term: the payload, and the term of the previous entry."""
        self._durable: dict[str, tuple[int, int | None]] = {}
        """By name: index and term of the last entry that was known to be durable when the process ended."""
        self._committed: dict[int, int] = {}
        """The term of each entry that any server knew to be committed."""
        self._last_of_term: dict[int, int] = {}
        """By the term in which a server learned of commits: the highest committed index."""

    def appended(self, name: str, index: int, term: int, payload: bytes, before: int | None) -> None:
        """Check a new entry of a journal; the previous entry has term ``before`` (None: it was dropped)."""
        recorded = self._entries.setdefault((index, term), (payload, before))
        if recorded[0] != payload:
            raise ViolationError(
                "log matching", f"{name} has another entry {index} of term {term} than others had"
            )
        if recorded[1] != before:
            if recorded[1] is not None and before is not None:
                raise ViolationError(
                    "log matching",
                    f"{name} has entry {index} of term {term} behind one of term {before}, "
                    f"others had it behind one of term {recorded[1]}",
                )
            self._entries[index, term] = (payload, recorded[1] if before is None else before)

    def stopped(self, name: str, journal: JournalView) -> None:
        """Record what a process that ends knew to be durable; it must be there after a restart."""
        index = journal.durable_index
        self._durable[name] = (index, journal.term_at(index))

    def emptied(self, name: str) -> None:
        """Forget a machine whose disk was wiped on purpose."""
        self._durable.pop(name, None)

    def reopened(self, name: str, journal: JournalView) -> None:
        """Check a journal that was read back: its entries are unchanged, and no durable entry is missing."""
        durable, its_term = self._durable.get(name, (0, None))
        if durable > journal.last_index or (
            durable >= max(1, journal.first_index) and journal.term_at(durable) != its_term
        ):
            raise ViolationError(
                "durability",
                f"entry {durable} of term {its_term} was durable on {name}, which finds "
                f"{journal.term_at(durable)} there (last entry {journal.last_index})",
            )
        for index in range(journal.first_readable, journal.last_index + 1):
            term = journal.term_at(index)
            assert term is not None
            recorded = self._entries.get((index, term))
            if recorded is None:
                raise ViolationError(
                    "durability", f"{name} finds entry {index} of term {term}: no journal ever had it"
                )
            before = journal.term_at(index - 1)
            if before is not None and recorded[1] not in {None, before}:
                raise ViolationError(
                    "log matching", f"{name} finds entry {index} after a different entry than before"
                )

    def committed_term(self, index: int) -> int | None:
        """Return the term of entry ``index``; None if no server knows it to be committed."""
        return self._committed.get(index)

    def committed(self, name: str, in_term: int, journal: JournalView, above: int, up_to: int) -> None:
        """Check the entries up to ``up_to``, which a node in term ``in_term`` knows to be committed."""
        for index in range(max(above + 1, journal.first_index), up_to + 1):
            term = journal.term_at(index)
            if term is None or self._committed.setdefault(index, term) != term:
                raise ViolationError(
                    "state machine safety",
                    f"{name} commits entry {index} of term {term}, where one of term "
                    f"{self._committed.get(index)} was committed",
                )
        self._last_of_term[in_term] = max(up_to, self._last_of_term.get(in_term, 0))

    def elected(self, name: str, term: int, journal: JournalView) -> None:
        """Check that the log of a new leader has the committed entries of earlier terms."""
        last = max((last for earlier, last in self._last_of_term.items() if earlier < term), default=0)
        if last >= max(1, journal.first_index) and journal.term_at(last) != self._committed.get(last):
            raise ViolationError(
                "leader completeness",
                f"{name} leads term {term}, entry {last} of term {self._committed.get(last)} is committed, "
                f"and there it has term {journal.term_at(last)} (last entry {journal.last_index})",
            )
