"""Distillation of a student: learning, cost and agreement, interruptions, and a file that loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.extractors.weights_file import read_metadata, stored_extractor
from cmdiad_train.pretraining.job import Job, Schedule
from cmdiad_train.pretraining.samples import Source
from cmdiad_train.pretraining.student import Lesson, distil_student
from cmdiad_train.pretraining.student_network import Student, distances, evenly_spaced_rows
from cmdiad_train.pretraining.student_report import agreement, cost, multiply_adds, stored_report
from cmdiad_train.recipe import RgbExtractor
from cmdiad_train.training.machine import Machine
from helpers import SIZE
from reporters import InterruptAt

TEACHER = RgbExtractor("test_vit", (), None)
STUDENT = RgbExtractor("test_resnet", (0, 1), None)
LESSON = Lesson(TEACHER, STUDENT, "rgb", SIZE, copies=1)


def job(out: Path, **schedule: float) -> Job:
    options = {"epochs": 3, "batch": 4, "learning_rate": 3e-3, **schedule}
    source = Source(generate=10, seed=5)
    return Job(source, out, Schedule(**options), "the command", "the licence", Machine("cpu"))  # type: ignore[arg-type]


def test_student_takes_the_teachers_place(tmp_path: Path) -> None:
    out = tmp_path / "student.safetensors"
    report = distil_student(job(out, epochs=25), LESSON, SILENT)
    assert json.loads((tmp_path / "student.json").read_text()) == report
    assert report["samples"] == {"source": "10 generated samples (seed 5)", "training": 8, "held_out": 2}
    assert (report["teacher"]["grid"], report["student"]["grid"]) == (7, 7)
    assert report["student"]["gmac"] > 0 and report["student"]["parameters"] > 1000
    stored = stored_extractor(out)
    assert stored == replace(STUDENT, grid=7, weights=str(out))
    assert isinstance(stored, RgbExtractor)
    image = torch.randint(0, 256, (1, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    extractor = TimmBackbone(stored, size=SIZE)
    assert extractor.grid == 7 and torch.isfinite(extractor(image)).all()
    assert read_metadata(out)["source"].startswith("distilled from test_vit, random weights, seed 0")
    log = [line.split(",") for line in (tmp_path / "student.csv").read_text().splitlines()[1:]]
    assert float(log[-1][1]) < 0.6 * float(log[0][1])
    assert float(log[-1][2]) < float(log[0][2])  # held-out images too
    assert report["agreement"]["r2"] > 0.2
    assert not (tmp_path / "student.work").exists()
    assert distil_student(job(out, epochs=25), LESSON, SILENT) == report
    with pytest.raises(OutputError, match="another training"):
        distil_student(job(out), LESSON, SILENT)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
        ('{"teacher": 3, "student": {}, "agreement": {}, "samples": {}, "machine": {}}', "teacher"),
        ('{"teacher": {}, "student": {}, "agreement": {"r2": "x"}, "samples": {}, "machine": {}}', "agreement"),
        ('{"teacher": {}, "student": {}, "agreement": {}, "samples": {}, "machine": {}, "moon": 1}', "newer cmdiad"),
    ],
)
def test_damaged_report_is_named(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "student.json").write_text(text)
    with pytest.raises(RunError, match=word) as refused:
        stored_report(tmp_path / "student.json")
    assert refused.value.subject == str(tmp_path / "student.json")


def test_interrupted_distillation_continues_to_the_same_bytes(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.safetensors", tmp_path / "part.safetensors"
    distil_student(job(whole), LESSON, SILENT)
    with pytest.raises(KeyboardInterrupt):
        distil_student(job(part), LESSON, InterruptAt("distil", 2))
    assert not part.exists()
    distil_student(job(part), LESSON, SILENT)
    assert part.read_bytes() == whole.read_bytes()
    assert part.with_suffix(".csv").read_bytes() == whole.with_suffix(".csv").read_bytes()


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    mine = replace(job(tmp_path / "gpu.safetensors", epochs=10), machine=Machine("cuda"))
    assert distil_student(mine, LESSON, SILENT)["agreement"]["r2"] > 0


def test_another_teacher_is_another_training(tmp_path: Path) -> None:
    path, out = tmp_path / "teacher.safetensors", tmp_path / "student.safetensors"
    save_file(TimmBackbone(TEACHER, size=SIZE, seed=3).model.state_dict(), path)
    lesson = replace(LESSON, teacher=replace(TEACHER, weights=str(path)))
    distil_student(job(out, epochs=1), lesson, SILENT)
    state = load_file(path)
    save_file({**state, "norm.weight": state["norm.weight"] + 1}, path)
    with pytest.raises(OutputError, match="another training"):
        distil_student(job(out, epochs=1), lesson, SILENT)


class KnownFeatures:
    """Teacher features with known values."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def batch(self, chosen: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        index = [i for i, _ in chosen]
        return torch.zeros(len(index), 1), self.features[index]


