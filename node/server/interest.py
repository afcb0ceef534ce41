"""Which subjects each node's clients listen on, told by every node to every other.

An *item* is ``(subject, queue, count, epoch)``: a pattern, the queue group or nothing, how many
subscriptions the node has on it, and the epoch of the newest connection that *hears* it, 0 if none
does. Announced services of the node itself count but don't hear; nor does a connection that is stuck
(rule R3). ``count`` is what routing goes by, ``epoch`` what the keeper goes by (rule R15): an inbox
whose epoch changed has moved to another connection.

On link-up each node sends its whole interest, then numbered changes. Frames, plain values::

    ["whole", n, is_last, [item, …]]   n = 0, 1, 2 …: everything, in parts
    ["change", n, [item, …]]           n goes on; with count 0 the item is gone
    ["mark", n]                        the number the next frame will have, sent now and then
    ["again"]                          frames were missed: send the whole again

A receiver that meets a number it didn't expect asks for the whole again and ignores changes until
it comes; meanwhile the old table holds. ``mark`` finds a lost frame that nothing follows.

Plain objects without I/O. Nothing is assumed of a link but that frames come in order; they may be
lost, and a send may find the link broken and say so, by ``peer_down``, before it returns. What is
malformed is `RemoteProtocolError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from node.errors import RemoteProtocolError
from node.protocol.peer import shown
from node.protocol.subjects import valid_subject

ITEMS_MAX = 2000
"""Items in one frame: interest of any size goes in parts of some 100 KiB."""

ITEM_BYTES_MAX = 1024 * 1024
"""Bytes of the patterns in one frame, for those who set ``max_control_line`` high."""

Key: TypeAlias = tuple[bytes, bytes]
"""(subject pattern, queue group or empty)."""


class InterestChange(NamedTuple):
    """Who hears ``subject`` on a node has changed.

    ``before`` and ``now`` are connection epochs: 0 before means it is new, 0 now that it is gone, and
    otherwise it has moved to another connection.
    """

    subject: bytes
    queue: bytes
    before: int
    now: int


class _Own:
    """One item of this node's own interest."""

    __slots__ = ("deaf", "epochs", "told")

    def __init__(self) -> None:
        self.epochs: dict[int, int] = {}
        """Subscriptions of each connection by its epoch; who came last is last."""
        self.deaf = 0
        """Subscriptions that count but don't hear: announced services."""
        self.told = (0, 0)
        """Count and epoch as last told to others."""


class OwnInterest:
    """What this node's clients and announced services listen on, and what of it changed lately."""

    def __init__(self) -> None:
        self._items: dict[Key, _Own] = {}
        self._dirty: dict[Key, None] = {}
        self._stuck: set[int] = set()

    @property
    def is_dirty(self) -> bool:
        return bool(self._dirty)

    def add(self, key: Key, epoch: int) -> None:
        """One more subscription. ``epoch`` 0: of a service."""
        own = self._items.get(key)
        if own is None:
            own = self._items[key] = _Own()
        if epoch:
            own.epochs[epoch] = own.epochs.get(epoch, 0) + 1
        else:
            own.deaf += 1
        self._dirty[key] = None

    def remove(self, key: Key, epoch: int) -> None:
        """One less.

        Raises:
            KeyError: there is none.
        """
        own = self._items[key]
        if not epoch:
            own.deaf -= 1
        elif own.epochs[epoch] == 1:
            del own.epochs[epoch]
        else:
            own.epochs[epoch] -= 1
        self._dirty[key] = None

    def set_stuck(self, epoch: int, keys: Iterable[Key], stuck: bool) -> None:
        """The connection ``epoch``, which has subscribed to ``keys``, hears them no longer, or again."""
        if stuck:
            self._stuck.add(epoch)
        else:
            self._stuck.discard(epoch)
        self._dirty.update(dict.fromkeys(keys))

    def epoch(self, key: Key) -> int:
        """The newest connection that hears ``key`` now; 0 if none does."""
        own = self._items.get(key)
        return 0 if own is None else self._epoch(own)

    def _epoch(self, own: _Own) -> int:
        return next((epoch for epoch in reversed(own.epochs) if epoch not in self._stuck), 0)

    def take_changes(self) -> tuple[list[list[Any]], list[InterestChange]]:
        """What changed since the last call: items to tell, and who hears what now."""
        items: list[list[Any]] = []
        changes: list[InterestChange] = []
        for key in self._dirty:
            own = self._items.get(key)
            if own is None:
                continue
            now = (own.deaf + sum(own.epochs.values()), self._epoch(own))
            if now != own.told:
                items.append([*key, *now])
                if now[1] != own.told[1]:
                    changes.append(InterestChange(*key, own.told[1], now[1]))
                own.told = now
            if not now[0]:
                del self._items[key]
        self._dirty.clear()
        return items, changes

    def whole(self) -> list[list[Any]]:
        """Everything as last told."""
        return [[*key, *own.told] for key, own in self._items.items() if own.told[0]]


