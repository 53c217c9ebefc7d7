"""The discrete autoencoder DADA: a picture as two grids of codes, and a picture from codes.

The picture has the channels of the cloud first, then those of the image. With both, every convolution between the
first and the last has two groups, so that both halves meet only in the search: one code has a half for each modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_train.detectors.dsr3d.networks.code_book import CodeBook, straight_through
from cmdiad_train.detectors.dsr3d.networks.units import ResidualStack, transposed

COMMITMENT = 0.25


class Encoding(NamedTuple):
    """A picture of side s as codes.

    Attributes:
        encoded: Features before both searches, `[B, width, s/4, s/4]`.
        of_coarse: Features that the coarse codes replace, `[B, width, s/8, s/8]`.
        coarse: Coarse codes, of the same shape.
        of_fine: Features that the fine codes replace, `[B, width, s/4, s/4]`.
        fine: Fine codes, of the same shape.
    """

    encoded: Tensor
    of_coarse: Tensor
    coarse: Tensor
    of_fine: Tensor
    fine: Tensor


class Autoencoder(nn.Module):
    """A picture `[B, C, s, s]` to codes, and codes to a picture.

    Args:
        channels: Channels of each modality in the picture; two modalities are two groups.
        width: Channels of a code.
        codes: Codes of each book.
    """

    def __init__(self, channels: Sequence[int], *, width: int, codes: int) -> None:
        super().__init__()
        self.groups = len(channels)
        self.encode_fine = FineEncoder(channels, width)
        self.encode_coarse = nn.Sequential(
            nn.Conv2d(width, width, 4, stride=2, padding=1, groups=self.groups),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=self.groups),
            nn.ReLU(),
            ResidualStack(width, groups=self.groups),
        )
        self.to_coarse = nn.Conv2d(width, width, 1, groups=self.groups)
        self.to_fine = nn.Conv2d(2 * width, width, 1, groups=self.groups)
        self.enlarge = transposed(width, width, groups=self.groups)
        self.coarse, self.fine = CodeBook(codes, width), CodeBook(codes, width)
        self.decode = GeneralDecoder(channels, width)

    def encode(self, picture: Tensor) -> Encoding:
        """Return the codes of a picture."""
        encoded = self.encode_fine(picture)
        of_coarse = self.to_coarse(self.encode_coarse(encoded))
        coarse = self.coarse(of_coarse)
        of_fine = self.fine_features(encoded, coarse)
        return Encoding(encoded, of_coarse, coarse, of_fine, self.fine(of_fine))

    def fine_features(self, encoded: Tensor, coarse: Tensor) -> Tensor:
        """Return the features that fine codes replace, which depend on the coarse codes."""
        features: Tensor = self.to_fine(interleaved(encoded, self.enlarge(coarse), self.groups))
        return features

    def draw(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return the general picture of codes, `[B, C, s, s]`, in the precision of the decoder."""
        joined = interleaved(self.enlarge(coarse), fine, self.groups)
        picture: Tensor = self.decode(joined.to(self.decode.dtype))
        return picture

    def trained_on(self, picture: Tensor, *, revive: bool) -> tuple[Tensor, Tensor]:
        """Return the general picture and the commitment loss `[]` of a training step, and update both code books.

        Args:
            picture: Pictures `[B, C, s, s]`.
            revive: See `CodeBook.update`.
        """
        encoded = self.encode_fine(picture)
        of_coarse = self.to_coarse(self.encode_coarse(encoded))
        coarse = self.coarse(of_coarse)
        passed = straight_through(of_coarse, coarse)
        of_fine = self.fine_features(encoded, passed)
        fine = self.fine(of_fine)
        drawn = self.draw(passed, straight_through(of_fine, fine))
        loss = COMMITMENT * (F.mse_loss(of_coarse, coarse) + F.mse_loss(of_fine, fine))
        self.coarse.update(of_coarse.detach(), revive=revive)
        self.fine.update(of_fine.detach(), revive=revive)
        return drawn, loss


class FineEncoder(nn.Module):
    """A picture to features of a quarter of its side.

    With two modalities, a 1 x 1 convolution each gives both the same number of channels.

    Args:
        channels: Channels of each modality.
        width: Channels of the features.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.channels, groups = tuple(channels), len(channels)
        entering = nn.ModuleList(nn.Conv2d(one, width // 4, 1) for one in channels)
        self.enter = entering if groups > 1 else None
        self.shrink = nn.Sequential(
            nn.Conv2d(channels[0] if groups == 1 else width // 2, width // 2, 4, stride=2, padding=1, groups=groups),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 4, stride=2, padding=1, groups=groups),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=groups),
            ResidualStack(width, groups=groups),
        )

    def forward(self, picture: Tensor) -> Tensor:
        """Return the features `[B, width, s/4, s/4]` of a picture `[B, C, s, s]`."""
        if self.enter is not None:
            parts = picture.split(self.channels, dim=1)
            picture = F.relu(torch.cat([one(part) for one, part in zip(self.enter, parts, strict=True)], 1))
        features: Tensor = self.shrink(picture)
        return features


class GeneralDecoder(nn.Module):
    """Interleaved enlarged coarse and fine codes to the general picture.

    Args:
        channels: Channels of each modality of the picture.
        width: Channels of a code.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        groups = len(channels)
        self.grow = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1, groups=groups),
            ResidualStack(width, groups=groups),
            transposed(width, width // 2, groups=groups),
            nn.ReLU(),
            transposed(width // 2, channels[0] if groups == 1 else width // 4, groups=groups),
        )
        leaving = nn.ModuleList(nn.Conv2d(width // 8, one, 1) for one in channels)
        self.leave = leaving if groups > 1 else None

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the weights."""
        return next(self.parameters()).dtype

    def forward(self, codes: Tensor) -> Tensor:
        """Return the picture `[B, C, s, s]` of codes `[B, 2·width, s/4, s/4]`."""
        picture: Tensor = self.grow(codes)
        if self.leave is None:
            return picture
        halves = picture.chunk(len(self.leave), dim=1)
        return torch.cat([one(half) for one, half in zip(self.leave, halves, strict=True)], 1)


def interleaved(first: Tensor, second: Tensor, groups: int) -> Tensor:
    """Return the channels of two tensors `[B, C, h, w]` as `[B, 2C, h, w]`, group by group: first, then second."""
    pairs = zip(first.chunk(groups, 1), second.chunk(groups, 1), strict=True)
    return torch.cat([part for pair in pairs for part in pair], 1)
