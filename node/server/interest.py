"""Exchange subject interest: every node sends every other node the subjects its clients subscribe to.

An *item* is ``(subject, queue, count, epoch)``: a pattern, the queue group or empty, the number of the node's
subscriptions to it, and the epoch of the newest connection that *receives* it, 0 if none does. Services that
the node itself announces count but don't receive; nor does a stuck connection (rule R3). Routing uses
``count``. The leader duties use ``epoch`` (rule R15): an inbox whose epoch has changed has moved to another
connection.

When a link comes up, each node sends its whole interest, then numbered changes. The frames are plain values::

    ["whole", n, is_last, [item, …]]   n = 0, 1, 2 …: the whole interest, in parts
    ["change", n, [item, …]]           n goes on; with count 0 the item is removed
    ["mark", n]                        the number of the next frame, sent about once a second
    ["again"]                          frames were lost: send the whole interest again

If a frame has an unexpected number, the receiver requests the whole interest again and ignores changes until
it arrives. Until then the old table stays in use. ``mark`` reveals a lost frame that no other frame follows.

*Steps.* A client may have a hundred thousand subscriptions. So interest is sent in small parts, each when the
link has capacity for it (``work``). Changes made while the whole interest is being sent go ahead of its rest,
as parts of it. Items that can't be sent yet are kept by key: there are never more than there are keys, and
the newest state is sent. The receiver applies each part on arrival. After the last part it removes the items
that the whole interest didn't contain. If the link breaks, the node's items no longer count, and are removed
in steps.

Plain objects without I/O. Links deliver frames in order but may lose them. A send may find that the link is
broken, and then calls ``peer_down`` before it returns. Malformed frames raise `RemoteProtocolError`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from node.errors import RemoteProtocolError
from node.protocol.peer import shown
from node.protocol.subjects import valid_subject
from node.server.steps import STEP, ends

ITEMS_MAX = 250
"""Maximum items in one frame. Receiving a frame is a step of some milliseconds."""

ITEM_BYTES_MAX = 128 * 1024
"""Bytes of patterns after which a frame is full; the last item may exceed them. It matters if
``max_control_line`` is large."""

PARTS_MAX = 4
"""Maximum parts sent to one node in one step."""

CAPACITY_POLL_S = 0.02
"""Interval at which a link without capacity is checked again."""

Key: TypeAlias = tuple[bytes, bytes]
"""(subject pattern, queue group or empty)."""


class InterestChange(NamedTuple):
    """A change of the connection that receives ``subject`` on a node.

    ``before`` and ``now`` are connection epochs. If ``before`` is 0 the interest is new; if ``now`` is 0 it
    has ended; otherwise it has moved to another connection.
    """

    subject: bytes
    queue: bytes
    before: int
    now: int


class _Own:
    """One item of this node's own interest."""

    __slots__ = ("epochs", "sent", "services")

    def __init__(self) -> None:
        self.epochs: dict[int, int] = {}
        """Number of subscriptions by connection epoch; the newest connection is last."""
        self.services = 0
        """Number of announced services, which count but don't receive."""
        self.sent = (0, 0)
        """Count and epoch as last sent to other nodes."""


