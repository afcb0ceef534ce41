"""``stanchion cluster recover``: make a new cluster from one node's data, as a last resort."""

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

DESCRIPTION = """Make a new cluster from one node's data, when a majority of the old cluster is lost for good.

Stop the node and run this command where its directory is. Choose the node with the most data: `stanchion
cluster recover --dry-run` shows how much each one has. FILE is the configuration of the new cluster, with
another cluster.id; the node keeps its name. The node becomes the only member; add others with empty
directories (`stanchion cluster add`). Messages that the old cluster acknowledged but this node never received
are lost; the command can't detect them.
"""


def arguments(actions: Any) -> None:
    """Define the command line, as an action of ``stanchion cluster``."""
    parser: argparse.ArgumentParser = actions.add_parser(
        "recover", help="make a new cluster from one node's data", description=DESCRIPTION
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_config(parser)
    parser.add_argument("--name", required=True, metavar="NAME", help="the node that owns the directory")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--force-new", action="store_true", help="make the new cluster")
    what.add_argument("--dry-run", action="store_true", help="only show the data of the node")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the recovery and print its result."""
    config = load(args.config, node=args.name, overrides=args.overrides)
    from node.server.disk.recovering import recover

    recovered = recover(config, args.name, pretend=args.dry_run)
    print(json.dumps(asdict(recovered), indent=2) if args.json else text(recovered, pretend=args.dry_run))
    return 0


def text(recovered: Recovered, *, pretend: bool) -> str:
    """Describe the data, what may be missing, and the next steps."""
    lines = [
        f"node {recovered.node} of cluster {recovered.old_cluster} has all entries up to {recovered.index}"
    ]
    if recovered.timestamp_ns:
        at = datetime.fromtimestamp(recovered.timestamp_ns // SECOND, UTC)
        lines[0] += f", {at:%Y-%m-%d %H:%M:%S} UTC"
    lines.append(
        "entries that the cluster committed later without this node are missing; their number is unknown"
    )
    if pretend:
        return "\n".join(
            [*lines, "nothing was changed, except that a write torn by a power failure was repaired, if any"]
        )
    return "\n".join(
        [
            *lines,
            f"it is now the only member of cluster {recovered.new_cluster}. Next:",
            f"  start {recovered.node}; clients connect with cluster ID {recovered.new_cluster}",
            "  add other nodes with empty directories: stanchion cluster add NAME",
            f"  do not start other nodes of cluster {recovered.old_cluster} with their old directories",
        ]
    )
