"""Show and change subscriptions: list, show, remove, seek, pause, resume.

`stanchion sub ls` and so on are the same; `stanchion sub CHANNEL` subscribes. Select a subscription by its
ID, as `ls` shows it, or by names. The members of a queue group share one cursor: `seek`, `pause` and
`resume` on any member apply to the whole group.

While a subscription is paused, it is sent nothing, neither new messages nor redeliveries, and AckWait does
not run. `seek` forgets the unacknowledged messages; messages that may have been sent before are flagged as
redelivered.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from node.cli.administer import add_cluster, administer, show
from node.cli.listing import add_page, changing, listed
from node.cli.tables import aligned, described
from node.config.values import parse_duration
from node.units import SECOND

ACTIONS = {
    "ls": "list the subscriptions",
    "info": "show a subscription and its unacknowledged messages",
    "rm": "remove a subscription; a durable loses its cursor",
    "seek": "move the cursor of a durable or queue group",
    "pause": "send nothing until the subscription is resumed",
    "resume": "end a pause",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``stanchion subscription``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in ACTIONS.items():
        action = actions.add_parser(name, help=summary, description=summary)
        if name == "ls":
            action.add_argument("--channel", metavar="NAME", help="only subscriptions of this channel")
            action.add_argument("--client", metavar="ID", help="only subscriptions of this client")
            action.add_argument("--paused", action="store_true", help="only paused subscriptions")
            action.add_argument("--offline", action="store_true", help="only offline subscriptions")
            add_page(action, "ID", int)
            continue
        action.add_argument("id", type=int, nargs="?", metavar="ID", help="the ID that `ls` shows")
        for option in ("channel", "client", "durable", "queue"):
            action.add_argument(f"--{option}", metavar="NAME", help="select by name instead of ID")
        if name == "rm":
            action.add_argument("--group", action="store_true", help="remove all members of its queue group")
            action.add_argument("--force", action="store_true",
                                help="remove it even if online; its client is not notified")  # fmt: skip
        elif name == "seek":
            where = "first, last, new, seq:N, since:10m or time:2026-11-22T10:00:00Z"
            action.add_argument("--to", type=place, required=True, metavar="WHERE", help=where)
        add_cluster(action)


def run(args: argparse.Namespace) -> int:
    """Send the request and print the answer."""
    verb = f"subscription.{args.action}"
    match args.action:
        case "ls":
            wanted = {key: getattr(args, key) for key in ("channel", "client", "paused", "offline")}
            wanted = {key: value for key, value in wanted.items() if value not in (None, False)}
            show(args, listed(args, verb, "subscriptions", wanted), _table)
        case "info":
            show(args, administer(args, verb, _named(args), repeats=True), _details)
        case "rm":
            fields = changing(args, **_named(args), group=args.group, force=args.force)
            show(args, administer(args, verb, fields), lambda shown: f"removed: {_line(shown)}")
        case "seek":
            fields = changing(args, **_named(args), **args.to)
            show(args, administer(args, verb, fields), _sought)
        case "pause" | "resume":
            fields = changing(args, **_named(args))
            show(args, administer(args, verb, fields, repeats=True), _line)
    return 0


def place(text: str) -> dict[str, Any]:
    """Parse the target of a seek; for argparse's ``type``."""
    kind, colon, value = text.partition(":")
    if text in ("first", "last"):
        return {"to": text}
    if text == "new":
        return {"to": "end"}
    if kind == "seq" and value.isdigit():
        return {"to": "sequence", "value": int(value)}
    try:
        if kind == "since" and colon:
            return {"to": "ago", "value": parse_duration(value)}
        if kind == "time" and colon:
            return {"to": "time", "value": _unix_ns(value)}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, not {text!r}") from error
    raise argparse.ArgumentTypeError(f"expected first, last, new, seq:N, since:10m or time:…, not {text!r}")


def _unix_ns(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError("expected a time like 2026-11-22T10:00:00Z") from error
    if moment.tzinfo is None:
        raise ValueError("expected a time with its time zone, such as 2026-11-22T10:00:00Z")
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds * 1000


def subscription_rows(subscriptions: list[Any]) -> list[tuple[str, ...]]:
    """Return the rows of a table of subscriptions, header first."""
    head = ("id", "channel", "client", "durable", "queue", "cursor", "behind", "unacked", "state")
    keys = ("id", "channel", "client", "durable", "queue", "cursor", "behind", "unacked")
    rows = [(*(str(shown[key]) or "-" for key in keys), _state(shown)) for shown in subscriptions]
    return [head, *rows]


def _named(args: argparse.Namespace) -> dict[str, Any]:
    names = {key: getattr(args, key) for key in ("id", "channel", "client", "durable", "queue")}
    return {key: value for key, value in names.items() if value is not None}


def _state(shown: Any) -> str:
    words = ("unreachable", "stalled", "paused")
    marks = [] if shown["online"] else ["offline"]
    return " ".join([*marks, *(word for word in words if shown[word])]) or "online"


def _table(answer: Any) -> str:
    subscriptions = answer["subscriptions"]
    return "\n".join(aligned(subscription_rows(subscriptions))) if subscriptions else "no subscriptions"


def _line(shown: Any) -> str:
    if shown is None:
        return "done; the subscription has ended since"
    names = " ".join(f"{key} {shown[key]}" for key in ("durable", "queue") if shown[key])
    return f"subscription {shown['id']} to {shown['channel']} of {shown['client']} {names}".rstrip() + (
        f" ({_state(shown)})"
    )


def _sought(shown: Any) -> str:
    if shown is None:
        return _line(shown)
    return f"{_line(shown)}: cursor {shown['cursor']}, {shown['behind']} messages behind"


def _details(shown: Any) -> str:
    names = [key for key in shown if key not in ("unacked_shown", "members")]
    lines = described({**shown, "state": _state(shown)}, [*names, "state"])
    if shown["queue"]:
        lines.append(f"members: {' '.join(map(str, shown['members'])) or '-'}")
    unacked = [
        tuple(str(message[key]) for key in ("seq", "sent", "due_in_s")) for message in shown["unacked_shown"]
    ]
    if unacked:
        lines += ["", *aligned([("unacknowledged", "sent", "due in s"), *unacked])]
    if len(unacked) < shown["unacked"]:
        lines.append(f"… and {shown['unacked'] - len(unacked)} more")
    return "\n".join(lines)
