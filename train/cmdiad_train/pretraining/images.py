"""Dense contrastive pretraining of image extractors.

Two windows over the same image differ in turn, zoom, shift and light. A contrastive loss (InfoNCE, van den Oord et
al. 2018) pulls the patch feature at a location in one window towards the feature at the same location in the other
window, and away from all other patches of the batch. Dense features are contrasted as in Pinheiro et al. 2020
("VADeR"). The loss needs no labels and no objects, so procedurally generated images can be used.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.extractors.weights_file import image_metadata, weights_digest
from cmdiad_train.pretraining.augmentation import relit, window_changes
from cmdiad_train.pretraining.batch_norm import settle_statistics
from cmdiad_train.pretraining.job import ExtractorTask, Job
from cmdiad_train.pretraining.samples import ImageKind, InputShape
from cmdiad_train.recipe import RgbExtractor

DEFAULT_STAGES = (0, 1)
"""CNN stages that are trained if the user names none."""
WINDOW = 96
"""Side of a window in pixels of the image, for CNNs. A ViT takes the whole image, which its embedding is made for."""
PLACES = 32
"""Locations of each image that take part in a step."""
HEAD_WIDTH, EMBEDDING = 256, 128
TEMPERATURE = 0.1


def with_default_grid(spec: RgbExtractor) -> RgbExtractor:
    """Return the extractor with the grid of the default recipe, if it is a CNN without a grid."""
    return replace(spec, grid=RgbExtractor.grid) if spec.stages and spec.grid is None else spec


class DenseContrast(nn.Module):
    """An extractor and the projection head of its contrastive loss.

    Args:
        extractor: Trainable extractor for images of `window` pixels.
        window: Side of the windows in pixels.
        seed: Seed of the head's weights.
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

    def loss(self, images: Tensor, kind: ImageKind, generator: torch.Generator) -> Tensor:
        """Compute the InfoNCE loss `[]` of the locations that both windows of an image show.

        Args:
            images: Images `[B, size, size, 3]`, 0-255, not smaller than the window.
            kind: Kind of the images, which decides how they may be changed.
            generator: CPU generator of windows, changes and locations.
        """
        batch, size = images.shape[:2]
        planes = images.float().permute(0, 3, 1, 2)  # [B, 3, size, size]
        first = window_at_random(batch, size, self.window, generator)
        change = window_changes(batch, kind, generator)
        windows = [self._cut(planes, first), self._cut(planes, compose(first, change))]
        features = self._embedded(torch.cat([relit(window, kind, generator) for window in windows]))
        places = F.affine_grid(change, [batch, 1, self.grid, self.grid], align_corners=False).to(planes.device)
        sampled = F.grid_sample(features[:batch], places, align_corners=False)
        both = shown_by_both(places, windows[1], self.grid)
        return info_nce(*_chosen(sampled, features[batch:], both, generator))

    def _cut(self, planes: Tensor, window: Tensor) -> Tensor:
        """Return windows `[B, window, window, 3]` of planes `[B, 3, size, size]`; black beyond the image."""
        grid = F.affine_grid(window, [len(planes), 3, self.window, self.window], align_corners=False)
        return F.grid_sample(planes, grid.to(planes.device), align_corners=False).permute(0, 2, 3, 1)

    def _embedded(self, windows: Tensor) -> Tensor:
        """Return embeddings `[B, EMBEDDING, grid, grid]`."""
        tokens = self.extractor.tokens(self.extractor.normalise(windows))
        embedded: Tensor = self.head(tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid)).float())
        return embedded


