"""Training of one student: schedule, early stopping, resumption, and the end of a training that diverges."""

from __future__ import annotations

import errno
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_train import tensor_files
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.detectors import network_training
from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.network_training import stop_split
from cmdiad_train.detectors.training_features import Features
from cmdiad_train.detectors.trd.fitting import students, variants
from cmdiad_train.detectors.trd.fitting.features import Levels
from cmdiad_train.detectors.trd.fitting.objectives import Reconstruction
from cmdiad_train.detectors.trd.fitting.students import Lesson, StudentTask, new_student, trained_student
from cmdiad_train.detectors.trd.networks.shapes import TeacherShape
from cmdiad_train.detectors.trd.networks.student import Student
from cmdiad_train.fit.samples import SampleProvider
from cmdiad_train.recipe import Recipe, TrdRecipe
from lanes import some
from reporters import InterruptAt

SHAPE = TeacherShape((4, 6, 8))
CPU = torch.device("cpu")
PART = TrdRecipe(epochs=5, batch=4, patience=0)


def context(
    run: Path, part: TrdRecipe = PART, count: int = 10, parts: int = 1, reporter: Reporter = SILENT
) -> FitContext:
    """The training of `count` samples, which are never read."""
    view = "part" if parts > 1 else "sensor"
    return FitContext(
        run=run,
        recipe=Recipe(part, modality="rgb", size=64, view=view, seed=3, parts=parts),  # type: ignore[arg-type]
        preprocessing=Preprocessing(modality="rgb", size=64, parts=parts),
        train=[SampleFiles(str(i), "good", None, None, None) for i in range(count)],
        held_out=[],
        joint={},
        samples=SampleProvider(run / "samples"),
        device=CPU,
        features=run / "features",
        cache_bytes=1 << 30,
        taken_over=False,
        reporter=reporter,
    )


def random_features(count: int, device: torch.device = CPU) -> Features:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 16, 16), (1, 6, 8, 8), (1, 8, 4, 4))
    samples: list[Levels] = [[torch.rand(shape, generator=generator) for shape in shapes] for _ in range(count)]
    return Features([str(i) for i in range(count)], lambda i: samples[i], device)


def lesson(run: Path, features: Features, part: TrdRecipe = PART) -> Lesson:
    objective = Reconstruction("flat", features)
    samples = range(len(features))
    return Lesson("train rgb student", run / "student.safetensors", objective, part.epochs, part.learning_rate, samples)


def trained(training: FitContext, **changes: Any) -> Student:
    features = random_features(len(training.train), training.device)
    student = new_student(training.recipe, SHAPE)
    part = training.recipe.detector
    assert isinstance(part, TrdRecipe)
    return trained_student(training, student, replace(lesson(training.run, features, part), **changes))


def log_of(run: Path) -> list[list[float]]:
    lines = (run / "train-rgb-student.csv").read_text().splitlines()[1:]
    return [[float(value) for value in line.split(",")] for line in lines]


def test_rate_decays_once_per_epoch_and_the_student_learns(tmp_path: Path) -> None:
    student = trained(context(tmp_path))
    log = log_of(tmp_path)
    assert [row[3] for row in log] == pytest.approx([5e-3 * 0.95**epoch for epoch in range(5)])
    assert log[-1][1] < 0.8 * log[0][1]
    assert not student.training
    assert not any(parameter.requires_grad for parameter in student.parameters())
    assert (tmp_path / "train-rgb-student.png").is_file()
    assert not list(tmp_path.glob("*.checkpoint*"))


@pytest.mark.parametrize(("mode", "sizes"), [("faithful", [4, 4, 2]), ("default", [3, 3, 4])])
def test_every_sample_is_used_and_adam_has_the_published_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, sizes: list[int]
) -> None:
    tasks, batches = [], []
    loss = StudentTask.loss

    def recorded(task: StudentTask, batch: list[int], generator: torch.Generator) -> Any:
        tasks.append(task)
        batches.append(batch)
        return loss(task, batch, generator)

    monkeypatch.setattr(StudentTask, "loss", recorded)
    trained(context(tmp_path, replace(PART, mode=mode)), epochs=1)  # type: ignore[arg-type]
    assert [len(batch) for batch in batches] == sizes
    assert sorted(chain(*batches)) == list(range(10))
    (group,) = tasks[0].optimiser.param_groups
    assert (type(tasks[0].optimiser), group["betas"], group["eps"], group["weight_decay"]) == (
        torch.optim.Adam,
        (0.5, 0.999),
        1e-8,
        0,
    )


