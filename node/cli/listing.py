"""What the commands share that list things and change them, through `administer`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final

from node.cli.administer import add_cluster, administer

PAGE: Final = 500
"""Rows asked for at a time: the most that a node gives."""


def add_page(parser: argparse.ArgumentParser, name: str, kind: Callable[[str], Any] = str) -> None:
    """Which of many to list; and where to ask."""
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="list at most so many (1000)")
    parser.add_argument("--after", type=kind, metavar=name, help="begin behind this one, as `next` had it")
    add_cluster(parser)


def listed(args: argparse.Namespace, verb: str, name: str, fields: dict[str, Any]) -> Any:
    """Up to ``--limit`` rows, page by page, and where the rest begins; of one moment each page."""
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
    """The fields that were given, and for how long somebody waits: later it must not be done."""
    given = {key: value for key, value in fields.items() if value is not None}
    return {**given, "timeout_s": args.timeout}
