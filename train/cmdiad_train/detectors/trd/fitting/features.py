"""Features of the training samples: of the teacher, and of networks that are already trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from cmdiad_runtime.names import Modality
from cmdiad_train.detectors.family import FitContext, as_tensors
from cmdiad_train.detectors.training_features import FeatureCache, Features, Maps
from cmdiad_train.detectors.trd.detector import INPUTS
from cmdiad_train.detectors.trd.networks.teacher import Teacher
from cmdiad_train.features import FeatureStore, extractor_digest, feature_key

Levels = Maps
"""Features of levels 1-3: `[C, h, w]` of one sample, `[B, C, h, w]` of a batch."""


class TrainingFeatures:
    """Source of the features of the training samples of one training.

    Args:
        context: The training.
        store: Store of features, shared with other trainings.
        teacher: Teacher, which moves to the device of the training.
    """

    def __init__(self, context: FitContext, store: FeatureStore, teacher: Teacher) -> None:
        self.context, self.teacher = context, teacher.to(context.device)
        self._cache = FeatureCache(context, store)
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

        keys = [self._cache.key(self._digest, files, modality) for files in context.train]
        return self._cache.computed(f"extract {modality} features", Features(keys, compute, context.device))

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

        return self._cache.computed(f"compute {name} features", Features(keys, compute, self.context.device))
