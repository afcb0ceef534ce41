"""The entry points install signal handlers before other imports."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", ["stanchion", "reference"])
def test_handlers_are_installed_before_the_imports(command: str) -> None:
    code = (
        "import sys, signal, node.cli.early_signals as early\n"
        "before = set(sys.modules)\n"
        "early.install = lambda *_, **__: sys.exit(', '.join(sorted(set(sys.modules) - before)))\n"
        f"sys.argv = ['x', 'node']; import node.cli.entry as entry; entry.{command}()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert set(done.stderr.strip().split(", ")) == {"gc", "node.cli.entry"}


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_the_commands_run(word: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node.cli.entry", word], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "stanchion" in done.stdout