class OwnInterest:
    """The interest of this node's clients and announced services, and its recent changes."""

    def __init__(self) -> None:
        self._items: dict[Key, _Own] = {}
        self._dirty: dict[Key, None] = {}
        self._stuck: set[int] = set()

    @property
    def is_dirty(self) -> bool:
        return bool(self._dirty)

    def add(self, key: Key, epoch: int) -> None:
        """Add a subscription of the connection ``epoch``, or of a service if 0."""
        own = self._items.get(key)
        if own is None:
            own = self._items[key] = _Own()
        if epoch:
            own.epochs[epoch] = own.epochs.get(epoch, 0) + 1
        else:
            own.services += 1
        self._dirty[key] = None

    def remove(self, key: Key, epoch: int) -> None:
        """Remove a subscription of the connection ``epoch``, or of a service if 0.

        Raises:
            KeyError: there is no such subscription.
        """
        own = self._items[key]
        if not epoch:
            own.services -= 1
        elif own.epochs[epoch] == 1:
            del own.epochs[epoch]
        else:
            own.epochs[epoch] -= 1
        self._dirty[key] = None

    def set_stuck(self, epoch: int, stuck: bool) -> None:
        """Set whether the connection ``epoch`` is stuck: it receives nothing. Then `touch` its keys."""
        if stuck:
            self._stuck.add(epoch)
        else:
            self._stuck.discard(epoch)

    def touch(self, key: Key) -> None:
        """Note that the connection that receives ``key`` may have changed."""
        self._dirty[key] = None

    def epoch(self, key: Key) -> int:
        """Return the epoch of the newest connection that receives ``key``; 0 if none does."""
        own = self._items.get(key)
        return 0 if own is None else self._epoch(own)

    def _epoch(self, own: _Own) -> int:
        for epoch in reversed(own.epochs):
            if epoch not in self._stuck:
                return epoch
        return 0

    def take_changes(self) -> tuple[list[list[Any]], list[InterestChange]]:
        """Return what changed since the last call: items to send, and changes of receiving connections."""
        items: list[list[Any]] = []
        changes: list[InterestChange] = []
        for key in self._dirty:
            own = self._items.get(key)
            if own is None:
                continue
            now = (own.services + sum(own.epochs.values()), self._epoch(own))
            if now != own.sent:
                items.append([*key, *now])
                if now[1] != own.sent[1]:
                    changes.append(InterestChange(*key, own.sent[1], now[1]))
                own.sent = now
            if not now[0]:
                del self._items[key]
        self._dirty.clear()
        return items, changes

    def keys(self) -> list[Key]:
        """Return all keys."""
        return list(self._items)

    def item(self, key: Key) -> list[Any]:
        """Return an item as last sent; with count 0 if there is none."""
        own = self._items.get(key)
        return [*key, *(own.sent if own is not None and own.sent[0] else (0, 0))]


class Remote:
    """One item of another node's interest. ``count`` and ``epoch`` change in place."""

    __slots__ = ("_node", "count", "epoch", "peer", "queue", "seen", "subject")

    def __init__(self, node: _Peer, peer: str, subject: bytes, queue: bytes, count: int, epoch: int) -> None:
        self._node = node
        self.peer = peer
        self.subject = subject
        self.queue = queue
        self.count = count
        self.epoch = epoch
        self.seen = node.wholes
        """Number of the node's whole interest that last contained this item."""

    @property
    def is_up(self) -> bool:
        """True while the link it came over is up. Otherwise it doesn't count, and is removed in steps."""
        return self._node.is_up


class _Peer:
    """The state of the exchange with one other node."""

    __slots__ = ("expected", "is_up", "items", "pending", "receiving", "sent", "sweeping", "unsent", "wholes")

    def __init__(self) -> None:
        self.is_up = True
        self.sent = 0
        """Number of the next frame to send to it."""
        self.unsent: deque[Key] | None = None
        """Keys of the whole interest still to be sent; None when all are sent."""
        self.pending: dict[Key, None] = {}
        """Keys that have changed and are not sent yet, because the link has no capacity."""
        self.expected: int | None = None
        """Number of its next frame; ``None`` while its whole interest is awaited."""
        self.receiving = False
        """Its whole interest is being received."""
        self.sweeping = False
        """Its whole interest was received, and items it didn't contain are being removed."""
        self.wholes = 0
        """Number of times that its whole interest has started to arrive."""
        self.items: dict[Key, Remote] = {}


