"""What thresholds and fusion weights rest on: held-out samples, and training samples left out of their bank."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cmdiad_runtime.bundle.threshold import calibrate
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.preprocess.prepare import prepare
from cmdiad_train.datasets import open_category
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.features.patches import PatchFeatures
from cmdiad_train.detectors.bank.fitting.calibration import LEFT_OUT
from cmdiad_train.detectors.bank.fitting.leaving_out import BanksWithout
from cmdiad_train.detectors.bank.fitting.usual_distance import UsualDistances
from cmdiad_train.detectors.bank.fusion import standardised_weights
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.bank.run_files import FACTORS, load_banks, load_chosen
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.fit.fit import fit
from cmdiad_train.recipe import RgbExtractor, SurfaceExtractor
from cmdiad_train.runs.run import Run, load_run
from cmdiad_train.runs.tensors import load_tensors, save_tensors
from helpers import RecordingReporter, tiny_recipe
from lanes import long

NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14))
RELATIVE = {"distances": "relative", "verdict": "map"}
BOTH = {"xyz": NORMALS, "view": "each", "coreset": 1.0}


def by_hand(run: Run, data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Unfused scores `[n, banks]` and maps over the sensor's image of the held-out samples, then the training ones."""
    category, detector = open_category(data, None), run.detector
    features = [each for each in detector.features if isinstance(each, PatchFeatures)]
    scorers = list(detector.scorers)
    splits = {split: category.split(split, run.preprocessing.modalities) for split in ("validation", "train")}

    def seen(files: Any) -> Any:
        prepared = prepare(files.read("rgb"), run.preprocessing)
        inputs = as_tensors(prepared.inputs)
        return prepared, detector.patches(*(inputs[name] for name in detector.input_names))

    patches = [seen(files)[1] for files in splits["train"]]
    rows = [[each[bank][0][torch.unique(each[bank][1])] for each in patches] for bank in range(len(scorers))]
    scores, maps = [], []
    for split, samples in splits.items():
        for i, files in enumerate(samples):
            prepared, found = seen(files)
            banks = []
            for each, scorer in zip(rows, scorers, strict=True):
                kept = [r for j, r in enumerate(each) if split != "train" or j != i]
                normalised = (torch.cat(kept) - scorer.mean) / scorer.std  # type: ignore[operator]
                banks.append(MemoryBank.from_rows(normalised, scorer.mean, scorer.std))  # type: ignore[arg-type]
            score, anomaly_maps = Detector(run.recipe, features, banks).score_each(found)
            scores.append(score)
            maps.append(torch.from_numpy(prepared.each_to_sensor(anomaly_maps.numpy())))
    return torch.stack(scores), torch.stack(maps)


@pytest.mark.parametrize(("image_score", "verdict"), [long("reweighted", "image"), ("max", "map")])
def test_whole_bank_holds_each_training_sample_out_of_itself(
    data: Path, trained: Any, image_score: str, verdict: str
) -> None:
    run = load_run(trained("both", **BOTH, image_score=image_score, verdict=verdict, distances="plain"))
    scores, maps = by_hand(run, data)
    assert len(scores) == run.calibration.samples == 3 + 6
    weights = torch.from_numpy(standardised_weights(scores.double().numpy())).float()
    torch.testing.assert_close(run.detector.score_weights, weights, rtol=1e-4, atol=0)
    columns = maps.movedim(1, -1).reshape(-1, 2).double().numpy()
    map_weights = torch.from_numpy(standardised_weights(columns)).float()
    torch.testing.assert_close(run.detector.map_weights, map_weights, rtol=1e-4, atol=0)
    fused = (scores * weights).sum(1).tolist()
    peaks = (maps * map_weights[:, None, None]).sum(1).flatten(1).amax(1).tolist()
    deciding = peaks if verdict == "map" else fused
    np.testing.assert_allclose(run.calibration.held_out_scores, deciding, rtol=1e-4)
    np.testing.assert_allclose(run.calibration.held_out_peaks, peaks, rtol=1e-4)
    expected = calibrate(deciding, peaks, run.recipe.false_reject_rate)
    assert run.calibration.verdict == verdict
    assert run.calibration.score_threshold == pytest.approx(expected.score_threshold, rel=1e-4)
    assert run.calibration.map_threshold == pytest.approx(expected.map_threshold, rel=1e-4)


