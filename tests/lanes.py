"""Marks for test cases that `scripts/test --long` runs and `scripts/test` leaves out."""

from __future__ import annotations

from typing import Any

import pytest


def long(*values: Any) -> Any:
    """Return the values of one case of a parametrised test that only the long lane runs."""
    return pytest.param(*values, marks=pytest.mark.long)


def some(cases: Any, default: Any) -> list[Any]:
    """Return all cases of a parametrised test; those that are not among the default ones run in the long lane.

    Args:
        cases: Values of every case, as tuples or single values.
        default: Cases for the default lane, all of which must be among `cases`.
    """
    cases, default = list(cases), list(default)
    assert all(case in cases for case in default), default
    return [case if case in default else long(*(case if isinstance(case, tuple) else (case,))) for case in cases]