class Remote:
    """One item of another node's interest. ``count`` and ``epoch`` change in place."""

    __slots__ = ("count", "epoch", "peer", "queue", "subject")

    def __init__(self, peer: str, subject: bytes, queue: bytes, count: int, epoch: int) -> None:
        self.peer = peer
        self.subject = subject
        self.queue = queue
        self.count = count
        self.epoch = epoch


class _Peer:
    """The conversation with one other node."""

    __slots__ = ("expected", "items", "sent", "staged")

    def __init__(self) -> None:
        self.sent = 0
        """The number of the next frame to it."""
        self.expected: int | None = None
        """The number of its next frame; ``None`` while its whole interest is awaited."""
        self.staged: list[tuple[Key, int, int]] | None = None
        """Parts of its whole interest, until the last is there."""
        self.items: dict[Key, Remote] = {}


class Exchange:
    """Tells this node's interest to the others, and keeps theirs.

    Args:
        node: this node's name.
        send: puts a frame on the link to a peer; it may get lost, not overtake another.
        came, went: told each item of another node as it comes and goes.
        changed: told who hears what: the node, and its changes. This node's own are told too.
    """

    def __init__(
        self,
        node: str,
        *,
        send: Callable[[str, Any], None],
        came: Callable[[Remote], None],
        went: Callable[[Remote], None],
        changed: Callable[[str, list[InterestChange]], None],
    ) -> None:
        self.own = OwnInterest()
        self._node = node
        self._send = send
        self._came = came
        self._went = went
        self._changed = changed
        self._peers: dict[str, _Peer] = {}

    def complete(self, peer: str) -> bool:
        """``peer`` is connected, has sent its whole interest, and no change since is known to be lost."""
        state = self._peers.get(peer)
        return state is not None and state.expected is not None and state.staged is None

    def size(self, peer: str) -> int:
        """The number of items known of ``peer``."""
        state = self._peers.get(peer)
        return 0 if state is None else len(state.items)

    def items(self, peer: str) -> list[Key]:
        """What ``peer`` is interested in."""
        state = self._peers.get(peer)
        return [] if state is None else list(state.items)

    def peer_up(self, peer: str) -> None:
        """The link to ``peer`` is there, new or anew: nothing sent on an earlier one comes any more."""
        state = self._peers.setdefault(peer, _Peer())
        state.expected = state.staged = None
        self.flush()
        self._send_whole(peer, state)

    def peer_down(self, peer: str) -> None:
        """The link is gone, and with it all that ``peer`` would hear."""
        state = self._peers.pop(peer, None)
        if state is None:
            return
        for remote in state.items.values():
            self._went(remote)
        self._tell(peer, [InterestChange(*key, r.epoch, 0) for key, r in state.items.items() if r.epoch])

    def flush(self) -> None:
        """Tell what changed on this node. Many changes of one read buffer are one frame."""
        if not self.own.is_dirty:
            return
        items, changes = self.own.take_changes()
        for part in _parts(items):
            for peer, state in list(self._peers.items()):
                number = state.sent
                state.sent += 1
                self._send(peer, ["change", number, part])
        self._tell(self._node, changes)

    def tick(self) -> None:
        """Once a second or so: lets the others notice what they missed."""
        for peer, state in list(self._peers.items()):
            self._send(peer, ["mark", state.sent])

    def received(self, peer: str, frame: Sequence[Any]) -> None:
        """A frame of this exchange came from ``peer``.

        Raises:
            RemoteProtocolError: it is malformed.
        """
        state = self._peers.get(peer)
        if state is None:
            return  # the link has gone since
        match frame:
            case ["whole", int(number), bool(is_last), [*items]]:
                self._received_whole(peer, state, number, is_last, items)
            case ["change", int(number), [*items]]:
                self._received_change(peer, state, number, items)
            case ["mark", int(number)]:
                if number != state.expected:
                    self._ask_again(peer, state)
            case ["again"]:
                self._send_whole(peer, state)
            case _:
                raise RemoteProtocolError(f"{peer}: not a frame of the interest exchange")

    def _send_whole(self, peer: str, state: _Peer) -> None:
        parts = list(_parts(self.own.whole())) or [[]]
        state.sent = len(parts)
        for number, part in enumerate(parts):
            self._send(peer, ["whole", number, number == len(parts) - 1, part])

    def _ask_again(self, peer: str, state: _Peer) -> None:
        state.expected = state.staged = None
        self._send(peer, ["again"])

    def _received_whole(self, peer: str, state: _Peer, number: int, is_last: bool, items: list[Any]) -> None:
        if number == 0:
            state.staged = []
        elif state.staged is None or number != state.expected:
            if state.expected is not None:
                self._ask_again(peer, state)
            return
        assert state.staged is not None
        state.staged += _parsed(peer, items)
        state.expected = number + 1
        if is_last:
            staged, state.staged = state.staged, None
            present = {key for key, _, _ in staged}
            gone = [(key, 0, 0) for key in state.items if key not in present]
            self._take(peer, state, gone + staged)

    def _received_change(self, peer: str, state: _Peer, number: int, items: list[Any]) -> None:
        changes = _parsed(peer, items)
        if state.expected is None:
            return  # the whole was asked for; it will hold these changes
        if number != state.expected or state.staged is not None:
            self._ask_again(peer, state)
            return
        state.expected += 1
        self._take(peer, state, changes)

    def _take(self, peer: str, state: _Peer, items: list[tuple[Key, int, int]]) -> None:
        changes: list[InterestChange] = []
        for key, count, epoch in items:
            remote = state.items.get(key)
            before = 0 if remote is None else remote.epoch
            if not count:
                if remote is not None:
                    del state.items[key]
                    self._went(remote)
            elif remote is None:
                remote = state.items[key] = Remote(peer, *key, count, epoch)
                self._came(remote)
            else:
                remote.count, remote.epoch = count, epoch
            if before != epoch:
                changes.append(InterestChange(*key, before, epoch))
        self._tell(peer, changes)

    def _tell(self, node: str, changes: list[InterestChange]) -> None:
        if changes:
            self._changed(node, changes)


def _parts(items: list[list[Any]]) -> Iterator[list[list[Any]]]:
    part: list[list[Any]] = []
    size = 0
    for item in items:
        part.append(item)
        size += len(item[0]) + len(item[1])
        if len(part) == ITEMS_MAX or size >= ITEM_BYTES_MAX:
            yield part
            part, size = [], 0
    if part:
        yield part


def _parsed(peer: str, items: list[Any]) -> list[tuple[Key, int, int]]:
    parsed: list[tuple[Key, int, int]] = []
    for item in items:
        match item:
            case [bytes(subject), bytes(queue), int(count), int(epoch)] if (
                count >= 0 and epoch >= 0 and (count or not epoch) and valid_subject(subject)
            ):
                parsed.append(((subject, queue), count, epoch))
            case _:
                raise RemoteProtocolError(f"{peer}: not an item of interest: {shown(item)}")
    return parsed
