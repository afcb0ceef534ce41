"""Checks that a journal and a store belong together, and continues the log after an installed snapshot.

The store is a checkpoint of the log, so its index lies within the log: not before its first entry and not
after its last. There is one exception: a snapshot that has just replaced the store is ahead of the log until
the journal is reset to it. Such a store has a note with the snapshot's membership
(`node.store.snapshot.install_note_of`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from node.units import Index, Term

Note: TypeAlias = Callable[[], bytes]


class Journal(Protocol):
    """The journal, as used here."""

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
    """The store, as used here."""

    @property
    def applied(self) -> tuple[Index, Term]: ...
    @property
    def previous(self) -> tuple[Index, Term]: ...


def contradiction(journal: Journal, store: Store, note: Note, *, relaxed: bool = False) -> str | None:
    """Return why journal and store don't belong together: one is missing or an older copy. None if they do.

    Args:
        journal: opened and read.
        store: opened.
        note: reads the store's note; empty if the store is not a just installed snapshot.
        relaxed: the journal doesn't wait for the disk, so a power failure may have left it behind the store.
    """
    index, term = store.applied
    first = max(journal.first_index, journal.first_readable - 1)
    if max(index, 1) < first:  # entry 1 is the same in every log
        has = f"has nothing beyond entry {index}" if index else "is empty"
        return f"the store {has}, but the journal starts after entry {first}"
    if not index or relaxed or journal.term_at(index) == term or note():
        return None
    if index > journal.last_index:
        return f"the journal ends at entry {journal.last_index}, but the store has entry {index}"
    return f"entry {index} is of term {journal.term_at(index)} in the journal, of term {term} in the store"


def follow(journal: Journal, store: Store, note: Note) -> bool:
    """Reset the log to an installed snapshot, if that has not been done. Returns True if it was done now.

    The membership then is that of the snapshot. The one in the journal belongs to a log that is dropped, and
    may never have been committed.
    """
    index, term = store.applied
    if not index or journal.term_at(index) == term:
        return False
    journal.reset((index, term), store.previous, note() or None)
    return True
