"""Every line of the checklist has a test that names it, and docs/conformance.md says which."""

from __future__ import annotations

import conformance


def test_every_line_is_shown_but_for_what_is_pending() -> None:
    """An id leaves ``PENDING`` with its first test."""
    shown = set(conformance.tests())
    assert set(conformance.checklist()) - shown == conformance.PENDING


def test_no_test_names_a_line_that_is_not_there() -> None:
    """A slip in an id would show a line that nobody looks at."""
    assert set(conformance.tests()) <= set(conformance.checklist())


def test_the_table_is_up_to_date() -> None:
    """``python tests/conformance.py`` writes it anew."""
    assert conformance.TABLE.read_text() == conformance.table()


def test_ids_are_found_one_by_one_and_in_ranges() -> None:
    assert conformance.ids("CON-01, CON-09 (T): and DUR-02 to DUR-04") == [
        "CON-01", "CON-09", "DUR-02", "DUR-03", "DUR-04",
    ]  # fmt: skip
