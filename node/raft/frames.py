"""The frames of the Raft engine: fields, encoding and validation.

Every frame carries its sender's term, so an answer to an earlier leadership is recognised (the library's own
acks carry no term: PS-5). `RemoteProtocolError` is the only error that malformed input raises: a frame is
validated here once, completely, and the rest of the engine trusts it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from node.errors import RemoteProtocolError
from node.protocol.peer import shown
from node.raft.membership import Membership
from node.raft.ports import Entry, EntryType, Message
from node.units import Index, Term

_LIMIT = 1 << 63
_TERM_LIMIT = 1 << 64
"""Terms have 64 bits, as in the journal; see `node.raft.terms`."""


class Append(NamedTuple):
    """Entries that follow ``prev``; without entries a heartbeat or a new commit index."""

    term: int
    prev: int
    prev_term: int
    commit: int
    entries: list[Entry]
    ask: bool
    """Whether the sender wants an ack. A refusal is always sent."""
    heartbeat_payload: Any

    def encode(self) -> Message:
        return {"type": "append", "x": self.heartbeat_payload} | {
            "term": self.term,
            "prev": self.prev,
            "prev_term": self.prev_term,
            "commit": self.commit,
            "entries": self.entries,
            "ask": self.ask,
        }


class Alive(NamedTuple):
    """A leader's heartbeat to a peer that needs a snapshot, so that the leader can't name an entry of its
    log.

    ``commit`` is informational; the receiver does not advance its commit index by it (PS-2).
    """

    term: int
    commit: int
    heartbeat_payload: Any

    def encode(self) -> Message:
        return {"type": "alive", "term": self.term, "commit": self.commit, "x": self.heartbeat_payload}


class Ack(NamedTuple):
    """Everything up to ``match`` is durable at the sender and equal to the leader's log."""

    term: int
    match: int
    heartbeat_payload: Any = None

    def encode(self) -> Message:
        return {"type": "ack", "term": self.term, "match": self.match, "x": self.heartbeat_payload}


class Refusal(NamedTuple):
    """The append after entry ``refused`` does not match the sender's log; ``next`` is the entry to try."""

    term: int
    refused: int
    next: int
    heartbeat_payload: Any = None

    def encode(self) -> Message:
        return {"type": "refusal", "term": self.term, "refused": self.refused, "next": self.next} | {
            "x": self.heartbeat_payload
        }


class Stale(NamedTuple):
    """The answer to a leader or candidate of an earlier term; ``term`` is the later one (PS-25)."""

    term: int

    def encode(self) -> Message:
        return {"type": "stale", "term": self.term}


class VoteRequest(NamedTuple):
    term: int
    last_index: int
    last_term: int
    transfer: bool
    """The leader asked for this election, so stickiness does not apply."""

    def encode(self) -> Message:
        return {"type": "vote", "term": self.term, "transfer": self.transfer} | {
            "last_index": self.last_index,
            "last_term": self.last_term,
        }


class Vote(NamedTuple):
    """The sender's vote for the receiver in ``term``."""

    term: int
    heartbeat_payload: Any = None

    def encode(self) -> Message:
        return {"type": "voted", "term": self.term, "x": self.heartbeat_payload}


class PreVoteRequest(NamedTuple):
    """Asks whether the receiver would vote for the sender in ``term``. It changes no state."""

    term: int
    last_index: int
    last_term: int

    def encode(self) -> Message:
        return {"type": "prevote", "term": self.term} | {
            "last_index": self.last_index,
            "last_term": self.last_term,
        }


class PreVote(NamedTuple):
    """The answer to a pre-vote request for ``term``; ``current`` is the sender's own term."""

    term: int
    granted: bool
    current: int
    heartbeat_payload: Any = None

    def encode(self) -> Message:
        return {"type": "prevoted", "term": self.term, "granted": self.granted} | {
            "current": self.current,
            "x": self.heartbeat_payload,
        }


