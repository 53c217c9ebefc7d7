"""Measure the exact savings one by one: the same result computed plainly and as cmdiad does, and the gain."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import SGDOneClassSVM
from torch import Tensor

from cmdiad_runtime.preprocess.cloud.interpolation import interpolation_weights, pooling_weights
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.detectors.bank.features.patches import repeated_cells
from cmdiad_train.detectors.bank.fusion import ocsvm_weights
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.bank.published_blur import PilGaussianBlur
from cmdiad_train.detectors.bank.search.exact import BankSearch
from cmdiad_train.detectors.cell_maps import BLUR_SIGMA, upsampling
from cmdiad_train.detectors.feature_mapping import FeatureToFeature
from cmdiad_train.extractors.point_mae import TokenEncoder
from studies.comparison.parts import draw_rows
from studies.published import blurred, encoded, interpolated, nearest_rows, pooled, reweighted_score, upsampled

NU = 0.5
CLUSTERS = 24


@dataclass(frozen=True)
class Sizes:
    """Size of the problem.

    Attributes:
        width: Channels of the features.
        size: Side of the working image in pixels.
        coarse: Side of the grid of image tokens; the grid of point features is twice as fine.
        groups: Number of point groups.
        group_size: Points in each group.
        encoder: Width of the point transformer.
        bank: Rows of the bank.
    """

    width: int = 768
    size: int = 224
    coarse: int = 28
    groups: int = 1024
    group_size: int = 128
    encoder: int = 384
    bank: int = 19_129

    @property
    def fine(self) -> int:
        """Side of the grid of point features."""
        return 2 * self.coarse


@dataclass(frozen=True)
class Saving:
    """One saving.

    Attributes:
        name: Name of the saving.
        plain: Function that computes the result as published.
        saved: Function that computes the result as cmdiad does.
        tolerance: Largest accepted difference, as a share of the largest magnitude of the plain result.
        why: Reason for the tolerance.
    """

    name: str
    plain: Callable[[], Tensor]
    saved: Callable[[], Tensor]
    tolerance: float
    why: str

    def difference(self) -> float:
        """Return the largest difference of the results, as a share of the plain result's largest magnitude."""
        plain, saved = self.plain().double(), self.saved().double()
        assert plain.shape == saved.shape
        return float((plain - saved).abs().max() / plain.abs().max())


SEED = 0
"""Seed of all inputs."""


def measure_savings(sizes: Sizes, *, runs: int, reporter: Reporter) -> list[dict[str, Any]]:
    """Measure milliseconds of each saving and of the plain computation, interleaved, and the difference of the results.

    Args:
        sizes: Size of the problem.
        runs: Repetitions of each, after one to warm up.
        reporter: Receiver of the name of each saving as it is measured.
    """
    rows = []
    for make in SAVINGS:
        saving = make(sizes, SEED)
        reporter.say(saving.name)
        difference = saving.difference()
        times = np.array([[_milliseconds(saving.plain), _milliseconds(saving.saved)] for _ in range(runs)])
        plain, saved = np.median(times, axis=0)
        rows.append(
            {
                "saving": saving.name,
                "plain_ms": round(float(plain), 3),
                "saved_ms": round(float(saved), 3),
                "times_faster": round(float(plain / saved), 2),
                "difference": difference,
                "tolerance": saving.tolerance,
                "tolerance_from": saving.why,
            }
        )
    return rows


def savings_table(rows: list[dict[str, Any]]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| saving | plainly, ms | saved, ms | times faster | difference | allowed |", "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['saving']} | {row['plain_ms']:.3g} | {row['saved_ms']:.3g} | {row['times_faster']:.1f} | "
            f"{row['difference']:.1e} | {row['tolerance']:.0e}, {row['tolerance_from']} |"
        )
    return "\n".join(lines) + "\n"


