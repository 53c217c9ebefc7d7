"""Compare sensors on good samples and tampered copies, before the sensors are bought."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.files import sha256_of, write_json
from cmdiad_runtime.support.lock import lock_folder
from cmdiad_runtime.support.progress import about
from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_train.assessment.advice import Advice, advise
from cmdiad_train.assessment.candidates import Candidate, colour_of, good_files, good_splits, prepare_candidate
from cmdiad_train.assessment.folds import Scores, fit_without, folds_of, score_fold
from cmdiad_train.assessment.outcome import Outcome, merged
from cmdiad_train.assessment.report import as_json, write_plot
from cmdiad_train.assessment.sheet import write_defect_sheet
from cmdiad_train.datasets import Category, SampleFiles
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.fit.before import check_before_work
from cmdiad_train.fit.fit import FitOptions
from cmdiad_train.fit.samples import MEMORY_BYTES
from cmdiad_train.fit.start import Request
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.tensors import read_json
from cmdiad_train.training.machine import memory_errors

RESULT, REQUEST, PLOT, SHEET = "assessment.json", "request.json", "assessment.png", "defects.png"
"""Files of an assessment: figures, what was compared, plot, and picture of the defects."""
WORK, SCORES = "work", "scores"
"""Folders of an assessment: files of detectors, deleted at the end, and the scores of each finished fold."""
MOST_TAMPERED = 40
"""Samples that are scored with every kind of defect; all good samples are scored unchanged."""
LEAST_SAMPLES = 6
"""Good samples that remain outside a fold: fewer cannot fit a detector and set its threshold."""
SHEET_SAMPLES = 3
"""Samples in the picture of the defects."""


@dataclass(frozen=True)
class Assessment:
    """Result of an assessment.

    Attributes:
        outcome: Figures of all detectors.
        advice: Advice that follows from the figures.
    """

    outcome: Outcome
    advice: Advice


def assess(
    category: Category,
    recipes: Mapping[str, Recipe],
    folder: Path,
    reporter: Reporter = SILENT,
    options: FitOptions | None = None,
    *,
    folds: int,
) -> Assessment:
    """Compare detectors on held-out good samples and on tampered copies; the test split is not read.

    Args:
        category: Category with image and cloud of each good sample.
        recipes: Recipe of each row of the table, from `recipes_to_compare`.
        folder: New folder, or the folder of an interrupted assessment, which continues after its last finished fold.
        reporter: Receiver of progress and lines.
        options: Machine and feature store.
        folds: Number of groups of samples that are left out in turn.

    Raises:
        RunError: Data or recipes cannot be used.
        OutputError: The folder holds something else, cannot be written to, or another process uses it.
    """
    good = good_files(category)
    if len(good) - -(-len(good) // folds) < LEAST_SAMPLES:
        raise RunError(
            category.folder,
            found=f"{len(good)} good samples with image and cloud for {folds} folds",
            expected=f"at least {LEAST_SAMPLES} samples outside each fold",
            action="Add good samples",
        )
    requests = _requests(category, good, recipes)
    options = options or FitOptions()
    for request in requests.values():
        check_before_work(request, folder, options.machine)
    with memory_errors(), _owned(folder, _described(recipes, good, folds)):
        scores = [*_scored_folds(requests, good, folder, reporter, options, folds)]
        outcome = Outcome(merged(scores))
        rate = next(iter(recipes.values())).false_reject_rate
        result = Assessment(outcome, advise(outcome, false_reject_rate=rate))
        write_plot(folder / PLOT, outcome)
        write_json(folder / RESULT, as_json(outcome, result.advice))
        shutil.rmtree(folder / WORK, ignore_errors=True)
    return result


def _requests(category: Category, good: Sequence[SampleFiles], recipes: Mapping[str, Recipe]) -> dict[str, Request]:
    families = {name: family_of(recipe.family) for name, recipe in recipes.items()}
    return {
        name: Request(category, recipe, families[name], good_splits(good, recipe, families[name]))
        for name, recipe in recipes.items()
    }


def _described(recipes: Mapping[str, Recipe], good: Sequence[SampleFiles], folds: int) -> dict[str, Any]:
    """Return everything that the scores depend on, as JSON-ready values."""
    return {
        "cmdiad": version("cmdiad"),
        "folds": folds,
        "recipes": {name: recipe.to_json() for name, recipe in recipes.items()},
        "samples": {printable(files.name): [sha256_of(path) for path in files.measured.values()] for files in good},
    }


@contextmanager
def _owned(folder: Path, described: dict[str, Any]) -> Iterator[None]:
    """Create the folder of an assessment if necessary, and own the folder until the block ends.

    Raises:
        OutputError: The folder holds something else, cannot be written to, or another process uses it.
    """
    if folder.exists() and not (folder / REQUEST).exists() and any(folder.iterdir()):
        raise OutputError(
            folder, found="a folder that is no assessment", expected="a new folder", action="Choose another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        if (folder / REQUEST).exists() and read_json(folder / REQUEST) != json.loads(json.dumps(described)):
            raise OutputError(
                folder,
                found="an assessment of other samples or options",
                expected="a new folder, or the same samples and options",
                action="Choose another --out",
            )
        write_json(folder / REQUEST, described)
        yield


def _scored_folds(
    requests: Mapping[str, Request],
    good: Sequence[SampleFiles],
    folder: Path,
    reporter: Reporter,
    options: FitOptions,
    folds: int,
) -> Iterator[Scores]:
    """Yield the scores of each fold, those of an interrupted assessment from its folder."""
    files = [folder / SCORES / f"{number}.json" for number in range(1, folds + 1)]
    if all(file.exists() for file in files):
        yield from (read_json(file) for file in files)
        return
    candidates = _prepared(requests, folder, reporter)
    samples = {one.name: one for one in good if all(one.name in candidate.files for candidate in candidates)}
    names = list(samples)
    seed, colour = candidates[0].recipe.seed, colour_of(candidates)
    shown = names[:: max(1, len(names) // SHEET_SAMPLES)][:SHEET_SAMPLES]
    write_defect_sheet(folder / SHEET, [samples[name].read(colour) for name in shown], seed=seed)
    started, done = time.monotonic(), 0
    left_out = folds_of(names, folds, seed=seed)
    for number, (file, fold) in enumerate(zip(files, left_out, strict=True), start=1):
        if not file.exists():
            detectors = []
            for candidate in candidates:
                reporter.say(f"Fold {number} of {folds}, {candidate.name}:")
                run = folder / WORK / f"{_slug(candidate.name)}-{number}"
                detectors.append(fit_without(candidate, fold, run, options, reporter))
            tampered, unseen = fold[: -(-MOST_TAMPERED // folds)], {name: samples[name] for name in fold}
            scores = score_fold(detectors, unseen, tampered, f"score fold {number}", reporter)
            file.parent.mkdir(exist_ok=True)
            write_json(file, scores)
            done += 1
            left = (time.monotonic() - started) / done * sum(not later.exists() for later in files)
            if left:
                reporter.say(f"Fold {number} of {folds} is finished; {about(left)} left.")
        yield read_json(file)


def _prepared(requests: Mapping[str, Request], folder: Path, reporter: Reporter) -> list[Candidate]:
    candidates = []
    for name, request in requests.items():
        reporter.say(f"{name[0].upper()}{name[1:]}:")
        place = folder / WORK / _slug(name)
        candidates.append(prepare_candidate(name, request, place, reporter, memory=MEMORY_BYTES // len(requests)))
    return candidates


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")
