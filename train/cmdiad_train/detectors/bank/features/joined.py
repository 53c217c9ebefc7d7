"""The seam for patch features that a network makes of those of all measured modalities, for a further bank."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from cmdiad_train.detectors.bank.features.compared import Patches


class JoinedFeatures(nn.Module):
    """Patch features made of those of all main modalities.

    Attributes:
        grid: Side of the grid of cells of the result.
        networks: Names of submodules that may compute in fp16.
        reads_every_cell: True if the inputs must have a row for every cell of an image, so that no list of searched
            cells may shorten them.
    """

    grid: int
    networks: tuple[str, ...] = ()
    reads_every_cell: bool = False

    def forward(self, patches: Sequence[Patches]) -> Patches:
        """Return rows and cells of one sample.

        Args:
            patches: Rows and cells of each main modality, see `Patches`.
        """
        raise NotImplementedError
