"""Importing published weights: tiny models in official layouts give the same features after the import."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.extractors.import_images import ImportOptions
from cmdiad_train.extractors.import_official import import_file
from cmdiad_train.extractors.official_releases import LICENCES, official_backbone, release_of
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable
from cmdiad_train.extractors.weights_file import stored_extractor
from cmdiad_train.recipe import Recipe, RgbExtractor, XyzExtractor
from helpers import truncate

make_torchvision_importable()
SIZE = 64
OPTIONS = ImportOptions(size=SIZE)
COMMAND = "cmdiad-extractor import"


def tiny_dinov2(pretrained: bool = False, **options: Any) -> torch.nn.Module:
    """A DINOv2 with registers, a few thousand weights."""
    from timm.models.vision_transformer import _create_vision_transformer

    sizes = {"patch_size": 14, "embed_dim": 24, "depth": 2, "num_heads": 2, "init_values": 0.5}
    registers = {"reg_tokens": 4, "no_embed_class": True}
    return _create_vision_transformer(
        "vit_small_patch14_reg4_dinov2", pretrained=pretrained, **{"img_size": 518, **sizes, **registers, **options}
    )


def tiny_dinov3(pretrained: bool = False, **options: Any) -> torch.nn.Module:
    """A DINOv3, a few thousand weights."""
    from timm.models.eva import _create_eva

    sizes = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "init_values": 0.5, "num_reg_tokens": 4}
    kind = {"qkv_bias": True, "use_rot_pos_emb": True, "use_abs_pos_emb": False, "rope_type": "dinov3"}
    shape = {"rope_rotate_half": True, "use_fc_norm": False, "dynamic_img_size": True, "rope_temperature": 100}
    fixed = {**sizes, **kind, **shape}
    return _create_eva("vit_small_patch16_dinov3_qkvb", pretrained=pretrained, **{**fixed, **options})


@pytest.fixture(scope="module", autouse=True)
def register_tiny_models() -> None:
    from timm.models import register_model

    register_model(tiny_dinov2)
    register_model(tiny_dinov3)


def model_of(name: str, **options: Any) -> Any:
    """A timm model whose weights all differ from their initial values."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = timm.create_model(name, num_classes=0, **options).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def image(size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, size, size, 3), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def tokens_of(model: Any, mean: Any, std: Any, size: int = SIZE) -> Tensor:
    """The patch tokens of a timm model, computed without our code."""
    x = (image(size).permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(
        1, 3, 1, 1
    )
    return model.forward_features(x)[:, model.num_prefix_tokens :]


def imported(path: Path, size: int = SIZE) -> TimmBackbone:
    spec = stored_extractor(path)
    assert isinstance(spec, RgbExtractor)
    return TimmBackbone(spec, size=size)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def plain(state: dict[str, Tensor]) -> dict[str, Any]:
    return state


def full_checkpoint(state: dict[str, Tensor]) -> dict[str, Any]:
    """DINO's full checkpoints: the teacher's backbone with its head, the student and the options."""
    from argparse import Namespace

    teacher = {f"module.backbone.{key}": value for key, value in state.items()}
    student = {key: torch.zeros_like(value) for key, value in teacher.items()}
    return {
        "student": student,
        "teacher": {**teacher, "module.head.mlp.0.weight": torch.ones(2, 2)},
        "args": Namespace(),
    }


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("layout", [plain, full_checkpoint])
def test_dino(tmp_path: Path, layout: Callable[[dict[str, Tensor]], dict[str, Any]]) -> None:
    model = model_of("test_vit", img_size=SIZE)
    source, out = tmp_path / "dino_tiny.pth", tmp_path / "dino.safetensors"
    torch.save(layout(model.state_dict()), source)
    origin = import_file(source, out, replace(OPTIONS, backbone="test_vit"), command=COMMAND).origin
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    torch.testing.assert_close(imported(out)(image()), tokens_of(model, mean, std))
    assert origin.licence == "Apache-2.0"
    record = metadata(out)
    assert record["source"] == "dino_tiny.pth"
    assert record["source_sha256"] == sha256_of(source)
    assert record["licence"] == "Apache-2.0"
    assert record["command"] == COMMAND
    assert json.loads(record["mean"]) == list(mean)
    assert (record["kind"], json.loads(record["size"]), json.loads(record["stages"])) == ("timm", SIZE, [])


def official_dinov2(model: Any) -> dict[str, Tensor]:
    """Registers apart, the class token without its position, a mask token."""
    state = dict(model.state_dict())
    position = 0.1 * torch.ones(1, 1, 24)
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    state["cls_token"] = state["cls_token"] - position
    state["register_tokens"] = state.pop("reg_token")
    return {**state, "mask_token": torch.zeros(1, 24)}


def test_dinov2_with_registers(tmp_path: Path) -> None:
    model = model_of("tiny_dinov2", img_size=70)
    source, out = tmp_path / "dinov2_vitx14_reg4_pretrain.pth", tmp_path / "dinov2.safetensors"
    torch.save(official_dinov2(model), source)
    import_file(source, out, ImportOptions(size=70, backbone="tiny_dinov2"), command=COMMAND)
    torch.testing.assert_close(imported(out, 70)(image(70)), tokens_of(model, *IMAGENET, size=70))
    assert metadata(out)["licence"] == LICENCES["dinov2"]


def test_dinov2_positions_are_resampled_to_the_requested_size(tmp_path: Path) -> None:
    model = model_of("tiny_dinov2", img_size=140)
    source, out = tmp_path / "dinov2_vitx14_reg4_pretrain.pth", tmp_path / "dinov2.safetensors"
    torch.save(official_dinov2(model), source)
    import_file(source, out, ImportOptions(size=70, backbone="tiny_dinov2"), command=COMMAND)
    assert imported(out, 70)(image(70)).shape == (1, 25, 24)


def test_dinov3(tmp_path: Path) -> None:
    model = model_of("tiny_dinov3")
    with torch.no_grad():
        for block in model.blocks:
            block.attn.k_bias.zero_()  # as released
    state = {}
    for name, value in model.state_dict().items():
        key = (
            name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma").replace("reg_token", "storage_tokens")
        )
        if key.endswith("q_bias"):
            joint = key.replace("q_bias", "qkv.bias")
            rest = model.state_dict()[key.replace("q_bias", "v_bias")]
            state[joint] = torch.cat([value, torch.zeros_like(value), rest])
            state[joint.replace("bias", "bias_mask")] = torch.ones(3 * len(value))
        elif not key.endswith(("k_bias", "v_bias")):
            state[key] = value
    state |= {"mask_token": torch.zeros(1, 32), "rope_embed.periods": torch.ones(4)}
    source, out = tmp_path / "dinov3_vitx16_pretrain.pth", tmp_path / "dinov3.safetensors"
    torch.save(state, source)
    origin = import_file(source, out, replace(OPTIONS, backbone="tiny_dinov3"), command=COMMAND).origin
    torch.testing.assert_close(imported(out)(image()), tokens_of(model, *IMAGENET))
    assert "DINOv3 License" in origin.licence


def test_convnext_in_its_authors_key_names(tmp_path: Path) -> None:
    model = model_of("test_convnext")
    state = {}
    for name, value in model.state_dict().items():
        key = name.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".").replace("conv_dw", "dwconv")
        parts = key.replace("mlp.fc", "pwconv").replace("head.norm", "norm").split(".")
        if "downsample" in parts:  # stages.k.downsample.j to downsample_layers.k.j
            parts = ["downsample_layers", parts[1], *parts[3:]]
        state[".".join(parts)] = value
    torch.save({"model": state}, tmp_path / "dinov3_convnext_x.pth")
    out = tmp_path / "c.safetensors"
    import_file(tmp_path / "dinov3_convnext_x.pth", out, replace(OPTIONS, backbone="test_convnext"), command=COMMAND)
    save_file(model.state_dict(), tmp_path / "same.safetensors")
    spec = RgbExtractor("test_convnext", (1, 2), SIZE // 8, str(tmp_path / "same.safetensors"))
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    expected = TimmBackbone(replace(spec, mean=tuple(mean), std=tuple(std)), size=SIZE)
    assert torch.equal(imported(out)(image()), expected(image()))
    assert (json.loads(metadata(out)["stages"]), json.loads(metadata(out)["grid"])) == ([1, 2], SIZE // 8)


@pytest.mark.parametrize(("backbone", "size", "grid"), [("test_resnet", 320, 40), ("test_vit", 224, None)])
def test_a_cnn_is_imported_for_the_size_of_the_default_recipe(
    tmp_path: Path, backbone: str, size: int, grid: int | None
) -> None:
    save_file(model_of(backbone).state_dict(), tmp_path / "weights.safetensors")
    out = tmp_path / "imported.safetensors"
    options = ImportOptions(licence="MIT", kind="timm", backbone=backbone)
    import_file(tmp_path / "weights.safetensors", out, options, command=COMMAND)
    assert (json.loads(metadata(out)["size"]), json.loads(metadata(out)["grid"])) == (size, grid)
    assert Recipe.size == 320
    assert RgbExtractor.grid == 40


@pytest.mark.parametrize(
    ("network", "prefix"), [("point_mae", "module.MAE_encoder."), ("point_bert", "module.transformer_q.")]
)
@torch.no_grad()
def test_point_transformers(tmp_path: Path, network: str, prefix: str) -> None:
    spec = XyzExtractor(
        network,  # type: ignore[arg-type]
        groups=20,
        group_size=8,
        width=128,
        depth=4,
        heads=2,
        taps=(1, 3),
    )
    model = PointMae(spec, seed=5)
    state: dict[str, Tensor] = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    state["module.MAE_decoder.blocks.0.norm1.weight" if network == "point_mae" else "module.queue"] = torch.ones(3)
    torch.save({"base_model": state, "epoch": 300}, tmp_path / "pretrain.pth")
    out = tmp_path / "points.safetensors"
    origin = import_file(tmp_path / "pretrain.pth", out, ImportOptions(), command=COMMAND).origin
    assert origin.licence == "MIT"
    stored = stored_extractor(out)
    assert isinstance(stored, XyzExtractor)
    assert (stored.network, stored.width, stored.depth, stored.heads, stored.taps) == (network, 128, 4, 2, (1, 3))
    generator = torch.Generator().manual_seed(0)
    cloud = torch.rand(1, 20, 3, generator=generator), 0.004 * torch.randn(1, 20, 8, 3, generator=generator)
    assert torch.equal(PointMae(stored)(*cloud), model(*cloud))


def test_the_same_import_gives_the_same_bytes(tmp_path: Path) -> None:
    torch.save(model_of("test_vit", img_size=SIZE).state_dict(), tmp_path / "dino_tiny.pth")
    for name in "ab":
        options = replace(OPTIONS, backbone="test_vit")
        import_file(tmp_path / "dino_tiny.pth", tmp_path / f"{name}.safetensors", options, command="c")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "kind", "backbone"),
    [
        ("dino_vitbase8_pretrain.pth", "dino", "vit_base_patch8_224.dino"),
        ("dinov2_vits14_reg4_pretrain.pth", "dinov2", "vit_small_patch14_reg4_dinov2.lvd142m"),
        ("dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth", "dinov3", "vit_small_plus_patch16_dinov3.lvd1689m"),
        ("dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth", "dinov3", "vit_large_patch16_dinov3.sat493m"),
        ("dinov3_convnext_tiny_pretrain_lvd1689m-21b726bb.pth", "dinov3", "convnext_tiny.dinov3_lvd1689m"),
        ("weights.pth", "timm", None),
    ],
)
def test_release_and_backbone_are_derived_from_official_names(name: str, kind: str, backbone: str | None) -> None:
    import timm

    assert release_of(name, {}) == kind
    assert official_backbone(name) == backbone
    if backbone is not None:
        config = timm.get_pretrained_cfg(backbone)
        assert config is not None and str(config.license).startswith(("apache-2.0", "dinov3"))


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.victim,)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    source, victim = tmp_path / "dino_tiny.pth", tmp_path / "victim"
    torch.save({**model_of("test_vit").state_dict(), "surprise": Malicious(victim)}, source)
    with pytest.raises(RunError, match="not plain tensors") as refused:
        import_file(source, tmp_path / "out.safetensors", replace(OPTIONS, backbone="test_vit"), command=COMMAND)
    assert refused.value.subject == str(source)
    assert not victim.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", [truncate, lambda path: path.write_text("no"), lambda path: path.unlink()])
