"""Trainings of 3DSR on the tiny data set: files, resumption, what is trained, and what a training refuses."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors import network_training
from cmdiad_train.detectors.dsr3d.detector import DualSubspaceReprojection
from cmdiad_train.detectors.dsr3d.fitting import autoencoder_task
from cmdiad_train.detectors.dsr3d.fitting import fit as dsr3d_fit
from cmdiad_train.detectors.dsr3d.fitting.autoencoder_task import autoencoder_length
from cmdiad_train.detectors.dsr3d.fitting.object_task import ObjectTask, disturbed_codes
from cmdiad_train.detectors.dsr3d.picture import foreground_of, picture_of
from cmdiad_train.detectors.dsr3d.run_files import new_autoencoder, new_networks
from cmdiad_train.detectors.dsr3d.simulation.pictures import simulated_pictures
from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.network_training import Schedule
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.fit.samples import SampleProvider
from cmdiad_train.recipe import PUBLISHED_DSR3D
from cmdiad_train.runs.run import load_run
from helpers import RecordingReporter, flip_byte
from helpers import tiny_dsr3d_recipe as recipe
from reporters import InterruptAt
from runs import assert_whole, hashes

Train = Callable[..., Path]


def test_a_run_keeps_what_inspection_needs(trained_dsr3d: Train) -> None:
    run = trained_dsr3d("both")
    names = {name.removesuffix(".safetensors") for name in hashes(run) if name.endswith(".safetensors")}
    assert names == {"autoencoder", "networks", "golden", "held_out", "quantisation"}
    loaded = load_run(run)
    assert loaded.detector.input_names == ["surface", "rgb"]
    assert len(loaded.calibration.held_out_scores) == 3
    assert "surface normals" in loaded.record.provenance["xyz"]["extractor"]
    assert "generated images" in loaded.record.provenance["rgb"]["extractor"]


@pytest.mark.long
def test_a_training_that_is_interrupted_again_and_again_ends_with_the_same_files(
    data: Path, trained_dsr3d: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_training, "CHECKPOINT_SECONDS", 0)
    run = tmp_path / "run"
    for step, done in (("train autoencoder", 1), ("train networks", 1), ("calibrate threshold", 1)):
        with pytest.raises(KeyboardInterrupt):
            fit(data, None, recipe("both"), run, InterruptAt(step, done))
        assert_whole(run)
    reporter = RecordingReporter()
    assert fit(data, None, recipe("both"), run, reporter).status == "complete"
    assert hashes(run) == hashes(trained_dsr3d("both"))
    assert not any("Codes in use" in line for line in reporter.lines)


def test_a_training_that_diverges_ends_in_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="smaller --learning-rate"):
        fit(data, None, recipe("both", learning_rate=1e30), tmp_path / "run")
    assert not (tmp_path / "run" / "calibration.json").exists()


@pytest.mark.parametrize("name", ["autoencoder", "networks"])
def test_damaged_files_of_a_run_are_named(trained_dsr3d: Train, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(trained_dsr3d("both"), tmp_path / "run"))
    flip_byte(run / f"{name}.safetensors", 4)
    with pytest.raises(RunError, match=f"{name}.safetensors"):
        load_run(run)


def test_an_autoencoder_serves_other_runs(data: Path, trained_dsr3d: Train, tmp_path: Path) -> None:
    source, run = trained_dsr3d("both"), tmp_path / "run"
    reporter = RecordingReporter()
    fit(data, None, recipe("both", epochs=1), run, reporter, FitOptions(network_from=source))
    assert hashes(run)["autoencoder.safetensors"] == hashes(source)["autoencoder.safetensors"]
    assert not any(name.startswith("train autoencoder") for name, *_ in reporter.steps)
    with pytest.raises(RunError, match="another codes"):
        fit(data, None, recipe("both", codes=33), tmp_path / "other", options=FitOptions(network_from=source))


def test_the_published_training_with_fewer_steps(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder_task, "PUBLISHED_BATCH", 2)
    monkeypatch.setattr(autoencoder_task, "PUBLISHED_PIXELS", 64)
    monkeypatch.setattr(dsr3d_fit, "DRAWS", 7)
    chosen = recipe("both", mode="faithful", geometry="depth", patience=0, epochs=1)
    fit(data, None, chosen, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    assert len((tmp_path / "run" / "train-networks.csv").read_text().splitlines()) == 2
    picture = picture_of(loaded.recipe, loaded.golden[0].inputs)
    assert picture.shape == (1, 4, 64, 64)
    assert all(math.isfinite(score) for score in loaded.calibration.held_out_scores)


def test_ignored_pixels_decide_nothing() -> None:
    chosen, kept = recipe("xyz"), torch.ones(1, 64, 64, dtype=torch.bool)
    kept[:, :40] = False
    detector = DualSubspaceReprojection(chosen, new_autoencoder(chosen), new_networks(chosen), kept)
    logits = torch.zeros(1, 2, 64, 64)
    logits[:, 1] = -3
    logits[:, 1, 8:24, 8:24] = 5
    score, anomaly_map = detector.scored(logits)
    assert not anomaly_map[:40].any()
    assert float(score) == pytest.approx(torch.tensor(-3.0).sigmoid().item(), abs=1e-6)


def task_of(run: Path, tmp_path: Path, **changes: object) -> ObjectTask:
    """The training of the networks of an object, on the samples of a run that holds them as golden samples."""
    loaded = load_run(run)
    chosen = recipe("both", **changes)
    context = FitContext(
        run=tmp_path,
        recipe=chosen,
        preprocessing=loaded.preprocessing,
        train=[],
        held_out=[],
        joint={},
        samples=SampleProvider(tmp_path / "samples"),
        device=torch.device("cpu"),
        features=tmp_path / "features",
        cache_bytes=1 << 30,
        taken_over=False,
        reporter=RecordingReporter(),
    )
    schedule = Schedule("train", tmp_path / "networks.safetensors", range(4), 10, 2, "even", 0)
    autoencoder = new_autoencoder(chosen).eval().requires_grad_(False)
    return ObjectTask(context, new_networks(chosen), schedule, [], autoencoder)


def test_one_step_trains_all_networks_of_the_object_and_not_the_autoencoder(
    trained_dsr3d: Train, tmp_path: Path
) -> None:
    run = trained_dsr3d("both")
    task, generator = task_of(run, tmp_path), torch.Generator().manual_seed(0)
    sample = load_run(run).golden[0]
    picture = picture_of(task.context.recipe, sample.inputs)
    assert picture.shape == (1, 6, 64, 64) and 0 <= float(picture.min()) < float(picture.max()) <= 1
    mask = foreground_of(task.context.recipe, picture)
    clean = task.autoencoder.encode(picture)
    codes = disturbed_codes(task.autoencoder, clean, mask, generator)
    assert bool((codes.mask >= mask).all())
    assert bool((codes.coarse != clean.coarse).any() or (codes.fine != clean.fine).any())
    loss = task.loss_of(picture, clean, codes)
    loss.backward()
    assert all(
        p.grad is not None and bool(p.grad.any()) for name, p in task.module.named_parameters() if "bias" not in name
    )
    assert all(p.grad is None for p in task.autoencoder.parameters())
    assert task.learning_rate(7.9, 8) == pytest.approx(10 * task.learning_rate(8, 8.1))


def test_only_the_published_foreground_stays_where_it_was(trained_dsr3d: Train, tmp_path: Path) -> None:
    run = trained_dsr3d("both")
    picture = torch.zeros(1, 6, 64, 64)
    picture[..., 8:12, 20:44] = 0.5
    before = foreground_of(recipe("both"), picture)
    for mode, same in (("default", False), ("faithful", True)):
        turned, foreground = task_of(run, tmp_path, mode=mode)._augmented(picture, torch.Generator().manual_seed(1))
        assert not torch.equal(turned, picture)
        assert torch.equal(foreground, before) == same
    assert bool(foreground_of(recipe("rgb"), torch.zeros(1, 3, 64, 64)).all())


def test_simulated_pictures_follow_the_generator(tmp_path: Path) -> None:
    chosen = recipe("both", geometry="depth")
    first, again, other = (simulated_pictures(chosen, 2, 32, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == (2, 4, 32, 32) and 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert autoencoder_length(PUBLISHED_DSR3D) == (100, 64_000, 64)