@torch.no_grad()
def test_coreset_is_completed_without_each_training_sample(data: Path, trained: Any) -> None:
    """Each bank keeps the first rows of the other samples, and gains those of their other rows that are farthest."""
    run = load_run(trained("rgb", coreset=0.5, verdict="image"))
    detector = run.detector
    assert isinstance(detector, Detector)
    (chosen,), (bank,) = load_chosen(run.path), load_banks(run.path, run.recipe)
    files = open_category(data, None).split("train", run.preprocessing.modalities)
    inputs = [as_tensors(prepare(each.read("rgb"), run.preprocessing).inputs) for each in files]
    patches = [detector.patches(*(sample[name] for name in detector.input_names))[0] for sample in inputs]
    candidates = [(rows[torch.unique(cells)] - bank.mean) / bank.std for rows, cells in patches]
    owners = torch.cat([torch.full((len(rows),), i) for i, rows in enumerate(candidates)])
    rows, scores = torch.cat(candidates), []
    first = chosen[: int(0.5 * (len(rows) - max(map(len, candidates))))]
    for i in range(len(files)):
        selected = first[owners[first] != i].tolist()
        while len(selected) < int(0.5 * int((owners != i).sum())):
            distance = torch.cdist(rows.double(), rows[selected].double()).amin(1)
            selected.append(int(torch.where(owners != i, distance, -1).argmax()))
        completed = MemoryBank.from_rows(rows[selected], bank.mean, bank.std)
        scores.append(float(detector.against([completed]).score_each([patches[i]])[0]))
    assert run.calibration.samples == 3 + 6
    np.testing.assert_allclose(run.calibration.held_out_scores[3:], scores, rtol=1e-4)


