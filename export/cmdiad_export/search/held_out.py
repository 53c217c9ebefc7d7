"""Held-out good samples and tampered copies, on which changes by another search, bank or precision are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.search_record import SearchTolerance
from cmdiad_runtime.bundle.verdict import deciding_score
from cmdiad_runtime.names import Verdict
from cmdiad_train.detectors.family import SearchableDetector
from cmdiad_train.evaluation.metrics import auroc
from cmdiad_train.runs.stored_samples import StoredSample

Floats = npt.NDArray[np.float64]
Patches = tuple[Tensor, Tensor]
"""Rows and cells of the patch features of one bank."""
Outputs = Mapping[str, npt.NDArray[Any]]
"""Results of a graph by name."""


@dataclass(frozen=True)
class HeldOut:
    """Samples with a detector's patch features.

    Attributes:
        samples: Samples of the run directory, `n`.
        inputs: Network inputs of each sample, by name.
        tampered: Labels bool `[n]`, false for good samples.
        patches: Patch features of each sample, for each bank.
    """

    samples: Sequence[StoredSample]
    inputs: list[dict[str, Tensor]]
    tampered: npt.NDArray[np.bool_]
    patches: list[list[Patches]]

    @staticmethod
    @torch.no_grad()
    def of(detector: SearchableDetector, samples: Sequence[StoredSample]) -> HeldOut:
        """Compute the patch features of samples of a run directory."""
        inputs = [sample.inputs_of(detector.input_names) for sample in samples]
        tampered = np.array([sample.tampered for sample in samples])
        return HeldOut(samples, inputs, tampered, [detector.patches(*sample.values()) for sample in inputs])

    @property
    def good(self) -> HeldOut:
        """Return the good samples alone."""
        kept = np.flatnonzero(~self.tampered).tolist()
        return HeldOut(
            [self.samples[i] for i in kept],
            [self.inputs[i] for i in kept],
            self.tampered[kept],
            [self.patches[i] for i in kept],
        )

    @property
    def counts(self) -> tuple[int, int]:
        """Return the number of good and of tampered samples."""
        tampered = int(self.tampered.sum())
        return len(self.tampered) - tampered, tampered

    def scores(self, outputs: Sequence[Outputs], verdict: Verdict) -> list[float]:
        """Return the deciding score of each sample.

        Args:
            outputs: Results of each sample: `score` `[1]` and `map`.
            verdict: Score that decides.
        """
        pairs = zip(self.samples, outputs, strict=True)
        return [deciding_score(verdict, result, sample.over_sensor(result["map"])) for sample, result in pairs]

    def relative(self, outputs: Sequence[Outputs], calibration: Calibration) -> RelativeResults:
        """Return the results of each sample as multiples of the thresholds; see `scores`."""
        return RelativeResults(
            np.array(self.scores(outputs, calibration.verdict), dtype=np.float64) / calibration.score_threshold,
            np.stack([result["map"] for result in outputs]).astype(np.float64) / calibration.map_threshold,
        )


@dataclass(frozen=True)
class RelativeResults:
    """Results on the held-out samples as multiples of the thresholds: above 1 is NG.

    Attributes:
        scores: Scores that decide, `[n]`.
        maps: Maps `[n, size, size]` or `[n, maps, size, size]`.
    """

    scores: Floats
    maps: Floats


def as_outputs(result: tuple[Tensor, Tensor]) -> Outputs:
    """Return score and map of `fuse` under the names that they have in a graph."""
    return {name: tensor.numpy() for name, tensor in zip(("score", "map"), result, strict=True)}


@dataclass(frozen=True)
class ResultChange:
    """Distance of results on the held-out samples from reference results.

    Attributes:
        score_max_share: Largest difference of a score, as a fraction of the score threshold.
        map_max_share: Largest difference of a map value, as a fraction of the map threshold.
        auroc: AUROC of the scores, tampered copies against good samples.
        auroc_change: The AUROC minus that of the reference.
        label_flips: Number of samples with another verdict, without borderline ones.
        borderline: Number of samples whose reference score is within the score tolerance of the threshold.
    """

    score_max_share: float
    map_max_share: float
    auroc: float
    auroc_change: float
    label_flips: int
    borderline: int

    @staticmethod
    def between(
        reference: RelativeResults,
        results: RelativeResults,
        tampered: npt.NDArray[np.bool_],
        tolerance: SearchTolerance,
    ) -> ResultChange:
        """Compare results with reference results.

        Each is a multiple of the thresholds of its detector, so banks of different size can be compared too.
        """
        area = auroc(tampered, results.scores)
        borderline = np.abs(reference.scores - 1) <= tolerance.score
        flips = ((results.scores > 1) != (reference.scores > 1)) & ~borderline
        return ResultChange(
            score_max_share=float(np.abs(results.scores - reference.scores).max()),
            map_max_share=float(np.abs(results.maps - reference.maps).max()),
            auroc=area,
            auroc_change=area - auroc(tampered, reference.scores),
            label_flips=int(flips.sum()),
            borderline=int(borderline.sum()),
        )

    def within(self, tolerance: SearchTolerance) -> bool:
        """Return True if a fast search may make this change."""
        return (
            self.score_max_share <= tolerance.score
            and self.map_max_share <= tolerance.map
            and abs(self.auroc_change) <= tolerance.auroc
            and self.label_flips == 0
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)
