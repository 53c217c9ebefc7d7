"""The 3DSR detector: autoencoder, networks of the object and map as one module, which becomes the graph.

A general picture, which shows defects, is compared with a picture that shows normal objects alone (3DSR, arXiv
2311.01117). Both are drawn from codes; the picture of the sample itself is compared with nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cmdiad_train.detectors.dsr3d.networks.autoencoder import Autoencoder
from cmdiad_train.detectors.dsr3d.networks.object_networks import ObjectNetworks
from cmdiad_train.detectors.dsr3d.picture import INPUTS, picture_of
from cmdiad_train.detectors.family import PrecisionParts, TrainedDetector
from cmdiad_train.recipe import Recipe, dsr3d_part

WINDOW = 11
"""Pixels: side of the window over which the map averages."""
PUBLISHED_DEPTH_WINDOW = 21
"""The same in the published detector for depth alone; no reason is published."""


class DualSubspaceReprojection(TrainedDetector):
    """The network inputs of one sample to image score and anomaly map.

    The map is the probability of an anomaly, averaged over a window with zeros around the view, and the image score is
    the largest value of the map.

    Args:
        recipe: Recipe of the detector.
        autoencoder: Autoencoder, which knows no object.
        networks: Networks of the object.
        kept: Inspected pixels of the view, bool `[1, size, size]`; None without an inspection mask.

    Attributes:
        input_names: Names of the inputs, in the order of `forward`.
    """

    kept: Tensor | None

    def __init__(
        self, recipe: Recipe, autoencoder: Autoencoder, networks: ObjectNetworks, kept: Tensor | None = None
    ) -> None:
        super().__init__()
        self.input_names = [INPUTS[modality] for modality in recipe.mains]
        self._recipe = recipe
        self.autoencoder, self.networks = autoencoder, networks
        depth_alone = dsr3d_part(recipe).mode == "faithful" and recipe.modality == "xyz"
        self._window = PUBLISHED_DEPTH_WINDOW if depth_alone else WINDOW
        self.register_buffer("kept", None if kept is None else kept[0].float())
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image score float32 `[1]` and the map float32 `[size, size]` of one sample."""
        picture = picture_of(self._recipe, dict(zip(self.input_names, inputs, strict=True)))
        return self.scored(self.logits(picture))

    def logits(self, picture: Tensor) -> Tensor:
        """Return the logits of "normal" and "anomalous" float32 `[B, 2, size, size]` of pictures `[B, C, size, size]`.

        The gradient does not pass the searches.
        """
        codes = self.autoencoder.encode(picture)
        general = self.autoencoder.draw(codes.coarse, codes.fine)
        coarse = self.autoencoder.coarse(self.networks.restrict_coarse(codes.coarse))
        fine = self.autoencoder.fine(self.networks.restrict_fine(codes.fine))
        return self.networks.logits(drawn_object(self.autoencoder, self.networks, coarse, fine), general)

    def scored(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return image score `[1]` and map `[size, size]` of logits `[1, 2, size, size]`."""
        probability = torch.sigmoid(logits[:, 1:] - logits[:, :1])
        anomaly_map = F.avg_pool2d(probability, self._window, stride=1, padding=self._window // 2)[0, 0]
        if self.kept is not None:
            anomaly_map = anomaly_map * self.kept
        return anomaly_map.amax((0, 1)).reshape(1), anomaly_map

    def precision_parts(self) -> PrecisionParts:
        """Return the networks behind the searches. What decides a code stays fp32: another code is a jump."""
        drawing = ("autoencoder.decode", "networks.draw", "networks.compare")
        encoding = tuple(f"autoencoder.{name}" for name in ("encode_fine", "encode_coarse", "to_coarse", "to_fine"))
        restricting = ("networks.restrict_coarse", "networks.restrict_fine")
        return PrecisionParts(
            networks=drawing,
            always_single=(*encoding, "autoencoder.enlarge", *restricting),
            convolutions=drawing,
            steps=(
                ("comparison", ("networks.compare",)),
                ("pictures", ("networks.draw", "autoencoder.decode")),
            ),
        )


def drawn_object(autoencoder: Autoencoder, networks: ObjectNetworks, coarse: Tensor, fine: Tensor) -> Tensor:
    """Return the object's picture `[B, C, size, size]` of restricted codes, in the precision of the decoder."""
    joined = torch.cat([autoencoder.enlarge(coarse), fine], 1)
    picture: Tensor = networks.draw(joined.to(next(networks.draw.parameters()).dtype))
    return picture
