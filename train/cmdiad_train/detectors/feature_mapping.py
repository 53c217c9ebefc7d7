"""A network from the patch features of one modality to those of the other, cell by cell (method §8.1).

The memory bank family hallucinates features with it; crossmodal feature mapping compares its output with features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _MlpModule(nn.Module):
    def __init__(self, fed: int, hidden: int, out: int, output: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(fed, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, out)
        self.output = output

    def hidden(self, x: Tensor) -> Tensor:
        return F.gelu(self.fc2(F.gelu(self.fc1(x))))

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc3(self.hidden(x))
        return F.gelu(x) if self.output == "gelu" else x


class FeatureToFeature(nn.Module):
    """F2F: LayerNorm and a three-layer MLP, from one modality's patch features to the other's (method §8.1).

    With a context, the MLP also sees the cells around each cell, each of them reduced to a quarter of the channels by a
    linear layer. Together with the first layer of the MLP that is a convolution over the grid of cells. With
    coordinates, the MLP also sees where the cell is (Liu et al. 2018, arXiv 1807.03247). The published network has
    neither.

    Args:
        width: Channels of the main modality's features.
        out: Channels of the other modality's features.
        expansion: Hidden width as a multiple of `width`.
        output: Last activation: "gelu" as published, or "linear", which can also reach values below -0.17.
        context: Side of the square of cells that the network sees around each cell, odd; 1 for the cell alone.
        coordinates: True if the place of the cell, x and y, follows the features.

    Attributes:
        target_mean: Offset float `[out]`, is added to the output of the network; 0 as published.
        target_scale: Factor float `[]` of the output before the offset is added; 1 as published.
    """

    target_mean: Tensor
    target_scale: Tensor

    def __init__(
        self,
        width: int,
        out: int,
        *,
        expansion: float = 2.5,
        output: str = "linear",
        context: int = 1,
        coordinates: bool = False,
    ) -> None:
        super().__init__()
        self.norm, self.context, self.coordinates = nn.LayerNorm(width), context, coordinates
        reduced = max(1, width // 4)
        if context > 1:
            self.reduce = nn.Linear(width, reduced)
        fed = width + context**2 * reduced if context > 1 else width
        self.mlp = _MlpModule(fed + 2 * coordinates, int(expansion * width), out, output)
        self.register_buffer("target_mean", torch.zeros(out))
        self.register_buffer("target_scale", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return hallucinated features `[..., out]` of main features.

        Args:
            features: Features `[..., width]`, or `[R, context², width]` of the cells around each cell, row by row. With
                coordinates, x and y of the row's cell follow the last channel.
        """
        hallucinated = self.mlp(self._fed(features))
        return hallucinated.to(self.target_mean.dtype) * self.target_scale + self.target_mean

    def hidden(self, features: Tensor) -> Tensor:
        """Return the activations of the last hidden layer `[..., hidden width]`; features as of `forward`."""
        return self.mlp.hidden(self._fed(features))

    def _fed(self, features: Tensor) -> Tensor:
        own = features[..., :-2] if self.coordinates else features
        fed: Tensor = self.norm(own)
        if self.context > 1:
            fed = torch.cat([fed[:, self.context**2 // 2], self.reduce(fed).flatten(1)], 1)
        if not self.coordinates:
            return fed
        place = features[:, 0, -2:] if self.context > 1 else features[..., -2:]
        return torch.cat([fed, place.to(fed.dtype)], -1)
