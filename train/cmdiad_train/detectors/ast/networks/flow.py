"""The teacher: a normalising flow over the features of the cells, conditioned on their position."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.ast.networks.position import CODE_CHANNELS, position_code

KERNELS = (3, 3, 3, 5)
"""Sides of the kernels of the coupling blocks."""
HIDDEN = 64
"""Channels between the two convolutions of a sub-network."""
_CLAMP = 1.9
_SCALE = 0.636 * _CLAMP
_LARGEST = 1e6


class Subnetwork(nn.Module):
    """Two convolutions with replicated borders, times one learned factor that starts at 0.

    Args:
        half: Channels of the half of the features that enters; twice as many leave.
        kernel: Side of both kernels.
    """

    def __init__(self, half: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv1 = nn.Conv2d(half + CODE_CHANNELS, HIDDEN, kernel)
        self.conv2 = nn.Conv2d(HIDDEN, 2 * half, kernel)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-scale before its limit, and shift, each `[B, half, h, w]`."""
        hidden = F.relu(self.conv1(self._padded(torch.cat([features, code.expand(len(features), -1, -1, -1)], 1))))
        scale, shift = (self.conv2(self._padded(hidden)) * self.gamma).chunk(2, dim=1)
        return scale, shift

    def _padded(self, features: Tensor) -> Tensor:
        return F.pad(features, [self.kernel // 2] * 4, mode="replicate")


class Coupling(nn.Module):
    """One invertible step: permute the channels, then scale and shift each half by functions of the other one.

    Args:
        channels: Channels of the features, an even number.
        kernel: Side of the kernels.
        seed: Seed of the permutation.
    """

    permutation: Tensor

    def __init__(self, channels: int, kernel: int, seed: int) -> None:
        super().__init__()
        order = np.random.RandomState(seed).permutation(channels)
        self.register_buffer("permutation", torch.from_numpy(order))
        self.s1, self.s2 = Subnetwork(channels // 2, kernel), Subnetwork(channels // 2, kernel)

    def forward(self, features: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features `[B, C, h, w]` of the step, and the log-determinant of each cell `[B, h, w]`."""
        first, second = features.index_select(1, self.permutation).chunk(2, dim=1)
        scale, shift = self.s2(second, code)
        log_first = _limited(scale)
        first = log_first.exp() * first + shift
        scale, shift = self.s1(first, code)
        log_second = _limited(scale)
        second = log_second.exp() * second + shift
        changed = torch.cat([first, second], 1).clamp(-_LARGEST, _LARGEST)
        return changed, log_first.sum(1) + log_second.sum(1)

    def inverse(self, changed: Tensor, code: Tensor) -> Tensor:
        """Return the features that `forward` turns into these, unless they reached the limit of ±1e6."""
        first, second = changed.chunk(2, dim=1)
        scale, shift = self.s1(first, code)
        second = (second - shift) * (-_limited(scale)).exp()
        scale, shift = self.s2(second, code)
        first = (first - shift) * (-_limited(scale)).exp()
        return torch.cat([first, second], 1).index_select(1, self.permutation.argsort())


class Flow(nn.Module):
    """The normalising flow: four couplings, which turn the features of good parts into a normal distribution.

    The permutations of the channels are part of the state, because nothing else records them.

    Args:
        channels: Channels of the features, an even number.
        grid: Side of the grid of cells.

    Raises:
        RunError: The number of channels is odd.
    """

    code: Tensor

    def __init__(self, channels: int, grid: int) -> None:
        super().__init__()
        if channels % 2:
            raise RunError(
                "features",
                found=f"{channels} channels",
                expected="an even number, because the flow couples two halves",
                action="Choose another --rgb-backbone",
            )
        self.register_buffer("code", position_code(grid), persistent=False)
        self.blocks = nn.ModuleList(Coupling(channels, kernel, seed) for seed, kernel in enumerate(KERNELS))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return z `[B, C, grid, grid]`, and the log-determinant of each cell `[B, grid, grid]`."""
        logs = []
        for block in self.blocks:
            features, log = block(features, self.code)
            logs.append(log)
        return features, torch.stack(logs).sum(0)

    def inverse(self, z: Tensor) -> Tensor:
        """Return the features of a z."""
        for block in reversed(self.blocks):
            z = block.inverse(z, self.code)  # type: ignore[operator]  # of a Coupling
        return z


def _limited(scale: Tensor) -> Tensor:
    """Return the log-scale within ±1.9, so that a channel is scaled by 0.15 to 6.67 at most."""
    return _SCALE * torch.atan(scale / _CLAMP)
