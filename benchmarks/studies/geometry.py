"""Measure point geometry on the CPU by stage, next to the published form written plainly in torch."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmdiad_runtime.preprocess.cloud.cloud_inputs import cloud_input
from cmdiad_runtime.preprocess.cloud.interpolation import interpolation_weights, pooling_weights
from cmdiad_runtime.preprocess.cloud.points import farthest_point_sampling, group_points
from cmdiad_runtime.sample import Mask
from studies.published import farthest_points, interpolated, nearest_points, pooled

WARM = 2
STAGES = ("sampling", "groups", "interpolation", "pooling")
"""Stages of both forms. Published: interpolates features. cmdiad: interpolates weights; `product` follows."""
TOGETHER = "all four together"
"""Stages of cmdiad as preprocessing runs them, on two threads if there are two cores."""
WHOLE = {"published": STAGES, "cmdiad": (TOGETHER, "product")}
FROM_INTERPOLATION = {"published": STAGES[2:], "cmdiad": (*STAGES[2:], "product")}
MEBIBYTE = 1024 * 1024

Work = Callable[[], Any]


@dataclass(frozen=True)
class Problem:
    """A cloud without its background, and the features of its groups.

    Attributes:
        points: float32 `[N, 3]`, metres.
        valid: bool `[size, size]`, pixels of the points.
        features: float32 `[G, C]`, features of the groups.
        group_size: Points in each group.
        grid: Cells along each side.
    """

    points: npt.NDArray[np.float32]
    valid: Mask
    features: Tensor
    group_size: int = 128
    grid: int = 56


def wavy_sheet(count: int, *, size: int = 224, groups: int = 1024, width: int = 768, seed: int = 0) -> Problem:
    """Return a square sheet of about `count` points half a metre below the sensor, with waves and noise of 0.1 mm."""
    rng = np.random.default_rng(seed)
    side = min(round(count**0.5), size)
    start = (size - side) // 2
    valid = np.zeros((size, size), dtype=np.bool_)
    valid[start : start + side, start : start + side] = True
    y, x = np.nonzero(valid)
    height = 0.5 + 0.01 * np.sin(x / 9) * np.cos(y / 13) + rng.normal(0, 1e-4, len(x))
    points = np.stack([(x - size / 2) * 4e-4, (y - size / 2) * 4e-4, height], axis=1) + rng.normal(0, 1e-5, (len(x), 3))
    features = torch.from_numpy(rng.normal(size=(groups, width)).astype(np.float32))
    return Problem(points.astype(np.float32), valid, features)


@torch.no_grad()
def measure_geometry(problem: Problem, *, runs: int) -> dict[str, Any]:
    """Measure milliseconds of each stage of both forms, interleaved, and the temporary memory of cmdiad.

    Args:
        problem: Cloud and features.
        runs: Rounds, after two to warm up.

    Returns:
        `stages` (for each stage, published and cmdiad: p50, p95), `whole` (cmdiad: TOGETHER and the product),
        `interpolation_to_patches` (the stages one by one, both forms, and the ratio of the medians), `allocated` (for
        each stage of cmdiad, largest number of bytes in addition to the result).
    """
    published, cmdiad = _published(problem), _cmdiad(problem)
    rounds = [(_times(published), _times(cmdiad)) for _ in range(WARM + runs)][WARM:]
    both = {"published": [first for first, _ in rounds], "cmdiad": [second for _, second in rounds]}
    return {
        "points": len(problem.points),
        "groups": len(problem.features),
        "group_size": problem.group_size,
        "runs": runs,
        "stages": {
            form: {stage: _summary([times[stage] for times in form_times]) for stage in form_times[0]}
            for form, form_times in both.items()
        },
        "whole": _compared(both, WHOLE),
        "interpolation_to_patches": _compared(both, FROM_INTERPOLATION),
        "allocated": {name: _transient(work) for name, work in cmdiad},
    }


def geometry_table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| stage | published, p50 / p95 ms | cmdiad, p50 / p95 ms | cmdiad, allocated in addition to the result |"]
    lines.append("|---|---|---|---|")
    stages = result["stages"]
    for stage in stages["cmdiad"]:
        allocated = f"{result['allocated'][stage] / MEBIBYTE:.2f} MiB"
        first = _cell(stages["published"].get(stage))
        lines.append(f"| {stage} | {first} | {_cell(stages['cmdiad'][stage])} | {allocated} |")
    for name in ("whole", "interpolation_to_patches"):
        row = result[name]
        times = f"{row['times_faster']:.1f} times faster"
        lines.append(f"| {name.replace('_', ' ')} | {_cell(row['published'])} | {_cell(row['cmdiad'])} | {times} |")
    return "\n".join(lines) + "\n"


def _published(problem: Problem) -> list[tuple[str, Work]]:
    points = torch.from_numpy(problem.points)
    flat = torch.from_numpy(np.flatnonzero(problem.valid))
    groups = len(problem.features)
    centers = points[farthest_points(points, groups)]
    spread = interpolated(points, centers, problem.features)
    return [
        ("sampling", lambda: farthest_points(points, groups)),
        ("groups", lambda: nearest_points(points, centers, problem.group_size)),
        ("interpolation", lambda: interpolated(points, centers, problem.features)),
        ("pooling", lambda: pooled(spread, flat, len(problem.valid), problem.grid)),
    ]


def _cmdiad(problem: Problem) -> list[tuple[str, Work]]:
    points, groups = problem.points, len(problem.features)
    centers = points[farthest_point_sampling(points, groups)]
    index, weight = interpolation_weights(points, centers)
    weights = torch.from_numpy(pooling_weights(problem.valid, index, weight, groups, problem.grid)[0])
    return [
        ("sampling", lambda: farthest_point_sampling(points, groups)),
        ("groups", lambda: group_points(points, centers, problem.group_size)),
        ("interpolation", lambda: interpolation_weights(points, centers)),
        ("pooling", lambda: pooling_weights(problem.valid, index, weight, groups, problem.grid)),
        (
            TOGETHER,
            lambda: cloud_input(points, problem.valid, groups=groups, group_size=problem.group_size, grid=problem.grid),
        ),
        ("product", lambda: weights @ problem.features),
    ]


def _times(stages: list[tuple[str, Work]]) -> dict[str, float]:
    times = {}
    for name, work in stages:
        start = time.perf_counter()
        work()
        times[name] = (time.perf_counter() - start) * 1e3
    return times


def _compared(both: dict[str, list[dict[str, float]]], stages: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    sums = {
        form: [sum(times[name] for name in stages[form]) for times in form_times] for form, form_times in both.items()
    }
    summaries: dict[str, Any] = {form: _summary(values) for form, values in sums.items()}
    return {**summaries, "times_faster": summaries["published"]["p50"] / summaries["cmdiad"]["p50"]}


def _summary(values: list[float]) -> dict[str, float]:
    middle, high = np.percentile(values, (50, 95))
    return {"p50": float(middle), "p95": float(high)}


def _cell(row: dict[str, float] | None) -> str:
    return "–" if row is None else f"{row['p50']:.1f} / {row['p95']:.1f}"


def _transient(work: Work) -> int:
    """Return the largest number of bytes that Python and NumPy (not torch) held in addition to the result."""
    tracemalloc.start()
    try:
        result = work()
        kept, peak = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return peak - kept
