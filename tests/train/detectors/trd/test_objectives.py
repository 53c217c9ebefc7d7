"""What students learn: the losses of the three objectives, and the scale of hallucinated features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.training_features import Features
from cmdiad_train.detectors.trd.fitting.features import Levels
from cmdiad_train.detectors.trd.fitting.objectives import DroppedModality, Imitation, Reconstruction
from cmdiad_train.detectors.trd.fitting.scales import fit_scales
from cmdiad_train.detectors.trd.losses import flat_cosine, pixel_cosine, student_loss
from cmdiad_train.detectors.trd.networks.shapes import TeacherShape
from cmdiad_train.detectors.trd.networks.student import Student, StudentOutputs

SHAPE = TeacherShape((4, 6, 8))
SAMPLES = 40


def levels(seed: int) -> list[Levels]:
    """Random positive features of three levels for each sample, `[C, h, w]`."""
    generator = torch.Generator().manual_seed(seed)
    sides = (16, 8, 4)
    return [
        [torch.rand(c, side, side, generator=generator) for c, side in zip(SHAPE.channels, sides, strict=True)]
        for _ in range(SAMPLES)
    ]


def features(samples: list[Levels]) -> Features:
    """Features of training samples that are computed when a batch needs them."""
    keys = [str(i) for i in range(len(samples))]
    return Features(keys, lambda i: [level[None] for level in samples[i]], torch.device("cpu"))


def stacked(samples: list[Levels], chosen: list[int]) -> Levels:
    return [torch.stack([samples[i][level] for i in chosen]) for level in range(3)]


@pytest.fixture
def tuned() -> Student:
    torch.manual_seed(0)
    return Student(SHAPE, SHAPE).eval()


def test_reconstruction_has_the_published_terms(tuned: Student) -> None:
    own, other, chosen = levels(0), levels(1), [3, 5]
    a, b = stacked(own, chosen), stacked(other, chosen)
    for distance, cosine in (("flat", flat_cosine), ("pixel", pixel_cosine)):
        outputs = tuned(a, b)
        groups = (outputs.raw, outputs.filtered, outputs.amplified, outputs.fused)
        expected = sum(cosine(group, a) for group in groups)
        objective = Reconstruction(distance, features(own), features(other))  # type: ignore[arg-type]
        torch.testing.assert_close(objective.loss(tuned, chosen, None), expected)
    plain = Student(SHAPE).eval()
    loss = Reconstruction("flat", features(own)).loss(plain, chosen, None)
    torch.testing.assert_close(loss, flat_cosine(plain(a).raw, a))


def test_half_of_the_samples_are_trained_with_hallucinated_features() -> None:
    own, real, hallucinated = levels(0), levels(1), levels(2)
    received: list[Levels] = []

    def student(own: Levels, other: Levels | None) -> StudentOutputs:
        assert other is not None
        received.append(other)
        return StudentOutputs(own[2], own, own, own, own)

    objective = DroppedModality("flat", features(own), features(real), features(hallucinated))
    chosen = list(range(SAMPLES))
    objective.loss(student, chosen, torch.Generator().manual_seed(0))
    objective.loss(student, chosen, torch.Generator().manual_seed(0))
    objective.loss(student, chosen, None)
    drawn, again, validated = received
    dropped = [torch.equal(drawn[0][i], hallucinated[i][0]) for i in chosen]
    assert 10 < sum(dropped) < 30
    for level in range(3):  # all levels of a sample are of the same kind, and the draws depend on the generator alone
        for i in chosen:
            expected = hallucinated[i] if dropped[i] else real[i]
            assert torch.equal(drawn[level][i], expected[level])
        assert torch.equal(again[level], drawn[level])
        assert torch.equal(validated[level], stacked(hallucinated, chosen)[level])


def test_a_plain_student_imitates_teacher_and_examples() -> None:
    torch.manual_seed(0)
    plain, chosen = Student(SHAPE).eval(), [1, 2, 4]
    own, first, second = levels(0), levels(1), levels(2)
    objective = Imitation("pixel", features(own), [features(first), features(second)])
    raw = plain(stacked(own, chosen)).raw
    to_teacher, to_first, to_second = (pixel_cosine(raw, stacked(group, chosen)) for group in (own, first, second))
    loss = objective.loss(plain, chosen, None)
    torch.testing.assert_close(loss, to_teacher + (to_first + to_second) / 2)


def test_scales_bring_amplified_features_to_the_size_of_the_target() -> None:
    source = levels(0)
    factors = (0.25, 3.0, 40.0)
    target = [[level / factor for level, factor in zip(sample, factors, strict=True)] for sample in source]
    target[7] = [torch.full_like(level, 1e6) for level in source[7]]  # a sample that is not trained on

    def amplify(source: Levels) -> Levels:
        return [2 * level for level in source]

    chosen = [i for i in range(SAMPLES) if i != 7]
    scales = fit_scales(amplify, features(source), features(target), chosen)
    torch.testing.assert_close(scales, torch.tensor([2.0, 1 / 6, 1 / 80]))
    assert scales.dtype == torch.float32


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_an_amplifier_without_output_is_refused(value: float) -> None:
    def amplify(source: Levels) -> list[Tensor]:
        return [torch.full_like(level, value) for level in source]

    with pytest.raises(RunError, match=r"hallucinated features: found factors of \[nan"):
        fit_scales(amplify, features(levels(0)), features(levels(1)), [0, 1])


def test_the_scale_does_not_change_the_loss_of_an_amplifier(tuned: Student) -> None:
    own = stacked(levels(0), [0])
    outputs = tuned(own, stacked(levels(1), [0]))
    larger = outputs._replace(amplified=[100 * level for level in outputs.amplified])
    first, second = (student_loss(o, own, "flat")["amplified"] for o in (outputs, larger))
    torch.testing.assert_close(first, second)
