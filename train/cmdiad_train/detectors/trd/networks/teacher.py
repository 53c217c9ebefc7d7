"""The teacher: a frozen timm CNN, which supplies the features that students reconstruct."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cmdiad_train.detectors.trd.networks.shapes import EXPANSION, Levels, TeacherShape, UnitKind
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.recipe import RgbExtractor
from cmdiad_train.recipe.trd import TEACHER_STAGES

_DEEP: Levels = (3, 4, 6)
_SHALLOW: Levels = (2, 2, 2)


class Teacher(nn.Module):
    """Features of three levels of a frozen CNN. The module stays in eval mode.

    Levels 1-3 have strides 4, 8 and 16. `TimmBackbone` normalises the features of a pre-activation ResNet.

    Args:
        spec: Backbone and weights. Stages and grid do not matter.
        size: Side of the square input in pixels, a multiple of 32.
        seed: Seed of the random weights if `spec.weights` is "seeded".

    Raises:
        RunError: The backbone is unknown or is no CNN with these strides, or its weights are missing or do not fit.

    Attributes:
        shape: Sizes of the features, and of the student that suits them.
    """

    def __init__(self, spec: RgbExtractor, *, size: int, seed: int = 0) -> None:
        super().__init__()
        self.backbone = TimmBackbone(replace(spec, stages=TEACHER_STAGES, grid=None), size=size, seed=seed)
        self.shape = _shape(self.backbone.model, self._features_of(size))

    @torch.no_grad()
    def _features_of(self, size: int) -> list[Tensor]:
        return self(torch.zeros(1, 3, size, size))

    @property
    def provenance(self) -> str:
        """Return the origin of the weights as text."""
        return self.backbone.provenance

    def normalise(self, image: Tensor) -> Tensor:
        """Return the network input float32 `[B, 3, h, w]` of RGB images `[B, h, w, 3]`, 0-255.

        Mean and deviation are those of the weights: ImageNet's unless the file of the weights has others.
        """
        return self.backbone.normalise(image)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of levels 1-3, `[B, C, size/stride, size/stride]`, of normalised images."""
        return self.backbone.stage_maps(image)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode, also when a module around the teacher is trained."""
        return super().train(False)


def _shape(model: nn.Module, features: list[Tensor]) -> TeacherShape:
    """Return the shape of a CNN.

    A CNN with the residual units of a ResNet gets a student with the same kind of unit, as deep as that of ResNet-18
    if it has at most two units per level, else as deep as that of ResNet-50. Any other CNN gets basic units.
    """
    units = [module for module in model.modules() if type(module).__name__.endswith(("BasicBlock", "Bottleneck"))]
    first, second, third = (level.shape[1] for level in features)
    wide = [unit for unit in units if type(unit).__name__.endswith("Bottleneck")]
    kind: UnitKind = "bottleneck" if wide else "basic"
    depths = _DEEP if len(units) > sum(_SHALLOW) else _SHALLOW
    return TeacherShape((first, second, third), kind, depths, _width_factor(wide[0]) if wide else 1)


def _width_factor(unit: nn.Module) -> int:
    """Return the inner width of a bottleneck unit in planes, at most 2, which is that of the published network."""
    inner, out = (getattr(unit, name).out_channels for name in ("conv2", "conv3"))
    return max(1, min(2, EXPANSION * inner // out))
