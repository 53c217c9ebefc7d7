"""The choice of the detector family (`--family auto`): train each, and keep the one that sees small changes best."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cmdiad_runtime.errors import InputError, OutputError, RunError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_train.datasets import SampleFiles, open_category
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.evaluation.metrics import auroc
from cmdiad_train.fit.figures import sample_scorer
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.fit.run_folder import check_free
from cmdiad_train.fit.splits import split
from cmdiad_train.fit.tamper import tamper
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.record import FILE, RunRecord, read_record
from cmdiad_train.runs.run import Run, load_run
from cmdiad_train.runs.tensors import damaged, read_json

CHOICE = "family-choice.json"
"""File of a run with the chosen family, and the evidence for each one."""
STRENGTHS = (0.03, 0.1, 0.3)
"""Strengths of the changes; obvious ones, of strength 1, are seen by every family."""
MOST_SAMPLES = 12
"""Held-out samples that are tampered with."""
TIE = 0.01
"""Families whose evidence differs by less are equally good, and the first one is chosen."""


@dataclass(frozen=True)
class Evidence:
    """How well a detector separates good samples from slightly changed copies.

    Attributes:
        separation: Share of pairs of a changed and a good sample in which the changed sample has the higher score.
            Good samples are the unchanged held-out ones, which are the same for every family.
        rejected: Share of the changed samples whose score exceeds the threshold.
        samples: Number of changed samples.
    """

    separation: float
    rejected: float
    samples: int


def fit_best_family(
    data: Path,
    category: str | None,
    recipes: Mapping[str, Recipe],
    run: Path,
    reporter: Reporter = SILENT,
    options: FitOptions | None = None,
) -> RunRecord:
    """Train a detector of each family, and keep the best one as the run.

    The others are deleted in the end. Until then all of them are in the folder `RUN-families`, so that an interrupted
    training resumes.

    Args:
        data: Data set.
        category: Category of the data set; None if there is only one.
        recipes: Recipe of each family by name; the first one is kept if the evidence is equal.
        run: New folder, or the folder of an earlier choice.
        reporter: Receiver of progress, and of the reason for the choice.
        options: Options of the training; networks of another run cannot be taken over.

    Returns:
        The record of the run.

    Raises:
        RunError: Data or recipes cannot be used.
        OutputError: The folder holds something else, or cannot be written to.
    """
    folder = run.with_name(f"{run.name}-families")
    if (run / FILE).exists():
        record = fit(data, category, recipes[_finished(run, recipes)], run, reporter, options)
        _discard(folder, recipes)
        return record
    if (folder / CHOICE).exists():
        chosen = _chosen(folder, recipes)
        fit(data, category, recipes[chosen], folder / chosen, reporter, options)  # finished, unless the recipe differs
    else:
        check_free(run)
        evidence = {}
        for name, recipe in recipes.items():
            reporter.say(f"Family {name}:")
            fit(data, category, recipe, folder / name, reporter, options)
            evidence[name] = evidence_of(load_run(folder / name), held_out_samples(data, category, recipe), reporter)
        chosen = choose_family(evidence)
        write_json(
            folder / CHOICE, {"family": chosen, "evidence": {name: asdict(one) for name, one in evidence.items()}}
        )
        reporter.say(f"Family: {chosen}. {describe(evidence)}")
    _keep(folder, chosen, run)
    _discard(folder, recipes)
    return read_record(run)


def choose_family(evidence: Mapping[str, Evidence]) -> str:
    """Return the family with the best separation; the first of those that are equally good."""
    best = max(one.separation for one in evidence.values())
    return next(name for name, one in evidence.items() if one.separation > best - TIE)


def describe(evidence: Mapping[str, Evidence]) -> str:
    """Return the evidence for each family as a sentence."""
    samples = next(iter(evidence.values())).samples
    shares = ", ".join(f"{name} {one.separation:.1%}" for name, one in evidence.items())
    return f"Share of slightly changed samples ({samples}) that score higher than good ones: {shares}."


def evidence_of(run: Run, held_out: list[SampleFiles], reporter: Reporter = SILENT) -> Evidence:
    """Return how well a detector separates held-out good samples from slightly changed copies.

    Args:
        run: Finished run.
        held_out: Files of held-out samples, of which some are changed.
        reporter: Receiver of progress.

    Raises:
        RunError: No changed sample can be inspected.
    """
    score = sample_scorer(run.detector, run.record)
    good: list[float] = []
    changed: list[float] = []
    names = set(run.record.data.held_out)
    files = [sample for sample in held_out if printable(sample.name) in names][:MOST_SAMPLES]
    for number, sample in enumerate(files, start=1):
        with suppress(InputError):
            read = sample.read(run.preprocessing.colour)
            good.append(score(read)[0])
            for strength in STRENGTHS:
                with suppress(InputError):
                    changed.append(score(tamper(read, run.preprocessing, strength=strength))[0])
        reporter.step(f"compare families: {run.recipe.family}", number, len(files))
    if not changed:
        raise RunError(
            run.path,
            found="no held-out sample that can be inspected after a change",
            expected="samples to compare families on",
            action="Choose one with --family",
        )
    labels, above = np.repeat([0, 1], [len(good), len(changed)]), np.array(changed) > run.calibration.score_threshold
    return Evidence(auroc(labels, np.array([*good, *changed])), float(above.mean()), len(changed))


def held_out_samples(data: Path, category: str | None, recipe: Recipe) -> list[SampleFiles]:
    """Return the files of the held-out samples of a training, for `evidence_of`. The test split is not read."""
    opened = open_category(data, category, recipe.image_modality)
    return list(split(opened, recipe, family_of(recipe.family), test=False).held_out)


def _finished(run: Path, recipes: Mapping[str, Recipe]) -> str:
    """Return the family of an earlier run; OutputError if that family is not among the recipes."""
    family = read_record(run).recipe.family
    if family not in recipes:
        raise OutputError(
            run, found=f"a run of the family {family}", expected="a new folder", action="Choose another --out"
        )
    return family


def _chosen(folder: Path, recipes: Mapping[str, Recipe]) -> str:
    """Return the family that an interrupted training has chosen."""
    family = read_json(folder / CHOICE).get("family")
    if family not in recipes:
        raise damaged(folder / CHOICE, ValueError(f"no family, but {family!r:.40}"))
    return str(family)


def _keep(folder: Path, chosen: str, run: Path) -> None:
    """Move the files of the chosen run into the folder of the run, `run.json` last."""
    run.mkdir(parents=True, exist_ok=True)
    for path in sorted((folder / chosen).iterdir(), key=lambda path: path.name == FILE):
        if path.name == FILE:
            shutil.copyfile(folder / CHOICE, run / CHOICE)
        path.replace(run / path.name)


def _discard(folder: Path, families: Iterable[str]) -> None:
    """Delete the runs of all families, and their folder if nothing else is in it."""
    for name in families:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / CHOICE).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
