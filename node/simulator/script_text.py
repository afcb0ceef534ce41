"""The text of a script: blocks of commands, each followed by its output.

A file reads like this::

    # A comment: the subject of the script, and the rules that it covers.

    subscribe a foo as s
    publish a foo 2
    ----
    s: subscribed
    s: 1, 2
    a: 2 stored

Blocks are separated by empty lines. Lines that begin with ``#`` are comments, and are kept when the output is
rewritten. `output_lines` converts the events of clients to lines of output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from node.protocol.streaming import Message
from node.simulator.script_client import Delivered, Event, Remark, Stored

RULE = "----"


@dataclass(slots=True)
class Block:
    """Some commands. ``line`` is the number of the first line, for error messages."""

    line: int
    lines: list[str] = field(default_factory=list)
    """Commands and comments."""
    outcome: list[str] | None = None
    """None: the block is a comment."""

    @property
    def commands(self) -> list[str]:
        return [line for line in self.lines if line and not line.startswith("#")]


def parse(text: str) -> list[Block]:
    """Return the blocks of a script."""
    blocks: list[Block] = []
    block: Block | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            block = None
            continue
        if block is None:
            block = Block(number)
            blocks.append(block)
        if line == RULE:
            block.outcome = []
        elif block.outcome is None:
            block.lines.append(line)
        else:
            block.outcome.append(line)
    return blocks


def unparse(blocks: Iterable[Block]) -> str:
    """Return the text of a script; ``parse`` reads it back."""
    texts = []
    for block in blocks:
        lines = list(block.lines)
        if block.commands:
            lines += [RULE, *(block.outcome or [])]
        texts.append("\n".join(lines) + "\n")
    return "\n".join(texts)


# --- events of clients ------------------------------------------------------------------------------


def output_lines(events: Sequence[Event], clients: Sequence[str], clock_s: float | None) -> list[str]:
    """Return events as lines: by time (in steps of 0.1 s, if there is a clock), then by client, in order.

    Events of several clients at the same time are grouped by client, because the order between clients
    depends only on the simulated network.
    """

    def moment(event: Event) -> int:
        return 0 if clock_s is None else int((event.at_s - clock_s) * 10 + 1e-6)

    def place(event: Event) -> tuple[int, int]:
        return moment(event), clients.index(event.client)

    lines = []
    for (tenths, _), seen in groupby(sorted(events, key=place), place):
        stamp = "" if clock_s is None else f"{tenths / 10:6.1f}  "
        lines += [stamp + line for line in _lines(seen)]
    return lines


def _lines(events: Iterable[Event]) -> Iterator[str]:
    """Yield the lines for events of one client at one time; consecutive events of a kind share a line."""
    for (kind, subject), group in groupby(events, _kind):
        some = list(group)
        if kind == "delivered":
            deliveries = [event for event in some if isinstance(event, Delivered)]
            with_data = deliveries[0].consumer.data
            yield f"{subject}: {sequences([event.message for event in deliveries], with_data=with_data)}"
        elif kind == "stored":
            yield f"{subject}: {len(some)} stored"
        else:
            for text, same in groupby(event.text for event in some if isinstance(event, Remark)):
                times = len(list(same))
                yield f"{subject}: {text}" + (f" ({times} times)" if times > 1 else "")


def _kind(event: Event) -> tuple[str, str]:
    match event:
        case Delivered():
            return "delivered", event.consumer.handle
        case Stored():
            return "stored", event.client
        case Remark():
            return "remark", event.subject


def sequences(messages: Sequence[Message], *, with_data: bool = False) -> str:
    """Return ``1, 2, 5..9, 3 (again 1)``: in the order of arrival; 3 was redelivered for the first time."""
    if with_data:
        return ", ".join(
            f'{message.seq}{_mark(message)} "{message.data.decode(errors="backslashreplace")}"'
            for message in messages
        )
    return ", ".join(_runs([(message.seq, _mark(message)) for message in messages]))


def _mark(message: Message) -> str:
    if message.redelivered:
        return f" (again {message.redelivery_count})"
    return f" (count {message.redelivery_count} without flag)" if message.redelivery_count else ""


def ranges(seqs: Iterable[int]) -> str:
    """Return ``1, 2, 5..9``; ``nothing`` if there are none."""
    return ", ".join(_runs([(seq, "") for seq in seqs])) or "nothing"


def _runs(marked: Sequence[tuple[int, str]]) -> Iterator[str]:
    """Join three or more consecutive sequences with the same mark to a range."""
    start = 0
    for end in range(1, len(marked) + 1):
        if end < len(marked) and marked[end] == (marked[end - 1][0] + 1, marked[start][1]):
            continue
        first, mark = marked[start]
        if end - start > 2:
            yield f"{first}..{marked[end - 1][0]}{mark}"
        else:
            yield from (f"{seq}{mark}" for seq, mark in marked[start:end])
        start = end
