"""Train and evaluate the rows of the paper's tables, one category after the other; finished ones are not repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cmdiad_bench.failures import FAILURES, result_or_failure
from cmdiad_bench.kept_results import (
    DIGITS,
    kept_settings,
    outdated_text,
    remove_outdated,
    require_defects,
    require_kept_settings,
    settings_file,
    stored_result,
    training_digest,
    without_figures,
)
from cmdiad_bench.paper.published import PUBLISHED
from cmdiad_bench.settings import setting_errors
from cmdiad_bench.unfinished_table import Part, fill
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.cli.train import cli as train_command
from cmdiad_train.datasets import Category, list_categories, open_category
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.features import default_folder
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.recipe import Recipe
from cmdiad_train.training.machine import Machine

FIGURES = ("image_auroc", "pixel_auroc", "aupro_30")
Results = dict[str, dict[str, dict[str, Any]]]
"""Figures (`FIGURES`), the failure (`failed`) or `unfinished_table.MISSING` by row and category."""
_WEIGHTS = ("rgb-weights", "xyz-weights")


@dataclass(frozen=True)
class PaperOptions:
    """Options of a table.

    Attributes:
        rows: Names of the rows.
        categories: Categories that are evaluated; empty for all of the data set.
        settings: Options of `cmdiad-train` by name without dashes, in addition to `--paper`.
        machine: Device and disk space of the trainings.
    """

    rows: tuple[str, ...] = tuple(PUBLISHED)
    categories: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    machine: Machine = field(default_factory=Machine)

    @property
    def departures(self) -> dict[str, str]:
        """Return the settings that depart from the paper: all but files of weights."""
        return {
            name: value for name, value in self.settings.items() if name not in _WEIGHTS or value in ("seeded", "timm")
        }


def measure_rows(
    data: Path, out: Path, options: PaperOptions, reporter: Reporter, write: Callable[[Results], dict[str, Any]]
) -> dict[str, Any]:
    """Train and evaluate every row on every category.

    A result is kept in `out/results` with a digest of program, recipe, weights and data, and is used again as
    long as the digest is the same. A failure is named in the table and tried again by the next call. The traceback of
    an unforeseen error is in `out/failures`.

    Args:
        data: Data set with images and clouds.
        out: Folder of the table, the results and the runs.
        options: Rows, categories and settings.
        reporter: Receiver of progress.
        write: Function that writes the table and returns it, called before the first training and after each one.

    Returns:
        The table of all results.

    Raises:
        RunError: The data set or a category does not exist.
        OutputError: `out` has results of another recipe or other data, which would be replaced.
        click.UsageError: A setting is no option of `cmdiad-train`, or has an impossible value.
    """
    everything = list_categories(data)
    chosen = options.categories or tuple(everything)
    opened = [open_category(data, name) for name in chosen]
    jobs = {row: _Row(row, out, options, tuple(everything), reporter) for row in options.rows}
    for job in jobs.values():
        job.require_kept_settings(opened)
    parts = {
        (row, category.name): Part(partial(job.kept, category), partial(job.measure, category))
        for row, job in jobs.items()
        for category in opened
    }
    return fill(parts, write)


class _Row:
    """One row of the table; the network of the first category serves the others, because all categories train it."""

    def __init__(
        self, name: str, out: Path, options: PaperOptions, everything: tuple[str, ...], reporter: Reporter
    ) -> None:
        self.name, self.out, self.options, self.reporter = name, out, options, reporter
        self.everything = everything
        self.network: Path | None = None

    def require_kept_settings(self, categories: Sequence[Category]) -> None:
        """Raise OutputError if the folder has results of the row with another recipe or other data."""
        with suppress(RunError):  # Missing weights are the failure of the row.
            recipe = recipe_of(self.name, self.options, self.everything)
            for category in categories:
                file = settings_file(self.out, f"{self.name}-{category.name}")
                require_kept_settings(self.out, file, f"{self.name}, {category.name}", recipe, category)

    def kept(self, category: Category) -> dict[str, Any] | None:
        """Return the figures of an earlier call, or None."""
        file = self._file(category)
        if not file.exists():
            return None
        recipe = recipe_of(self.name, self.options, self.everything)
        return stored_result(file, training_digest(recipe, category, self._joint(recipe)))

    def measure(self, category: Category) -> dict[str, Any]:
        """Return the figures of a category, or the failure."""
        file = self.out / FAILURES / f"{self.name}-{category.name}.txt"
        return result_or_failure(f"{self.name}, {category.name}", file, lambda: self._measure(category), self.reporter)

    def _measure(self, category: Category) -> dict[str, Any]:
        recipe = recipe_of(self.name, self.options, self.everything)
        digest = training_digest(recipe, category, self._joint(recipe))
        file = self._file(category)
        run = self.out / "runs" / f"{self.name}-{category.name}-{digest[:DIGITS]}"
        result = stored_result(file, digest)
        if result is None:
            require_defects(category, recipe)
            self.reporter.say(f"{self.name}, {category.name}: training{outdated_text(file, digest)}")
            remove_outdated(run, f"{self.name}-{category.name}-")
            run.parent.mkdir(parents=True, exist_ok=True)
            options = FitOptions(self.options.machine, self.network, default_folder())
            with kept_settings(settings_file(self.out, f"{self.name}-{category.name}"), recipe, category):
                record = fit(category.root, category.name, recipe, run, self.reporter, options)
            if record.metrics is None:
                raise without_figures(category)
            result = {"digest": digest, **{name: record.metrics[name] for name in ("samples", *FIGURES)}}
            file.parent.mkdir(exist_ok=True)
            write_json(file, result)
        if self._joint(recipe) and self.network is None and run.is_dir():
            self.network = run
        return result

    def _file(self, category: Category) -> Path:
        return self.out / "results" / f"{self.name}-{category.name}.json"

    def _joint(self, recipe: Recipe) -> tuple[str, ...]:
        return family_of(recipe.family).joint_categories(recipe)


def recipe_of(row: str, options: PaperOptions, everything: Sequence[str]) -> Recipe:
    """Return the recipe of a row, with the settings of the table.

    Raises:
        RunError: Published weights are missing, or settings contradict each other.
        click.UsageError: A setting is no option of `cmdiad-train`, or has an impossible value.
    """
    arguments = [part for name, value in options.settings.items() for part in (f"--{name}", value)]
    with setting_errors(options.settings):
        context = train_command.make_context("cmdiad-train", ["DATA", "--paper", row, *arguments])
        values = dict(context.params)
        if options.departures:
            values["paper"] = None  # a recipe with other values is not the row of the paper
        return family_of(values["family"]).recipe(values, lambda: everything)
