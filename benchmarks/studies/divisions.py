"""Compare plain and relative distances over many divisions of the good samples, without training again.

`python -m studies divisions RUN DATA CATEGORY` measures once how far every sample is from every single good sample,
with the networks of a finished memory bank, or of the two banks of both sensors. The distances to a bank of any good
samples, all rows kept, are then the smallest of these. Each division draws training, held-out and test samples from
all good ones, learns the factors of relative distances, sets the threshold as `cmdiad-train` does with `--series keep`,
and counts what is rejected, missed and detected.

Realistic defects on good samples (`cmdiad-train --assess-modalities`) are scored too, so that a choice need not look at
the defects of the test split. What every division shares: the networks, principal components and the view of the run.
Scores of one bank are the largest map value over the view of the network. The maps of two banks are moved over the
image of the sensor and added with weights of the held-out maps, as training does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmdiad_runtime.bundle.threshold import calibrate_threshold
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.preprocess.prepare import needed_modalities, prepare_parts
from cmdiad_runtime.preprocess.views.prepared import Placement
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.assessment.defects import DEFECTS, GoodPart, inflict
from cmdiad_train.datasets import GOOD, Split, open_category
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.features.compared import Patches
from cmdiad_train.detectors.bank.features.patches import alone
from cmdiad_train.detectors.bank.fitting.usual_distance import UsualDistances
from cmdiad_train.detectors.bank.fusion import standardised_weights
from cmdiad_train.detectors.bank.memory_bank import BankScorer
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.evaluation.metrics import auroc
from cmdiad_train.recipe import bank_part
from cmdiad_train.runs.run import Run

Scores = npt.NDArray[np.float64]
Maps = npt.NDArray[np.float32]
Figures = Mapping[str, Mapping[str, float]]
"""Figures of one division by way and name."""
WAYS: Mapping[int, Mapping[str, tuple[bool, ...]]] = {
    1: {"plain": (False,), "relative": (True,)},
    2: {"plain": (False, False), "relative for the cloud": (True, False), "relative": (True, True)},
}
"""For each number of banks the ways by name: whether the distances to each bank are relative. The cloud comes first."""
NAMES = ("image AUROC", "rejected", "missed", "AUROC of copies", "copies detected")
RATE = 0.05
COPY = "copy of a good sample"


@dataclass(frozen=True)
class Distances:
    """Distances of every sample to every good sample, for one memory bank.

    Attributes:
        cells: For each sample, distance float32 `[grid², goods]` of each cell to the nearest row of each good sample.
        on_part: Cells of each sample that show the part, bool `[samples, grid²]`.
        defects: Name of each sample's defect, "good", or "copy of a good sample".
        origin: Number of the good sample that a sample is, or is a copy of; -1 for a defective test sample.
    """

    cells: tuple[Tensor, ...]
    on_part: Tensor
    defects: tuple[str, ...]
    origin: tuple[int, ...]

    @property
    def goods(self) -> int:
        """Return the number of good samples, which are the first samples."""
        return self.defects.count(GOOD)

    def to_bank(self, training: Sequence[int]) -> Tensor:
        """Return the distances float32 `[samples, grid²]` to a bank of training samples, always without the sample."""
        kept = torch.zeros(self.goods, dtype=torch.bool)
        kept[list(training)] = True
        rows = []
        for cells, origin in zip(self.cells, self.origin, strict=True):
            others = kept.clone()
            if origin >= 0:
                others[origin] = False
            rows.append(cells[:, others].amin(1))
        return torch.stack(rows)


@dataclass(frozen=True)
class Measured:
    """Distances of the same samples for each bank of a detector.

    Attributes:
        banks: Distances for each bank, in the order of the detector.
        scorers: Scorer of each bank, whose upsampling makes the maps.
        placements: Position of the views of each sample over the image of the sensor; not used with one bank.
    """

    banks: tuple[Distances, ...]
    scorers: tuple[BankScorer, ...]
    placements: tuple[Placement, ...]

    def maps(self, sample: int, cells: Sequence[Tensor]) -> Maps:
        """Return maps float32 `[banks, size, size]` of distances `[grid²]` of one sample to each bank.

        With one bank the map lies over its view, with several banks over the image of the sensor.
        """
        grids = zip(self.scorers, cells, strict=True)
        maps = [(s.upsample @ row.reshape(s.grid, s.grid) @ s.upsample.T).numpy() for s, row in grids]
        return np.stack(maps) if len(maps) == 1 else self.placements[sample].each_to_sensor(np.stack(maps))


@torch.no_grad()
def measure(run: Run, data: Path, category: str, reporter: Reporter) -> Measured:
    """Return the distances of all samples of a category, and of damaged copies of good ones if it has both sensors.

    Args:
        run: Finished run of the family bank, see `banks_of`.
        data: Data set.
        category: Category of the data set.
        reporter: Receiver of progress.

    Raises:
        ValueError: The run is of another kind.
    """
    scorers, colour = banks_of(run), run.preprocessing.colour
    opened = open_category(data, category)
    splits: tuple[Split, ...] = ("train", "validation", "test")
    listed = [file for split in splits for file in opened.usable(split, opened.modalities).samples]
    listed.sort(key=lambda file: file.defect != GOOD)
    originals, copies = [], []
    for number, file in enumerate(listed):
        sample, is_good = file.read(colour), file.defect == GOOD
        originals.append((file.defect, number if is_good else -1, *_patches(run, sample)))
        if is_good and len(opened.modalities) > 1:
            copies += [(COPY, number, *_patches(run, copy)) for copy in _damaged(sample, run)]
        reporter.step("extract features", number + 1, len(listed))
    defects, origin, placements, patches = zip(*originals, *copies, strict=True)
    by_bank = zip(scorers, zip(*patches, strict=True), strict=True)
    banks = tuple(_distances(scorer, defects, origin, of_bank, reporter) for scorer, of_bank in by_bank)
    return Measured(banks, scorers, placements)


def banks_of(run: Run) -> tuple[BankScorer, ...]:
    """Return the scorers of a run with one bank for each modality that is measured: one or two.

    Raises:
        ValueError: The run hallucinates, has several parts in each sample, a mask, the published blur, or fuses
            otherwise than by standardised maps.
    """
    detector, recipe = run.detector, run.recipe
    if isinstance(detector, Detector) and run.preprocessing.parts == 1 and len(detector.scorers) == len(recipe.mains):
        scorers = tuple(scorer for scorer in detector.scorers if isinstance(scorer, BankScorer))
        standardised = len(scorers) == 1 or bank_part(recipe).fusion == "standardised"
        if standardised and recipe.mask is None and not detector.published_blur:
            return scorers
    raise ValueError(
        f"{run.path} needs one memory bank of the mode default for each sensor, without hallucination and mask, and "
        "one part in each sample"
    )


def evaluate(measured: Measured, divisions: int, training: int, held_out: int) -> list[Figures]:
    """Return the figures of each way and division of the good samples.

    Args:
        measured: Distances of all samples for each bank.
        divisions: Number of divisions.
        training: Good samples in each bank.
        held_out: Further good samples that only set the threshold; the rest tests.

    Raises:
        ValueError: No good sample is left to test.
    """
    first = measured.banks[0]
    if training + held_out >= first.goods:
        raise ValueError(f"{first.goods} good samples leave none of {training} + {held_out} to test")
    generator = np.random.default_rng(0)
    figures: list[Figures] = []
    for _ in range(divisions):
        drawn = generator.permutation(first.goods).tolist()
        trained, calibrating, tested = drawn[:training], drawn[: training + held_out], drawn[training + held_out :]
        plain = [bank.to_bank(trained) for bank in measured.banks]
        relative = [cells * _factors(bank, cells, trained) for bank, cells in zip(measured.banks, plain, strict=True)]
        division = {}
        for way, choice in WAYS[len(plain)].items():
            cells = [(relative if is_relative else plain)[i] for i, is_relative in enumerate(choice)]
            division[way] = _figures(first, peaks(measured, cells, calibrating, tested), calibrating, tested)
        figures.append(division)
    return figures


def peaks(measured: Measured, cells: Sequence[Tensor], calibrating: Sequence[int], tested: Sequence[int]) -> Scores:
    """Return the largest value of each fused map, float64 `[samples]`; nan for copies of other than tested samples.

    Args:
        measured: Distances of all samples, and their positions.
        cells: Distances `[samples, grid²]` to each bank.
        calibrating: Good samples whose maps set the weights of the fusion.
        tested: Good samples that test.
    """
    of = measured.banks[0]
    used = [i for i, name in enumerate(of.defects) if name != COPY or of.origin[i] in tested]
    maps = np.stack([measured.maps(i, [rows[i] for rows in cells]) for i in used])  # [used, banks, size, size]
    held = maps[np.isin(used, calibrating)].swapaxes(0, 1).reshape(len(cells), -1)
    weights = standardised_weights(held.T) if len(cells) > 1 else np.ones(1)
    largest = np.full(len(of.defects), np.nan)
    largest[used] = [np.tensordot(weights, of_sample, 1).max() for of_sample in maps]
    return largest


def markdown(figures: Sequence[Figures]) -> str:
    """Return the table of the figures: mean and deviation over the divisions."""
    lines = [f"| distances, {RATE:.0%} requested | {' | '.join(NAMES)} |", f"|---|{'---|' * len(NAMES)}"]
    for way in figures[0]:
        values = [[division[way][name] for division in figures] for name in NAMES]
        cells = ["–" if np.isnan(column).any() else f"{mean(column):.3f} ± {pstdev(column):.3f}" for column in values]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _patches(run: Run, sample: Sample) -> tuple[Placement, list[Patches]]:
    """Return position and patch features of a sample of which inspection measures only what the run names."""
    kept = needed_modalities(run.recipe.modality, run.recipe.rgb_mask)
    measured = Sample(sample.name, **{name: getattr(sample, name) for name in kept})
    prepared = prepare_parts(measured, run.preprocessing)[0]
    inputs, detector = as_tensors(prepared.inputs), run.detector
    assert isinstance(detector, Detector)
    placement = prepared.placement.sampled(run.recipe.size)
    return placement, detector.patches(*(inputs[name] for name in detector.input_names))


def _damaged(sample: Sample, run: Run) -> list[Sample]:
    """Return copies of a good sample with each kind of defect that a sensor of the run measures."""
    part = guarded(sample.name, lambda: GoodPart(sample))
    if isinstance(part, InputError):
        return []
    sensors = {"both", *({"rgb": "camera", "xyz": "3D"}[main] for main in run.recipe.mains)}
    kinds = [kind for kind, defect in DEFECTS.items() if defect.sensors in sensors]
    return [inflict(kind, part, seed=0) for kind in kinds]


def _distances(
    scorer: BankScorer,
    defects: tuple[str, ...],
    origin: tuple[int, ...],
    patches: Sequence[Patches],
    reporter: Reporter,
) -> Distances:
    normalised = [((rows.float() - scorer.mean) / scorer.std, cells) for rows, cells in patches]
    banks = [rows[torch.unique(cells)] for rows, cells in normalised[: defects.count(GOOD)]]
    nearest = []
    for rows, cells in normalised:
        nearest.append(torch.stack([torch.cdist(rows, bank).amin(1) for bank in banks], 1)[cells])
        reporter.step("compare samples", len(nearest), len(normalised))
    return Distances(tuple(nearest), torch.stack([alone(cells) for _, cells in patches]), defects, origin)


def _factors(distances: Distances, plain: Tensor, trained: Sequence[int]) -> Tensor:
    """Return the factors float32 `[samples, grid²]`; those of a training sample and its copies do not know it."""
    usual = UsualDistances(plain[trained], distances.on_part[trained], trained)
    everywhere, without = usual.factors(), {origin: usual.factors(without=origin) for origin in trained}
    return torch.stack([without.get(origin, everywhere) for origin in distances.origin])


def _figures(
    distances: Distances, scores: Scores, calibrating: Sequence[int], tested: Sequence[int]
) -> dict[str, float]:
    """Return the figures of one way; copies are those of the tested good samples."""
    threshold = calibrate_threshold(scores[list(calibrating)], RATE).value
    defects, origin = np.array(distances.defects), np.array(distances.origin)
    good, bad = scores[list(tested)], scores[(defects != GOOD) & (defects != COPY)]
    copies = scores[(defects == COPY) & np.isin(origin, tested)]
    return {
        "image AUROC": _auroc(good, bad),
        "rejected": float((good > threshold).mean()),
        "missed": float((bad <= threshold).mean()) if len(bad) else np.nan,
        "AUROC of copies": _auroc(good, copies),
        "copies detected": float((copies > threshold).mean()) if len(copies) else np.nan,
    }


def _auroc(good: Scores, bad: Scores) -> float:
    labels = np.repeat([False, True], [len(good), len(bad)])
    return float(auroc(labels, np.concatenate([good, bad]))) if len(bad) else np.nan
