"""Row of a detector in the tables: state of its job, and figures of its run and bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cmdiad_fleet.training.job import LOG, Job, Outcome
from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.printable import printable


@dataclass(frozen=True, kw_only=True)
class Row:
    """Row of one detector. Figures that do not exist are None, for example without a test split.

    Attributes:
        name: Name of the detector.
        data: Folder of the data set.
        category: Category of the data set.
        recipe: Name of the recipe.
        state: "trained", "kept", "failed" or "not finished".
        reason: Reason of a failure, or "".
        warning: Reason why the figures are too weak to use the detector, or "".
        options: Options that a sweep chose.
        image_auroc: Area under the ROC curve of the image scores on the test split.
        pixel_auroc: Area under the ROC curve of the map values.
        aupro_30: Area under the PRO curve up to a false-positive rate of 30 %.
        missed: Number of defects below the threshold.
        defects: Number of defects of the test split.
        rejected: Number of good samples above the threshold.
        good: Number of good samples of the test split.
        threshold: Score above which a part is NG.
        held_out: Number of good samples that set the threshold.
        precision: Precision of the graph.
        certified_share: Largest difference of a score from the trained detector, as a share of the threshold.
        certified_flips: Number of golden samples with another verdict.
        size_mb: Size of the bundle in megabytes (1e6 bytes).
        seconds: Wall time of training and export.
        folder: Folder of the detector in the folder of the fleet.
        log: Path of the log in the folder of the fleet, or "".
    """

    name: str
    data: str
    category: str
    recipe: str
    state: str
    reason: str = ""
    warning: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    image_auroc: float | None = None
    pixel_auroc: float | None = None
    aupro_30: float | None = None
    missed: int | None = None
    defects: int | None = None
    rejected: int | None = None
    good: int | None = None
    threshold: float | None = None
    held_out: int | None = None
    precision: str = ""
    certified_share: float | None = None
    certified_flips: int | None = None
    size_mb: float | None = None
    seconds: float | None = None
    folder: str = ""
    log: str = ""


def row_of(job: Job, outcome: Outcome | None, options: Mapping[str, Any]) -> Row:
    """Return the row of a detector.

    A run or bundle that cannot be read makes the detector a failed one: nothing is reported that was not read.

    Args:
        job: Job of the detector.
        outcome: How the job ended; None if it has not ended.
        options: Options that a sweep chose.
    """
    detector = job.detector
    row = Row(
        name=printable(detector.name),
        data=printable(str(detector.data)),
        category=printable(detector.category),
        recipe=detector.recipe,
        state="not finished",
        options=options,
        folder=job.folder.name,
        log=f"{job.folder.name}/{LOG}" if (job.folder / LOG).is_file() else "",
    )
    if outcome is None:
        return row
    state = "kept" if outcome.kept else outcome.state
    row = replace(row, state=state, reason=outcome.reason, seconds=outcome.seconds)
    if outcome.state != "trained":
        return row
    try:
        return replace(row, **_figures_of_run(job), **({} if job.export is None else _figures_of_bundle(job)))
    except (CmdiadError, OSError) as error:
        return replace(row, state="failed", reason=printable(str(error)))


def _figures_of_run(job: Job) -> dict[str, Any]:
    from cmdiad_train.evaluation.weakness import weakness
    from cmdiad_train.runs.record import read_record
    from cmdiad_train.runs.run import load_calibration

    metrics, calibration = read_record(job.run).metrics, load_calibration(job.run)
    figures: dict[str, Any] = {
        "threshold": calibration.score_threshold,
        "held_out": len(calibration.held_out_scores),
    }
    if metrics is None:
        return figures
    return {
        **figures,
        **{name: metrics[name] for name in ("image_auroc", "pixel_auroc", "aupro_30")},
        "missed": metrics["missed_defects"],
        "defects": metrics["samples"] - metrics["good"],
        "rejected": metrics["false_rejects"],
        "good": metrics["good"],
        "warning": weakness(metrics),
    }


def _figures_of_bundle(job: Job) -> dict[str, Any]:
    from cmdiad_runtime.bundle.bundle import Bundle

    manifest = Bundle.open(job.bundle).record
    comparisons = manifest.certificate.comparisons
    return {
        "precision": manifest.graph.precision,
        "certified_share": max(comparison.score_max_share for comparison in comparisons),
        "certified_flips": sum(comparison.label_flips for comparison in comparisons),
        "size_mb": sum(file.bytes for file in manifest.files.values()) / 1e6,
    }
