"""`--category all`: the same work for each category, with one table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import click

from cmdiad_runtime.errors import CmdiadError, OutputError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.output import say
from cmdiad_runtime.support.progress import about

ALL = "all"
"""Value of `--category` that stands for every category."""

KEPT = "kept"
"""Result of a work that an earlier command has finished."""

FIGURE_NAMES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro_30": "AUPRO@30%"}
"""Figures of a table and their headings."""

Cells = Mapping[str, str]
"""Texts of a row of the table, by column."""


def for_each(
    names: Sequence[str], work: Callable[[str], Cells], *, first_column: str = "category", following: str = ""
) -> int:
    """Do some work for each name, whether or not it fails for another one, and print a table of the results.

    Args:
        names: Names, for example of categories.
        work: Function that does the work for a name and returns cells for the table. "result" is the last column.
        first_column: Heading of the names.
        following: Next command to give if the work has succeeded for at least one name; "" for none.

    Returns:
        The exit code of the first work that failed, or 0.
    """
    rows: list[Cells] = []
    code = failures = 0
    spent: list[float] = []
    try:
        for number, name in enumerate(names, start=1):
            left = f", {about(sum(spent) / len(spent) * (len(names) - number + 1))} left" if spent else ""
            say(f"[{number}/{len(names)}] {printable(name)}{left}")
            start = time.monotonic()
            try:
                cells = work(name)
            except (CmdiadError, OSError) as error:
                failed = error.exit_code if isinstance(error, CmdiadError) else OutputError.exit_code
                text = printable(str(error))
                say(f"error: {text}")
                code = code or failed
                cells = {"result": f"failed, exit code {failed}: {text}"}
                failures += 1
            else:
                spent += [] if cells["result"] == KEPT else [time.monotonic() - start]
            rows.append({first_column: printable(name), **cells})
    finally:  # An interruption keeps what is finished, too.
        click.echo(table(rows))
    if following and failures < len(names):
        say(f"next: {following}")
    return code


def table(rows: Sequence[Cells]) -> str:
    """Return rows as a text table; the columns are those of all rows, with "result" last."""
    columns = list(dict.fromkeys(column for row in rows for column in row if column != "result"))
    columns += ["result"] if any("result" in row for row in rows) else []
    lines = [columns, *([row.get(column, "-") for column in columns] for row in rows)]
    widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def as_figure(value: float | None) -> str:
    """Return a share with three digits, "-" if there is none."""
    return "-" if value is None else f"{value:.3f}"
