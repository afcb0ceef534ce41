"""Requests that only the leader can carry out, from whichever node they came in at.

Any node may be asked (`administration`), but some things only a leader can do, and leaders change. So the
node that was asked keeps the request and puts it to the leader, and to the next one, again and again until
one has answered; the answers come back over the same link. Whatever is asked for like this must be safe to
do twice: a leader may have done it and died before it said so. Who asks for the very same again while it is
under way takes no more room: both are told the answer.

Frames of the raft link; the payloads are JSON::

    ("ask", number, verb, fields)    to the leader; again every second, or when there is another
    ("told", number, answer)         {"ok": …} or {"error": …}, or any number of {"progress": …} before it

A plain object without I/O; ``now_s`` is the driver's clock.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from node.errors import NodeError, RemoteProtocolError
from node.protocol.peer import shown

log = logging.getLogger("stanchion.administration")

Answer: TypeAlias = Callable[[dict[str, Any]], None]
Gone: TypeAlias = Callable[[], bool]
"""Whether nobody waits for an answer any more."""
Handler: TypeAlias = Callable[[dict[str, Any], Answer], None]
"""Carries a request out, on the leader: at once or later, and more than once if it is asked again. May raise
a `NodeError`, whose text is the answer."""

AGAIN_S = 1.0
"""How long the leader may be silent before it is asked again. Silence is normal: it works on it."""
NO_LEADER_S = 10.0
"""After so long without a leader the answer is that there is none."""
GIVE_UP_S = 600.0
"""After so long nobody waits for the answer any more: the request is forgotten, here and by the leader."""
WAITING_MAX = 64
"""Requests of one node that wait for a leader. One more is refused."""
SHARED_MAX = 8
"""So many may wait for the answer to the very same request. One more, and the first is told to ask again."""


@dataclass(slots=True)
class _Waiting:
    """A request that came in here."""

    verb: str
    fields: str
    answers: list[tuple[Answer, Gone]]
    """Whoever asked for the very same."""
    asked_s: float
    until_s: float
    """Nobody waits any longer."""
    within_s: float
    leaderless_since_s: float | None = None
    progress: Any = None
    """As told last. Each leader in turn may begin with the same."""

    def answer(self, value: dict[str, Any]) -> None:
        """Tell everybody; progress only if it is another."""
        if "progress" in value:
            if value["progress"] == self.progress:
                return
            self.progress = value["progress"]
        for answer, _ in self.answers:
            answer(value)


class Asking:
    """One node's part: what it asks of leaders, and what it is asked while it leads.

    Args:
        node: this node's name.
        send: sends a frame to a member; False if the link is down.
        first_number: random, so that answers to an earlier process of this node are told from those to this.
    """

    def __init__(self, node: str, send: Callable[[str, Any], bool], first_number: int) -> None:
        self._node = node
        self._send = send
        self._next = first_number
        self._waiting: dict[int, _Waiting] = {}
        self._handlers: dict[str, Handler] = {}
        self._serving: set[tuple[str, int]] = set()
        self._leader: str | None = None
        self._term = 0
        self._now_s = 0.0

    def register(self, verb: str, handler: Handler) -> None:
        """Have ``handler`` carry out ``verb`` while this node leads."""
        assert verb not in self._handlers, verb
        self._handlers[verb] = handler

    def ask(self, verb: str, fields: dict[str, Any], answer: Answer, gone: Gone = lambda: False) -> None:
        """Have the leader carry out ``verb``, whoever that is by then; ``answer`` is told in the end. Unless
        whoever waits for it has ``gone``: then it is asked for no more.

        A field ``within`` says for how many seconds somebody waits for the answer, up to `GIVE_UP_S`.
        """
        within_s = waited_for_s(fields)
        text = json.dumps(fields, sort_keys=True)
        answers = [*self._withdraw(verb, text), (answer, gone)]
        if len(answers) > SHARED_MAX:
            answers.pop(0)[0]({"error": f"{verb} is asked for by others too; ask again"})
        if len(self._waiting) >= WAITING_MAX:
            for told, _ in answers:
                told({"error": f"{WAITING_MAX} requests wait for the leader; try again later"})
            return
        number, self._next = self._next, self._next + 1
        until_s = self._now_s + within_s
        self._waiting[number] = _Waiting(verb, text, answers, self._now_s, until_s, within_s)
        self._put(number)

    def _withdraw(self, verb: str, fields: str) -> list[tuple[Answer, Gone]]:
        """Forget the same request, if it waits. Returns who waits for its answer.

        An answer that the leader found before must not be that to a later question.
        """
        for number, waiting in self._waiting.items():
            if (waiting.verb, waiting.fields) == (verb, fields):
                del self._waiting[number]
                return waiting.answers
        return []

    def leader_is(self, leader: str | None, term: int) -> None:
        """Who leads, if it can be reached; this node only once it is ready. Called whenever that changes."""
        if (leader, term) == (self._leader, self._term):
            return
        self._leader, self._term = leader, term
        self._serving.clear()  # whoever asked asks the next one, or this one again
        for number in list(self._waiting):
            self._put(number)

    def frame(self, peer: str, frame: tuple[Any, ...]) -> None:
        """Take a frame of another member.

        Raises:
            RemoteProtocolError: it is malformed.
        """
        match frame:
            case ("ask", int(number), str(verb), str(fields)):
                self._asked(peer, number, verb, _object(peer, fields))
            case ("told", int(number), str(answer)):
                self._notified(number, _object(peer, answer))
            case _:
                raise RemoteProtocolError(f"{peer}: not a request to the leader: {shown(frame)}")

    def pump(self, now_s: float) -> float:
        """Ask again what has not been answered. Returns when to be called again."""
        self._now_s = now_s
        for number, waiting in list(self._waiting.items()):
            waiting.answers = [(answer, gone) for answer, gone in waiting.answers if not gone()]
            if not waiting.answers:
                del self._waiting[number]
            elif now_s >= waiting.until_s:
                text = f"{waiting.verb} took longer than {waiting.within_s:g} s; ask again"
                self._notified(number, {"error": text})
            elif self._leader is None:
                waiting.leaderless_since_s = waiting.leaderless_since_s or now_s
                if now_s - waiting.leaderless_since_s >= NO_LEADER_S:
                    self._notified(number, {"error": f"there has been no leader for {NO_LEADER_S:g} s"})
            elif now_s - waiting.asked_s >= AGAIN_S:
                self._put(number)
        return now_s + AGAIN_S if self._waiting else float("inf")

    def _put(self, number: int) -> None:
        waiting = self._waiting[number]
        waiting.asked_s = self._now_s
        if self._leader is None:
            return
        waiting.leaderless_since_s = None
        if self._leader == self._node:
            self._asked(self._node, number, waiting.verb, json.loads(waiting.fields))
        else:
            self._send(self._leader, ("ask", number, waiting.verb, waiting.fields))

    def _asked(self, peer: str, number: int, verb: str, fields: dict[str, Any]) -> None:
        if self._leader != self._node or (peer, number) in self._serving:
            return  # not the leader, or not yet ready: it will be asked again; or at work on it
        self._serving.add((peer, number))
        handler = self._handlers.get(verb)

        def answer(value: dict[str, Any]) -> None:
            self._answer(peer, number, value)

        if handler is None:
            answer({"error": f"the leader, {self._node}, doesn't know the request {verb!r}"})
            return
        try:
            handler(fields, answer)
        except NodeError as error:
            answer({"error": str(error)})

    def _answer(self, peer: str, number: int, value: dict[str, Any]) -> None:
        if (peer, number) not in self._serving:
            return
        if "progress" not in value:
            self._serving.discard((peer, number))
        if peer == self._node:
            self._notified(number, value)
        else:
            self._send(peer, ("told", number, json.dumps(value)))

    def _notified(self, number: int, value: dict[str, Any]) -> None:
        waiting = self._waiting.get(number)
        if waiting is None:
            return
        if "progress" not in value:
            del self._waiting[number]
        waiting.answer(value)


def waited_for_s(fields: dict[str, Any]) -> float:
    """For how many seconds somebody waits for the answer to a request with these fields."""
    within = fields.get("within", GIVE_UP_S)
    if type(within) in (int, float) and 0 <= within < GIVE_UP_S:  # not NaN
        return float(within)
    return GIVE_UP_S


def _object(peer: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"{peer}: a request that is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"{peer}: a request that is no object: {text:.60}")
    return value
