"""`cmdiad-train --assess-modalities`: compare sensors before they are bought."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cmdiad_runtime.cli.each import ALL, table
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import option_group
from cmdiad_runtime.support.newest import RUNS
from cmdiad_runtime.support.progress import TerminalReporter
from cmdiad_train.detectors.registry import AUTO, family_of

if TYPE_CHECKING:
    from cmdiad_train.fit.fit import FitOptions

ASSESSMENT = option_group(
    "Choice of sensors",
    click.option(
        "--assess-modalities",
        is_flag=True,
        help="Train no detector for use. Compare camera, 3D sensor and both, with and without hallucination, on "
        "held-out good samples and realistic defects put on them; the test split is not read (docs/cross-modal.md).",
    ),
    click.option(
        "--assess-folds",
        type=click.IntRange(2, 20),
        default=3,
        help="Number of groups of good samples that are left out in turn with --assess-modalities.",
    ),
)
"""Options of `cmdiad-train` for an assessment."""

_CONTRADICTING = ("modality", "parts", "mask", "calibration", "network_from", "distil_on", "paper", "partner")
"""Options that an assessment sets itself, or does not support."""


def run_assessment(context: click.Context, fit_options: FitOptions) -> int:
    """Compare sensors, print the table and the advice, and return the exit code.

    Args:
        context: Context of `cmdiad-train` with the values of all options.
        fit_options: Machine and feature store.

    Raises:
        click.UsageError: An option contradicts an assessment.
    """
    from cmdiad_train.assessment.assess import PLOT, RESULT, SHEET, assess
    from cmdiad_train.assessment.candidates import recipes_to_compare
    from cmdiad_train.assessment.report import table_rows
    from cmdiad_train.datasets import list_categories, open_category

    options = context.params
    for name in _CONTRADICTING:
        if context.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT):
            raise click.UsageError(f"--{name.replace('_', '-')} cannot be combined with --assess-modalities")
    if options["category"] == ALL or options["family"] == AUTO:
        raise click.UsageError("--assess-modalities needs one --category and one --family")
    data = options["data"]
    recipes = recipes_to_compare(family_of(options["family"]), options, lambda: list_categories(data))
    category, reporter = open_category(data, options["category"]), TerminalReporter()
    folder = options["out"] or RUNS / f"{category.name}-sensors"
    result = assess(category, recipes, folder, reporter, fit_options, folds=options["assess_folds"])
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
    return 0
