"""Patches of a cloud as network inputs, in every view that has them."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from cmdiad_runtime.preprocess.cloud.cloud_inputs import CloudFrame
from cmdiad_runtime.preprocess.cloud.patches import patch_input
from cmdiad_runtime.preprocess.settings import Preprocessing


def patch_inputs(frame: CloudFrame, settings: Preprocessing, name: str) -> dict[str, npt.NDArray[Any]]:
    """Return the inputs `patches` and `cover` of a cloud at the size of the view; see `Prepared.inputs`.

    Args:
        frame: Cloud, one point or none per pixel of the view.
        settings: Settings with the number and size of the patches.
        name: Name of the sample for errors.

    Raises:
        InputError: The cloud cannot be cut into patches, see `patch_input`.
    """
    cut = patch_input(frame, most=settings.groups, points=settings.group_size, coverage=settings.coverage, name=name)
    return {"patches": cut.patches[None], "cover": cut.cover[None]}