def test_damaged_sources_are_named(tmp_path: Path, suffix: str, damage: Callable[[Path], object]) -> None:
    source, out = tmp_path / f"dino_tiny{suffix}", tmp_path / "out.safetensors"
    (torch.save if suffix == ".pth" else save_file)(model_of("test_vit").state_dict(), source)
    damage(source)
    with pytest.raises(RunError) as refused:
        import_file(source, out, replace(OPTIONS, backbone="test_vit"), command=COMMAND)
    assert refused.value.subject == str(source)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "backbone", "licence", "problem", "action"),
    [
        ("mine.pth", "test_vit", None, "unknown licence", "--licence"),
        ("dino_mine.pth", None, None, "no official release has", "--backbone"),
        ("dino_mine.pth", "test_vit3", None, "RuntimeError", "--backbone"),
        ("dino_mine.pth", "my_vit", None, "my_vit", "--backbone"),
        ("mine.pth", None, "MIT", "no official release has", "--backbone"),
    ],
)
def test_unknown_licence_or_model_needs_an_option(
    tmp_path: Path, name: str, backbone: str | None, licence: str | None, problem: str, action: str
) -> None:
    torch.save(model_of("test_vit", img_size=SIZE).state_dict(), tmp_path / name)
    out = tmp_path / "out.safetensors"
    with pytest.raises(RunError) as refused:
        import_file(tmp_path / name, out, ImportOptions(SIZE, licence=licence, backbone=backbone), command=COMMAND)
    assert problem in refused.value.found
    assert action in refused.value.action
    assert not out.exists()


def test_images_are_no_point_transformer(tmp_path: Path) -> None:
    torch.save(model_of("test_vit").state_dict(), tmp_path / "x.pth")
    with pytest.raises(RunError, match="no point transformer"):
        import_file(tmp_path / "x.pth", tmp_path / "o.safetensors", replace(OPTIONS, kind="point_mae"), command=COMMAND)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    torch.save(model_of("test_vit", img_size=SIZE).state_dict(), tmp_path / "dino_tiny.pth")
    with pytest.raises(OutputError, match="no folder"):
        import_file(
            tmp_path / "dino_tiny.pth", tmp_path / "a/b.safetensors", replace(OPTIONS, backbone="test_vit"), command="c"
        )
