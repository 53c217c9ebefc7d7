"""F2F with a context, coordinates and targets by stage, one bank of both features, and residuals of the way back."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from cmdiad_export.precision.casting import _half
from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_runtime.engines import open_engine
from cmdiad_runtime.engines.searched_cells import SUFFIX, searched_cells
from cmdiad_runtime.errors import EngineError, RunError
from cmdiad_train.detectors.bank.features.compared import Compared
from cmdiad_train.detectors.bank.features.neighbourhood import (
    cell_places,
    neighbourhoods,
    neighbouring_cells,
    with_places,
)
from cmdiad_train.detectors.bank.features.patches import Hallucinated
from cmdiad_train.detectors.bank.fitting.calibration import as_held_out
from cmdiad_train.detectors.bank.fitting.hallucinating import make_pair
from cmdiad_train.detectors.bank.fitting.uncertainty import log_variances, weights_of
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.bank.residual_scorer import ResidualScorer
from cmdiad_train.detectors.bank.run_files import BANKS, FUSION, ROW_WEIGHTS, load_banks, load_basis
from cmdiad_train.detectors.cell_maps import upsampling
from cmdiad_train.detectors.feature_mapping import FeatureToFeature
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.recipe import Recipe, RgbExtractor, SurfaceExtractor
from cmdiad_train.runs.run import load_run
from cmdiad_train.runs.tensors import load_metadata, load_tensors, save_tensors
from helpers import changed, tiny_recipe
from lanes import some

NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14))
DISTILLATION = tiny_recipe().detector.distillation
VARIANTS: dict[str, dict[str, Any]] = {
    "context": {"distillation": replace(DISTILLATION, context=3)},
    "enhanced": {"main_bank": "enhanced"},
    "cycle": {"residual_map": "cycle"},
    "uncertainty": {"uncertainty": "bank", "image_score": "max"},
    "coordinates": {"distillation": replace(DISTILLATION, coordinates="cell")},
    "stages": {"distillation": replace(DISTILLATION, targets="stages")},
    "located": {
        "distillation": replace(DISTILLATION, context=3, coordinates="cell", targets="stages", alignment=0.1),
        "residual_map": "cycle",
    },
    "all": {"distillation": replace(DISTILLATION, context=5), "main_bank": "enhanced", "residual_map": "cycle"},
}
CASES = [
    ("rgb", "part", "context"),
    ("xyz", "top", "enhanced"),
    ("rgb", "sensor", "cycle"),
    ("xyz", "top", "uncertainty"),
    ("xyz", "top", "all"),
]
DEFAULT_CASES = [("xyz", "top", "all"), ("rgb", "part", "located")]
"""Cases that are exported in the default lane. Together they have every option except for `uncertainty`."""
LONG_CASES = [("xyz", "top", "enhanced"), ("rgb", "sensor", "cycle"), ("xyz", "top", "uncertainty")]
"""Cases that are exported in the long lane: the other numbers of banks and maps, no list of cells, `uncertainty`."""


def features_of_part(grid: int, width: int, part: set[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random rows `[grid², width]` of the cells of a part, zeros elsewhere, and the row of each cell."""
    rows = torch.randn(grid**2, width, generator=torch.Generator().manual_seed(3))
    background = min(set(range(grid**2)) - part)
    for cell in set(range(grid**2)) - part:
        rows[cell] = 0
    return rows, torch.tensor([cell if cell in part else background for cell in range(grid**2)])


