"""The view that a recipe leaves open: the best one in which every good part is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.errors import OutputError
from cmdiad_train.fit.fit import fit
from cmdiad_train.fit.views import recommended_view
from cmdiad_train.recipe import RgbExtractor, SurfaceExtractor
from cmdiad_train.runs.run_directory import load_run, read_record
from helpers import ignore, read_image, sample_files, tiny_recipe, write_image

NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14))


@pytest.mark.parametrize(
    ("modality", "hallucination", "changes", "view"),
    [
        ("rgb", "none", {}, "part"),
        ("rgb", "f2f", {}, "part"),
        ("xyz", "f2f", {}, "top"),
        ("both", "none", {}, "each"),
        ("rgb", "none", {"xyz": tiny_recipe().xyz}, "part"),
        ("rgb", "f2f", {"xyz": tiny_recipe().xyz}, "sensor"),
        ("xyz", "none", {"xyz": replace(NORMALS, image="depth")}, "sensor"),
        ("both", "none", {"foreground": False}, "sensor"),
        ("rgb", "none", {"rgb_mask": "cloud"}, "sensor"),
        ("xyz", "none", {"mode": "faithful"}, "sensor"),
    ],
)
def test_view_fits_sensors_and_extractors(modality: str, hallucination: str, changes: Any, view: str) -> None:
    found, reason = recommended_view(
        tiny_recipe(modality, hallucination, **{"xyz": NORMALS, "view": "auto", **changes})
    )
    assert found == view
    assert bool(reason) == (view == "sensor")


@pytest.mark.parametrize(
    ("modality", "hallucination", "view"), [("rgb", "f2f", "part"), ("xyz", "none", "top"), ("both", "none", "each")]
)
def test_view_that_was_chosen_is_recorded(
    data: Path, trained: Any, tmp_path: Path, modality: str, hallucination: str, view: str
) -> None:
    said: list[str] = []
    recipe = tiny_recipe(modality, hallucination, xyz=NORMALS, view="auto")
    record = fit(data, "gear", recipe, tmp_path / "run", ignore, say=said.append)
    assert said == []
    assert record["view"] == {"asked": "auto", "because": ""}
    asked = load_run(trained(modality, hallucination, xyz=NORMALS, view=view))
    found = load_run(tmp_path / "run")
    assert found.recipe == asked.recipe
    assert found.preprocessing == asked.preprocessing
    assert found.calibration == asked.calibration
    assert fit(data, "gear", recipe, tmp_path / "run", ignore) == record
    with pytest.raises(OutputError, match="another recipe"):
        fit(data, "gear", replace(recipe, view=view), tmp_path / "run", ignore)


def hide_part(path: Path) -> None:
    """An image with its part as dark as the support."""
    image = read_image(path)
    write_image(path, np.minimum(image, np.percentile(image, 30)).astype(np.uint8))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_part_that_cannot_be_found_makes_it_the_sensors_view(
    own_data: Path, tmp_path: Path, split: str, trained: Any
) -> None:
    path = sample_files(own_data, split, "good", "rgb")[1]
    hide_part(path)
    said: list[str] = []
    fit(own_data, "gear", tiny_recipe(view="auto"), tmp_path / "run", ignore, say=said.append)
    (line,) = said
    assert str(path) in line
    assert "no part in the image" in line
    assert "\n" not in line
    run = load_run(tmp_path / "run")
    assert run.recipe.view == "sensor"
    assert run.preprocessing.part is None
    assert read_record(tmp_path / "run")["view"]["because"] in line
