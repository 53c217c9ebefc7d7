"""Fit factor and bias that scale the map of the image to the map of the cloud (Shape-Guided, ICML 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.family import FitContext, as_tensors
from cmdiad_train.detectors.shape_guided.detector import Shapes
from cmdiad_train.detectors.shape_guided.guided_detector import Alignment, GuidedShapes
from cmdiad_train.detectors.shape_guided.networks.memory import FORBIDDEN

SAMPLES = 25
"""Largest number of training samples that the alignment uses, as published."""
BLUR_RADIUS = 4
LEAST_DEVIATION = 1e-9
"""Maps of good samples that vary less than this cannot be aligned."""


class _Values(NamedTuple):
    """Scores and counted pixels of one modality, by sample."""

    scores: list[float]
    pixels: list[npt.NDArray[np.float64]]

    def add(self, score: Tensor, values: Tensor, *, blurred: bool) -> None:
        """Add a sample with its score and its map; see `counted`."""
        self.scores.append(float(score))
        self.pixels.append(counted(values.numpy(), blurred=blurred))


def aligned(context: FitContext, detector: GuidedShapes, patches: Sequence[int]) -> Alignment:
    """Return the alignment from training samples, which are inspected without what the memory has of themselves.

    By default, a sample is compared with the codes and image features of the other training samples. As published, only
    the nearest row of each code and of each cell is left out, and the maps are blurred in 8 bits first.

    Args:
        context: The training.
        detector: Detector without an alignment, on the CPU.
        patches: Number of patches of each training sample.

    Raises:
        RunError: The maps of the training samples do not vary.
    """
    firsts = [0, *np.cumsum(patches)[:-1].tolist()]
    chosen = range(0, len(patches), -(-len(patches) // SAMPLES))
    of_cloud, of_image = _Values([], []), _Values([], [])
    for done, sample in enumerate(chosen, start=1):
        inputs = as_tensors(context.samples.prepared(context.train[sample]).inputs)
        own = slice(firsts[sample], firsts[sample] + patches[sample])
        shapes, cells = inspected_without(detector, [inputs[name] for name in detector.input_names], own)
        of_cloud.add(shapes.score, shapes.distances, blurred=detector.published)
        of_image.add(cells.max(), detector.image_map(cells), blurred=detector.published)
        context.reporter.step("align image and cloud", done, len(chosen))
    weight, bias = alignment_of(np.concatenate(of_cloud.pixels), np.concatenate(of_image.pixels))
    deviation = float(np.std(of_image.scores))
    score_weight = float(np.std(of_cloud.scores)) / deviation if deviation > LEAST_DEVIATION else weight
    return Alignment(weight, bias, score_weight)


@torch.no_grad()
def inspected_without(detector: GuidedShapes, inputs: Sequence[Tensor], own: slice) -> tuple[Shapes, Tensor]:
    """Return what cloud and image of a training sample show if the memory does not have the sample itself.

    Args:
        detector: Detector without an alignment.
        inputs: Network inputs of the sample.
        own: Places of the sample's patches in the memory of codes.

    Returns:
        shapes: Scores of the cloud.
        cells: Values of the cells of the image, float32 `[grid, grid]`.
    """
    patches, cover, image = inputs
    codes = detector.shape.codes(patches[0])
    keys = detector.shape.memory.keys(codes)
    if detector.published:
        keys = _without_nearest(keys)
    else:
        keys[:, own] = FORBIDDEN
        _require_enough(int((keys[0] > FORBIDDEN).sum()), detector.shape.memory.neighbours)
    shapes = detector.shape.shapes(codes, keys, patches[0], cover[0])
    features, images = detector.features(image), detector.images
    allowed = images.allowed(shapes.used)
    image_keys = images.memory.keys(features, allowed)
    if detector.published:
        image_keys = _without_nearest(image_keys)
    return shapes, detector.cell_values(images.distances(features, cover[0], image_keys, allowed))


def _require_enough(others: int, neighbours: int) -> None:
    """Refuse an alignment in which codes of the sample itself would take the places of missing neighbours."""
    if others < neighbours:
        raise RunError(
            "alignment of image and cloud",
            found=f"{others} patches in all other training samples",
            expected=f"at least {neighbours}, which rebuild a patch",
            action="Use more training samples or more --patches",
        )


def alignment_of(of_cloud: npt.NDArray[np.float64], of_image: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return factor and bias that give values of the image mean and standard deviation of those of the cloud.

    The published match of the ranges mean ± 3 standard deviations is the same.

    Args:
        of_cloud: Values of the map of the cloud, float64 `[n]`.
        of_image: Values of the map of the image, float64 `[m]`.

    Raises:
        RunError: The values of one map do not vary.
    """
    for name, values in (("cloud", of_cloud), ("image", of_image)):
        if not (len(values) and values.std() > LEAST_DEVIATION):
            raise RunError(
                f"alignment of image and cloud, map of the {name}",
                found="values of good samples that do not vary",
                expected="features that differ from place to place",
                action="Choose other --rgb-weights or more --epochs, or check the samples",
            )
    weight = float(of_cloud.std() / of_image.std())
    return weight, float(of_cloud.mean() - weight * of_image.mean())


def counted(values: npt.NDArray[np.float32], *, blurred: bool) -> npt.NDArray[np.float64]:
    """Return the positive values of a map that is not negative, float64 `[n]`.

    Args:
        values: Map float32 `[size, size]`.
        blurred: True to blur the map in 8 bits first, with the largest value at 255, as published.
    """
    highest = values.max()
    if blurred and highest > 0:
        levels = Image.fromarray((255 * (values / highest)).astype(np.uint8))
        smooth = np.asarray(levels.filter(ImageFilter.GaussianBlur(BLUR_RADIUS)))
        values = smooth.astype(np.float32) / 255 * highest
    return values[values > 0].astype(np.float64)


def _without_nearest(keys: Tensor) -> Tensor:
    return keys.scatter(1, keys.argmax(1, keepdim=True), FORBIDDEN)