@pytest.mark.parametrize("side", [3, 5])
def test_neighbourhoods_equal_those_found_cell_by_cell(side: int) -> None:
    grid, part = 6, {1, 7, 8, 13, 14, 20, 35}
    rows, cells = features_of_part(grid, 4, part)
    found = neighbourhoods(rows, cells, neighbouring_cells(grid, side))
    for cell in range(grid**2):
        y, x = divmod(cell, grid)
        reach = range(-(side // 2), side // 2 + 1)
        around = [(min(max(y + dy, 0), grid - 1), min(max(x + dx, 0), grid - 1)) for dy in reach for dx in reach]
        expected = torch.stack([rows[cells[v * grid + u]] for v, u in around])
        assert torch.equal(found[cell], expected if cell in part else torch.zeros_like(expected))


def test_network_with_a_context_is_a_convolution() -> None:
    """In float64, against `conv2d` over the grid with the nearest cell repeated beyond the edge."""
    grid, width, side = 7, 8, 3
    torch.manual_seed(0)
    network = FeatureToFeature(width, 5, context=side).double()
    rows = torch.randn(grid**2, width, dtype=torch.float64)
    found = network(neighbourhoods(rows, torch.arange(grid**2), neighbouring_cells(grid, side)))
    normed = F.layer_norm(rows, (width,), network.norm.weight, network.norm.bias)
    image = F.pad(network.reduce(normed).T.reshape(1, -1, grid, grid), [side // 2] * 4, mode="replicate")
    own, around = network.mlp.fc1.weight.split([width, side**2 * width // 4], 1)
    kernel = around.reshape(-1, side, side, width // 4).permute(0, 3, 1, 2)
    hidden = normed @ own.T + F.conv2d(image, kernel)[0].flatten(1).T + network.mlp.fc1.bias
    expected = network.mlp.fc3(F.gelu(network.mlp.fc2(F.gelu(hidden))))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_places_are_the_centres_of_the_cells_on_the_part() -> None:
    grid, part = 5, {3, 7, 12, 24}
    rows, cells = features_of_part(grid, 4, part)
    places = cell_places(grid)
    alone, around = with_places(rows, places), neighbourhoods(rows, cells, neighbouring_cells(grid, 3))
    wide = with_places(around, places)
    for cell in range(grid**2):
        y, x = divmod(cell, grid)
        own = [(2 * x + 1) / grid - 1, (2 * y + 1) / grid - 1] if cell in part else [0.0, 0.0]
        torch.testing.assert_close(alone[cell], torch.cat([rows[cell], torch.tensor(own)]))
        torch.testing.assert_close(wide[cell], torch.cat([around[cell], torch.tensor(own).expand(9, 2)], 1))


@pytest.mark.parametrize("context", [1, 3])
def test_network_adds_a_linear_map_of_the_place_to_the_first_layer(context: int) -> None:
    torch.manual_seed(0)
    located = FeatureToFeature(8, 5, context=context, coordinates=True).double()
    plain = FeatureToFeature(8, 5, context=context).double()
    weights = located.state_dict()
    first = weights["mlp.fc1.weight"]
    plain.load_state_dict({**weights, "mlp.fc1.weight": first[:, :-2]})
    shape = (6, 8) if context == 1 else (6, context**2, 8)
    features, places = torch.randn(shape, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    found = located.hidden(with_places(features, places))
    before = plain.mlp.fc1(plain._fed(features)) + places @ first[:, -2:].T
    torch.testing.assert_close(found, F.gelu(plain.mlp.fc2(F.gelu(before))), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("context", [1, 3])
def test_network_with_coordinates_computes_in_fp16(context: int) -> None:
    """Cast as an export casts it, LayerNorm in fp32; fp16 has 11 bits, and sums of 160 products round more."""
    torch.manual_seed(0)
    network = FeatureToFeature(64, 32, context=context, coordinates=True)
    features = torch.randn((50, 64) if context == 1 else (50, context**2, 64))
    fed = with_places(features, torch.rand(50, 2) * 2 - 1)
    holder = torch.nn.ModuleDict({"network": copy.deepcopy(network)})
    for name, _ in network.named_children():
        _half(holder, f"network.{name}", ())
    with torch.no_grad():
        expected, found = network(fed), holder["network"](fed)
    assert holder["network"].mlp.fc1.weight.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=5e-3 * float(expected.abs().max()))


@pytest.mark.parametrize(("context", "coordinates"), [(3, False), (1, True), (3, True)])
def test_listed_cells_and_all_cells_have_the_same_hallucinations(context: int, coordinates: bool) -> None:
    grid, part = 6, {8, 9, 14, 15, 20}
    rows, cells = features_of_part(grid, 8, part)
    torch.manual_seed(1)
    network = FeatureToFeature(8, 3, context=context, coordinates=coordinates)
    hallucinated = Hallucinated(network, main_grid=grid, grid=grid)
    with torch.no_grad():
        everywhere, own = hallucinated(rows, cells, None)
        image = np.zeros((1, grid, grid, 3), np.float32)
        image.reshape(-1, 3)[sorted(part)] = 1
        listed = searched_cells(image, grid)
        assert listed is not None
        searched = torch.from_numpy(listed)
        place = torch.zeros(grid**2, dtype=torch.int64).scatter(0, searched, torch.arange(len(searched)))
        few, places = hallucinated(rows[searched], place[cells], None, searched)
    torch.testing.assert_close(few[places], everywhere[own], rtol=1e-6, atol=1e-6)


def test_pairs_with_context_or_coordinates_have_the_same_targets_and_centres() -> None:
    grid, part = 6, [8, 9, 14]
    rows, cells = features_of_part(grid, 4, set(part))
    other = {"rows": torch.randn(grid**2, 3), "cells": torch.arange(grid**2)}
    alone, wide, located = (
        make_pair({"rows": rows, "cells": cells}, other, (grid, grid), tiny_recipe("rgb", "f2f", distillation=options))
        for options in (
            DISTILLATION,
            replace(DISTILLATION, context=5),
            replace(DISTILLATION, coordinates="cell"),
        )
    )
    assert torch.equal(alone[1], wide[1])
    assert torch.equal(alone[1], located[1])
    assert torch.equal(alone[0], wide[0][:, 12])
    places = torch.cat([torch.zeros(1, 2), cell_places(grid)[part]])  # the background comes first
    assert torch.equal(located[0], torch.cat([alone[0], places], 1))


def test_enhanced_distance_is_that_of_both_features_in_their_units() -> None:
    generator = torch.Generator().manual_seed(0)
    main, other = (torch.randn(9, width, generator=generator) for width in (4, 3))
    cells = torch.arange(9)
    (rows, same), *further = Compared(main_scale=2.0)((main, cells), (other, cells), torch.tensor(0.5))
    assert further == []
    assert torch.equal(same, cells)
    found = (rows[0] - rows[1]).double().square().sum()
    expected = ((main[0] - main[1]).double() / 2).square().sum() + ((other[0] - other[1]).double() / 0.5).square().sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_residual_is_what_the_way_back_misses() -> None:
    rows, cells = features_of_part(4, 6, {5, 6, 9})
    torch.manual_seed(0)
    inverse = FeatureToFeature(3, 6)
    inverse.target_scale.fill_(2.0)
    hallucinated = torch.randn(16, 3)
    with torch.no_grad():
        main, other, residual = Compared(inverse=inverse)((rows, cells), (hallucinated, cells), torch.ones(()))
        expected = (rows - inverse(hallucinated)) / 2
    assert main[0] is rows
    assert other[0] is hallucinated
    for cell in range(16):
        torch.testing.assert_close(residual[0][cell], expected[cell] if cell in {5, 6, 9} else torch.zeros(6))


@pytest.mark.parametrize("masked", [False, True])
def test_residual_scorer_equals_its_formula(masked: bool) -> None:
    grid, size = 4, 16
    generator = np.random.default_rng(0)
    rows, cells = generator.normal(size=(5, 3)), generator.integers(0, 5, grid**2)
    kept = np.zeros((size, size), bool)
    kept[:, :8] = True
    scorer = ResidualScorer(grid=grid, size=size, kept=torch.from_numpy(kept) if masked else None)
    score, anomaly_map = scorer(torch.from_numpy(rows).float(), torch.from_numpy(cells))
    distance = np.linalg.norm(rows, axis=1)[cells].reshape(grid, grid)
    if masked:
        distance[:, 2:] = 0
    upsample = upsampling(grid, size, blur=True).double().numpy()
    expected = upsample @ distance @ upsample.T * (kept if masked else 1)
    assert float(score) == pytest.approx(distance.max(), rel=1e-6)
    np.testing.assert_allclose(anomaly_map.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_residuals_of_training_samples_are_raised_to_those_of_held_out_ones() -> None:
    def scored(residual: float) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([1.0, residual]), torch.stack([torch.ones(2, 2), torch.full((2, 2), residual)])

    raised = as_held_out([scored(1.0), scored(3.0)], [scored(4.0)])
    assert [scores.tolist() for scores, _ in raised] == [[1.0, 2.0], [1.0, 6.0]]
    assert [float(maps[1].mean()) for _, maps in raised] == [2.0, 6.0]
    assert all(torch.equal(maps[0], torch.ones(2, 2)) for _, maps in raised)
    for held_out in ([scored(0.5)], []):
        kept = as_held_out([scored(1.0), scored(3.0)], held_out)
        assert [scores.tolist() for scores, _ in kept] == [[1.0, 1.0], [1.0, 3.0]]


@pytest.mark.parametrize(
    ("modality", "view", "variant", "precision"),
    some(
        [
            *((*case, "fp32") for case in (*DEFAULT_CASES, *LONG_CASES)),
            *((*case, "fp16") for case in (*DEFAULT_CASES, ("xyz", "top", "uncertainty"))),
        ],
        [*((*case, "fp32") for case in DEFAULT_CASES), ("xyz", "top", "all", "fp16")],
    ),
)
def test_exported_graph_equals_torch(
    exported: Any, trained: Any, modality: str, view: str, variant: str, precision: str
) -> None:
    """fp32 up to rounding. In fp16 the certificate bounds the difference, 2 % of the largest value here."""
    changes = {"xyz": NORMALS, "view": view, "verdict": "map", **VARIANTS[variant]}
    bundle = exported(modality, "f2f", precision, **changes)
    detector = load_run(trained(modality, "f2f", **changes)).detector
    session = onnxruntime.InferenceSession(bundle / "graph.onnx", providers=["CPUExecutionProvider"])
    tolerance = 1e-4 if precision == "fp32" else 2e-2
    image = {"rgb": "rgb", "xyz": "surface"}[modality]
    for sample in read_golden(bundle / "golden.npz"):
        inputs = {name: sample.inputs[name] for name in detector.input_names}
        with torch.no_grad():
            _, expected = detector(*(torch.from_numpy(array) for array in inputs.values()))
        assert float(expected.max()) > 0
        feeds = [inputs]
        if view != "sensor":
            cells = searched_cells(inputs[image], 14)
            assert cells is not None
            feeds.append({**inputs, f"{image}{SUFFIX}": cells})
        for feed in feeds:
            (found,) = session.run(["map"], feed)
            np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=tolerance * float(expected.max()))


@pytest.mark.parametrize(
    ("modality", "view", "variant"),
    some([case for case in (*DEFAULT_CASES, *LONG_CASES) if case[1] != "sensor"], DEFAULT_CASES),
)
def test_a_list_without_a_cell_of_the_part_fails(exported: Any, modality: str, view: str, variant: str) -> None:
    bundle = exported(modality, "f2f", "fp32", xyz=NORMALS, view=view, verdict="map", **VARIANTS[variant])
    engine = open_engine(bundle / "graph.onnx")
    inputs = read_golden(bundle / "golden.npz")[0].inputs
    image = {"rgb": "rgb", "xyz": "surface"}[modality]
    cells = searched_cells(inputs[image], 14)
    assert cells is not None
    for short in (cells[1:], cells[:-1], np.repeat(cells[:-1], 20), cells[:2]):
        with pytest.raises(EngineError, match="out of data bounds|invalid index"):
            engine.run({**inputs, f"{image}{SUFFIX}": short})
    engine.close()


@pytest.mark.parametrize(
    ("case", "banks", "maps"),
    some(zip(CASES, (2, 1, 2, 2, 1), (2, 1, 3, 2, 2), strict=True), [(CASES[3], 2, 2), (CASES[4], 1, 2)]),
)
def test_detector_has_the_banks_and_maps_of_its_recipe(
    trained: Any, case: tuple[str, str, str], banks: int, maps: int
) -> None:
    modality, view, variant = case
    changes = {"xyz": NORMALS, "view": view, "verdict": "map", **VARIANTS[variant]}
    detector = load_run(trained(modality, "f2f", **changes)).detector
    assert (len(detector.searches), len(detector.score_weights)) == (banks, maps)
    assert all(float(weight) > 0 for weight in detector.map_weights)


def test_uncertainty_has_the_greatest_likelihood() -> None:
    """Errors of a known log-linear variance: the gradient of the loss vanishes, and both variances are found."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = FeatureToFeature(6, 40).eval()
    x = torch.randn(4000, 6, generator=generator)
    with torch.no_grad():
        hidden, y = network.hidden(x), network(x)
        noisy = hidden[:, 0] > hidden[:, 0].median()
        y = y + torch.randn(y.shape, generator=generator) * torch.where(noisy, 0.4, 0.1)[:, None]
    pairs = [(x[:1500], y[:1500]), (x[1500:], y[1500:])]
    found = torch.cat(log_variances(network, pairs, torch.device("cpu")))
    design = torch.cat([hidden, torch.ones(len(x), 1)], 1).double()
    with torch.no_grad():
        error = (network(x) - y).double().square().mean(1)
    residual = error * torch.exp(-found) - 1
    assert float(residual.mean().abs()) < 1e-4  # the offset carries no penalty; ten steps leave 1.3e-6 here
    assert float((design.T @ residual).abs().max()) < 0.02 * len(x)
    constant = error.mean().log().expand(len(x))
    losses = [float((0.5 * torch.exp(-s) * error + 0.5 * s).mean()) for s in (found, constant)]
    assert losses[0] < losses[1] - 0.1
    assert float(found[noisy].mean() - found[~noisy].mean()) > 1.0


def test_row_weights_are_between_a_half_and_one() -> None:
    weights = weights_of(torch.tensor([0.0, 0.0, 0.0, 1.0, 10.0, -3.0], dtype=torch.float64))
    np.testing.assert_allclose(weights, [1, 1, 1, np.exp(-0.5), 0.5, 1], rtol=1e-6)


def test_distances_are_weighted_by_the_row_that_was_found() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, queries = torch.randn(7, 3, generator=generator), torch.randn(16, 3, generator=generator)
    weights = torch.linspace(0.5, 1, 7)
    bank = MemoryBank(rows, 0.0, 1.0, None, weights)
    scorer = BankScorer(bank, grid=4, size=16, published_blur=False, image_score="max")
    score, distances = scorer.compare(queries, torch.arange(16))
    apart = torch.cdist(queries.double(), rows.double())
    expected = apart.amin(1) * weights[apart.argmin(1)]
    torch.testing.assert_close(distances.double(), expected, rtol=1e-5, atol=1e-6)
    assert float(score) == pytest.approx(float(expected.max()), rel=1e-5)


def test_a_bank_without_some_rows_keeps_the_weights_of_the_others() -> None:
    rows, weights = torch.arange(12.0).reshape(6, 2), torch.linspace(0.5, 1, 6)
    bank = MemoryBank(rows[:4], 0.0, 1.0, None, weights[:4])
    kept = torch.tensor([True, False, True, True])
    changed_bank = bank.exchanged(kept, rows[5:], weights[5:])
    assert torch.equal(changed_bank.rows, rows[[0, 2, 3, 5]])
    assert changed_bank.weights is not None
    assert torch.equal(changed_bank.weights, weights[[0, 2, 3, 5]])


def test_uncertainty_leaves_the_network_and_banks_as_they_are(trained: Any) -> None:
    changes = {"xyz": NORMALS, "view": "top", "verdict": "map", "image_score": "max"}
    plain, weighed = (trained("xyz", "f2f", **changes, uncertainty=value) for value in ("none", "bank"))
    for name in ("hallucination", "banks"):
        first, second = (load_tensors(run / f"{name}.safetensors") for run in (plain, weighed))
        assert set(first) == set(second)
        assert all(torch.equal(first[key], second[key]) for key in first)
    main, hallucinated = load_banks(weighed, load_run(weighed).recipe)
    assert main.weights is None
    assert hallucinated.weights is not None
    assert hallucinated.weights.shape == hallucinated.rows.shape[:1]
    assert 0.5 <= float(hallucinated.weights.min()) < float(hallucinated.weights.max()) <= 1


def test_network_without_its_inverse_or_scale_is_damaged(trained: Any, tmp_path: Path) -> None:
    changes = {"inverse-hallucination": {"residual_map": "cycle"}, "no scale of the main": {"main_bank": "enhanced"}}
    for words, change in changes.items():
        run = tmp_path / words
        shutil.copytree(trained("rgb", "f2f", xyz=NORMALS, view="sensor", verdict="map", **change), run)
        if "residual_map" in change:
            (run / "inverse-hallucination.safetensors").unlink()
        else:
            file = run / "hallucination.safetensors"
            metadata = {name: value for name, value in load_metadata(file).items() if name != "main_scale"}
            save_tensors(file, load_tensors(file), metadata)
        with pytest.raises(RunError, match=words):
            load_run(run)


def test_impossible_weights_of_rows_or_scores_are_damage(trained: Any, tmp_path: Path) -> None:
    changes = {"xyz": NORMALS, "view": "top", "verdict": "map", "image_score": "max", "uncertainty": "bank"}
    shutil.copytree(trained("xyz", "f2f", **changes), run := tmp_path / "run")
    whole = {name: (run / name).read_bytes() for name in (ROW_WEIGHTS, FUSION, BANKS)}
    weights, banks = load_tensors(run / ROW_WEIGHTS)["weights"], load_tensors(run / BANKS)
    chosen = banks["fusion.chosen"]
    for name, tensors in (
        (ROW_WEIGHTS, {"others": weights}),
        (ROW_WEIGHTS, {"weights": weights * 0.1}),
        (BANKS, {**banks, "fusion.chosen": torch.where(chosen == chosen.max(), -1, chosen)}),
    ):
        save_tensors(run / name, tensors, load_metadata(run / name) or None)
        with pytest.raises(RunError, match="weight"):
            load_run(run)
        (run / name).write_bytes(whole[name])
    for scores in ([1.0], [1.0, 1.0, 1.0], [1.0, float("nan")]):
        (run / FUSION).write_text(json.dumps({"score_weights": scores, "map_weights": [1.0, 1.0]}))
        with pytest.raises(RunError, match="no finite weight for each of the 2 scores|damaged"):
            load_run(run)
    (run / FUSION).write_bytes(whole[FUSION])
    load_run(run)


def test_networks_are_taken_over_for_the_same_recipe_only(data: Path, trained: Any, tmp_path: Path) -> None:
    changes = {"xyz": NORMALS, "view": "sensor", "verdict": "map", "residual_map": "cycle"}
    source, recipe = trained("rgb", "f2f", **changes), tiny_recipe("rgb", "f2f", **changes)
    fit(data, "gear", recipe, tmp_path / "again", options=FitOptions(network_from=source))
    for name in ("hallucination", "inverse-hallucination"):
        first, second = (load_tensors(run / f"{name}.safetensors") for run in (source, tmp_path / "again"))
        assert all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(RunError, match="another residual_map"):
        plain = changed(recipe, residual_map="none")
        fit(data, "gear", plain, tmp_path / "plain", options=FitOptions(network_from=source))


def test_options_need_f2f_in_the_default_mode() -> None:
    for change in VARIANTS.values():
        for hallucination, mode in (("none", "default"), ("i2f", "default"), ("f2f", "faithful")):
            with pytest.raises(RunError, match="except for the hallucination f2f"):
                tiny_recipe("rgb", hallucination, mode=mode, **change)
    for change in ({"main_bank": "enhanced"}, {"image_score": "reweighted"}):
        with pytest.raises(RunError, match="unless the main bank is plain"):
            tiny_recipe("rgb", "f2f", **{"uncertainty": "bank", "image_score": "max", **change})
    for options in (replace(DISTILLATION, context=3), replace(DISTILLATION, coordinates="cell")):
        with pytest.raises(RunError, match="image of normals or depth"):
            tiny_recipe("xyz", "f2f", distillation=options)
    for changes in ({}, {"xyz": SurfaceExtractor("normals", RgbExtractor("resnet10t", (1,), 14))}):
        with pytest.raises(RunError, match="a CNN with several stages"):
            tiny_recipe("rgb", "f2f", **VARIANTS["stages"], **changes)


def test_layers_of_a_vit_are_targets_like_stages(trained: Any) -> None:
    """Each layer has its own directions, with a total variance of 1."""
    vit = RgbExtractor("test_vit", (), None, layers=(1, 2))
    run = trained("rgb", "f2f", rgb=vit, xyz=SurfaceExtractor("normals", vit), **VARIANTS["stages"])
    basis = load_basis(run, "xyz")
    assert basis is not None and basis.shape == (128, 128)
    assert not basis[:64, 64:].any() and not basis[64:, :64].any()
    assert all(basis[part].any() for part in (slice(0, 64), slice(64, 128)))
    with pytest.raises(RunError, match="a ViT with several layers"):
        tiny_recipe("rgb", "f2f", **VARIANTS["stages"], xyz=SurfaceExtractor("normals", replace(vit, layers=(1,))))


def test_recipe_of_an_earlier_version_has_none_of_these() -> None:
    earlier = tiny_recipe("rgb", "f2f").to_json()
    assert not {"main_bank", "residual_map", "uncertainty"} & set(earlier["detector"])
    assert not {"context", "coordinates", "targets"} & set(earlier["detector"]["distillation"])
    assert Recipe.from_json(earlier).detector == tiny_recipe("rgb", "f2f").detector
    for variant in ("all", "located"):
        recipe = tiny_recipe("rgb", "f2f", xyz=NORMALS, **VARIANTS[variant])
        assert Recipe.from_json(recipe.to_json()) == recipe
    for name, value in (("main_bank", 5), ("residual_map", "cycled"), ("uncertainty", True)):
        with pytest.raises(RunError, match=name):
            changed(tiny_recipe("rgb", "f2f"), **{name: value})
    for context in (0, 2, 7, True, 3.0):
        with pytest.raises(RunError, match=r"distillation\.context"):
            replace(DISTILLATION, context=context)
