"""Point-MAE's pretraining (Pang et al. 2022): the shape of hidden groups is told from those that are seen.

The encoder is the very one of inference. It is trained on clouds in units of their own size, and these units are
folded into its first layers afterwards, so that it takes metres.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors.point_mae import Blocks, PointMae
from cmdiad_train.extractors.weights_file import Origin, point_metadata, save_weights, weights_digest
from cmdiad_train.pretraining.loop import Job, train
from cmdiad_train.pretraining.samples import Report
from cmdiad_train.recipe import Recipe, XyzExtractor

HIDDEN = 0.6
"""Share of the groups that is hidden (Pang et al. 2022, §4.1)."""
MOST_TOLD = 256
"""Hidden groups of a cloud that are told in one step, at most; the cost of a step would grow with all of them."""
DECODER_DEPTH = 2
SCALES = (0.9, 1.1)  # of a cloud; the published pretraining, on single objects of any size, has 2/3 to 3/2
CALIBRATION_CLOUDS = 16

Cloud = dict[str, Tensor]
"""`centers` float32 `[G, 3]` and `groups` float32 `[G, M, 3]`, metres."""


class Clouds(Protocol):
    """Clouds by index."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Cloud: ...


def pretrain_points(job: Job, spec: XyzExtractor, size: int, report: Report, *, shift: float = 0.0) -> bool:
    """Pretrain a point extractor and write its weights.

    Args:
        job: samples, output, schedule.
        spec: the extractor; its weights are where training starts.
        size: side in pixels to which clouds are resized.
        report: told of the progress.
        shift: see `MaskedPoints`.

    Returns:
        False where the same result was there already.

    Raises:
        RunError: the data, or the network, cannot be used. InputError: a sample cannot be read.
        OutputError: `job.out` holds something else.
    """
    if spec.network != "point_mae":
        raise RunError("pretraining", found=spec.network, expected="point_mae", action="import Point-BERT instead")
    seed = job.schedule.seed
    inputs = job.inputs("points", Recipe(modality="xyz", xyz=spec, size=size))
    start = replace(spec, weights=weights_digest(spec.weights))
    identity = job.identity(inputs, {"points": asdict(start), "shift": shift})
    if job.is_done(identity):
        return False
    inputs.prepare_all(report)
    model, device = MaskedPoints(spec, inputs, shift=shift, seed=seed), job.machine.torch_device()

    def loss(chosen: list[int], generator: torch.Generator) -> Tensor:
        batch = [inputs[i] for i in chosen]
        centers, groups = (torch.stack([cloud[name] for cloud in batch]).to(device) for name in ("centers", "groups"))
        return model.loss(centers, groups, generator)

    log = train(
        model,
        loss,
        list(range(len(inputs))),
        job.schedule,
        checkpoint=job.work / "checkpoint.safetensors",
        identity=identity,
        device=device,
        progress=lambda done, total, value: report(f"pretrain points (loss {value:.4g})", done, total),
    )
    encoder = model.finished(inputs)
    use = point_metadata(replace(spec, weights="seeded")) | {"training": identity}
    origin = Origin(f"Point-MAE's objective on {job.source.words}", job.licence, job.command, seed=seed)
    job.write_log(log)
    save_weights(job.out, encoder.state_dict(), use, origin)
    job.clean()
    return True


