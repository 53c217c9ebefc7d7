"""Layers of a ViT: outputs of its blocks, compared with hooks on timm's own model; what is removed, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable
from cmdiad_train.recipe import IMAGENET_MEAN, IMAGENET_STD, RgbExtractor
from lanes import long

SIZE = 64
VIT = RgbExtractor("test_vit", (), None)
"""A ViT with 6 blocks of 64 channels, patches of 16 pixels and one prefix token."""
BLOCKS = 6


def image(size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, size, size, 3), generator=generator, dtype=torch.uint8)


def whole_model(name: str, seed: int, size: int = SIZE) -> Any:
    """timm's model with the random weights that the extractor takes from the same seed."""
    make_torchvision_importable()
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(name, num_classes=0, img_size=size).eval()


@torch.no_grad()
def outputs_of_blocks(model: Any, normalised: Tensor) -> list[Tensor]:
    """Output of every block in the whole forward pass, `[B, T, C]` without prefix tokens."""
    found: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, output: found.append(output)) for block in model.blocks]
    model.forward_features(normalised)
    for hook in hooks:
        hook.remove()
    return [tokens[:, model.num_prefix_tokens :] for tokens in found]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_vit", SIZE),
        ("deit_tiny_distilled_patch16_224", SIZE),  # two prefix tokens
        ("vit_relpos_small_patch16_224", SIZE),  # none
        long("vit_small_patch16_dinov3", SIZE),  # five, and rotated positions
        long("eva02_tiny_patch14_224", 224),
    ],
)
@pytest.mark.parametrize("layers", [(2,), (1, 4), (5, 3)])
@torch.no_grad()
def test_features_are_the_outputs_of_the_blocks(name: str, size: int, layers: tuple[int, ...]) -> None:
    extractor = TimmBackbone(RgbExtractor(name, (), None, layers=layers), size=size, seed=3)
    blocks = outputs_of_blocks(whole_model(name, 3, size), extractor.normalise(image(size)))
    expected = torch.cat([blocks[layer - 1] for layer in sorted(layers)], 2)
    assert torch.equal(extractor(image(size)), expected)
    assert expected.shape == (2, extractor.grid**2, extractor.width)
    assert extractor.stage_widths == (expected.shape[2] // len(layers),) * len(layers)


@torch.no_grad()
def test_without_layers_the_last_block_is_normalised() -> None:
    """These features equal those of earlier versions in every bit. The output of the last block differs from them."""
    extractor = TimmBackbone(VIT, size=SIZE, seed=3)
    model = whole_model("test_vit", 3)
    normalised = extractor.normalise(image())
    assert torch.equal(extractor(image()), model.forward_features(normalised)[:, 1:])
    assert extractor.stage_widths == (64,)
    last = TimmBackbone(replace(VIT, layers=(BLOCKS,)), size=SIZE, seed=3)
    assert torch.equal(last(image()), outputs_of_blocks(model, normalised)[-1])
    assert not torch.allclose(last(image()), extractor(image()))


def test_later_blocks_and_the_final_norm_are_removed() -> None:
    tensors = TimmBackbone(replace(VIT, layers=(1, 3)), size=SIZE).model.state_dict()
    kept = {key.split(".")[1] for key in tensors if key.startswith("blocks.")}
    assert kept == {"0", "1", "2"}
    assert not [key for key in tensors if key.startswith(("norm.", "fc_norm.", "head."))]
    whole = whole_model("test_vit", 0).state_dict()
    assert set(tensors) < set(whole)
    assert all(torch.equal(tensor, whole[key]) for key, tensor in tensors.items())


@torch.no_grad()
def test_a_file_needs_only_the_blocks_that_run(tmp_path: Path) -> None:
    weights = str(tmp_path / "vit.safetensors")
    spec = replace(VIT, layers=(2,), weights=weights, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    trained = TimmBackbone(replace(VIT, layers=(2,)), size=SIZE, seed=7)
    save_file(trained.model.state_dict(), spec.weights)
    assert torch.equal(TimmBackbone(spec, size=SIZE)(image()), trained(image()))
    for further in (replace(spec, layers=(3,)), replace(spec, layers=())):
        with pytest.raises(RunError, match=r"no tensor 'blocks\.2"):
            TimmBackbone(further, size=SIZE)
    state = load_file(spec.weights)
    del state["blocks.1.mlp.fc1.weight"]
    save_file(state, spec.weights)
    with pytest.raises(RunError, match=r"no tensor 'blocks\.1\.mlp\.fc1\.weight'"):
        TimmBackbone(spec, size=SIZE)


@pytest.mark.parametrize(
    ("name", "layers", "size", "found", "expected"),
    [
        ("test_vit", (7,), SIZE, "layer 7", "layers from 1 to 6"),
        ("test_vit", (2, 9, 7), SIZE, "layers 2,7,9", "layers from 1 to 6"),
        ("resnet10t", (2,), SIZE, "no plain ViT", "blocks"),
        ("convnext_atto", (2,), SIZE, "no plain ViT", "blocks"),
        ("swin_tiny_patch4_window7_224", (2,), 224, "no plain ViT", "blocks"),
        ("hiera_tiny_224", (2,), 224, "no plain ViT", "blocks"),
        long("mvitv2_tiny", (2,), 224, "no plain ViT", "blocks"),
        long("samvit_base_patch16_224", (2,), SIZE, "no plain ViT", "blocks"),
    ],
)
def test_impossible_layers(name: str, layers: tuple[int, ...], size: int, found: str, expected: str) -> None:
    with pytest.raises(RunError) as refused:
        TimmBackbone(RgbExtractor(name, (), None, layers=layers), size=size)
    error = refused.value
    assert error.subject == f"backbone {name}"
    assert found in error.found and expected in str(error) and "--rgb-layers" in error.action
    assert "\n" not in str(error)


def test_a_network_without_tokens_is_refused_without_layers_too() -> None:
    with pytest.raises(RunError, match="without --rgb-stages"):
        TimmBackbone(RgbExtractor("swin_tiny_patch4_window7_224", (), None), size=224)


def test_provenance_names_the_layers() -> None:
    one, two = (TimmBackbone(replace(VIT, layers=layers), size=SIZE, seed=3) for layers in ((2,), (4, 2)))
    assert one.provenance == "test_vit, layer 2, random weights, seed 3 (not trained)"
    assert two.provenance == "test_vit, layers 2,4, random weights, seed 3 (not trained)"
