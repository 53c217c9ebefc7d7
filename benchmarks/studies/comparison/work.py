"""The stages of cmdiad as separate modules, and the work that each cannot avoid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmdiad_runtime.preprocess.prepare import prepare
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.memory_bank import BankScorer
from cmdiad_train.detectors.bank.patches import PatchFeatures
from cmdiad_train.detectors.bank.preprocessing import make_preprocessing
from cmdiad_train.detectors.family import as_tensors
from studies.comparison.floor import Work, total_work, work_of
from studies.comparison.parts import Paired, Parts

StageModules = dict[str, tuple[nn.Module, dict[str, Tensor]]]


@torch.no_grad()
def stage_modules(detector: Detector, inputs: dict[str, Tensor]) -> StageModules:
    """Return the stages that contain products as modules, each with the inputs of one sample by name."""
    features = detector.features[0]
    assert isinstance(features, PatchFeatures)
    rows, _ = features(*inputs.values())
    modules: StageModules = {"extract": (_Extract(features.extractor), _fed_to_extractor(inputs))}
    if "weights" in inputs:
        group_features = modules["extract"][0](*modules["extract"][1].values())
        modules["pool"] = (_Pool(), {"weights": inputs["weights"], "features": group_features})
    searched = [rows]
    if detector.hallucinated is not None:
        network = _Float(detector.hallucinated.network)
        modules["hallucination"] = (network, {"rows": rows})
        searched.append(network(rows))
    for number, queries in enumerate(searched):
        scorer = detector.scorers[number]
        assert isinstance(scorer, BankScorer)
        modules[f"search-{number}"] = (_Search(scorer), {"rows": queries})
    return modules


def needed_work(parts: Parts, paired: Paired) -> dict[str, Work]:
    """Return the necessary work of each stage in cmdiad's fp32 form; stages without products are left out."""
    detector = parts.detector("faithful")
    prepared = prepare(paired.sample, make_preprocessing(parts.setup.recipe("faithful"), "rgb"))
    inputs = as_tensors(prepared.inputs)
    modules = stage_modules(detector, {name: inputs[name] for name in detector.input_names})
    work = {name: work_of(module, *fed.values()) for name, (module, fed) in modules.items()}
    needed: dict[str, Work] = {name: work[name] for name in ("extract", "hallucination") if name in work}
    if "pool" in work:
        needed["geometry"] = work["pool"]
    return needed | {"search": total_work(work[name] for name in work if name.startswith("search"))}


class _Extract(nn.Module):
    """An extractor's features of one sample, `[T, C]`."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.extractor(*inputs)[0].float()


class _Pool(nn.Module):
    """Interpolation, zero fill and pooling as one product."""

    def forward(self, weights: Tensor, features: Tensor) -> Tensor:
        return weights @ features


class _Float(nn.Module):
    """A network whose output is float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: Tensor) -> Tensor:
        return self.network(rows).float()


class _Search(nn.Module):
    """Normalisation and search of a bank."""

    def __init__(self, scorer: BankScorer) -> None:
        super().__init__()
        self.search, self.mean, self.std = scorer.search, scorer.mean, scorer.std

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.search((rows - self.mean) / self.std)


def _fed_to_extractor(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in inputs.items() if name not in ("weights", "cells")}
