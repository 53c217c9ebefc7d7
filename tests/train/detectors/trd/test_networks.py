"""Teachers of several kinds, and the students that suit them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.trd.networks.decoder import Decoder
from cmdiad_train.detectors.trd.networks.shapes import TeacherShape
from cmdiad_train.detectors.trd.networks.student import Student, StudentOutputs
from cmdiad_train.detectors.trd.networks.teacher import Teacher
from cmdiad_train.recipe import RgbExtractor
from golden import SHARED

WEIGHTS = SHARED / "weights"
SHAPES = {
    "resnet10t": TeacherShape((64, 128, 256), "basic", (2, 2, 2)),
    "resnet18": TeacherShape((64, 128, 256), "basic", (2, 2, 2)),
    "resnet34": TeacherShape((64, 128, 256), "basic", (3, 4, 6)),
    "resnet50": TeacherShape((256, 512, 1024), "bottleneck", (3, 4, 6)),
    "wide_resnet50_2": TeacherShape((256, 512, 1024), "bottleneck", (3, 4, 6), 2),
    "resnetv2_50": TeacherShape((256, 512, 1024), "bottleneck", (3, 4, 6)),
    "tf_efficientnet_lite0": TeacherShape((24, 40, 112), "basic", (2, 2, 2)),
    "regnety_002": TeacherShape((24, 56, 152), "bottleneck", (2, 2, 2), 2),
}
SMALL = TeacherShape((8, 12, 16))
PARAMETERS = {"resnet18": 47_259_724, "resnet34": 66_223_436, "resnet50": 320_954_444, "wide_resnet50_2": 411_576_140}
"""Parameters of the used part of one teacher and of two students, as recorded from the published classes."""
RD_MILLIONS = {"resnet18": 18.2, "resnet34": 30.3, "resnet50": 55.2, "wide_resnet50_2": 108.7}
"""Parameters of the teacher and of one student without the other modality."""


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def features(shape: TeacherShape, size: int = 64, batch: int = 2, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sides = (size // 4, size // 8, size // 16)
    return [
        torch.rand(batch, c, side, side, generator=generator) for c, side in zip(shape.channels, sides, strict=True)
    ]


def sizes(maps: list[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(level.shape) for level in maps]


@pytest.mark.parametrize("backbone", SHAPES)
def test_a_student_follows_from_its_teacher(backbone: str) -> None:
    teacher = Teacher(RgbExtractor(backbone), size=64)
    assert teacher.shape == SHAPES[backbone]
    with torch.device("meta"):
        student, plain = Student(teacher.shape, teacher.shape), Student(teacher.shape)
        own = [level.to("meta") for level in features(teacher.shape)]
    outputs, alone = student(own, own), plain(own)
    assert sizes(own) == [(2, c, side, side) for c, side in zip(teacher.shape.channels, (16, 8, 4), strict=True)]
    for maps in (outputs.raw, outputs.filtered, outputs.amplified, outputs.fused, alone.fused):
        assert sizes(maps) == sizes(own)
    for bottleneck in (outputs.bottleneck, alone.bottleneck):
        assert bottleneck.shape == (2, 2 * teacher.shape.channels[2], 2, 2)
    if backbone in PARAMETERS:
        assert count(teacher, student, student) == PARAMETERS[backbone]
        assert count(teacher, plain) / 1e6 == pytest.approx(RD_MILLIONS[backbone], abs=0.05)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("backbone", "file"),
    [
        ("resnet18", "resnet18.in1k_layers123_bnfolded"),
        ("resnetv2_50", "resnetv2_50.mxnet_in1k_stage123"),
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k_noclassifier"),
    ],
)
def test_trained_weights_load_with_their_own_normalisation(backbone: str, file: str) -> None:
    path = WEIGHTS / f"{file}.safetensors"
    if not path.is_file():
        pytest.skip(f"no weights at {path}")
    teacher = Teacher(RgbExtractor(backbone, weights=str(path)), size=64)
    image = torch.full((1, 64, 64, 3), 100, dtype=torch.uint8)
    expected = (100 / 255 - teacher.backbone.mean) / teacher.backbone.std
    torch.testing.assert_close(teacher.normalise(image), expected.expand(1, 3, 64, 64))
    assert teacher.shape == SHAPES[backbone]
    assert path.name in teacher.provenance
    assert all(level.isfinite().all() and level.std() > 0 for level in teacher(teacher.normalise(image)))


def test_a_teacher_is_frozen_and_stays_in_eval_mode() -> None:
    teacher = Teacher(RgbExtractor("resnet10t"), size=64)
    nn.Sequential(teacher).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_teacher_without_the_strides_is_refused() -> None:
    with pytest.raises(RunError, match="vit_tiny_patch16_224: found strides"):
        Teacher(RgbExtractor("vit_tiny_patch16_224"), size=224)


def test_teachers_of_both_modalities_may_differ() -> None:
    other = TeacherShape((4, 6, 10))
    outputs = Student(SMALL, other)(features(SMALL), features(other, seed=1))
    for maps in outputs[1:]:
        assert sizes(maps) == sizes(features(SMALL))


def test_a_plain_student_compares_what_its_stages_return() -> None:
    student = Student(SMALL)
    outputs = student(features(SMALL))
    assert outputs.filtered == outputs.amplified == []
    assert all(fused is raw for fused, raw in zip(outputs.fused, outputs.raw, strict=True))
    assert not any(name.startswith(("projector", "decoder.w")) for name in student.state_dict())


def test_each_level_adds_what_the_amplifier_predicts_and_passes_the_sum_on() -> None:
    student = Student(SMALL, SMALL).eval()
    with torch.no_grad():
        student.decoder.w_a.copy_(torch.tensor([0.0, 1.0]))
        student.decoder.w_c.copy_(torch.tensor([2.0, -1.0]))
        outputs = student(features(SMALL), features(SMALL, seed=1))
        weights = torch.tensor([[2.0, -1.0], [1.0, 1.0], [0.0, 1.0]]).exp()
        for level, (w_raw, w_amplified) in enumerate(weights / weights.sum(1, keepdim=True)):
            expected = w_raw * outputs.raw[level] + w_amplified * outputs.amplified[level]
            torch.testing.assert_close(outputs.fused[level], expected)
        torch.testing.assert_close(outputs.raw[1], student.decoder.layer2(outputs.fused[2]))
        torch.testing.assert_close(outputs.raw[0], student.decoder.layer3(outputs.fused[1]))


def test_the_other_modality_reaches_the_bottleneck_through_the_filter() -> None:
    student = Student(SMALL, SMALL).eval()
    own = features(SMALL)
    with torch.no_grad():
        results: list[StudentOutputs] = [student(own, features(SMALL, seed=seed)) for seed in (1, 2)]
    assert not torch.allclose(results[0].bottleneck, results[1].bottleneck)


def test_level_weights_start_equal() -> None:
    torch.testing.assert_close(Decoder(SMALL, amplified=True).level_weights(), torch.full((3, 2), 0.5))
