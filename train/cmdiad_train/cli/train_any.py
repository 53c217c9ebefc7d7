"""`cmdiad-train --modality any`: a detector for each pattern of modalities, for one bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cmdiad_runtime.cli.each import ALL
from cmdiad_runtime.cli.threshold_text import in_shell
from cmdiad_runtime.names import ANY, PATTERN_TEXTS, Sensors
from cmdiad_runtime.support.newest import RUNS
from cmdiad_runtime.support.output import say
from cmdiad_runtime.support.progress import TerminalReporter
from cmdiad_train.cli import idle_options
from cmdiad_train.cli.train_output import report_run_threshold, summarise
from cmdiad_train.detectors.registry import AUTO, family_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cmdiad_train.fit.fit import FitOptions
    from cmdiad_train.recipe import Recipe

_PATTERNS: tuple[Sensors, ...] = ("both", "rgb", "xyz")
"""Patterns in the order of the trainings. The first needs both modalities, so data without one is refused at once."""
_CONTRADICTING = ("network_from", "paper", "calibration", "partner")
"""Options that belong to one detector."""


def train_patterns(context: click.Context, fit_options: FitOptions) -> int:
    """Train the detectors of all patterns, print their figures and thresholds, and return the exit code.

    Args:
        context: Context of `cmdiad-train` with the values of all options.
        fit_options: Options of the trainings.

    Raises:
        click.UsageError: An option contradicts a bundle for whichever sensors arrive.
    """
    from cmdiad_train.datasets import open_category
    from cmdiad_train.fit.pattern_fit import fit_patterns

    options = context.params
    recipes = _recipes(context)
    data, category, reporter = options["data"], options["category"], TerminalReporter()
    family = family_of(options["family"])
    remarks = [line for recipe in recipes.values() for line in family.remarks(options, recipe)]
    for line in dict.fromkeys([*idle_options.warnings(context, recipes.values()), *remarks]):
        say(line)
    name = f"{open_category(data, category).name}-{ANY}-{family.run_name(recipes['rgb'])}"
    runs: Path = options["out"] or RUNS / name
    records = fit_patterns(data, category, recipes, runs, reporter, fit_options)
    reporter.close()
    for pattern, record in records.items():
        click.echo(f"samples with {PATTERN_TEXTS[pattern]}:")
        summarise(record, runs / pattern)
        report_run_threshold(runs / pattern, None, record.metrics)
    say(f"next: cmdiad-export {in_shell(runs)}")
    return 0


def _recipes(context: click.Context) -> dict[Sensors, Recipe]:
    """Return the recipe of each pattern. Hallucination replaces an absent modality, so `both` has none."""
    from cmdiad_train.assessment.candidates import without_hallucination
    from cmdiad_train.datasets import list_categories

    options = context.params
    for name in _CONTRADICTING:
        if context.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT):
            raise click.UsageError(f"--{name.replace('_', '-')} cannot be combined with --modality {ANY}")
    if options["category"] == ALL or options["family"] == AUTO:
        raise click.UsageError(f"--modality {ANY} needs one --category and one --family")
    if options["rgb_mask"] == "cloud":
        raise click.UsageError(f"--rgb-mask cloud needs a cloud of every sample, which --modality {ANY} does not")
    family = family_of(options["family"])

    def recipe_of(pattern: Sensors) -> Recipe:
        own: Mapping[str, Any] = without_hallucination(family.name) if pattern == "both" else {}
        return family.recipe({**options, "modality": pattern, **own}, lambda: list_categories(options["data"]))

    return {pattern: recipe_of(pattern) for pattern in _PATTERNS}
