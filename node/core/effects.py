"""The effects that ``apply`` returns, and which node executes each.

Every node computes the same effects from the same entry and executes those that concern it. Executing an
effect twice is harmless; that can happen after a crash or a snapshot. Effects are executed in the order of
rule R2: payloads first, then replies to ClientOpen and SubscriptionOpen, then deliveries, then all other
replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from node.units import ChannelID, Generation, Seq, SubscriptionID


class Store(NamedTuple):
    """Store messages of a channel with sequences ``first, first + 1, …``. Executed by every node."""

    channel: ChannelID
    name: str
    first: Seq
    timestamp_ns: int
    bodies: list[bytes]
    """Encoded MsgProto fields subject, reply and data of each message."""


class Drop(NamedTuple):
    """Delete a channel's messages up to and including ``up_to``. Executed by every node."""

    channel: ChannelID
    up_to: Seq


class DropChannel(NamedTuple):
    """Delete a channel's data. Executed by every node."""

    channel: ChannelID


class Deliver(NamedTuple):
    """Send messages to a subscription. Executed by the node to which its client is connected.

    A sequence is skipped when the delivery is encoded if its unacked record is gone or names another entry
    (rule R3).
    """

    subscription: SubscriptionID
    seqs: Sequence[Seq]
    entry: int
    """Index of the entry that decided the delivery."""


# --- outcomes: the origin sends them to the client ------------------------------------------------


class Ok(NamedTuple):
    """Success without a result: a publish was stored, a client closed, an ack applied."""


class Refused(NamedTuple):
    """The request is refused; ``text`` is the error on the wire."""

    text: str


class ClientOpened(NamedTuple):
    client_id: str


class Probing(NamedTuple):
    """The client ID is taken: ping ``inbox`` for 500 ms, then propose ClientReplace or ClientKeep (R17)."""

    client_id: str
    generation: Generation
    inbox: str


class SubscriptionOpened(NamedTuple):
    ack_inbox: str


class DurableTaken(NamedTuple):
    """The durable is already online with ack inbox ``ack_inbox``, and ``apply`` last found it reachable.

    If ``inbox`` has no subscriber now, the origin proposes a SubscriptionReplace. Otherwise it refuses the
    request as a duplicate.
    """

    ack_inbox: str
    inbox: str


Outcome: TypeAlias = Ok | Refused | ClientOpened | Probing | SubscriptionOpened | DurableTaken

OK = Ok()


@dataclass(slots=True)
class Replies:
    """Outcomes of one origin's serials ``first`` to ``last``. Executed by that origin only.

    A serial that is not in ``others`` had the outcome ``Ok``. So the many publishes need one range only.
    """

    node: str
    session: tuple[int, int]
    first: int
    last: int
    others: dict[int, Outcome] = field(default_factory=dict)


class SessionOpened(NamedTuple):
    """The session of ``node`` is now ``session``. By ``nonce`` the node recognises a session of its own
    process.
    """

    node: str
    nonce: bytes
    session: tuple[int, int]


class Warn(NamedTuple):
    """A warning for the operator, logged once on every node."""

    text: str


class Returned(NamedTuple):
    """The leader's command about the return of an inbox is applied."""

    inbox: str
    node: str = ""
    epoch: int = 0
    """The connection that subscribes to the inbox. The name is empty in machine version 1."""


@dataclass(slots=True)
class Effects:
    """All effects of one entry, in the order in which they are executed."""

    index: int
    warnings: list[Warn] = field(default_factory=list)
    sessions: list[SessionOpened] = field(default_factory=list)
    stored: list[Store] = field(default_factory=list)
    dropped: list[Drop | DropChannel] = field(default_factory=list)
    opened: list[Replies] = field(default_factory=list)
    """Replies to ClientOpen, ClientReplace, ClientKeep and SubscriptionOpen; executed before deliveries."""
    deliveries: list[Deliver] = field(default_factory=list)
    replies: list[Replies] = field(default_factory=list)
    began_term: int | None = None
    """Set if a new term began: deliveries above this commit index get a new send time (R10)."""
    returned: list[Returned] = field(default_factory=list)
    """Inboxes whose return was applied: nodes need not report them any longer (R15)."""
