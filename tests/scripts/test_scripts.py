"""Cluster stories: each text file here holds commands and what comes of them (`node.simulator.script`).

After a change of behaviour that is meant, ``pytest tests/scripts --rewrite`` writes them anew; the diff
is what is reviewed. ``--story-seed 2`` draws names, elections and orders otherwise; a story tells the same.
"""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from node.simulator.script import Script
from node.simulator.script_arguments import ScriptError
from node.simulator.script_text import parse, unparse

STORIES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_story(path: Path, rewrite: bool, story_seed: int) -> None:
    text = path.read_text()
    blocks = parse(text)
    story = Script(story_seed)
    for block in blocks:
        if block.commands:
            try:
                block.outcome = story.play(block)
            except ScriptError as error:
                raise ScriptError(f"{path.name}, line {block.line}: {error}") from error
    told = unparse(blocks)
    if rewrite and told != text:
        path.write_text(told)
    del story
    gc.collect()
    assert rewrite or told == text
    assert "!!" not in told, "a promise is broken that always holds"