def repeated_tokens(sizes: Sizes, seed: int) -> Saving:
    """Compare F2F and search of all cells of the finer grid with F2F and search of each distinct token."""
    rows, bank = _features(sizes, sizes.coarse**2, seed), _bank(sizes, seed)
    network, search = _network(sizes, seed), BankSearch(bank)
    repeat = repeated_cells(sizes.coarse, sizes.fine)
    image = rows.T.reshape(1, -1, sizes.coarse, sizes.coarse)

    def plain() -> Tensor:
        every = F.adaptive_avg_pool2d(image, sizes.fine)[0].flatten(1).T
        return search(network(every))[0]

    return Saving(
        "image tokens are 2×2 copies: F2F and search of the distinct ones",
        plain,
        lambda: search(network(rows))[0][repeat],
        1e-5,
        "another order of sums",
    )


def pooling_product(sizes: Sizes, seed: int) -> Saving:
    """Compare interpolation, scatter into an image and two poolings with one matrix from geometry alone."""
    points, valid, centers = _part(sizes, seed)
    features = _features(sizes, sizes.groups, seed)
    flat = torch.from_numpy(np.flatnonzero(valid))
    queries, at = torch.from_numpy(points), torch.from_numpy(centers)

    def plain() -> Tensor:
        return pooled(interpolated(queries, at, features), flat, sizes.size, sizes.fine)

    def saved() -> Tensor:
        index, weight = interpolation_weights(points, centers)
        weights, cells = pooling_weights(valid, index, weight, sizes.groups, sizes.fine)
        return (torch.from_numpy(weights) @ features)[torch.from_numpy(cells)]  # as the graph does

    return Saving(
        "interpolation, zero fill and pooling as one matrix",
        plain,
        saved,
        1e-3,
        "the published distances are expanded in fp32; half a metre away they would lose more (method §18.6)",
    )


def background_once(sizes: Sizes, seed: int) -> Saving:
    """Compare F2F and search of every cell of a cloud, most of which are empty, with one search of the empty row."""
    rows, bank = _features(sizes, sizes.fine**2, seed), _bank(sizes, seed)
    network, search = _network(sizes, seed), BankSearch(bank)
    filled = torch.rand(len(rows), generator=_generator(seed)) > 0.58  # method §18.3
    rows[~filled] = 0
    distinct = torch.cat([torch.zeros(1, sizes.width), rows[filled]])
    cells = torch.where(filled, filled.cumsum(0), 0)
    return Saving(
        "background cells share one row",
        lambda: search(network(rows))[0],
        lambda: search(network(distinct))[0][cells],
        1e-5,
        "another order of sums",
    )


def neighbour_table(sizes: Sizes, seed: int) -> Saving:
    """Compare reweighting that searches the neighbours of the nearest row in the bank with a table made at export."""
    bank, queries = _bank(sizes, seed), _features(sizes, sizes.coarse**2, seed)
    scorer = BankScorer(MemoryBank.from_rows(bank, 0.0, 1.0), grid=sizes.coarse, size=sizes.size, published_blur=True)
    distance, index = scorer.search(queries)
    cells = torch.arange(len(queries))
    return Saving(
        "the reweighting's neighbours from a table of the bank",
        lambda: torch.tensor([reweighted_score(queries, bank, distance, index)]),
        lambda: scorer.score(queries, distance, index, cells)[None],
        1e-5,
        "another order of sums",
    )


def linear_svm(sizes: Sizes, seed: int) -> Saving:
    """Compare the one-class SVM's score of every pixel with two weights."""
    fitted = np.abs(np.random.default_rng(seed).normal(5, 1, (200, 2)))
    svm = SGDOneClassSVM(random_state=42, nu=NU, max_iter=1000).fit(fitted)
    weights = torch.from_numpy(ocsvm_weights(fitted)).float()
    maps = torch.rand(2, sizes.size, sizes.size, generator=_generator(seed))

    def plain() -> Tensor:
        columns = maps.flatten(1).T.double().numpy()
        return torch.from_numpy(svm.score_samples(columns)).reshape(sizes.size, sizes.size)

    return Saving(
        "the one-class SVM is two weights",
        plain,
        lambda: (weights[:, None, None] * maps).sum(0),
        1e-6,
        "fp32 for float64",
    )


