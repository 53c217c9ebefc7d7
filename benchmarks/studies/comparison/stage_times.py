"""Attribute a graph's time to stages with ONNX Runtime's profile of the measured runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from cmdiad_runtime.engines.onnx_runtime import import_onnxruntime, session_options
from cmdiad_runtime.engines.searched_cells import grids_of, lists_of

STAGES = ("extract", "geometry", "hallucination", "search", "scoring")
"""Stages: `geometry` is sampling to pooling of points; `scoring` is reweighting, map and fusion."""
_KERNEL = "_kernel_time"


class ProfiledGraph:
    """A graph in ONNX Runtime on the CPU, opened as the runtime does, with profiling enabled."""

    def __init__(self, graph: Path) -> None:
        ort = import_onnxruntime("cpu")
        options = session_options(ort, "cpu")
        options.enable_profiling = True
        options.profile_file_prefix = str(graph.with_suffix(""))
        self._session: Any = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self._grids = grids_of(self._session.get_modelmeta().custom_metadata_map)

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs by name."""
        fed = {**lists_of(inputs, self._grids), **inputs}
        return dict(zip(self._names, self._session.run(self._names, fed), strict=True))

    def close(self) -> list[dict[str, float]]:
        """Release memory and return the milliseconds by stage of each run so far."""
        profile = Path(self._session.end_profiling())
        self._session = None
        events = json.loads(profile.read_text(encoding="utf-8"))
        profile.unlink()
        return stages_of_runs(events)


def stages_of_runs(events: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return milliseconds by stage of each run in a profile.

    Nodes run one after the other. Nodes inside a loop are left out, since the loop's own time includes them. A node
    belongs to the module at the start of its name; if a rewriting of the graph removed the name, to the stage before.
    """
    ordered = sorted(events, key=lambda event: (event["ts"], -event["dur"]))
    runs: list[dict[str, float]] = []
    until, stage = 0, STAGES[0]
    for event in ordered:
        if event["name"] == "model_run":
            runs.append(dict.fromkeys(STAGES, 0.0))
            until, stage = 0, STAGES[0]
        elif runs and event["name"].endswith(_KERNEL) and event["ts"] >= until:
            until = event["ts"] + event["dur"]
            stage = _stage(event["name"].removesuffix(_KERNEL), stage)
            runs[-1][stage] += event["dur"] / 1e3
    return runs


def _stage(node: str, before: str) -> str:
    module = node.partition("/")[0]
    first, *rest = module.split(".")
    if first == "features":
        return "extract" if "extractor" in rest else "geometry"
    if first == "hallucinated":
        return "hallucination"
    if first == "scorers":
        return "search" if "search" in rest else "scoring"
    return before
