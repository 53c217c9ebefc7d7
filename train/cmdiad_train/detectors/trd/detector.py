"""The reverse distillation detector: teacher, students, calibration and fusion as one module, which becomes the graph.

The map of a branch is the distance between a teacher's features and those that its student reconstructs (TRD,
arXiv 2412.08949).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmdiad_runtime.names import Modality
from cmdiad_train.detectors.family import PrecisionParts, TrainedDetector
from cmdiad_train.detectors.trd.blur import GaussianBlur
from cmdiad_train.detectors.trd.distance_map import DistanceMap
from cmdiad_train.detectors.trd.networks.hallucinated import Hallucinated
from cmdiad_train.detectors.trd.networks.student import Student
from cmdiad_train.detectors.trd.networks.teacher import Teacher
from cmdiad_train.recipe import Recipe, trd_part

INPUTS: dict[Modality, str] = {"rgb": "rgb", "xyz": "surface"}
"""Network input of each modality, `[1, size, size, 3]`: an image uint8, or an image of the surface float32 0-255."""


class ReverseDistillation(TrainedDetector):
    """The network inputs of one sample to image score and anomaly map.

    The map is the blurred sum of the maps of the branches, each divided by its standard deviation over good samples.
    If each modality has its own view, the blurred maps lie over different pixels: they are returned one by one, and
    `Prepared.to_sensor` adds them over the image of the sensor.
    The published code subtracts the mean first, which adds one constant to all pixels of all samples and so changes
    no verdict. Only a faithful recipe does that. Otherwise 0 means a perfect reconstruction, and pixels outside the
    view or in an ignored region, which are 0, never exceed others.

    Args:
        recipe: Recipe of the detector.
        teacher: Teacher of all branches.
        branches: Student of each main modality, in the order of `recipe.mains`. With the variant "trd" each one
            receives the features of the other modality too.
        hallucinated: Source of the missing modality's features for the only student (MTFI-TRD), or None.
        kept: Inspected pixels of each view, bool `[views, size, size]`; None without an inspection mask.

    Attributes:
        input_names: Names of the inputs, in the order of `forward`.
        mean: Number that is subtracted from the map of each branch, float32 `[branches]`.
        deviation: Number by which the map of each branch is divided after that, float32 `[branches]`.
    """

    mean: Tensor
    deviation: Tensor
    kept: Tensor | None

    def __init__(
        self,
        recipe: Recipe,
        teacher: Teacher,
        branches: Sequence[Student],
        hallucinated: Hallucinated | None = None,
        kept: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.input_names = [INPUTS[modality] for modality in recipe.mains]
        self._faithful = trd_part(recipe).mode == "faithful"
        self._tuned, self._apart = trd_part(recipe).variant == "trd", recipe.view == "each"
        self.teacher, self.branches, self.hallucinated = teacher, nn.ModuleList(branches), hallucinated
        self.distance, self.blur = DistanceMap(recipe.size), GaussianBlur(recipe.size)
        self.register_buffer("mean", torch.zeros(len(branches)))
        self.register_buffer("deviation", torch.ones(len(branches)))
        self.register_buffer("kept", None if kept is None else (kept if self._apart else kept[0]).float())
        self.eval().requires_grad_(False)

    def calibrate(self, mean: Tensor, deviation: Tensor) -> None:
        """Set the calibration from the maps of good samples, see `branch_maps`.

        Args:
            mean: Mean of the map of each branch over all pixels, `[branches]`.
            deviation: Population standard deviation likewise, above 0.
        """
        assert bool((deviation > 0).all())
        self.deviation.copy_(deviation)
        if self._faithful:
            self.mean.copy_(mean)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image score float32 `[1]` and the map float32 `[size, size]` of one sample.

        The score is the largest map value. With a separate view for each modality the map is `[branches, size, size]`,
        maps that add up, and the score is the sum of their largest values.
        """
        return self.fuse(self.branch_maps(*inputs))

    def forward_each(self, samples: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Return score and map of each sample. All networks run once, see `branch_maps`."""
        maps = self.branch_maps(*(torch.cat(images) for images in zip(*samples, strict=True)))
        maps_of_samples = maps.unflatten(0, (len(self.branches), len(samples))).unbind(1)
        return [self.fuse(own) for own in maps_of_samples]

    def branch_maps(self, *inputs: Tensor) -> Tensor:
        """Return the map of each branch before calibration and blur, float32 `[branches, size, size]`.

        For several samples, inputs `[B, size, size, 3]`, the result is `[branches * B, size, size]`: the maps of all
        samples of the first branch, then those of the second.
        """
        own = self.features(*inputs)
        branches = zip(self.branches, own, self._other(own), strict=True)
        return torch.cat([self.distance(_fused(student, mine, other), mine) for student, mine, other in branches])

    def features(self, *inputs: Tensor) -> list[list[Tensor]]:
        """Return the teacher's features of levels 1-3 of each input, `[B, C, h, w]`. All inputs are one batch."""
        images = [self.teacher.normalise(image) for image in inputs]
        if len(images) == 1:
            return [self.teacher(images[0])]
        levels = self.teacher(torch.cat(images))
        return [list(sample) for sample in zip(*(level.split(len(images[0])) for level in levels), strict=True)]

    def _other(self, own: list[list[Tensor]]) -> Sequence[list[Tensor] | None]:
        """Return the features of the other modality for each branch, None for a student without it."""
        if self.hallucinated is not None:
            return [self.hallucinated(own[0])]
        return own[::-1] if self._tuned else [None] * len(own)

    def fuse(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return score `[1]` and map, see `forward`, of the maps of the branches, see `branch_maps`."""
        calibrated = (maps - self.mean[:, None, None]) / self.deviation[:, None, None]
        anomaly_map = self._inspected(self.blur(self._inspected(calibrated if self._apart else calibrated.sum(0))))
        return anomaly_map.amax((-2, -1)).sum().reshape(1), anomaly_map

    def _inspected(self, anomaly_map: Tensor) -> Tensor:
        return anomaly_map if self.kept is None else anomaly_map * self.kept

    def precision_parts(self) -> PrecisionParts:
        """Return the networks. Normalisation of images, cosine distances, calibration and blur stay fp32."""
        hallucination = ("hallucinated.amplifier",) if self.hallucinated is not None else ()
        students = tuple(f"branches.{number}" for number in range(len(self.branches)))
        networks = ("teacher.backbone.model", *hallucination, *students)
        return PrecisionParts(
            networks=networks,
            convolutions=networks,
            steps=(
                *([("hallucination", hallucination)] if hallucination else []),
                ("students", students),
                ("teacher", ("teacher",)),
            ),
        )


def _fused(student: nn.Module, own: list[Tensor], other: list[Tensor] | None) -> list[Tensor]:
    """Return what a student reconstructs from features, which are cast to its precision."""
    dtype = next(student.parameters()).dtype
    cast = [None if levels is None else [level.to(dtype) for level in levels] for levels in (own, other)]
    fused: list[Tensor] = student(*cast).fused
    return fused
