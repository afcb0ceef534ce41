"""Options shared by several commands."""

from __future__ import annotations

import argparse


def add_config(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """Add the configuration file and its overrides."""
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
        help="override a value of the file; may be repeated",
    )


def names(text: str) -> list[str]:
    """Parse ``a,b,c`` into a list of names; for argparse's ``type``."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"expected names separated by commas, not {text!r}")
    return found
