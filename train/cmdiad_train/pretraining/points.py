"""Point-MAE's pretraining (Pang et al. 2022): a decoder predicts the shape of hidden groups from the visible ones.

The encoder is the one that inference uses. It is trained on clouds that are scaled to unit size. The scaling is
folded into its first layers afterwards, so that the trained encoder takes metres.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.extractors.point_mae import Blocks, PointMae
from cmdiad_train.extractors.weights_file import point_metadata, weights_digest
from cmdiad_train.pretraining.job import ExtractorTask, Job
from cmdiad_train.pretraining.samples import InputShape
from cmdiad_train.recipe import XyzExtractor

HIDDEN = 0.6
"""Share of the groups that is hidden (Pang et al. 2022, §4.1)."""
MOST_DECODED = 256
"""Largest number of hidden groups of a cloud that one step decodes, which limits the cost of a step."""
DECODER_DEPTH = 2
SCALES = (0.9, 1.1)  # of a cloud; the published pretraining, on single objects of any size, uses 2/3 to 3/2
CALIBRATION_CLOUDS = 16

Cloud = dict[str, Tensor]
"""`centers` float32 `[G, 3]` and `groups` float32 `[G, M, 3]`, metres."""


class Clouds(Protocol):
    """Clouds by index."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Cloud: ...


def pretrain_points(job: Job, spec: XyzExtractor, size: int, reporter: Reporter, *, shift: float = 0.0) -> bool:
    """Pretrain a point extractor and write its weights.

    Args:
        job: Samples, output and schedule.
        spec: Extractor; training starts from its weights.
        size: Side in pixels to which clouds are resized.
        reporter: Receiver of the progress.
        shift: Largest random shift of a cloud in metres, see `MaskedPoints`.

    Returns:
        False if the output is already the result of this training.

    Raises:
        RunError: The data or the network cannot be used.
        OutputError: `job.out` is another file.
    """
    if spec.network != "point_mae":
        raise RunError(
            "",
            found=f"cmdiad-extractor pretrains point_mae, not {spec.network}",
            action="import official Point-BERT weights with cmdiad-extractor import",
        )
    seed = job.schedule.seed
    inputs = job.inputs(InputShape("points", size, spec))
    start = replace(spec, weights=weights_digest(spec.weights))
    identity = job.identity(inputs, {"points": asdict(start), "shift": shift})
    if job.is_done(identity):
        return False
    inputs.prepare_all(reporter)
    model, device = MaskedPoints(spec, inputs, shift=shift, seed=seed), job.machine.torch_device()

    def mean_loss(chosen: list[int], generator: torch.Generator) -> Tensor:
        batch = [inputs[i] for i in chosen]
        centers, groups = (torch.stack([cloud[name] for cloud in batch]).to(device) for name in ("centers", "groups"))
        return model.loss(centers, groups, generator)

    task = ExtractorTask(model, mean_loss, job)
    job.train(task, list(range(len(inputs))), "pretrain points", identity, reporter)
    use = point_metadata(replace(spec, weights="seeded"))
    job.save(model.finished(inputs).state_dict(), use, f"Point-MAE's objective on {job.source.description}", identity)
    return True


