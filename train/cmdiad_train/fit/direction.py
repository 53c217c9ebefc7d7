"""Check that parts have a direction that a view can follow, without which a region fixed to the part is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmdiad_runtime.preprocess.views.prepared import Prepared
from cmdiad_runtime.sample import Mask

_SIDE = 48
"""Pixels: side of the compared images."""
_TURNS = range(30, 360, 10)
"""Degrees."""
_LEAST_GAIN = 1.6
"""A turn must increase the mean squared difference to the mean part by this factor."""
_SAME_REGION = 0.8
"""Overlap of a region with its turned copy, above which the turn does not matter."""

_Image = npt.NDArray[np.float32]


def ambiguous_turn(parts: Sequence[Prepared], region: Mask, name: str) -> int | None:
    """Return a turn in degrees that changes the parts hardly more than they differ anyway, or None.

    Args:
        parts: Training parts in prepared form, without a mask; at least two.
        region: Ignored pixels of the view, bool `[size, size]`. Turns that keep the region are no problem.
        name: Name of the image input that the region belongs to, "surface" or "rgb".
    """
    images = np.stack([_small(part.inputs[name][0]) for part in parts])
    mean = images.mean(axis=0)
    usual = float(np.square(images - mean).mean())
    small = np.asarray(Image.fromarray(region).resize((_SIDE, _SIDE)), dtype=np.bool_)
    for turn in _TURNS:
        turned = np.asarray(Image.fromarray(small).rotate(turn), dtype=np.bool_)
        if (small & turned).sum() > _SAME_REGION * (small | turned).sum():
            continue
        if float(np.square(_turned(mean, turn) - mean).mean()) < (_LEAST_GAIN - 1) * usual:
            return turn
    return None


def _small(image: npt.NDArray[np.generic]) -> _Image:
    """Return the mean of the channels at a small size, float32."""
    grey = Image.fromarray(image.mean(axis=2, dtype=np.float32))
    return np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX))


def _turned(image: _Image, turn: int) -> _Image:
    return np.asarray(Image.fromarray(image).rotate(turn, Image.Resampling.BILINEAR))