@torch.no_grad()
def test_samples_of_one_series_are_left_out_together(data: Path, tmp_path: Path) -> None:
    """Six placements with four nearly equal images each; every fifth image is held out."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "data" / "gear" / "train" / "good" / "rgb"
    folder.mkdir(parents=True)
    for number, file in enumerate(sorted((data / "gear" / "train" / "good" / "rgb").glob("*.png"))):
        image = np.asarray(Image.open(file)).astype(np.int16)
        for copy in range(4):
            noisy = (image + generator.integers(-2, 3, image.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{4 * number + copy}.png")
    reporter = RecordingReporter()
    recipe = tiny_recipe("rgb", coreset=1.0, distances="plain", series="leave-out")
    fit(tmp_path / "data", None, recipe, tmp_path / "run", reporter)
    assert [line for line in reporter.lines if "count as 6 series" in line]

    run = load_run(tmp_path / "run")
    detector = run.detector
    assert isinstance(detector, Detector)
    (bank,) = load_banks(run.path, run.recipe)
    files = open_category(tmp_path / "data", None).split("train", ("rgb",))
    held_out = [each for each in files if each.name in run.record.data.held_out]
    assert len(held_out) == -(-24 // 5)
    patches, peaks = {}, []
    for each in files:
        inputs = as_tensors(prepare(each.read("rgb"), run.preprocessing).inputs)
        patches[each.name] = detector.patches(*(inputs[name] for name in detector.input_names))[0]
    placement = {each.name: int(each.name.rsplit("/")[-1]) // 4 for each in files}
    trained = [each for each in files if each not in held_out]
    for own in (*held_out, *trained):
        others = [patches[each.name] for each in trained if placement[each.name] != placement[own.name]]
        rows = torch.cat([(found[torch.unique(cells)] - bank.mean) / bank.std for found, cells in others])
        against = detector.against([MemoryBank.from_rows(rows, bank.mean, bank.std)])
        peaks.append(float(against.score_each([patches[own.name]])[1].max()))
    np.testing.assert_allclose(run.calibration.held_out_peaks, peaks, rtol=1e-4)


@pytest.mark.parametrize(
    ("modality", "hallucination", "changes"),
    [("rgb", "f2f", {}), ("xyz", "none", {}), ("rgb", "none", {"mode": "faithful", "fusion": "ocsvm"})],
)
def test_every_training_sample_has_held_out_scores(
    trained: Any, modality: str, hallucination: str, changes: dict[str, Any]
) -> None:
    run = trained(modality, hallucination, **changes)
    calibration = load_run(run).calibration
    assert len(calibration.held_out_scores) == len(calibration.held_out_peaks) == calibration.samples == 3 + 6
    assert len({*calibration.held_out_scores}) == 3 + 6
    assert not (run / LEFT_OUT).exists()


@torch.no_grad()
def test_factors_of_relative_distances_do_not_know_the_sample_that_they_calibrate(data: Path, trained: Any) -> None:
    run = load_run(trained("rgb", coreset=1.0, image_score="max", **RELATIVE))
    detector, category = run.detector, open_category(data, None)
    assert isinstance(detector, Detector)
    files = category.split("train", run.preprocessing.modalities)
    inputs = [as_tensors(prepare(each.read("rgb"), run.preprocessing).inputs) for each in files]
    patches = [detector.patches(*(sample[name] for name in detector.input_names))[0] for sample in inputs]
    (bank,), (chosen,), (scorer,) = load_banks(run.path, run.recipe), load_chosen(run.path), detector.scorers
    assert isinstance(scorer, BankScorer)
    without = BanksWithout(bank, chosen, patches, range(6), run.recipe, torch.device("cpu"))
    compared = torch.stack([detector.scorer(0, without.without(i)).compare(*patches[i])[1] for i in range(6)])
    everywhere = torch.ones_like(compared, dtype=torch.bool)
    (factors,) = detector.factors
    assert factors is not None
    assert len(factors.unique()) > 100
    torch.testing.assert_close(factors, UsualDistances(compared, everywhere, range(6)).factors())
    plain = detector.scorer(0, bank)
    for i, peak in enumerate(run.calibration.held_out_peaks[3:]):
        others = [j for j in range(6) if j != i]
        of_others = UsualDistances(compared[others], everywhere[others], range(5)).factors()
        assert peak == pytest.approx(float(plain.map(compared[i] * of_others).max()), rel=1e-4)
    torch.testing.assert_close(scorer.map(compared[0]), plain.map(compared[0] * factors))


@pytest.mark.parametrize(
    ("modality", "changes"), [("rgb", {"coreset": 1.0}), long("both", {"xyz": NORMALS, "view": "each"})]
)
def test_bundle_has_the_relative_distances_of_the_run(
    data: Path, trained: Any, exported: Any, modality: str, changes: dict[str, Any]
) -> None:
    changes = {**changes, "image_score": "max", **RELATIVE}
    run = load_run(trained(modality, **changes))
    factors: Any = run.detector.factors
    assert [len(each) for each in factors] == [14**2] * len(run.preprocessing.modalities)
    with Inspector.open(exported(modality, **changes)) as inspector:
        files = open_category(data, None).split("validation", inspector.bundle.preprocessing.modalities)
        scores = [inspector.inspect(each.read("rgb")).score for each in files]
    np.testing.assert_allclose(run.calibration.held_out_scores[:3], scores, rtol=1e-3)


@pytest.mark.parametrize("damage", ["missing", "outside", "nan", "shape", "bank"])
def test_run_with_damaged_factors_is_refused(trained: Any, tmp_path: Path, damage: str) -> None:
    run = Path(shutil.copytree(trained("rgb", coreset=1.0, image_score="max", **RELATIVE), tmp_path / "run"))
    factors = load_tensors(run / FACTORS)["main"]
    wrong = {"outside": factors / 3, "nan": factors.log().sqrt(), "shape": factors[1:], "bank": factors}
    if damage == "missing":
        (run / FACTORS).unlink()
    else:
        save_tensors(run / FACTORS, {"xyz" if damage == "bank" else "main": wrong[damage].contiguous()})
    with pytest.raises(RunError, match=FACTORS):
        load_run(run)


def test_interrupted_calibration_holds_out_the_remaining_samples_only(
    data: Path, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures: list[int] = []
    without = BanksWithout.without

    def interrupted(banks: BanksWithout, picture: int) -> MemoryBank:
        if len(pictures) == 4:
            pictures.append(picture)
            raise KeyboardInterrupt
        pictures.append(picture)
        return without(banks, picture)

    whole = trained("xyz")
    monkeypatch.setattr(BanksWithout, "without", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(data, None, load_run(whole).recipe, tmp_path / "run")
    fit(data, None, load_run(whole).recipe, tmp_path / "run")
    assert pictures == [0, 1, 2, 3, 4, 4, 5]
    assert (tmp_path / "run" / "calibration.json").read_bytes() == (whole / "calibration.json").read_bytes()


@pytest.mark.parametrize(("modality", "view"), [long("rgb", "part"), long("xyz", "top"), ("both", "each")])
def test_score_threshold_is_about_the_map_that_the_operator_sees(
    data: Path, trained: Any, exported: Any, modality: str, view: str
) -> None:
    """The scores that it rests on are the largest values of the maps that an inspection returns."""
    changes = {"xyz": NORMALS, "view": view}
    calibration = load_run(trained(modality, **changes)).calibration
    with Inspector.open(exported(modality, **changes)) as inspector:
        preprocessing = inspector.bundle.preprocessing
        files = open_category(data, None).split("validation", preprocessing.modalities)
        inspections = [inspector.inspect(each.read("rgb")) for each in files]
    assert [i.score for i in inspections] == [float(i.map.max()) for i in inspections]
    assert calibration.verdict == "map"
    assert calibration.held_out_scores == calibration.held_out_peaks
    assert calibration.score_threshold == calibration.map_threshold
    np.testing.assert_allclose(calibration.held_out_scores[:3], [i.score for i in inspections], rtol=1e-3)
