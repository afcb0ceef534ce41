"""Make the TLS certificates by which the nodes of a cluster authenticate each other.

`init` makes a certificate authority and a certificate for each node; `issue` makes more
certificates with an existing authority. A node needs ca.pem and its own NAME.pem and NAME.key.
Keep ca.key safe and off the nodes: with it, anyone can make a certificate for another node.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from node.cli.options import names
from node.errors import ConfigError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``stanchion certs``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser("init", help="make an authority, and a certificate for each node")
    issue = actions.add_parser("issue", help="make certificates with an existing authority")
    for action in (init, issue):
        action.add_argument("directory", type=Path, metavar="DIR", help="the directory of the files")
        action.add_argument(
            "--nodes", type=names, required=True, metavar="N1,N2,…", help="names of the nodes"
        )
        action.add_argument(
            "--hosts",
            type=names,
            default=[],
            metavar="HOST,NODE=HOST,…",
            help="more host names and IP addresses, for all certificates or (NODE=HOST) for one",
        )
        action.add_argument("--days", type=int, default=365, metavar="N", help="days of validity (365)")
        action.add_argument("--force", action="store_true", help="replace existing files")
    init.add_argument(
        "--if-missing", action="store_true", help="keep existing certificates, make only the missing ones"
    )


def run(args: argparse.Namespace) -> int:
    """Make the certificates and print the files that were written."""
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
    """Return the hosts by node: ``NODE=HOST`` is for that node, ``HOST`` for all nodes."""
    hosts: dict[str, list[str]] = {node: [] for node in nodes}
    for word in words:
        node, equals, host = word.partition("=")
        if equals and node not in hosts:
            raise ConfigError([f"--hosts {word}: {node} is not among the nodes"])
        for of_node in [node] if equals else nodes:
            hosts[of_node].append(host if equals else word)
    return hosts
