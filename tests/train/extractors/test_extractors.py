"""Extractors: sources of weights, refused weights, and rearranged arithmetic that gives the same results."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import golden
from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.extractors.point_mae import TokenEncoder
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable
from cmdiad_train.recipe import RgbExtractor, XyzExtractor
from helpers import truncate
from lanes import long

WEIGHTS = golden.SHARED / "weights"
RESNET = WEIGHTS / "resnetv2_50.mxnet_in1k_stage123.safetensors"
MOBILENET = WEIGHTS / "mobilenetv2_100.onnx_in1k_noclassifier.safetensors"
needs_weights = [
    pytest.mark.real_data,
    pytest.mark.skipif(not RESNET.exists(), reason="shared/weights is not next to this checkout"),
]
TINY_RGB = RgbExtractor("resnet10t", (0, 1), 14)
TINY_XYZ = XyzExtractor(groups=20, group_size=8, width=24, heads=3, depth=2, taps=(0, 1))


def image(size: int = 112) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, size, size, 3), generator=generator, dtype=torch.uint8)


def cloud(seed: int = 0, scale: float = 0.004) -> tuple[Tensor, Tensor]:
    """Centres `[1, 20, 3]` and groups `[1, 20, 8, 3]` in metres."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 20, 3, generator=generator), scale * torch.randn(1, 20, 8, 3, generator=generator)


@pytest.fixture
def stored_resnet(tmp_path: Path) -> Path:
    """The weights of a resnet10t with another seed, without its unused classifier."""
    path = tmp_path / "resnet10t.safetensors"
    model = TimmBackbone(replace(TINY_RGB, stages=(0, 1, 2, 3)), size=112, seed=7)
    save_file(model.model.state_dict(), path, {"mean": "[0.1, 0.2, 0.3]", "std": "[0.5, 0.6, 0.7]"})
    return path


def test_stored_weights_are_used_with_their_own_mean(stored_resnet: Path) -> None:
    spec = replace(TINY_RGB, weights=str(stored_resnet))
    loaded = TimmBackbone(spec, size=112)
    own = replace(TINY_RGB, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    assert torch.equal(loaded(image()), TimmBackbone(own, size=112, seed=7)(image()))
    assert not torch.equal(loaded(image()), TimmBackbone(own, size=112, seed=0)(image()))
    assert loaded.provenance == "resnet10t, resnet10t.safetensors"
    overruled = TimmBackbone(replace(spec, mean=(0.0, 0.0, 0.0)), size=112)
    assert not torch.equal(loaded(image()), overruled(image()))


def test_grid_and_width_match_the_output() -> None:
    model = TimmBackbone(TINY_RGB, size=112)
    assert model(image()).shape == (1, model.grid**2, model.width) == (1, 196, 192)


def test_provenance_names_seeded_weights() -> None:
    assert TimmBackbone(TINY_RGB, size=112, seed=3).provenance == "resnet10t, random weights, seed 3 (not trained)"
    assert "random weights, seed 3 (not trained)" in PointMae(TINY_XYZ, seed=3).provenance


def damage_truncated(path: Path) -> None:
    truncate(path)


def damage_text(path: Path) -> None:
    path.write_text("not tensors")


def damage_missing(path: Path) -> None:
    path.unlink()


def damage_tensor_absent(path: Path) -> None:
    state = load_file(path)
    del state["layer1.0.conv1.weight"]
    save_file(state, path)


def damage_tensor_unknown(path: Path) -> None:
    save_file({**load_file(path), "layer9.weight": torch.zeros(1)}, path)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (damage_truncated, ""),
        (damage_text, ""),
        (damage_missing, ""),
        (damage_tensor_absent, "no tensor 'layer1.0.conv1.weight' (missing tensors: 1)"),
        (damage_tensor_unknown, "tensor 'layer9.weight' that the backbone does not have"),
    ],
)
def test_unusable_rgb_weights_name_the_file(stored_resnet: Path, damage: Callable[[Path], None], problem: str) -> None:
    damage(stored_resnet)
    with pytest.raises(RunError) as refused:
        TimmBackbone(replace(TINY_RGB, weights=str(stored_resnet)), size=112)
    assert refused.value.subject == str(stored_resnet)
    assert problem in refused.value.found
    assert "--rgb-weights" in refused.value.action


