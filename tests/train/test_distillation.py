"""Training of the distillation network on pairs whose relation is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cmdiad_train.distillation import distil, learning_rate, new_network
from cmdiad_train.hallucination import FeatureToFeature
from cmdiad_train.recipe import Distillation, Recipe

OPTIONS = Distillation(epochs=60, batch=2, learning_rate=3e-3, warmup=2)
RECIPE = Recipe(distillation=OPTIONS)


def linear_pairs(offset: float = 0.0) -> list[tuple[Tensor, Tensor]]:
    """Six samples of 40 tokens; targets `[40, 5]` are linear in the normalised features `[40, 12]`."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(12, 5, generator=generator)
    features = torch.randn(6, 40, 12, generator=generator)
    targets = torch.nn.functional.layer_norm(features, (12,)) @ matrix + offset
    return list(zip(features, targets, strict=True))


def test_a_linear_map_is_learned(tmp_path: Path) -> None:
    pairs = linear_pairs(offset=10.0)
    network = new_network(pairs, RECIPE)
    losses = distil(network, pairs, RECIPE, checkpoint=tmp_path / "c.safetensors")
    assert len(losses) == OPTIONS.epochs
    assert losses[-1] < 0.1 * losses[0]
    mean_distance = torch.cat([(network(x) - y).norm(dim=1) for x, y in pairs]).mean()
    assert float(mean_distance.detach()) < 0.1 * float(pairs[0][1].sub(10).norm(dim=1).mean())
    assert not network.training


def test_targets_far_from_zero_do_not_slow_the_start() -> None:
    pairs = linear_pairs(offset=1000.0)
    network = new_network(pairs, RECIPE)
    targets = torch.cat([y for _, y in pairs])
    torch.testing.assert_close(network.target_mean, targets.mean(0))
    assert float(network.target_scale) == pytest.approx(float((targets - targets.mean(0)).std()), rel=1e-4)
    published = new_network(pairs, replace(RECIPE, mode="faithful"))
    assert torch.equal(published.target_mean, torch.zeros(5))
    assert float(published.target_scale) == 1


def test_same_seed_same_network_and_the_global_generator_is_left_alone() -> None:
    pairs = linear_pairs()
    before = torch.random.get_rng_state()
    first, second = new_network(pairs, RECIPE), new_network(pairs, RECIPE)
    other = new_network(pairs, replace(RECIPE, seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.mlp.fc1.weight, second.mlp.fc1.weight)
    assert not torch.equal(first.mlp.fc1.weight, other.mlp.fc1.weight)


def test_interrupted_distillation_ends_with_the_same_weights(tmp_path: Path) -> None:
    pairs, recipe = linear_pairs(), replace(RECIPE, distillation=replace(OPTIONS, epochs=6))
    whole = new_network(pairs, recipe)
    losses = distil(whole, pairs, recipe, checkpoint=tmp_path / "whole.safetensors")

    def interrupt(epoch: int, epochs: int, loss: float) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "part.safetensors"
    with pytest.raises(KeyboardInterrupt):
        distil(new_network(pairs, recipe), pairs, recipe, checkpoint=checkpoint, progress=interrupt)
    resumed = new_network(pairs, recipe)
    assert distil(resumed, pairs, recipe, checkpoint=checkpoint) == losses
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


@pytest.mark.parametrize(("output", "reached"), [("linear", True), ("gelu", False)])
def test_only_a_linear_output_reaches_negative_values(tmp_path: Path, output: str, reached: bool) -> None:
    pairs = [(x, torch.full_like(y, -2.0)) for x, y in linear_pairs()]
    options = replace(OPTIONS, output=output, learning_rate=2e-2, epochs=30)  # type: ignore[arg-type]
    recipe = replace(RECIPE, mode="faithful", distillation=options)
    network = new_network(pairs, recipe)
    distil(network, pairs, recipe, checkpoint=tmp_path / "c.safetensors")
    hallucinated = network(pairs[0][0]).detach()
    assert (float(hallucinated.mean()) < -1.5) == reached
    assert (float(hallucinated.min()) < -0.171) == reached


def test_network_works_row_by_row() -> None:
    network = FeatureToFeature(12, 5)
    features = torch.randn(30, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(features)[7:9], network(features[7:9]))


@pytest.mark.parametrize("published", [False, True])
def test_rate_warms_up_linearly(published: bool) -> None:
    options = Distillation(epochs=12, learning_rate=1e-3, warmup=4)
    rates = [learning_rate(options, epoch, published) for epoch in (0, 1, 2, 3.5)]
    assert rates == pytest.approx([0, 2.5e-4, 5e-4, 8.75e-4])


def test_published_rate_stays_and_ours_falls_along_a_cosine() -> None:
    options = Distillation(epochs=12, learning_rate=1e-3, warmup=4)
    assert [learning_rate(options, epoch, True) for epoch in (4, 8, 11.9)] == [1e-3] * 3
    assert [learning_rate(options, epoch, False) for epoch in (4, 8, 12)] == pytest.approx([1e-3, 5e-4, 0])


def test_rate_without_warm_up_or_with_nothing_else() -> None:
    assert learning_rate(Distillation(epochs=3, learning_rate=1.0, warmup=0), 0, False) == 1.0
    assert learning_rate(Distillation(epochs=2, learning_rate=1.0, warmup=2), 1.5, False) == 0.75
