"""What ``apply`` asks of the shell, and who does it.

Every node computes the same effects from the same entry; each performs the part that concerns it.
Doing one twice does no harm, because after a crash or a snapshot twice may happen. They are
performed in the order of rule R2: payloads first, then replies to ClientOpen and SubscriptionOpen,
then deliveries, then all other replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from node.units import ChannelID, Generation, Seq, SubscriptionID


class Store(NamedTuple):
    """Keep messages of a channel: sequences ``first, first + 1, …``. Performed by every node."""

    channel: ChannelID
    name: str
    first: Seq
    timestamp_ns: int
    bodies: list[bytes]
    """Encoded MsgProto fields subject, reply and data of each message."""


class Drop(NamedTuple):
    """Forget a channel's messages up to and including ``up_to``. Performed by every node."""

    channel: ChannelID
    up_to: Seq


class DropChannel(NamedTuple):
    """Forget everything of a channel. Performed by every node."""

    channel: ChannelID


class Deliver(NamedTuple):
    """Send messages to a subscription. Performed where its client is connected.

    A sequence whose unacked record is gone or carries another entry index by the time it is
    turned into bytes is skipped (rule R3).
    """

    subscription: SubscriptionID
    seqs: Sequence[Seq]
    entry: int
    """Index of the entry that decided it."""


# --- outcomes: what an origin tells the client that asked -----------------------------------------


class Ok(NamedTuple):
    """Done, nothing to tell: a publish stored, a client closed, an ack applied."""


class Refused(NamedTuple):
    """Declined; ``text`` is the error on the wire."""

    text: str


class ClientOpened(NamedTuple):
    client_id: str


class Probing(NamedTuple):
    """The client ID is taken: ping ``inbox`` for 500 ms, then ClientReplace or ClientKeep (R17)."""

    client_id: str
    generation: Generation
    inbox: str


class SubscriptionOpened(NamedTuple):
    ack_inbox: str


class DurableTaken(NamedTuple):
    """The durable is online, with the ack inbox ``ack_inbox``, and was heard when ``apply`` looked last.

    Does nobody hear ``inbox`` now, a SubscriptionReplace follows; else it is refused as a duplicate.
    """

    ack_inbox: str
    inbox: str


Outcome: TypeAlias = Ok | Refused | ClientOpened | Probing | SubscriptionOpened | DurableTaken

OK = Ok()


@dataclass(slots=True)
class Replies:
    """Outcomes of one origin's serials ``first`` to ``last``. Performed by that origin only.

    A serial not in ``others`` had the outcome ``Ok``: publishes are many, so theirs are a range.
    """

    node: str
    session: tuple[int, int]
    first: int
    last: int
    others: dict[int, Outcome] = field(default_factory=dict)


class SessionOpened(NamedTuple):
    """The session of ``node`` is now ``session``; ``nonce`` tells the node whether it is its own."""

    node: str
    nonce: bytes
    session: tuple[int, int]


class Warn(NamedTuple):
    """Something an operator should read once, on every node."""

    text: str


class Returned(NamedTuple):
    """A leader has acted on the return of an inbox."""

    inbox: str
    node: str = ""
    epoch: int = 0
    """Where it is subscribed to; an empty name: machine version 1 does not say."""


@dataclass(slots=True)
class Effects:
    """Everything one entry asks for, in the order it is to be performed."""

    index: int
    warnings: list[Warn] = field(default_factory=list)
    sessions: list[SessionOpened] = field(default_factory=list)
    stored: list[Store] = field(default_factory=list)
    dropped: list[Drop | DropChannel] = field(default_factory=list)
    opened: list[Replies] = field(default_factory=list)
    """Replies to ClientOpen, ClientReplace, ClientKeep and SubscriptionOpen: before deliveries."""
    deliveries: list[Deliver] = field(default_factory=list)
    replies: list[Replies] = field(default_factory=list)
    began_term: int | None = None
    """A new term has begun: the commit index above which deliveries are dated anew (R10)."""
    returned: list[Returned] = field(default_factory=list)
    """Inboxes whose return has been acted on: no node needs to remember it any longer (R15)."""
