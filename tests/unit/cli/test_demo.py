"""The command line of ``stanchion demo``, and what becomes of it."""

from __future__ import annotations

import pytest

from node.cli.main import main
from node.demo import run as demo


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[demo.Options]:
    """What the demo would have been run with."""
    found: list[demo.Options] = []

    def run(options: demo.Options) -> int:
        found.append(options)
        return 1

    monkeypatch.setattr(demo, "run", run)
    return found


def test_its_status_is_the_verdict(asked: list[demo.Options]) -> None:
    assert main(["demo", "--kills", "3", "--seed", "7", "--no-tty", "--json", "r.json", "--patient"]) == 1
    assert asked == [demo.Options(kills=3, seed=7, tty=False, json="r.json", patient=True)]


def test_without_a_seed_it_draws_one_and_will_say_it(asked: list[demo.Options]) -> None:
    main(["demo"])
    main(["demo"])
    assert asked[0].seed != asked[1].seed


def test_where_json_goes_to_the_screen_there_is_no_picture(
    asked: list[demo.Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    main(["demo", "--json", "-"])
    assert not asked[0].tty


@pytest.mark.parametrize("count", ["0", "-1", "some"])
def test_it_kills_at_least_once(count: str, asked: list[demo.Options]) -> None:
    assert main(["demo", "--kills", count]) == 2
    assert not asked
