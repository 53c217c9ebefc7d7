"""The view is chosen by what the good samples show, never because something bright was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import golden
from cmdiad_runtime.names import ViewName
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.inspected_area.check import objection_to_area
from cmdiad_runtime.preprocess.inspected_area.records import InspectedArea
from cmdiad_runtime.preprocess.prepare import part_geometry
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.fit.observe import Observations
from cmdiad_train.fit.views import ChosenView, choose_view
from cmdiad_train.recipe import RgbExtractor, SurfaceExtractor
from helpers import tiny_recipe
from pictures import Kept, boxes, discs, kept, plate, plug

SEEDS = range(10)
NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14))
CLOUD = Preprocessing("xyz", xyz_feed="normals", groups=0, group_size=0, grid=0)
TIRE = golden.SHARED / "data" / "mvtec3d_rgb" / "tire" / "train" / "good" / "rgb"


def chosen(samples: Sequence[Kept], view: str = "auto", preferred: str = "part", **changes: Any) -> ChosenView:
    """The view of a camera's pictures."""
    recipe = tiny_recipe(view=view, **changes)
    return choose_view(samples, (), recipe, Preprocessing("rgb"), (preferred, ""), SILENT)  # type: ignore[arg-type]


def clouds(*centres: tuple[int, int], **changes: int) -> list[Kept]:
    """Good clouds with a box at each centre."""
    return [Kept(Sample(str(seed), xyz=boxes(seed, *centres, **changes))) for seed in SEEDS]


def chosen_of_clouds(samples: Sequence[Kept], view: str = "auto") -> ChosenView:
    """The view of clouds."""
    recipe = tiny_recipe("xyz", xyz=NORMALS, view=view)
    return choose_view(samples, (), recipe, CLOUD, ("top", ""), SILENT)


def reason_for(area: InspectedArea, sample: Sample, preprocessing: Preprocessing = CLOUD) -> str | None:
    """The reason against a sample, or None."""
    geometry = PartGeometry(sample, seed=preprocessing.seed)
    error = objection_to_area(area, geometry)
    return None if error is None else error.reason


def test_part_that_stands_out_is_cut_out() -> None:
    result = chosen(kept(*(plate(seed, rail=False) for seed in SEEDS)))
    assert (result.view, result.reason, result.area.counter_evidence) == ("part", "", "")
    assert result.area.samples == len(SEEDS)
    assert result.area.image is not None
    assert result.area.image.count == (1, 1)
    assert 0.1 < result.area.share < 0.2
    assert len(result.tiles) == len(SEEDS)


@pytest.mark.parametrize(
    ("pictures", "problem"),
    [
        ([plug(seed) for seed in SEEDS], "leaves out other content"),
        ([plate(seed) for seed in SEEDS], "leaves out other content"),
        ([discs(seed, (45, 80), (115, 80)) for seed in SEEDS], "leaves out other content"),
        ([discs(seed, (80, 80), level=30, table=38) for seed in SEEDS], "no part in the image"),
        ([discs(seed, (80, 80), level=60, table=200) for seed in SEEDS], "no part in the image"),
    ],
    ids=[
        "bright pins on a dark body",
        "bright rail",
        "two parts",
        "hardly any contrast",
        "dark part on a bright table",
    ],
)
def test_whole_image_is_seen_if_the_part_does_not_stand_out(pictures: list[Any], problem: str) -> None:
    result = chosen(kept(*pictures))
    assert result.view == "sensor"
    assert problem in result.reason
    assert "\n" not in result.reason
    assert result.area == InspectedArea(1.0)
    assert result.preprocessing == Preprocessing("rgb")


def test_small_second_part_in_most_pictures_is_not_passed_over() -> None:
    pictures = [discs(seed, (60, 80)) for seed in SEEDS]
    for seed, picture in enumerate(pictures):
        row, column = 30 + seed, 130
        picture[row : row + 14, column : column + 14] = 190
    result = chosen(kept(*pictures))
    assert result.view == "sensor"
    assert "10 of 10 good samples have a second bright region" in result.reason


def test_forced_view_warns_and_still_compares() -> None:
    result = chosen(kept(*(plate(seed) for seed in SEEDS)), view="part")
    assert result.view == "part"
    assert "leaves out other content" in result.area.counter_evidence
    assert reason_for(result.area, Sample("s", rgb=plate(50))) is None
    for defect, reason in (("absent", "part-count"), ("cracked", "outside")):
        assert reason_for(result.area, Sample("s", rgb=plate(50, defect))) == reason


def test_hole_in_the_part_that_is_not_seen_is_unknown_content() -> None:
    result = chosen(kept(*(plug(seed) for seed in SEEDS)), view="part")
    assert reason_for(result.area, Sample("s", rgb=plug(50))) is None
    assert reason_for(result.area, Sample("s", rgb=plug(50, "hole"))) == "outside"


def test_limits_of_few_samples_reject_hardly_any_good_sample() -> None:
    result = chosen(kept(*(plate(seed, rail=False) for seed in range(6))))
    good = [reason_for(result.area, Sample("s", rgb=plate(seed, rail=False))) for seed in range(100, 160)]
    assert good == [None] * len(good)


def test_pictures_of_several_shapes_cannot_be_compared() -> None:
    pictures = [plate(seed, rail=False) for seed in SEEDS]
    pictures[3] = np.vstack([pictures[3], pictures[3][:40]])
    result = chosen(kept(*pictures))
    assert (result.view, result.reason) == ("sensor", "the pictures differ in their aspect ratio")


