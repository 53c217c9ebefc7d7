"""Measure the published Tuned Reverse Distillation in plain torch against the graph of the same size, side by side.

Both start from what the sensors saw and end with score and map. Weights are random, because neither time nor memory
depends on them. `python -m studies trd DATA CATEGORY --size resnet18`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmdiad_bench.peak import main, measured
from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.files import write_json

IMAGE_SIZE = 256
PUBLISHED, GRAPH = "published", "graph"
PERCENTILES = (50, 95)
Run = Callable[[Sample], float]


def published(size: str) -> Run:
    """Return the published inference: published images of both sensors, and networks in torch.

    Args:
        size: Size of the networks, a key of `published_trd.SIZES`.
    """
    import torch
    from PIL import Image

    from cmdiad_runtime.preprocess.cloud.published_surface import published_image
    from cmdiad_train.recipe import IMAGENET_MEAN, IMAGENET_STD
    from studies.published_trd import SIZES, PublishedTrd

    network = PublishedTrd(SIZES[size])  # type: ignore[index]
    mean, deviation = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)

    def normalised(image: Any) -> torch.Tensor:
        return ((torch.tensor(np.asarray(image)) / 255 - mean) / deviation).permute(2, 0, 1)[None].contiguous()

    def run(sample: Sample) -> float:
        assert sample.rgb is not None
        assert sample.xyz is not None
        resized = Image.fromarray(sample.rgb).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
        surface = published_image(sample.xyz, kind="pseudo-normals", size=IMAGE_SIZE, name=sample.name)
        return network.predict(normalised(resized), normalised(surface))[0]

    return run


def graph(folder: str) -> Run:
    """Return the inference of the graph that `write_graph` wrote, in ONNX Runtime."""
    from cmdiad_runtime.engines import open_engine

    written = (Path(folder) / "preprocessing.json").read_text(encoding="utf-8")
    preprocessing = Preprocessing.from_json(json.loads(written))
    engine = open_engine(Path(folder) / "graph.onnx")
    return lambda sample: float(engine.run(prepare(sample, preprocessing).inputs)["score"][0])


def write_graph(size: str, precision: str, samples: Sequence[Sample], folder: Path) -> None:
    """Write the graph of the variant trd and its preprocessing.

    Args:
        size: Name of the teacher.
        precision: "fp32" or "int8-cpu".
        samples: Samples that calibrate int8.
        folder: Output folder.
    """
    from cmdiad_export.graph.exporter import export_graph
    from cmdiad_export.precision.levels import Level
    from cmdiad_export.precision.reduction import QuantisedGraphs
    from cmdiad_train.detectors.family import as_tensors
    from cmdiad_train.detectors.trd.detector import ReverseDistillation
    from cmdiad_train.detectors.trd.networks.student import Student
    from cmdiad_train.detectors.trd.networks.teacher import Teacher
    from cmdiad_train.detectors.trd.preprocessing import make_preprocessing
    from cmdiad_train.recipe import TEACHER_STAGES, Recipe, RgbExtractor, TrdRecipe

    teacher = RgbExtractor(size, TEACHER_STAGES, None, "seeded")
    recipe = Recipe(TrdRecipe(variant="trd", teacher=teacher), modality="both", size=IMAGE_SIZE, view="sensor")
    network = Teacher(teacher, size=IMAGE_SIZE)
    detector = ReverseDistillation(recipe, network, [Student(network.shape, network.shape) for _ in range(2)])
    preprocessing = make_preprocessing(recipe, "rgb", "both")
    prepared = [as_tensors(prepare(sample, preprocessing).inputs) for sample in samples]
    inputs = [{name: arrays[name] for name in detector.input_names} for arrays in prepared]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "preprocessing.json", preprocessing.to_json())
    if precision == "fp32":
        export_graph(detector, inputs[0], folder / "graph.onnx")
        return
    arrays = [{name: tensor.numpy() for name, tensor in sample.items()} for sample in inputs]
    QuantisedGraphs(detector, "int8-cpu", inputs[0], arrays, folder / "graph.onnx").write(Level())


def compare_speed(
    size: str, precisions: Sequence[str], samples: Sequence[Sample], runs: int, out: Path
) -> dict[str, Any]:
    """Measure all contenders in turn, and the peak memory of each in a separate process.

    Args:
        size: Size of the networks.
        precisions: Precisions of the graph.
        samples: Samples with image and cloud, taken in turn.
        runs: Rounds after one to warm up.
        out: Folder for graphs and one sample.

    Returns:
        For each contender the milliseconds `p50` and `p95`, the processor time `cpu_p50`, `times_faster` than the
        published program in the same rounds (median), and `peak_resident_mb`.
    """
    from cmdiad_bench.memory import peak_of

    out.mkdir(parents=True, exist_ok=True)
    first = samples[0]
    assert first.rgb is not None
    assert first.xyz is not None
    np.savez(out / "sample.npz", rgb=first.rgb, xyz=first.xyz)
    contenders: dict[str, tuple[Run, list[str]]] = {PUBLISHED: (published(size), [PUBLISHED, size])}
    for precision in precisions:
        folder = out / precision
        write_graph(size, precision, samples[:4], folder)
        contenders[precision] = (graph(str(folder)), [GRAPH, str(folder)])
    times = {name: np.zeros((2, runs)) for name in contenders}
    for turn in range(-1, runs):
        for name, (run, _) in contenders.items():
            wall, processor = time.perf_counter(), time.process_time()
            run(samples[turn % len(samples)])
            if turn >= 0:
                times[name][:, turn] = time.perf_counter() - wall, time.process_time() - processor
    figures = {}
    for name, (_, arguments) in contenders.items():
        wall, processor = times[name] * 1e3
        p50, p95 = (float(np.percentile(wall, percentile)) for percentile in PERCENTILES)
        peak = peak_of("studies.trd_speed", [*arguments, str(out / "sample.npz")])["peak_resident_mb"]
        faster = float(np.median(times[PUBLISHED][0] / times[name][0]))
        figures[name] = {"p50": p50, "p95": p95, "cpu_p50": float(np.median(processor)), "times_faster": faster}
        figures[name]["peak_resident_mb"] = peak
    return figures


def speed_table(figures: dict[str, Any]) -> str:
    """Return the figures of `compare_speed` as a Markdown table."""
    lines = ["| | p50 / p95 ms | processor ms | times faster | peak MB |", "|---|---|---|---|---|"]
    for name, row in figures.items():
        wall = f"{row['p50']:.0f} / {row['p95']:.0f}"
        cells = [name, wall, f"{row['cpu_p50']:.0f}", f"{row['times_faster']:.1f}", f"{row['peak_resident_mb']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _peak(opened: Callable[[str], Run], argument: str, sample_file: str) -> dict[str, Any]:
    with np.load(sample_file, allow_pickle=False) as archive:
        sample = Sample("sample", rgb=archive["rgb"], xyz=archive["xyz"])

    def ready() -> Callable[[int], object]:
        run = opened(argument)
        return lambda turn: run(sample)

    return measured(ready)


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    PUBLISHED: lambda *arguments: _peak(published, *arguments),
    GRAPH: lambda *arguments: _peak(graph, *arguments),
}

if __name__ == "__main__":
    sys.exit(main(KINDS, sys.argv[1:]))
