"""Whether a journal and a store belong together, and how the one goes on behind the other.

The store is a checkpoint of what the log led to, so it is somewhere within the log: not before its
beginning, nor beyond its end. But for one moment: a snapshot that was put in the store's place is beyond the
log until the journal follows it. Such a store has a note (`node.store.snapshot.heartbeat_payload_of`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from node.units import Index, Term

Note: TypeAlias = Callable[[], bytes]


class Journal(Protocol):
    """What is needed of it."""

    @property
    def first_index(self) -> Index: ...
    @property
    def first_readable(self) -> Index: ...
    @property
    def last_index(self) -> Index: ...
    def term_at(self, index: int) -> Term | None: ...
    def reset(
        self, base: tuple[int, int], previous: tuple[int, int], membership: bytes | None = None
    ) -> None: ...


class Store(Protocol):
    """What is needed of it."""

    @property
    def applied(self) -> tuple[Index, Term]: ...
    @property
    def previous(self) -> tuple[Index, Term]: ...


def contradiction(journal: Journal, store: Store, note: Note, *, relaxed: bool = False) -> str | None:
    """Why they don't belong together, one being gone or an older copy; None: they do.

    Args:
        journal: as it was read.
        store: likewise.
        note: reads the store's; empty: it is no snapshot that was just installed.
        relaxed: the journal doesn't wait for the disk, and a power cut may have left it behind the store.
    """
    index, term = store.applied
    first = max(journal.first_index, journal.first_readable - 1)
    if max(index, 1) < first:  # entry 1 is the same in every log
        has = f"has nothing beyond entry {index}" if index else "is empty"
        return f"the store {has}, but the journal goes on only behind entry {first}"
    if not index or relaxed or journal.term_at(index) == term or note():
        return None
    if index > journal.last_index:
        return f"the journal ends at entry {journal.last_index}, but the store has entry {index}"
    return f"entry {index} is of term {journal.term_at(index)} in the journal, of term {term} in the store"


def follow(journal: Journal, store: Store, note: Note) -> bool:
    """Let the log go on behind a snapshot that was installed, if it doesn't yet.

    The members are those of the snapshot then. What the journal says is of a log that is gone, and
    may never have been committed.
    """
    index, term = store.applied
    if not index or journal.term_at(index) == term:
        return False
    journal.reset((index, term), store.previous, note() or None)
    return True
