"""Trainings of AST on the tiny data set: files, resumption, optimiser, and what a training refuses."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.detectors import network_training
from cmdiad_train.detectors.ast.fitting.features import CellBatches, channel_statistics
from cmdiad_train.detectors.ast.fitting.tasks import FlowTask, StudentTask
from cmdiad_train.detectors.ast.networks.cells import Standardisation
from cmdiad_train.detectors.ast.networks.flow import Flow
from cmdiad_train.detectors.ast.networks.student import Student
from cmdiad_train.detectors.ast.run_files import load_standardisation, save_standardisation
from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.network_training import Schedule
from cmdiad_train.detectors.training_features import Features
from cmdiad_train.fit.fit import fit
from cmdiad_train.fit.samples import SampleProvider
from cmdiad_train.runs.run import load_run
from helpers import RecordingReporter, flip_byte
from helpers import tiny_ast_recipe as recipe
from reporters import InterruptAt
from runs import assert_whole, hashes

Train = Callable[..., Path]
CPU = torch.device("cpu")


@pytest.mark.parametrize("modality", ["rgb", "xyz", "both"])
def test_a_run_keeps_what_inspection_needs(trained_ast: Train, modality: str) -> None:
    run = trained_ast(modality)
    names = {name.removesuffix(".safetensors") for name in hashes(run) if name.endswith(".safetensors")}
    own = {"standardisation", "flow", "student"} | ({"extractor"} if modality != "xyz" else set())
    assert names == own | {"golden", "held_out", "quantisation"}
    loaded = load_run(run)
    assert len(loaded.calibration.held_out_scores) == 3
    assert set(loaded.record.provenance) == set(loaded.recipe.mains)
    sample = next(sample for sample in loaded.golden if not sample.tampered)
    score, _ = loaded.detector(*(sample.inputs[name] for name in loaded.detector.input_names))
    assert bool(torch.isfinite(score).all())


def test_a_training_that_is_interrupted_again_and_again_ends_with_the_same_files(
    data: Path, trained_ast: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_training, "CHECKPOINT_SECONDS", 0)
    run = tmp_path / "run"
    for step, done in (("train flow", 1), ("train student", 1), ("calibrate threshold", 1)):
        with pytest.raises(KeyboardInterrupt):
            fit(data, None, recipe("both"), run, InterruptAt(step, done))
        assert_whole(run)
    assert fit(data, None, recipe("both"), run).status == "complete"
    assert hashes(run) == hashes(trained_ast("both"))


def test_a_training_that_diverges_ends_in_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="smaller --learning-rate"):
        fit(data, None, recipe("xyz", learning_rate=1e30, epochs=9, patience=0), tmp_path / "run")
    assert not (tmp_path / "run" / "calibration.json").exists()


@pytest.mark.parametrize("name", ["extractor", "standardisation", "flow", "student"])
def test_damaged_files_of_a_run_are_named(trained_ast: Train, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(trained_ast("both"), tmp_path / "run"))
    flip_byte(run / f"{name}.safetensors", 4)
    with pytest.raises(RunError, match=f"{name}.safetensors"):
        load_run(run)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_standardisation_that_divides_by_nothing_is_refused(tmp_path: Path, value: float) -> None:
    deviation = torch.ones(3, 1, 1)
    deviation[1] = value
    save_standardisation(tmp_path, torch.zeros(3, 1, 1), deviation)
    with pytest.raises(RunError, match="not finite and positive"):
        load_standardisation(tmp_path, 3)


def context(run: Path, **changes: Any) -> FitContext:
    """A training of six samples whose features are random."""
    return FitContext(
        run=run,
        recipe=recipe("xyz", **changes),
        preprocessing=Preprocessing(modality="xyz", size=64, xyz_feed="normals", groups=0, group_size=0, grid=0),
        train=[SampleFiles(str(i), "good", None, None, None) for i in range(6)],
        held_out=[],
        joint={},
        samples=SampleProvider(run / "samples"),
        device=CPU,
        features=run / "features",
        cache_bytes=1 << 30,
        taken_over=False,
        reporter=RecordingReporter(),
    )


def random_features() -> Features:
    generator = torch.Generator().manual_seed(0)
    samples = [torch.randn(1, 4, 8, 8, generator=generator, dtype=torch.float64) * 3 + 1 for _ in range(6)]
    return Features([str(i) for i in range(6)], lambda i: [samples[i], torch.ones_like(samples[i][:, :1])], CPU)


def test_statistics_standardise_the_training_samples_and_leave_constants_unscaled() -> None:
    features = random_features()
    for index in range(6):
        features.kept[index] = features.one(index)
        features.kept[index][0][3] = 7
    mean, deviation = channel_statistics(features, [0, 1, 2])
    values = torch.stack([features.kept[index][0] for index in (0, 1, 2)])
    standard = (values - mean) / deviation
    torch.testing.assert_close(standard[:, :3].mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        standard[:, :3].square().mean((0, 2, 3)), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-6
    )
    assert (float(mean[3]), float(deviation[3])) == (7, 1)


def test_three_steps_are_those_of_adam_with_weight_decay_in_the_gradient(tmp_path: Path) -> None:
    """The published optimiser, computed step by step for every parameter of the flow and of the student."""
    training = context(tmp_path, mode="faithful", learning_rate=2e-4)
    torch.manual_seed(0)
    flow, student = Flow(4, 8).double(), Student(4, 8, width=6, units=1).double()
    with torch.no_grad():
        for block in flow.blocks:
            block.s1.gamma.fill_(0.5)  # type: ignore[union-attr]
    batches = CellBatches(random_features(), Standardisation(4).double())
    length = Schedule("train", tmp_path / "network.safetensors", range(6), 1, 3, "only_full", 0)
    frozen = copy.deepcopy(flow).eval().requires_grad_(False)
    tasks = FlowTask(training, flow, batches, length, []), StudentTask(training, student, batches, length, [], frozen)
    for task in tasks:
        network = task.module
        expected = {
            name: [p.detach().clone(), torch.zeros_like(p), torch.zeros_like(p)]
            for name, p in network.named_parameters()
        }
        for step in (1, 2, 3):
            loss = task.loss([0, 1, 2], torch.Generator()).value
            task.optimiser.zero_grad()
            loss.backward()
            for name, parameter in network.named_parameters():
                value, mean, square = expected[name]
                assert parameter.grad is not None
                gradient = parameter.grad + 1e-5 * value
                mean += 0.1 * (gradient - mean)
                square += 0.001 * (gradient.square() - square)
                corrected = (square / (1 - 0.999**step)).sqrt() + 1e-8
                value -= 2e-4 * mean / (1 - 0.9**step) / corrected
            task.optimiser.step()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name][0], rtol=0, atol=1e-12)


def test_the_loss_of_the_student_does_not_train_the_flow(tmp_path: Path) -> None:
    torch.manual_seed(0)
    flow, student = Flow(4, 8).double(), Student(4, 8, width=6, units=1).double()
    batches = CellBatches(random_features(), Standardisation(4).double())
    length = Schedule("train", tmp_path / "network.safetensors", range(6), 1, 3, "even", 0)
    task = StudentTask(context(tmp_path), student, batches, length, [], flow)
    task.loss([0, 1], torch.Generator()).value.backward()
    assert all(parameter.grad is None for parameter in flow.parameters())
    assert student.enter.weight.grad is not None


def test_both_losses_fall(trained_ast: Train) -> None:
    run = trained_ast("rgb", epochs=8, patience=0)
    for name in ("train-flow", "train-student"):
        losses = [float(line.split(",")[1]) for line in (run / f"{name}.csv").read_text().splitlines()[1:]]
        assert len(losses) == 8
        assert losses[-1] < losses[0]
