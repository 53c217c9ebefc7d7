"""Render a comparison of methods as one page with `methods.html.jinja`; the page needs no other file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmdiad_bench.methods.table import ABSENT, columns_of, notes_of, tables_of
from cmdiad_bench.templates import templates_in


def render(record: Mapping[str, Any]) -> str:
    """Return the page as HTML text without scripts or external files. All data is escaped.

    Args:
        record: Result of `table.comparison`.
    """
    environment = templates_in(Path(__file__).parent)
    environment.filters["lines_between"] = _lines_between
    tables = [(table.title, columns_of(table), table.rows) for table in tables_of(record)]
    return environment.get_template("methods.html.jinja").render(tables=tables, notes=notes_of(record), absent=ABSENT)


def _lines_between(text: str) -> str:
    """Return a cell that a narrow column breaks only before a range or an interval: other spaces do not break."""
    return re.sub(r" (?![(\[])", "\N{NO-BREAK SPACE}", text)
