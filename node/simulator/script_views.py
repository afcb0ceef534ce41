"""The output of a script's ``show`` commands, and checks that apply to every script."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from node.core.state import Group, State, Subscription
from node.protocol.streaming import ConnectResponse, Message
from node.simulator.script_client import Consumer, Delivered, Event, ScriptedClient
from node.simulator.script_text import ranges


def is_shown(event: Event) -> bool:
    """Return True if the script prints this event."""
    return not (isinstance(event, Delivered) and event.consumer.quiet)


class Ledger:
    """All messages that any client received. Content never changes and timestamps don't go back (PUB-11).

    A repeated delivery to a subscription must have the redelivered flag.
    """

    def __init__(self) -> None:
        self._messages: dict[tuple[str, int], Message] = {}
        self._seen: set[tuple[int, int]] = set()

    def enter(self, events: Sequence[Event]) -> list[str]:
        """Record deliveries. Returns a line for each violation."""
        return [line for event in events if isinstance(event, Delivered) for line in self._enter(event)]

    def _enter(self, event: Delivered) -> Iterator[str]:
        message, handle = event.message, event.consumer.handle
        seq = message.seq
        bare = message._replace(redelivered=False, redelivery_count=0)
        if self._messages.setdefault((message.channel, seq), bare) != bare:
            yield f"!! {handle}: {message.channel} {seq} is not what it was"
        before = self._messages.get((message.channel, seq - 1))
        if before is not None and before.timestamp_ns > message.timestamp_ns:
            yield f"!! {handle}: {message.channel} {seq} is older than the one before it"
        key = (id(event.consumer), seq)
        if key in self._seen and not message.redelivered:
            yield f"!! {handle}: {seq} came again without its flag"
        self._seen.add(key)

    def forget(self, channel: str) -> None:
        """Forget a deleted channel: a new one with the same name may follow."""
        for key in [key for key in self._messages if key[0] == channel]:
            del self._messages[key]


def state(state: State, consumers: Iterable[Consumer]) -> Iterator[str]:
    """Yield clients, channels, subscriptions and their unacknowledged messages, by name."""
    handles = {consumer.inbox: consumer.handle for consumer in consumers}
    clients = [_client(name, state) for name in sorted(state.clients)]
    yield f"clients: {', '.join(clients) or 'none'}"
    for _, channel in sorted(state.channels.items()):
        yield f"{channel.name}: {_span(channel.log.first, channel.log.last)}"
        yield from sorted(f"  {_group(group, handles)}" for group in channel.groups.values())


def _client(name: str, state: State) -> str:
    client = state.clients[name]
    marks = [mark for mark in ("unreachable", "unresponsive") if getattr(client, mark)]
    return f"{name} ({', '.join(marks)})" if marks else name


def _span(first: int, last: int) -> str:
    return "empty" if not last else f"{first}..{last}" if first <= last else f"empty after {last}"


def _group(group: Group, handles: dict[str, str]) -> str:
    def holds(member: Subscription) -> str:
        unacked = ranges(sorted(member.unacked))
        return f"{handles.get(member.inbox, member.inbox)} holds {unacked}"

    if group.queue:
        name = f"queue {group.name}"
    elif group.durable:
        name = f"durable {group.durable} of {group.client_id}"
    else:
        name = "plain"
    members = group.members if group.shadow is None else [group.shadow]
    members_text = "; ".join(sorted(holds(member) for member in members))
    offline = "offline, " if group.shadow is not None else ""
    return f"{name}: sent up to {group.cursor}; {offline}{members_text}"


def channels(state: State) -> Iterator[str]:
    """Yield the name and the stored range of each channel."""
    for _, channel in sorted(state.channels.items()):
        yield f"{channel.name}: {_span(channel.log.first, channel.log.last)}"
    if not state.channels:
        yield "no channels"


def count(state: State) -> str:
    """Return the numbers of clients, channels and subscriptions."""
    online = sum(subscription.online for subscription in state.subscriptions.values())
    offline = len(state.subscriptions) - online
    return f"{len(state.clients)} clients, {len(state.channels)} channels, {online} online, {offline} offline"


def received(consumer: Consumer) -> str:
    """Return all sequences that a subscription received."""
    new = [message.seq for message in consumer.received if not message.redelivered]
    again = sorted({message.seq for message in consumer.received if message.redelivered})
    order = "in order" if new == sorted(set(new)) else "OUT OF ORDER OR TWICE"
    text = f"{consumer.handle}: {ranges(new)} new, {order}" if new else f"{consumer.handle}: nothing new"
    return f"{text}; {ranges(again)} again"


def complete(consumer: Consumer, state: State) -> str:
    """Return whether a subscription got its whole channel, in order, with flags on all redeliveries."""
    new = [message.seq for message in consumer.received if not message.redelivered]
    seen = {message.seq for message in consumer.received}
    missing = set(range(1, state.channels[consumer.channel].log.last + 1)) - seen
    if missing:
        return f"{consumer.handle}: NEVER GOT {ranges(sorted(missing))}"
    if new != sorted(set(new)):
        return f"{consumer.handle}: OUT OF ORDER OR TWICE"
    return f"{consumer.handle}: everything, in order, nothing twice without its flag"


def published(client: ScriptedClient) -> str:
    """Return how many publishes of a client were acknowledged."""
    stored = sum(client.guids.values())
    return f"{client.name}: {len(client.guids)} published, {stored} stored"


def message(consumer: Consumer, seq: int, now_ns: int) -> str:
    """Return all fields of a message, as received last."""
    found = next((message for message in reversed(consumer.received) if message.seq == seq), None)
    if found is None:
        return f"{consumer.handle} never got {seq}"
    age_s = (now_ns - found.timestamp_ns) / 1e9
    age = "less than 1 s old" if 0 <= age_s < 1 else f"{age_s:.0f} s old"
    text = found.data.decode(errors="backslashreplace")
    again = f"redelivered, count {found.redelivery_count}" if found.redelivered else "not redelivered"
    reply = f'reply "{found.reply}"' if found.reply else "no reply subject"
    return f'{seq} of {found.channel}: "{text}", {reply}, {age}, {again}'


def response(answer: ConnectResponse) -> Iterator[str]:
    """Yield every field that is set in a connect response."""
    for name, value in answer._asdict().items():
        if value:
            yield f"  {name}: {value}"
