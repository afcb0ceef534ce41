"""What was promised leaves in order, when it is true."""

from __future__ import annotations

from node.raft.promises import Promises
from node.simulator.journal import MemoryJournal, Tape


def test_promises_leave_in_order_when_durable() -> None:
    journal = MemoryJournal(Tape())
    promises = Promises(journal)
    left: list[str] = []
    promises.send("b", lambda: left.append("at once"))
    journal.append(1, 0, b"\x00")
    promises.send("b", lambda: left.append("first"))
    flush = journal.begin_flush()
    journal.append(2, 1, b"\x00")
    promises.send("c", lambda: left.append("second"))
    assert left == ["at once"]
    flush.run()
    journal.end_flush(flush)
    promises.release()
    assert left == ["at once", "first"]
    journal.flush()
    promises.send("b", lambda: left.append("third"))  # no overtaking
    assert left == ["at once", "first"]
    promises.release()
    assert left == ["at once", "first", "second", "third"]
    assert len(promises) == 0


def test_lost_connections_promises_are_forgotten() -> None:
    journal = MemoryJournal(Tape())
    promises = Promises(journal)
    left: list[str] = []
    journal.append(1, 0, b"\x00")
    promises.send("b", lambda: left.append("b"))
    promises.send("c", lambda: left.append("c"))
    promises.forget("b")
    journal.flush()
    promises.release()
    assert left == ["c"]
