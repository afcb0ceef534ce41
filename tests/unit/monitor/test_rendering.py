"""Pieces of JSON are the JSON that ``json.dumps`` would write."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.monitor.rendering import Fields, Rows, finished, pieces

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
values = st.recursive(
    scalars,
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(), each, max_size=4),
    max_leaves=30,
)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_text_is_indented_like_the_standard_librarys(view: dict[str, Any]) -> None:
    assert "".join(pieces(view)) == json.dumps(view, indent=2)


def test_rows_and_fields_are_made_when_they_are_shown() -> None:
    def view() -> dict[str, Any]:
        return {
            "rows": Rows(iter([{"a": 1}, None, {"b": Rows(iter(["x", None]))}])),
            "fields": Fields(iter([("c", 1), None, ("d", Rows(iter(())))])),
            "none": Fields(iter(())),
        }

    expected = {"rows": [{"a": 1}, {"b": ["x"]}], "fields": {"c": 1, "d": []}, "none": {}}
    assert "".join(pieces(view())) == json.dumps(expected, indent=2)
    assert finished(view()) == expected


def test_a_break_is_an_empty_piece() -> None:
    assert "" in list(pieces({"rows": Rows(iter([None]))}))


def test_a_value_without_json_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        list(pieces({"contact": float("inf")}))
