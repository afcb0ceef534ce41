"""Show and change channels: list, show, read, purge, remove.

Any node can be asked. It shows the channels as it has them; a change applies to the whole cluster, and the
command returns when the change is done. --json prints the node's answer as JSON.
"""

from __future__ import annotations

import argparse
from typing import Any

from node.cli.administer import add_cluster, administer, show
from node.cli.listing import add_page, changing, listed
from node.cli.subscription import subscription_rows
from node.cli.tables import aligned, described, printable, time_text
from node.units import SECOND


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``stanchion channel``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_page(actions.add_parser("ls", help="list the channels"), "NAME")
    for name, summary in {
        "info": "show a channel, its limits and its subscriptions",
        "peek": "read messages; cursors of subscriptions do not move",
        "purge": "delete messages; sequence numbers continue",
        "rm": "remove a channel with its messages and subscriptions; a new one of that name starts at 1",
    }.items():
        action = actions.add_parser(name, help=summary, description=summary)
        action.add_argument("channel", metavar="CHANNEL")
        if name == "peek":
            where = action.add_mutually_exclusive_group()
            where.add_argument(
                "--from", type=int, dest="start", metavar="SEQ", help="start at this sequence (the first)"
            )
            where.add_argument("--last", type=int, metavar="N", help="show the last N messages")
            action.add_argument(
                "--count", type=int, metavar="N", help="at most N messages (10, or N of --last)"
            )
            action.add_argument("--bytes", type=int, default=4096, metavar="N",
                                help="show at most N bytes of each message (4096)")  # fmt: skip
        elif name == "purge":
            action.add_argument("--up-to", type=int, metavar="SEQ",
                                help="delete up to and including this sequence (all)")  # fmt: skip
        elif name == "rm":
            forced = "remove the channel even if subscriptions are online; their clients are not notified"
            action.add_argument("--force", action="store_true", help=forced)
        add_cluster(action)


def run(args: argparse.Namespace) -> int:
    """Send the request and print the answer."""
    match args.action:
        case "ls":
            show(args, listed(args, "channel.ls", "channels", {}), _table)
        case "info":
            show(args, administer(args, "channel.info", {"channel": args.channel}, repeats=True), _details)
        case "peek":
            show(args, administer(args, "channel.peek", _peeked(args), repeats=True), _messages)
        case "purge":
            fields = changing(args, channel=args.channel, up_to=args.up_to)
            show(args, administer(args, "channel.purge", fields), _purged)
        case "rm":
            fields = changing(args, channel=args.channel, force=args.force)
            show(args, administer(args, "channel.rm", fields), _removed)
    return 0


def _peeked(args: argparse.Namespace) -> dict[str, Any]:
    start, count = args.start, args.count
    if args.last is not None:
        start, count = -args.last, args.last if count is None else count
    return {
        "channel": args.channel,
        "start": 1 if start is None else start,
        "count": 10 if count is None else count,
        "data_max": args.bytes,
    }


def _table(answer: Any) -> str:
    keys = ("name", "messages", "bytes", "first", "last", "subscriptions", "online")
    rows = [tuple(str(channel[key]) for key in keys) for channel in answer["channels"]]
    return "\n".join(aligned([("channel", *keys[1:]), *rows])) if rows else "no channels"


def _details(channel: Any) -> str:
    limits = {key.removesuffix("_ns"): _limit(key, value) for key, value in channel["limits"].items()}
    shown = {
        **channel,
        "first_message": time_text(channel["first_time_ns"]),
        "last_message": time_text(channel["last_time_ns"]),
        **limits,
    }
    names = ["name", "messages", "bytes", "first", "last", "first_message", "last_message"]
    lines = described(shown, [*names, *limits, "inactive_in_s", "subscriptions", "online"])
    subscriptions = channel["subscriptions_shown"]
    if subscriptions:
        lines += ["", *aligned(subscription_rows(subscriptions))]
    if len(subscriptions) < channel["subscriptions"]:
        lines.append(f"… and {channel['subscriptions'] - len(subscriptions)} more: stanchion subscription ls")
    return "\n".join(lines)


def _limit(name: str, value: int) -> str:
    if not value:
        return "unlimited"
    return f"{value / SECOND:g}s" if name.endswith("_ns") else str(value)


def _messages(answer: Any) -> str:
    lines = [_message(message) for message in answer["messages"]]
    if answer["next"] is not None:
        lines.append(f"… more from sequence {answer['next']}")
    return "\n".join(lines) or "no messages"


def _message(message: Any) -> str:
    data = message.get("data")
    text = f"base64:{message['base64']}" if data is None else printable(data)
    cut = f" … ({message['size']} bytes)" if data is not None and len(data.encode()) < message["size"] else ""
    return f"{message['seq']}  {time_text(message['time_ns'])}  {text}{cut}"


def _purged(channel: Any) -> str:
    if channel is None:
        return "purged; the channel has been removed since"
    return f"purged: {channel['messages']} messages left, next sequence {channel['last'] + 1}"


def _removed(channel: Any) -> str:
    return f"removed the channel, {channel['messages']} messages and {channel['subscriptions']} subscriptions"