class MaskedPoints(nn.Module):
    """Encoder, light decoder, and the units in which both see clouds.

    Args:
        spec: the encoder; its normalisation decides whose BatchNorm statistics it is trained with: for "batch"
            those of each cloud, else those of all clouds of a step, which is what frozen statistics approximate.
        clouds: some training clouds, which the units are taken from.
        shift: metres by which clouds are moved along each axis, at most; makes the features independent of where
            a sensor has its origin.
        seed: of the random weights.
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
        """Chamfer-L2 distance of the hidden groups from what the decoder makes of them.

        Args:
            centers: float32 `[B, G, 3]`, metres.
            groups: float32 `[B, G, M, 3]`, metres, relative to their centres.
            generator: of turn, size, shift and of what is hidden.
        """
        centers, groups = self._in_units(*turned(centers, groups, generator), generator)
        batch, count = groups.shape[:2]
        order = torch.stack([torch.randperm(count, generator=generator) for _ in range(batch)]).to(groups.device)
        hidden, seen = order.split([round(HIDDEN * count), count - round(HIDDEN * count)], 1)
        hidden = hidden[:, :MOST_TOLD]
        tokens = self._encode(_pick(centers, seen), _pick(groups, seen))
        made = self._decode(tokens, _pick(centers, seen), _pick(centers, hidden))  # [B, hidden, M, 3]
        with torch.autocast(made.device.type, enabled=False):
            return chamfer(made.flatten(0, 1).float(), _pick(groups, hidden).flatten(0, 1))

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

    def _decode(self, tokens: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        position = self.position(torch.cat([seen, hidden], 1))
        filled = torch.cat([tokens, self.mask_token.to(tokens.dtype).expand(*hidden.shape[:2], -1)], 1)
        decoded = self.decoder(filled, position, (DECODER_DEPTH - 1,))[0][:, seen.shape[1] :]
        return self.head(self.norm(decoded)).unflatten(2, (-1, 3))

    @torch.no_grad()
    def finished(self, clouds: Clouds) -> PointMae:
        """The trained encoder, taking metres, its BatchNorm statistics those of some training clouds."""
        encoder = self.encoder
        _fold(encoder, self.middle, self.radius, self.reach)
        encoder.calibrate([cloud["groups"] for cloud in spread(clouds)])
        return encoder.eval().requires_grad_(False)


def spread(clouds: Clouds, count: int = CALIBRATION_CLOUDS) -> list[Cloud]:
    """At most `count` clouds, spread evenly."""
    step = max(1, len(clouds) // count)
    return [clouds[i] for i in range(0, len(clouds), step)[:count]]


def turned(centers: Tensor, groups: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clouds turned about the line of sight through their middle, by any angle, and scaled a little about it.

    Parts are turned so on a belt; they are neither mirrored nor tilted.
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


def chamfer(made: Tensor, wanted: Tensor) -> Tensor:
    """Chamfer-L2 distance `[]`: mean squared distance to the nearest point of the other set, both ways, summed.

    Args:
        made: `[N, M, 3]`.
        wanted: `[N, M', 3]`.
    """
    products = made @ wanted.transpose(1, 2)  # [N, M, M'], far smaller than all differences
    squared = made.square().sum(2)[:, :, None] - 2 * products + wanted.square().sum(2)[:, None]
    return squared.amin(2).mean() + squared.amin(1).mean()


def _units(clouds: list[Cloud]) -> tuple[Tensor, Tensor, Tensor]:
    """Middle `[3]` of all clouds, root mean square distance of centres from their own, and of points from theirs."""
    middles = torch.stack([cloud["centers"].mean(0) for cloud in clouds])
    around = [cloud["centers"] - middle for cloud, middle in zip(clouds, middles, strict=True)]
    radius = torch.stack([x.square().sum(1).mean() for x in around]).mean().sqrt()
    reach = torch.stack([cloud["groups"].square().sum(2).mean() for cloud in clouds]).mean().sqrt()
    return middles.mean(0), radius, reach


@torch.no_grad()
def _fold(encoder: PointMae, middle: Tensor, radius: Tensor, reach: Tensor) -> None:
    """Make an encoder of clouds in units take metres: `W ((x − m) / r) + b = (W/r) x + (b − (W/r) m)`."""
    encoder.encoder.first_conv[0].weight.div_(reach)  # type: ignore[operator]
    linear = encoder.pos_embed[0]
    assert isinstance(linear, nn.Linear)
    linear.weight.div_(radius)
    linear.bias.sub_(linear.weight @ middle)


@torch.no_grad()
def _unfold(encoder: PointMae, middle: Tensor, radius: Tensor, reach: Tensor) -> None:
    """Make an encoder that takes metres take clouds in units; undoes `_fold`."""
    encoder.encoder.first_conv[0].weight.mul_(reach)  # type: ignore[operator]
    linear = encoder.pos_embed[0]
    assert isinstance(linear, nn.Linear)
    linear.bias.add_(linear.weight @ middle)
    linear.weight.mul_(radius)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """`values[b, index[b]]` for each b: `[B, G, ...]` and `[B, n]` to `[B, n, ...]`."""
    return values[torch.arange(len(values), device=values.device)[:, None], index]
