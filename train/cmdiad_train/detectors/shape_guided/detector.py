"""The Shape-Guided detector of clouds: encoder, memory, decoder and map as one module, which becomes the graph.

`guided_detector` adds the image.

Written from a specification of the method (Chu et al., ICML 2023); docs/shape-guided.md says what differs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cmdiad_train.detectors.cell_maps import upsampling
from cmdiad_train.detectors.family import PrecisionParts, TrainedDetector
from cmdiad_train.detectors.shape_guided.networks.decoder import FoldedDecoder
from cmdiad_train.detectors.shape_guided.networks.encoder import FoldedEncoder
from cmdiad_train.detectors.shape_guided.networks.memory import Memory
from cmdiad_train.detectors.shape_guided.networks.shape_network import ShapeNetwork
from cmdiad_train.recipe import Recipe, shape_guided_part

INPUT_NAMES = ("patches", "cover")
"""Network inputs: normalised patches float32 `[1, P, M, 3]` and the places of each pixel int32 `[1, size, size, K]`;
see `cmdiad_runtime.preprocess.cloud.patches.PatchInput`."""


class Shapes(NamedTuple):
    """Result of the comparison of a cloud's patches with the memory.

    Attributes:
        score: Largest distance between a code and the rebuilt one, float32 `[1]`.
        distances: Distance of the point of each pixel to its surface, float32 `[size, size]`; 0 without a point.
        used: 1 for the codes of the memory that are among the nearest of some patch, else 0, float32 `[K]`.
    """

    score: Tensor
    distances: Tensor
    used: Tensor


class ShapeGuided(TrainedDetector):
    """The network inputs of one sample to image score and anomaly map.

    The value of a pixel is the distance of its point to the surface of the rebuilt code, as a fraction of the patch's
    longest side, in the patch that shows the smallest one. Pixels without a point have the value 0. The map is blurred.

    Args:
        recipe: Recipe of the detector.
        network: Trained networks in eval mode.
        codes: Codes of good patches, float32 `[K, 128]`.
        kept: Inspected pixels of the view, bool `[1, size, size]`; None without an inspection mask.

    Attributes:
        input_names: Names of the inputs, in the order of `forward`.
    """

    blur: Tensor
    kept: Tensor | None

    def __init__(self, recipe: Recipe, network: ShapeNetwork, codes: Tensor, kept: Tensor | None = None) -> None:
        super().__init__()
        part = shape_guided_part(recipe)
        self.input_names = list(INPUT_NAMES)
        self.encoder, self.decoder = FoldedEncoder(network.encoder), FoldedDecoder(network.decoder)
        normalised = part.mode == "default"
        self.memory = Memory(codes, neighbours=part.neighbours, atoms=part.atoms, normalised=normalised)
        self.register_buffer("blur", upsampling(recipe.size, recipe.size, blur=True), persistent=False)
        self.register_buffer("kept", None if kept is None else kept[0].float())
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image score float32 `[1]` and the map float32 `[size, size]` of one sample.

        The image score is `Shapes.score`.
        """
        patches, cover = inputs
        codes = self.codes(patches[0])
        shapes = self.shapes(codes, self.memory.keys(codes), patches[0], cover[0])
        return shapes.score, self.blurred(shapes.distances)

    def shapes(self, codes: Tensor, keys: Tensor, patches: Tensor, cover: Tensor) -> Shapes:
        """Compare patches with the good ones of the memory.

        The decoder plays no part in the score.

        Args:
            codes: Codes float32 `[P, 128]` of the patches.
            keys: Keys of the memory for the codes, float32 `[P, K]`.
            patches: Normalised patches float32 `[P, M, 3]`.
            cover: Places of each pixel, int32 `[size, size, K]`.
        """
        nearest = self.memory.nearest(keys)
        rebuilt = self.memory.rebuilt(codes, nearest)
        # As published, 1e-12 is added to every difference.
        score = (codes - rebuilt + 1e-12).square().sum(1).sqrt().amax(0, keepdim=True)
        distances = self.distances(rebuilt, patches, cover)
        if self.kept is not None:
            distances = distances * self.kept
        return Shapes(score, distances, self.memory.used(keys, nearest))

    def blurred(self, values: Tensor) -> Tensor:
        """Return the blurred map float32 `[size, size]` of values of the pixels, 0 where a mask ignores the pixel."""
        anomaly_map = self.blur @ values @ self.blur.T
        return anomaly_map if self.kept is None else anomaly_map * self.kept

    def codes(self, patches: Tensor) -> Tensor:
        """Return the codes float32 `[P, 128]` of normalised patches float32 `[P, M, 3]`."""
        codes: Tensor = self.encoder(patches.to(_type(self.encoder))).float()
        return codes

    def distances(self, codes: Tensor, patches: Tensor, cover: Tensor) -> Tensor:
        """Return the distance of each pixel's point to the nearest of its surfaces, float32 `[size, size]`.

        Args:
            codes: Rebuilt codes float32 `[P, 128]`.
            patches: Normalised patches float32 `[P, M, 3]`.
            cover: Places of each pixel, int32 `[size, size, K]`.
        """
        kind = _type(self.decoder)
        values = self.decoder(codes.to(kind), patches.to(kind)).float().abs()
        return torch.cat([values.new_zeros(1), values.flatten()])[cover.long()].amin(2)

    def precision_parts(self) -> PrecisionParts:
        """Return both networks. Search, pursuit and map stay fp32."""
        return PrecisionParts(
            networks=("encoder", "decoder"),
            steps=(("encoder", ("encoder",)), ("decoder", ("decoder",))),
        )


def _type(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype
