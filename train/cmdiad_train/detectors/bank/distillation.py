"""Training of a distillation network on paired good samples (REFERENCE §9)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from cmdiad_runtime.support.files import atomic_write
from cmdiad_train.detectors.bank.hallucination import FeatureToFeature, FeatureToInput, InputToFeature, Network
from cmdiad_train.recipe import Distillation, Recipe

Pair = tuple[Tensor, Tensor]


class Pairs(Protocol):
    """What the network is given and shall make of it, by sample.

    F2F: features `[R, C]` to features `[R, C']`, row by row. F2I: features `[grid², C]` to an image `[3, h, w]`.
    I2F: an image `[3, h, w]` to features `[T, C']`.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Pair: ...


@dataclass(frozen=True)
class Epoch:
    """One line of the log.

    Attributes:
        loss: mean loss per row over the training samples.
        validation: the same over the validation samples, NaN without any.
        learning_rate: at its end.
    """

    loss: float
    validation: float
    learning_rate: float


def new_network(pairs: Pairs, recipe: Recipe) -> Network:
    """An untrained network for these pairs; seeded. The default mode centres and scales its targets."""
    x, y = pairs[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = _network(x, y, recipe)
    if recipe.mode == "default":
        mean, scale = _target_statistics(pairs, recipe.hallucination == "f2i")
        network.target_mean.copy_(mean)
        network.target_scale.copy_(scale)
    return network


def _network(x: Tensor, y: Tensor, recipe: Recipe) -> Network:
    options = recipe.distillation
    if recipe.hallucination == "f2f":
        return FeatureToFeature(x.shape[1], y.shape[1], expansion=options.expansion, output=options.output)
    if recipe.hallucination == "f2i":
        return FeatureToInput(x.shape[1], round(len(x) ** 0.5), y.shape[-1])
    return InputToFeature(y.shape[1])


def _target_statistics(pairs: Pairs, is_image: bool) -> tuple[Tensor, Tensor]:
    """Mean `[C']` over all target rows and the standard deviation `[]` around it."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for i in range(len(pairs)):
        rows = _rows(pairs[i][1], is_image).double()
        count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
    mean = total / count
    variance = (squares / count - mean.square()).mean()
    return mean.float(), variance.clamp(min=1e-12).sqrt().float()


def distil(
    network: Network,
    pairs: Pairs,
    recipe: Recipe,
    *,
    checkpoint: Path,
    device: torch.device | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[Epoch]:
    """Train the network in place and return the log.

    With validation samples the best epoch's weights are kept, and training stops early when none has been better
    for `patience` epochs. After each epoch the state goes to `checkpoint`; an interrupted training goes on from
    there and ends with the same weights as an uninterrupted one. On CUDA the network computes in bfloat16 where
    that is safe (autocast).

    Args:
        progress: called as `progress(epoch, epochs, loss)` after each epoch.
    """
    options, device = recipe.distillation, device or torch.device("cpu")
    training, validating = split(len(pairs), recipe)
    network.to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
    log, best = _resume(network, optimiser, checkpoint)
    for epoch in range(len(log), options.epochs):
        if _should_stop(log, options):
            break
        loss = _train_epoch(network, optimiser, pairs, training, recipe, epoch, device)
        validation = validation_loss(network, pairs, validating, options, device)
        log.append(Epoch(loss, validation, optimiser.param_groups[0]["lr"]))
        if not validating or validation <= min(e.validation for e in log):
            best = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
        _save(network, optimiser, log, best, checkpoint)
        if progress is not None:
            progress(epoch + 1, options.epochs, loss)
    network.load_state_dict(best)
    network.cpu().eval()
    return log


def split(count: int, recipe: Recipe) -> tuple[list[int], list[int]]:
    """Indices of the training and of the validation samples, spread evenly; the latter empty when there are few."""
    share = recipe.distillation.validation
    held = int(share * count) if share else 0
    if share and held == 0 and count >= 4:
        held = 1
    validating = [(2 * i + 1) * count // (2 * held) for i in range(held)]
    return [i for i in range(count) if i not in set(validating)], validating


def _should_stop(log: Sequence[Epoch], options: Distillation) -> bool:
    if not options.patience or not log or math.isnan(log[-1].validation):
        return False
    losses = [epoch.validation for epoch in log]
    return len(losses) - 1 - losses.index(min(losses)) >= options.patience


def _train_epoch(
    network: Network,
    optimiser: torch.optim.Adam,
    pairs: Pairs,
    training: list[int],
    recipe: Recipe,
    epoch: int,
    device: torch.device,
) -> float:
    network.train()
    options = recipe.distillation
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    order = [training[i] for i in torch.randperm(len(training), generator=generator).tolist()]
    steps = [order[i : i + options.batch] for i in range(0, len(order), options.batch)]
    if recipe.mode == "faithful" and len(steps) > 1 and len(steps[-1]) < options.batch:
        steps.pop()  # drop_last, as published
    total = rows = 0.0
    for step, chosen in enumerate(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(options, epoch + step / len(steps), recipe.mode == "faithful")
        loss, count = _batch_loss(network, [pairs[i] for i in chosen], options, device)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += float(loss.detach()) * len(chosen)
        rows += count
    return total / rows


@torch.no_grad()
def validation_loss(
    network: Network, pairs: Pairs, chosen: list[int], options: Distillation, device: torch.device
) -> float:
    """Mean loss per row over some samples, NaN for none."""
    network.eval()
    losses = [_batch_loss(network, [pairs[i]], options, device) for i in chosen]
    return sum(float(loss) for loss, _ in losses) / sum(n for _, n in losses) if losses else math.nan


def _batch_loss(network: Network, batch: list[Pair], options: Distillation, device: torch.device) -> tuple[Tensor, int]:
    """The loss per sample of a batch, and its number of rows."""
    join = torch.cat if isinstance(network, FeatureToFeature) else torch.stack
    x, y = (join([pair[part] for pair in batch]).to(device) for part in (0, 1))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        hallucinated = network(x)
    is_image = isinstance(network, FeatureToInput)
    rows = _rows(y, is_image)
    loss = distillation_loss(_rows(hallucinated.float(), is_image), rows, len(batch), options.loss)
    return loss, len(rows)


def _rows(target: Tensor, is_image: bool) -> Tensor:
    """Rows `[n, C]` of features `[..., C]`, or of the pixels of images `[..., 3, h, w]`."""
    return (target.movedim(-3, -1) if is_image else target).flatten(0, -2)


def distillation_loss(hallucinated: Tensor, target: Tensor, samples: int, kind: str = "l2") -> Tensor:
    """The loss of rows `[n, C]` against their targets, summed over rows, per sample (§9).

    Args:
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
    """The rate at a fractional epoch: linear warm-up, then constant as published or half a cosine."""
    if epoch < options.warmup:
        return options.learning_rate * epoch / options.warmup
    if published:
        return options.learning_rate
    remaining = (epoch - options.warmup) / max(options.epochs - options.warmup, 1e-9)
    return options.learning_rate * (1 + math.cos(math.pi * remaining)) / 2


def write_log(path: Path, log: Sequence[Epoch]) -> None:
    """Write the log as CSV."""
    rows = (f"{i},{e.loss:.9g},{e.validation:.9g},{e.learning_rate:.9g}\n" for i, e in enumerate(log, 1))
    with atomic_write(path) as temporary:
        temporary.write_text("epoch,loss,validation,learning_rate\n" + "".join(rows), encoding="utf-8")


def _save(
    network: Network, optimiser: torch.optim.Adam, log: list[Epoch], best: dict[str, Tensor], checkpoint: Path
) -> None:
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    state |= {f"best.{key}": value for key, value in best.items()}
    for i, slot in optimiser.state_dict()["state"].items():
        state |= {f"adam.{i}.{key}": torch.as_tensor(value) for key, value in slot.items()}
    state["log"] = torch.tensor([(e.loss, e.validation, e.learning_rate) for e in log], dtype=torch.float64)
    with atomic_write(checkpoint) as temporary:
        save_file({key: value.cpu().contiguous() for key, value in state.items()}, temporary)


def _resume(network: Network, optimiser: torch.optim.Adam, checkpoint: Path) -> tuple[list[Epoch], dict[str, Tensor]]:
    if not checkpoint.exists():
        return [], {key: value.cpu().clone() for key, value in network.state_dict().items()}
    state = load_file(checkpoint)
    network.load_state_dict(_under(state, "network."))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(state, "adam.").items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    return [Epoch(*row) for row in state["log"].tolist()], _under(state, "best.")


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