class TimeoutNow(NamedTuple):
    """The leader asks the receiver to campaign now. Source: Raft thesis, 3.10."""

    term: int

    def encode(self) -> Message:
        return {"type": "takeover", "term": self.term}


Answer: TypeAlias = Ack | Refusal | Vote | PreVote
"""Frames that carry the follower's heartbeat payload."""

Frame: TypeAlias = Append | Alive | Stale | VoteRequest | PreVoteRequest | TimeoutNow | Answer


def parse(message: Message) -> Frame:
    """Validate a message of a peer and return its typed frame.

    Raises:
        RemoteProtocolError: a field is missing, has the wrong type or an impossible value.
    """
    fields = _Fields(message)
    match message.get("type"):
        case "append":
            return _parse_append(fields)
        case "alive":
            return Alive(fields.term(), fields.number("commit"), fields.heartbeat_payload())
        case "ack":
            return Ack(fields.term(), fields.number("match"), fields.heartbeat_payload())
        case "refusal":
            return Refusal(
                fields.term(), fields.number("refused"), fields.number("next"), fields.heartbeat_payload()
            )
        case "stale":
            return Stale(fields.term())
        case "vote":
            return VoteRequest(
                fields.term(),
                fields.number("last_index"),
                fields.term("last_term"),
                fields.flag("transfer"),
            )
        case "voted":
            return Vote(fields.term(), fields.heartbeat_payload())
        case "prevote":
            return PreVoteRequest(fields.term(), fields.number("last_index"), fields.term("last_term"))
        case "prevoted":
            return PreVote(
                fields.term(), fields.flag("granted"), fields.term("current"), fields.heartbeat_payload()
            )
        case "takeover":
            return TimeoutNow(fields.term())
        case unknown:
            raise RemoteProtocolError(f"raft frame of unknown type {shown(unknown)}")


class _Fields:
    """The fields of one message, each validated on access."""

    __slots__ = ("_message",)

    def __init__(self, message: Message) -> None:
        self._message = message

    def number(self, key: str, limit: int = _LIMIT) -> int:
        value = self._message.get(key)
        if type(value) is not int or not 0 <= value < limit:
            raise RemoteProtocolError(f"raft frame: {key} is {shown(value)}, expected a number")
        return value

    def term(self, key: str = "term") -> int:
        return self.number(key, _TERM_LIMIT)

    def flag(self, key: str) -> bool:
        value = self._message.get(key)
        if type(value) is not bool:
            raise RemoteProtocolError(f"raft frame: {key} is {shown(value)}, expected true or false")
        return value

    def heartbeat_payload(self) -> Any:
        return self._message.get("x")

    def items(self, key: str) -> list[Any] | tuple[Any, ...]:
        value = self._message.get(key)
        if not isinstance(value, list | tuple):
            raise RemoteProtocolError(f"raft frame: {key} is {shown(value)}, expected a list")
        return value


def _parse_append(fields: _Fields) -> Append:
    term, prev, prev_term = fields.term(), fields.number("prev"), fields.term("prev_term")
    if prev < 1 or prev_term > term:
        raise RemoteProtocolError(f"append of term {term} after entry {prev} of term {prev_term}")
    entries: list[Entry] = []
    index, entry_term = prev, prev_term
    for item in fields.items("entries"):
        match item:
            case [int(at), int(of), bytes(payload)] if (
                at == index + 1 and entry_term <= of <= term and payload
            ):
                if payload[0] == EntryType.MEMBERSHIP:
                    Membership.decode(payload[1:])
                index, entry_term = at, of
                entries.append((Index(at), Term(of), payload))
            case _:
                # PS-12: the library would leave a gap in its log.
                raise RemoteProtocolError(f"append of term {term}: {shown(item)} can't follow entry {index}")
    return Append(
        term,
        prev,
        prev_term,
        fields.number("commit"),
        entries,
        fields.flag("ask"),
        fields.heartbeat_payload(),
    )
