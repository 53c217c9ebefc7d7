"""Point groups of a cloud that a network generated: sampling, grouping and pooling inside the graph (F2I).

The runtime's preprocessing does the same for clouds of a sensor, with k-d trees, outside the graph. Inside the graph
every pixel takes part, valid or not, so that all shapes are static. The loops are scans, so that the graph stays small.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan

from cmdiad_runtime.preprocess.cloud.interpolation import pooling_axis

NEAR_ORIGIN = 1e-3  # squared metres; the published sampling never picks points so close to the sensor (method §6.1)
WEIGHT_GUARD = 1e-8
CENTERS_AT_ONCE = 32
NEIGHBOURS = 3


class GeneratedCloud(nn.Module):
    """A module that computes point groups and pooling weights of a cloud image.

    Args:
        groups: Number of groups G.
        group_size: Points per group M.
        grid: Cells along each side of the patch features.
        size: Pixels along each side of the cloud image.
    """

    pool: Tensor

    def __init__(self, *, groups: int, group_size: int, grid: int, size: int) -> None:
        super().__init__()
        self.groups, self.group_size, self.grid, self.size = groups, group_size, grid, size
        self.register_buffer("pool", torch.from_numpy(pooling_axis(size, grid)), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return centres `[1, G, 3]`, groups `[1, G, M, 3]` and pooling weights `[grid², G]`.

        As published, a pixel is valid if all three coordinates differ from 0.

        Args:
            image: Cloud `[3, size, size]`, metres.
        """
        points = image.float().reshape(3, -1).T  # [P, 3]
        valid = (points != 0).all(1)
        centers = points[farthest_points(points, valid, self.groups)]
        groups = nearest_groups(points, valid, centers, self.group_size)
        return centers[None], groups[None], self.weights(points, valid, centers)

    def weights(self, points: Tensor, valid: Tensor, centers: Tensor) -> Tensor:
        """Return interpolation, zero fill and pooling as one matrix `[grid², G]` (method §7, §19.2)."""
        rows = torch.cat([points, valid[:, None].float()], 1).reshape(self.size, self.size, 4)
        pool, index = self.pool, torch.arange(len(centers), device=points.device)
        size, grid, count = self.size, self.grid, self.groups

        def row(pixels: Tensor) -> Tensor:
            pixels = pixels.reshape(size, 4)
            squared = (pixels[:, None, :3] - centers.reshape(1, count, 3)).square().sum(2)  # [size, G]
            nearest, chosen = squared.topk(NEIGHBOURS, dim=1, largest=False)
            # This is 1 / (d² + 1e-8) times a constant; the exporter would treat a summand of 1e-8 as 0 and drop it.
            weight = 1 / (nearest / WEIGHT_GUARD + 1)
            weight = weight / weight.sum(1, keepdim=True) * pixels[:, 3:]
            spread = (weight[:, :, None] * (chosen[:, :, None] == index.reshape(count)).float()).sum(1)  # [size, G]
            return pool.reshape(grid, size) @ spread

        pooled = _over(row, rows)  # [size, grid, G]
        return (pool @ pooled.flatten(1)).reshape(self.grid**2, -1)


def farthest_points(points: Tensor, valid: Tensor, count: int) -> Tensor:
    """Return the indices of the published farthest point sampling (method §6.1) over the valid points.

    Sampling starts with the first valid point. Among equal distances the lowest index is chosen (published: the
    lowest index modulo the GPU's block size).

    Args:
        points: Points, float32 `[P, 3]`, metres.
        valid: Mask of valid points, bool `[P]`.
        count: Number of points to choose.

    Returns:
        Indices int64 `[count]`.
    """
    eligible = valid & (points.square().sum(1) > NEAR_ORIGIN)
    first = valid.float()[None].argmax(1)[0]
    start = torch.where(eligible, 1e10, -1.0)
    total = len(points)  # Inside a scan the exporter does not know the shapes of outer tensors.

    def step(carry: list[Tensor], _: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        nearest, last = carry
        squared = (points.reshape(total, 3) - points[last].reshape(1, 3)).square().sum(1)
        nearest = torch.minimum(nearest, torch.where(eligible.reshape(total), squared, -1.0))
        distance, farthest = nearest[None].max(1)
        return [nearest, torch.where(distance < 0, first, farthest)], [last.clone()]

    if torch.compiler.is_exporting():
        return scan(step, [start, first[None].clone()], [torch.zeros(count, 1)])[1][0][:, 0]
    carry, picked = [start, first[None]], []
    for _ in range(count):
        carry, [last] = step(carry, first)
        picked.append(last)
    return torch.cat(picked)


def nearest_groups(points: Tensor, valid: Tensor, centers: Tensor, size: int) -> Tensor:
    """Return the `size` nearest valid points of each centre, minus the centre, float32 `[G, size, 3]`.

    If there are fewer valid points, the centre replaces the missing ones.
    """
    absent = torch.where(valid, 0.0, torch.inf)
    total = len(points)
    at_once = next(n for n in range(min(CENTERS_AT_ONCE, len(centers)), 0, -1) if len(centers) % n == 0)

    def chunk(middles: Tensor) -> Tensor:
        middles, all_points = middles.reshape(at_once, 1, 3), points.reshape(total, 3)
        squared = (middles - all_points[None]).square().sum(2) + absent.reshape(total)  # [c, P]
        distance, index = squared.topk(size, dim=1, largest=False)
        offsets = all_points[index] - middles
        return torch.where(torch.isinf(distance)[..., None], torch.zeros_like(offsets), offsets)

    return _over(chunk, centers.reshape(-1, at_once, 3)).reshape(len(centers), size, 3)


def _over(function: Callable[[Tensor], Tensor], parts: Tensor) -> Tensor:
    """Apply a function to each part along the first axis and stack the results: a scan in a graph, else a loop."""
    if not torch.compiler.is_exporting():
        return torch.stack([function(part) for part in parts])

    def step(carry: list[Tensor], part: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return [carry[0].clone()], [function(part)]

    return scan(step, [torch.zeros(1)], parts)[1][0]
