"""Messages that wait for the disk are sent in order, when they are durable."""

from __future__ import annotations

from node.raft.durable_outbox import DurableOutbox
from node.raft.frames import Ack, VoteRequest
from node.raft.ports import Message
from node.simulator.journal import MemoryJournal, Tape


class Desk:
    def __init__(self) -> None:
        self.journal = MemoryJournal(Tape())
        self.left: list[tuple[str, Message]] = []
        self.payload = 0
        self.durable_outbox = DurableOutbox(
            self.journal,
            send=lambda peer, message: self.left.append((peer, message)),
            heartbeat_payload=lambda: self.payload,
        )

    def matches(self) -> list[int]:
        return [message["match"] for _, message in self.left]


def test_promises_leave_in_order_when_durable() -> None:
    desk = Desk()
    desk.durable_outbox.send("b", Ack(1, 0))
    desk.journal.append(1, 0, b"\x00")
    desk.durable_outbox.send("b", Ack(1, 1))
    flush = desk.journal.begin_flush()
    desk.journal.append(2, 1, b"\x00")
    desk.durable_outbox.send("c", Ack(1, 2))
    assert desk.matches() == [0]
    flush.run()
    desk.journal.end_flush(flush)
    desk.durable_outbox.release()
    assert desk.matches() == [0, 1]
    desk.journal.flush()
    desk.durable_outbox.send("b", Ack(1, 3))  # no overtaking
    assert desk.matches() == [0, 1]
    desk.durable_outbox.release()
    assert desk.matches() == [0, 1, 2, 3]
    assert len(desk.durable_outbox) == 0


def test_notes_are_those_of_the_moment_they_leave() -> None:
    desk = Desk()
    desk.journal.append(1, 0, b"\x00")
    desk.durable_outbox.send("b", Ack(1, 1))
    desk.durable_outbox.send("b", VoteRequest(1, 1, 0, transfer=False))
    desk.payload = 7
    desk.journal.flush()
    desk.durable_outbox.release()
    assert desk.left[0][1]["x"] == 7
    assert "x" not in desk.left[1][1]


def test_lost_connections_promises_are_forgotten() -> None:
    desk = Desk()
    desk.journal.append(1, 0, b"\x00")
    desk.durable_outbox.send("b", Ack(1, 1))
    desk.durable_outbox.send("c", Ack(1, 1))
    desk.durable_outbox.forget("b")
    desk.journal.flush()
    desk.durable_outbox.release()
    assert [peer for peer, _ in desk.left] == ["c"]
