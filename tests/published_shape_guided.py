"""Shape-Guided networks and patches of the recordings (shared/golden/README_M3DM_SG.md)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import golden
from cmdiad_runtime.preprocess.cloud.patches import normalised
from cmdiad_train.detectors.shape_guided.networks.shape_network import ShapeNetwork

PATCHES, POINTS, SIZE = 37, 500, 224


def network() -> ShapeNetwork:
    """Return the networks with the formula's weights, in eval mode."""
    module = ShapeNetwork(512).eval().requires_grad_(False)
    names = {"decoder.fc4.": "NIF.fc4", "decoder.": "NIF."}
    for key, tensor in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        ours = next((own for own in names if key.startswith(own)), "")
        published = "sdf." + names.get(ours, "") + key.removeprefix(ours)
        if key.endswith("weight_g"):
            value = 1.4 * (1 + 0.1 * golden.uniform(published, tensor.numel()))
            tensor.copy_(torch.from_numpy(value.astype(np.float32)).reshape(tensor.shape))
        else:
            norm = ".bn" in key and key.endswith("weight")
            tensor.copy_(torch.from_numpy(golden.formula(published, tuple(tensor.shape), norm)))
    return module


def members() -> np.ndarray:
    """Return the points of each recorded patch by distance from the centre, indices int64 `[37, 500]`."""
    arrays, cloud = golden.load("sg_patches"), scaled_cloud()
    centres = np.searchsorted(arrays["valid_pixels"], arrays["patch_centre_pixel"])
    squares = ((cloud[centres][:, None] - cloud) ** 2).sum(2)
    return np.argsort(squares, axis=1, kind="stable")[:, :POINTS]


def patches() -> np.ndarray:
    """Return all recorded patches, float32 `[37, 500, 3]`, normalised."""
    return normalised(scaled_cloud()[members()], "recorded")


def changed_patches(stretch: str, noise: str, share: float) -> Tensor:
    """Return the stretched and noisy patches of a sample of the recorded memory, float32 `[37, 500, 3]`."""
    factor = 1 + share * golden.array(f"in.sg.{stretch}", (PATCHES, 1, 3), 1, 0)
    added = 0.02 * golden.array(f"in.sg.{noise}", (PATCHES, POINTS, 3), 1, 0)
    return torch.from_numpy((factor * patches() + added).astype(np.float32))


def scaled_cloud() -> np.ndarray:
    """Return the recorded cloud after the published scaling: minimum at 0, divided by the extent along x."""
    cloud = golden.load("sg_patches")["cloud_valid"]
    low = cloud.min(0)
    return (cloud - low) / (cloud[:, 0].max() - low[0])  # type: ignore[no-any-return]
