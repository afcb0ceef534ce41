"""The dispatch of commands, and the exit status."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from node import __version__
from node.cli.main import COMMANDS, main
from node.errors import ConfigError, NodeError


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n  {name} " not in printed] == []


def test_version_is_the_release(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"stanchion {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    summary = (importlib.import_module(f"node.cli.{name}").__doc__ or "").splitlines()[0]
    assert summary in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [[], ["nope"], ["node"], ["config"], ["config", "check"], ["status", "--no-such"]]
)
def test_wrong_usage_is_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "usage: stanchion" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (ConfigError(["f:1:2: first", "f:3:4: second"]), 2, "f:1:2: first\nf:3:4: second\n"),
        (NodeError("it broke"), 1, "stanchion: it broke\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_have_their_status(
    error: BaseException,
    status: int,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(args: object) -> int:
        raise error

    command = ModuleType("node.cli.status", "A command that fails.")
    command.__dict__.update(arguments=lambda parser: None, run=run)
    monkeypatch.setitem(sys.modules, "node.cli.status", command)
    assert main(["status"]) == status
    assert capsys.readouterr().err == printed
