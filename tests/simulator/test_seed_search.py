"""Mutation tests don't depend on hints: a hint only saves time."""

from __future__ import annotations

import pytest
import seed_search
from seed_search import SeedSearch


@pytest.mark.parametrize("hint", [0, 3, 4, 9, 10, 500])
def test_a_seed_is_found_with_any_hint(hint: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_search, "recorded", lambda: {"test": hint})
    tried: list[int] = []
    found: list[object] = []

    def broken(seed: int) -> str | None:
        tried.append(seed)
        return {4: "another invariant", 9: "this invariant"}.get(seed)

    SeedSearch("test", lambda _, value: found.append(value)).find(10, broken, kinds={"this invariant"})
    assert found == [["test", 9]]
    assert tried[0] == (hint if hint < 10 else 0)
    assert len(tried) == len({*tried})


def test_a_bound_is_a_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed beyond the bound doesn't count, not even a recorded one."""
    monkeypatch.setattr(seed_search, "recorded", lambda: {"test": 10})
    search = SeedSearch("test", lambda name, value: None)
    with pytest.raises(pytest.fail.Exception, match="none of 10 seeds"):
        search.find(10, lambda seed: "this invariant" if seed == 10 else None)


def test_hints_belong_to_existing_test_files() -> None:
    assert {name.partition(": ")[0] for name in seed_search.recorded()} == {"test_mutations", "test_raft"}
