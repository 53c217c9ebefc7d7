"""Train one detector for each pattern of modalities, on the same data with the same feature store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmdiad_runtime.names import PATTERN_TEXTS, Sensors
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.pattern_runs import own_pattern_runs
from cmdiad_train.runs.record import RunRecord


def fit_patterns(
    data: Path,
    category: str | None,
    recipes: Mapping[Sensors, Recipe],
    runs: Path,
    reporter: Reporter,
    options: FitOptions,
) -> dict[Sensors, RunRecord]:
    """Train the detectors of all patterns into one folder, or resume an interrupted training.

    Args:
        data: Data set.
        category: Category of the data set; None if there is only one.
        recipes: Recipe of each pattern.
        runs: New folder, or the folder of an earlier training of all patterns. Each run is a folder in it.
        reporter: Receiver of progress, and of a line if the patterns do not set their thresholds with the same samples.
        options: Options of the trainings.

    Returns:
        The record of the run of each pattern.

    Raises:
        RunError: See `fit`.
        OutputError: See `fit`; or the folder `runs` holds something else.
    """
    own_pattern_runs(runs)
    records: dict[Sensors, RunRecord] = {}
    for pattern, recipe in recipes.items():
        reporter.say(f"Samples with {PATTERN_TEXTS[pattern]}:")
        records[pattern] = fit(data, category, recipe, runs / pattern, reporter, options)
    held_out = {pattern: frozenset(record.data.held_out) for pattern, record in records.items()}
    if len(set(held_out.values())) > 1:
        counts = ", ".join(f"{pattern} {len(names)}" for pattern, names in held_out.items())
        reporter.say(
            f"The thresholds of the patterns rest on different held-out samples ({counts}), because some samples lack "
            "a modality or could not be used."
        )
    return records
