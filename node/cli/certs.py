"""Make the certificates by which the nodes of a cluster know one another.

`init` makes an authority and a certificate for each node; `issue` makes more with the authority
that is there. A node needs ca.pem and its own NAME.pem and NAME.key. Keep ca.key safe, off the
nodes: whoever has it can make another node.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from node.cli.options import names
from node.errors import ConfigError


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``stanchion certs``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser("init", help="make an authority and certificates for all nodes")
    issue = actions.add_parser("issue", help="make certificates with the authority that is there")
    for action in (init, issue):
        action.add_argument("directory", type=Path, metavar="DIR", help="where the files go")
        action.add_argument("--nodes", type=names, required=True, metavar="N1,N2,…", help="the nodes' names")
        action.add_argument(
            "--hosts",
            type=names,
            default=[],
            metavar="HOST,NODE=HOST,…",
            help="host names and IP addresses to add, to all certificates or to one node's",
        )
        action.add_argument("--days", type=int, default=365, metavar="N", help="how long they hold (365)")
        action.add_argument("--force", action="store_true", help="replace files that exist")
    init.add_argument(
        "--if-missing", action="store_true", help="keep the certificates that exist, make only the others"
    )


def run(args: argparse.Namespace) -> int:
    """Make them, and say which files were written."""
    from node.raft import authority

    nodes: list[str] = args.nodes
    hosts = _hosts(args.hosts, nodes)
    make = authority.init if args.action == "init" else authority.issue
    if args.action == "init" and args.if_missing and (args.directory / f"{authority.AUTHORITY}.pem").exists():
        nodes = [node for node in nodes if not (args.directory / f"{node}.pem").exists()]
        hosts = {node: hosts[node] for node in nodes}
        if not nodes:
            print(f"{args.directory}: all certificates exist")
            return 0
        make = authority.issue
    for path in make(args.directory, nodes, hosts, args.days, force=args.force):
        print(path)
    return 0


def _hosts(words: list[str], nodes: list[str]) -> dict[str, list[str]]:
    """Hosts by node: ``NODE=HOST`` is for that node, ``HOST`` for all of them."""
    hosts: dict[str, list[str]] = {node: [] for node in nodes}
    for word in words:
        node, equals, host = word.partition("=")
        if equals and node not in hosts:
            raise ConfigError([f"--hosts {word}: {node} is not among the nodes"])
        for of_node in [node] if equals else nodes:
            hosts[of_node].append(host if equals else word)
    return hosts
