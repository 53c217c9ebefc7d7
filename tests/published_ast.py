"""Networks of AST with the published weights' formula, and detectors of the recorded size.

The recordings are described in shared/golden/README_AST_DSR3D.md; tests/golden_small has some of those of clouds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import golden
from cmdiad_runtime.names import Sensors
from cmdiad_train.detectors.ast.detector import AsymmetricStudentTeacher
from cmdiad_train.detectors.ast.networks.cells import Cells, Standardisation
from cmdiad_train.detectors.ast.networks.flow import Flow
from cmdiad_train.detectors.ast.networks.student import Student
from cmdiad_train.recipe import PUBLISHED_AST, Recipe

Mode = Literal["rgb", "depth", "combi"]
Arrays = Mapping[str, npt.NDArray[Any]]

MODALITIES: dict[Mode, Sensors] = {"rgb": "rgb", "depth": "xyz", "combi": "both"}
SIZE, GRID, DEPTH, FEATURES = 256, 8, 64, 304
_COUPLINGS = {f"blocks.{k}.": f"module_list.{3 + 2 * k}." for k in range(4)}
_LAYERS = {"conv1": "l1", "conv2": "l2", "bn1": "bn1", "bn2": "bn2"}
_UNITS = {f"units.{n}.{here}.": f"res.{n}.{there}." for n in range(4) for here, there in _LAYERS.items()}


class RecordedFeatures(nn.Module):
    """Stand-in for the network for images: returns the recorded input of both networks for any image."""

    channels = FEATURES

    def forward(self, image: Tensor) -> Tensor:
        return torch.from_numpy(golden.array("ast.in.feat", (2, FEATURES, GRID, GRID), 1.5, 0))[: len(image)]


def depth_images() -> npt.NDArray[np.float32]:
    """Return the recorded depth images, float32 `[2, 64, 64]`."""
    return golden.array("ast.in.depth", (2, 1, DEPTH, DEPTH), 2, 0)[:, 0]


def inputs(part: npt.NDArray[np.uint8], samples: slice = slice(0, 2)) -> dict[str, Tensor]:
    """Return the network inputs of the recorded samples.

    Args:
        part: Recorded pixels of the part, `[2, 1, 64, 64]`.
        samples: Samples to take.
    """
    channels = np.stack([depth_images(), part[:, 0], np.zeros_like(depth_images())], axis=3)
    surface = torch.from_numpy(channels.astype(np.float32)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    return {"surface": surface[samples], "rgb": torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8)[samples]}


def recipe(mode: Mode, **changes: Any) -> Recipe:
    """Return the published recipe at the recorded size."""
    part = replace(PUBLISHED_AST, **changes)
    return Recipe(part, modality=MODALITIES[mode], size=SIZE, view="sensor", verdict="image")


def cells(mode: Mode) -> Cells:
    """Return the features of the cells; images have the recorded ones."""
    return Cells(recipe(mode), None if mode == "depth" else RecordedFeatures())  # type: ignore[arg-type]


def flow(channels: int) -> Flow:
    """Return the teacher, float32."""
    module = Flow(channels, GRID).requires_grad_(False)
    golden.fill(module, "ast.teacher.", _COUPLINGS)
    return module


def student(channels: int) -> Student:
    """Return the student in eval mode, float32."""
    module = Student(channels, GRID, width=1024, units=4).requires_grad_(False).eval()
    golden.fill(module, "ast.student.", {"enter.": "conv1.", "leave.": "conv2.", **_UNITS})
    return module


def detector(mode: Mode) -> AsymmetricStudentTeacher:
    """Return the published detector at the recorded size."""
    own = cells(mode)
    unchanged = Standardisation(own.channels)
    return AsymmetricStudentTeacher(recipe(mode), own, unchanged, flow(own.channels), student(own.channels))


def with_maximum(module: AsymmetricStudentTeacher, mode: Mode) -> AsymmetricStudentTeacher:
    """Return a detector with the same networks whose score is the largest value of the map."""
    networks = module.cells, module.standardise, module.flow, module.student
    return AsymmetricStudentTeacher(recipe(mode, reduction="max"), *networks)


def close(actual: Tensor, recorded: npt.NDArray[Any], tolerance: float = 1e-5) -> None:
    """Fail unless a tensor has the recorded shape and values."""
    np.testing.assert_allclose(actual.detach().numpy(), recorded, rtol=5e-7, atol=tolerance)
