"""The commands of operators in a script: requests to a node's administration.

::

    operator NODE purge CHANNEL [up-to N]
    operator NODE remove CHANNEL [force]
    operator NODE pause | resume | end s [group] [force]
    operator NODE seek s first | last | end | seq:N | ago:5s
    operator NODE kick ID
    ... [timeout 1s] [unanswered]         don't wait for the reply

A subscription is named by its handle; it may be offline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from node.errors import RefusedError
from node.server.administration.verbs import Administering
from node.simulator.script_arguments import ScriptError, Words, seconds
from node.simulator.script_client import Consumer
from node.simulator.sim_node import SimNode

Answer = dict[str, Any]
Handler = Callable[[dict[str, Any], Callable[[Answer], None]], None]


class Verbs:
    """Collects the request handlers of one node."""

    def __init__(self, node: SimNode) -> None:
        self.handlers: dict[str, Handler] = {}
        replica = node.replica
        Administering(
            state=lambda: replica.state,
            requests=replica.origin,
            clock=replica.clock,
            wall_clock_ns=node.clock.wall_clock_ns,
            messages=lambda: node.store,
        ).register(self)

    def register(
        self,
        verb: str,
        handler: Handler,
        *,
        required: Mapping[str, Any] | None = None,
        optional: Mapping[str, Any] | None = None,
    ) -> None:
        self.handlers[verb] = handler


def ask(node: SimNode, words: Words, consumer: Callable[[Words], Consumer]) -> list[Answer]:
    """Send a request to ``node``. Returns a list to which the reply is appended when it arrives.

    Raises:
        ScriptError: the words are no valid request.
    """
    verb, fields = _request(node, words, consumer)
    if timeout := words.after("timeout"):
        fields["timeout_s"] = seconds(timeout)
    answers: list[Answer] = []
    try:
        Verbs(node).handlers[verb](fields, answers.append)
    except RefusedError as error:
        answers.append({"error": str(error)})
    return answers


def reply_text(answer: Answer) -> str:
    """Return the output for a reply."""
    if "error" in answer:
        return f"operator: refused: {answer['error']}"
    shown = answer["ok"]
    if "messages" in shown:
        return f"operator: {shown['name']} has {shown['messages']} messages, the last is {shown['last']}"
    if "cursor" in shown:
        paused = ", paused" if shown["paused"] else ""
        return f"operator: sent up to {shown['cursor']}{paused}"
    return f"operator: {shown['id']} had {shown['subscriptions']} subscriptions"


def _request(
    node: SimNode, words: Words, consumer: Callable[[Words], Consumer]
) -> tuple[str, dict[str, Any]]:
    verb = words.next()
    match verb:
        case "purge":
            up_to = words.after("up-to")
            fields = {"channel": words.next()}
            return "channel.purge", fields | ({"up_to": int(up_to)} if up_to else {})
        case "remove":
            force = words.flag("force")
            return "channel.rm", {"channel": words.next(), "force": force}
        case "kick":
            return "client.kick", {"client": words.next()}
        case "end":
            flags = {"group": words.flag("group"), "force": words.flag("force")}
            return "subscription.rm", {"id": _number(node, consumer(words))} | flags
        case "pause" | "resume":
            return f"subscription.{verb}", {"id": _number(node, consumer(words))}
        case "seek":
            return "subscription.seek", {"id": _number(node, consumer(words))} | _place(words.next())
    raise ScriptError(f"unknown operator request {verb}")


def _number(node: SimNode, consumer: Consumer) -> int:
    for subscription in node.state.subscriptions.values():
        if subscription.inbox == consumer.inbox:
            return int(subscription.id)
    raise ScriptError(f"{node.name} has no subscription {consumer.handle}")


def _place(text: str) -> dict[str, Any]:
    kind, _, value = text.partition(":")
    match kind:
        case "seq":
            return {"to": "sequence", "value": int(value)}
        case "ago":
            return {"to": "ago", "value": round(seconds(value) * 1e9)}
    return {"to": kind}
