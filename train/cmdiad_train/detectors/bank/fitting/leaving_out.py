"""Memory banks as if some training samples did not exist, without fitting them all over again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cmdiad_train.detectors.bank.features.compared import Patches
from cmdiad_train.detectors.bank.fitting.banks import bank_rows, bank_size
from cmdiad_train.detectors.bank.fitting.coreset import SelectionsWithout, project
from cmdiad_train.detectors.bank.memory_bank import MemoryBank
from cmdiad_train.recipe import Recipe, bank_part


class BanksWithout:
    """The banks that a training without some samples would have made, with the numbers that normalise features kept.

    A bank of all rows loses the rows of the samples, exactly. So does a coreset if all rows of the other samples fit
    into the bank. Otherwise the coreset is completed with rows of the others, see `SelectionsWithout`: it covers them
    as a new coreset would (docs/thresholds.md). Distances are float32 for this, also where the published selection
    rounds to float16, which decides between nearly equal rows only.

    Args:
        bank: Bank of all samples.
        chosen: Candidate row int64 `[K]` that each row of the bank is.
        patches: Patch features of each training sample that make up the bank.
        owners: Number of the picture of each training sample, whose samples are left out together.
        recipe: Recipe of the detector.
        device: Device of the coreset search.
        weights: Factor float32 `[n]` of each candidate row, for a bank with weights; else None.
    """

    def __init__(  # noqa: PLR0913 - the bank and all that it was made of
        self,
        bank: MemoryBank,
        chosen: Tensor,
        patches: Sequence[Patches],
        owners: Sequence[int],
        recipe: Recipe,
        device: torch.device,
        weights: Tensor | None = None,
    ) -> None:
        self._weights = weights
        self._bank, self._chosen, self._recipe = bank, chosen, recipe
        counts = torch.tensor([len(bank_rows([sample], recipe)) for sample in patches])
        self._owners = torch.tensor(owners).repeat_interleave(counts)
        self._rows = (bank_rows(patches, recipe) - bank.mean) / bank.std
        self._selections: SelectionsWithout | None = None
        self._made: tuple[int, MemoryBank] | None = None
        self._device = device

    def without(self, owner: int) -> MemoryBank:
        """Return the bank as if the samples of an owner did not exist; the same bank again for the same owner."""
        if self._made is None or self._made[0] != owner:
            self._made = None  # Frees the bank of the owner before.
            self._made = owner, self._made_without(owner)
        return self._made[1]

    def _made_without(self, owner: int) -> MemoryBank:
        others = self._owners != owner
        count = bank_size(int(others.sum()), self._recipe)
        if count == int(others.sum()):
            stays = others[self._chosen]
            others[self._chosen] = False
            return self._exchanged(stays, others)
        if self._selections is None:
            projected = project(self._rows, eps=bank_part(self._recipe).coreset_eps, seed=self._recipe.seed)
            # Without the last picks there is room for as many new ones as each owner leaves behind.
            smallest = bank_size(len(self._rows) - int(self._owners.bincount().max()), self._recipe)
            tensors = [tensor.to(self._device) for tensor in (projected, self._owners, self._chosen[:smallest])]
            self._selections = SelectionsWithout(*tensors)
        positions, added = (index.cpu() for index in self._selections.without(owner, count))
        stays = torch.zeros(len(self._chosen), dtype=torch.bool)
        stays[positions] = True
        return self._exchanged(stays, added)

    def _exchanged(self, stays: Tensor, added: Tensor) -> MemoryBank:
        weights = None if self._weights is None else self._weights[added]
        return self._bank.exchanged(stays, self._rows[added], weights)
