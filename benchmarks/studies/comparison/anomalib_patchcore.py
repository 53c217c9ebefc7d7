"""Run anomalib's PatchCore with cmdiad's backbone and bank, in torch and exported, for `compare`. anomalib is optional.

PatchCore receives the resized image and runs all of its usual steps: resizing and normalisation, extraction, search,
reweighting over nine neighbours, and post-processing.
"""

from __future__ import annotations

import json
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from cmdiad_runtime.engines import open_engine
from cmdiad_runtime.support.files import write_json
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable
from studies.comparison.parts import Paired, Parts, RunResult
from studies.published import Stopwatch

WEIGHTS = "model.safetensors"


def is_installed() -> bool:
    """Return True if anomalib is installed."""
    return find_spec("anomalib") is not None


class AnomalibTorch:
    """PatchCore in torch, called through anomalib's own module."""

    name = "anomalib torch"

    def __init__(self, folder: Path) -> None:
        self.peak_arguments = ["anomalib-torch", str(folder)]
        self._stages_ms: list[dict[str, float]] = []
        self._model = load_patchcore(folder)

    def run(self, paired: Paired) -> RunResult:
        """Compute score and map from the resized image."""
        start = time.perf_counter()
        score = self.score(paired.resized)
        result = RunResult(score, (time.perf_counter() - start) * 1e3)
        self._stages_ms.append(self._stages(paired))
        return result

    @torch.no_grad()
    def score(self, resized: npt.NDArray[np.uint8]) -> float:
        """Return the score of an image uint8 `[1, size, size, 3]`."""
        return float(self._model(torch.from_numpy(unit_image(resized))).pred_score.reshape(-1)[0])

    @torch.no_grad()
    def _stages(self, paired: Paired) -> dict[str, float]:
        """Return milliseconds of extraction and search in a separate run."""
        watch, model = Stopwatch(), self._model.model
        image = self._model.pre_processor(torch.from_numpy(unit_image(paired.resized)))
        with watch("extract"):
            features = model.feature_extractor(image)
            pooled = {layer: model.feature_pooler(feature) for layer, feature in features.items()}
            rows = model.reshape_embedding(model.generate_embedding(pooled))
        with watch("search"):
            model.nearest_neighbors(embedding=rows, n_neighbors=1)
        return watch.stages_ms

    def close(self) -> list[dict[str, float]]:
        """Return milliseconds of extraction and search after each run."""
        return self._stages_ms


class AnomalibExported:
    """The graph that anomalib exports, in ONNX Runtime."""

    name = "anomalib exported"

    def __init__(self, folder: Path) -> None:
        self.peak_arguments = ["anomalib-exported", str(folder)]
        self._engine = open_engine(folder / "weights" / "onnx" / "model.onnx")
        self._runs = 0

    def run(self, paired: Paired) -> RunResult:
        """Compute score and map from the resized image."""
        start = time.perf_counter()
        outputs = self._engine.run({"input": unit_image(paired.resized)})
        score = float(np.ravel(outputs["pred_score"])[0])
        self._runs += 1
        return RunResult(score, (time.perf_counter() - start) * 1e3)

    def close(self) -> list[dict[str, float]]:
        """Release the engine's memory. The graph is one piece, so there are no stages."""
        self._engine.close()
        return [{} for _ in range(self._runs)]


def unit_image(resized: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Convert an image uint8 `[1, size, size, 3]` to anomalib's input, float32 `[1, 3, size, size]` from 0 to 1."""
    return np.ascontiguousarray(resized.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def save_patchcore(folder: Path, parts: Parts) -> None:
    """Save PatchCore with cmdiad's ViT and bank in a folder, as tensors and as the graph that anomalib exports."""
    folder.mkdir(parents=True, exist_ok=True)
    setup, bank, vit = parts.setup, parts.banks[0], parts.rgb.model
    layers = [f"blocks.{len(vit.blocks) - 1}"]
    write_json(folder / "options.json", {"backbone": setup.rgb.backbone, "layers": layers, "size": setup.size})
    state = {f"backbone.{name}": value.contiguous() for name, value in vit.state_dict().items()}
    save_file({**state, "bank": bank.rows * bank.std + bank.mean}, folder / WEIGHTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A batch of one: with a dynamic batch torch.export stops at PatchCore's chunks.
        load_patchcore(folder).to_onnx(folder, input_size=(setup.size, setup.size), dynamic_axes={}, opset_version=18)


def load_patchcore(folder: Path) -> Any:
    """Load the PatchCore that `save_patchcore` wrote, ready for inference."""
    make_torchvision_importable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from anomalib.models import Patchcore  # type: ignore[import-not-found]

        options = json.loads((folder / "options.json").read_text(encoding="utf-8"))
        size = (options["size"], options["size"])
        model = Patchcore(
            backbone=options["backbone"],
            layers=options["layers"],
            pre_trained=False,
            pre_processor=Patchcore.configure_pre_processor(image_size=size),
            visualizer=False,
            evaluator=False,
        ).eval()
    state = load_file(folder / WEIGHTS)
    own = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    model.model.feature_extractor.feature_extractor.load_state_dict(own, strict=False)
    model.model.memory_bank = state["bank"]
    return model
