"""The published inference, written plainly in torch from docs/method.md §5-§13, as a reference to measure against.

Nothing is optimised: both extractors run whichever modality is missing, distances are whole matrices, the three
neighbours come from a full sort, features are spread over every pixel before they are pooled, every repeated and empty
cell is searched, and the reweighting searches the whole bank. The published sampling and grouping are CUDA kernels;
here they are a loop and a distance matrix. Branches are never dropped at random (method §6.5), so results can be
compared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn

from cmdiad_runtime.names import Modality
from cmdiad_train.detectors.feature_mapping import FeatureToFeature
from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.extractors.point_mae import Attention, Block, TokenEncoder

FINER = 2
"""Factor by which the grid of point features is finer than that of image tokens (56 and 28)."""
NEAR_ORIGIN = 1e-3
NEIGHBOURS = 3
WEIGHT_GUARD = 1e-8
BLUR_RADIUS = 4


@dataclass(frozen=True)
class PublishedBank:
    """A bank to search.

    Attributes:
        rows: float32 `[K, C]`, normalised.
        score_weight: Weight of the bank's image score in the fusion.
        map_weight: Weight of the bank's map in the fusion.
    """

    rows: Tensor
    score_weight: float
    map_weight: float


@dataclass(frozen=True)
class Prediction:
    """Result for one image.

    Attributes:
        score: Fused image score.
        map: float32 `[size, size]`.
        stages_ms: Milliseconds by stage, see `studies.comparison.stage_times`.
    """

    score: float
    map: npt.NDArray[np.float32]
    stages_ms: dict[str, float]


class Stopwatch:
    """Sum of milliseconds by stage."""

    def __init__(self) -> None:
        self.stages_ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the duration of a `with` block to a stage."""
        start = time.perf_counter()
        yield
        self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + (time.perf_counter() - start) * 1e3


