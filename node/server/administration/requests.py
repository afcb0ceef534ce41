"""Administration: requests of operators, accepted by every node, as JSON over NATS.

A request is a message to ``_STANCHION.admin.<cluster id>.<verb>`` with a JSON object (or nothing, for
an empty one) and a reply subject. The answer is one JSON object::

    {"ok": …}            done; the value depends on the verb
    {"error": "…"}       not done; the reason, as text for people

A long request may send any number of ``{"progress": "…"}`` before it. This module checks that the client may
ask and that the request is well formed, and sends the answers. The registered handlers execute the verbs, and
forward them to the leader if necessary.

*Authorization.* The node that the client is connected to decides, because only it has the connection:
requests are never routed, neither to other nodes nor to local subscribers (see ``routing``). A client may ask
if it has shown the operator token (`operator_token`), or a correct password or token and its permissions
allow it to publish to the subject. A connection from this machine gives no rights: a local proxy makes all
its clients look local.

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
"""Limits the log lines about refused clients, which may repeat their requests at any rate."""

PREFIX = "_STANCHION.admin"

REQUEST_SIZE_MAX = 64 * 1024
"""Largest request, in bytes."""

ANSWER_SIZE_MAX = 1024 * 1024
"""Largest answer, in bytes. A larger one is replaced by an error: the caller must ask for less at a time."""

UNANSWERED_MAX = 256
"""Requests that a node may have in progress. A further one is refused."""

Answer: TypeAlias = Callable[[dict[str, Any]], None]
"""Takes ``{"ok": …}`` or ``{"error": …}`` once, after any number of ``{"progress": …}``. Later calls are
ignored."""

Handler: TypeAlias = Callable[[dict[str, Any], Answer], None]
"""Called with the checked fields of a request and its answer callback, which it must call in the end. May
raise a `NodeError` instead; its text is the answer."""

Kind: TypeAlias = type | tuple[type, ...]


class Source(Protocol):
    """The client connection that a request came from, as used here."""

    @property
    def address(self) -> tuple[str, int]: ...
    @property
    def identity(self) -> Identity | None: ...


class Routing(Protocol):
    """The routing of messages, as used here."""

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
    """Return the subject of requests for ``verb``."""
    return f"{PREFIX}.{cluster_id}.{verb}".encode()


class Administration:
    """Accepts the requests to one node, and calls the handlers of their verbs.

    Args:
        cluster_id: part of the subjects, so that a request can't reach the wrong cluster.
        routing: delivers requests and answers.
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
        """Register ``handler`` for ``verb``: tokens, separated by dots.

        ``required`` and ``optional`` are its fields, with their JSON types. A request without a required
        field, with an unknown field, or with a value of another type is refused before the handler is called.
        """
        assert verb not in self._verbs, verb
        self._verbs[verb] = _Verb(handler, dict(required or {}), dict(optional or {}))

    def _on_request(self, source: Source | None, subject: bytes, reply: bytes, payload: bytes) -> None:
        name = subject[self._verb_start :].decode(errors="replace")
        if not reply:
            complaints.warning("request %.80r has no reply subject: ignored", name)
            return
        answer = _Request(self, reply)
        try:
            verb, fields = self._admitted(source, name, payload)
            log.info("%s requested by %s: %.200s", name, _described(source), payload.decode(errors="replace"))
            verb.handler(fields, answer)
        except NodeError as error:
            answer({"error": str(error)})

    def _admitted(self, source: Source | None, name: str, payload: bytes) -> tuple[_Verb, dict[str, Any]]:
        """Check a request. Returns its verb and fields.

        Raises:
            RefusedError: the request is malformed, or the client may not make it.
        """
        if not may_administer(source):
            complaints.warning(
                "%.80s: refused to %s, which has shown no credentials",
                name,
                _described(source),
                source=source.address[0] if source else "",
            )
            raise RefusedError(
                "administration needs the operator token, or a user or token of the configuration, and "
                f"{_described(source)} has shown none. The token is in operator.token in the node directory: "
                "--config FILE reads it there, if it is readable; --token gives a token, --user a user"
            )
        verb = self._verbs.get(name)
        if verb is None:
            verbs = ", ".join(sorted(self._verbs))
            raise RefusedError(f"unknown request {name!r}; this node has {verbs}")
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
        """Cancel a request if its reply subject has no subscriber. Returns True if the request is finished.

        For requests that take long: their caller may have been interrupted, which causes no message.
        """
        return isinstance(answer, _Request) and answer.give_up(self._routing)

    def began(self) -> None:
        """Count a request in progress."""
        self._unanswered += 1

    def ended(self) -> None:
        """Uncount an answered request."""
        self._unanswered -= 1


class _Request:
    """A request in progress; its handler calls it with the answers."""

    __slots__ = ("_administration", "_answered", "_reply")

    def __init__(self, administration: Administration, reply: bytes) -> None:
        self._administration = administration
        self._reply = reply
        self._answered = False
        administration.began()

    def give_up(self, routing: Routing) -> bool:
        """Cancel the request if its reply subject has no subscriber. Returns True if it is finished."""
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
    """Return True if the client has shown valid credentials. Its permissions are checked before."""
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


def _described(source: Source | None) -> str:
    if source is None:
        return "this node itself"
    host, port = source.address
    identity = source.identity
    name = "" if identity is None else "the operator" if identity.is_operator else identity.name
    return f"{name} at {host}:{port}" if name else f"{host}:{port}"
