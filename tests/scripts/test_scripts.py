"""Cluster scripts: each text file here contains commands and their expected output (`node.simulator.script`).

After an intended change of behaviour, ``pytest tests/scripts --rewrite`` rewrites the expected output; review
the diff. ``--script-seed 2`` changes names, elections and orders of events, but must not change the output.
"""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from node.simulator.script import Script
from node.simulator.script_arguments import ScriptError
from node.simulator.script_text import parse, unparse

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path, rewrite: bool, script_seed: int) -> None:
    text = path.read_text()
    blocks = parse(text)
    script = Script(script_seed)
    for block in blocks:
        if block.commands:
            try:
                block.outcome = script.play(block)
            except ScriptError as error:
                raise ScriptError(f"{path.name}, line {block.line}: {error}") from error
    actual = unparse(blocks)
    if rewrite and actual != text:
        path.write_text(actual)
    del script
    gc.collect()
    assert rewrite or actual == text
    assert "!!" not in actual, "an invariant of all scripts is violated"
