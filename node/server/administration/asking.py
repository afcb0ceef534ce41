"""Forwards requests that only the leader can execute, from the node that received them.

An operator may ask any node (`administration`), but some requests only a leader can execute, and leaders
change. So the node that was asked keeps the request and sends it to the leader, and to each next leader,
until one has answered. The answers come back over the same link. Such a request must be idempotent: a leader
may execute it and die before it has answered. An identical request made meanwhile is not sent again: all its
callers get the same answer.

Frames of the raft link; the payloads are JSON::

    ("ask", number, verb, fields)    to the leader; repeated every second, and to each new leader
    ("told", number, answer)         {"ok": …} or {"error": …}, after any number of {"progress": …}

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
"""Returns True if the caller no longer waits for an answer."""
Handler: TypeAlias = Callable[[dict[str, Any], Answer], None]
"""Executes a request on the leader: at once or later, and again if it is repeated. May raise a `NodeError`,
whose text is the answer."""

AGAIN_S = 1.0
"""How long to wait for the leader's answer before repeating the request. A leader may need longer to execute
it."""
NO_LEADER_S = 10.0
"""After this time without a leader the request is answered with an error."""
GIVE_UP_S = 600.0
"""After this time the request is forgotten, here and by the leader."""
WAITING_MAX = 64
"""Requests of one node that may wait for the leader. A further one is refused."""
SHARED_MAX = 8
"""Callers that may wait for the answer to identical requests. A further one makes the first one fail."""


@dataclass(slots=True)
class _Waiting:
    """A request that this node has received and forwards."""

    verb: str
    fields: str
    answers: list[tuple[Answer, Gone]]
    """The callers of identical requests."""
    asked_s: float
    until_s: float
    """When it is answered with an error."""
    within_s: float
    leaderless_since_s: float | None = None
    progress: Any = None
    """Last reported progress. Each new leader may begin with the same."""

    def answer(self, value: dict[str, Any]) -> None:
        """Answer all callers; progress only if it has changed."""
        if "progress" in value:
            if value["progress"] == self.progress:
                return
            self.progress = value["progress"]
        for answer, _ in self.answers:
            answer(value)


class Asking:
    """Forwards this node's requests to the leader, and executes requests while this node is the leader.

    Args:
        node: this node's name.
        send: sends a frame to a member; False if the link is down.
        first_number: random, so that answers to an earlier process of this node match no request.
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
        """Register ``handler`` to execute ``verb`` while this node is the leader."""
        assert verb not in self._handlers, verb
        self._handlers[verb] = handler

    def ask(self, verb: str, fields: dict[str, Any], answer: Answer, gone: Gone = lambda: False) -> None:
        """Have the leader execute ``verb``, whichever node it is then, and call ``answer`` with the result.

        The request is dropped when ``gone`` returns True. A field ``within`` limits the wait, in seconds, up
        to `GIVE_UP_S`.
        """
        within_s = waited_for_s(fields)
        text = json.dumps(fields, sort_keys=True)
        answers = [*self._withdraw(verb, text), (answer, gone)]
        if len(answers) > SHARED_MAX:
            answers.pop(0)[0]({"error": f"{SHARED_MAX} others have made the same request {verb}; ask again"})
        if len(self._waiting) >= WAITING_MAX:
            for refuse, _ in answers:
                refuse({"error": f"{WAITING_MAX} requests wait for the leader; try again later"})
            return
        number, self._next = self._next, self._next + 1
        until_s = self._now_s + within_s
        self._waiting[number] = _Waiting(verb, text, answers, self._now_s, until_s, within_s)
        self._put(number)

    def _withdraw(self, verb: str, fields: str) -> list[tuple[Answer, Gone]]:
        """Forget an identical waiting request. Returns its callers.

        The new request gets another number, so that it is not answered with an earlier result.
        """
        for number, waiting in self._waiting.items():
            if (waiting.verb, waiting.fields) == (verb, fields):
                del self._waiting[number]
                return waiting.answers
        return []

    def leader_is(self, leader: str | None, term: int) -> None:
        """Set the leader, if it is linked; this node only once it is ready. Called at each change."""
        if (leader, term) == (self._leader, self._term):
            return
        self._leader, self._term = leader, term
        self._serving.clear()  # the nodes that asked will ask the next leader, or this one again
        for number in list(self._waiting):
            self._put(number)

    def frame(self, peer: str, frame: tuple[Any, ...]) -> None:
        """Handle a frame of another member.

        Raises:
            RemoteProtocolError: the frame is malformed.
        """
        match frame:
            case ("ask", int(number), str(verb), str(fields)):
                self._asked(peer, number, verb, _object(peer, fields))
            case ("told", int(number), str(answer)):
                self._notified(number, _object(peer, answer))
            case _:
                raise RemoteProtocolError(f"{peer}: not a request to the leader: {shown(frame)}")

    def pump(self, now_s: float) -> float:
        """Repeat unanswered requests. Returns when to be called again."""
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
            return  # not the leader, or not ready yet: it will be asked again; or already executing it
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
    """Return for how many seconds the caller of a request waits for the answer."""
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
