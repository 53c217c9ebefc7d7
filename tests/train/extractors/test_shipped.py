"""The weights in the package: what they say of themselves, that they load, and that they are not random ones."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.extractors.shipped import SHIPPED, weights_file
from cmdiad_train.extractors.weights_file import read_metadata, stored_extractor, weights_digest
from cmdiad_train.recipe import DEFAULT_RECIPE, SMALL_NORMALS, SMALL_RGB, Recipe, RgbExtractor, bank_part

SMALL = {"shipped-rgb": SMALL_RGB, "shipped-normals": SMALL_NORMALS.backbone}


@pytest.mark.parametrize("name", SHIPPED)
def test_files_say_how_they_were_made(name: str) -> None:
    file = weights_file(name)
    assert file is not None and file.stat().st_size < 3_000_000
    metadata = read_metadata(file)
    assert metadata["licence"].startswith("Apache-2.0")
    assert metadata["command"].startswith(f"cmdiad-extractor pretrain {name.removeprefix('shipped-')} --draw ")
    assert metadata["seed"] == "0" and "drawn images" in metadata["source"]
    assert json.loads(metadata["size"]) == DEFAULT_RECIPE.size
    assert stored_extractor(file) == replace(SMALL[name], weights=str(file))
    assert weights_digest(name) == weights_digest(str(file))


@pytest.mark.parametrize("name", SHIPPED)
def test_features_are_not_those_of_random_weights(name: str) -> None:
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    spec = replace(SMALL[name], grid=8)
    found, random = TimmBackbone(spec, size=64), TimmBackbone(replace(spec, weights="seeded"), size=64)
    assert name in found.provenance
    assert torch.isfinite(found(image)).all()
    assert (found(image) - random(image)).abs().mean() > 0.1 * random(image).abs().mean()
    assert next(found.model.parameters()).dtype == torch.float32


def test_they_are_the_default() -> None:
    recipe = DEFAULT_RECIPE
    part = bank_part(recipe)
    assert (part.weights("rgb"), part.weights("xyz")) == ("shipped-rgb", "shipped-normals")
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_another_backbone_is_refused() -> None:
    with pytest.raises(RunError, match="weights of timm's test_resnet"):
        TimmBackbone(RgbExtractor("test_resnet", (0, 1), 14, "shipped-rgb"), size=112)


def test_names_and_files() -> None:
    assert weights_file("seeded") is None and weights_file("timm") is None
    assert str(weights_file("mine.safetensors")) == "mine.safetensors"