def window_at_random(batch: int, size: int, window: int, generator: torch.Generator) -> Tensor:
    """Draw affine maps `[B, 2, 3]` from windows to images, both with coordinates from -1 to 1, at whole pixels."""
    corner = torch.randint(0, size - window + 1, (batch, 2), generator=generator)
    matrix = torch.zeros(batch, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = window / size
    matrix[:, :, 2] = (2 * corner + window) / size - 1
    return matrix


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Return the affine map `[B, 2, 3]` that applies `inner` and then `outer`."""
    linear = outer[:, :, :2] @ inner[:, :, :2]
    shift = outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]
    return torch.cat([linear, shift], 2)


def shown_by_both(places: Tensor, second: Tensor, grid: int) -> Tensor:
    """Return bool `[B, grid, grid]`: cells of the second window that lie in the first one and are not all black.

    Args:
        places: Position of these cells in the first window `[B, grid, grid, 2]`, from -1 to 1.
        second: Second windows `[B, window, window, 3]`.
        grid: Cells along a side.
    """
    part = F.adaptive_max_pool2d(second.amax(3)[:, None], grid)[:, 0] > 0
    return part & (places.abs().amax(3) < 1 - 1 / grid)


def info_nce(first: Tensor, second: Tensor) -> Tensor:
    """Compute the mean cross-entropy `[]` of finding the partner of each row among all rows, in both directions.

    Args:
        first: Rows `[N, C]`.
        second: Partners of these rows `[N, C]`.
    """
    if len(first) < 2:
        return 0 * (first.sum() + second.sum())
    likeness = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / TEMPERATURE
    partner = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(likeness, partner) + F.cross_entropy(likeness.T, partner)) / 2


def _chosen(first: Tensor, second: Tensor, both: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the features at PLACES random cells of each image that both windows show.

    Args:
        first: Features `[B, C, grid, grid]`.
        second: Features `[B, C, grid, grid]`.
        both: Cells that both windows show, bool `[B, grid, grid]`.
        generator: CPU generator of the choice.

    Returns:
        Two arrays of rows `[N, C]`.
    """
    rank = torch.rand(both.flatten(1).shape, generator=generator).to(both.device) + both.flatten(1).float()
    best = rank.topk(min(PLACES, rank.shape[1]), dim=1)
    usable = (best.values > 1).flatten()

    def rows(features: Tensor) -> Tensor:
        cells = features.flatten(2).transpose(1, 2)  # [B, grid², C]
        index = best.indices[..., None].expand(-1, -1, cells.shape[2])
        return cells.gather(1, index).flatten(0, 1)[usable]

    return rows(first), rows(second)


def pretrain_images(job: Job, spec: RgbExtractor, kind: ImageKind, size: int, reporter: Reporter) -> bool:
    """Pretrain an image extractor and write the weights that its stages use.

    Args:
        job: Samples, output and schedule.
        spec: Extractor; training starts from its weights.
        kind: Kind of the images.
        size: Side in pixels of the images that the extractor is made for.
        reporter: Receiver of the progress.

    Returns:
        False if the output is already the result of this training.

    Raises:
        RunError: Data or extractor cannot be used.
        OutputError: `job.out` is another file.
    """
    seed, device = job.schedule.seed, job.machine.torch_device()
    inputs = job.inputs(InputShape(kind, size))
    identity = job.identity(inputs, {"contrast": asdict(replace(spec, weights=weights_digest(spec.weights)))})
    if job.is_done(identity):
        return False
    window = min(WINDOW, size) if spec.stages else size
    extractor = TimmBackbone(replace(spec, grid=None), size=window, seed=seed).requires_grad_(True)
    inputs.prepare_all(reporter)
    model, samples = DenseContrast(extractor, window, seed=seed), list(range(len(inputs)))

    def mean_loss(chosen: list[int], generator: torch.Generator) -> Tensor:
        images = torch.stack([inputs[i]["image"] for i in chosen])
        return model.loss(images.to(device), kind, generator)

    job.train(ExtractorTask(model, mean_loss, job), samples, f"pretrain {kind}", identity, reporter)
    settle_statistics(extractor, inputs, samples)
    use = image_metadata(spec, size, *extractor.channel_statistics)
    # fp16 halves the file. The lost bits change features far less than another seed does.
    tensors = {key: t.half() if t.is_floating_point() else t for key, t in extractor.model.state_dict().items()}
    job.save(tensors, use, f"contrast of places on {kind} of {job.source.description}", identity)
    return True
