"""A bundle for whichever sensors arrive: the modalities of a sample choose the detector, and the result says which."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmdiad_runtime import Inspector, Sample, read_rgb, read_xyz
from cmdiad_runtime.cli.run import cli
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.inspection.pattern_inspector import PatternInspector, open_inspector
from cmdiad_runtime.inspection.pipeline import inspect_stream
from cmdiad_runtime.names import SENSORS
from helpers import assert_refused, command, sample_files, truncate

Exported = Callable[..., Path]


@pytest.fixture
def sample(data: Path) -> Sample:
    rgb, xyz = (sample_files(data, "test", "good", modality)[0] for modality in ("rgb", "xyz"))
    return Sample("part", read_rgb(rgb), read_xyz(xyz))


@pytest.fixture
def parts(data: Path, tmp_path: Path) -> Path:
    """A folder with a part of each pattern: 000 has both, 001 the cloud alone, 002 the image alone."""
    folder = tmp_path / "parts"
    for modality in ("rgb", "xyz"):
        shutil.copytree(data / "gear" / "validation" / "good" / modality, folder / modality)
    (folder / "rgb" / "001.png").unlink()
    (folder / "xyz" / "002.tiff").unlink()
    assert sorted(path.stem for path in (folder / "rgb").iterdir()) == ["000", "002"]
    return folder


@pytest.mark.parametrize("pattern", SENSORS)
def test_result_is_that_of_the_bundle_of_the_pattern(
    exported_for_any: Path, exported: Exported, sample: Sample, pattern: str
) -> None:
    present = replace(
        sample, rgb=None if pattern == "xyz" else sample.rgb, xyz=None if pattern == "rgb" else sample.xyz
    )
    with (
        PatternInspector.open(exported_for_any) as inspector,
        Inspector.open(exported(pattern)) as ordinary,
        closing(inspect_stream(inspector, [present])) as stream,
    ):
        inspection, expected = inspector.inspect(present), ordinary.inspect(present)
        (streamed,) = (inspected.inspection for inspected in stream)
    assert (inspection.score, inspection.threshold, inspection.reason) == (
        expected.score,
        expected.threshold,
        expected.reason,
    )
    assert inspection.pattern == streamed.pattern == inspection.to_dict()["pattern"] == pattern
    assert streamed.score == expected.score
    assert expected.pattern is None and "pattern" not in expected.to_dict()
    overlay, plain = inspection.overlay(), expected.overlay()
    assert not np.array_equal(overlay[:20], plain[:20])  # the label names the pattern


def test_sample_without_image_and_cloud_is_rejected(exported_for_any: Path) -> None:
    with PatternInspector.open(exported_for_any) as inspector:
        inspection = inspector.inspect(Sample("nothing"))
        assert (inspection.verdict, inspection.reason) == ("NG", "missing-modality")
        with pytest.raises(TypeError, match="takes a cmdiad Sample"):
            inspector.inspect("part")  # type: ignore[arg-type]


def test_broken_array_is_not_an_absent_modality(exported_for_any: Path, sample: Sample) -> None:
    assert sample.xyz is not None
    with PatternInspector.open(exported_for_any) as inspector:
        for cloud in (np.zeros_like(sample.xyz), np.zeros((0, 0, 3), np.float32), sample.xyz[:5]):
            inspection = inspector.inspect(replace(sample, xyz=cloud))
            assert inspection.pattern == "both"
            assert inspection.verdict == "NG" and not inspection.inspected


@pytest.mark.parametrize(("require", "lacking"), [("rgb", "xyz"), ("xyz", "rgb")])
def test_required_modality_is_never_replaced(
    exported_for_any: Path, sample: Sample, require: str, lacking: str
) -> None:
    alone = replace(sample, **{require: None})
    with PatternInspector.open(exported_for_any, require=[require]) as inspector:  # type: ignore[list-item]
        inspection = inspector.inspect(alone)
        assert (inspection.verdict, inspection.reason, inspection.pattern) == ("NG", "missing-modality", lacking)
        assert f"--require {require}" in inspection.message
        assert inspector.inspect(sample).inspected


def test_frozen_camera_is_seen_although_the_pattern_changes(exported_for_any: Path, sample: Sample) -> None:
    assert sample.xyz is not None
    clouds = [np.where(sample.xyz == 0, 0, sample.xyz + np.float32(1e-6 * i)) for i in range(3)]
    sequence = [
        replace(sample, xyz=clouds[0]),
        replace(sample, rgb=None, xyz=clouds[1]),
        replace(sample, xyz=None),
        replace(sample, xyz=clouds[2]),
    ]
    with PatternInspector.open(exported_for_any, OpenOptions(frozen_after=3)) as inspector:
        reasons = [inspector.inspect(one).reason for one in sequence]
    assert reasons[3] == "frozen"
    assert "frozen" not in reasons[:3]


@pytest.mark.parametrize("option", [{"modality": "rgb"}, {"threshold": 1.0}])
def test_options_of_one_pattern_are_refused(exported_for_any: Path, option: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="belongs to the bundle of one pattern"):
        PatternInspector.open(exported_for_any, OpenOptions(**option))  # type: ignore[arg-type]


def test_rate_holds_for_every_pattern(exported_for_any: Path, exported: Exported) -> None:
    options = OpenOptions(false_reject_rate=0.3)
    with PatternInspector.open(exported_for_any, options) as inspector:
        for one in inspector.inspectors:
            with Inspector.open(exported(one.pattern), options) as ordinary:
                assert one.thresholds == ordinary.thresholds


def test_required_modality_needs_a_bundle_for_any(exported: Exported) -> None:
    with pytest.raises(BundleError, match="--modality any"):
        open_inspector(exported("rgb"), require=["xyz"])


def test_run_names_the_pattern_of_every_part(exported_for_any: Path, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = command(cli, exported_for_any, parts, "--output", out, "--csv")
    assert ended.code == 0, ended.err
    lines = [line.split("\t") for line in ended.out.splitlines()]
    assert [(Path(line[2]).stem, line[4]) for line in lines] == [("000", "both"), ("002", "rgb"), ("001", "xyz")]
    assert all(f"samples with {text}" in ended.err for text in ("an image alone", "a cloud alone", "image and cloud"))
    assert ended.err.count("threshold: ") == 3
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["pattern"] for row in rows] == ["both", "rgb", "xyz"]
    assert len({row["bundle_sha256"] for row in rows}) == len({row["threshold"] for row in rows}) == 3
    with (out / "results.csv").open(newline="") as file:
        assert [row["pattern"] for row in csv.DictReader(file)] == ["both", "rgb", "xyz"]


@pytest.mark.failure_mode("An image whose cloud is damaged")
@pytest.mark.failure_mode("A cloud whose image is a broken link")
@pytest.mark.failure_mode("An image with a file of the same name in a format that is not read")
def test_run_rejects_a_part_whose_file_is_damaged(exported_for_any: Path, parts: Path) -> None:
    truncate(parts / "xyz" / "000.tiff")
    (parts / "xyz" / "002.stl").write_text("solid")
    (parts / "rgb" / "001.png").symlink_to(parts / "nowhere.png")
    ended = command(cli, exported_for_any, parts)
    assert ended.code == 3, ended.err
    results = {Path(line.split("\t")[2]).stem: line.split("\t") for line in ended.out.splitlines()}
    assert {stem: (line[0], line[3]) for stem, line in results.items()} == {
        "000": ("NG", "unreadable"),
        "001": ("NG", "missing-file"),
        "002": ("NG", "unsupported"),
    }


@pytest.mark.failure_mode("An image rotated by EXIF, with a cloud")
def test_run_rejects_a_turned_image_with_a_cloud(exported_for_any: Path, parts: Path) -> None:
    path = parts / "rgb" / "000.png"
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(path) as image:
        turned = image.rotate(180)
    turned.save(path, exif=exif)  # Viewers show the same picture as before.
    ended = command(cli, exported_for_any, parts)
    assert ended.code == 3, ended.err
    results = {Path(line.split("\t")[2]).stem: line.split("\t") for line in ended.out.splitlines()}
    assert (results["000"][0], results["000"][3]) == ("NG", "unsupported")


@pytest.mark.failure_mode("A part without the modality of `--require`")
def test_run_forbids_the_absence_of_a_required_modality(exported_for_any: Path, parts: Path) -> None:
    ended = command(cli, exported_for_any, parts, "--require", "rgb")
    assert ended.code == 3
    reasons = {Path(line.split("\t")[2]).stem: line.split("\t")[3] for line in ended.out.splitlines()}
    assert reasons["001"] == "missing-modality"
    assert "missing-modality" not in (reasons["000"], reasons["002"])


def test_run_does_not_watch_with_a_bundle_for_any(exported_for_any: Path, parts: Path) -> None:
    ended = command(cli, exported_for_any, "--watch", parts)
    assert_refused(ended, 4, "--watch", "late")


def test_run_tests_every_pattern(exported_for_any: Path, tmp_path: Path) -> None:
    ended = command(cli, exported_for_any, "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert ended.out.count("self-test passed") == 3
    assert sorted(path.parent.name for path in (tmp_path / "out").glob("*/self-test.json")) == ["both", "rgb", "xyz"]


def test_nothing_is_written_into_the_bundle(exported_for_any: Path, parts: Path) -> None:
    ended = command(cli, exported_for_any, parts, "--output", exported_for_any / "results")
    assert_refused(ended, 6, "a place in the bundle")