class MaskedPoints(nn.Module):
    """An encoder, a light decoder, and the units of the clouds that both take.

    Args:
        spec: Encoder. With the normalisation "batch" it is trained with the BatchNorm statistics of each cloud,
            otherwise with those of all clouds of a step, which frozen statistics approximate.
        clouds: Training clouds that the units are computed from.
        shift: Largest random shift of a cloud along each axis, in metres. Shifts make the features independent of
            the origin of a sensor's coordinates.
        seed: Seed of the random weights.
    """

    middle: Tensor
    radius: Tensor
    reach: Tensor

    def __init__(self, spec: XyzExtractor, clouds: Clouds, *, shift: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.encoder = PointMae(spec, seed=seed).requires_grad_(True)
        self.shift = shift
        width = spec.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            self.position = nn.Sequential(nn.Linear(3, round(width / 3)), nn.GELU(), nn.Linear(round(width / 3), width))
            self.mask_token = nn.Parameter(0.02 * torch.randn(width))
            self.decoder = Blocks(width, DECODER_DEPTH, spec.heads)
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, 3 * spec.group_size)
        middle, radius, reach = _units(spread(clouds))
        self.register_buffer("middle", middle)
        self.register_buffer("radius", radius)
        self.register_buffer("reach", reach)
        if spec.weights != "seeded":
            _unfold(self.encoder, middle, radius, reach)

    def loss(self, centers: Tensor, groups: Tensor, generator: torch.Generator) -> Tensor:
        """Compute the Chamfer-L2 distance `[]` between the hidden groups and the decoder's prediction.

        Args:
            centers: Group centres, float32 `[B, G, 3]`, metres.
            groups: Points, float32 `[B, G, M, 3]`, metres, relative to their centres.
            generator: CPU generator of turn, size, shift and of the hidden groups.
        """
        centers, groups = self._in_units(*turned(centers, groups, generator), generator)
        batch, count = groups.shape[:2]
        order = torch.stack([torch.randperm(count, generator=generator) for _ in range(batch)]).to(groups.device)
        hidden, visible = order.split([round(HIDDEN * count), count - round(HIDDEN * count)], 1)
        hidden = hidden[:, :MOST_DECODED]
        tokens = self._encode(_pick(centers, visible), _pick(groups, visible))
        predicted = self._decode(tokens, _pick(centers, visible), _pick(centers, hidden))  # [B, hidden, M, 3]
        with torch.autocast(predicted.device.type, enabled=False):
            return chamfer(predicted.flatten(0, 1).float(), _pick(groups, hidden).flatten(0, 1))

    def _in_units(self, centers: Tensor, groups: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shift = self.shift * (2 * torch.rand(len(centers), 1, 3, generator=generator) - 1)
        return (centers + shift.to(centers.device) - self.middle) / self.radius, groups / self.reach

    def _encode(self, centers: Tensor, groups: Tensor) -> Tensor:
        encoder = self.encoder
        if encoder.spec.normalisation == "batch":
            tokens = encoder.encoder(groups, True)
        else:
            tokens = encoder.encoder(groups.flatten(0, 1)[None], True)[0].unflatten(0, groups.shape[:2])
        return encoder.norm(encoder.blocks(tokens, encoder.pos_embed(centers), (encoder.spec.depth - 1,))[0])

    def _decode(self, tokens: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        position = self.position(torch.cat([visible, hidden], 1))
        filled = torch.cat([tokens, self.mask_token.to(tokens.dtype).expand(*hidden.shape[:2], -1)], 1)
        decoded = self.decoder(filled, position, (DECODER_DEPTH - 1,))[0][:, visible.shape[1] :]
        return self.head(self.norm(decoded)).unflatten(2, (-1, 3))

    @torch.no_grad()
    def finished(self, clouds: Clouds) -> PointMae:
        """Return the trained encoder for clouds in metres, with BatchNorm statistics of training clouds."""
        encoder = self.encoder
        _fold(encoder, self.middle, self.radius, self.reach)
        encoder.calibrate([cloud["groups"] for cloud in spread(clouds)])
        return encoder.eval().requires_grad_(False)


def spread(clouds: Clouds, count: int = CALIBRATION_CLOUDS) -> list[Cloud]:
    """Return at most `count` clouds, spread evenly."""
    step = max(1, len(clouds) // count)
    return [clouds[i] for i in range(0, len(clouds), step)[:count]]


def turned(centers: Tensor, groups: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn clouds about the line of sight through their middle by any angle, and scale them by up to 10 %.

    A part on a belt turns in this way. Clouds are neither mirrored nor tilted.

    Args:
        centers: Group centres, float32 `[B, G, 3]`, metres.
        groups: Points, float32 `[B, G, M, 3]`, metres, relative to their centres.
        generator: CPU generator of angle and scale.
    """
    batch = len(centers)
    angle = 2 * math.pi * torch.rand(batch, generator=generator)
    low, high = SCALES
    scale = low + (high - low) * torch.rand(batch, generator=generator)
    matrix = torch.zeros(batch, 3, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 2, 2] = angle.sin(), -angle.sin(), 1.0
    matrix = (matrix * scale[:, None, None]).to(centers.device)
    middle = centers.mean(1, keepdim=True)
    return (centers - middle) @ matrix + middle, groups @ matrix[:, None]


def chamfer(predicted: Tensor, target: Tensor) -> Tensor:
    """Compute the Chamfer-L2 distance `[]`.

    It is the mean squared distance to the nearest point of the other set, summed over both directions.

    Args:
        predicted: Points `[N, M, 3]`.
        target: Points `[N, M', 3]`.
    """
    products = predicted @ target.transpose(1, 2)  # [N, M, M'], far smaller than all differences
    squared = predicted.square().sum(2)[:, :, None] - 2 * products + target.square().sum(2)[:, None]
    return squared.amin(2).mean() + squared.amin(1).mean()


def _units(clouds: list[Cloud]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the units of clouds.

    Returns:
        Middle `[3]` of all clouds, root mean square distance of the centres from the middle of their cloud, and root
        mean square distance of the points from their centre.
    """
    middles = torch.stack([cloud["centers"].mean(0) for cloud in clouds])
    around = [cloud["centers"] - middle for cloud, middle in zip(clouds, middles, strict=True)]
    radius = torch.stack([x.square().sum(1).mean() for x in around]).mean().sqrt()
    reach = torch.stack([cloud["groups"].square().sum(2).mean() for cloud in clouds]).mean().sqrt()
    return middles.mean(0), radius, reach


@torch.no_grad()
def _fold(encoder: PointMae, middle: Tensor, radius: Tensor, reach: Tensor) -> None:
    """Change an encoder of clouds in units to metres: `W ((x − m) / r) + b = (W/r) x + (b − (W/r) m)`."""
    encoder.encoder.first_conv[0].weight.div_(reach)  # type: ignore[operator]
    linear = encoder.pos_embed[0]
    assert isinstance(linear, nn.Linear)
    linear.weight.div_(radius)
    linear.bias.sub_(linear.weight @ middle)


@torch.no_grad()
def _unfold(encoder: PointMae, middle: Tensor, radius: Tensor, reach: Tensor) -> None:
    """Change an encoder of clouds in metres to units: the inverse of `_fold`."""
    encoder.encoder.first_conv[0].weight.mul_(reach)  # type: ignore[operator]
    linear = encoder.pos_embed[0]
    assert isinstance(linear, nn.Linear)
    linear.bias.add_(linear.weight @ middle)
    linear.weight.mul_(radius)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Return `values[b, index[b]]` for each b: `[B, G, ...]` and `[B, n]` to `[B, n, ...]`."""
    return values[torch.arange(len(values), device=values.device)[:, None], index]
