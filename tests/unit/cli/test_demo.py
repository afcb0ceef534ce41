"""The command line of ``stanchion demo`` and its exit status."""

from __future__ import annotations

import pytest

from node.cli.main import main
from node.demo import run as demo


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[demo.Options]:
    """The options that the demo would have been run with."""
    found: list[demo.Options] = []

    def run(options: demo.Options) -> int:
        found.append(options)
        return 1

    monkeypatch.setattr(demo, "run", run)
    return found


def test_the_exit_status_is_the_verdict(asked: list[demo.Options]) -> None:
    assert main(["demo", "--kills", "3", "--seed", "7", "--no-tty", "--json", "r.json", "--patient"]) == 1
    assert asked == [demo.Options(kills=3, seed=7, tty=False, json="r.json", patient=True)]


def test_without_a_seed_one_is_chosen(asked: list[demo.Options]) -> None:
    main(["demo"])
    main(["demo"])
    assert asked[0].seed != asked[1].seed


def test_json_on_stdout_disables_the_screen(
    asked: list[demo.Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    main(["demo", "--json", "-"])
    assert not asked[0].tty


@pytest.mark.parametrize("count", ["0", "-1", "some"])
def test_kills_must_be_at_least_one(count: str, asked: list[demo.Options]) -> None:
    assert main(["demo", "--kills", count]) == 2
    assert not asked
