"""Administration: requests of operators, taken by every node, as JSON over NATS.

A request is a message to ``_STANCHION.admin.<cluster id>.<verb>`` with a JSON object (or nothing, for
an empty one) and a reply subject. What comes back is one JSON object::

    {"ok": …}            done; what it holds depends on the verb
    {"error": "…"}       not done; why, in words for a human being

and before it, of what takes long, any number of ``{"progress": "…"}``. What a verb does, and whether it
asks the leader for it, is the business of who registers it; here it is decided who may ask, whether
the request is well formed, and what goes back.

*Who may ask.* The node a client is connected to decides, for it alone knows the connection: requests are
never routed, neither to other nodes nor to who subscribes to them here (see ``routing``). Who has shown the
operator token may (`operator_token`), and who has shown a password or token that is right, if their
permissions let them publish to the subject. Nobody else: that a client connects from this very machine says
nothing, for a proxy there makes all its clients look local.

A plain object without I/O.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from node.errors import NodeError, RefusedError
from node.limited_log import LimitedLog
from node.server.auth import Identity

log = logging.getLogger("stanchion.administration")
complaints = LimitedLog(log)
"""Of those who may not ask: as often as they like."""

PREFIX = "_STANCHION.admin"

REQUEST_SIZE_MAX = 64 * 1024
"""Bytes of a request."""

ANSWER_SIZE_MAX = 1024 * 1024
"""Bytes of an answer. More is an error that says so: the verb has to let itself be asked for less."""

UNANSWERED_MAX = 256
"""Requests a node works on. One more is refused."""

Answer: TypeAlias = Callable[[dict[str, Any]], None]
"""Takes ``{"ok": …}`` or ``{"error": …}``, once, or before it ``{"progress": …}``. What comes later is
ignored."""

Handler: TypeAlias = Callable[[dict[str, Any], Answer], None]
"""Called with the fields of a request, checked, and how to answer, which has to happen in the end. May
raise a `NodeError` instead; its text is the answer."""

Kind: TypeAlias = type | tuple[type, ...]


class Source(Protocol):
    """What is needed of the connection that a request came from."""

    @property
    def address(self) -> tuple[str, int]: ...
    @property
    def identity(self) -> Identity | None: ...


class Routing(Protocol):
    """What is needed of routing."""

    def serve(self, pattern: bytes, handler: Callable[..., None]) -> Any: ...
    def publish(
        self,
        source: None,
        subject: bytes,
        reply: bytes,
        headers: bytes,
        payload: bytes,
        *,
        to_services: bool = True,
    ) -> int: ...
    def reachable(self, subject: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Verb:
    handler: Handler
    required: Mapping[str, Kind]
    optional: Mapping[str, Kind]


def subject(cluster_id: str, verb: str) -> bytes:
    """Where ``verb`` is asked for."""
    return f"{PREFIX}.{cluster_id}.{verb}".encode()


class Administration:
    """The verbs of one node, and the requests for them.

    Args:
        cluster_id: part of the subjects, so that nobody asks the wrong cluster.
        routing: where requests come from and answers go.
    """

    def __init__(self, cluster_id: str, routing: Routing) -> None:
        self._routing = routing
        self._verbs: dict[str, _Verb] = {}
        self._unanswered = 0
        self._verb_start = len(subject(cluster_id, ""))
        routing.serve(subject(cluster_id, ">"), self._on_request)

    def register(
        self,
        verb: str,
        handler: Handler,
        *,
        required: Mapping[str, Kind] | None = None,
        optional: Mapping[str, Kind] | None = None,
    ) -> None:
        """Have ``handler`` called for ``verb``: tokens, with dots between them.

        ``required`` and ``optional`` are the fields it knows, with their types as JSON has them; a request
        without the first, with others, or with values of other types is refused before it comes that far.
        """
        assert verb not in self._verbs, verb
        self._verbs[verb] = _Verb(handler, dict(required or {}), dict(optional or {}))

    def _on_request(self, source: Source | None, subject: bytes, reply: bytes, payload: bytes) -> None:
        name = subject[self._verb_start :].decode(errors="replace")
        if not reply:
            complaints.warning("a request %.80r without a reply subject: ignored", name)
            return
        answer = _Request(self, reply)
        try:
            verb, fields = self._admitted(source, name, payload)
            log.info("%s asked for by %s: %.200s", name, _who(source), payload.decode(errors="replace"))
            verb.handler(fields, answer)
        except NodeError as error:
            answer({"error": str(error)})

    def _admitted(self, source: Source | None, name: str, payload: bytes) -> tuple[_Verb, dict[str, Any]]:
        """The verb and its fields.

        Raises:
            RefusedError: this is not a request, or not by somebody who may make it.
        """
        if not may_administer(source):
            complaints.warning(
                "%.80s: refused to %s, who has shown no credentials",
                name,
                _who(source),
                source=source.address[0] if source else "",
            )
            raise RefusedError(
                "administration needs the operator token, or a user or token of the configuration, and "
                f"{_who(source)} has shown none. The token is in operator.token in the node's directory: "
                "--config FILE finds it there if it may be read; --token gives it, --user a user"
            )
        verb = self._verbs.get(name)
        if verb is None:
            known = ", ".join(sorted(self._verbs))
            raise RefusedError(f"unknown request {name!r}; this node knows {known}")
        if self._unanswered > UNANSWERED_MAX:
            raise RefusedError(f"this node is busy with {UNANSWERED_MAX} requests; try again later")
        return verb, _fields(name, verb, payload)

    def send(self, reply: bytes, value: dict[str, Any]) -> None:
        """Publish an answer."""
        payload = json.dumps(value).encode()
        if len(payload) > ANSWER_SIZE_MAX:
            text = f"the answer has {len(payload)} bytes, more than {ANSWER_SIZE_MAX}: ask for less at a time"
            payload = json.dumps({"error": text}).encode()
        self._routing.publish(None, reply, b"", b"", payload, to_services=False)

    def is_given_up(self, answer: Answer) -> bool:
        """Whether nobody listens for this answer any more, which is then done with. For what takes long: who
        has asked may have been interrupted, and doesn't say so.
        """
        return isinstance(answer, _Request) and answer.give_up(self._routing)

    def began(self) -> None:
        """A request waits for its answer."""
        self._unanswered += 1

    def ended(self) -> None:
        """It has been answered."""
        self._unanswered -= 1


class _Request:
    """One request, as its handler answers it."""

    __slots__ = ("_administration", "_answered", "_reply")

    def __init__(self, administration: Administration, reply: bytes) -> None:
        self._administration = administration
        self._reply = reply
        self._answered = False
        administration.began()

    def give_up(self, routing: Routing) -> bool:
        """Be done if nobody listens. Whether it is done."""
        if not self._answered and not routing.reachable(self._reply):
            self._answered = True
            self._administration.ended()
        return self._answered

    def __call__(self, value: dict[str, Any]) -> None:
        assert [*value] in (["ok"], ["error"], ["progress"]), value
        if self._answered:
            return
        if "progress" not in value:
            self._answered = True
            self._administration.ended()
        self._administration.send(self._reply, value)


def may_administer(source: Source | None) -> bool:
    """Whether who is behind ``source`` may ask for anything at all. Permissions have been looked at."""
    return source is not None and source.identity is not None and source.identity.proven


def _fields(name: str, verb: _Verb, payload: bytes) -> dict[str, Any]:
    if len(payload) > REQUEST_SIZE_MAX:
        raise RefusedError(f"{name}: a request of {len(payload)} bytes; at most {REQUEST_SIZE_MAX}")
    try:
        fields = json.loads(payload) if payload.strip() else {}
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"{name}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise RefusedError(f"{name}: expected a JSON object, not {_kind_of(fields)}")
    kinds = {**verb.required, **verb.optional}
    wrong = [f"{field!r} is missing" for field in verb.required if field not in fields]
    for field, value in fields.items():
        if field not in kinds:
            wrong.append(f"no such field: {field!r}")
        elif not _fits(value, kinds[field]):
            wrong.append(f"{field!r} can't be {_kind_of(value)}")
    if wrong:
        raise RefusedError(f"{name}: {'; '.join(wrong)}")
    return fields


def _fits(value: Any, kind: Kind) -> bool:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return type(value) in kinds or (type(value) is int and float in kinds)  # True is no number here


def _kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


def _who(source: Source | None) -> str:
    if source is None:
        return "this node itself"
    host, port = source.address
    identity = source.identity
    name = "" if identity is None else "the operator" if identity.is_operator else identity.name
    return f"{name} at {host}:{port}" if name else f"{host}:{port}"
