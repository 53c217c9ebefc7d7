"""Measure the accuracy of a bundle, as it runs on the line, on a labelled test split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_bench.latency import describe
from cmdiad_runtime.envelope.names import CHECKS
from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.printable import printable
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import GOOD, Category, LeftOut, SampleFiles, open_category
from cmdiad_train.evaluation.evaluate import ScoredSplit, collect


@dataclass(frozen=True)
class Verdict:
    """Verdict on one test sample, with all checks of the bundle.

    Attributes:
        name: Name of the sample, for example `test/dent/003`.
        defect: Name of the defect, or "good".
        reason: Reason of the verdict NG, see `cmdiad_runtime.reasons`; None for OK.
        message: The reason in one line for people; "" for OK.
        inspected: True if the detector scored the sample on the line, with all checks of the bundle.
    """

    name: str
    defect: str
    reason: str | None
    message: str
    inspected: bool

    @property
    def rejected(self) -> bool:
        """Return True for the verdict NG."""
        return self.reason is not None


@dataclass(frozen=True)
class Inspected:
    """Scores, maps and verdicts of a bundle on the test split of one category.

    Attributes:
        category: Category that the samples belong to.
        outcomes: Scores, maps and masks of the `n` samples that can be scored; checks before scoring do not count.
        verdicts: Verdict on every sample of the split, in order; with all checks, as on the line.
    """

    category: Category
    outcomes: ScoredSplit
    verdicts: tuple[Verdict, ...]

    @property
    def rejected(self) -> npt.NDArray[np.bool_]:
        """Return True for each scored sample with the verdict NG, bool `[n]`."""
        rejected = {verdict.name: verdict.rejected for verdict in self.verdicts}
        return np.array([rejected[printable(files.name)] for files in self.outcomes.files], dtype=np.bool_)


def measure_accuracy(inspector: Inspector, data: Path, category: str | None, reporter: Reporter) -> dict[str, Any]:
    """Measure image AUROC, pixel AUROC, AUPRO and the verdicts at the bundle's threshold on `data/category/test`.

    Only the files of the bundle's modality are read. A sample that cannot be read or inspected is NG and counts so in
    the verdicts; figures of scores leave the sample out, and `not_inspected` counts these samples. The checks of a
    bundle before scoring count in the verdicts, not in the scores. Without good test samples, the image AUROC compares
    the defects with the held-out scores of the bundle; without defects, there is no AUROC.

    Raises:
        RunError: The data set has no test samples, or no sample of one kind can be scored.
    """
    inspected = inspect_test_split(inspector, data, category, reporter)
    if not inspected.verdicts:
        raise RunError(
            inspected.category.folder,
            found="no test samples",
            expected="test/good or at least one defect folder",
            action="Add test samples, or check DATA and --category",
        )
    for line in inspected.outcomes.lines():
        reporter.say(line)
    return figures(inspector, inspected)


def inspect_test_split(inspector: Inspector, data: Path, category: str | None, reporter: Reporter) -> Inspected:
    """Inspect every sample of `data/category/test`, of which there may be none.

    Raises:
        RunError: No sample of one kind can be scored although there are samples of this kind.
    """
    preprocessing = inspector.bundle.preprocessing
    opened = open_category(data, category, preprocessing.image_modality)
    listing = opened.usable("test", preprocessing.modalities)
    samples = listing.samples
    inspections: dict[str, Inspection] = {}
    without_checks = unchecked(inspector)

    def score(sample: Sample) -> tuple[float, npt.NDArray[np.float32]]:
        inspections[sample.name] = inspection = inspector.inspect(sample)
        if inspection.map is None:
            inspection = without_checks.inspect(sample)
        if inspection.map is None:
            error = inspection.message or "The sample cannot be inspected"
            raise InputError("", found=error, action="remove the sample", reason=inspection.reason or "internal")
        return inspection.score, inspection.map

    incomplete = [LeftOut.because(name, "test", error) for name, error in listing.incomplete.items()]
    held_out = inspector.bundle.calibration.held_out_scores
    outcomes = collect(score, preprocessing, samples, reporter, incomplete, held_out)
    scored = set(outcomes.defects == GOOD)
    if any((sample.defect == GOOD) not in scored for sample in outcomes.left_out):
        raise _nothing_scored(opened, outcomes)
    return Inspected(opened, outcomes, tuple(_verdicts(samples, inspections, outcomes)))


def figures(inspector: Inspector, inspected: Inspected) -> dict[str, Any]:
    """Return the figures of `measure_accuracy` for an inspected test split."""
    good = [verdict for verdict in inspected.verdicts if verdict.defect == GOOD]
    defective = [verdict for verdict in inspected.verdicts if verdict.defect != GOOD]
    return {
        "category": inspected.category.name,
        **inspected.outcomes.summary(),
        "threshold": inspector.bundle.calibration.score_threshold,
        "false_rejects": sum(verdict.rejected for verdict in good),
        "missed_defects": sum(not verdict.rejected for verdict in defective),
        "reasons": {"good": _reasons(good), "defects": _reasons(defective)},
        **describe(inspector),
    }


def unchecked(inspector: Inspector) -> Inspector:
    """Return an inspector with the same engine that scores a sample whatever the checks of the bundle say."""
    bundle = replace(inspector.bundle, ignored_checks=tuple(CHECKS))
    return Inspector(bundle, inspector.engine, frozen_after=0)


def _verdicts(
    samples: Sequence[SampleFiles], inspections: Mapping[str, Inspection], outcomes: ScoredSplit
) -> Iterator[Verdict]:
    unusable = {sample.name: sample for sample in outcomes.left_out}
    for files in samples:
        inspection = inspections.get(str(files.rgb or files.xyz))
        if inspection is not None:
            reason, message = inspection.reason, inspection.message
            yield Verdict(printable(files.name), files.defect, reason, message, inspection.inspected)
        else:
            sample = unusable[printable(files.name)]
            yield Verdict(printable(files.name), files.defect, sample.reason, sample.message, inspected=False)
    listed = {printable(files.name) for files in samples}
    for sample in outcomes.left_out:
        if sample.name not in listed:
            yield Verdict(sample.name, sample.defect, sample.reason, sample.message, inspected=False)


def _reasons(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Return the number of samples with the verdict NG by reason, most frequent first."""
    return dict(Counter(verdict.reason for verdict in verdicts if verdict.reason is not None).most_common())


def _nothing_scored(category: Category, outcomes: ScoredSplit) -> RunError:
    total = len(outcomes.files) + len(outcomes.left_out)
    first = outcomes.left_out[0]
    return RunError(
        category.folder / "test",
        found=f"{len(outcomes.left_out)} of {total} samples that cannot be inspected, which leaves one kind or none",
        expected="good samples and defects that can be inspected",
        action=f"Repair the samples; the first is {first.name}: {first.message}",
    )
