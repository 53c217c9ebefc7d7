"""The contenders of `compare`: the published inference and cmdiad in each form, on one set of banks."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cmdiad_export.graph.exporter import export_graph
from cmdiad_export.precision.casting import to_precision
from cmdiad_export.precision.reduction import QuantisedGraphs
from cmdiad_runtime.bundle.certificate import tolerance_for
from cmdiad_runtime.engines import open_engine
from cmdiad_runtime.preprocess.cloud.cloud_inputs import prepare_cloud
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.prepare import prepare
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.files import write_json
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.preprocessing import make_preprocessing
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.recipe import (
    RgbExtractor,
)
from cmdiad_train.recipe import XyzExtractor as PointExtractor
from studies.comparison.parts import Form, Paired, Parts, RunResult, Setup, f2f_network
from studies.comparison.stage_times import ProfiledGraph
from studies.published import Published, PublishedBank


class OursContender:
    """A form of cmdiad: a graph in ONNX Runtime behind the runtime's preprocessing.

    Args:
        parts: Weights and banks.
        form: Form to measure.
        paired: Samples. The first is used for the export; int8-cpu must stay within its certificate's tolerance on all.
        folder: Folder for `graph.onnx` and `preprocessing.json`.
    """

    def __init__(self, parts: Parts, form: Form, paired: Sequence[Paired], folder: Path) -> None:
        self.name = form.name
        self.peak_arguments = ["graph", str(folder)]
        folder.mkdir(parents=True, exist_ok=True)
        self.preprocessing = make_preprocessing(parts.setup.recipe(form.mode), "rgb")
        write_json(folder / "preprocessing.json", self.preprocessing.to_json())
        detector = parts.detector(form.mode, form.plan)
        graph = folder / "graph.onnx"
        if form.precision == "int8-cpu":
            inputs = [self._inputs(sample, detector) for sample in paired]
            write_within_tolerance(detector, parts.detector(form.mode), inputs, graph)
        else:
            export_graph(to_precision(detector, form.precision), self._inputs(paired[0], detector), graph)
        self._graph = ProfiledGraph(graph)
        self._geometry_ms: list[float] = []

    def run(self, paired: Paired) -> RunResult:
        """Compute score and map from sensor data."""
        start = time.perf_counter()
        outputs = self._graph.run(prepare(paired.sample, self.preprocessing).inputs)
        result = RunResult(float(outputs["score"][0]), (time.perf_counter() - start) * 1e3)
        if self.preprocessing.modality == "xyz":
            self._geometry_ms.append(self._time_geometry(paired))
        return result

    def _inputs(self, paired: Paired, detector: Detector) -> dict[str, Tensor]:
        arrays = as_tensors(prepare(paired.sample, self.preprocessing).inputs)
        return {name: arrays[name] for name in detector.input_names}

    def _time_geometry(self, paired: Paired) -> float:
        """Return milliseconds of sampling, grouping and interpolation on the published program's cloud."""
        framed = np.ascontiguousarray(paired.xyz.numpy().transpose(1, 2, 0))
        start = time.perf_counter()
        prepare_cloud(
            PartGeometry(Sample(paired.sample.name, xyz=framed), foreground=False),
            size=self.preprocessing.size,
            pad_multiple=1,
            groups=self.preprocessing.groups,
            group_size=self.preprocessing.group_size,
            grid=self.preprocessing.grid,
        )
        return (time.perf_counter() - start) * 1e3

    def close(self) -> list[dict[str, float]]:
        """Release the engine's memory. Return milliseconds of each of `STAGES` in each run."""
        runs = self._graph.close()
        for stages, geometry_ms in zip(runs, self._geometry_ms, strict=False):
            stages["geometry"] += geometry_ms
        if self.preprocessing.modality == "rgb":  # an image has none: what lies behind its extractor is a reshape
            for stages in runs:
                stages["extract"] += stages.pop("geometry")
        return [{stage: ms for stage, ms in stages.items() if ms} for stages in runs]


class PublishedContender:
    """The published inference in torch; files for a separate process go to `folder`."""

    name = "published"

    def __init__(self, parts: Parts, folder: Path) -> None:
        self._published = parts.published()
        self._stages_ms: list[dict[str, float]] = []
        self.peak_arguments = ["published", str(folder)]
        save_published(parts, folder)

    def run(self, paired: Paired) -> RunResult:
        """Compute score and map from resized tensors."""
        start = time.perf_counter()
        prediction = self._published.predict(paired.rgb, paired.xyz)
        self._stages_ms.append(prediction.stages_ms)
        return RunResult(prediction.score, (time.perf_counter() - start) * 1e3)

    def close(self) -> list[dict[str, float]]:
        """Return milliseconds of each stage in each run."""
        return self._stages_ms


@torch.no_grad()
def write_within_tolerance(detector: Detector, exact: Detector, inputs: list[dict[str, Tensor]], path: Path) -> None:
    """Write a detector's int8-cpu graph with as many products in int8 as the tolerance allows."""
    expected = [float(exact(*sample_inputs.values())[0]) for sample_inputs in inputs]
    tolerance = tolerance_for("int8-cpu", published_blur=False, fast_search=True).score
    graphs = QuantisedGraphs(detector, "int8-cpu", inputs[0], [], path)
    for level in graphs.levels():
        graphs.write(level)
        with closing(open_engine(path)) as engine:
            scores = [
                engine.run({name: value.numpy() for name, value in sample_inputs.items()})["score"]
                for sample_inputs in inputs
            ]
        if all(
            abs(float(score[0]) / expected_score - 1) <= tolerance
            for score, expected_score in zip(scores, expected, strict=True)
        ):
            return


def save_published(parts: Parts, folder: Path) -> None:
    """Save the files from which a separate process rebuilds the published inference."""
    folder.mkdir(parents=True, exist_ok=True)
    banks = {f"bank{number}": bank.rows.contiguous() for number, bank in enumerate(parts.banks)}
    save_file(banks, folder / "banks.safetensors")
    write_json(
        folder / "setup.json", {"setup": asdict(parts.setup), "mean": parts.banks[0].mean, "std": parts.banks[0].std}
    )


def load_published(folder: Path) -> Published:
    """Load the published inference that `save_published` wrote; weights come from the seed again."""
    record = json.loads((folder / "setup.json").read_text(encoding="utf-8"))
    fields = record["setup"]
    fields["rgb"], fields["xyz"] = RgbExtractor(**_tuples(fields["rgb"])), PointExtractor(**_tuples(fields["xyz"]))
    setup = Setup(**fields)
    rgb, xyz = TimmBackbone(setup.rgb, size=setup.size, seed=setup.seed), PointMae(setup.xyz, seed=setup.seed)
    rows = load_file(folder / "banks.safetensors")
    banks = (PublishedBank(rows["bank0"], 1.0, 1.0), PublishedBank(rows["bank1"], 1.0, 1.0))
    network = f2f_network(setup, rgb.width, xyz.width)
    return Published(setup.main, rgb, xyz, network, banks, record["mean"], record["std"], setup.size)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
