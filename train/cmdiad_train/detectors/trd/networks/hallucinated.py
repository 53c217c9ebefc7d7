"""Features of a modality that inspection does not measure, predicted from the modality that it does measure."""

from __future__ import annotations

from torch import Tensor, nn

from cmdiad_train.detectors.trd.networks.amplifier import Amplifier


class Hallucinated(nn.Module):
    """Predicts the features of the missing modality with the Amplifier of its student (MTFI-TRD).

    Args:
        amplifier: Amplifier of the student of the missing modality.
        scales: Factors float32 `[3]` of levels 1-3, because an Amplifier's loss leaves the magnitude free.
    """

    scales: Tensor

    def __init__(self, amplifier: Amplifier, scales: Tensor) -> None:
        super().__init__()
        self.amplifier = amplifier
        self.register_buffer("scales", scales.clone())

    def forward(self, own: list[Tensor]) -> list[Tensor]:
        """Return the missing teacher's features of levels 1-3, float32 `[B, C, h, w]`, from the measured one's."""
        dtype = next(self.amplifier.parameters()).dtype
        predicted = self.amplifier([level.to(dtype) for level in own])
        return [scale * level.float() for scale, level in zip(self.scales, predicted, strict=True)]
