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

*Steps.* A client may have a hundred thousand subscriptions. So interest is sent in small parts, the next when
the link has room for it (``work``); what changes while the whole is under way goes ahead of what is left of
it, as another part. What can't be sent yet is kept by key, so that it is never more than there are keys, and
the newest state is what is sent. Each part is taken as it comes; what the whole didn't name goes after its
last part. What a node told goes in steps too when the link to it breaks, but isn't heard from then on.

Plain objects without I/O. Nothing is assumed of a link but that frames come in order; they may be
lost, and a send may find the link broken and say so, by ``peer_down``, before it returns. What is
malformed is `RemoteProtocolError`.
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
"""Items in one frame: to take one is a step of some milliseconds."""

ITEM_BYTES_MAX = 128 * 1024
"""Bytes of the patterns in one frame, for those who set ``max_control_line`` high. One item more is taken."""

PARTS_MAX = 4
"""Parts sent to one node in one step."""

ROOM_S = 0.02
"""A link without room is looked at again after so long."""

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

    def set_stuck(self, epoch: int, stuck: bool) -> None:
        """The connection ``epoch`` hears nothing any longer, or again; `touch` its keys."""
        if stuck:
            self._stuck.add(epoch)
        else:
            self._stuck.discard(epoch)

    def touch(self, key: Key) -> None:
        """Who hears ``key`` may have changed."""
        self._dirty[key] = None

    def epoch(self, key: Key) -> int:
        """The newest connection that hears ``key`` now; 0 if none does."""
        own = self._items.get(key)
        return 0 if own is None else self._epoch(own)

    def _epoch(self, own: _Own) -> int:
        for epoch in reversed(own.epochs):
            if epoch not in self._stuck:
                return epoch
        return 0

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

    def keys(self) -> list[Key]:
        """All there are."""
        return list(self._items)

    def item(self, key: Key) -> list[Any]:
        """An item as last told; with count 0 if there is none."""
        own = self._items.get(key)
        return [*key, *(own.told if own is not None and own.told[0] else (0, 0))]


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
        """Which of the node's wholes named it last."""

    @property
    def is_up(self) -> bool:
        """The link over which it was told stands. Else nobody hears it, and it goes by and by."""
        return self._node.is_up


class _Peer:
    """The conversation with one other node."""

    __slots__ = ("expected", "is_up", "items", "pending", "receiving", "sent", "sweeping", "unsent", "wholes")

    def __init__(self) -> None:
        self.is_up = True
        self.sent = 0
        """The number of the next frame to it."""
        self.unsent: deque[Key] | None = None
        """What is left to be sent of the whole interest; None when it is sent."""
        self.pending: dict[Key, None] = {}
        """What has changed and is not sent yet, for want of room."""
        self.expected: int | None = None
        """The number of its next frame; ``None`` while its whole interest is awaited."""
        self.receiving = False
        """Its whole interest is coming in."""
        self.sweeping = False
        """It has come, and what it didn't name is going."""
        self.wholes = 0
        """How often its whole interest has begun to come in."""
        self.items: dict[Key, Remote] = {}


class Exchange:
    """Tells this node's interest to the others, and keeps theirs.

    Args:
        node: this node's name.
        send: puts a frame on the link to a peer; it may get lost, not overtake another.
        came, went: told each item of another node as it comes and goes.
        changed: told who hears what: the node, and its changes. This node's own are told too.
        has_capacity: whether the link to a peer takes more now without queueing much. By default it does.
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
        """``peer`` is connected, has sent its whole interest, and no change since is known to be lost."""
        state = self._peers.get(peer)
        return state is not None and state.expected is not None and not (state.receiving or state.sweeping)

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
        state.expected, state.receiving = None, False
        self.flush()
        self._send_whole(peer, state)

    def peer_down(self, peer: str) -> None:
        """The link is gone, and with it all that ``peer`` would hear."""
        state = self._peers.pop(peer, None)
        if state is None:
            return
        state.is_up = False
        self._begin(self._remove(peer, state, list(state.items.values())), len(state.items))

    def flush(self) -> None:
        """Tell what changed on this node. Many changes of one read buffer are one frame."""
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
        """Once a second or so: lets the others notice what they missed."""
        for peer, state in list(self._peers.items()):
            self._send(peer, ["mark", state.sent])

    # --- steps ------------------------------------------------------------------------------------

    @property
    def works(self) -> bool:
        """There is something to send as soon as there is room, or to do in steps: call `work`."""
        return bool(self._jobs) or any(state.pending or state.unsent for state in self._peers.values())

    def work(self) -> bool:
        """Take one step of what goes in steps. Returns whether there is more to do at once."""
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
        """Do what is little at once, else in steps."""
        if size <= STEP:
            for _ in job:
                pass
        else:
            self._jobs.append(job)

    def _send_next(self, peer: str, state: _Peer) -> None:
        """Send one part: of what has changed, else of the whole."""
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

    # --- what comes in ----------------------------------------------------------------------------

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

    def _ask_again(self, peer: str, state: _Peer) -> None:
        state.expected, state.receiving = None, False
        self._send(peer, ["again"])

    def _received_whole(self, peer: str, state: _Peer, number: int, is_last: bool, items: list[Any]) -> None:
        if number == 0:
            state.wholes += 1
            state.receiving = True
        elif not state.receiving or number != state.expected:
            if state.expected is not None:
                self._ask_again(peer, state)
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
            return  # the whole was asked for; it will hold these changes
        if number != state.expected or state.receiving:
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
                remote = state.items[key] = Remote(state, peer, *key, count, epoch)
                self._came(remote)
            else:
                remote.count, remote.epoch, remote.seen = count, epoch, state.wholes
            if before != epoch:
                changes.append(InterestChange(*key, before, epoch))
        self._notify(peer, changes)

    def _sweep(self, peer: str, state: _Peer, remotes: list[Remote]) -> Iterator[None]:
        """Remove what the whole that has come in didn't name, unless another has begun meanwhile."""
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
        """Remove what a node has told that isn't linked any more."""
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
