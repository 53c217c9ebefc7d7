"""Encoder and decoder as one network, which is trained without labels of distances."""

from __future__ import annotations

from torch import Tensor, nn

from cmdiad_train.detectors.shape_guided.networks.decoder import Decoder, pulled
from cmdiad_train.detectors.shape_guided.networks.encoder import Encoder


class ShapeNetwork(nn.Module):
    """The shape expert.

    Args:
        width: Width of the decoder.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder(width)

    def loss(self, encoded: Tensor, queries: Tensor, targets: Tensor) -> Tensor:
        """Return the mean distance between pulled queries and the surface, scalar.

        Args:
            encoded: Points whose codes stand for the surfaces, `[P, M, 3]`.
            queries: Points next to the surfaces, `[P, Q, 3]`.
            targets: Nearest point of the surface for each query, `[P, Q, 3]`.
        """
        moved = pulled(self.decoder, self.encoder(encoded), queries)
        return (targets - moved).norm(dim=-1).mean()
