"""Contrastive alignment of hallucinated features: its loss, and what it changes in a distillation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.bank.fitting.alignment import MOST_ROWS, Alignment, rows_to_compare
from cmdiad_train.detectors.bank.fitting.distillation import _DistillationTask, distil, new_network
from cmdiad_train.detectors.feature_mapping import FeatureToFeature
from cmdiad_train.recipe import Distillation, Recipe
from cmdiad_train.runs.tensors import load_tensors
from cmdiad_train.training.validation import split
from helpers import bank_recipe, changed, tiny_recipe
from reporters import InterruptAt

OPTIONS = Distillation(epochs=6, batch=2, learning_rate=3e-3, warmup=2, validation=0.3, alignment=0.5)
RECIPE = bank_recipe(hallucination="f2f", distillation=OPTIONS)


def cross_entropy(similarities: Any, expected: Any) -> float:
    """Return the mean cross-entropy over the rows, computed row by row in float64."""
    total = 0.0
    for row, share in zip(similarities, expected, strict=True):
        total -= float((share * (row - row.max() - np.log(np.exp(row - row.max()).sum()))).sum())
    return total / len(similarities)


def test_loss_equals_its_formula() -> None:
    torch.manual_seed(0)
    alignment = Alignment(6).double().requires_grad_(False)
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 9, 6))
    y[4] = 2 * y[3]  # the same direction: both targets count as much for either row
    unit = y / np.linalg.norm(y, axis=1, keepdims=True)
    expected = np.exp(unit @ unit.T / 0.1)
    expected /= expected.sum(1, keepdims=True)
    assert expected[3, 3] == pytest.approx(expected[3, 4])
    heads = zip((x, y), (alignment.hallucinated, alignment.target), strict=True)
    a, b = (alignment.aligned(head, torch.from_numpy(rows)).numpy() for rows, head in heads)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, rtol=1e-12)
    both = cross_entropy(a @ b.T / 0.07, expected), cross_entropy(b @ a.T / 0.07, expected)
    found = alignment(torch.from_numpy(x), torch.from_numpy(y))
    assert float(found) == pytest.approx(sum(both) / 2, rel=1e-9)


def test_only_rows_of_the_part_are_compared() -> None:
    fed = torch.zeros(3000, 2)
    fed[::2, 1] = -1.0
    drawn = rows_to_compare(fed, torch.Generator().manual_seed(0))
    assert len(drawn) == len(drawn.unique()) == MOST_ROWS
    assert bool((drawn % 2 == 0).all())
    wide = rows_to_compare(fed[:10].reshape(5, 2, 2), torch.Generator().manual_seed(0))
    assert sorted(wide.tolist()) == [0, 1, 2, 3, 4]
    assert rows_to_compare(fed[1::2], torch.Generator().manual_seed(0)).tolist() == []


def pairs_of(generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Seven samples of 40 rows, two of them of the background, whose targets depend on half of the features."""
    features = torch.randn(7, 40, 12, generator=generator)
    features[:, :2] = 0
    matrix = torch.randn(12, 5, generator=generator)
    return [(x, torch.tanh(x @ matrix) + 3.0) for x in features]


def test_training_adds_the_loss_in_units_of_the_error_of_the_mean() -> None:
    """Both samples have fewer rows than are drawn, so that the draw decides their order only."""
    pairs = pairs_of(torch.Generator().manual_seed(0))[:2]
    network = new_network(pairs, RECIPE)
    task = _DistillationTask(network, pairs, [], RECIPE, torch.device("cpu"))
    assert task.alignment is not None
    x, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    with torch.no_grad():
        found, rows = task.loss([0, 1], torch.Generator().manual_seed(0))
        output, on_part = network(x), x.abs().amax(1) > 0
        apart = (y - y.mean(0)).square().mean().sqrt()
        contrastive = task.alignment(*(((part - y.mean(0)) / apart)[on_part] for part in (output, y)))
    of_mean = apart * 5**0.5 * 80 / 2
    assert (rows, int(on_part.sum())) == (80, 76)
    expected = (output - y).norm(dim=1).sum() / 2 + OPTIONS.alignment * of_mean * contrastive
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert len(task.optimiser.param_groups[0]["params"]) == len([*network.parameters(), *task.alignment.parameters()])


def test_validation_does_not_count_the_alignment(tmp_path: Path) -> None:
    pairs = pairs_of(torch.Generator().manual_seed(0))
    recipe = changed(RECIPE, distillation=replace(OPTIONS, epochs=1))
    network = new_network(pairs, recipe)
    [epoch] = distil(network, pairs, recipe, checkpoint=tmp_path / "c.safetensors")
    with torch.no_grad():
        errors = [(network(pairs[i][0]) - pairs[i][1]).norm(dim=1).mean() for i in split(7, OPTIONS.validation)[1]]
    assert epoch.validation == pytest.approx(float(torch.stack(errors).mean()), rel=1e-5)


def test_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    pairs = pairs_of(torch.Generator().manual_seed(0))
    whole, resumed = new_network(pairs, RECIPE), new_network(pairs, RECIPE)
    log = distil(whole, pairs, RECIPE, checkpoint=tmp_path / "whole.safetensors")
    checkpoint = tmp_path / "part.safetensors"
    with pytest.raises(KeyboardInterrupt):
        distil(new_network(pairs, RECIPE), pairs, RECIPE, checkpoint=checkpoint, reporter=InterruptAt("distil", 3))
    assert distil(resumed, pairs, RECIPE, checkpoint=checkpoint) == log
    assert all(torch.equal(resumed.state_dict()[key], value) for key, value in whole.state_dict().items())


def test_run_holds_the_network_without_heads(trained: Any) -> None:
    options = replace(tiny_recipe().detector.distillation, alignment=0.1)
    run = trained("rgb", "f2f", distillation=options)
    stored = load_tensors(run / "hallucination.safetensors")
    assert set(stored) == set(FeatureToFeature(12, 5).state_dict())


def test_senseless_weights_and_combinations_are_refused() -> None:
    for weight in (-0.1, float("nan"), float("inf"), True, "0.1", 101):
        with pytest.raises(RunError, match=r"distillation\.alignment"):
            replace(OPTIONS, alignment=weight)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="unless the loss is l2"):
        replace(OPTIONS, loss="cosine")
    for hallucination, mode in (("none", "default"), ("i2f", "default"), ("f2f", "faithful")):
        with pytest.raises(RunError, match="except for the hallucination f2f"):
            tiny_recipe("rgb", hallucination, mode=mode, distillation=OPTIONS)


def test_recipe_of_an_earlier_version_has_no_alignment() -> None:
    earlier = tiny_recipe("rgb", "f2f")
    assert "alignment" not in earlier.to_json()["detector"]["distillation"]
    assert Recipe.from_json(earlier.to_json()) == earlier
    aligned = tiny_recipe("rgb", "f2f", distillation=OPTIONS)
    assert Recipe.from_json(aligned.to_json()) == aligned
