"""Scores of good samples and of tampered copies, from detectors that never saw the sample."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cmdiad_runtime.bundle.threshold import calibrate_threshold
from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.preprocess.prepare import Prepared, Preprocessing, prepare_parts
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.assessment.candidates import Candidate, colour_of
from cmdiad_train.assessment.defects import DEFECTS, GoodPart, inflict
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.detectors.family import FitContext, TrainedDetector
from cmdiad_train.fit.figures import score_parts
from cmdiad_train.fit.fit import FitOptions
from cmdiad_train.fit.splits import hold_out
from cmdiad_train.training.validation import random_folds

GOOD = "good"
"""Name of the unchanged copy of a sample in scores."""

Scores = dict[str, dict[str, dict[str, float | None]]]
"""Scores as multiples of the threshold, by sample, copy ("good" or a kind of defect) and detector; None if the
detector refuses the copy, which inspection reports as a reject."""


@dataclass(frozen=True)
class FoldDetector:
    """A detector that was fitted without the samples of one fold.

    Attributes:
        candidate: Recipe, view and samples of the detector.
        detector: Detector in fp32 on the CPU.
        threshold: Score above which a sample is rejected.
    """

    candidate: Candidate
    detector: TrainedDetector
    threshold: float


def folds_of(names: Sequence[str], folds: int, *, seed: int) -> list[list[str]]:
    """Return the samples of each fold in random order; every sample is in one fold, see `random_folds`.

    Args:
        names: Names of the samples.
        folds: Number of folds.
        seed: Seed of the order.
    """
    return [[names[place] for place in fold] for fold in random_folds(len(names), folds, seed=seed)]


def fit_without(
    candidate: Candidate, fold: Sequence[str], run: Path, options: FitOptions, reporter: Reporter
) -> FoldDetector:
    """Fit a detector on the samples outside a fold, and compute its threshold as a training does.

    Args:
        candidate: The detector.
        fold: Names of the samples that the detector must not see.
        run: Folder for the files of the fit; an interrupted fit resumes.
        options: Machine and feature store.
        reporter: Receiver of progress.

    Raises:
        RunError: The threshold is not above 0, so scores are no multiples of the threshold.
    """
    run.mkdir(parents=True, exist_ok=True)
    unseen = {*fold}
    train, held_out = hold_out([files for name, files in candidate.files.items() if name not in unseen])
    context = FitContext(
        run=run,
        recipe=candidate.recipe,
        preprocessing=candidate.preprocessing,
        train=train,
        held_out=held_out,
        joint={},
        samples=candidate.samples,
        device=options.machine.torch_device(),
        features=options.features or run.parent / "features",
        cache_bytes=options.machine.cache_bytes,
        taken_over=False,
        reporter=reporter,
    )
    fitted = candidate.family.fit(context)
    scores = fitted.peaks if candidate.recipe.verdict == "map" else fitted.scores
    threshold = calibrate_threshold(scores, candidate.recipe.false_reject_rate).value
    if not threshold > 0:
        raise RunError(
            f"family {candidate.family.name}",
            found=f"a threshold of {threshold:.3g}",
            expected="scores above 0, which can be compared between folds",
            action="Choose another --family",
        )
    return FoldDetector(candidate, fitted.detector, threshold)


def score_fold(
    detectors: Sequence[FoldDetector],
    samples: Mapping[str, SampleFiles],
    tampered: Collection[str],
    step: str,
    reporter: Reporter,
) -> Scores:
    """Score the samples of a fold, unchanged and with each kind of defect, with detectors that never saw them.

    Args:
        detectors: Detectors that were fitted without the fold.
        samples: Files of the samples of the fold, with image and cloud, by name.
        tampered: Names of the samples that are also scored with defects.
        step: Name of this work in progress reports.
        reporter: Receiver of progress, and of a line for each sample that cannot be tampered with.
    """
    candidates = [one.candidate for one in detectors]
    seed, colour = candidates[0].recipe.seed, colour_of(candidates)
    scores: Scores = {}
    for name, files in samples.items():
        sample = files.read(colour)
        copies = {GOOD: sample}
        if name in tampered:
            part = guarded(name, partial(GoodPart, sample))
            if isinstance(part, InputError):
                reporter.say(f"{name} is scored without defects: found {part.found}.")
            else:
                copies |= {kind: inflict(kind, part, seed=seed) for kind in DEFECTS}
        scores[name] = {copy: _score(detectors, changed) for copy, changed in copies.items()}
        reporter.step(step, len(scores), len(samples))
    return scores


def _score(detectors: Sequence[FoldDetector], sample: Sample) -> dict[str, float | None]:
    """Return the score of each detector. Detectors with the same preprocessing share the prepared sample."""
    prepared: list[tuple[Preprocessing, tuple[Prepared, ...] | InputError]] = []
    scores: dict[str, float | None] = {}
    for one in detectors:
        candidate, score = one.candidate, math.nan
        known = [parts for settings, parts in prepared if settings == candidate.preprocessing]
        if not known:
            measured = candidate.measured(sample)
            known = [guarded(sample.name, partial(prepare_parts, measured, candidate.preprocessing))]
            prepared.append((candidate.preprocessing, known[0]))
        if not isinstance(known[0], InputError):
            score, _ = score_parts(one.detector, candidate.recipe.verdict, known[0])
        scores[candidate.name] = score / one.threshold if math.isfinite(score) else None
    return scores
