"""Contrast of places for image extractors: each place of a window is told from all others in another window over it.

Two windows over the same image differ in turn, zoom, shift and light. The features of a place in one, through a small
head, shall be nearer to those of the same place in the other than to those of every other place of the batch: InfoNCE
(van den Oord et al. 2018), on dense features as in Pinheiro et al. 2020 ("VADeR"). Nothing says what a place shows,
so images drawn from nothing do. docs/extractors.md compares it with masked image modelling and others.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.extractors.weights_file import Origin, save_weights, weights_digest
from cmdiad_train.pretraining.augmentation import relit, window_changes
from cmdiad_train.pretraining.image_extractors import settle_statistics, trainable, use_of
from cmdiad_train.pretraining.loop import Job, train
from cmdiad_train.pretraining.samples import Report, View, recipe_for
from cmdiad_train.recipe import RgbExtractor

WINDOW = 96
"""Side of a window in pixels of the image, for CNNs; a ViT sees the whole image, whose size its embedding has."""
PLACES = 32
"""Places of each image that take part in a step."""
HEAD_WIDTH, EMBEDDING = 256, 128
TEMPERATURE = 0.1


class PlaceContrast(nn.Module):
    """Extractor and head.

    Args:
        extractor: trainable, for images of `window` pixels.
        window: side of the windows in pixels.
        seed: of the head's weights.
    """

    def __init__(self, extractor: TimmBackbone, window: int, *, seed: int = 0) -> None:
        super().__init__()
        self.extractor, self.window, self.grid = extractor, window, extractor.grid
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            self.head = nn.Sequential(
                nn.Conv2d(extractor.width, HEAD_WIDTH, 1),
                nn.BatchNorm2d(HEAD_WIDTH),
                nn.ReLU(),
                nn.Conv2d(HEAD_WIDTH, EMBEDDING, 1),
            )

    def loss(self, images: Tensor, view: View, generator: torch.Generator) -> Tensor:
        """InfoNCE `[]` of the places that both windows of an image show.

        Args:
            images: `[B, size, size, 3]`, 0-255, not smaller than the window.
            view: what they show, which decides how they may be changed.
            generator: of windows, changes and places.
        """
        batch, size = images.shape[:2]
        planes = images.float().permute(0, 3, 1, 2)
        first = window_at_random(batch, size, self.window, generator)
        change = window_changes(batch, view, generator)
        seen = [self._cut(planes, first), self._cut(planes, compose(first, change))]
        features = self._embedded(torch.cat([relit(each, view, generator) for each in seen]))
        places = F.affine_grid(change, [batch, 1, self.grid, self.grid], align_corners=False).to(planes.device)
        found = F.grid_sample(features[:batch], places, align_corners=False)
        both = shown_by_both(places, seen[1], self.grid)
        return info_nce(*_chosen(found, features[batch:], both, generator))

    def _cut(self, planes: Tensor, window: Tensor) -> Tensor:
        """Windows `[B, window, window, 3]` of planes `[B, 3, size, size]`; black beyond the image."""
        grid = F.affine_grid(window, [len(planes), 3, self.window, self.window], align_corners=False)
        return F.grid_sample(planes, grid.to(planes.device), align_corners=False).permute(0, 2, 3, 1)

    def _embedded(self, windows: Tensor) -> Tensor:
        """Embeddings `[B, EMBEDDING, grid, grid]`."""
        tokens = self.extractor.tokens(self.extractor.normalise(windows))
        embedded: Tensor = self.head(tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid)).float())
        return embedded


def window_at_random(batch: int, size: int, window: int, generator: torch.Generator) -> Tensor:
    """Affine maps `[B, 2, 3]` from windows to images, both from -1 to 1, at whole pixels."""
    corner = torch.randint(0, size - window + 1, (batch, 2), generator=generator)
    matrix = torch.zeros(batch, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = window / size
    matrix[:, :, 2] = (2 * corner + window) / size - 1
    return matrix


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The affine map `[B, 2, 3]` that applies `inner` and then `outer`."""
    linear = outer[:, :, :2] @ inner[:, :, :2]
    shift = outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]
    return torch.cat([linear, shift], 2)


