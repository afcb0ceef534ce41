"""The actions `add`, `remove`, `replace`, `members` and `clock` of ``stanchion cluster``.

Any node accepts the request; the leader executes it. All of them may be repeated: a change that is already
done is left alone, an interrupted one is continued.
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
"""Default timeout: a joining node may need a snapshot of the whole state."""


def arguments(actions: Any) -> None:
    """Define the command lines, as actions of ``stanchion cluster``."""
    add = _action(actions, "add", "add a node: it catches up, then it votes", ADD)
    add.add_argument("name", metavar="NAME", help="the node's name, as in its file and certificate")
    _add_joining_node(add)
    remove = _action(actions, "remove", "remove a node; it may be the leader", REMOVE)
    remove.add_argument("name", metavar="NAME")
    replace = _action(actions, "replace", "add a node and remove another", REPLACE)
    replace.add_argument("old", metavar="OLD")
    replace.add_argument("new", metavar="NEW", help="may be OLD, with an empty directory")
    _add_joining_node(replace)
    _action(actions, "members", "show the members and how far each has replicated", "Show the members.")
    clock = _action(actions, "clock", "show how far message timestamps are from the wall clocks", CLOCK)
    clock.add_argument("--confirm", action="store_true", help="confirm that the wall clocks are right")


def _action(actions: Any, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_cluster(parser, timeout_s=WAIT_S)
    return parser


def _add_joining_node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peer", metavar="HOST:PORT", help="the node's address for its peers (default: the one in FILE)"
    )
    parser.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="wait until the node votes; --no-wait: only until its addition is committed",
    )


ADD = """Add a node to the cluster.

FILE is the configuration of the joining node: it lists that node and the existing ones. Start the joining
node with FILE and an empty directory, before or after this command. It receives the whole state as a
learner, and votes once it has caught up; until then it does not count for majorities.
"""

REMOVE = """Remove a node from the cluster.

The removed node stops by itself when it learns of the removal. A leader hands over leadership first. A
removal that would leave the cluster without a majority is refused. The directory of the removed node can't
be used again.
"""

REPLACE = """Replace a node by another, for example when its directory is lost.

NEW is added; when it votes, OLD is removed. With --no-wait, OLD is removed at once, and NEW votes after it
has joined and caught up. If NEW is OLD, the node must be stopped first: it is removed and added again, and
must then be started with an empty directory.
"""


CLOCK = """Show how far the timestamps of messages are from the nodes' wall clocks.

Timestamps follow the median of the voting nodes' clocks. If the median has moved by more than seven days
since the last timestamp, and no majority of the clocks agrees, it is not trusted: timestamps and message
ages then advance by elapsed time. --confirm declares the clocks right. Timestamps that are behind are
corrected at once, and messages that are too old by the new time are dropped. Timestamps never go back: if
they are ahead, they advance at nine tenths of real time until the clocks have caught up.
"""


def run(args: argparse.Namespace) -> int:
    """Run the action and print its result."""
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
        _peer(args, args.new)  # fail before the removal if the address is missing
        removed = _remove(args, args.old, absent=True)
        say(f"start {args.new} with an empty directory")
        added = _add(args, args.new)
    else:
        added = _add(args, args.new)
        removed = _remove(args, args.old)
    return {"added": added, "removed": removed}


def _peer(args: argparse.Namespace, name: str) -> str:
    """Return the address at which peers connect to the joining node.

    Raises:
        ConfigError: neither the command line nor the file has it.
    """
    if args.peer:
        return str(args.peer)
    cluster_of(args)
    if not args.config:
        raise ConfigError([f"the peer address of {name} is missing: add --config FILE or --peer HOST:PORT"])
    node = load(args.config, overrides=args.overrides).cluster.nodes.get(name)
    if node is None or node.peer is None:
        raise ConfigError([f"{args.config}: cluster.nodes.{name}.peer is missing: add it, or use --peer"])
    return str(node.peer)


def _added(answer: Any) -> str:
    name = answer["name"]
    if answer["role"] == "learner":
        return f"{name} is added as a learner; it votes once it has joined and caught up"
    return f"{name} votes" if answer["changed"] else f"{name} is already a voting member"


def _removed(answer: Any) -> str:
    name = answer["name"]
    return f"{name} is removed" if answer["changed"] else f"{name} is not a member"


def _replaced(answer: Any) -> str:
    return f"{_removed(answer['removed'])}; {_added(answer['added'])}"


def _table(answer: Any) -> str:
    rows = [
        (
            member["name"],
            _role(member),
            _state(member),
            str(member["match"]),
            member["peer"] or "as configured",
        )
        for member in answer["members"]
    ]
    head = ("node", "role", "", "match index", "peer address")
    lines = aligned([head, *rows])
    if not answer["settled"]:
        lines.append("a membership change is in progress")
    return "\n".join(lines)


def _clock(answer: Any) -> str:
    ahead_s = answer["clocks_ahead_ns"] / SECOND
    side = "ahead of" if ahead_s >= 0 else "behind"
    lines = [f"wall clocks are {abs(ahead_s):.1f} s {side} the timestamps of messages"]
    if not answer["believed"]:
        lines.append("the clocks are not trusted: correct them, or confirm them with --confirm")
    if answer["ages_wait"]:
        lines.append(
            f"messages are not dropped for their age: the clock of the leader, {answer['leader']}, is wrong"
        )
    return "\n".join(lines)


def _role(member: Any) -> str:
    return "leader" if member["leads"] else str(member["role"])


def _state(member: Any) -> str:
    return "connected" if member["connected"] else "disconnected"