@pytest.mark.parametrize(("epoch", "patience"), some([(e, p) for e in (1, 3, 5) for p in (0, 4)], [(1, 0), (3, 4)]))
def test_a_training_that_is_killed_at_any_epoch_ends_with_the_same_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, patience: int
) -> None:
    monkeypatch.setattr(network_training, "CHECKPOINT_SECONDS", 0)
    part = replace(PART, patience=patience)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    expected = trained(context(whole, part)).state_dict()
    with pytest.raises(KeyboardInterrupt):
        trained(context(killed, part, reporter=InterruptAt("train rgb student", epoch)))
    assert [path.name for path in killed.iterdir()] == ["student.checkpoint.safetensors"]
    resumed = trained(context(killed, part)).state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert (killed / "train-rgb-student.csv").read_bytes() == (whole / "train-rgb-student.csv").read_bytes()


def test_a_disk_that_fills_up_ends_in_one_error_and_the_training_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_training, "CHECKPOINT_SECONDS", 0)
    save, saved = tensor_files.save_file, []

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        saved.append(path)
        save(tensors, path, metadata)
        if len(saved) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="checkpoint.*no space left.*Free"):
        patch.setattr(tensor_files, "save_file", full)
        trained(context(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["student.checkpoint.safetensors"]
    resumed = trained(context(tmp_path)).state_dict()
    (tmp_path / "whole").mkdir()
    expected = trained(context(tmp_path / "whole")).state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())


def test_a_student_whose_training_was_killed_before_its_plot_still_gets_log_and_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_training, "CHECKPOINT_SECONDS", 0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    trained(context(whole))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(network_training, "plot_losses", mock.Mock(side_effect=KeyboardInterrupt))
        trained(context(killed))
    trained(context(killed))
    files = [path.name for path in sorted(whole.iterdir())]
    assert files == ["student.safetensors", "train-rgb-student.csv", "train-rgb-student.png"]
    assert [path.name for path in sorted(killed.iterdir())] == files
    assert all((killed / name).read_bytes() == (whole / name).read_bytes() for name in files)


def test_a_finished_student_is_loaded_and_not_trained_again(tmp_path: Path) -> None:
    first = trained(context(tmp_path)).state_dict()
    again = trained(context(tmp_path, reporter=InterruptAt("train", 0))).state_dict()
    assert all(torch.equal(again[name], value) for name, value in first.items())


def test_same_seed_same_student_and_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    recipe = context(tmp_path).recipe
    first, second, other = (new_student(r, SHAPE, SHAPE) for r in (recipe, recipe, replace(recipe, seed=4)))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [student.state_dict()["bn.conv1.weight"] for student in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_samples_that_choose_the_best_epoch_are_not_trained_on(tmp_path: Path) -> None:
    part = replace(PART, patience=2, epochs=3)
    training, stopping = stop_split(context(tmp_path, part), range(10), part.patience)
    assert (len(training), len(stopping)) == (9, 1)
    assert stop_split(context(tmp_path), range(10), 0) == (list(range(10)), [])
    used: set[int] = set()
    features = random_features(10)
    batch = features.batch

    class Recording(Features):
        def batch(self, chosen: Any) -> Levels:
            used.update(chosen if torch.is_grad_enabled() else [])
            return batch(chosen)

    recording = Recording(features.keys, features.one, features.device)
    trained(context(tmp_path, part), objective=Reconstruction("flat", recording))
    assert sorted(used) == training


def test_parts_of_a_picture_are_on_the_same_side(tmp_path: Path) -> None:
    training, stopping = stop_split(context(tmp_path, count=40, parts=2), range(40), 2)
    assert len(stopping) == 4
    assert sorted(training + stopping) == list(range(40))
    assert {i // 2 for i in training}.isdisjoint(i // 2 for i in stopping)


def test_the_best_epoch_is_kept_with_patience(tmp_path: Path) -> None:
    part = replace(PART, patience=2, epochs=40, learning_rate=0.05)
    student = trained(context(tmp_path, part))
    losses = [row[2] for row in log_of(tmp_path)]
    best = losses.index(min(losses))
    assert len(losses) == min(best + 1 + 2, 40)
    _, stopping = stop_split(context(tmp_path, part), range(10), part.patience)
    with torch.no_grad():
        loss = Reconstruction("flat", random_features(10)).loss(student, stopping, None)
    assert float(loss) == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize("patience", [0, 2])
def test_a_loss_that_is_not_finite_ends_in_an_error(tmp_path: Path, patience: int) -> None:
    part = replace(PART, learning_rate=1e30, patience=patience)
    with pytest.raises(RunError, match=r"train rgb student.*: found a loss of nan.*smaller --learning-rate"):
        trained(context(tmp_path, part))
    assert not (tmp_path / "student.safetensors").exists()


def test_autocast_keeps_losses_and_weights_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_bfloat16(device: torch.device) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    monkeypatch.setattr(students, "mixed_precision", in_bfloat16)
    training, features = context(tmp_path), random_features(10)
    chosen, generator = [0, 1, 2], torch.Generator()
    losses = {}
    for mode in ("default", "faithful"):
        changed = replace(training, recipe=replace(training.recipe, detector=replace(PART, mode=mode)))  # type: ignore[arg-type]
        task = StudentTask(changed, new_student(training.recipe, SHAPE), lesson(tmp_path, features), [])
        losses[mode] = task.loss(chosen, generator).value
        losses[mode].backward()
        assert {p.grad.dtype for p in task.module.parameters() if p.grad is not None} == {torch.float32}
    assert losses["default"].dtype == torch.float32
    assert losses["default"] != losses["faithful"]
    torch.testing.assert_close(losses["default"], losses["faithful"], rtol=0.02, atol=0.02)


@pytest.mark.gpu
def test_a_student_trains_and_resumes_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_training, "CHECKPOINT_SECONDS", 0)
    part = replace(PART, patience=4)
    with pytest.raises(KeyboardInterrupt):
        interrupted = context(tmp_path, part, reporter=InterruptAt("train rgb student", 3))
        trained(replace(interrupted, device=torch.device("cuda")))
    student = trained(replace(context(tmp_path, part), device=torch.device("cuda")))
    assert {parameter.device.type for parameter in student.parameters()} == {"cuda"}
    log = log_of(tmp_path)
    assert [row[0] for row in log] == [1, 2, 3, 4, 5]
    assert log[-1][1] < 0.8 * log[0][1]
    (tmp_path / "cpu").mkdir()
    trained(context(tmp_path / "cpu", part))
    assert log[0][1] == pytest.approx(log_of(tmp_path / "cpu")[0][1], rel=0.05)  # bfloat16 on the GPU


@pytest.mark.parametrize(
    ("variant", "modality", "number"),
    [("trd", "both", 2), ("rd", "both", 2), ("rd", "xyz", 1), ("mtfi-trd", "xyz", 3), ("mtfi-rd", "rgb", 4)],
)
@pytest.mark.parametrize("folds", [0, 2])
def test_each_student_states_how_many_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, modality: str, number: int, folds: int
) -> None:
    following = []

    def counted(training: FitContext, student: Student, lesson: Lesson) -> mock.MagicMock:
        following.append(lesson.following)
        return mock.MagicMock()

    monkeypatch.setattr(variants, "trained_student", counted)
    for name in ("fit_scales", "save_hallucinated", "load_hallucinated", "Hallucinated"):
        monkeypatch.setattr(variants, name, mock.MagicMock())
    training = context(tmp_path)
    part = replace(PART, variant=variant, folds=folds)  # type: ignore[arg-type]
    training = replace(training, recipe=replace(training.recipe, detector=part, modality=modality))  # type: ignore[arg-type]
    features = mock.MagicMock()
    features.teacher.shape = SHAPE
    for prefix, afterwards in (("", folds * number), ("fold 1: ", 0)):
        following.clear()
        variants.Students(training, features, variants.Group(prefix, tmp_path, range(10))).train()
        assert following == [afterwards + left for left in reversed(range(number))]
