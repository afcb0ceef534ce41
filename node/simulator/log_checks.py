"""What Raft promises of logs, looked at as they change, at a cost that doesn't grow with them.

*Log matching*: whatever index and term a journal has an entry for, it has the same entry there as every
other journal ever had, behind one of the same term. By induction all before it are the same, too.
*Leader completeness*: who is elected has the last entry that was committed in an earlier term,
and by log matching all before it. *Commitment*: nobody commits another entry where one was.

Source: Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm*, figure 3.
"""

from __future__ import annotations

from node.raft.ports import JournalView
from node.simulator.raft_checks import ViolationError


class LogChecker:
    """Told of every entry that any journal gets, of every commit and of every election."""

    def __init__(self) -> None:
        self._entries: dict[tuple[int, int], tuple[bytes, int | None]] = {}
        """By index and term: the payload, and the term of the entry before."""
        self._durable: dict[str, tuple[int, int | None]] = {}
        """By name: the last entry known to be durable when the process ended, and its term."""
        self._committed: dict[int, int] = {}
        """The term of each entry that anybody knew to be committed."""
        self._last_of_term: dict[int, int] = {}
        """By the term in which it was known: the last of them."""

    def appended(self, name: str, index: int, term: int, payload: bytes, before: int | None) -> None:
        """A journal has got entry ``index``, behind one of term ``before`` (None: it is not there)."""
        known = self._entries.setdefault((index, term), (payload, before))
        if known[0] != payload:
            raise ViolationError(
                "log matching", f"{name} has another entry {index} of term {term} than others had"
            )
        if known[1] != before:
            if known[1] is not None and before is not None:
                raise ViolationError(
                    "log matching",
                    f"{name} has entry {index} of term {term} behind one of term {before}, "
                    f"others had it behind one of term {known[1]}",
                )
            self._entries[index, term] = (payload, known[1] if before is None else before)

    def stopped(self, name: str, journal: JournalView) -> None:
        """A process ends: what it knew to be durable must be found again."""
        index = journal.durable_index
        self._durable[name] = (index, journal.term_at(index))

    def emptied(self, name: str) -> None:
        """A machine has lost its disk, on purpose."""
        self._durable.pop(name, None)

    def reopened(self, name: str, journal: JournalView) -> None:
        """A journal was read back: what is left of it is what it was, and nothing durable is missing."""
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
            known = self._entries.get((index, term))
            if known is None:
                raise ViolationError(
                    "durability", f"{name} finds entry {index} of term {term}: nobody had it"
                )
            before = journal.term_at(index - 1)
            if before is not None and known[1] not in {None, before}:
                raise ViolationError("log matching", f"{name} finds entry {index} behind another than it was")

    def committed_term(self, index: int) -> int | None:
        """The term of entry ``index``; None if nobody knows it to be committed."""
        return self._committed.get(index)

    def committed(self, name: str, in_term: int, journal: JournalView, above: int, up_to: int) -> None:
        """A node that is in term ``in_term`` knows all entries to be committed up to ``up_to``."""
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
        """A node leads a term."""
        last = max((last for earlier, last in self._last_of_term.items() if earlier < term), default=0)
        if last >= max(1, journal.first_index) and journal.term_at(last) != self._committed.get(last):
            raise ViolationError(
                "leader completeness",
                f"{name} leads term {term}, entry {last} of term {self._committed.get(last)} is committed, "
                f"and there it has term {journal.term_at(last)} (last entry {journal.last_index})",
            )
