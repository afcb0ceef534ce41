"""Options that several commands share."""

from __future__ import annotations

import argparse


def add_config(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """The configuration file, and overrides of it."""
    if positional:
        parser.add_argument("config", metavar="FILE", help="the cluster's configuration")
    else:
        parser.add_argument("--config", required=True, metavar="FILE", help="the cluster's configuration")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        help="use this value instead of the file's; may be repeated",
    )


def names(text: str) -> list[str]:
    """The names in ``a,b,c``; for argparse's ``type``."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"expected names between commas, not {text!r}")
    return found
