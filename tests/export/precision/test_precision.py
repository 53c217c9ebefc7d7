"""What computes in fp16 and what stays in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cmdiad_export.precision.casting import Fp32Island, island_names, to_precision
from cmdiad_export.precision.levels import fp16_levels, is_within
from cmdiad_train.runs.run import Run, load_run

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
    """A group is millimetres wide: in fp16 metres its shape would be lost (method §6.5)."""
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


@pytest.fixture
def vit(trained: Cached) -> Run:
    """A tiny ViT with hallucination: attention of timm's."""
    from cmdiad_train.recipe import RgbExtractor

    return load_run(trained("rgb", "f2f", rgb=RgbExtractor("test_vit", ())))


def outputs(run: Run, detector: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = next(iter(run.golden.values()))
    return detector(*(inputs[name] for name in run.detector.input_names))


def test_levels_widen_step_by_step(vit: Run) -> None:
    levels = fp16_levels(vit.detector)
    assert [level.name for level in levels] == ["", "softmax", "attention", "hallucination network", "extractors"]
    assert [level.softmax for level in levels] == [False, True, True, True, True]
    single, counts = outputs(vit, vit.detector), []
    for level in levels:
        reduced = to_precision(vit.detector, "fp16", level)
        counts.append(sum(p.numel() for p in reduced.parameters() if p.dtype == torch.float32))
        score, anomaly_map = outputs(vit, reduced)
        torch.testing.assert_close(score, single[0], rtol=2e-2, atol=0)
        torch.testing.assert_close(anomaly_map, single[1], rtol=0, atol=2e-2 * float(single[1].max()))
        for name, module in reduced.named_modules():
            if any(p.dtype == torch.float32 for p in module.parameters(recurse=False)):
                assert isinstance(module, nn.LayerNorm) or is_within(name.replace(".module", ""), level.modules), name
    assert counts == sorted(counts)
    assert len(set(counts)) == 4  # softmax has no weights
    assert counts[-1] == sum(p.numel() for p in vit.detector.parameters())


def test_levels_without_attention_or_hallucination(trained: Cached) -> None:
    assert [level.name for level in fp16_levels(load_run(trained("rgb")).detector)] == ["", "extractors"]


def test_attention_of_points_can_be_an_island(trained: Cached) -> None:
    run = load_run(trained("xyz"))
    level = next(level for level in fp16_levels(run.detector) if level.name == "attention")
    reduced = to_precision(run.detector, "fp16", level)
    attention = reduced.get_submodule("features.0.extractor.blocks.blocks.0.attn")
    assert isinstance(attention, Fp32Island)
    assert attention.module.qkv.weight.dtype == torch.float32
    assert reduced.get_submodule("features.0.extractor.blocks.blocks.0.mlp.fc1").weight.dtype == torch.float16
    score, _ = outputs(run, reduced)
    torch.testing.assert_close(score, outputs(run, run.detector)[0], rtol=2e-2, atol=0)


def test_quantisation_starts_from_single_networks_and_half_banks(vit: Run) -> None:
    for precision in ("int8", "fp8"):
        detector = to_precision(vit.detector, precision)
        assert {p.dtype for p in detector.parameters()} == {torch.float32}
        assert {search.rows.dtype for search in detector.searches} == {torch.float16}


def test_within_is_by_whole_names() -> None:
    assert is_within("a.b", ["a"])
    assert is_within("a", ["a"])
    assert not is_within("ab", ["a"])
    assert not is_within("a", ["a.b"])
