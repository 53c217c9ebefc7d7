"""Training of the distillation network on pairs whose relation is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cmdiad_train.detectors.bank.features.hallucination import FeatureToInput, InputToFeature
from cmdiad_train.detectors.bank.fitting.distillation import (
    distil,
    distillation_loss,
    learning_rate,
    new_network,
)
from cmdiad_train.detectors.feature_mapping import FeatureToFeature
from cmdiad_train.recipe import Distillation
from cmdiad_train.training.loss_plot import plot_losses
from cmdiad_train.training.validation import split
from helpers import bank_recipe, changed
from lanes import long
from reporters import InterruptAt

OPTIONS = Distillation(epochs=60, batch=2, learning_rate=3e-3, warmup=2, validation=0)
RECIPE = bank_recipe(hallucination="f2f", distillation=OPTIONS)


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
    log = distil(network, pairs, RECIPE, checkpoint=tmp_path / "c.safetensors")
    assert len(log) == OPTIONS.epochs
    assert log[-1].loss < 0.1 * log[0].loss
    assert all(math.isnan(epoch.validation) for epoch in log)
    mean_distance = torch.cat([(network(x) - y).norm(dim=1) for x, y in pairs]).mean()
    assert float(mean_distance.detach()) < 0.1 * float(pairs[0][1].sub(10).norm(dim=1).mean())
    assert not network.training


def test_targets_far_from_zero_do_not_slow_the_start() -> None:
    pairs = linear_pairs(offset=1000.0)
    network = new_network(pairs, RECIPE)
    targets = torch.cat([y for _, y in pairs])
    torch.testing.assert_close(network.target_mean, targets.mean(0))
    assert float(network.target_scale) == pytest.approx(float((targets - targets.mean(0)).std()), rel=1e-3)
    published = new_network(pairs, changed(RECIPE, mode="faithful"))
    assert torch.equal(published.target_mean, torch.zeros(5))
    assert float(published.target_scale) == 1


def test_same_seed_same_network_and_the_global_generator_is_left_alone() -> None:
    pairs = linear_pairs()
    before = torch.random.get_rng_state()
    first, second = new_network(pairs, RECIPE), new_network(pairs, RECIPE)
    other = new_network(pairs, changed(RECIPE, seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [network.state_dict()["mlp.fc1.weight"] for network in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_interrupted_distillation_ends_with_the_same_weights(tmp_path: Path, validation: float) -> None:
    pairs, recipe = linear_pairs(), changed(RECIPE, distillation=replace(OPTIONS, epochs=6, validation=validation))
    whole = new_network(pairs, recipe)
    log = distil(whole, pairs, recipe, checkpoint=tmp_path / "whole.safetensors")

    checkpoint = tmp_path / "part.safetensors"
    with pytest.raises(KeyboardInterrupt):
        distil(new_network(pairs, recipe), pairs, recipe, checkpoint=checkpoint, reporter=InterruptAt("distil", 3))
    resumed = new_network(pairs, recipe)
    again = distil(resumed, pairs, recipe, checkpoint=checkpoint)
    np.testing.assert_array_equal([(e.loss, e.validation) for e in again], [(e.loss, e.validation) for e in log])
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def seven_pairs() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(12, 5, generator=generator)
    features = torch.randn(7, 40, 12, generator=generator)
    return list(zip(features, torch.nn.functional.layer_norm(features, (12,)) @ matrix + 3.0, strict=True))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"seed": 4, "options": {"validation": 0.3, "patience": 2, "learning_rate": 5e-2}},
            [(5.96738808, 5.50669327), (5.15630867, 3.7218132), (3.5041148, 2.30229549), (2.49890713, 2.24571295)],
        ),
        (
            {"mode": "faithful", "options": {"output": "gelu"}},
            [(8.96342519, math.nan), (8.81570918, math.nan), (8.77227809, math.nan), (8.82143758, math.nan)],
        ),
    ],
    ids=["default", "faithful"],
)
def test_losses_are_those_of_version_0_1_0(
    tmp_path: Path, changes: dict[str, object], expected: list[tuple[float, float]]
) -> None:
    """The numbers were recorded with the training loop that distillation had before."""
    options = replace(OPTIONS, epochs=12 if "seed" in changes else 6, **changes.pop("options"))  # type: ignore[arg-type]
    recipe = changed(RECIPE, distillation=options, **changes)  # type: ignore[arg-type]
    pairs = seven_pairs()
    log = distil(new_network(pairs, recipe), pairs, recipe, checkpoint=tmp_path / "c.safetensors")
    first = [(epoch.loss, epoch.validation) for epoch in log[:4]]
    np.testing.assert_allclose(first, expected, rtol=1e-4)


@pytest.mark.parametrize(("output", "reached"), [("linear", True), ("gelu", False)])
def test_only_a_linear_output_reaches_negative_values(tmp_path: Path, output: str, reached: bool) -> None:
    pairs = [(x, torch.full_like(y, -2.0)) for x, y in linear_pairs()]
    options = replace(OPTIONS, output=output, learning_rate=2e-2, epochs=30)  # type: ignore[arg-type]
    recipe = changed(RECIPE, mode="faithful", distillation=options)
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


def unlearnable_validation() -> list[tuple[Tensor, Tensor]]:
    """Pairs of which the one that `split` holds out of six asks for the opposite of the others."""
    pairs = linear_pairs()
    [held] = split(len(pairs), 0.1)[1]
    pairs[held] = (pairs[held][0], -pairs[held][1])
    return pairs


def test_best_epoch_is_kept_and_training_stops_early(tmp_path: Path) -> None:
    pairs = unlearnable_validation()
    options = replace(OPTIONS, validation=0.1, patience=3)
    recipe = changed(RECIPE, distillation=options)
    network = new_network(pairs, recipe)
    log = distil(network, pairs, recipe, checkpoint=tmp_path / "c.safetensors")
    losses = [epoch.validation for epoch in log]
    best = losses.index(min(losses))
    assert len(log) == best + 1 + 3 < options.epochs
    [held] = split(len(pairs), 0.1)[1]
    with torch.no_grad():
        kept = (network(pairs[held][0]) - pairs[held][1]).norm(dim=1).mean()
    assert float(kept) == pytest.approx(min(losses), rel=1e-5)
    patient = changed(recipe, distillation=replace(options, patience=0))
    assert len(distil(new_network(pairs, patient), pairs, patient, checkpoint=tmp_path / "d.safetensors")) == 60


@pytest.mark.parametrize("kind", ["l2", "cosine", "smooth_l1"])
def test_losses_equal_their_formulas(kind: str) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 7, 5)) * 2
    expected = {
        "l2": np.sqrt(((x - y) ** 2).sum(1)).sum(),
        "cosine": (1 - (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)).sum(),
        "smooth_l1": np.where(np.abs(x - y) < 1, 0.5 * (x - y) ** 2, np.abs(x - y) - 0.5).sum(),
    }[kind]
    loss = distillation_loss(torch.from_numpy(x), torch.from_numpy(y), 3, kind)
    assert float(loss) == pytest.approx(expected / 3, rel=1e-9)


def test_losses_of_several_stages_add_up(tmp_path: Path) -> None:
    pairs = linear_pairs()
    recipe = changed(RECIPE, distillation=replace(OPTIONS, epochs=1, validation=0.3))
    network = new_network(pairs, recipe)
    [epoch] = distil(network, pairs, recipe, checkpoint=tmp_path / "c.safetensors", heads=(2, 3))
    with torch.no_grad():
        errors = torch.stack([network(pairs[i][0]) - pairs[i][1] for i in split(len(pairs), 0.3)[1]])
    expected = errors[..., :2].norm(dim=-1).mean() + errors[..., 2:].norm(dim=-1).mean()
    assert epoch.validation == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "smooth_l1"])
def test_other_losses_learn_too(tmp_path: Path, kind: str) -> None:
    pairs = linear_pairs()
    recipe = changed(RECIPE, distillation=replace(OPTIONS, loss=kind))  # type: ignore[arg-type]
    log = distil(new_network(pairs, recipe), pairs, recipe, checkpoint=tmp_path / "c.safetensors")
    assert log[-1].loss < 0.2 * log[0].loss


def image_pairs(to_image: bool) -> list[tuple[Tensor, Tensor]]:
    """Four samples of a 32×32 image and the 8×8 grid of its blocks' means, five channels of them, or the reverse."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(4):
        grid = torch.randn(1, 3, 8, 8, generator=generator)
        image = torch.nn.functional.interpolate(grid, size=32)[0]
        features = torch.cat([grid, grid[:, :2]], 1)[0].flatten(1).T  # [64, 5]
        pairs.append((features, image) if to_image else (image, features))
    return pairs


