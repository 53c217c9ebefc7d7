"""Image extractors in training: opened for it, and closed again as files that `cmdiad-train` takes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable
from cmdiad_train.extractors.weights_file import Triple, image_metadata
from cmdiad_train.pretraining.samples import Inputs
from cmdiad_train.recipe import RgbExtractor

STATISTICS_BATCH = 8
STATISTICS_IMAGES = 128


def has_tokens(backbone: str) -> bool:
    """Whether a timm model gives tokens by itself (a ViT) and needs no stages.

    Raises:
        RunError: no such model.
    """
    make_torchvision_importable()
    import timm

    try:
        with torch.random.fork_rng(devices=[]):
            return hasattr(timm.create_model(backbone, num_classes=0), "num_prefix_tokens")
    except RuntimeError as error:
        raise RunError(
            f"backbone {backbone}",
            found=str(error).splitlines()[0],
            expected="a timm model name (timm.list_models() lists them)",
            action="correct it",
        ) from error


def trainable(spec: RgbExtractor, size: int, seed: int) -> TimmBackbone:
    """An extractor of which the parts that it uses can be trained."""
    return TimmBackbone(spec, size=size, seed=seed).requires_grad_(True)


@torch.no_grad()
def settle_statistics(extractor: TimmBackbone, inputs: Inputs, indices: list[int]) -> None:
    """Set the statistics of all BatchNorm layers to the mean over unchanged training images, 128 at most.

    Those of a training lag behind the weights and come from changed images.
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


def use_of(extractor: TimmBackbone, spec: RgbExtractor, size: int) -> dict[str, str]:
    """The metadata of an extractor's file."""
    return image_metadata(spec, size, _triple(extractor.mean), _triple(extractor.std))


def _triple(values: Tensor) -> Triple:
    red, green, blue = (round(float(value), 9) for value in values.flatten())
    return red, green, blue
