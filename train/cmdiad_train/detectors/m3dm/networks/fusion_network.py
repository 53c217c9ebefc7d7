"""The unsupervised feature fusion (UFF) of M3DM: one small network for each modality, trained on pairs of cells.

Source: Wang et al., CVPR 2023, arXiv 2303.00601. The names of parameters are the published ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_runtime.names import Modality

HEAD_WIDTH = 256
"""Channels in which the loss compares both modalities."""


class Compared(NamedTuple):
    """Outputs of both heads, which the loss compares row by row.

    Attributes:
        rgb: Rows float32 `[n, 256]` of the image.
        xyz: Rows float32 `[n, 256]` of the cloud.
    """

    rgb: Tensor
    xyz: Tensor


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.fc1(rows)))
        return result


class Half(nn.Module):
    """The half of the network that sees one modality. No value of the other modality enters the result.

    Args:
        norm: LayerNorm of the features.
        mlp: Two linear layers with a GELU between them, from a width to the same width.
    """

    def __init__(self, norm: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm, self.mlp = norm, mlp

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows float32 `[n, C]` of features float32 `[n, C]` of the modality."""
        result: Tensor = self.mlp(self.norm(rows)).float()
        return result


class FusionNetwork(nn.Module):
    """Both halves, and the heads that only the loss needs.

    Args:
        xyz: Channels of the features of the cloud.
        rgb: Channels of the features of the image.
        expansion: Hidden width of a half as a multiple of the width of its input.
    """

    def __init__(self, xyz: int, rgb: int, expansion: float = 4.0) -> None:
        super().__init__()
        self.xyz_norm, self.rgb_norm = nn.LayerNorm(xyz), nn.LayerNorm(rgb)
        self.xyz_mlp, self.rgb_mlp = _Mlp(xyz, int(expansion * xyz)), _Mlp(rgb, int(expansion * rgb))
        self.xyz_head, self.rgb_head = nn.Linear(xyz, HEAD_WIDTH), nn.Linear(rgb, HEAD_WIDTH)

    def half_of(self, modality: Modality) -> Half:
        """Return the half of a modality. Its parameters are those of this network."""
        if modality == "xyz":
            return Half(self.xyz_norm, self.xyz_mlp)
        return Half(self.rgb_norm, self.rgb_mlp)

    def forward(self, xyz: Tensor, rgb: Tensor) -> Compared:
        """Return the outputs of the heads for features of both modalities.

        Args:
            xyz: Features float32 `[n, C]` of the cloud.
            rgb: Features float32 `[n, C]` of the image at the same places.
        """
        of_xyz, of_rgb = self.half_of("xyz")(xyz), self.half_of("rgb")(rgb)
        return Compared(self.rgb_head(of_rgb).float(), self.xyz_head(of_xyz).float())
