"""Fill a table result by result. The table is written after each result, and what is missing is named."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from cmdiad_runtime.errors import CmdiadError

_Names = TypeVar("_Names", bound=tuple[Hashable, ...])
_Table = TypeVar("_Table")

MISSING = "missing"
"""Key of a result that is not measured yet."""


class Part(NamedTuple):
    """One result of a table.

    Attributes:
        kept: Function that returns the result of an earlier call, or None.
        measure: Function that returns the result or the failure, measured now unless an earlier call has it.
    """

    kept: Callable[[], dict[str, Any] | None]
    measure: Callable[[], dict[str, Any]]


def fill(parts: Mapping[_Names, Part], write: Callable[[dict[Any, Any]], _Table]) -> _Table:
    """Measure the parts of a table one after the other.

    Args:
        parts: Parts by the names of row, column and so on; each has equally many names.
        write: Function that writes the table of the results and returns it. The results are mappings by the first name,
            the second one and so on. It is called before the first part is measured and after each new result, because
            all of them may take days.

    Returns:
        The table of all results.
    """
    results = {names: _kept(part) for names, part in parts.items()}
    table = write(_nested(results))
    for names, part in parts.items():
        result = part.measure()
        if result != results[names]:
            results[names] = result
            table = write(_nested(results))
    return table


def missing_lines(missing: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a line for each row that is not measured yet in some columns.

    Args:
        missing: Names of the missing columns by row.
    """
    return [
        f"Missing: {row}, {', '.join(columns)}: not measured yet. Repeat the command to continue."
        for row, columns in missing.items()
        if columns
    ]


def _kept(part: Part) -> dict[str, Any]:
    try:
        return part.kept() or {MISSING: True}
    except (CmdiadError, OSError):  # Measuring the part reports the error.
        return {MISSING: True}


def _nested(results: Mapping[_Names, dict[str, Any]]) -> dict[Any, Any]:
    nested: dict[Any, Any] = {}
    for names, result in results.items():
        place = nested
        for name in names[:-1]:
            place = place.setdefault(name, {})
        place[names[-1]] = result
    return nested
