"""Training of a distillation network on paired patch features of good samples (REFERENCE §9)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cmdiad_runtime.files import atomic_write
from cmdiad_train.hallucination import FeatureToFeature
from cmdiad_train.recipe import Distillation, Recipe

Pairs = Sequence[tuple[Tensor, Tensor]]
"""Per sample: main features `[R, C]` and the other modality's `[R, C']`, row by row."""


def new_network(pairs: Pairs, recipe: Recipe) -> FeatureToFeature:
    """An untrained network for these pairs; seeded. The default mode centres and scales its targets."""
    options = recipe.distillation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        width, out = pairs[0][0].shape[1], pairs[0][1].shape[1]
        network = FeatureToFeature(width, out, expansion=options.expansion, output=options.output)
    if recipe.mode == "default":
        targets = torch.cat([y for _, y in pairs])
        network.target_mean.copy_(targets.mean(0))
        network.target_scale.copy_(targets.sub(targets.mean(0)).std().clamp(min=1e-6))
    return network


def distil(
    network: FeatureToFeature,
    pairs: Pairs,
    recipe: Recipe,
    *,
    checkpoint: Path,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Train the network in place and return the mean loss per token of each epoch.

    After each epoch the network, Adam's moments and the losses go to `checkpoint`; an interrupted training
    goes on from there and ends with the same weights as an uninterrupted one.

    Args:
        progress: called as `progress(epoch, epochs, loss)` after each epoch.
    """
    options = recipe.distillation
    optimiser = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
    losses = _resume(network, optimiser, checkpoint)
    network.train()
    for epoch in range(len(losses), options.epochs):
        losses.append(_train_epoch(network, optimiser, pairs, recipe, epoch))
        _save(network, optimiser, losses, checkpoint)
        if progress is not None:
            progress(epoch + 1, options.epochs, losses[-1])
    network.eval()
    return losses


def _train_epoch(
    network: FeatureToFeature, optimiser: torch.optim.Adam, pairs: Pairs, recipe: Recipe, epoch: int
) -> float:
    options = recipe.distillation
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    order = torch.randperm(len(pairs), generator=generator).tolist()
    steps = [order[i : i + options.batch] for i in range(0, len(order), options.batch)]
    if recipe.mode == "faithful" and len(steps) > 1 and len(steps[-1]) < options.batch:
        steps.pop()  # drop_last, as published
    total = tokens = 0.0
    for step, chosen in enumerate(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(options, epoch + step / len(steps), recipe.mode == "faithful")
        x, y = (torch.cat([pairs[i][part] for i in chosen]) for part in (0, 1))
        loss = distillation_loss(network(x), y, len(chosen))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += float(loss.detach()) * len(chosen)
        tokens += len(x)
    return total / tokens


def distillation_loss(hallucinated: Tensor, target: Tensor, samples: int) -> Tensor:
    """The Euclidean distance of each row `[n, C]` to its target, summed over rows, per sample (§9)."""
    return torch.linalg.norm(hallucinated - target, dim=1).sum() / samples


def learning_rate(options: Distillation, epoch: float, published: bool) -> float:
    """The rate at a fractional epoch: linear warm-up, then constant as published or half a cosine."""
    if epoch < options.warmup:
        return options.learning_rate * epoch / options.warmup
    if published:
        return options.learning_rate
    remaining = (epoch - options.warmup) / max(options.epochs - options.warmup, 1e-9)
    return options.learning_rate * (1 + math.cos(math.pi * remaining)) / 2


def _save(network: FeatureToFeature, optimiser: torch.optim.Adam, losses: list[float], checkpoint: Path) -> None:
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    for i, slot in optimiser.state_dict()["state"].items():
        state |= {f"adam.{i}.{key}": torch.as_tensor(value) for key, value in slot.items()}
    state["losses"] = torch.tensor(losses, dtype=torch.float64)
    with atomic_write(checkpoint) as temporary:
        save_file(state, temporary)


def _resume(network: FeatureToFeature, optimiser: torch.optim.Adam, checkpoint: Path) -> list[float]:
    if not checkpoint.exists():
        return []
    state = load_file(checkpoint)
    network.load_state_dict({k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")})
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith("adam."):
            _, index, name = key.split(".")
            slots.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    return state["losses"].tolist()
