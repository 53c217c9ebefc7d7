"""Measure the peak memory of one contender of `compare` in a separate process.

`python -m studies.comparison.peak KIND FOLDER SAMPLE` with KIND one of `graph`, `published`, `anomalib-torch` and
`anomalib-exported`. Each kind imports only what it runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_bench.peak import main, measured

SAMPLE_ARRAYS = ("rgb", "xyz", "resized", "image", "cloud")
"""Arrays of a SAMPLE file: sensor data, the resized image, and the published program's tensors."""

Arrays = dict[str, npt.NDArray[Any]]


def _graph(folder: str, sample_file: str) -> dict[str, Any]:
    from cmdiad_runtime.engines import open_engine
    from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare
    from cmdiad_runtime.sample import Sample

    arrays = _arrays(sample_file)
    written = (Path(folder) / "preprocessing.json").read_text(encoding="utf-8")
    preprocessing = Preprocessing.from_json(json.loads(written))
    sample = Sample("sample", rgb=arrays["rgb"], xyz=arrays["xyz"])

    def opened() -> Callable[[int], object]:
        engine = open_engine(Path(folder) / "graph.onnx")
        return lambda turn: engine.run(prepare(sample, preprocessing).inputs)

    return measured(opened)


def _published(folder: str, sample_file: str) -> dict[str, Any]:
    import torch

    from studies.comparison.contenders import load_published

    arrays = _arrays(sample_file)

    def opened() -> Callable[[int], object]:
        published = load_published(Path(folder))
        image, cloud = torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["cloud"])
        return lambda turn: published.predict(image, cloud)

    return measured(opened)


def _anomalib_torch(folder: str, sample_file: str) -> dict[str, Any]:
    from studies.comparison.anomalib_patchcore import AnomalibTorch

    return measured(lambda: _run_on(AnomalibTorch(Path(folder)), sample_file))


def _anomalib_exported(folder: str, sample_file: str) -> dict[str, Any]:
    from cmdiad_runtime.engines import open_engine

    def opened() -> Callable[[int], object]:
        engine = open_engine(Path(folder) / "weights" / "onnx" / "model.onnx")
        image = np.ascontiguousarray(_arrays(sample_file)["resized"].transpose(0, 3, 1, 2)).astype(np.float32) / 255
        return lambda turn: engine.run({"input": image})

    return measured(opened)


def _run_on(contender: Any, sample_file: str) -> Callable[[int], object]:
    resized = _arrays(sample_file)["resized"]
    return lambda turn: contender.score(resized)


def _arrays(file: str) -> Arrays:
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in SAMPLE_ARRAYS}


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "graph": _graph,
    "published": _published,
    "anomalib-torch": _anomalib_torch,
    "anomalib-exported": _anomalib_exported,
}

if __name__ == "__main__":
    sys.exit(main(KINDS, sys.argv[1:]))