@pytest.mark.parametrize(("hallucination", "network"), [("f2i", FeatureToInput), long("i2f", InputToFeature)])
def test_features_to_image_and_back_are_learned(tmp_path: Path, hallucination: str, network: type) -> None:
    pairs = image_pairs(to_image=hallucination == "f2i")
    options = replace(OPTIONS, epochs=30, learning_rate=1e-3, validation=0.25, patience=0)
    recipe = changed(RECIPE, hallucination=hallucination, size=32, distillation=options)  # type: ignore[arg-type]
    trained = new_network(pairs, recipe)
    assert isinstance(trained, network)
    log = distil(trained, pairs, recipe, checkpoint=tmp_path / "c.safetensors")
    assert log[-1].loss < 0.6 * log[0].loss
    with torch.no_grad():
        assert trained(pairs[0][0][None]).shape[1:] == pairs[0][1].shape


def test_plot(tmp_path: Path) -> None:
    for validation in ([2.5, math.nan], [math.nan, math.nan]):
        plot_losses(tmp_path / "plot.png", [2.0, 1.0], validation)
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.gpu
def test_training_on_cuda_reaches_the_same_loss(tmp_path: Path) -> None:
    pairs = linear_pairs()
    last = []
    for name in ("cpu", "cuda"):
        network, checkpoint = new_network(pairs, RECIPE), tmp_path / f"{name}.safetensors"
        last.append(distil(network, pairs, RECIPE, checkpoint=checkpoint, device=torch.device(name))[-1].loss)
    assert last[1] == pytest.approx(last[0], rel=0.3, abs=0.05)