class Exchange:
    """Sends this node's interest to the other nodes, and keeps theirs.

    Args:
        node: this node's name.
        send: puts a frame on the link to a peer. Frames may be lost but stay in order.
        came, went: called with each item of another node when it is added or removed.
        changed: called with a node's name, this node's included, and its changes of receiving connections.
        has_capacity: returns True if the link to a peer takes more without queueing much; default: always.
    """

    def __init__(
        self,
        node: str,
        *,
        send: Callable[[str, Any], None],
        came: Callable[[Remote], None],
        went: Callable[[Remote], None],
        changed: Callable[[str, list[InterestChange]], None],
        has_capacity: Callable[[str], bool] = lambda _peer: True,
    ) -> None:
        self.own = OwnInterest()
        self._node = node
        self._send = send
        self._came = came
        self._went = went
        self._changed = changed
        self._has_capacity = has_capacity
        self._peers: dict[str, _Peer] = {}
        self._jobs: deque[Iterator[None]] = deque()

    def complete(self, peer: str) -> bool:
        """Return True if ``peer`` is connected and all of its interest has been received and applied.

        A change may have been lost without being noticed yet.
        """
        state = self._peers.get(peer)
        return state is not None and state.expected is not None and not (state.receiving or state.sweeping)

    def size(self, peer: str) -> int:
        """Return the number of items of ``peer``."""
        state = self._peers.get(peer)
        return 0 if state is None else len(state.items)

    def items(self, peer: str) -> list[Key]:
        """Return the keys of ``peer``'s items."""
        state = self._peers.get(peer)
        return [] if state is None else list(state.items)

    def peer_up(self, peer: str) -> None:
        """Start the exchange over a new link to ``peer``. Frames of an earlier link no longer arrive."""
        state = self._peers.setdefault(peer, _Peer())
        state.expected, state.receiving = None, False
        self.flush()
        self._send_whole(peer, state)

    def peer_down(self, peer: str) -> None:
        """End the exchange with ``peer``, whose link is down, and remove its items."""
        state = self._peers.pop(peer, None)
        if state is None:
            return
        state.is_up = False
        self._begin(self._remove(peer, state, list(state.items.values())), len(state.items))

    def flush(self) -> None:
        """Send what has changed on this node. All changes of one read buffer go into one frame."""
        if not self.own.is_dirty:
            return
        items, changes = self.own.take_changes()
        for peer, state in list(self._peers.items()):
            if state.pending or not self._has_capacity(peer):
                state.pending.update(((item[0], item[1]), None) for item in items)
                continue
            for part in _parts(items):
                self._send_part(peer, state, part)
        self._notify(self._node, changes)

    def tick(self) -> None:
        """Send ``mark`` frames, by which other nodes notice lost frames. To be called about once a second."""
        for peer, state in list(self._peers.items()):
            self._send(peer, ["mark", state.sent])

    # --- steps ------------------------------------------------------------------------------------

    @property
    def works(self) -> bool:
        """True if items are waiting to be sent or steps are left: call `work`."""
        return bool(self._jobs) or any(state.pending or state.unsent for state in self._peers.values())

    def work(self) -> bool:
        """Do one step. Returns True if the next step can be done at once."""
        if self._jobs and ends(self._jobs[0]):
            self._jobs.popleft()
        more = bool(self._jobs)
        for peer, state in list(self._peers.items()):
            for _ in range(PARTS_MAX):
                if not (state.is_up and (state.pending or state.unsent) and self._has_capacity(peer)):
                    break
                self._send_next(peer, state)
            else:
                more = True
        return more

    def _begin(self, job: Iterator[None], size: int) -> None:
        """Run a small job at once, a larger one in steps."""
        if size <= STEP:
            for _ in job:
                pass
        else:
            self._jobs.append(job)

    def _send_next(self, peer: str, state: _Peer) -> None:
        """Send one part: first of the changes, then of the whole interest."""
        part: list[list[Any]] = []
        size = 0
        while len(part) < ITEMS_MAX and size < ITEM_BYTES_MAX:
            if state.pending:
                key = next(iter(state.pending))
                del state.pending[key]
            elif state.unsent:
                key = state.unsent.popleft()
            else:
                break
            part.append(self.own.item(key))
            size += len(key[0]) + len(key[1])
        self._send_part(peer, state, part)

    def _send_part(self, peer: str, state: _Peer, part: list[list[Any]]) -> None:
        number = state.sent
        state.sent += 1
        if state.unsent is None:
            self._send(peer, ["change", number, part])
            return
        is_last = not state.unsent
        if is_last:
            state.unsent = None
        self._send(peer, ["whole", number, is_last, part])

    def _send_whole(self, peer: str, state: _Peer) -> None:
        state.sent = 0
        state.pending.clear()
        state.unsent = deque(self.own.keys())
        self._send_next(peer, state)
        for _ in range(PARTS_MAX):
            if state.unsent and state.is_up and self._has_capacity(peer):
                self._send_next(peer, state)

    # --- receiving --------------------------------------------------------------------------------

    def received(self, peer: str, frame: Sequence[Any]) -> None:
        """Handle a frame of this exchange from ``peer``.

        Raises:
            RemoteProtocolError: the frame is malformed.
        """
        state = self._peers.get(peer)
        if state is None:
            return  # the link has gone down since
        match frame:
            case ["whole", int(number), bool(is_last), [*items]]:
                self._received_whole(peer, state, number, is_last, items)
            case ["change", int(number), [*items]]:
                self._received_change(peer, state, number, items)
            case ["mark", int(number)]:
                if number != state.expected:
                    self._request_whole(peer, state)
            case ["again"]:
                self._send_whole(peer, state)
            case _:
                raise RemoteProtocolError(f"{peer}: not a frame of the interest exchange")

    def _request_whole(self, peer: str, state: _Peer) -> None:
        state.expected, state.receiving = None, False
        self._send(peer, ["again"])

    def _received_whole(self, peer: str, state: _Peer, number: int, is_last: bool, items: list[Any]) -> None:
        if number == 0:
            state.wholes += 1
            state.receiving = True
        elif not state.receiving or number != state.expected:
            if state.expected is not None:
                self._request_whole(peer, state)
            return
        state.expected = number + 1
        self._take(peer, state, _parsed(peer, items))
        if is_last:
            state.receiving = False
            state.sweeping = True
            self._begin(self._sweep(peer, state, list(state.items.values())), len(state.items))

    def _received_change(self, peer: str, state: _Peer, number: int, items: list[Any]) -> None:
        changes = _parsed(peer, items)
        if state.expected is None:
            return  # the whole interest was requested and will contain these changes
        if number != state.expected or state.receiving:
            self._request_whole(peer, state)
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
                remote = state.items[key] = Remote(state, peer, *key, count, epoch)
                self._came(remote)
            else:
                remote.count, remote.epoch, remote.seen = count, epoch, state.wholes
            if before != epoch:
                changes.append(InterestChange(*key, before, epoch))
        self._notify(peer, changes)

    def _sweep(self, peer: str, state: _Peer, remotes: list[Remote]) -> Iterator[None]:
        """Remove items that the whole interest didn't contain, unless another one has begun to arrive."""
        whole = state.wholes
        for remote in remotes:
            if not state.is_up or state.wholes != whole:
                return
            key = remote.subject, remote.queue
            if remote.seen != whole and state.items.get(key) is remote:
                del state.items[key]
                self._went(remote)
                self._notify(peer, [InterestChange(*key, remote.epoch, 0)] if remote.epoch else [])
            yield
        state.sweeping = False

    def _remove(self, peer: str, state: _Peer, remotes: list[Remote]) -> Iterator[None]:
        """Remove the items of a node whose link is down."""
        changes: list[InterestChange] = []
        for remote in remotes:
            self._went(remote)
            if remote.epoch:
                changes.append(InterestChange(remote.subject, remote.queue, remote.epoch, 0))
            if len(changes) == STEP:
                self._notify(peer, changes)
                changes = []
            yield
        self._notify(peer, changes)

    def _notify(self, node: str, changes: list[InterestChange]) -> None:
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
