"""Images of a distillation and the teacher's features of them, computed once and then read from disk."""

from __future__ import annotations

import torch
from torch import Tensor

from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.pretraining.augmentation import moved, relit
from cmdiad_train.pretraining.feature_cache import FeatureCache
from cmdiad_train.pretraining.samples import ImageKind, Inputs

FLOAT16_LIMIT = 65504


class TeacherFeatures:
    """Pairs of an image and the teacher's features, for every sample and its augmented copies.

    Args:
        inputs: Images of the samples.
        teacher: Teacher on its device.
        kind: Kind of the images.
        copies: Number of augmented copies of each image.
        cache: Storage of the pairs.
        seed: Seed of the augmentation.
    """

    def __init__(
        self, inputs: Inputs, teacher: TimmBackbone, *, kind: ImageKind, copies: int, cache: FeatureCache, seed: int
    ) -> None:
        self.inputs, self.teacher, self.cache, self.seed = inputs, teacher, cache, seed
        self.kind, self.copies = kind, copies

    def compute_all(self, training: list[int], held_out: list[int], reporter: Reporter) -> None:
        """Compute the pairs that are not on disk yet: held-out images, and training images with their copies."""
        pairs = [(i, 0) for i in held_out] + [(i, c) for i in training for c in range(self.copies + 1)]
        for done, (index, copy) in enumerate(pairs, 1):
            self.one(index, copy)
            reporter.step("compute teacher features", done, len(pairs))

    def one(self, index: int, copy: int) -> dict[str, Tensor]:
        """Return `image` `[size, size, 3]` and `features` float16 `[T, C]` of one copy; copy 0 is the sample itself."""
        total = len(self.inputs) * (self.copies + 1)
        return self.cache.get(self.kind, f"{index:05d}-{copy}", total, lambda: self._compute(index, copy))

    def batch(self, chosen: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Return images `[B, size, size, 3]` and features float32 `[B, T, C]` of (sample, copy) pairs."""
        pairs = [self.one(index, copy) for index, copy in chosen]
        return torch.stack([pair["image"] for pair in pairs]), torch.stack([pair["features"] for pair in pairs]).float()

    def statistics(self, training: list[int]) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation `[C]` of the teacher's features of the training images."""
        rows = 0
        total = squares = torch.zeros(())
        for index in training:
            features = self.one(index, 0)["features"].double()
            total, squares = total + features.sum(0), squares + features.square().sum(0)
            rows += len(features)
        mean = total / rows
        deviation = (squares / rows - mean.square()).clamp(min=0).sqrt()
        return mean.float(), deviation.clamp(min=1e-3 * float(deviation.max()) + 1e-12).float()

    @torch.no_grad()
    def _compute(self, index: int, copy: int) -> dict[str, Tensor]:
        image = self.inputs[index]["image"][None]
        if copy:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + index) * 1009 + copy)
            changed = relit(moved(image.float(), self.kind, generator), self.kind, generator)
            image = changed.round().to(torch.uint8) if self.kind == "rgb" else changed
        device = next(self.teacher.model.parameters()).device
        features = self.teacher(image.to(device))[0].cpu()
        return {"image": image[0], "features": features.clamp(-FLOAT16_LIMIT, FLOAT16_LIMIT).half()}
