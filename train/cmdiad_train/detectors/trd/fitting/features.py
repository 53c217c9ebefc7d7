"""Features of the training samples: of the teacher, and of networks that are already trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from cmdiad_runtime.names import Modality
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.detectors.family import FitContext, as_tensors
from cmdiad_train.detectors.trd.detector import INPUTS
from cmdiad_train.detectors.trd.networks.teacher import Teacher
from cmdiad_train.features import (
    FeatureStore,
    FileHashes,
    Stored,
    extractor_digest,
    feature_key,
    modality_settings,
    needed_files,
)

RESIDENT_SHARE = 0.25
"""Share of the free memory of a GPU that one kind of features may take."""

Levels = list[Tensor]
"""Features of levels 1-3: `[C, h, w]` of one sample, `[B, C, h, w]` of a batch."""


class Features:
    """Features of all training samples, in levels 1-3, from one network.

    Args:
        keys: Key of each sample in the feature store.
        compute: Computes the features `[1, C, h, w]` of the sample with this index.
        device: Device of the batches.

    Attributes:
        kept: Features `[C, h, w]` by index of the sample. Other samples are computed for every batch.
    """

    def __init__(self, keys: Sequence[str], compute: Callable[[int], Levels], device: torch.device) -> None:
        self.keys, self.device = keys, device
        self._compute = compute
        self.kept: dict[int, Levels] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def batch(self, chosen: Sequence[int]) -> Levels:
        """Return the features `[B, C, h, w]` of the samples with these indices, on the device."""
        samples = [self.kept[i] if i in self.kept else self.one(i) for i in chosen]
        return [torch.stack(level).to(self.device) for level in zip(*samples, strict=True)]

    @torch.no_grad()
    def one(self, index: int) -> Levels:
        """Compute the features `[C, h, w]` of a sample."""
        return [level[0] for level in self._compute(index)]


class TrainingFeatures:
    """Source of the features of the training samples of one training.

    Features are computed once and kept in the feature store, and in the memory of a GPU that has room for them. If
    the store is too small, features are computed again whenever a batch needs them.

    Args:
        context: The training.
        store: Store of features, shared with other trainings.
        teacher: Teacher, which moves to the device of the training.
    """

    def __init__(self, context: FitContext, store: FeatureStore, teacher: Teacher) -> None:
        self.context, self.store, self.teacher = context, store, teacher.to(context.device)
        self._hashes, self._planned = FileHashes(), 0
        self._digest = extractor_digest(teacher, {"family": "trd"})
        self._of_teacher: dict[Modality, Features] = {}

    def of_teacher(self, modality: Modality) -> Features:
        """Return the features of the teacher for the images of one modality. They are computed once."""
        if modality not in self._of_teacher:
            self._of_teacher[modality] = self._extracted(modality)
        return self._of_teacher[modality]

    def _extracted(self, modality: Modality) -> Features:
        context, teacher = self.context, self.teacher

        def compute(index: int) -> Levels:
            inputs = as_tensors(context.samples.prepared(context.train[index]).inputs)
            return teacher(teacher.normalise(inputs[INPUTS[modality]].to(context.device)))

        keys = [self._key(files, modality) for files in context.train]
        return self._computed(f"extract {modality} features", Features(keys, compute, context.device))

    def of_network(
        self, name: str, network: nn.Module, run: Callable[..., Levels], sources: Sequence[Features]
    ) -> Features:
        """Return the features that a trained network computes from other features.

        Args:
            name: Name of the features.
            network: Network in eval mode, on the device of the training.
            run: Computes the features `[1, C, h, w]` from those of each source.
            sources: Features that the network receives.
        """
        digest = extractor_digest(network, {"family": "trd", "features": name})
        keys = [
            feature_key(digest, {}, {}, " ".join([*row, str(self.context.device)]))
            for row in zip(*(source.keys for source in sources), strict=True)
        ]

        def compute(index: int) -> Levels:
            return run(*(source.batch([index]) for source in sources))

        return self._computed(f"compute {name} features", Features(keys, compute, self.context.device))

    def _computed(self, step: str, features: Features) -> Features:
        """Compute the features of every sample and keep them, unless they exceed the budget of the store."""
        needed = len(features) * sum(level.nbytes for level in features.one(0))
        budget = self.context.cache_bytes
        if self._planned + needed > budget:
            self.context.reporter.say(
                f"The features of this training need more than the {budget / 1e9:.3g} GB of --cache-gb. "
                f"They are computed again in every epoch ({step})."
            )
            return features
        self._planned += needed
        moves = _fits_on_gpu(needed, self.context.device)
        for index in range(len(features)):
            levels = self._stored(step, features, index)
            features.kept[index] = [level.to(self.context.device) for level in levels] if moves else levels
            self.context.reporter.step(step, index + 1, len(features))
        return features

    def _stored(self, step: str, features: Features, index: int) -> Levels:
        make = partial(_by_name, features, index)
        stored = self.store.get(step, features.keys[index], len(features), make)
        return [stored[name] for name in sorted(stored)]

    def _key(self, files: SampleFiles, modality: Modality) -> str:
        """Return the key of the features of the teacher for a sample."""
        whole = self.context.samples.preprocessing(files)
        settings = replace(whole, modality=modality)
        needed = needed_files(files, settings if whole.parts == 1 else whole)
        hashes = {name: self._hashes.of(path) for name, path in needed.items()}
        detail = f"levels {self.context.device}"
        if whole.parts > 1:  # the number of a part depends on the files that it was found in
            detail += f" part {files.part} as found in {whole.modality}"
        return feature_key(self._digest, modality_settings(settings), hashes, detail)


def _by_name(features: Features, index: int) -> Stored:
    return {f"level{number}": level for number, level in enumerate(features.one(index), start=1)}


def _fits_on_gpu(needed: int, device: torch.device) -> bool:
    """Return True if a number of bytes takes a small part of the free memory of a GPU."""
    return device.type == "cuda" and needed <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