def test_rgb_weights_of_another_width_name_the_file(stored_resnet: Path) -> None:
    state = load_file(stored_resnet)
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"][:-1].contiguous()
    save_file(state, stored_resnet)
    with pytest.raises(RunError) as refused:
        TimmBackbone(replace(TINY_RGB, weights=str(stored_resnet)), size=112)
    assert refused.value.subject == str(stored_resnet)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (RgbExtractor("resnet_of_mine", (1,)), "resnet_of_mine"),
        (RgbExtractor("resnet10t", (1, 7)), "strides"),
        (RgbExtractor("resnet10t", ()), "a CNN without --rgb-stages"),
    ],
)
def test_impossible_backbones(spec: RgbExtractor, problem: str) -> None:
    with pytest.raises(RunError) as refused:
        TimmBackbone(spec, size=112)
    assert refused.value.subject == f"backbone {spec.backbone}"
    assert problem in refused.value.found
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("backbone", "stages", "path", "width", "mean"),
    [
        pytest.param("resnetv2_50", (1, 2), RESNET, 512 + 1024, 0.45222314, marks=needs_weights),
        pytest.param("mobilenetv2_100", (1, 2), MOBILENET, 32 + 96, 0.485, marks=needs_weights),
    ],
)
def test_real_weights_load(backbone: str, stages: tuple[int, ...], path: Path, width: int, mean: float) -> None:
    model = TimmBackbone(RgbExtractor(backbone, stages, 28, str(path)), size=224)
    assert (model.grid, model.width) == (28, width)
    assert float(model.mean[0, 0, 0, 0]) == pytest.approx(mean)
    features = model(image(224))
    assert torch.isfinite(features).all()
    assert path.name in model.provenance
    assert "not trained" not in model.provenance


@pytest.mark.parametrize("stage", [pytest.param(3, marks=needs_weights)])
def test_stage_that_real_weights_lack_is_refused(stage: int) -> None:
    with pytest.raises(RunError, match=r"no tensor 'stages\.3"):
        TimmBackbone(RgbExtractor("resnetv2_50", (stage,), None, str(RESNET)), size=224)


def official_layout(model: PointMae) -> dict[str, object]:
    """Method §6.6: everything below `base_model`, encoder keys behind two prefixes, and a decoder."""
    state = {f"module.MAE_encoder.{key}": value for key, value in model.state_dict().items()}
    return {"base_model": {**state, "module.MAE_decoder.blocks.0.norm1.weight": torch.ones(3)}, "epoch": 300}


def plain_layout(model: PointMae) -> dict[str, object]:
    return dict(model.state_dict())


@pytest.mark.parametrize("layout", [official_layout, plain_layout])
def test_point_mae_checkpoints_give_the_same_features(
    tmp_path: Path, layout: Callable[[PointMae], dict[str, object]]
) -> None:
    spec = replace(TINY_XYZ, normalisation="batch")
    model = PointMae(spec, seed=5)
    torch.save(layout(model), tmp_path / "official.pth")
    save_file(model.state_dict(), tmp_path / "same.safetensors")
    expected = model(*cloud())
    for name in ("official.pth", "same.safetensors"):
        loaded = PointMae(replace(spec, weights=str(tmp_path / name)))
        assert torch.equal(loaded(*cloud()), expected)
        assert loaded.provenance == f"Point-MAE, {name}"
    assert not torch.equal(PointMae(spec)(*cloud()), expected)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, write: Callable[[object, Path], object]) -> None:
    checkpoint, victim = tmp_path / "point_mae.pth", tmp_path / "victim"
    write({"base_model": PointMae(TINY_XYZ).state_dict(), "surprise": Malicious(victim)}, checkpoint)
    with pytest.raises(RunError) as refused:
        PointMae(replace(TINY_XYZ, weights=str(checkpoint)))
    assert refused.value.subject == str(checkpoint)
    assert not victim.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", [damage_truncated, damage_text, damage_missing])
