"""The envelope of a trained bundle: checks by name, switched off by name, and sensors that are frozen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cmdiad_runtime import Inspector, Sample, read_rgb
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.cli.run import cli as run_cli
from cmdiad_runtime.cli.threshold import cli as threshold_cli
from cmdiad_runtime.envelope.names import LEARNT_CHECKS
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.inspection.pipeline import inspect_stream
from cmdiad_runtime.preprocess.inspected_area.missing import OUTSIDE_CHECKS, PART_CHECKS
from helpers import command, sample_files, write_image

Exported = Callable[..., Path]
FORMAT_1 = Path(__file__).parents[2] / "fixtures" / "format1"


@pytest.fixture
def images(data: Path) -> list[Path]:
    return sample_files(data, "test", "good", "rgb")


def test_a_bundle_has_the_conditions_of_its_good_samples(exported: Exported, images: list[Path]) -> None:
    envelope = Bundle.open(exported("rgb")).record.envelope
    assert envelope is not None
    height, width = read_rgb(images[0]).shape[:2]
    assert envelope.sizes == ((width, height),)
    assert envelope.false_alarm_rate == 0.001
    assert {"order", "brightness", "sharpness", "noise"} <= set(envelope.limits)
    assert not {"valid", "plane_distance"} & set(envelope.limits)


def test_good_samples_pass_the_checks(exported: Exported, images: list[Path]) -> None:
    with Inspector.open(exported("rgb")) as inspector:
        assert all(inspector.inspect(Sample(file.name, rgb=read_rgb(file))).inspected for file in images)


def test_a_check_is_switched_off_by_name(exported: Exported, images: list[Path]) -> None:
    swapped = Sample("bgr", rgb=read_rgb(images[0])[..., ::-1].copy())
    with Inspector.open(exported("rgb")) as inspector:
        refused = inspector.inspect(swapped)
    assert (refused.reason, refused.inspected, refused.skipped_checks) == ("colour", False, ())
    assert refused.message.endswith("--ignore-check colour.")
    with Inspector.open(exported("rgb"), OpenOptions(ignore_checks=("colour",))) as inspector:
        scored = inspector.inspect(swapped)
    assert scored.inspected
    assert scored.to_dict()["skipped_checks"] == ["colour"]


def test_message_has_both_sizes(exported: Exported, images: list[Path]) -> None:
    rgb = read_rgb(images[0])
    double = Sample("part", rgb=rgb.repeat(2, axis=0).repeat(2, axis=1))
    with Inspector.open(exported("rgb")) as inspector:
        message = inspector.inspect(double).message
    height, width = rgb.shape[:2]
    assert f"{2 * width}×{2 * height}" in message
    assert f"Expected {width}×{height}, as in training" in message


def test_unknown_checks_are_refused() -> None:
    for wrong in ({"ignore_checks": ("weather",)}, {"frozen_after": 1}, {"frozen_after": -1}):
        with pytest.raises(ValueError, match=r"OpenOptions\."):
            OpenOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.failure_mode("The same frame again and again")
def test_a_frozen_camera_is_no_ok(exported: Exported, images: list[Path]) -> None:
    rgb = read_rgb(images[0])
    with Inspector.open(exported("rgb")) as inspector:
        results = [inspector.inspect(Sample(str(i), rgb=rgb)) for i in range(4)]
        moved_on = inspector.inspect(Sample("next", rgb=read_rgb(images[1])))
    assert [result.reason == "frozen" for result in results] == [False, False, True, True]
    assert not results[2].inspected
    assert moved_on.inspected


def test_identical_frames_are_counted_in_order_when_prepared_by_threads(exported: Exported, images: list[Path]) -> None:
    first, second = images[:2]
    sources = [first, second, first, second, first, first, first, second]
    with Inspector.open(exported("rgb")) as inspector, closing(inspect_stream(inspector, sources, ahead=4)) as stream:
        reasons = [inspected.inspection.reason for inspected in stream]
    assert [reason == "frozen" for reason in reasons] == [False] * 6 + [True, False]


@pytest.mark.parametrize("options", [OpenOptions(frozen_after=0), OpenOptions(ignore_checks=("frozen",))])
def test_identical_frames_can_be_allowed(exported: Exported, images: list[Path], options: OpenOptions) -> None:
    rgb = read_rgb(images[0])
    with Inspector.open(exported("rgb"), options) as inspector:
        assert all(inspector.inspect(Sample("same", rgb=rgb)).inspected for _ in range(5))


@pytest.mark.failure_mode("A bundle of an earlier version without limits of recording conditions")
def test_a_bundle_of_an_earlier_version_says_that_nothing_is_checked() -> None:
    for path in FORMAT_1.glob("*.cmdiad"):
        assert Bundle.open(path).skipped_checks == (*LEARNT_CHECKS, *PART_CHECKS, *OUTSIDE_CHECKS)


def test_a_run_names_the_checks_that_are_switched_off(exported: Exported, images: list[Path], tmp_path: Path) -> None:
    write_image(tmp_path / "bgr.png", read_rgb(images[0])[..., ::-1].copy())
    refused = command(run_cli, exported("rgb"), tmp_path / "bgr.png")
    assert "NG\t-" in refused.out
    assert "colour: " in refused.err
    scored = command(run_cli, exported("rgb"), tmp_path / "bgr.png", "--ignore-check", "colour")
    assert "checks switched off: colour" in scored.err
    assert "NG\t-" not in scored.out


def test_a_check_is_switched_off_in_the_bundle_and_restored(exported: Exported, tmp_path: Path) -> None:
    own = Path(shutil.copytree(exported("rgb"), tmp_path / "own.cmdiad"))
    exported_bytes = (own / "manifest.json").read_bytes()
    shown = command(threshold_cli, own, "--ignore-check", "noise", "--ignore-check", "colour")
    assert "noise, colour" in shown.out
    bundle = Bundle.open(own)
    assert bundle.ignored_checks == bundle.skipped_checks == ("noise", "colour")
    assert bundle.record.envelope_off_original == ()
    command(threshold_cli, own, "--threshold", "7")
    assert Bundle.open(own).ignored_checks == ("noise", "colour")
    command(threshold_cli, own, "--reset")
    assert (own / "manifest.json").read_bytes() == exported_bytes
