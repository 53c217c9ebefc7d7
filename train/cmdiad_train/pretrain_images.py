"""Masked image modelling for image extractors (SimMIM, Xie et al. 2022): hidden squares are told from what is seen.

The extractor that is trained is the very one of inference, so it works for ViTs and CNNs alike: hidden squares are
grey, and a light decoder on the grid of patch features paints what was there. docs/extractors.md compares it with
others.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractor_samples import Report, View, recipe_for
from cmdiad_train.extractor_training import Job, train
from cmdiad_train.extractor_weights import Origin, save_weights, weights_digest
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.image_augmentation import moved, relit
from cmdiad_train.image_extractors import settle_statistics, trainable, use_of
from cmdiad_train.recipe import RgbExtractor

HIDDEN = 0.5
"""Share of an image that is hidden."""
HIDDEN_PIXELS = 16
"""Least side of a hidden square."""
DECODER_WIDTH = 128
LEAST_VARIANCE = 1e-2  # of a cell's pixels, in units of the normalised image: even cells are not blown up


class MaskedImages(nn.Module):
    """Extractor and light decoder.

    Args:
        extractor: trainable.
        size: side of the images in pixels, a multiple of the extractor's grid.
        seed: of the decoder's weights.

    Raises:
        RunError: the size is no multiple of the grid.
    """

    def __init__(self, extractor: TimmBackbone, size: int, *, seed: int = 0) -> None:
        super().__init__()
        self.extractor, self.grid, self.cell = extractor, extractor.grid, size // extractor.grid
        if self.cell * self.grid != size:
            raise RunError(
                "--grid",
                found=f"{self.grid} cells along {size} pixels",
                expected="a whole number of pixels per cell",
                action="choose another --grid or --size",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            self.decoder = nn.Sequential(
                nn.Conv2d(extractor.width, DECODER_WIDTH, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(DECODER_WIDTH, DECODER_WIDTH, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(DECODER_WIDTH, 3 * self.cell**2, 1),
            )

    def loss(self, images: Tensor, view: View, generator: torch.Generator) -> Tensor:
        """Mean absolute error of hidden pixels `[]`, each cell in units of its own mean and deviation.

        Args:
            images: `[B, size, size, 3]`, 0-255.
            view: what they show, which decides how they may be changed.
            generator: of changes and of what is hidden.
        """
        changed = relit(moved(images.float(), view, generator), view, generator)
        image = self.extractor.normalise(changed)  # [B, 3, size, size]
        hidden = hidden_cells(len(image), self.grid, self.cell, generator).to(image.device)
        seen = image * (1 - F.interpolate(hidden, scale_factor=float(self.cell)))
        tokens = self.extractor.tokens(seen)
        painted = self.decoder(tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid)))
        error = (painted.float() - self._wanted(image)).abs().mean(1, keepdim=True)
        return (error * hidden).sum() / hidden.sum()

    def _wanted(self, image: Tensor) -> Tensor:
        """The pixels of every cell `[B, 3 · cell², grid, grid]`, normalised cell by cell."""
        pixels = F.pixel_unshuffle(image, self.cell)
        deviation = (pixels.var(1, keepdim=True) + LEAST_VARIANCE).sqrt()
        return (pixels - pixels.mean(1, keepdim=True)) / deviation


def hidden_cells(batch: int, grid: int, cell: int, generator: torch.Generator) -> Tensor:
    """Which cells of each image are hidden, float `[B, 1, grid, grid]`, 1 or 0, in squares of 16 pixels or more."""
    unit = max(1, -(-HIDDEN_PIXELS // cell))
    side = -(-grid // unit)
    count = round(HIDDEN * side * side)
    rank = torch.rand(batch, side * side, generator=generator).argsort(1).argsort(1)
    squares = (rank < count).float().reshape(batch, 1, side, side)
    return squares.repeat_interleave(unit, 2).repeat_interleave(unit, 3)[:, :, :grid, :grid]


def pretrain_images(job: Job, spec: RgbExtractor, view: View, size: int, report: Report) -> bool:
    """Pretrain an image extractor and write its weights, those alone that its stages use.

    Args:
        job: samples, output, schedule.
        spec: the extractor; its weights are where training starts.
        view: "rgb", "normals" or "depth".
        size: side of the images in pixels.
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
    identity = job.identity(inputs, {"images": asdict(start)})
    if job.is_done(identity):
        return False
    model = MaskedImages(trainable(spec, size, seed), size, seed=seed)
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
    origin = Origin(f"masked image modelling on {view} of {job.source.words}", job.licence, job.command, seed=seed)
    job.write_log(log)
    save_weights(job.out, extractor.model.state_dict(), use, origin)
    job.clean()
    return True
