"""Shared by the commands that list or change things with `administer`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final

from node.cli.administer import add_cluster, administer

PAGE: Final = 500
"""Rows requested at a time: a node returns no more."""


def add_page(parser: argparse.ArgumentParser, name: str, kind: Callable[[str], Any] = str) -> None:
    """Add the options of a list command."""
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="list at most N (1000)")
    parser.add_argument("--after", type=kind, metavar=name, help="start after this one: `next` of --json")
    add_cluster(parser)


def listed(args: argparse.Namespace, verb: str, name: str, fields: dict[str, Any]) -> Any:
    """Return up to ``--limit`` rows, requested page by page, and where the rest begins (``next``).

    Each page is a consistent view; two pages may differ by the changes between them.
    """
    rows: list[Any] = []
    after = args.after
    while True:
        page = {**fields, "limit": min(PAGE, args.limit - len(rows))}
        answer = administer(args, verb, page if after is None else {**page, "after": after}, repeats=True)
        rows += answer[name]
        after = answer["next"]
        if after is None or len(rows) >= args.limit:
            return {name: rows, "next": after}


def changing(args: argparse.Namespace, **fields: Any) -> dict[str, Any]:
    """Return the fields that were given, and the timeout: the cluster must not execute the request later."""
    given = {key: value for key, value in fields.items() if value is not None}
    return {**given, "timeout_s": args.timeout}
