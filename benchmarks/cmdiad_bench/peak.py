"""The process whose memory is measured: opens one thing, runs it three times, prints what it took.

`python -m cmdiad_bench.peak KIND ...` with KIND one of `bundle BUNDLE ENGINE FILE...`, and for `compare`
`graph FOLDER SAMPLE`, `published FOLDER SAMPLE`, `anomalib-torch FOLDER SAMPLE`, `anomalib-exported FOLDER SAMPLE`.
Each imports only what it runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_export.planning.peak import resident_mb

RUNS = 3
SAMPLE_ARRAYS = ("rgb", "xyz", "resized", "image", "cloud")
"""Of a SAMPLE file: as the sensors saw it, the resized image, and the published program's tensors."""

Arrays = dict[str, npt.NDArray[Any]]


def measured(opened: Callable[[], Callable[[int], object]]) -> dict[str, float]:
    """Open something that can be run, run it three times, and return `opened_mb` and `peak_resident_mb`."""
    run = opened()
    after_opening = resident_mb()
    for turn in range(RUNS):
        run(turn)
    return {"opened_mb": after_opening, "peak_resident_mb": resident_mb("VmHWM")}


def _bundle(path: str, engine: str, *files: str) -> dict[str, Any]:
    from cmdiad_runtime.inspection.inputs import read_sample
    from cmdiad_runtime.inspection.inspector import Inspector

    with Inspector.open(path, engine=engine) as inspector:  # type: ignore[arg-type]  # the parent checked it

        def inspect(turn: int) -> None:
            inspector.inspect(read_sample(Path(files[turn % len(files)]), inspector.bundle.preprocessing))

        return {
            **measured(lambda: inspect),
            "bundle": inspector.bundle.name,
            "engine": inspector.engine.description,
            "precision": inspector.bundle.precision,
            "banks": inspector.bundle.manifest["graph"]["banks"],
        }


def _graph(folder: str, sample_file: str) -> dict[str, Any]:
    from cmdiad_runtime.engines import open_engine
    from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare
    from cmdiad_runtime.sample import Sample

    arrays = _arrays(sample_file)
    preprocessing = Preprocessing.from_json(
        json.loads((Path(folder) / "preprocessing.json").read_text(encoding="utf-8"))
    )
    sample = Sample("sample", rgb=arrays["rgb"], xyz=arrays["xyz"])

    def opened() -> Callable[[int], object]:
        engine = open_engine(Path(folder) / "graph.onnx")
        return lambda turn: engine.run(prepare(sample, preprocessing).inputs)

    return measured(opened)


def _published(folder: str, sample_file: str) -> dict[str, Any]:
    import torch

    from studies.contenders import load_published

    arrays = _arrays(sample_file)

    def opened() -> Callable[[int], object]:
        published = load_published(Path(folder))
        image, cloud = torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["cloud"])
        return lambda turn: published.predict(image, cloud)

    return measured(opened)


def _anomalib_torch(folder: str, sample_file: str) -> dict[str, Any]:
    from studies.anomalib_patchcore import AnomalibTorch

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
    "bundle": _bundle,
    "graph": _graph,
    "published": _published,
    "anomalib-torch": _anomalib_torch,
    "anomalib-exported": _anomalib_exported,
}


def main(arguments: Sequence[str]) -> int:
    """Print the figures as JSON and return the exit code."""
    from cmdiad_runtime.errors import CmdiadError

    kind, *rest = arguments
    try:
        figures = KINDS[kind](*rest)
    except CmdiadError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
