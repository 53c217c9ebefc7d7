"""The table of published and measured figures: as values, as text and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmdiad_bench.paper.published import CLASSES, PUBLISHED, SOURCE
from cmdiad_bench.paper.rows import FIGURES
from cmdiad_bench.unfinished_table import MISSING, missing_lines

HEADS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro_30": "AUPRO@30 %"}
ABSENT = "–"


def make_table(results: Mapping[str, Mapping[str, Any]], departures: Mapping[str, str]) -> dict[str, Any]:
    """Return the table as JSON-ready values.

    Args:
        results: Results by row and category, as `measure_rows` passes them to its `write`; some may be missing.
        departures: Settings that depart from the paper.
    """
    categories = list(next(iter(results.values()), {}))
    rows = []
    for name, row in results.items():
        published = PUBLISHED[name]
        complete = not any("failed" in result or MISSING in result for result in row.values())
        rows.append(
            {
                "row": name,
                "title": published.title,
                "published": {figure: getattr(published, figure) for figure in FIGURES},
                "measured": {figure: _mean(row, figure) if complete else None for figure in FIGURES},
                "categories": {category: dict(result) for category, result in row.items()},
            }
        )
    return {"rows": rows, "source": SOURCE, "notes": _notes(categories, departures), "departures": dict(departures)}


def as_text(table: Mapping[str, Any]) -> str:
    """Return the table as text with aligned columns."""
    cells = _cells(table)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([*lines, *_remarks(table)])


def as_markdown(table: Mapping[str, Any]) -> str:
    """Return the table as Markdown."""
    head, *lines = (f"| {' | '.join(line)} |" for line in _cells(table))
    rule = "|" + "---|" * (1 + 2 * len(FIGURES))
    return "\n".join([head, rule, *lines, "", *(f"- {remark}" for remark in _remarks(table))]) + "\n"


def _cells(table: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells line by line; each figure has a published and a measured column."""
    head = ["row", *(f"{HEADS[figure]}, {kind}" for figure in FIGURES for kind in ("published", "measured"))]
    lines = [
        [
            f"{row['title']} ({row['row']})",
            *(_number(row[kind][figure]) for figure in FIGURES for kind in ("published", "measured")),
        ]
        for row in table["rows"]
    ]
    return [head, *lines]


def _remarks(table: Mapping[str, Any]) -> list[str]:
    failures = [
        f"Failed: {row['row']}, {category}: {result['failed']}"
        for row in table["rows"]
        for category, result in row["categories"].items()
        if "failed" in result
    ]
    return [f"Published: {table['source']}.", *table["notes"], *failures, *_missing(table)]


def _missing(table: Mapping[str, Any]) -> list[str]:
    return missing_lines(
        {
            row["row"]: [category for category, result in row["categories"].items() if MISSING in result]
            for row in table["rows"]
        }
    )


def _notes(categories: Sequence[str], departures: Mapping[str, str]) -> list[str]:
    """Return what a reader must know before comparing the two columns."""
    count = f"{len(categories)} categor{'y' if len(categories) == 1 else 'ies'}"
    notes = [f"Measured: means over {count} ({', '.join(categories)}), each rounded to 3 digits first, as published."]
    reasons = []
    if set(categories) != set(CLASSES):
        reasons.append("the categories are not the ten classes of MVTec 3D-AD")
    if departures:
        changed = ", ".join(f"{name} {value}" for name, value in departures.items())
        reasons.append(f"settings depart from the paper: {changed}")
    return [*notes, *([f"Do not compare the columns: {'; '.join(reasons)}."] if reasons else [])]


def _mean(row: Mapping[str, Any], figure: str) -> float | None:
    values = [result[figure] for result in row.values()]
    if not values or any(value is None for value in values):
        return None
    return float(round(sum(round(value, 3) for value in values) / len(values), 3))


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"
