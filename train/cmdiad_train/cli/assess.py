"""`cmdiad-train --assess-modalities`: compare sensors before they are bought."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cmdiad_runtime.cli.each import ALL, table
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.newest import RUNS
from cmdiad_runtime.support.progress import TerminalReporter
from cmdiad_train.assessment.assess import PLOT, RESULT, SHEET, assess
from cmdiad_train.assessment.candidates import recipes_to_compare
from cmdiad_train.assessment.report import table_rows
from cmdiad_train.datasets import list_categories, open_category
from cmdiad_train.detectors.registry import AUTO, family_of
from cmdiad_train.fit.fit import FitOptions

_CONTRADICTING = ("modality", "parts", "mask", "calibration", "network_from", "distil_on", "paper")
"""Options that an assessment sets itself, or does not support."""


def run_assessment(
    data: Path,
    category: str | None,
    family: str,
    options: Mapping[str, Any],
    fit_options: FitOptions,
    out: Path | None,
) -> None:
    """Compare sensors, and print the table and the advice.

    Args:
        data: Data set.
        category: Category of the data set; None if there is only one.
        family: Detector family.
        options: Values of the options of the recipe and of `--assess-folds` by parameter name.
        fit_options: Machine and feature store.
        out: Folder of the assessment; None takes `runs/CATEGORY-sensors`.

    Raises:
        click.UsageError: An option contradicts an assessment.
    """
    context = click.get_current_context()
    for name in _CONTRADICTING:
        if context.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT):
            raise click.UsageError(f"--{name.replace('_', '-')} cannot be combined with --assess-modalities")
    if category == ALL or family == AUTO:
        raise click.UsageError("--assess-modalities needs one --category and one --family")
    recipes = recipes_to_compare(family_of(family), options, lambda: list_categories(data))
    opened = open_category(data, category)
    folder, reporter = out or RUNS / f"{opened.name}-sensors", TerminalReporter()
    result = assess(opened, recipes, folder, reporter, fit_options, folds=options["assess_folds"])
    reporter.close()
    click.echo(table(table_rows(result.outcome)))
    click.echo(
        f"{result.outcome.good} good samples, {result.outcome.tampered} of them with each defect; each was scored by "
        "detectors that never saw the sample."
    )
    click.echo(result.advice.sentence)
    for line in result.advice.certainty:
        click.echo(f"- {line}")
    click.echo(f"files: {', '.join(printable(folder / name) for name in (RESULT, PLOT, SHEET))}")
