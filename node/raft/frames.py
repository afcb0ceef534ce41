"""The frames of the Raft engine: their fields, how they are written and how they are read.

Every frame carries the term of its sender, so an answer that was meant for an earlier leadership
is recognised as such (the library's own acknowledgements carry none: PS-5). Whatever comes in,
`RemoteProtocolError` is the only error: a frame is checked here once, completely, and the rest of
the engine trusts it.
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
"""Terms take the 64 bits that the journal has for them; see `node.raft.terms`."""


class Append(NamedTuple):
    """Entries that follow ``prev``; without entries a heartbeat or news of a commit."""

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
    """A leader's heartbeat to a peer whose place in the log it can't name: that peer needs a snapshot.

    ``commit`` is told for the peer's information; it moves nothing there (PS-2).
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
    """An append whose ``prev`` was ``refused`` doesn't fit; ``next`` is where to try."""

    term: int
    refused: int
    next: int
    heartbeat_payload: Any = None

    def encode(self) -> Message:
        return {"type": "refusal", "term": self.term, "refused": self.refused, "next": self.next} | {
            "x": self.heartbeat_payload
        }


class Stale(NamedTuple):
    """The answer to a leader or candidate of an earlier term: there is a later one (PS-25)."""

    term: int

    def encode(self) -> Message:
        return {"type": "stale", "term": self.term}


class VoteRequest(NamedTuple):
    term: int
    last_index: int
    last_term: int
    transfer: bool
    """The leader asked for this election: stickiness doesn't protect it."""

    def encode(self) -> Message:
        return {"type": "vote", "term": self.term, "transfer": self.transfer} | {
            "last_index": self.last_index,
            "last_term": self.last_term,
        }


class Vote(NamedTuple):
    """The sender's vote, given in ``term`` to the receiver."""

    term: int
    heartbeat_payload: Any = None

    def encode(self) -> Message:
        return {"type": "voted", "term": self.term, "x": self.heartbeat_payload}


class PreVoteRequest(NamedTuple):
    """Would you vote for me in ``term``? Nothing is promised and nothing changes."""

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
    """The leader asks the receiver to campaign now."""

    term: int

    def encode(self) -> Message:
        return {"type": "takeover", "term": self.term}


Answer: TypeAlias = Ack | Refusal | Vote | PreVote
"""What carries a follower's note."""

Frame: TypeAlias = Append | Alive | Stale | VoteRequest | PreVoteRequest | TimeoutNow | Answer


def parse(message: Message) -> Frame:
    """Check a message of a peer and give it its type.

    Raises:
        RemoteProtocolError: a field is missing, has the wrong type or can't be.
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
    """One message's fields, each checked when it is asked for."""

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
                # PS-12: the library would put a hole into its log.
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
