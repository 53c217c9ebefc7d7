"""Held-out good samples and tampered copies: what another search, bank or precision changes is measured on them."""

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
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.patches import Patches
from cmdiad_train.evaluation.metrics import auroc

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """Samples, and what a detector's networks make of them.

    Attributes:
        inputs: network inputs of each sample by name.
        tampered: bool `[n]`, false for good samples.
        patches: patch features of each sample, for each bank.
    """

    inputs: list[dict[str, Tensor]]
    tampered: npt.NDArray[np.bool_]
    patches: list[list[Patches]]

    @staticmethod
    @torch.no_grad()
    def of(detector: Detector, samples: Mapping[str, Mapping[str, Tensor]]) -> HeldOut:
        """Run a detector's networks on samples whose names end in `-good` or `-tampered`."""
        inputs = [{name: sample[name] for name in detector.input_names} for sample in samples.values()]
        tampered = np.array([name.endswith("-tampered") for name in samples])
        return HeldOut(inputs, tampered, [detector.patches(*each.values()) for each in inputs])


@dataclass(frozen=True)
class Outcomes:
    """Results on the held-out samples, as multiples of the thresholds: above 1 is NG.

    Attributes:
        scores: `[n]`.
        maps: `[n, size, size]`.
    """

    scores: Floats
    maps: Floats

    @staticmethod
    def of(scores: Sequence[float], maps: Sequence[npt.NDArray[Any]], calibration: Calibration) -> Outcomes:
        """Divide results by their thresholds."""
        return Outcomes(
            np.array(scores, dtype=np.float64) / calibration.score_threshold,
            np.stack(maps).astype(np.float64) / calibration.map_threshold,
        )


@dataclass(frozen=True)
class Change:
    """How far results on the held-out samples lie from others.

    Attributes:
        score_max_share: largest difference of a score, as a share of the score threshold.
        map_max_share: largest difference of a map value, as a share of the map threshold.
        auroc: of the scores, tampered copies against good samples.
        auroc_change: what it is more than that of the others.
        label_flips: samples with another verdict, not counting borderline ones.
        borderline: samples whose other score is within the score tolerance of the threshold.
    """

    score_max_share: float
    map_max_share: float
    auroc: float
    auroc_change: float
    label_flips: int
    borderline: int

    @staticmethod
    def between(
        reference: Outcomes, found: Outcomes, tampered: npt.NDArray[np.bool_], tolerance: SearchTolerance
    ) -> Change:
        """Compare; both are multiples of their own thresholds, so that banks of another size can be compared too."""
        area = auroc(tampered, found.scores)
        borderline = np.abs(reference.scores - 1) <= tolerance.score
        flips = ((found.scores > 1) != (reference.scores > 1)) & ~borderline
        return Change(
            score_max_share=float(np.abs(found.scores - reference.scores).max()),
            map_max_share=float(np.abs(found.maps - reference.maps).max()),
            auroc=area,
            auroc_change=area - auroc(tampered, reference.scores),
            label_flips=int(flips.sum()),
            borderline=int(borderline.sum()),
        )

    def within(self, tolerance: SearchTolerance) -> bool:
        """Whether this is a change that a fast search may make."""
        return (
            self.score_max_share <= tolerance.score
            and self.map_max_share <= tolerance.map
            and abs(self.auroc_change) <= tolerance.auroc
            and self.label_flips == 0
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)
