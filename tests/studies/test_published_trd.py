"""The plain published TRD: its sizes, and the same result as the detector of a faithful recipe with equal weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cmdiad_runtime.sample import Sample
from cmdiad_train.detectors.trd.detector import ReverseDistillation
from cmdiad_train.detectors.trd.networks.student import Student
from cmdiad_train.detectors.trd.networks.teacher import Teacher
from cmdiad_train.recipe import TEACHER_STAGES, Recipe, RgbExtractor, TrdRecipe
from studies import published_trd as plain
from studies.trd_speed import speed_table

SIZE = 64


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        students = {name: parameters(plain.Student(size)) for name, size in plain.SIZES.items()}
    assert students == {"resnet18": 22_238_470, "wide_resnet50_2": 193_356_806}


def copy_weights(source: Student, target: plain.Student) -> None:
    """Both networks register their layers in the same order."""
    state = source.state_dict()
    scalars = torch.stack([state.pop(f"decoder.w_{letter}") for letter in "cba"])
    names = [name for name in target.state_dict() if name != "level_scalars"]
    layers = dict(zip(names, state.values(), strict=True))
    target.load_state_dict({"level_scalars": scalars, **layers})


@torch.no_grad()
def test_prediction_is_that_of_the_faithful_detector() -> None:
    torch.manual_seed(0)
    spec = RgbExtractor("resnet18", TEACHER_STAGES, None, "seeded")
    recipe = Recipe(TrdRecipe(mode="faithful", variant="trd", teacher=spec), modality="both", size=SIZE, view="sensor")
    teacher = Teacher(spec, size=SIZE)
    students = [Student(teacher.shape, teacher.shape) for _ in range(2)]
    for student in students:
        for name, value in student.state_dict().items():
            if "running" in name or "decoder.w_" in name:
                value.add_(torch.rand_like(value))
    detector = ReverseDistillation(recipe, teacher, students)
    detector.calibrate(torch.tensor([0.4, 0.2]), torch.tensor([1.5, 0.5]))
    network = plain.PublishedTrd(plain.SIZES["resnet18"])
    network.teacher = teacher
    for student, target in zip(students, network.students, strict=True):
        assert isinstance(target, plain.Student)
        copy_weights(student, target)
    network.mean.copy_(detector.mean)
    network.deviation.copy_(detector.deviation)
    images = [torch.rand(1, SIZE, SIZE, 3) * 255 for _ in range(2)]
    score, anomaly_map = network.predict(*(teacher.normalise(image) for image in images))
    expected_score, expected = detector(*images)
    np.testing.assert_allclose(anomaly_map, expected.numpy(), rtol=0, atol=1e-4)
    assert score == pytest.approx(float(expected_score), abs=1e-4)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "int8-cpu"])
def test_published_program_and_graph_start_from_sensor_data(data: Path, tmp_path: Path, precision: str) -> None:
    from cmdiad_runtime.readers import read_rgb, read_xyz
    from helpers import sample_files
    from studies.trd_speed import compare_speed

    files = zip(*(sample_files(data, "test", "good", modality) for modality in ("rgb", "xyz")), strict=True)
    samples = [Sample(str(a), rgb=read_rgb(a), xyz=read_xyz(b)) for a, b in files]
    figures = compare_speed("resnet18", (precision,), samples, 2, tmp_path)
    assert list(figures) == ["published", precision]
    for row in figures.values():
        assert row["peak_resident_mb"] > 0
        assert row["p95"] >= row["p50"] > 0
    assert figures["published"]["times_faster"] == 1
    assert len(speed_table(figures).splitlines()) == 4
