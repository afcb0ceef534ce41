"""The requests by which operators change the members: from any node to the leader, who does it.

``cluster.add``, ``cluster.remove``, ``cluster.members`` and ``cluster.clock`` of `administration`. And, where
the configuration allows it, those of the Go server: a node's name as plain text to
``_STAN.raft.<cluster id>.node.add`` or ``….node.remove``, answered ``+OK`` or ``-ERR adding node "n4": why``.
There a node is added by its name alone, so its address must be in the file of the node that is asked. Whoever
may publish to these subjects may use them, as with the Go server: that is what is switched on. But where
clients show credentials, those who show none (``clients.no_auth_user``) may not.

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
"""Bytes of a payload that is taken for a name."""


REMOTE_ROUTE = "only clients of this cluster's nodes may ask"
"""A request without a connection here is one of another cluster's clients."""

REMOTE_CLIENT = "clients without credentials may not ask"
"""Where others have some."""


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


def serve_membership(administration: Administration, asking: Asking) -> None:
    """Have operators' requests put to the leader."""

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
    """Take the Go server's requests.

    Args:
        routing: where they come from.
        cluster_id: part of their subjects.
        asking: puts them to the leader.
        addresses: where the nodes of the configuration are for their peers.
    """

    def reply_to(reply: bytes, doing: str, name: str) -> Answer:
        def answer(value: dict[str, Any]) -> None:
            if "ok" in value:
                said = "+OK"
            elif "error" in value:
                said = f'-ERR {doing} node "{name}": {value["error"]}'
            else:
                return  # progress: nobody would understand it
            if reply:
                routing.publish(None, reply, b"", b"", said.encode(), to_services=False)

        return answer

    def gone(reply: bytes) -> Gone:
        return lambda: bool(reply) and not routing.reachable(reply)

    def on_add(source: Source | None, _subject: bytes, reply: bytes, payload: bytes) -> None:
        name = _text(payload)
        answer = reply_to(reply, "adding", name)
        if source is None:
            answer({"error": REMOTE_ROUTE})
        elif is_remote_client(source):
            answer({"error": REMOTE_CLIENT})
        elif not name or len(payload) > NAME_SIZE_MAX:
            answer({"error": "invalid node ID"})
        elif name not in addresses:
            answer({"error": "its address is not in this node's configuration"})
        else:
            log.info("node %s is to be added", name)
            fields = {"name": name, "peer": str(addresses[name]), "wait": False}
            asking.ask("cluster.add", fields, answer, gone(reply))

    def on_remove(source: Source | None, _subject: bytes, reply: bytes, payload: bytes) -> None:
        name = _text(payload)
        answer = reply_to(reply, "removing", name)
        if source is None:
            answer({"error": REMOTE_ROUTE})
        elif is_remote_client(source):
            answer({"error": REMOTE_CLIENT})
        elif len(payload) > NAME_SIZE_MAX:
            answer({"error": "invalid node ID"})
        else:
            log.info("node %s is to be removed", name)
            asking.ask("cluster.remove", {"name": name}, answer, gone(reply))

    routing.serve(f"_STAN.raft.{cluster_id}.node.add".encode(), on_add)
    routing.serve(f"_STAN.raft.{cluster_id}.node.remove".encode(), on_remove)


def is_remote_client(source: Source) -> bool:
    """Whether it is merely whom the node takes those for who show nothing (``clients.no_auth_user``)."""
    return source.identity is None or (bool(source.identity.name) and not source.identity.proven)


def _text(payload: bytes) -> str:
    return payload.decode(errors="replace")
