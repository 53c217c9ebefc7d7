"""Test `studies.divisions`: distances to a bank of any good samples, the figures of a division, and the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmdiad_runtime.preprocess.prepare import prepare
from cmdiad_runtime.preprocess.views.place import PaddedSquare
from cmdiad_runtime.preprocess.views.prepared import Placement
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.datasets import open_category
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.runs.run import load_run
from studies.divisions import COPY, NAMES, WAYS, Distances, Measured, banks_of, evaluate, markdown, measure, peaks

GRID, GOODS = 6, 16


def drawn(noisy: float) -> Distances:
    """Distances of good samples that differ more in the right half, of one defect, and of one copy of each sample.

    The defects are in the left half, where good samples differ little.
    """
    generator = np.random.default_rng(0)
    cells, defects, origin = [], [], []
    spread = np.where(np.arange(GRID**2) % GRID < GRID // 2, 0.02, noisy)
    for defect, numbers in (("good", range(GOODS)), ("dent", [-1] * 6), (COPY, range(GOODS))):
        for number in numbers:
            values = 2 + spread[:, None] * np.abs(generator.standard_normal((GRID**2, 1))) * np.ones((1, GOODS))
            values[GRID + 1] += 0.0 if defect == "good" else 0.8
            cells.append(torch.from_numpy(values).float())
            defects.append(defect)
            origin.append(number)
    return Distances(tuple(cells), torch.ones(len(cells), GRID**2, dtype=torch.bool), tuple(defects), tuple(origin))


def scorer() -> BankScorer:
    bank = MemoryBank.from_rows(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), 0.0, 1.0)
    return BankScorer(bank, grid=GRID, size=24, published_blur=False)


def measured(*banks: Distances) -> Measured:
    """Return the distances of several banks. Their maps need no resampling: each view is the image of the sensor."""
    placement = Placement(PaddedSquare(24, 24, 0, 0, 24))
    return Measured(banks, tuple(scorer() for _ in banks), (placement,) * len(banks[0].defects))


def test_a_bank_never_holds_the_sample_or_the_original_of_a_copy() -> None:
    cells = tuple(torch.arange(3.0).expand(4, 3) + number for number in range(5))
    distances = Distances(cells, torch.ones(5, 4, dtype=torch.bool), ("good",) * 3 + ("dent", COPY), (0, 1, 2, -1, 0))
    assert distances.to_bank([0, 1])[:, 0].tolist() == [1, 1, 2, 3, 5]


def test_relative_distances_find_what_noisy_places_hide() -> None:
    figures = evaluate(measured(drawn(noisy=0.5)), divisions=5, training=10, held_out=2)
    assert len(figures) == 5
    for division in figures:
        assert set(division) == set(WAYS[1])
        assert all(set(values) == set(NAMES) for values in division.values())
        assert division["relative"]["missed"] < division["plain"]["missed"]
        assert division["relative"]["AUROC of copies"] > division["plain"]["AUROC of copies"]


def test_no_good_sample_to_test_is_refused() -> None:
    with pytest.raises(ValueError, match="16 good samples leave none of 14 \\+ 2 to test"):
        evaluate(measured(drawn(noisy=0.5)), divisions=1, training=14, held_out=2)


def test_table_leaves_out_figures_without_copies() -> None:
    values = {way: dict.fromkeys(NAMES, 0.5) | {"copies detected": float("nan")} for way in WAYS[1]}
    lines = markdown([values, values]).splitlines()
    assert lines[2] == f"| plain | {'0.500 ± 0.000 | ' * 4}– |"


def test_both_sensors_have_a_way_for_each_choice_and_add_their_maps() -> None:
    quiet, noisy = drawn(noisy=0.02), drawn(noisy=0.5)
    (division,) = evaluate(measured(noisy, quiet), divisions=1, training=10, held_out=2)
    assert set(division) == set(WAYS[2])
    both = measured(noisy, quiet)
    cells = [bank.to_bank(range(10)) for bank in both.banks]
    maps = np.stack([both.maps(i, [rows[i] for rows in cells]) for i in range(GOODS)])
    weights = 1 / maps[:12].std((0, 2, 3), dtype=np.float64)
    expected = (maps * (weights / weights.sum())[:, None, None]).sum(1).max((1, 2))
    # float32 maps of values around 2, added in float64.
    np.testing.assert_allclose(peaks(both, cells, range(12), range(12, GOODS))[:GOODS], expected, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("modality", ["rgb", "both"])
def test_distances_are_those_of_the_trained_banks(data: Path, trained: Any, modality: str) -> None:
    run = load_run(trained(modality, coreset=1.0))
    found = measure(run, data, "gear", SILENT)
    distances = found.banks[0]
    category = open_category(data, "gear")
    training = range(len(category.split("train", ("rgb", "xyz"))))  # Good training samples come first.
    assert distances.defects.count(COPY) > 0
    (file, *_) = [file for file in category.split("test", ("rgb", "xyz")) if file.defect != "good"]
    prepared = prepare(file.read(), run.preprocessing)
    inputs = as_tensors(prepared.inputs)
    patches = run.detector.patches(*(inputs[name] for name in run.detector.input_names))  # type: ignore[attr-defined]
    for scorer, of_bank, bank in zip(banks_of(run), patches, found.banks, strict=True):
        _, expected = scorer.compare(*of_bank)
        # Both are float32, but the search of the bank expands the square: 1e-3 of distances around 10.
        torch.testing.assert_close(bank.to_bank(training)[bank.goods], expected, rtol=1e-4, atol=1e-3)

    held_out = range(len(training) + len(category.split("validation", ("rgb", "xyz"))))
    found_peaks = peaks(found, [bank.to_bank(training) for bank in found.banks], held_out, [])
    _, anomaly_map = run.detector(*(inputs[name] for name in run.detector.input_names))
    shown = anomaly_map.numpy() if modality == "rgb" else prepared.to_sensor(anomaly_map.numpy())
    # The weights of the fusion are those of training, so the score is, too; its distances differ as above.
    assert found_peaks[distances.goods] == pytest.approx(shown.max(), rel=1e-3)


def test_a_run_that_hallucinates_is_refused(trained: Any) -> None:
    run = load_run(trained("rgb", "f2f"))
    with pytest.raises(ValueError, match="needs one memory bank of the mode default for each sensor"):
        banks_of(run)
