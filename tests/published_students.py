"""Students with the published weights' formula, and checks against what was recorded of the published classes.

The recordings are described in shared/golden/README_TRD.md; tests/golden_small has those of one training batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import golden
from cmdiad_train.detectors.trd.losses import flat_cosine, student_loss
from cmdiad_train.detectors.trd.networks.student import Student, StudentOutputs
from cmdiad_train.detectors.trd.networks.teacher import Teacher
from cmdiad_train.recipe import IMAGENET_MEAN, IMAGENET_STD, RgbExtractor

Size = Literal["r18", "wrn50"]
Branch = Literal["rgb", "geo"]
Arrays = Mapping[str, npt.NDArray[Any]]
Features = list[Tensor]

SIDE = 64
BACKBONES: dict[Size, str] = {"r18": "resnet18", "wrn50": "wide_resnet50_2"}
PREFIXES: dict[Branch, str] = {"rgb": "trd.student_rgb.", "geo": "trd.student_depth."}
OTHER: dict[Branch, Branch] = {"rgb": "geo", "geo": "rgb"}
TERMS = ("raw", "filtered", "amplified", "fused")


@cache
def teacher(size: Size) -> Teacher:
    """Return the teacher of both modalities, float32."""
    module = Teacher(RgbExtractor(BACKBONES[size]), size=SIDE)
    golden.fill(module.backbone.model, "trd.teacher.encoder.")
    return module


def student(size: Size, branch: Branch) -> Student:
    """Return the student of a branch in eval mode, float32."""
    module = Student(teacher(size).shape, teacher(size).shape).eval()
    golden.fill(module, PREFIXES[branch])
    return module


@torch.no_grad()
def features(
    size: Size, branch: Branch, images: Arrays, samples: slice, dtype: torch.dtype = torch.float32
) -> tuple[Features, Features]:
    """Return the teacher's features of a branch's own modality and of the other one.

    Args:
        size: Size of the networks.
        branch: Branch, whose modality is the own one.
        images: Images uint8 `[n, 3, 64, 64]` named `rgb_u8` and `geo_u8`.
        samples: Samples to take.
        dtype: Precision of input and teacher.
    """
    mean, deviation = (torch.tensor(v, dtype=dtype)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    module = teacher(size).to(dtype)
    try:
        scaled = [torch.from_numpy(images[f"{b}_u8"][samples]).to(dtype) / 255 for b in (branch, OTHER[branch])]
        own, other = (module((image - mean) / deviation) for image in scaled)
    finally:
        module.float()
    return own, other


def loss_terms(module: Student, own: Features, other: Features) -> list[Tensor]:
    """Return the four published terms in the recorded order."""
    terms = student_loss(module(own, other), own, "flat")
    assert tuple(terms) == TERMS
    return list(terms.values())


def check_losses(
    arrays: Arrays, key: str, module: Student, own: Features, other: Features, recorded: torch.dtype = torch.float64
) -> None:
    """Compare terms, levels and gradients in float64, whose sums are the same on every processor.

    Args:
        arrays: Recordings.
        key: Start of their names, `SIZE_MODE_BRANCH`.
        module: Student, float64, in the mode of the recordings.
        own: Features of the training batch, float64.
        other: Features of the other modality, likewise.
        recorded: Precision of the recordings, float64 or float32, whose rounding the tolerance allows for.
    """
    double = recorded == torch.float64
    suffix, atol = ("_f64", 1e-10) if double else ("", 3e-6)
    gradient_rtol, gradient_atol = (1e-8, 1e-12) if double else (3e-4, 5e-6)
    outputs: StudentOutputs = module(own, other)
    levels = [
        [flat_cosine([a], [b]).item() for a, b in zip(maps, own, strict=True)]
        for maps in (outputs.raw, outputs.filtered, outputs.amplified, outputs.fused)
    ]
    np.testing.assert_allclose(levels, arrays[f"{key}_levels{suffix}"], rtol=0, atol=atol)
    terms = list(student_loss(outputs, own, "flat").values())
    np.testing.assert_allclose([term.item() for term in terms], arrays[f"{key}_terms{suffix}"], rtol=0, atol=atol)
    parameters = [module.get_parameter(name) for name in arrays["param_names"]]
    gradients = [_gradients(term, parameters) for term in (*terms, torch.stack(terms).sum())]
    norms = [[gradient.norm().item() for gradient in row] for row in gradients]
    np.testing.assert_allclose(norms, arrays[f"{key}_gradnorm{suffix}"], rtol=gradient_rtol, atol=gradient_atol)
    of_sum = dict(zip(arrays["param_names"], gradients[-1], strict=True))
    by_level = torch.stack([of_sum[f"decoder.{name}"] for name in ("w_c", "w_b", "w_a")])
    np.testing.assert_allclose(by_level, arrays[f"{key}_grad_w{suffix}"], rtol=gradient_rtol, atol=gradient_atol)


def _gradients(loss: Tensor, parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    """Return the gradient of each parameter, zeros for those that the loss does not depend on."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]


def check_adam(
    arrays: Arrays, module: Student, own: Features, other: Features, precision: torch.dtype = torch.float64
) -> None:
    """Compare three steps of Adam in float64, with BatchNorm in train mode.

    Args:
        arrays: Recordings.
        module: Student, float64.
        own: Features of the training batch, float64.
        other: Features of the other modality, likewise.
        precision: Precision of the recordings, float64 or float32.
    """
    recorded = partial(_recorded, arrays, precision)
    module.train()
    start = {name: module.get_parameter(name).detach().clone() for name in arrays["adam_param_names"]}
    optimiser = torch.optim.Adam(module.parameters(), lr=5e-3, betas=(0.5, 0.999))
    for step in range(3):
        terms = loss_terms(module, own, other)
        recorded("terms", step, [term.item() for term in terms])
        recorded("loss", step, sum(term.item() for term in terms))
        optimiser.zero_grad()
        torch.stack(terms).sum().backward()
        optimiser.step()
        parameters = {name: module.get_parameter(name).detach() for name in start}
        scalars = [getattr(module.decoder, name).detach() for name in ("w_c", "w_b", "w_a")]
        recorded("param_norm", step, [p.norm() for p in parameters.values()])
        recorded("delta_norm", step, [(p - start[name]).norm() for name, p in parameters.items()])
        recorded("running_norm", step, [module.get_buffer(name).norm() for name in arrays["running_names"]])
        recorded("level_scalars", step, torch.stack(scalars))
    with torch.no_grad():
        terms = loss_terms(module, own, other)
        recorded("terms", 3, terms)
        recorded("loss", 3, torch.stack(terms).sum())
        recorded("terms_eval_after", ..., loss_terms(module.eval(), own, other))


def _recorded(arrays: Arrays, dtype: torch.dtype, name: str, step: Any, values: Any) -> None:
    """Compare values with a row of a recording in a precision; Adam amplifies rounding within three steps."""
    if dtype == torch.float64:
        suffix, rtol = "_f64", 1e-6
    else:
        suffix, rtol = "", 5e-3 if name == "terms_eval_after" else 1e-3
    np.testing.assert_allclose(values, arrays[f"{name}{suffix}"][step], rtol=rtol, atol=0)
