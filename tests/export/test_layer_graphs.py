"""A detector with features of an early block of a ViT: training, certified graphs, inspection, provenance."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from cmdiad_runtime.bundle.certificate import TOLERANCES
from cmdiad_runtime.cli import info, run
from cmdiad_runtime.engines import open_engine
from cmdiad_train.cli import train
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.recipe import bank_part
from cmdiad_train.runs.run import load_run
from helpers import command

VIT = ("--modality", "rgb", "--view", "sensor", "--rgb-backbone", "test_vit", "--rgb-weights", "seeded", "--size", 112)
PROVENANCE = "test_vit, layers 1,2, random weights, seed 0 (not trained)"
PRECISIONS = ("fp32", "fp16", "int8-cpu")


@pytest.fixture(scope="module")
def layers_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "layers"
    ended = command(train.cli, data, *VIT, "--rgb-layers", "1,2", "--out", out)
    assert ended.code == 0, ended.err
    return out


@pytest.fixture(scope="module")
def bundles(layers_run: Path, bundle_of: Callable[[Path, str], Path]) -> dict[str, Path]:
    return {precision: bundle_of(layers_run, precision) for precision in PRECISIONS}


def test_the_record_names_the_layers(layers_run: Path, bundles: dict[str, Path]) -> None:
    opened = load_run(layers_run)
    rgb = bank_part(opened.recipe).rgb
    assert (rgb.stages, rgb.layers) == ((), (1, 2))
    for content in (
        json.loads((layers_run / "run.json").read_text()),
        json.loads((bundles["fp16"] / "manifest.json").read_text()),
    ):
        assert content["provenance"]["rgb"]["extractor"] == PROVENANCE
        assert content["recipe"]["detector"]["rgb"]["layers"] == [1, 2]
    for path in (layers_run, bundles["fp16"]):
        ended = command(info.cli, path)
        assert ended.code == 0 and PROVENANCE in " ".join(ended.out.split()), ended.out


def test_a_loaded_run_has_the_blocks_alone(layers_run: Path) -> None:
    detector = load_run(layers_run).detector
    assert isinstance(detector, Detector)
    names = {name for name, _ in detector.features[0].extractor.model.named_parameters()}
    assert any(name.startswith("blocks.1.") for name in names)
    assert not any(name.startswith(("blocks.2.", "blocks.5.", "norm.")) for name in names)


@pytest.mark.parametrize("precision", PRECISIONS)
@torch.no_grad()
def test_graphs_give_the_results_of_torch(layers_run: Path, bundles: dict[str, Path], precision: str) -> None:
    """The map of each golden sample differs from that of torch by no more than the certificate allows."""
    opened, tolerance = load_run(layers_run), TOLERANCES[precision]
    threshold = opened.calibration.map_threshold
    engine = open_engine(bundles[precision] / "graph.onnx")
    assert opened.golden
    for sample in opened.golden:
        tensors = [sample.inputs[name] for name in opened.detector.input_names]
        _, expected = opened.detector(*tensors)
        outputs = engine.run({name: t.numpy() for name, t in zip(opened.detector.input_names, tensors, strict=True)})
        drift = np.abs(outputs["map"] - expected.numpy()).max() / threshold
        assert drift <= tolerance.map
    engine.close()


def test_bundles_inspect(bundles: dict[str, Path], data: Path, tmp_path: Path) -> None:
    for precision, bundle in bundles.items():
        assert command(run.cli, bundle, "--self-test").code == 0
        ended = command(run.cli, bundle, data / "gear/test", "--output", tmp_path / precision)
        assert ended.code == 0, ended.err
        lines = (tmp_path / precision / "results.jsonl").read_text().splitlines()
        assert len(lines) == 5
        assert all(json.loads(line)["score"] > 0 for line in lines)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graphs_have_no_later_blocks(bundles: dict[str, Path], precision: str) -> None:
    """Nodes and weights have the names of their modules."""
    graph = onnx.load(bundles[precision] / "graph.onnx").graph
    names = [*(node.name for node in graph.node), *(stored.name for stored in graph.initializer)]
    blocks = Counter(number for name in names for number in re.findall(r"\.blocks\.(\d+)\.", name))
    assert set(blocks) == {"0", "1"}
    assert min(blocks.values()) > 10
    assert not [name for name in names if ".model.norm" in name]


def test_layers_beyond_the_model_are_refused(data: Path, tmp_path: Path) -> None:
    ended = command(train.cli, data, *VIT, "--rgb-layers", "2,7", "--out", tmp_path / "run")
    assert ended.code == 7
    assert "backbone test_vit: found layers 2,7. Expected layers from 1 to 6" in ended.error
