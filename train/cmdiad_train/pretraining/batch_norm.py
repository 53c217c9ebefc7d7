"""BatchNorm statistics of an image extractor after its training."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.pretraining.samples import Inputs

STATISTICS_BATCH = 8
STATISTICS_IMAGES = 128


@torch.no_grad()
def settle_statistics(extractor: TimmBackbone, inputs: Inputs, indices: list[int]) -> None:
    """Set the statistics of all BatchNorm layers to the mean over at most 128 unchanged training images.

    The running statistics of the training itself lag behind the weights and come from augmented images.

    Args:
        extractor: Trained extractor, on the CPU; left in evaluation mode.
        inputs: Network inputs with the key `image`.
        indices: Indices of the training images.
    """
    norms = [module for module in extractor.model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    extractor.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    chosen = indices[:: max(1, len(indices) // STATISTICS_IMAGES)]
    for start in range(0, len(chosen), STATISTICS_BATCH):
        extractor(torch.stack([inputs[i]["image"] for i in chosen[start : start + STATISTICS_BATCH]]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    extractor.eval()
