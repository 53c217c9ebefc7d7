"""The golden data's formula weights (shared/golden/README.md) and where the shared folders are."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = SHARED / "golden"


def load(name: str) -> dict[str, np.ndarray]:
    """The arrays of one golden file; skips the test where it is absent."""
    if not (GOLDEN / f"{name}.npz").exists():
        pytest.skip(f"no golden data at {GOLDEN / name}.npz")
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def uniform(key: str, count: int) -> np.ndarray:
    """Numbers in [-1, 1) that follow from a key, float64 `[count]`."""
    i = np.arange(1, count + 1, dtype=np.uint64)
    seed = np.uint64(zlib.crc32(key.encode())) << np.uint64(32)
    with np.errstate(over="ignore"):
        z = i * np.uint64(0x9E3779B97F4A7C15) + seed
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return 2 * ((z >> np.uint64(40)).astype(np.float64) / 2**24) - 1


def array(key: str, shape: tuple[int, ...], scale: float, shift: float) -> np.ndarray:
    """An input from its key, float32."""
    return (scale * uniform(key, int(np.prod(shape))) + shift).reshape(shape).astype(np.float32)


def formula(key: str, shape: tuple[int, ...], norm_weight: bool) -> np.ndarray:
    """The value of one parameter from its prefixed state-dict name."""
    count = int(np.prod(shape))
    u = uniform(key, count)
    leaf = key.rsplit(".", 1)[-1]
    if leaf in ("running_mean", "bias"):
        value = 0.05 * u
    elif leaf == "running_var":
        value = 1 + 0.5 * u
    elif norm_weight:
        value = 1 + 0.1 * u
    elif leaf in ("pos_embed", "cls_token"):
        value = 0.2 * u
    elif leaf == "gamma":  # factors of the sub-networks in AST
        value = 0.5 + 0.25 * u
    elif leaf in ("w_a", "w_b", "w_c"):  # scalars of the levels in reverse distillation
        value = 1 + 0.5 * u
    else:
        value = np.sqrt(3 / (count / shape[0])) * u
    return value.reshape(shape).astype(np.float32)


def fill(module: torch.nn.Module, prefix: str, rename: dict[str, str] | None = None) -> None:
    """Give every parameter of `module` its formula value under `prefix` + published name."""
    import torch  # here, so that the tests of the lean runtime can load golden data without it

    kinds = (torch.nn.LayerNorm, torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    norms = {name for name, m in module.named_modules() if isinstance(m, kinds)}
    for key, tensor in module.state_dict().items():
        if key.endswith(("num_batches_tracked", "target_mean", "target_scale", "permutation")):
            continue
        published = key
        for ours, theirs in (rename or {}).items():
            published = published.replace(ours, theirs, 1) if published.startswith(ours) else published
        value = formula(prefix + published, tuple(tensor.shape), key.rpartition(".")[0] in norms)
        tensor.copy_(torch.from_numpy(value))


def small(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of one file of `golden_small`, which is part of the repository."""
    with np.load(Path(__file__).parent / "golden_small" / f"{name}.npz", allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}
