"""Features of the training samples, computed once and kept in the feature store; shared by families with networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from cmdiad_runtime.names import Sensors
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.detectors.family import FitContext
from cmdiad_train.features import (
    FeatureStore,
    FileHashes,
    Stored,
    feature_key,
    modality_settings,
    needed_files,
)

RESIDENT_SHARE = 0.25
"""Share of the free memory of a GPU that one kind of features may take."""

Maps = list[Tensor]
"""Maps of features of one network: `[C, h, w]` each for one sample, `[B, C, h, w]` for a batch."""


class Features:
    """Features of all training samples from one network.

    Args:
        keys: Key of each sample in the feature store.
        compute: Computes the features `[1, C, h, w]` of the sample with this index.
        device: Device of the batches.

    Attributes:
        kept: Features `[C, h, w]` by index of the sample. Other samples are computed for every batch.
    """

    def __init__(self, keys: Sequence[str], compute: Callable[[int], Maps], device: torch.device) -> None:
        self.keys, self.device = keys, device
        self._compute = compute
        self.kept: dict[int, Maps] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def batch(self, chosen: Sequence[int]) -> Maps:
        """Return the features `[B, C, h, w]` of the samples with these indices, on the device."""
        samples = [self.kept[i] if i in self.kept else self.one(i) for i in chosen]
        return [torch.stack(maps).to(self.device) for maps in zip(*samples, strict=True)]

    @torch.no_grad()
    def one(self, index: int) -> Maps:
        """Compute the features `[C, h, w]` of a sample."""
        return [features[0] for features in self._compute(index)]


class FeatureCache:
    """Keeper of the features of one training.

    Features are computed once and kept in the feature store, and in the memory of a GPU that has room for them. If
    the store is too small, features are computed again whenever a batch needs them.

    Args:
        context: The training.
        store: Store of features, shared with other trainings.
    """

    def __init__(self, context: FitContext, store: FeatureStore) -> None:
        self.context, self.store = context, store
        self._hashes, self._planned = FileHashes(), 0

    def computed(self, step: str, features: Features) -> Features:
        """Compute the features of every sample and keep them, unless they exceed the budget of the store.

        Args:
            step: Name of this work in progress reports.
            features: Features of the training samples.
        """
        needed = len(features) * sum(maps.nbytes for maps in features.one(0))
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
            maps = self._stored(step, features, index)
            features.kept[index] = [one.to(self.context.device) for one in maps] if moves else maps
            self.context.reporter.step(step, index + 1, len(features))
        return features

    def _stored(self, step: str, features: Features, index: int) -> Maps:
        make = partial(_by_name, features, index)
        stored = self.store.get(step, features.keys[index], len(features), make)
        return [stored[name] for name in sorted(stored)]

    def key(self, digest: str, files: SampleFiles, modality: Sensors) -> str:
        """Return the key of the features of an extractor for a training sample.

        Args:
            digest: Digest of the extractor, see `extractor_digest`.
            files: Files of the sample.
            modality: Modality of the inputs of the extractor.
        """
        whole = self.context.samples.preprocessing(files)
        settings = replace(whole, modality=modality)
        needed = needed_files(files, settings if whole.parts == 1 else whole)
        hashes = {name: self._hashes.of(path) for name, path in needed.items()}
        detail = f"levels {self.context.device}"
        if whole.parts > 1:  # the number of a part depends on the files that it was found in
            detail += f" part {files.part} as found in {whole.modality}"
        return feature_key(digest, modality_settings(settings), hashes, detail)


def _by_name(features: Features, index: int) -> Stored:
    return {f"level{number}": maps for number, maps in enumerate(features.one(index), start=1)}


def _fits_on_gpu(needed: int, device: torch.device) -> bool:
    """Return True if a number of bytes takes a small part of the free memory of a GPU."""
    return device.type == "cuda" and needed <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