def test_single_cluster_is_seen_from_the_top() -> None:
    result = chosen_of_clouds(clouds((48, 48)))
    assert (result.view, result.whole_cloud) == ("top", False)
    area = result.area
    assert area.cloud is not None
    assert area.image is None
    assert area.background is None
    assert reason_for(area, Sample("good", xyz=boxes(70, (48, 48)))) is None
    assert reason_for(area, Sample("two", xyz=boxes(70, (30, 48), (66, 48)))) == "part-count"
    assert reason_for(area, Sample("small", xyz=boxes(70, (48, 48), half=6))) == "part-area"
    assert reason_for(area, Sample("moved", xyz=boxes(70, (80, 48)))) == "part-position"
    assert reason_for(area, Sample("cut", xyz=boxes(70, (90, 48)))) == "part-position"
    assert reason_for(area, Sample("stray", xyz=boxes(70, (48, 48), stray=14))) == "outside"


def test_all_points_are_inspected_if_there_are_several_parts() -> None:
    result = chosen_of_clouds(clouds((30, 48), (66, 48)))
    assert (result.view, result.whole_cloud) == ("sensor", True)
    assert "10 of 10 good samples have a second cluster of points" in result.reason
    assert not result.preprocessing.foreground
    assert result.area == InspectedArea(1.0)


def test_forced_top_view_of_several_parts_warns_and_counts_them() -> None:
    result = chosen_of_clouds(clouds((30, 48), (66, 48)), view="top")
    assert "second cluster" in result.area.counter_evidence
    assert result.area.cloud is not None
    assert result.area.cloud.count == (2, 2)
    assert reason_for(result.area, Sample("one", xyz=boxes(70, (30, 48)))) == "part-count"


def test_sensor_view_of_clouds_compares_the_part_too() -> None:
    result = chosen_of_clouds(clouds((48, 48)), view="sensor")
    assert (result.view, result.area.counter_evidence) == ("sensor", "")
    assert reason_for(result.area, Sample("two", xyz=boxes(70, (30, 48), (66, 48)))) == "part-count"


def both(seed: int, *, level: int = 200) -> Sample:
    """A sample with a box of a grey level in the image, and the same box in the cloud."""
    xyz = boxes(seed, (48, 48))
    rgb = np.where(xyz[..., 2:] < 0.49, level, 20).astype(np.uint8).repeat(3, axis=2)
    return Sample(str(seed), rgb=rgb, xyz=xyz)


@pytest.mark.parametrize("view", ["each", "top", "part", "sensor"])
@pytest.mark.failure_mode("The image of one part with the cloud of another")
def test_part_must_lie_in_the_same_place_of_image_and_cloud(view: ViewName) -> None:
    preprocessing = replace(CLOUD, modality="both")
    observations = Observations(view, preprocessing)
    for seed in SEEDS:
        observations.add(part_geometry(both(seed), preprocessing))
    area = replace(observations.area(image=view in ("each", "part"), cloud=True), background=None)
    assert area.shared is not None
    assert InspectedArea.from_json(area.to_json()) == area
    assert reason_for(area, both(70)) is None
    other = both(70)
    assert other.rgb is not None
    moved = Sample("moved", rgb=np.roll(other.rgb, 6, axis=0), xyz=other.xyz)
    assert reason_for(area, moved) == "part-position"
    half = other.rgb.copy()
    half[48:] = 20  # no light on half of the part
    error = objection_to_area(replace(area, image=None), PartGeometry(Sample("half", rgb=half, xyz=other.xyz)))
    assert error is not None
    assert "agrees with the part in the cloud in 5" in str(error)


def test_image_in_which_the_part_does_not_stand_out_is_not_compared_with_the_cloud() -> None:
    preprocessing = replace(CLOUD, modality="both")
    observations = Observations("top", preprocessing)
    for seed in SEEDS:
        observations.add(part_geometry(both(seed, level=22), preprocessing))
    area = observations.area(image=False, cloud=True)
    assert area.shared is None
    assert "shared" not in area.to_json()
    assert reason_for(replace(area, background=None), both(70, level=22)) is None


@pytest.mark.real_data
@pytest.mark.skipif(not TIRE.is_dir(), reason="shared/data is absent")
def test_tire_is_seen_whole() -> None:
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(TIRE.glob("*.png"))]
    result = chosen(kept(*pictures))
    assert result.view == "sensor"
    assert "leaves out other content" in result.reason


@pytest.mark.real_data
@pytest.mark.skipif(not TIRE.is_dir(), reason="shared/data is absent")
def test_cable_gland_is_cut_out_and_its_test_samples_are_scored() -> None:
    data = Path(golden.SHARED) / "data" / "mvtec3d" / "cable_gland"
    pictures = [np.asarray(Image.open(p).convert("RGB")) for p in sorted((data / "train/good/rgb").glob("*.png"))[:12]]
    result = chosen(kept(*pictures))
    assert (result.view, result.area.counter_evidence) == ("part", "")
    others = sorted(data.glob("validation/good/rgb/*.png")) + sorted(data.glob("test/*/rgb/*.png"))
    reasons = [reason_for(result.area, Sample(str(p), rgb=np.asarray(Image.open(p).convert("RGB")))) for p in others]
    assert reasons == [None] * len(others)
