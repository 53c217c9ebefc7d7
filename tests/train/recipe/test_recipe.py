"""Every wrong value of a recipe is a RunError of one line that names the option."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest

from cmdiad_runtime.errors import RunError
from cmdiad_train.recipe import (
    DEFAULT_RECIPE,
    PUBLISHED_AST,
    PUBLISHED_RECIPE,
    PUBLISHED_TRD,
    SMALL_SHAPE_GUIDED_RGB,
    AstRecipe,
    BankRecipe,
    CfmRecipe,
    Distillation,
    Dsr3dRecipe,
    M3dmRecipe,
    Recipe,
    RgbExtractor,
    ShapeGuidedRecipe,
    SurfaceExtractor,
    TrdRecipe,
    XyzExtractor,
    bank_part,
)

RECIPES = (
    DEFAULT_RECIPE,
    PUBLISHED_RECIPE,
    Recipe(PUBLISHED_TRD, modality="both", size=256, view="sensor"),
    Recipe(PUBLISHED_AST, modality="both", size=768, view="sensor"),
)
PYTHONS = ("not supported", "unhashable", "object", "argument", "NoneType", "<class")
WRONG: tuple[object, ...] = (
    *("x", 0.5, -1, True, 2**80, 10**400, math.inf, -math.inf, math.nan, [], [[]], {}, {"a": None}, ((),), object()),
)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        *((Distillation(), "learning_rate", value) for value in (math.inf, math.nan, 0, -1, True, "fast", 10**400)),
        *((Distillation(), "expansion", value) for value in (math.inf, 0, None)),
        *((Distillation(), "patience", value) for value in (0.5, -1, True, "5")),
        *((Distillation(), "epochs", value) for value in (0, 2.0, 2**80)),
        *((Distillation(), "categories", value) for value in ([3], (3,), "gear", ("",))),
        *((Distillation(), "validation", value) for value in (1, -0.1, "x", math.nan)),
        (Distillation(), "loss", ["l2"]),
        (Distillation(), "output", None),
        *((BankRecipe(), "components", value) for value in (2.5, 1, True, "256", 2**80)),
        *((BankRecipe(), "coreset", value) for value in (True, 0, 1.5, "a", math.nan)),
        *((BankRecipe(), name, 5) for name in ("rgb", "xyz", "distillation", "mode", "fusion", "distances")),
        (PUBLISHED_RECIPE.detector, "distances", "relative"),
        (BankRecipe(), "coreset_eps", 10**400),
        (RgbExtractor(), "mean", ("a", "b", "c")),
        (RgbExtractor(), "mean", (0.5, 0.5)),
        (RgbExtractor(), "mean", 0.5),
        (RgbExtractor(), "std", (0, 0, 0)),
        (RgbExtractor(), "std", (1.0, math.nan, 1.0)),
        (RgbExtractor(), "std", ("a", "b", "c")),
        (RgbExtractor(), "backbone", ""),
        (RgbExtractor(), "weights", None),
        *((RgbExtractor(), "stages", value) for value in (1, (1.5,), (-1,), "12", None, (1, 1))),
        *((RgbExtractor(stages=()), "layers", value) for value in (1, (1.5,), (0,), (-1,), "12", None, (1, 1))),
        (RgbExtractor(), "layers", (1,)),
        (RgbExtractor(), "grid", 0),
        (XyzExtractor(), "weights", 5),
        *((XyzExtractor(), "taps", value) for value in ([-9], (-9,), (), (2,), 1, ("a",))),
        *((XyzExtractor(), "groups", value) for value in (1, 2, 100_000, 64.0, "64")),
        (XyzExtractor(), "group_size", 5000),
        (XyzExtractor(), "grid", 257),
        (XyzExtractor(), "heads", 7),
        (XyzExtractor(), "network", ["point_mae"]),
        (SurfaceExtractor(), "backbone", 5),
        (SurfaceExtractor(), "image", {}),
        *((TrdRecipe(), name, value) for name in ("epochs", "batch", "distil_epochs") for value in (0, 0.5, True)),
        *((TrdRecipe(), name, 5) for name in ("mode", "variant", "geometry", "distance", "teacher")),
        *((AstRecipe(), name, value) for name in ("epochs", "batch", "student_units") for value in (0, 0.5, True)),
        *((AstRecipe(), name, 5) for name in ("mode", "geometry", "reduction", "extractor", "cell")),
        *((AstRecipe(), "student_width", value) for value in (0, 1 << 20, "wide")),
        *(
            (Dsr3dRecipe(), name, value)
            for name in ("width", "codes", "autoencoder_steps")
            for value in (0, 24.0, True)
        ),
        *((Dsr3dRecipe(), name, 5) for name in ("mode", "geometry", "width")),
        *((TrdRecipe(), "teacher", RgbExtractor(stages=value)) for value in ((), (1, 2), (0, 1, 2, 3))),
        *((TrdRecipe(), "decay", value) for value in (0, 1.1, True, math.nan)),
        *((TrdRecipe(), "learning_rate", value) for value in (0, math.inf, "fast")),
        (TrdRecipe(), "patience", -1),
        *((DEFAULT_RECIPE, "seed", value) for value in (2**80, 2**32, -1, 0.5, True, "x")),
        *((DEFAULT_RECIPE, "size", value) for value in (10**9, 4097, 31, 64.0, True, "64", None)),
        (DEFAULT_RECIPE, "view", ["top"]),
        (DEFAULT_RECIPE, "modality", {}),
        (DEFAULT_RECIPE, "foreground", 1),
        (DEFAULT_RECIPE, "false_reject_rate", 10**400),
        (DEFAULT_RECIPE, "false_reject_rate", True),
        (DEFAULT_RECIPE, "detector", 5),
    ],
)
def test_wrong_value_names_the_option(part: Any, field: str, value: object) -> None:
    with pytest.raises(RunError) as refused:
        replace(part, **{field: value})
    message = str(refused.value)
    assert field in refused.value.subject
    assert "\n" not in message
    assert not any(text in message for text in PYTHONS), message


@pytest.mark.parametrize(
    "part",
    [
        Distillation(),
        BankRecipe(),
        TrdRecipe(),
        AstRecipe(),
        Dsr3dRecipe(),
        RgbExtractor(),
        XyzExtractor(),
        SurfaceExtractor(),
    ],
)
def test_any_value_is_taken_or_refused(part: Any) -> None:
    for field in asdict(part):
        for value in WRONG:
            try:
                replace(part, **{field: value})
            except RunError as error:
                assert field in str(error) or "xyz.heads" in str(error) or "xyz.taps" in str(error)


@pytest.mark.parametrize("recipe", RECIPES)
def test_any_wrong_json_is_a_run_error(recipe: Recipe) -> None:
    content = recipe.to_json()
    for place in [content, content["detector"], *(v for v in content["detector"].values() if isinstance(v, dict))]:
        for field, right in list(place.items()):
            for value in WRONG:
                place[field] = value
                try:
                    read = Recipe.from_json(content)
                    assert isinstance(asdict(read), dict)
                except RunError as error:
                    assert "damaged" in str(error) or "newer" in str(error)
                    assert "Change the option" not in str(error)
            place[field] = right
    assert Recipe.from_json(content) == recipe


def test_recipe_without_distances_keeps_plain_ones() -> None:
    recipe = replace(DEFAULT_RECIPE, detector=BankRecipe(distances="relative"))
    assert Recipe.from_json(recipe.to_json()) == recipe
    earlier = recipe.to_json()
    del earlier["detector"]["distances"]
    assert bank_part(Recipe.from_json(earlier)).distances == "plain"
    assert Recipe.from_json(earlier).to_json() == earlier


def test_recipe_without_a_verdict_keeps_the_image_score() -> None:
    assert (DEFAULT_RECIPE.verdict, PUBLISHED_RECIPE.verdict) == ("map", "image")
    earlier = {name: value for name, value in DEFAULT_RECIPE.to_json().items() if name != "verdict"}
    assert Recipe.from_json(earlier).verdict == "image"
    assert Recipe.from_json(earlier).to_json() == earlier
    assert Recipe.from_json(DEFAULT_RECIPE.to_json()) == DEFAULT_RECIPE
    with pytest.raises(RunError, match="verdict"):
        replace(DEFAULT_RECIPE, verdict="pixel")  # type: ignore[arg-type]


VIT = RgbExtractor("test_vit", (), None, layers=(3, 6))


@pytest.mark.parametrize(
    "recipe",
    [
        replace(DEFAULT_RECIPE, detector=BankRecipe(rgb=VIT, xyz=SurfaceExtractor("normals", VIT))),
        Recipe(CfmRecipe(rgb=VIT, normals=VIT), modality="both"),
        Recipe(AstRecipe(extractor=VIT), modality="rgb"),
    ],
)
def test_layers_are_stored_and_read(recipe: Recipe) -> None:
    content = json.loads(json.dumps(recipe.to_json()))
    assert Recipe.from_json(content) == recipe
    assert json.dumps(content).count('"layers": [3, 6]') == str(recipe).count("layers=(3, 6)") > 0


@pytest.mark.parametrize(
    "recipe",
    [
        *RECIPES,
        Recipe(CfmRecipe(), modality="both"),
        Recipe(ShapeGuidedRecipe(rgb=SMALL_SHAPE_GUIDED_RGB), modality="both", size=112, view="sensor"),
        Recipe(M3dmRecipe(), modality="both"),
    ],
)
def test_without_layers_earlier_versions_read_the_recipe(recipe: Recipe) -> None:
    """An unknown field is a newer file, so it is written only where it is used."""
    content = json.dumps(recipe.to_json())
    assert '"layers"' not in content and '"stages"' in content
    assert Recipe.from_json(json.loads(content)) == recipe


def test_both_extractors_of_a_mapping_have_the_same_layers() -> None:
    with pytest.raises(RunError, match="normals layers"):
        CfmRecipe(rgb=VIT, normals=replace(VIT, layers=(3,)))
    with pytest.raises(RunError, match="teacher stages"):
        TrdRecipe(teacher=VIT)
