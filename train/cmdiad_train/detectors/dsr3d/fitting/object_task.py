"""The steps of the training of the networks of the object, on good samples with disturbed codes (3DSR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cmdiad_train.detectors.dsr3d.detector import drawn_object
from cmdiad_train.detectors.dsr3d.fitting.disturbances import disturbed
from cmdiad_train.detectors.dsr3d.fitting.masks import anomaly_masks, coarsened
from cmdiad_train.detectors.dsr3d.losses import focal_loss, mask_loss
from cmdiad_train.detectors.dsr3d.networks.autoencoder import Autoencoder, Encoding
from cmdiad_train.detectors.dsr3d.networks.code_book import straight_through
from cmdiad_train.detectors.dsr3d.networks.object_networks import ObjectNetworks
from cmdiad_train.detectors.dsr3d.picture import foreground_of, picture_of
from cmdiad_train.detectors.dsr3d.simulation.rotation import rotated
from cmdiad_train.detectors.family import FitContext, as_tensors
from cmdiad_train.detectors.network_training import SampleTask, Schedule
from cmdiad_train.recipe import dsr3d_part

DRAWS = 4000
"""Random samples, with replacement, of a published epoch."""
_MOST_DEGREES = 15
_WEAKEST = 0.1
_PICTURE_WEIGHT = 10
_DROP = 0.8
"""Share of the training after which the learning rate falls to a tenth."""
_COARSE_PIXELS, _FINE_PIXELS = 8, 4
"""Pixels of the view per cell of coarse and of fine codes."""


class Disturbed(NamedTuple):
    """Disturbed codes of a batch, and the pixels that they stand for.

    Attributes:
        coarse: Coarse codes, `[B, width, s/8, s/8]`.
        fine: Fine codes, `[B, width, s/4, s/4]`.
        mask: 1 on anomalies, else 0, `[B, 1, s, s]`.
    """

    coarse: Tensor
    fine: Tensor
    mask: Tensor


class ObjectTask(SampleTask):
    """Training of the networks of the object. The autoencoder is frozen.

    Args:
        context: The training.
        networks: Networks in training, which move to the device of the training.
        schedule: Length of the training; the published samples are only counted, see `DRAWS`.
        stopping: Indices of the samples that choose the best epoch.
        autoencoder: Trained autoencoder in eval mode, on the device of the training.
    """

    module: ObjectNetworks

    def __init__(
        self,
        context: FitContext,
        networks: ObjectNetworks,
        schedule: Schedule,
        stopping: Sequence[int],
        autoencoder: Autoencoder,
    ) -> None:
        self.context, self.part, self.autoencoder = context, dsr3d_part(context.recipe), autoencoder
        parameters = networks.to(context.device).parameters()
        optimiser = torch.optim.Adam(parameters, lr=self.part.learning_rate)
        super().__init__(networks, optimiser, schedule, stopping)

    def learning_rate(self, start: float, end: float) -> float:
        """Return the learning rate, a tenth after 80 % of the epochs."""
        return self.part.learning_rate * (0.1 if start >= _DROP * self.schedule.epochs else 1)

    def mean_loss(self, chosen: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return the mean loss `[]` of some samples with random anomalies; the same ones in every validation."""
        if generator is None:
            generator = torch.Generator().manual_seed(self.context.recipe.seed)
        elif self.part.mode == "faithful":
            chosen = torch.randint(len(self.context.train), (len(chosen),), generator=generator).tolist()
        picture, foreground = self._augmented(self._pictures(chosen), generator)
        mask = anomaly_masks(foreground, generator)
        with torch.no_grad():
            clean = self.autoencoder.encode(picture)
            codes = disturbed_codes(self.autoencoder, clean, mask, generator)
        return self.loss_of(picture, clean, codes)

    def loss_of(self, picture: Tensor, clean: Encoding, codes: Disturbed) -> Tensor:
        """Return the loss `[]`: restored features, the object's picture, and the comparison.

        Args:
            picture: Pictures `[B, C, s, s]`.
            clean: Their codes.
            codes: Disturbed codes.
        """
        autoencoder, networks = self.autoencoder, self.module
        of_coarse, of_fine = networks.restrict_coarse(codes.coarse), networks.restrict_fine(codes.fine)
        coarse = straight_through(of_coarse, autoencoder.coarse(of_coarse))
        fine = straight_through(of_fine, autoencoder.fine(of_fine))
        drawn = drawn_object(autoencoder, networks, coarse, fine)
        with torch.no_grad():
            general = autoencoder.draw(codes.coarse, codes.fine)
        anomalous = networks.logits(drawn, general).softmax(1)[:, 1:]
        return (
            F.mse_loss(of_fine, clean.fine)
            + F.mse_loss(of_coarse, clean.coarse)
            + _PICTURE_WEIGHT * F.mse_loss(drawn, picture)
            + focal_loss(anomalous, codes.mask)
            + mask_loss(anomalous, codes.mask)
        )

    def _pictures(self, chosen: Sequence[int]) -> Tensor:
        context = self.context
        samples = [as_tensors(context.samples.prepared(context.train[index]).inputs) for index in chosen]
        pictures = torch.cat([picture_of(context.recipe, inputs) for inputs in samples])
        return pictures.to(context.device)

    def _augmented(self, pictures: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return pictures turned by up to 15 degrees, and the foreground, which published code does not turn."""
        degrees = _MOST_DEGREES * (2 * torch.rand(len(pictures), generator=generator) - 1)
        turned = rotated(pictures, degrees)
        seen = pictures if self.part.mode == "faithful" else turned
        return turned, foreground_of(self.context.recipe, seen)


def disturbed_codes(autoencoder: Autoencoder, clean: Encoding, mask: Tensor, generator: torch.Generator) -> Disturbed:
    """Return codes with anomalies inside a mask: in both grids, in the coarse one alone, or in the fine one alone.

    Args:
        autoencoder: Autoencoder with both code books.
        clean: Codes of good samples.
        mask: 1 where anomalies are simulated, else 0, `[B, 1, s, s]`.
        generator: CPU generator of all random draws.
    """
    count = len(mask)

    def strengths() -> list[float]:
        drawn: list[float] = (_WEAKEST + (1 - _WEAKEST) * torch.rand(count, generator=generator)).tolist()
        return drawn

    of_coarse, of_fine = strengths(), strengths()
    books = autoencoder.coarse, autoencoder.fine
    coarse = disturbed(clean.of_coarse, clean.coarse, books[0], mask, of_coarse, generator)
    features = autoencoder.fine_features(clean.encoded, coarse)
    both = disturbed(features, autoencoder.fine(features), books[1], mask, of_fine, generator)
    alone = disturbed(clean.of_fine, clean.fine, books[1], mask, of_fine, generator)
    coins = torch.rand(2, count, 1, 1, 1, generator=generator).to(mask.device) < 0.5
    in_both, in_coarse = coins[0], coins[1]
    return Disturbed(
        torch.where(in_both | in_coarse, coarse, clean.coarse),
        torch.where(in_both, both, torch.where(in_coarse, clean.fine, alone)),
        torch.where(in_both | in_coarse, coarsened(mask, _COARSE_PIXELS), coarsened(mask, _FINE_PIXELS)),
    )
