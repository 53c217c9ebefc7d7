"""Pairs of features at the same cell, from which the fusion network learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.names import Modality
from cmdiad_train.detectors.bank.features.compared import Patches
from cmdiad_train.detectors.bank.features.patches import repeated_cells
from cmdiad_train.detectors.cell_maps import marked_cells
from cmdiad_train.detectors.m3dm.networks.fused_features import fused_grid
from cmdiad_train.detectors.m3dm.pairing import paired_cells
from cmdiad_train.recipe import Recipe, m3dm_part


class Pairs(NamedTuple):
    """Features of cloud and image at some cells.

    Attributes:
        xyz: Features float32 `[n, C]` of the cloud.
        rgb: Features float32 `[n, C]` of the image.
    """

    xyz: Tensor
    rgb: Tensor


class TrainingPairs:
    """Pairs of all training samples, at the cells that have points of the part.

    Args:
        recipe: Recipe of the detector.
        patches: Patch features by modality and sample.
        grids: Side of the grid of each modality.
        kept: Inspected pixels, bool `[1, size, size]`; None without an inspection mask.
        device: Device of the pairs.

    Raises:
        RunError: The grids do not fit, or no sample has two cells to compare.
    """

    def __init__(
        self,
        recipe: Recipe,
        patches: Mapping[Modality, Sequence[Patches]],
        grids: Mapping[Modality, int],
        kept: Tensor | None,
        device: torch.device,
    ) -> None:
        self._xyz, self._rgb, self._device = patches["xyz"], patches["rgb"], device
        finer, part = fused_grid([*grids.values()]), m3dm_part(recipe)
        self._of_xyz = repeated_cells(grids["xyz"], finer)
        self._of_rgb = paired_cells(part.pairing, grids["rgb"], finer)
        self._every_component = part.mode == "faithful"
        inspected = torch.ones(finer**2, dtype=torch.bool) if kept is None else marked_cells(kept[0], finer)
        self._cells = [inspected & self._on_part(sample) for sample in self._xyz]
        if max(int(cells.sum()) for cells in self._cells) < 2:
            raise RunError(
                "feature fusion",
                found="fewer than two cells with points of the part in every training sample",
                expected="clouds of the part",
                action="Check the clouds and the inspection mask, or choose --feature-fusion none",
            )

    def __len__(self) -> int:
        return len(self._cells)

    @property
    def widths(self) -> tuple[int, int]:
        """Return the channels of the features of the cloud and of the image."""
        return self._xyz[0][0].shape[1], self._rgb[0][0].shape[1]

    def of(self, chosen: Sequence[int], most: int | None, generator: torch.Generator | None) -> Pairs:
        """Return pairs of the samples with these indices, on the device.

        Args:
            chosen: Indices of training samples.
            most: Largest number of pairs, or None for all.
            generator: Source of the draw among more pairs; None takes pairs at equal distances.
        """
        cells = [self._cells[i].nonzero()[:, 0] for i in chosen]
        xyz = torch.cat([_at(self._xyz[i], self._of_xyz[own]) for i, own in zip(chosen, cells, strict=True)])
        rgb = torch.cat([_at(self._rgb[i], self._of_rgb[own]) for i, own in zip(chosen, cells, strict=True)])
        if most is not None and len(xyz) > most:
            drawn = _drawn(len(xyz), most, generator)
            xyz, rgb = xyz[drawn], rgb[drawn]
        return Pairs(xyz.to(self._device), rgb.to(self._device))

    def _on_part(self, sample: Patches) -> Tensor:
        rows, cells = sample
        return shows_points(rows, every_component=self._every_component)[cells[self._of_xyz]]


def shows_points(rows: Tensor, *, every_component: bool) -> Tensor:
    """Return True for each row `[n, C]` of a cloud that has points of the part. The features of all others are 0.

    Args:
        rows: Features float32 `[n, C]`.
        every_component: True for the published rule, which leaves out rows with any component of exactly 0.
    """
    return (rows != 0).all(1) if every_component else (rows != 0).any(1)


def _at(sample: Patches, cells: Tensor) -> Tensor:
    rows, of_cells = sample
    return rows[of_cells[cells]]


def _drawn(count: int, most: int, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return torch.arange(most) * count // most
    return torch.randperm(count, generator=generator)[:most]
