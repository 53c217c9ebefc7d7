"""Render a comparison of methods as one page with `methods.html.jinja`; the page needs no other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cmdiad_bench.methods.table import ABSENT, columns_of, notes_of, tables_of


def render(record: Mapping[str, Any]) -> str:
    """Return the page as HTML text without scripts or external files. All data is escaped.

    Args:
        record: Result of `table.comparison`.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = [(table.title, columns_of(table), table.rows) for table in tables_of(record)]
    return environment.get_template("methods.html.jinja").render(tables=tables, notes=notes_of(record), absent=ABSENT)
