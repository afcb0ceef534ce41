"""``stanchion cluster``: `add`, `remove`, `replace`, `members` and `clock`, which the leader does.

Each asks any node; the leader does it. All of them may be repeated: what is so already is left alone, what
was interrupted goes on.
"""

from __future__ import annotations

import argparse
from typing import Any

from node.cli.administer import add_cluster, administer, say, show
from node.cli.tables import aligned
from node.cli.target import cluster_of
from node.config.load import load
from node.errors import ConfigError
from node.units import SECOND

WAIT_S = 120.0
"""How long a command waits by default: a newcomer may need a snapshot of all there is."""


def arguments(actions: Any) -> None:
    """The command lines, as actions of ``stanchion cluster``."""
    add = _action(actions, "add", "let a node in: it catches up, then it votes", ADD)
    add.add_argument("name", metavar="NAME", help="what it is called, in its file and its certificate")
    _add_joining_node(add)
    remove = _action(actions, "remove", "take a node out, the leader too", REMOVE)
    remove.add_argument("name", metavar="NAME")
    replace = _action(actions, "replace", "let a node in, and take another out", REPLACE)
    replace.add_argument("old", metavar="OLD")
    replace.add_argument("new", metavar="NEW", help="may be OLD, with an empty directory")
    _add_joining_node(replace)
    _action(actions, "members", "who belongs to it, and how far each has come", "Show the members.")
    clock = _action(actions, "clock", "how far timestamps are from the nodes' wall clocks", CLOCK)
    clock.add_argument("--confirm", action="store_true", help="the wall clocks are right")


def _action(actions: Any, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_cluster(parser, timeout_s=WAIT_S)
    return parser


def _add_joining_node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peer", metavar="HOST:PORT", help="where the other nodes connect to it; by default as FILE says"
    )
    parser.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="until it votes; with --no-wait until the cluster has noted that it may come",
    )


ADD = """Let a node into the cluster.

FILE is the newcomer's: it names the newcomer and the nodes there are. Start the newcomer with it before or
after this command, with an empty directory. It is sent all there is, and votes once it has nearly
everything; until then it is in nobody's way.
"""

REMOVE = """Take a node out of the cluster.

It stops by itself when it learns of it. A leader hands over first. What would leave the cluster without a
majority is refused. Its directory is of no use to it any more.
"""

REPLACE = """Put a node in the place of another, whose directory may be lost.

NEW is let in; when it votes, OLD is taken out. With --no-wait OLD is taken out at once, and NEW votes when it
has come and caught up. If NEW is OLD, it must not run: it is taken out and let in again, and is to be
started with an empty directory.
"""


CLOCK = """Show how far the timestamps of messages are from the nodes' wall clocks.

Timestamps follow the median of the voting nodes' clocks, unless that has moved too far to be believed: by
more than seven days since the last timestamp, without a majority of clocks that agree. Then messages are
dated, and dropped for their age, by the time that elapses. With --confirm the clocks are taken for right:
timestamps that are behind follow at once, and messages that are too old by the new time are dropped.
Timestamps never go back: those that are ahead go on at nine tenths of the speed of time until the clocks have
come up with them.
"""


def run(args: argparse.Namespace) -> int:
    """Do it, and say how it went."""
    match args.action:
        case "add":
            show(args, _add(args, args.name), _added)
        case "remove":
            show(args, _remove(args, args.name), _removed)
        case "replace":
            show(args, _replace(args), _replaced)
        case "members":
            show(args, administer(args, "cluster.members", repeats=True), _table)
        case "clock":
            show(args, administer(args, "cluster.clock", {"confirm": args.confirm}, repeats=True), _clock)
    return 0


def _add(args: argparse.Namespace, name: str) -> Any:
    fields = {"name": name, "peer": _peer(args, name), "wait": args.wait, "within": args.timeout}
    return administer(args, "cluster.add", fields, repeats=True)


def _remove(args: argparse.Namespace, name: str, *, absent: bool = False) -> Any:
    fields = {"name": name, "absent": absent, "within": args.timeout}
    return administer(args, "cluster.remove", fields, repeats=True)


def _replace(args: argparse.Namespace) -> Any:
    if args.old == args.new:
        _peer(args, args.new)  # or it is out before it turns out that it can't be let in
        removed = _remove(args, args.old, absent=True)
        say(f"start {args.new} with an empty directory")
        added = _add(args, args.new)
    else:
        added = _add(args, args.new)
        removed = _remove(args, args.old)
    return {"added": added, "removed": removed}


def _peer(args: argparse.Namespace, name: str) -> str:
    """Where others connect to the newcomer.

    Raises:
        ConfigError: nothing says so.
    """
    if args.peer:
        return str(args.peer)
    cluster_of(args)
    if not args.config:
        raise ConfigError([f"where is {name}? Give its --config FILE, or --peer HOST:PORT"])
    node = load(args.config, overrides=args.overrides).cluster.nodes.get(name)
    if node is None or node.peer is None:
        raise ConfigError([f"{args.config} has no address for peers of {name} (cluster.nodes.{name}.peer)"])
    return str(node.peer)


def _added(answer: Any) -> str:
    name = answer["name"]
    if answer["role"] == "learner":
        return f"{name} is let in; it votes once it has come and caught up"
    return f"{name} votes" if answer["changed"] else f"{name} is a voting member already"


def _removed(answer: Any) -> str:
    name = answer["name"]
    return f"{name} is no member any more" if answer["changed"] else f"{name} is no member"


def _replaced(answer: Any) -> str:
    return f"{_removed(answer['removed'])}; {_added(answer['added'])}"


def _table(answer: Any) -> str:
    rows = [
        (
            member["name"],
            _role(member),
            _state(member),
            str(member["match"]),
            member["peer"] or "as in the file",
        )
        for member in answer["members"]
    ]
    head = ("node", "role", "", "has entry", "added at")
    lines = aligned([head, *rows])
    if not answer["settled"]:
        lines.append("a change of members is under way")
    return "\n".join(lines)


def _clock(answer: Any) -> str:
    ahead_s = answer["clocks_ahead_ns"] / SECOND
    side = "ahead of" if ahead_s >= 0 else "behind"
    lines = [f"wall clocks are {abs(ahead_s):.1f} s {side} the timestamps of messages"]
    if not answer["believed"]:
        lines.append("they are not believed: set them right, or confirm them with --confirm")
    if answer["ages_wait"]:
        lines.append(
            f"no message is dropped for its age: the clock of {answer['leader']}, which leads, is wrong"
        )
    return "\n".join(lines)


def _role(member: Any) -> str:
    return "leader" if member["leads"] else str(member["role"])


def _state(member: Any) -> str:
    return "connected" if member["connected"] else "away"
