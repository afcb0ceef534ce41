"""Make a new cluster of what one node has: `recover` of ``stanchion cluster``, the last resort."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from node.cli.options import add_config
from node.config.load import load
from node.units import SECOND

if TYPE_CHECKING:
    from node.server.disk.recovering import Recovered

DESCRIPTION = """Make a new cluster of one node's data, when a majority of the old one is lost for good.

Run it where that node's directory is, while the node is stopped; take the directory of the node that has
most (`stanchion cluster recover --dry-run` on each says how much it has). FILE is the new cluster's: with
another cluster.id, and the node under its old name. The node is the only member then; others are let in
with empty directories (`stanchion cluster add`). What the old cluster acknowledged and this node never got is
lost, and can't be told.
"""


def arguments(actions: Any) -> None:
    """The command line, as an action of ``stanchion cluster``."""
    parser: argparse.ArgumentParser = actions.add_parser(
        "recover", help="make a new cluster of what one node has", description=DESCRIPTION
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_config(parser)
    parser.add_argument("--name", required=True, metavar="NAME", help="the node whose directory it is")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--force-new", action="store_true", help="do it")
    what.add_argument("--dry-run", action="store_true", help="only say what there is")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it, and say what was saved."""
    config = load(args.config, node=args.name, overrides=args.overrides)
    from node.server.disk.recovering import recover

    recovered = recover(config, args.name, pretend=args.dry_run)
    print(json.dumps(asdict(recovered), indent=2) if args.json else text(recovered, pretend=args.dry_run))
    return 0


def text(recovered: Recovered, *, pretend: bool) -> str:
    """What there is, what may be missing, and what to do next."""
    lines = [
        f"node {recovered.node} of cluster {recovered.old_cluster} has all up to entry {recovered.index}"
    ]
    if recovered.timestamp_ns:
        at = datetime.fromtimestamp(recovered.timestamp_ns // SECOND, UTC)
        lines[0] += f", of {at:%Y-%m-%d %H:%M:%S} UTC"
    lines.append(
        "what the cluster acknowledged later, without this node, is missing; whether any is can't be told"
    )
    if pretend:
        return "\n".join(
            [*lines, "nothing was changed, but for what every start mends: a write that a power cut tore"]
        )
    return "\n".join(
        [
            *lines,
            f"its data is that of cluster {recovered.new_cluster} now, whose only member it is. Next:",
            f"  start {recovered.node}; clients connect with cluster ID {recovered.new_cluster}",
            "  let others in, with empty directories: stanchion cluster add NAME",
            f"  don't start other nodes of cluster {recovered.old_cluster} with the directories they had",
        ]
    )
