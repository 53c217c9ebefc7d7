"""Training of a distillation network on paired good samples (method §9)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_train.detectors.bank.features.hallucination import FeatureToInput, InputToFeature, Network
from cmdiad_train.detectors.bank.fitting.alignment import Alignment, rows_to_compare
from cmdiad_train.detectors.feature_mapping import FeatureToFeature
from cmdiad_train.recipe import Distillation, Recipe, bank_part
from cmdiad_train.training.checkpoint import Checkpoint
from cmdiad_train.training.log import Epoch
from cmdiad_train.training.loop import BatchLoss, LoopOptions, mixed_precision, train
from cmdiad_train.training.validation import split

Pair = tuple[Tensor, Tensor]


class Pairs(Protocol):
    """Input and target pairs for the distillation network, one per sample.

    F2F: features `[R, C]`, or with a context `[R, context², C]`, to features `[R, C']`, row by row. With coordinates
    the features have two more channels.
    F2I: features `[grid², C]` to an image `[3, h, w]`.
    I2F: an image `[3, h, w]` to features `[T, C']`.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Pair: ...


def new_network(pairs: Pairs, recipe: Recipe) -> Network:
    """Return an untrained, seeded network for these pairs. The default mode centres and scales the targets."""
    x, y = pairs[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = _network(x, y, recipe)
    if bank_part(recipe).mode == "default":
        mean, scale = target_statistics(pairs, bank_part(recipe).hallucination == "f2i")
        network.target_mean.copy_(mean)
        network.target_scale.copy_(scale)
    return network


def _network(x: Tensor, y: Tensor, recipe: Recipe) -> Network:
    options = bank_part(recipe).distillation
    if bank_part(recipe).hallucination == "f2f":
        located = options.coordinates == "cell"
        return FeatureToFeature(
            x.shape[-1] - 2 * located,
            y.shape[1],
            expansion=options.expansion,
            output=options.output,
            context=options.context,
            coordinates=located,
        )
    if bank_part(recipe).hallucination == "f2i":
        return FeatureToInput(x.shape[1], round(len(x) ** 0.5), y.shape[-1])
    return InputToFeature(y.shape[1])


def target_statistics(pairs: Pairs, is_image: bool) -> tuple[Tensor, Tensor]:
    """Return the mean `[C']` over all target rows and the standard deviation `[]` around this mean."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for i in range(len(pairs)):
        rows = _rows(pairs[i][1], is_image).double()
        count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
    mean = total / count
    variance = (squares / count - mean.square()).mean()
    return mean.float(), variance.clamp(min=1e-12).sqrt().float()


def distil(  # noqa: PLR0913 - the pairs, and where and how to train on them
    network: Network,
    pairs: Pairs,
    recipe: Recipe,
    *,
    checkpoint: Path,
    heads: Sequence[int] = (),
    device: torch.device | None = None,
    reporter: Reporter = SILENT,
) -> list[Epoch]:
    """Train the network in place and return the log.

    With validation samples the weights of the best epoch are kept, and training stops after `patience` epochs without
    a better one. The state is stored after each epoch: an interrupted training resumes from there and ends with the
    same weights as an uninterrupted one. On CUDA the network computes in bfloat16 where that is safe (autocast).

    Args:
        network: Untrained network from `new_network`.
        pairs: Input and target of each sample.
        recipe: Recipe with the training options, mode and seed.
        checkpoint: Safetensors file for the state of the training.
        heads: Channels of each stage of the targets, whose losses add up; empty for one loss over all channels.
        device: Device that the network trains on; None for the CPU.
        reporter: Receiver of the progress, one step per epoch.

    Raises:
        OutputError: The checkpoint is damaged or of another training.
    """
    options, name = bank_part(recipe).distillation, f"distil {bank_part(recipe).hallucination}"
    training, validating = split(len(pairs), options.validation)
    loop = LoopOptions(
        name=name,
        epochs=options.epochs,
        batch=options.batch,
        seed=recipe.seed,
        batches="only_full" if bank_part(recipe).mode == "faithful" else "full",  # drop_last, as published
        keep_best=True,
        patience=options.patience,
    )
    task = _DistillationTask(network, pairs, validating, recipe, device or torch.device("cpu"), heads)
    log = train(task, training, loop, Checkpoint(checkpoint, name), reporter)
    network.eval()
    return log


class _DistillationTask:
    """One step of a distillation, for the training loop.

    Args:
        network: Network in training.
        pairs: Input and target of each sample.
        validating: Indices of the validation samples.
        recipe: Recipe with the training options and mode.
        device: Device of the network.
        heads: See `distil`.

    Attributes:
        module: Network, and with a contrastive alignment also its heads.
    """

    def __init__(
        self,
        network: Network,
        pairs: Pairs,
        validating: list[int],
        recipe: Recipe,
        device: torch.device,
        heads: Sequence[int] = (),
    ) -> None:
        self.options, self.published = bank_part(recipe).distillation, bank_part(recipe).mode == "faithful"
        self.alignment = None if self.options.alignment == 0 else _new_alignment(network, recipe.seed)
        self.module = (network if self.alignment is None else nn.ModuleList([network, self.alignment])).to(device)
        self.network, self.pairs, self.validating, self.device = network, pairs, validating, device
        self._heads = list(heads) or [len(network.target_mean)]
        self.optimiser = torch.optim.Adam(self.module.parameters(), lr=self.options.learning_rate)

    def learning_rate(self, start: float, end: float) -> float:
        """Return the learning rate at the start of a step."""
        return learning_rate(self.options, start, self.published)

    def loss(self, batch: list[int], generator: torch.Generator) -> BatchLoss:
        """Compute the loss per sample; only the alignment draws from the generator."""
        compared = _compare(self.network, [self.pairs[i] for i in batch], self.device)
        value = self._error(compared, len(batch))
        if self.alignment is not None:
            value = value + self.options.alignment * self._misalignment(compared, len(batch), generator)
        return BatchLoss(value, len(compared.target))

    @torch.no_grad()
    def validate(self) -> float | None:
        """Compute the mean loss per row over the validation samples, or return None without any.

        The alignment does not count, so that it decides neither the best epoch nor the last one.
        """
        if not self.validating:
            return None
        self.module.eval()
        total = rows = 0.0
        for i in self.validating:
            compared = _compare(self.network, [self.pairs[i]], self.device)
            total += float(self._error(compared, 1))
            rows += len(compared.target)
        return total / rows

    def _error(self, compared: _Compared, samples: int) -> Tensor:
        """Return the loss of all rows, per sample: the sum over the heads."""
        parts = zip(compared.hallucinated.split(self._heads, 1), compared.target.split(self._heads, 1), strict=True)
        losses = [distillation_loss(*part, samples, self.options.loss) for part in parts]
        return torch.stack(losses).sum()

    def _misalignment(self, compared: _Compared, samples: int, generator: torch.Generator) -> Tensor:
        """Return the contrastive loss times the distance of targets from their mean (root mean square), per sample."""
        assert self.alignment is not None
        rows = rows_to_compare(compared.fed, generator)
        mean, scale = self.network.target_mean, self.network.target_scale
        hallucinated, target = ((part[rows] - mean) / scale for part in (compared.hallucinated, compared.target))
        unit = scale * target.shape[1] ** 0.5 * len(compared.target) / samples
        return self.alignment(hallucinated, target) * unit if len(rows) else hallucinated.sum()


def _new_alignment(network: Network, seed: int) -> Alignment:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Alignment(len(network.target_mean))


class _Compared(NamedTuple):
    """Rows of a batch: `[n, C]` that the network was fed with, `[n, C']` of its output, and `[n, C']` of the targets.

    For an image, `fed` is the input of the network as it is.
    """

    fed: Tensor
    hallucinated: Tensor
    target: Tensor


def _compare(network: Network, batch: list[Pair], device: torch.device) -> _Compared:
    join = torch.cat if isinstance(network, FeatureToFeature) else torch.stack
    x, y = (join([pair[part] for pair in batch]).to(device) for part in (0, 1))
    with mixed_precision(device):
        hallucinated = network(x)
    is_image = isinstance(network, FeatureToInput)
    return _Compared(x, _rows(hallucinated.float(), is_image), _rows(y, is_image))


def _rows(target: Tensor, is_image: bool) -> Tensor:
    """Return rows `[n, C]` of features `[..., C]`, or of the pixels of images `[..., 3, h, w]`."""
    return (target.movedim(-3, -1) if is_image else target).flatten(0, -2)


def distillation_loss(hallucinated: Tensor, target: Tensor, samples: int, kind: str = "l2") -> Tensor:
    """Return the loss of rows against their targets, summed over rows, per sample (method §9).

    Args:
        hallucinated: Rows `[n, C]` of the network.
        target: Target rows `[n, C]`.
        samples: Number of samples that the rows belong to.
        kind: "l2", the Euclidean distance; "cosine", one minus the cosine; "smooth_l1", summed over channels.
    """
    if kind == "l2":
        loss = torch.linalg.norm(hallucinated - target, dim=1).sum()
    elif kind == "cosine":
        loss = (1 - F.cosine_similarity(hallucinated, target, dim=1)).sum()
    else:
        loss = F.smooth_l1_loss(hallucinated, target, reduction="sum")
    return loss / samples


def learning_rate(options: Distillation, epoch: float, published: bool) -> float:
    """Return the learning rate at a fractional epoch: linear warm-up, then constant as published, or half a cosine."""
    if epoch < options.warmup:
        return options.learning_rate * epoch / options.warmup
    if published:
        return options.learning_rate
    remaining = (epoch - options.warmup) / max(options.epochs - options.warmup, 1e-9)
    return options.learning_rate * (1 + math.cos(math.pi * remaining)) / 2