def test_agreement_equals_numpy() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.normal(2, 1, (3, 10, 4)), rng.normal(2, 1, (3, 10, 4))
    mean = torch.tensor([1.0, 2.0, 2.0, 3.0])
    calls, own = iter(torch.tensor(predicted).float()), rng.normal(size=(3, 10, 2))
    owns = iter(torch.tensor(own).float())

    class Fake(SimpleNamespace):
        def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return next(owns)[None], next(calls)[None]

    result = agreement(Fake(mean=mean), KnownFeatures(torch.tensor(true).float()), [0, 1, 2])  # type: ignore[arg-type]
    a, b, m = predicted.reshape(-1, 4), true.reshape(-1, 4), mean.numpy().astype(float)

    def cosine(x: np.ndarray, y: np.ndarray) -> float:
        return float(((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)).mean())

    assert result["cosine"] == pytest.approx(cosine(a, b), abs=1e-5)
    assert result["centred_cosine"] == pytest.approx(cosine(a - m, b - m), abs=1e-5)
    pairs = np.triu_indices(10, 1)
    apart = [
        [np.linalg.norm(x[:, None] - x[None], axis=2)[pairs] for x in both] for both in zip(own, true, strict=True)
    ]
    assert result["distances"] == pytest.approx(np.mean([np.corrcoef(*both)[0, 1] for both in apart]), abs=1e-5)
    assert result["r2"] == pytest.approx(1 - ((a - b) ** 2).sum() / ((b - m) ** 2).sum(), abs=1e-5)


def test_multiply_adds_are_counted_by_hand() -> None:
    convolution = nn.Conv2d(3, 8, 3, padding=1)
    assert multiply_adds(convolution, torch.zeros(1, 3, 10, 10)) == 10 * 10 * 8 * 3 * 9
    assert multiply_adds(nn.Linear(5, 7), torch.zeros(4, 5)) == 4 * 5 * 7

    class Attend(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    assert multiply_adds(Attend(), torch.zeros(1, 2, 16, 8)) == 2 * 2 * 16 * 16 * 8


def test_cost_counts_the_stages_that_run() -> None:
    """Stages that are not used cost nothing."""
    shallow, deep = (TimmBackbone(replace(STUDENT, stages=stages), size=SIZE) for stages in ((0,), (0, 1, 2)))
    small, large = cost(shallow, SIZE), cost(deep, SIZE)
    assert small["gmac"] < large["gmac"]
    assert small["parameters"] == sum(p.numel() for p in shallow.model.parameters()) < large["parameters"]
    assert small["milliseconds"] > 0


@pytest.mark.parametrize("grid", [7, 14])
def test_student_of_another_grid_is_brought_to_the_teachers(grid: int) -> None:
    student = Student(
        TimmBackbone(TEACHER, size=SIZE).requires_grad_(True), grid, torch.zeros(5), torch.ones(5), seed=0
    )
    own, predicted = student(torch.zeros(2, SIZE, SIZE, 3))
    assert (own.shape, predicted.shape) == ((2, grid**2, 64), (2, grid**2, 5))


def test_a_student_that_is_the_teacher_has_no_distance_to_learn() -> None:
    extractor = TimmBackbone(TEACHER, size=SIZE).requires_grad_(True).eval()
    student = Student(extractor, 7, torch.zeros(64), torch.ones(64), seed=0)
    torch.nn.init.eye_(student.head.weight)
    torch.nn.init.zeros_(student.head.bias)
    images = torch.randint(0, 256, (2, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(0)).float()
    features = extractor(images).detach()
    rows = evenly_spaced_rows(2 * 49)
    assert rows.tolist() == list(range(98))
    assert float(student.loss(images, features, rows).detach()) == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(distances(3 * features, rows), distances(features, rows))
    torch.nn.init.zeros_(student.head.weight)
    assert float(student.loss(images, features, rows).detach()) == pytest.approx(float(features.square().mean()))


def test_too_few_samples_to_hold_any_out(tmp_path: Path) -> None:
    few = replace(job(tmp_path / "o.safetensors"), source=Source(generate=4))
    with pytest.raises(RunError, match="at least 5"):
        distil_student(few, LESSON, SILENT)
