"""The decoder: the signed distance of a point to the surface that a code stands for (Shape-Guided, ICML 2023)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_train.detectors.shape_guided.networks.encoder import CODE

LAYERS = 7
"""Layers with weight normalisation."""
_LAST_BIAS = -0.5


class NormalisedLinear(nn.Module):
    """A linear layer whose weight is a length for each row times a direction (weight normalisation).

    Args:
        width: Numbers of input and output.
        weight: Weight to start with, `[width, width]`.
    """

    def __init__(self, width: int, weight: Tensor) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(weight.norm(dim=1, keepdim=True))
        self.weight_v = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(width))

    @property
    def weight(self) -> Tensor:
        """Return the weight `[width, width]`."""
        return self.weight_g * self.weight_v / self.weight_v.norm(dim=1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output `[..., width]`."""
        return F.linear(x, self.weight, self.bias)


class Decoder(nn.Module):
    """Codes and points to signed distances, as fractions of the patch's longest side.

    Args:
        width: Width of the hidden layers; 512 as published, which makes 2 435 585 parameters.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        deviation = math.sqrt(2) / math.sqrt(width)
        self.fc1, self.fc2 = nn.Linear(CODE, width), nn.Linear(3, width)
        self.fc3 = nn.Linear(2 * width, width)
        nn.init.normal_(self.fc3.weight, 0, deviation)
        nn.init.zeros_(self.fc3.bias)
        self.fc4 = nn.ModuleList(NormalisedLinear(width, torch.randn(width, width) * deviation) for _ in range(LAYERS))
        self.fc5 = nn.Linear(width, 1)
        nn.init.normal_(self.fc5.weight, 2 * math.sqrt(math.pi) / math.sqrt(width), 1e-6)
        nn.init.constant_(self.fc5.bias, _LAST_BIAS)

    def forward(self, codes: Tensor, points: Tensor) -> Tensor:
        """Return signed distances `[P, Q]` of points `[P, Q, 3]` to the surfaces of codes `[P, 128]`."""
        width = self.fc1.out_features
        of_points, of_codes = F.relu(self.fc2(points)), F.relu(self.fc1(codes))
        # The half of the code is computed once for each patch.
        shared = F.linear(of_codes, self.fc3.weight[:, width:], self.fc3.bias)[:, None]
        hidden = F.relu(F.linear(of_points, self.fc3.weight[:, :width]) + shared)
        for layer in self.fc4:
            hidden = F.relu(layer(hidden))
        distances: Tensor = self.fc5(hidden)[..., 0]
        return distances


class FoldedDecoder(nn.Module):
    """A decoder for inspection, with plain weights.

    Args:
        decoder: Trained decoder.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        width = decoder.fc1.out_features
        self.codes, self.points, self.last = decoder.fc1, decoder.fc2, decoder.fc5
        self.shared = _linear(decoder.fc3.weight[:, width:], decoder.fc3.bias)
        self.own = _linear(decoder.fc3.weight[:, :width], None)
        self.hidden = nn.ModuleList(_linear(layer.weight, layer.bias) for layer in _normalised(decoder))

    def forward(self, codes: Tensor, points: Tensor) -> Tensor:
        """Return signed distances `[P, Q]`; see `Decoder`."""
        shared = self.shared(F.relu(self.codes(codes)))[:, None]
        hidden = F.relu(self.own(F.relu(self.points(points))) + shared)
        for layer in self.hidden:
            hidden = F.relu(layer(hidden))
        distances: Tensor = self.last(hidden)[..., 0]
        return distances


def pulled(decoder: Decoder, codes: Tensor, queries: Tensor) -> Tensor:
    """Return queries `[P, Q, 3]` moved along the gradient by their signed distance, onto the surface.

    The result is differentiable with respect to the parameters.

    Args:
        decoder: Decoder.
        codes: Codes `[P, 128]`.
        queries: Points `[P, Q, 3]`.
    """
    with torch.enable_grad():
        queries = queries.detach().requires_grad_(True)
        distance = decoder(codes, queries)
        (gradient,) = torch.autograd.grad(distance.sum(), queries, create_graph=True)
        length = (gradient.square().sum(-1, keepdim=True) + 1e-12).sqrt()
        return queries - distance[..., None] * gradient / length


def _normalised(decoder: Decoder) -> list[NormalisedLinear]:
    return [layer for layer in decoder.fc4 if isinstance(layer, NormalisedLinear)]


@torch.no_grad()
def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)
    return layer
