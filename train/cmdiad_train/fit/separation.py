"""Check that a trained detector sees obvious artificial defects: after too short a training it does not."""

from __future__ import annotations

from collections.abc import Sequence

from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.names import Verdict
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.detectors.family import TrainedDetector
from cmdiad_train.fit.export_inputs import evenly_spread, measured_samples
from cmdiad_train.fit.figures import score_parts
from cmdiad_train.fit.samples import SampleProvider
from cmdiad_train.fit.splits import Splits

MOST_SAMPLES = 8
"""Held-out samples whose tampered copies are scored."""
LEAST_REJECTED = 0.5
"""Share of the tampered copies that must exceed the threshold."""


def scores_of_tampered(
    detector: TrainedDetector, verdict: Verdict, splits: Splits, samples: SampleProvider, reporter: Reporter
) -> list[float]:
    """Return the deciding scores of tampered copies of held-out samples; a copy that cannot be prepared has none.

    Args:
        detector: Trained detector.
        verdict: Score that decides.
        splits: Samples of the training, with one entry for each part.
        samples: Source of tampered copies, see `cmdiad_train.fit.tamper`.
        reporter: Receiver of progress.
    """
    entries = measured_samples(splits)  # The export needs their copies, so these are prepared already.
    scores: list[float] = []
    starts = evenly_spread(range(0, len(entries), splits.parts), MOST_SAMPLES)
    for number, start in enumerate(starts, start=1):
        if samples.try_tamper(entries[start]) is None:
            parts = [samples.tampered(files) for files in entries[start : start + splits.parts]]
            scores.append(score_parts(detector, verdict, parts)[0])
        reporter.step("inspect artificial defects", number, len(starts))
    return scores


def not_separated(tampered: Sequence[float], calibration: Calibration) -> str:
    """Return why a detector does not tell obvious artificial defects from good parts, or "" if it does.

    The text has no full stop at its end.

    Args:
        tampered: Deciding scores of tampered copies of held-out samples.
        calibration: Thresholds, and scores of the held-out samples.
    """
    if not tampered:
        return "No artificial defect could be shown to the detector, so nothing is known about what it detects"
    rejected = sum(not score <= calibration.score_threshold for score in tampered)  # not a number is never OK
    if rejected >= LEAST_REJECTED * len(tampered):
        return ""
    good = calibration.held_out_scores
    return (
        f"Only {rejected} of {len(tampered)} held-out samples with an obvious artificial defect exceed the threshold "
        f"(scores {min(tampered):.4g} to {max(tampered):.4g}, good samples {min(good):.4g} to {max(good):.4g}). The "
        "detector is not trained enough or does not suit these parts. Train with more epochs, with another family or "
        "with better features"
    )
