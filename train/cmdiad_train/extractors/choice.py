"""The choice of an image extractor by its options: default stages of CNNs, and values stored in a weights file."""

from __future__ import annotations

from dataclasses import replace

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors.shipped import weights_file
from cmdiad_train.extractors.timm_backbone import has_tokens
from cmdiad_train.extractors.weights_file import stored_extractor
from cmdiad_train.recipe import RgbExtractor

Stages = tuple[int, ...]
CNN_STAGES: Stages = (1, 2)


def image_extractor(
    backbone: str, stages: Stages | None, grid: int | None, weights: str, cnn_stages: Stages = CNN_STAGES
) -> RgbExtractor:
    """Return an image extractor.

    Args:
        backbone: timm model name.
        stages: CNN stages, empty for a ViT; None takes `cnn_stages` for a CNN and none for a ViT.
        grid: Side of the grid of CNN features.
        weights: Weights as a recipe names them.
        cnn_stages: Default stages of a CNN.

    Raises:
        RunError: timm has no such model.
    """
    chosen = stages if stages is not None else (() if has_tokens(backbone) else cnn_stages)
    return RgbExtractor(backbone, chosen, grid, weights)


def stored_image_extractor(weights: str, backbone: str | None, stages: Stages | None, grid: int | None) -> RgbExtractor:
    """Return the image extractor that a weights file describes, with some values replaced.

    Args:
        weights: Weights as a recipe names them.
        backbone: timm model name, None for the file's own. Required for "timm" and for files of other programs.
        stages: CNN stages, None for the file's own.
        grid: Side of the grid of CNN features, None for the file's own.

    Raises:
        RunError: The file cannot be read, or the backbone is unknown.
    """
    file = weights_file(weights)
    stored = None if file is None else stored_extractor(file)
    if isinstance(stored, RgbExtractor):
        return replace(
            stored,
            backbone=backbone or stored.backbone,
            stages=stored.stages if stages is None else stages,
            grid=grid or stored.grid,
            weights=weights,
        )
    if backbone is None:
        raise RunError(
            weights,
            found="no record of the backbone that these weights belong to",
            expected="a file that cmdiad-extractor wrote",
            action="pass --teacher-backbone, and for a CNN --teacher-stages",
        )
    return image_extractor(backbone, stages, grid, weights)
