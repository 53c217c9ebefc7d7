"""Networks that are trained for one modality: Filter, Amplifier, bottleneck and decoder."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from cmdiad_train.detectors.trd.networks.amplifier import Amplifier
from cmdiad_train.detectors.trd.networks.bottleneck import Bottleneck
from cmdiad_train.detectors.trd.networks.decoder import Decoder
from cmdiad_train.detectors.trd.networks.filter import Filter
from cmdiad_train.detectors.trd.networks.shapes import TeacherShape


class StudentOutputs(NamedTuple):
    """Everything that a student computes. Lists contain the features of levels 1-3.

    Attributes:
        bottleneck: Embedding `[B, bottleneck_channels, size/32, size/32]`.
        raw: Own features as each decoder stage returns them.
        filtered: Own features as the Filter predicts them; empty in a student without the other modality.
        amplified: Own features as the Amplifier predicts them; empty likewise.
        fused: Weighted sum of `raw` and `amplified`, which is compared with the teacher; `raw` likewise.
    """

    bottleneck: Tensor
    raw: list[Tensor]
    filtered: list[Tensor]
    amplified: list[Tensor]
    fused: list[Tensor]


class Student(nn.Module):
    """Reconstructs the own teacher's features (Tuned Reverse Distillation, arXiv 2412.08949).

    Without the other modality it is plain reverse distillation (Deng and Li 2022). Parameters have the published
    names.

    Args:
        own: Shape of the teacher of the student's modality.
        other: Shape of the teacher of the other modality, or None for a student that does not use that modality.
    """

    def __init__(self, own: TeacherShape, other: TeacherShape | None = None) -> None:
        super().__init__()
        self.tuned = other is not None
        if other is not None:
            self.projector_filter = Filter(other.channels, own.channels)
            self.projector_amply = Amplifier(other.channels, own.channels)
        self.bn = Bottleneck(own, filtered=self.tuned)
        self.decoder = Decoder(own, amplified=self.tuned)

    def forward(self, own: list[Tensor], other: list[Tensor] | None = None) -> StudentOutputs:
        """Return all outputs for features of levels 1-3.

        Args:
            own: Features of the own teacher, `[B, C, h, w]` of each level.
            other: Features of the other teacher, or None for a student without the other modality.
        """
        assert (other is not None) == self.tuned
        filtered: list[Tensor] = [] if other is None else self.projector_filter(other)
        amplified: list[Tensor] = [] if other is None else self.amplify(other)
        bottleneck = self.bn(own, filtered)
        raw, fused = self.decoder(bottleneck, amplified)
        return StudentOutputs(bottleneck, raw, filtered, amplified, fused)

    def amplify(self, other: list[Tensor]) -> list[Tensor]:
        """Return own features that the Amplifier predicts from the other teacher's features."""
        return self.projector_amply(other)
