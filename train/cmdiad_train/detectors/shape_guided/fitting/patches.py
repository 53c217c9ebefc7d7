"""Patches of the training samples, and the points next to their surfaces that the shape network learns from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cmdiad_train.detectors.family import FitContext
from cmdiad_train.recipe import shape_guided_part

NEIGHBOURS_SHARE = 0.1
"""The spread of the queries around a point is the distance to its farthest of these nearest other points, as a share of
the points of a patch. This is the 50th of 500 as published; the 50th of fewer points would be far off the surface."""
NEAR_SHARE, NEAR, FAR = 0.65, 0.5, 1.0
"""Share of the training rounds with queries at 0.5 times the spread, 13 of 20 as published; the others are at the
spread."""


class TrainingPatches:
    """Patches of the training samples, in memory.

    Args:
        context: The training.
    """

    def __init__(self, context: FitContext) -> None:
        part = shape_guided_part(context.recipe)
        self._patches: list[Tensor] = []
        for done, files in enumerate(context.train, start=1):
            patches = torch.from_numpy(context.samples.prepared(files).inputs["patches"][0].copy())
            self._patches.append(_own(patches))
            context.reporter.step("cut patches", done, len(context.train))
        self.points = part.patch_points

    def __len__(self) -> int:
        return len(self._patches)

    def of(self, sample: int) -> Tensor:
        """Return all patches of a training sample, float32 `[P, M, 3]` on the CPU."""
        return self._patches[sample]

    def some_of(self, samples: Sequence[int], count: int, generator: torch.Generator | None) -> Tensor:
        """Return `count` patches of each of some samples, float32 `[n, M, 3]` on the CPU.

        Args:
            samples: Indices of training samples.
            count: Patches per sample; all patches of a sample with fewer.
            generator: Source of the choice; None chooses patches at equal steps.
        """
        chosen = []
        for patches in map(self.of, samples):
            if generator is None:
                order = torch.arange(len(patches))[:: max(1, len(patches) // count)]
            else:
                order = torch.randperm(len(patches), generator=generator)
            chosen.append(patches[order[:count]])
        return torch.cat(chosen)


def spread_of(patches: Tensor) -> Tensor:
    """Return the distance of each point to the nearest tenth of the other points in the patch, `[P, M]`."""
    place = 1 + max(1, round(NEIGHBOURS_SHARE * patches.shape[1]))  # the point itself is the first
    return torch.cdist(patches, patches, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(place, dim=2).values


def training_queries(patches: Tensor, noise: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return points next to the surfaces, and the nearest point of the patch for each, `[P, M, 3]` each.

    Args:
        patches: Normalised patches `[P, M, 3]`.
        noise: Normally distributed numbers `[P, M, 3]`.
        factor: Factor of the spread for each patch, `[P]`.
    """
    queries = patches + factor[:, None, None] * spread_of(patches)[..., None] * noise
    nearest = torch.cdist(queries, patches, compute_mode="donot_use_mm_for_euclid_dist").argmin(2)
    return queries, patches.gather(1, nearest[..., None].expand(-1, -1, 3))


def _own(patches: Tensor) -> Tensor:
    """Return the patches without the copies of the first one, which preprocessing appends."""
    others = (patches != patches[0]).any(2).any(1).nonzero()
    return patches[: int(others.max()) + 1 if len(others) else 1]
