"""Operators' requests to change the members: taken by any node, carried out by the leader.

Two forms are served. ``cluster.add``, ``cluster.remove``, ``cluster.members`` and ``cluster.clock`` of
`administration`. And, if the configuration allows them, the requests of the Go server: a node's name as plain
text to ``_STAN.raft.<cluster id>.node.add`` or ``….node.remove``, answered ``+OK`` or ``-ERR adding node
"n4": why``.

In the second form a node is added by its name alone, so the configuration of the node that takes the request
must have its address. As with the Go server, every client that may publish to these subjects may use them.
But where clients have credentials, a client without any (``clients.no_auth_user``) may not.

Source: the Go server's clustering, "Add/remove node over NATS".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from node.config.values import Address
from node.server.administration.asking import Asking, Gone
from node.server.administration.requests import Administration, Answer, Source

log = logging.getLogger("stanchion.administration")

NAME_SIZE_MAX = 256
"""The longest payload that is accepted as a name, in bytes."""


NOT_OUR_CLIENT = "only clients of this cluster's nodes may ask"
"""Refusal of a request without a client connection here: it came from a client of another cluster."""

NO_CREDENTIALS = "clients without credentials may not ask"
"""Refusal of a client without credentials, where other clients have some."""


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


def serve_membership(administration: Administration, asking: Asking) -> None:
    """Serve the operators' requests that are forwarded to the leader."""

    def ask(verb: str) -> Callable[[dict[str, Any], Answer], None]:
        def put(fields: dict[str, Any], answer: Answer) -> None:
            asking.ask(verb, fields, answer, lambda: administration.is_given_up(answer))

        return put

    administration.register(
        "cluster.add",
        ask("cluster.add"),
        required={"name": str, "peer": str},
        optional={"wait": bool, "within": float},
    )
    administration.register(
        "cluster.remove",
        ask("cluster.remove"),
        required={"name": str},
        optional={"absent": bool, "within": float},
    )
    administration.register("cluster.members", ask("cluster.members"))
    administration.register("cluster.clock", ask("cluster.clock"), optional={"confirm": bool})


def serve_go_requests(
    routing: Routing, cluster_id: str, asking: Asking, addresses: Mapping[str, Address]
) -> None:
    """Serve the Go server's requests.

    Args:
        routing: delivers the requests and their answers.
        cluster_id: part of the subjects.
        asking: forwards the requests to the leader.
        addresses: the peer addresses of the nodes in the configuration.
    """

    def reply_to(reply: bytes, doing: str, name: str) -> Answer:
        def answer(value: dict[str, Any]) -> None:
            if "ok" in value:
                text = "+OK"
            elif "error" in value:
                text = f'-ERR {doing} node "{name}": {value["error"]}'
            else:
                return  # progress: clients of the Go server don't understand it
            if reply:
                routing.publish(None, reply, b"", b"", text.encode(), to_services=False)

        return answer

    def gone(reply: bytes) -> Gone:
        return lambda: bool(reply) and not routing.reachable(reply)

    def on_add(source: Source | None, _subject: bytes, reply: bytes, payload: bytes) -> None:
        name = _text(payload)
        answer = reply_to(reply, "adding", name)
        if source is None:
            answer({"error": NOT_OUR_CLIENT})
        elif lacks_credentials(source):
            answer({"error": NO_CREDENTIALS})
        elif not name or len(payload) > NAME_SIZE_MAX:
            answer({"error": "invalid node ID"})
        elif name not in addresses:
            answer({"error": "its address is not in this node's configuration"})
        else:
            log.info("a client asks to add node %s", name)
            fields = {"name": name, "peer": str(addresses[name]), "wait": False}
            asking.ask("cluster.add", fields, answer, gone(reply))

    def on_remove(source: Source | None, _subject: bytes, reply: bytes, payload: bytes) -> None:
        name = _text(payload)
        answer = reply_to(reply, "removing", name)
        if source is None:
            answer({"error": NOT_OUR_CLIENT})
        elif lacks_credentials(source):
            answer({"error": NO_CREDENTIALS})
        elif len(payload) > NAME_SIZE_MAX:
            answer({"error": "invalid node ID"})
        else:
            log.info("a client asks to remove node %s", name)
            asking.ask("cluster.remove", {"name": name}, answer, gone(reply))

    routing.serve(f"_STAN.raft.{cluster_id}.node.add".encode(), on_add)
    routing.serve(f"_STAN.raft.{cluster_id}.node.remove".encode(), on_remove)


def lacks_credentials(source: Source) -> bool:
    """Return True if the client has shown no credentials, also if ``clients.no_auth_user`` names it."""
    return source.identity is None or (bool(source.identity.name) and not source.identity.proven)


def _text(payload: bytes) -> str:
    return payload.decode(errors="replace")