@dataclass(frozen=True)
class Published:
    """The published detector with F2F hallucination.

    Attributes:
        main: Main modality.
        rgb: ViT.
        xyz: Weights of Point-MAE.
        network: F2F network from the main modality.
        banks: Bank of the main modality and bank of hallucinated features.
        mean: Value subtracted from all features (method §10.1).
        std: Value that divides all features afterwards.
        size: Side of the working images in pixels.
    """

    main: Modality
    rgb: TimmBackbone
    xyz: PointMae
    network: FeatureToFeature
    banks: tuple[PublishedBank, PublishedBank]
    mean: float
    std: float
    size: int

    @torch.no_grad()
    def predict(self, rgb: Tensor, xyz: Tensor) -> Prediction:
        """Return score and map for a normalised image `[1, 3, size, size]` and a cloud `[3, size, size]` in metres."""
        watch = Stopwatch()
        patches = self.patches(rgb, xyz, watch)
        scores, maps = zip(
            *(self._score(p, bank, watch) for p, bank in zip(patches, self.banks, strict=True)), strict=True
        )
        with watch("scoring"):
            fused = sum(bank.map_weight * m for bank, m in zip(self.banks, maps, strict=True))
        score = sum(bank.score_weight * s for bank, s in zip(self.banks, scores, strict=True))
        return Prediction(float(score), np.asarray(fused, dtype=np.float32), watch.stages_ms)

    @torch.no_grad()
    def patches(self, rgb: Tensor, xyz: Tensor, watch: Stopwatch) -> tuple[Tensor, Tensor]:
        """Return raw features `[T, C]` of the main modality and hallucinated features, one row for each cell."""
        with watch("extract"):
            rgb_patch = self.rgb.tokens(rgb)[0]  # [784, 768]
            grid = round(len(rgb_patch) ** 0.5)
            image = rgb_patch.T.reshape(1, -1, grid, grid)
            rgb_repeated = F.adaptive_avg_pool2d(image, FINER * grid)[0].flatten(1).T  # [3136, 768]
        xyz_patch = self.xyz_patches(xyz, watch)  # [3136, 768]
        with watch("hallucination"):
            hallucinated = self.network(rgb_repeated if self.main == "rgb" else xyz_patch)
        return (rgb_patch if self.main == "rgb" else xyz_patch), hallucinated

    def xyz_patches(self, xyz: Tensor, watch: Stopwatch) -> Tensor:
        """Return features float32 `[grid², C]` of a cloud `[3, size, size]`."""
        spec = self.xyz.spec
        with watch("geometry"):
            flat = xyz.flatten(1).T  # [size², 3]
            valid = (flat != 0).all(1).nonzero()[:, 0]
            points = flat[valid]
            centers = points[farthest_points(points, spec.groups)]
            groups = points[nearest_points(points, centers, spec.group_size)] - centers[:, None]
        with watch("extract"):
            features = group_features(self.xyz, centers, groups)
        with watch("geometry"):
            return pooled(interpolated(points, centers, features), valid, self.size, spec.grid)

    def _score(self, patches: Tensor, bank: PublishedBank, watch: Stopwatch) -> tuple[float, npt.NDArray[np.float32]]:
        queries = (patches - self.mean) / self.std
        with watch("search"):
            distance, index = nearest_rows(queries, bank.rows)
        with watch("scoring"):
            score = reweighted_score(queries, bank.rows, distance, index)
        with watch("scoring"):
            return score, blurred(upsampled(distance, self.size))


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Return indices int64 `[count]` of the published sampling (§6.1); of equally far points the lowest index."""
    nearest = torch.full((len(points),), 1e10)
    nearest[points.square().sum(1) <= NEAR_ORIGIN] = -1
    picks = torch.zeros(count, dtype=torch.int64)
    for turn in range(1, count):
        squared = (points - points[picks[turn - 1]]).square().sum(1)
        nearest = torch.minimum(nearest, squared)
        picks[turn] = nearest.argmax()
    return picks


def nearest_points(points: Tensor, centers: Tensor, count: int) -> Tensor:
    """Return indices int64 `[G, count]` of the nearest points of each centre (§6.2), from all distances."""
    rows = [
        (block[:, None] - points[None]).square().sum(2).topk(count, largest=False).indices
        for block in centers.split(64)
    ]
    return torch.cat(rows)


def group_features(model: PointMae, centers: Tensor, groups: Tensor) -> Tensor:
    """Return features float32 `[G, C]` of centres `[G, 3]` and groups `[G, M, 3]` (§6.3-6.4)."""
    tokens = encoded(model.encoder, groups)
    position = model.pos_embed(centers)
    outputs = []
    for number, block in enumerate(model.blocks.blocks):
        assert isinstance(block, Block)
        tokens = transformed(block, tokens + position)
        if number in model.spec.taps:
            outputs.append(model.norm(tokens))
    return torch.cat(outputs, 1)


def encoded(encoder: TokenEncoder, groups: Tensor) -> Tensor:
    """Encode groups `[G, M, 3]` as tokens `[G, width]` with the statistics of this cloud."""
    first, first_norm, _, second = encoder.first_conv
    third, third_norm, _, last = encoder.second_conv
    local = second(F.relu(_batch_norm(first_norm, first(groups.transpose(1, 2)))))  # [G, 256, M]
    overall = local.amax(2, keepdim=True).expand_as(local)
    both = torch.cat([overall, local], 1)  # [G, 512, M]
    return last(F.relu(_batch_norm(third_norm, third(both)))).amax(2)


def transformed(block: Block, x: Tensor) -> Tensor:
    """Apply a transformer block to `[G, width]`."""
    x = x + attended(block.attn, block.norm1(x))
    return x + block.mlp(block.norm2(x))


def attended(attention: Attention, x: Tensor) -> Tensor:
    """Apply self-attention to `[G, width]` with the whole matrix of weights."""
    tokens, width = x.shape
    qkv = attention.qkv(x).reshape(tokens, 3, attention.heads, -1).permute(1, 2, 0, 3)  # [3, heads, G, d]
    scores = (qkv[0] @ qkv[1].transpose(1, 2)) * (width // attention.heads) ** -0.5
    return attention.proj((scores.softmax(2) @ qkv[2]).transpose(0, 1).reshape(tokens, width))


def interpolated(points: Tensor, centers: Tensor, features: Tensor) -> Tensor:
    """Interpolate features float32 `[N, C]` of all points from those of the centres `[G, C]` (§7.1)."""
    squared = -2 * points @ centers.T + points.square().sum(1)[:, None] + centers.square().sum(1)[None]
    nearest, index = squared.sort(1)
    weight = 1 / (nearest[:, :NEIGHBOURS] + WEIGHT_GUARD)
    weight = weight / weight.sum(1, keepdim=True)
    return (features[index[:, :NEIGHBOURS]] * weight[:, :, None]).sum(1)


def pooled(features: Tensor, valid: Tensor, size: int, grid: int) -> Tensor:
    """Pool features `[N, C]` of the valid pixels, whose flat indices are `valid`, to `[grid², C]` (§7.2)."""
    image = torch.zeros(features.shape[1], size * size)
    image[:, valid] = features.T
    boxed = F.avg_pool2d(image.reshape(1, -1, size, size), 3, stride=1)
    return F.adaptive_avg_pool2d(boxed, grid)[0].flatten(1).T


def nearest_rows(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Return distance `[T]` and index `[T]` of the nearest row (§12.1), from the whole matrix of distances."""
    distance, index = torch.cdist(queries, bank).min(1)
    return distance, index


def reweighted_score(queries: Tensor, bank: Tensor, distance: Tensor, index: Tensor) -> float:
    """Return the image score (§12.2), with the neighbours searched in the whole bank."""
    worst = distance.argmax()
    neighbours = torch.cdist(bank[index[worst]][None], bank)[0].topk(NEIGHBOURS, largest=False).indices[1:]
    root = queries.shape[1] ** 0.5
    around = torch.linalg.norm(queries[worst] - bank[neighbours], dim=1)
    weight = 1 - torch.exp(distance[worst] / root) / torch.exp(around / root).sum()
    return float(weight * distance[worst])


def upsampled(distance: Tensor, size: int) -> Tensor:
    """Upsample distances `[grid²]` bilinearly to a map `[size, size]` (§12.3)."""
    grid = round(len(distance) ** 0.5)
    image = distance.reshape(1, 1, grid, grid)
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)[0, 0]


def blurred(image: Tensor) -> npt.NDArray[np.float32]:
    """Apply the published 8-bit blur (§12.4) to a map `[h, w]` with a positive maximum."""
    highest = float(image.max())
    levels = (255 * (image / highest)).to(torch.uint8).numpy()
    blurred_levels = np.asarray(Image.fromarray(levels).filter(ImageFilter.GaussianBlur(BLUR_RADIUS)))
    return blurred_levels.astype(np.float32) / np.float32(255) * np.float32(highest)


def _batch_norm(norm: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(norm, nn.BatchNorm1d)
    return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
