"""Measure how long the selection of a memory bank takes at the size of a full class, and how well the bank covers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.detectors.bank.fitting.coreset import covering_radius, distance_to_nearest, greedy_coreset, project

FULL_CLASS_ROWS = 223 * 3136
FEATURE_WIDTH = 768
CLUSTERS = 400
SPECTRUM_DECAY = 0.75
ROWS_AT_ONCE = 8192
GEMM_SHAPE = (4096, 336, 1024)
GEMM_SECONDS = 2.0
RADIUS_SAMPLE = 20_000


@dataclass(frozen=True)
class CoresetOptions:
    """Settings of a measured selection.

    Attributes:
        rows: Number of patch features; a full class by default.
        share: Share of the rows that the bank keeps.
        half: Select with the published float16 distances.
        plain: Also run the plain greedy selection and compare.
        device: "cpu" or "cuda".
        seed: Seed of the features and of the projection.
    """

    rows: int = FULL_CLASS_ROWS
    share: float = 0.1
    half: bool = False
    plain: bool = False
    device: str = "cpu"
    seed: int = 0


def measure_coreset(options: CoresetOptions, reporter: Reporter) -> dict[str, Any]:
    """Measure the seconds to project and select synthetic patch features, and bound the covering radius.

    Computing the covering radius of a full class takes as long as the selection, so the radius is bounded: from above
    by the distance of the last pick (within its rounding), from below by the radius over a sample of rows. `plain`
    measures it.

    Args:
        options: Size, form and device of the selection.
        reporter: Receiver of the progress.
    """
    rows, half, device, seed = options.rows, options.half, options.device, options.seed
    features = synthetic_features(rows, seed=seed)
    projected, projecting = _timed(partial(project, features, eps=0.9, seed=seed))
    del features
    projected, count = projected.to(device), int(options.share * rows)
    rounds: list[int] = [1]

    def count_round(done: int, total: int) -> None:
        rounds.append(done)
        reporter.step("select", done, total)

    gemm = [gemm_rate(device)]
    selected, selecting = _timed(lambda: greedy_coreset(projected, count, half=half, progress=count_round))
    gemm.append(gemm_rate(device))
    sample = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:RADIUS_SAMPLE].to(device)
    products = rows * count * projected.shape[1]
    result = {
        "rows": rows,
        "width": projected.shape[1],
        "count": count,
        "half": half,
        "device": device,
        "threads": torch.get_num_threads(),
        "project_seconds": projecting,
        "select_seconds": selecting,
        "rounds": len(rounds) - 1,
        "picks_per_round": {"mean": float(np.diff(rounds).mean()), "most": int(np.diff(rounds).max())},
        "plain_multiply_adds": float(products),
        "plain_multiply_adds_per_second": products / selecting["wall"],
        "gemm_multiply_adds_per_second": gemm,
        "distance_of_last_pick": _distance_of_last(projected, selected),
        "covering_radius_at_least": float(distance_to_nearest(projected[sample], projected[selected]).max()),
    }
    return result | (_compare_plain(projected, selected, half) if options.plain else {})


def synthetic_features(rows: int, *, width: int = FEATURE_WIDTH, seed: int = 0) -> Tensor:
    """Return features float32 `[rows, width]` in clusters whose deviations decay as i^-0.75, like a ViT's."""
    generator = torch.Generator().manual_seed(seed)
    deviation = torch.arange(1, width + 1) ** -SPECTRUM_DECAY
    centres = 1.5 * deviation * torch.randn(CLUSTERS, width, generator=generator)
    features = torch.empty(rows, width)
    for block in features.split(ROWS_AT_ONCE):
        cluster = torch.randint(CLUSTERS, (len(block),), generator=generator)
        spread = 0.5 + torch.rand(len(block), 1, generator=generator)
        noise = torch.randn(len(block), width, generator=generator)
        block.copy_(centres[cluster] + spread * deviation * noise)
    return features


@torch.no_grad()
def plain_greedy(rows: Tensor, count: int, *, half: bool = False) -> npt.NDArray[np.int64]:
    """Select rows without any saving: measure the distance of each pick to every row (method §11.2)."""
    selected = np.zeros(count, dtype=np.int64)
    step = _published_step(rows) if half else _single_step(rows)
    last = 0
    for i in range(1, count):
        last = step(last)
        selected[i] = last
    return selected


def gemm_rate(device: str) -> float:
    """Return the multiply-adds per second of a float32 matrix product under the current load of the machine."""
    rows, width, columns = GEMM_SHAPE
    left, right = torch.randn(rows, width, device=device), torch.randn(width, columns, device=device)
    done, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < GEMM_SECONDS:
        float((left @ right)[0, 0])  # waits for a GPU
        done += 1
    return done * rows * width * columns / seconds


def _published_step(rows: Tensor) -> Callable[[int], int]:
    distance = torch.linalg.norm(rows - rows[:1], dim=1).half()
    rows = rows.half()

    def step(last: int) -> int:
        torch.minimum(torch.linalg.norm(rows - rows[last : last + 1], dim=1), distance, out=distance)
        chosen = int(distance.argmax())
        distance[chosen] = 0
        return chosen

    return step


def _single_step(rows: Tensor) -> Callable[[int], int]:
    rows = rows - rows.mean(0)
    squares = rows.square().sum(1)
    nearest = torch.full_like(squares, torch.inf)

    def step(last: int) -> int:
        squared = torch.addmv(squares, rows, rows[last], alpha=-2).add_(squares[last])
        torch.minimum(squared.clamp_(min=0), nearest, out=nearest)
        nearest[last] = 0
        return int(nearest.argmax())

    return step


def _distance_of_last(rows: Tensor, selected: npt.NDArray[np.int64]) -> float:
    """Return the distance of the last pick to the other picks. No row was farther then, so none is now."""
    chosen = rows[torch.from_numpy(selected).to(rows.device)].double()
    return float((chosen[:-1] - chosen[-1]).norm(dim=1).min())


def _compare_plain(rows: Tensor, selected: npt.NDArray[np.int64], half: bool) -> dict[str, Any]:
    plain, selecting = _timed(lambda: plain_greedy(rows, len(selected), half=half))
    return {
        "plain_seconds": selecting,
        "covering_radius": covering_radius(rows, selected),
        "plain_covering_radius": covering_radius(rows, plain),
        "same_picks": float((plain == selected).mean()),
        "same_rows": len(np.intersect1d(plain, selected)) / len(selected),
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return the result of `work` and the seconds of wall clock and processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    seconds = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    return result, {clock: round(value, 4) for clock, value in seconds.items()}