def shown_by_both(places: Tensor, second: Tensor, grid: int) -> Tensor:
    """Bool `[B, grid, grid]`: cells of the second window that lie in the first one, and not all black.

    Args:
        places: of these cells in the first window `[B, grid, grid, 2]`, from -1 to 1.
        second: the second windows `[B, window, window, 3]`.
        grid: cells along a side.
    """
    part = F.adaptive_max_pool2d(second.amax(3)[:, None], grid)[:, 0] > 0
    return part & (places.abs().amax(3) < 1 - 1 / grid)


def info_nce(first: Tensor, second: Tensor) -> Tensor:
    """Mean cross-entropy `[]` of telling each row's partner among all rows `[N, C]`, both ways."""
    if len(first) < 2:
        return 0 * (first.sum() + second.sum())
    likeness = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / TEMPERATURE
    partner = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(likeness, partner) + F.cross_entropy(likeness.T, partner)) / 2


def _chosen(first: Tensor, second: Tensor, both: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows `[N, C]` of features `[B, C, grid, grid]` at PLACES random cells of each image that both windows show."""
    rank = torch.rand(both.flatten(1).shape, generator=generator).to(both.device) + both.flatten(1).float()
    best = rank.topk(min(PLACES, rank.shape[1]), dim=1)
    usable = (best.values > 1).flatten()

    def rows(features: Tensor) -> Tensor:
        cells = features.flatten(2).transpose(1, 2)  # [B, grid², C]
        index = best.indices[..., None].expand(-1, -1, cells.shape[2])
        return cells.gather(1, index).flatten(0, 1)[usable]

    return rows(first), rows(second)


def pretrain_images(job: Job, spec: RgbExtractor, view: View, size: int, report: Report) -> bool:
    """Pretrain an image extractor and write its weights, those alone that its stages use.

    Args:
        job: samples, output, schedule.
        spec: the extractor; its weights are where training starts.
        view: "rgb", "normals" or "depth".
        size: side of the images in pixels that the extractor is made for.
        report: told of the progress.

    Returns:
        False where the same result was there already.

    Raises:
        RunError: data or extractor cannot be used. InputError: a sample cannot be read.
        OutputError: `job.out` holds something else.
    """
    seed, device = job.schedule.seed, job.machine.torch_device()
    inputs = job.inputs(view, recipe_for(size, spec))
    start = replace(spec, weights=weights_digest(spec.weights))
    identity = job.identity(inputs, {"contrast": asdict(start)})
    if job.is_done(identity):
        return False
    window = min(WINDOW, size) if spec.stages else size
    model = PlaceContrast(trainable(replace(spec, grid=None), window, seed), window, seed=seed)
    inputs.prepare_all(report)

    def loss(chosen: list[int], generator: torch.Generator) -> Tensor:
        images = torch.stack([inputs[i]["image"] for i in chosen])
        return model.loss(images.to(device), view, generator)

    log = train(
        model,
        loss,
        list(range(len(inputs))),
        job.schedule,
        checkpoint=job.work / "checkpoint.safetensors",
        identity=identity,
        device=device,
        progress=lambda done, total, value: report(f"pretrain {view} (loss {value:.4g})", done, total),
    )
    extractor = model.extractor
    settle_statistics(extractor, inputs, list(range(len(inputs))))
    use = use_of(extractor, replace(spec, weights="seeded"), size) | {"training": identity}
    origin = Origin(f"contrast of places on {view} of {job.source.words}", job.licence, job.command, seed=seed)
    job.write_log(log)
    # In fp16: half the size, and the last bits of a weight are nothing beside what another seed changes.
    tensors = {key: t.half() if t.is_floating_point() else t for key, t in extractor.model.state_dict().items()}
    save_weights(job.out, tensors, use, origin)
    job.clean()
    return True