def test_unusable_point_weights_name_the_file(tmp_path: Path, suffix: str, damage: Callable[[Path], None]) -> None:
    path = tmp_path / f"weights{suffix}"
    state = PointMae(TINY_XYZ).state_dict()
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    damage(path)
    with pytest.raises(RunError) as refused:
        PointMae(replace(TINY_XYZ, weights=str(path)))
    assert refused.value.subject == str(path)
    assert "\n" not in str(refused.value)


def test_point_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "shallow.safetensors"
    save_file(PointMae(replace(TINY_XYZ, depth=1, taps=(0,))).state_dict(), path)
    with pytest.raises(RunError, match=r"no tensor 'blocks\.blocks\.1"):
        PointMae(replace(TINY_XYZ, weights=str(path)))


def test_point_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    save_file(PointMae(replace(TINY_XYZ, width=48)).state_dict(), path)
    with pytest.raises(RunError) as refused:
        PointMae(replace(TINY_XYZ, weights=str(path)))
    assert refused.value.subject == str(path)


@pytest.mark.parametrize("batch_statistics", [False, True])
@torch.no_grad()
def test_split_convolution_is_the_concatenated_one(batch_statistics: bool) -> None:
    torch.manual_seed(0)
    encoder = TokenEncoder(48, 48)
    for norm in (encoder.first_conv[1], encoder.second_conv[1]):
        torch.nn.init.uniform_(norm.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
        torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    groups = torch.randn(2 if not batch_statistics else 1, 10, 8, 3)
    actual = encoder(groups, batch_statistics)
    encoder.train(batch_statistics)
    flat = groups.flatten(0, 1).transpose(1, 2)  # [B·G, 3, M], as published
    local = encoder.first_conv(flat)
    overall = local.amax(2, keepdim=True).expand_as(local)
    tokens = encoder.second_conv(torch.cat([overall, local], 1)).amax(2)
    torch.testing.assert_close(actual.flatten(0, 1), tokens, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_statistics_frozen_on_one_cloud_equal_the_statistics_of_that_cloud() -> None:
    centers, groups = cloud()
    frozen = PointMae(TINY_XYZ)
    frozen.calibrate([groups[0]])
    batch = PointMae(replace(TINY_XYZ, normalisation="batch"))
    torch.testing.assert_close(frozen(centers, groups), batch(centers, groups), rtol=1e-3, atol=1e-4)
    untouched = PointMae(replace(TINY_XYZ, normalisation="eval"))
    assert not torch.allclose(frozen(centers, groups), untouched(centers, groups), atol=1e-2)


@torch.no_grad()
def test_frozen_statistics_do_not_depend_on_the_input_cloud() -> None:
    frozen = PointMae(TINY_XYZ)
    frozen.calibrate([cloud(seed)[1][0] for seed in range(3)])
    (centers, groups), (_, coarse) = cloud(5), cloud(6, scale=0.02)
    together = frozen.encoder(torch.cat([groups, coarse]), False)
    torch.testing.assert_close(together[:1], frozen.encoder(groups, False))
    assert frozen(centers, groups).shape == (1, 20, 48)


def test_torchvision_can_be_made_importable_repeatedly() -> None:
    make_torchvision_importable()
    assert make_torchvision_importable() is False
    import torchvision

    assert torchvision.__name__ == "torchvision"


def test_grid_coarser_than_the_stage_averages() -> None:
    fine = TimmBackbone(replace(TINY_RGB, stages=(0,), grid=28), size=112)
    coarse = TimmBackbone(replace(TINY_RGB, stages=(0,), grid=14), size=112)
    expected = F.avg_pool2d(fine(image()).transpose(1, 2).reshape(1, -1, 28, 28), 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(coarse(image()), expected)


@pytest.mark.parametrize(
    ("name", "stages", "grid"),
    [
        ("vit_tiny_patch16_224", (), 7),
        ("convnext_atto", (1, 2), 14),
        ("efficientnet_b0", (1, 2), 14),
        ("resnetv2_50", (1, 2), 14),
        ("swin_tiny_patch4_window7_224", (0, 1), 28),
    ],
)
@torch.no_grad()
def test_any_timm_backbone_gives_a_square_grid(name: str, stages: tuple[int, ...], grid: int) -> None:
    size = 224 if name.startswith("swin") else 112
    extractor = TimmBackbone(RgbExtractor(name, stages, None), size=size)
    tokens = extractor(torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8))
    assert extractor.grid == (grid if size == 112 else 2 * grid)
    assert tokens.shape == (1, extractor.grid**2, extractor.width)
    assert torch.isfinite(tokens).all() and tokens.std() > 0


@torch.no_grad()
def test_stages_are_in_the_order_of_the_network() -> None:
    """Each stage of a pre-activation network has its own normalisation, of as many channels as the stage."""
    ascending, descending = (TimmBackbone(RgbExtractor("resnetv2_50", s, None), size=64) for s in ((0, 2), (2, 0)))
    torch.testing.assert_close(descending(image(64)), ascending(image(64)), rtol=0, atol=0)
    assert descending.stage_widths == ascending.stage_widths == (256, 1024)


@pytest.mark.parametrize(
    ("name", "grid", "width"),
    [
        ("vit_small_patch8_224.dino", 28, 384),
        long("vit_base_patch8_224.dino", 28, 768),
        long("vit_base_patch8_224.augreg_in21k", 28, 768),
        ("vit_small_patch14_dinov2.lvd142m", 16, 384),
        long("vit_base_patch14_dinov2.lvd142m", 16, 768),
        ("vit_small_patch16_dinov3.lvd1689m", 14, 384),
        long("vit_base_patch16_dinov3.lvd1689m", 14, 768),
    ],
)
def test_grid_and_width_follow_from_the_backbone(name: str, grid: int, width: int) -> None:
    """The published backbones and their successors, with random weights: the downloads need a network."""
    extractor = TimmBackbone(RgbExtractor(name, (), None), size=224)
    assert (extractor.grid, extractor.width) == (grid, width)


TINY_BERT = replace(TINY_XYZ, network="point_bert")


def official_point_bert(model: PointMae) -> dict[str, object]:
    """The layout of Point-BERT's checkpoint: the transformer's keys behind two prefixes, heads and a tokenizer."""
    state = {f"module.transformer_q.{key}": value for key, value in model.state_dict().items()}
    others = {"module.transformer_q.cls_head.0.weight": torch.ones(3), "module.dvae.encoder.x": torch.ones(2)}
    return {"base_model": {**state, **others}, "epoch": 300}


@torch.no_grad()
def test_point_bert_is_read_from_its_official_layout(tmp_path: Path) -> None:
    path = tmp_path / "Point-BERT.pth"
    trained = PointMae(TINY_BERT, seed=5)
    torch.save(official_point_bert(trained), path)
    centers, groups = cloud()
    loaded = PointMae(replace(TINY_BERT, weights=str(path)))
    torch.testing.assert_close(loaded(centers, groups), trained(centers, groups))
    assert loaded.provenance == "Point-BERT, Point-BERT.pth"
    with pytest.raises(RunError, match="cls_token|reduce_dim|encoder"):
        save_file(PointMae(TINY_XYZ).state_dict(), tmp_path / "mae.safetensors")
        PointMae(replace(TINY_BERT, weights=str(tmp_path / "mae.safetensors")))


@torch.no_grad()
def test_point_bert_attends_to_its_class_token_and_drops_it() -> None:
    centers, groups = cloud()
    model = PointMae(TINY_BERT)
    assert model.reduce_dim.in_features == 16  # 256 of 384, scaled with the width
    features = model(centers, groups)
    assert features.shape == (1, 20, 48)
    model.cls_token.add_(1)
    assert not torch.allclose(model(centers, groups), features)
