"""What computes in fp16 and what stays in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cmdiad_export.precision import Fp32Island, island_names, to_precision
from cmdiad_train.run_directory import load_run

Cached = Callable[..., Path]
VARIANTS = [("rgb", "none"), ("rgb", "f2f"), ("xyz", "none"), ("xyz", "f2f")]


@pytest.mark.parametrize(("modality", "hallucination"), VARIANTS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_trained_detector_is_left_alone(trained: Cached, modality: str, hallucination: str, precision: str) -> None:
    detector = load_run(trained(modality, hallucination)).detector
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    copy = to_precision(detector, precision)
    with torch.no_grad():
        for tensor in copy.state_dict().values():
            tensor.zero_()
    after = detector.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) and after[key].dtype == value.dtype for key, value in before.items())


@pytest.mark.parametrize(("modality", "hallucination"), VARIANTS)
def test_fp32_is_the_same_detector(trained: Cached, modality: str, hallucination: str) -> None:
    run = load_run(trained(modality, hallucination))
    inputs = next(iter(run.golden.values()))
    tensors = [inputs[name] for name in run.detector.input_names]
    for same, other in zip(run.detector(*tensors), to_precision(run.detector, "fp32")(*tensors), strict=True):
        assert torch.equal(same, other)


@pytest.mark.parametrize(("modality", "hallucination"), VARIANTS)
def test_products_are_half_and_norms_single(trained: Cached, modality: str, hallucination: str) -> None:
    detector = to_precision(load_run(trained(modality, hallucination)).detector, "fp16")
    for module in detector.modules():
        if isinstance(module, Fp32Island):
            assert all(p.dtype == torch.float32 for p in module.parameters())
        if isinstance(module, nn.LayerNorm):
            assert module.weight.dtype == torch.float32
        if isinstance(module, nn.Conv2d):
            assert module.weight.dtype == torch.float16
    assert all(search.rows.dtype == torch.float16 for search in detector.searches)
    assert all(search.half_squares.dtype == torch.float32 for search in detector.searches)
    assert detector.score_weights.dtype == detector.map_weights.dtype == torch.float32
    if detector.hallucinated is not None:
        assert detector.hallucinated.network.mlp.fc2.weight.dtype == torch.float16


def test_what_sees_metres_stays_single(trained: Cached) -> None:
    """A group is millimetres wide: in fp16 metres its shape would be lost (REFERENCE §6.5)."""
    extractor = to_precision(load_run(trained("xyz")).detector, "fp16").features[0].extractor
    assert extractor.encoder.first_conv[0].weight.dtype == torch.float32
    assert extractor.pos_embed[0].weight.dtype == torch.float32
    assert extractor.encoder.second_conv[3].weight.dtype == torch.float16
    assert extractor.blocks.blocks[0].attn.qkv.weight.dtype == torch.float16


def test_islands_are_named_for_the_record(trained: Cached) -> None:
    detector = load_run(trained("rgb", "f2f")).detector
    assert island_names(to_precision(detector, "fp16")) == ["hallucinated.network.norm.module"]
    xyz = island_names(to_precision(load_run(trained("xyz")).detector, "fp16"))
    assert "features.0.extractor.encoder.first_conv.0" in xyz
    assert not any("attn" in name for name in xyz)
