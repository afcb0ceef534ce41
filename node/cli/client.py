"""Show and remove streaming clients: list, show, kick.

A client is a registered client ID; it outlives connections and nodes. `kick` closes a client as if it had
closed its session: its durables keep their cursors, its other subscriptions end. The client is notified by
the answer to its next ping.
"""

from __future__ import annotations

import argparse
from typing import Any

from node.cli.administer import add_cluster, administer, show
from node.cli.listing import add_page, changing, listed
from node.cli.subscription import subscription_rows
from node.cli.tables import aligned, described


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``stanchion client``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_page(actions.add_parser("ls", help="list the clients"), "ID")
    for name, summary in {
        "info": "show a client and its subscriptions",
        "kick": "close a client's session",
    }.items():
        action = actions.add_parser(name, help=summary, description=summary)
        action.add_argument("client", metavar="ID")
        add_cluster(action)


def run(args: argparse.Namespace) -> int:
    """Send the request and print the answer."""
    match args.action:
        case "ls":
            show(args, listed(args, "client.ls", "clients", {}), _table)
        case "info":
            show(args, administer(args, "client.info", {"client": args.client}, repeats=True), _details)
        case "kick":
            show(args, administer(args, "client.kick", changing(args, client=args.client)), _kicked)
    return 0


def _table(answer: Any) -> str:
    rows = [
        (shown["id"], str(shown["subscriptions"]), _state(shown), shown["heartbeat_inbox"])
        for shown in answer["clients"]
    ]
    head = ("client", "subscriptions", "state", "heartbeat inbox")
    return "\n".join(aligned([head, *rows])) if rows else "no clients"


def _state(shown: Any) -> str:
    words = ("unreachable", "unresponsive")
    return " ".join(word for word in words if shown[word]) or "ok"


def _details(shown: Any) -> str:
    lines = described(shown, [key for key in shown if key != "subscriptions_shown"])
    subscriptions = shown["subscriptions_shown"]
    if subscriptions:
        lines += ["", *aligned(subscription_rows(subscriptions))]
    return "\n".join(lines)


def _kicked(shown: Any) -> str:
    return f"closed client {shown['id']} and its {shown['subscriptions']} subscriptions"
