"""Principal components of features: what they keep, and where in a detector they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.files import sha256_of, write_json
from cmdiad_train.detectors.bank.features.projection import (
    principal_directions,
    projection_layer,
    stage_components,
    stage_directions,
)
from cmdiad_train.detectors.bank.run_files import load_basis
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.runs.record import read_record
from cmdiad_train.runs.run import load_run
from cmdiad_train.runs.tensors import load_tensors
from helpers import changed, make_data, tiny_recipe
from lanes import long, some

COMPONENTS = 8


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_directions_are_those_of_all_samples_together() -> None:
    scale = torch.linspace(3, 0.1, 12)
    rows = noise(300, 12) * scale + 5.0
    found = principal_directions(rows.split([100, 20, 180]), 4)
    centred = (rows - rows.mean(0)).double()
    expected = torch.linalg.svd(centred, full_matrices=False).Vh[:4].T.float()
    torch.testing.assert_close((found.T @ expected).abs(), torch.eye(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.T @ found, torch.eye(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("components", [8, None])
def test_directions_of_stages_do_not_mix_and_weigh_the_same(components: int | None) -> None:
    rows = noise(300, 12) * torch.linspace(3, 0.1, 12) + 5.0
    basis = stage_directions(rows.split([100, 20, 180]), (3, 9), components)
    kept = stage_components((3, 9), components)
    assert kept == ((3, 4) if components else (3, 9))
    assert basis.shape == (12, sum(kept))
    assert float(basis[3:, :3].abs().max()) == float(basis[:3, 3:].abs().max()) == 0
    for stage, count, own in ((rows[:, :3], kept[0], basis[:3, :3]), (rows[:, 3:], kept[1], basis[3:, 3:])):
        centred = (stage - stage.mean(0)).double()
        vectors = torch.linalg.svd(centred, full_matrices=False).Vh[:count].T
        assert float((centred @ own.double()).square().mean(0).sum()) == pytest.approx(1, rel=1e-5)
        torch.testing.assert_close(
            (F.normalize(own, dim=0).T @ vectors.float()).abs(), torch.eye(count), atol=1e-4, rtol=0
        )


def test_a_stage_that_does_not_vary_is_not_raised() -> None:
    rows = torch.cat([noise(50, 4), torch.full((50, 3), 2.0) + 1e-6 * noise(50, 3, seed=1)], 1)
    projected = rows @ stage_directions([rows], (4, 3), None)
    assert float(projected[:, :4].var(0, correction=0).sum()) == pytest.approx(1, rel=1e-4)
    assert float(projected[:, 4:].var(0, correction=0).sum()) < 1e-4
    assert bool(stage_directions([torch.zeros(5, 7)], (4, 3), None).isfinite().all())


def test_projection_keeps_zeros_and_distances_within_its_span() -> None:
    basis = principal_directions([noise(100, 12)], 5)
    layer = projection_layer(basis)
    assert torch.equal(layer(torch.zeros(3, 12)), torch.zeros(3, 5))
    within = noise(20, 5, seed=1) @ basis.T + noise(1, 12, seed=2)  # one and the same part outside of the span
    torch.testing.assert_close(torch.cdist(layer(within), layer(within)), torch.cdist(within, within))


@pytest.mark.parametrize(
    ("modality", "hallucination"),
    some(
        [(m, h) for m in ("rgb", "xyz") for h in ("f2f", "f2i", "i2f")],
        [("rgb", "f2f"), ("xyz", "i2f")],
    ),
)
def test_network_and_banks_see_components_alone(trained: Any, modality: str, hallucination: str) -> None:
    run = trained(modality, hallucination, components=COMPONENTS)
    detector = load_run(run).detector
    assert [search.rows.shape[1] for search in detector.searches] == [COMPONENTS, COMPONENTS]
    network = load_tensors(run / "hallucination.safetensors")
    if hallucination == "f2f":
        assert network["mlp.fc1.weight"].shape[1] == network["mlp.fc3.weight"].shape[0] == COMPONENTS
    elif hallucination == "f2i":
        assert network["conv1.weight"].shape[1] == COMPONENTS
    else:
        assert len(network["target_mean"]) == COMPONENTS
    for each in ("rgb", "xyz"):
        basis = load_basis(run, each)  # type: ignore[arg-type]
        assert basis is not None
        torch.testing.assert_close(basis.T @ basis, torch.eye(COMPONENTS), atol=1e-5, rtol=0)


def test_components_of_one_modality_do_not_depend_on_hallucination(trained: Any) -> None:
    alone, hallucinating = (trained("rgb", h, components=COMPONENTS) for h in ("none", "f2f"))
    assert sha256_of(alone / "projection-rgb.safetensors") == sha256_of(hallucinating / "projection-rgb.safetensors")
    assert not (alone / "projection-xyz.safetensors").exists()


def test_as_many_components_as_channels_need_no_projection(trained: Any) -> None:
    run = trained("rgb", components=4096)
    assert load_basis(run, "rgb") is None
    assert load_run(run).detector.searches[0].rows.shape[1] == 192


class InterruptAt:
    """A reporter that interrupts a step at a point, after letting it pass a number of times."""

    def __init__(self, name: str, done: int, skip: int) -> None:
        self.name, self.done, self.skip = name, done, skip

    def step(self, name: str, done: int, total: int) -> None:
        if name == self.name and done == self.done:
            if not self.skip:
                raise KeyboardInterrupt
            self.skip -= 1

    def say(self, line: str) -> None:
        """Discard a line."""


@pytest.mark.parametrize(("modality", "hallucination"), [("rgb", "f2f"), long("xyz", "f2i")])
def test_interrupted_training_goes_on_to_the_same_bytes(
    data: Path, trained: Any, tmp_path: Path, modality: str, hallucination: str
) -> None:
    recipe = tiny_recipe(modality, hallucination, components=COMPONENTS)
    for step, done, skip in (
        (f"extract {modality} features", 3, 0),  # all channels
        (f"extract {modality} features", 3, 1),  # projected
        (f"extract {recipe.other} features", 2, 1),
    ):
        with pytest.raises(KeyboardInterrupt):
            fit(data, "gear", recipe, tmp_path / "run", InterruptAt(step, done, skip))
    fit(data, "gear", recipe, tmp_path / "run")
    for name in (f"projection-{modality}", f"projection-{recipe.other}", "banks", "golden"):
        ours, theirs = (
            r / f"{name}.safetensors"
            for r in (tmp_path / "run", trained(modality, hallucination, components=COMPONENTS))
        )
        assert sha256_of(ours) == sha256_of(theirs), name


def test_joint_network_has_the_components_of_all_its_categories(tmp_path: Path) -> None:
    data = make_data(tmp_path / "parts", categories=["gear", "biscuit"], train=4, validation=2, test={"good": 1})
    recipe = tiny_recipe("rgb", "f2f", components=COMPONENTS)
    joint = changed(recipe, distillation=replace(recipe.detector.distillation, categories=("biscuit", "gear")))
    fit(data, "gear", recipe, tmp_path / "alone")
    fit(data, "gear", joint, tmp_path / "gear")
    fit(data, "biscuit", joint, tmp_path / "biscuit", options=FitOptions(network_from=tmp_path / "gear"))

    def basis(run: str) -> str:
        return sha256_of(tmp_path / run / "projection-rgb.safetensors")

    assert basis("biscuit") == basis("gear") != basis("alone")
    other = changed(joint, components=COMPONENTS + 1)
    with pytest.raises(RunError, match="another components"):
        fit(data, "biscuit", other, tmp_path / "other", options=FitOptions(network_from=tmp_path / "gear"))


def test_run_with_components_in_its_banks_is_refused(trained: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {**read_record(trained("rgb")).to_json(), "format_version": 1})
    with pytest.raises(RunError, match="found cmdiad-run 1. Expected cmdiad-run 2"):
        load_run(tmp_path)