def published_blur(sizes: Sizes, seed: int) -> Saving:
    """Compare Pillow's 8-bit blur with integer sums that a graph can express."""
    image = torch.rand(sizes.size, sizes.size, generator=_generator(seed))
    blur = PilGaussianBlur()
    return Saving(
        "the published blur as integer sums within the graph",
        lambda: torch.from_numpy(blurred(image)),
        lambda: blur(image),
        0.0,
        "bit by bit",
    )


def folded_blur(sizes: Sizes, seed: int) -> Saving:
    """Compare upsampling followed by a Gaussian filter with one constant matrix from each side."""
    distance = torch.rand(sizes.fine**2, generator=_generator(seed))
    axis = upsampling(sizes.fine, sizes.size, blur=True)

    def plain() -> Tensor:
        up = upsampled(distance, sizes.size).numpy()
        return torch.from_numpy(gaussian_filter(up, BLUR_SIGMA, mode="nearest", truncate=4.0))

    return Saving(
        "upsampling and blur as one constant matrix",
        plain,
        lambda: axis @ distance.reshape(sizes.fine, sizes.fine) @ axis.T,
        1e-5,
        "another order of sums",
    )


def split_convolution(sizes: Sizes, seed: int) -> Saving:
    """Compare the point encoder that repeats each group's maximum for every point with one product per group."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = TokenEncoder(sizes.encoder, sizes.encoder).eval().requires_grad_(False)
    groups = 0.004 * torch.randn(sizes.groups, sizes.group_size, 3, generator=_generator(seed))
    return Saving(
        "the global half of the point encoder's second convolution once per group",
        lambda: encoded(encoder, groups),
        lambda: encoder(groups[None], True)[0],
        1e-4,
        "another order of sums through two normalisations",
    )


def measured_candidates(sizes: Sizes, seed: int) -> Saving:
    """Compare the whole matrix of distances and its minima with candidates by a product, measured by differences."""
    bank, queries = _bank(sizes, seed), _features(sizes, sizes.coarse**2, seed)
    search = BankSearch(bank)
    return Saving(
        "candidates by a product, distances of the few by differences",
        lambda: nearest_rows(queries, bank)[0],
        lambda: search(queries)[0],
        1e-3,
        "the published expansion of the square loses digits",
    )


SAVINGS: tuple[Callable[[Sizes, int], Saving], ...] = (
    repeated_tokens,
    pooling_product,
    background_once,
    neighbour_table,
    linear_svm,
    published_blur,
    folded_blur,
    split_convolution,
    measured_candidates,
)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _features(sizes: Sizes, count: int, seed: int) -> Tensor:
    """Return features float32 `[count, width]` around a few centres."""
    generator = _generator(seed + 1)
    centers = torch.randn(CLUSTERS, sizes.width, generator=_generator(seed))
    chosen = torch.randint(CLUSTERS, (count,), generator=generator)
    return centers[chosen] + 0.5 * torch.randn(count, sizes.width, generator=generator)


def _bank(sizes: Sizes, seed: int) -> Tensor:
    return draw_rows(_features(sizes, 10 * CLUSTERS, seed + 2), sizes.bank, seed=seed)


def _network(sizes: Sizes, seed: int) -> FeatureToFeature:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FeatureToFeature(sizes.width, sizes.width, output="gelu").eval().requires_grad_(False)


def _part(sizes: Sizes, seed: int) -> tuple[Any, Any, Any]:
    """Return points float32 `[N, 3]` of a bumpy disc, its mask bool `[size, size]`, and random centres."""
    y, x = np.mgrid[: sizes.size, : sizes.size] / sizes.size - 0.5
    valid = x**2 + y**2 < 0.12
    height = 0.004 * np.sin(20 * x) * np.cos(15 * y)
    generator = np.random.default_rng(seed)
    jitter = generator.normal(0, 0.1 / sizes.size / 4, (sizes.size, sizes.size, 3))  # no two centres equally far
    points = (np.stack([0.1 * x, 0.1 * y, height], -1) + jitter)[valid].astype(np.float32)
    chosen = generator.choice(len(points), sizes.groups, replace=False)
    return points, valid, points[chosen]


@torch.no_grad()
def _milliseconds(work: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3
