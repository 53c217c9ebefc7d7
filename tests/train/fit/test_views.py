"""The choice of a view: the recommended one if every good part is found, else the sensor view."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.errors import InputError, OutputError
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.detectors.bank.preprocessing import preferred_view
from cmdiad_train.fit.fit import fit
from cmdiad_train.fit.views import ChosenView, choose_view
from cmdiad_train.recipe import RgbExtractor, SurfaceExtractor
from cmdiad_train.runs.record import ViewChoice, read_record
from cmdiad_train.runs.run import load_run
from helpers import RecordingReporter, read_image, sample_files, tiny_recipe, write_image
from lanes import long

NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14))


@pytest.mark.parametrize(
    ("modality", "hallucination", "changes", "view"),
    [
        ("rgb", "none", {}, "part"),
        ("rgb", "f2f", {}, "part"),
        ("xyz", "f2f", {}, "top"),
        ("both", "none", {}, "each"),
        ("rgb", "none", {"xyz": tiny_recipe().detector.xyz}, "part"),
        ("rgb", "f2f", {"xyz": tiny_recipe().detector.xyz}, "sensor"),
        ("xyz", "none", {"xyz": replace(NORMALS, image="depth")}, "sensor"),
        ("both", "none", {"foreground": False}, "sensor"),
        ("rgb", "none", {"rgb_mask": "cloud"}, "sensor"),
        ("xyz", "none", {"mode": "faithful"}, "sensor"),
    ],
)
def test_view_fits_sensors_and_extractors(modality: str, hallucination: str, changes: Any, view: str) -> None:
    found, reason = preferred_view(tiny_recipe(modality, hallucination, **{"xyz": NORMALS, "view": "auto", **changes}))
    assert found == view
    assert bool(reason) == (view == "sensor")


@pytest.mark.parametrize(
    ("modality", "hallucination", "view"),
    [("rgb", "f2f", "part"), long("xyz", "none", "top"), ("both", "none", "each")],
)
def test_view_that_was_chosen_is_recorded(
    data: Path, trained: Any, tmp_path: Path, modality: str, hallucination: str, view: str
) -> None:
    reporter = RecordingReporter()
    recipe = tiny_recipe(modality, hallucination, xyz=NORMALS, view="auto")
    record = fit(data, "gear", recipe, tmp_path / "run", reporter)
    (line,) = reporter.lines
    assert line.startswith("Inspected area: the part in the ")
    assert line.endswith("parts.png.")
    assert (tmp_path / "run" / "parts.png").is_file()
    assert record.view == ViewChoice("auto", "")
    asked = load_run(trained(modality, hallucination, xyz=NORMALS, view=view))
    found = load_run(tmp_path / "run")
    assert found.recipe == asked.recipe
    assert found.preprocessing == asked.preprocessing
    assert found.calibration == asked.calibration
    assert fit(data, "gear", recipe, tmp_path / "run") == record
    with pytest.raises(OutputError, match="another recipe"):
        fit(data, "gear", replace(recipe, view=view), tmp_path / "run")


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
    reporter = RecordingReporter()
    fit(own_data, "gear", tiny_recipe(view="auto"), tmp_path / "run", reporter)
    line = next(line for line in reporter.lines if "--view sensor" in line)
    assert str(path) in line
    assert "no part in the image" in line
    assert "\n" not in line
    run = load_run(tmp_path / "run")
    assert run.recipe.view == "sensor"
    assert run.preprocessing.part is None
    assert read_record(tmp_path / "run").view.because in line


@dataclass(frozen=True)
class Picture:
    """A sample in memory: a bright square on a dark support, an empty support, or a file that cannot be read."""

    kind: str = "part"

    def read(self, colour: Colour) -> Sample:
        """Return the sample."""
        if self.kind == "unreadable":
            raise InputError("file", found="no image", expected="an image", action="check the file")
        rgb = np.full((80, 80, 3), 20, np.uint8)
        rgb[0, :10] = 35
        if self.kind == "part":
            rgb[20:60, 30:50] = 200
        return Sample(self.kind, rgb=rgb)


class Steps:
    """A reporter that keeps the steps."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []

    def step(self, name: str, done: int, total: int) -> None:
        """Keep a step."""
        self.steps.append((name, done, total))

    def say(self, line: str) -> None:
        """Refuse a line."""
        raise AssertionError(line)


def chosen(view: str, *kinds: str, others: tuple[str, ...] = ()) -> ChosenView:
    recipe = tiny_recipe(view=view)
    samples = [Picture(kind) for kind in kinds]
    preferred = preferred_view(recipe)
    return choose_view(samples, map(Picture, others), recipe, Preprocessing("rgb"), preferred, SILENT)


def test_view_that_the_recipe_names_must_find_every_part() -> None:
    assert chosen("part", "part", "part").preprocessing.part is not None
    assert chosen("part", "part", "part", others=("empty", "unreadable")).view == "part"  # not read
    with pytest.raises(InputError, match="empty: found no part in the image"):
        chosen("part", "part", "empty")
    assert chosen("sensor", "empty", "unreadable") == ChosenView("sensor", Preprocessing("rgb"), "")


def test_automatic_view_is_the_sensor_view_if_a_part_is_not_found() -> None:
    assert chosen("auto", "part", "part", others=("part",)).view == "part"
    for kinds, others in ((("part", "empty"), ()), (("part", "part"), ("empty",))):
        result = chosen("auto", *kinds, others=others)
        assert (result.view, result.preprocessing) == ("sensor", Preprocessing("rgb"))
        assert result.reason.startswith("empty: found no part in the image, expected ")


def test_automatic_view_does_not_hide_a_file_that_cannot_be_read() -> None:
    with pytest.raises(InputError, match="no image"):
        chosen("auto", "part", "unreadable")
    with pytest.raises(InputError, match="no image"):
        chosen("auto", "part", "part", others=("unreadable",))


def test_progress_of_learning() -> None:
    steps = Steps()
    choose_view([Picture(), Picture()], (), tiny_recipe(view="part"), Preprocessing("rgb"), ("part", ""), steps)
    assert steps.steps == [("turn parts upright", 1, 2), ("turn parts upright", 2, 2)]
