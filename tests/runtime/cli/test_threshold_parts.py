"""`cmdiad-threshold` with good and bad parts: what is added, what is refused, and what nothing changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.threshold import calibrate
from cmdiad_runtime.cli import run as run_cli
from cmdiad_runtime.cli.threshold import cli
from helpers import assert_refused, command, read_image, rewrite_manifest, sample_files, truncate, write_image


@pytest.fixture
def tuesday(data: Path, tmp_path: Path) -> Path:
    """Good parts of another day: six training pictures, a little brighter."""
    folder = tmp_path / "tuesday" / "good" / "rgb"
    folder.mkdir(parents=True)
    for path in sample_files(data, "train", "good", "rgb"):
        pixels = np.clip(read_image(path).astype(int) + 1, 0, 255).astype(np.uint8)
        write_image(folder / path.name, pixels)
    return folder.parent


def bad_folders(data: Path) -> tuple[object, ...]:
    test = data / "gear" / "test"
    return ("--bad", test / "hole", "--bad", test / "contamination")


def manifest(bundle: Path) -> bytes:
    return (bundle / "manifest.json").read_bytes()


def scores_of(bundle: Path, folder: Path, out: Path) -> list[float]:
    assert command(run_cli.cli, bundle, folder, "--output", out).code == 0
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["score"] for line in lines]


# --- good parts ---------------------------------------------------------------------------------------------------


def test_good_parts_of_another_day_become_a_session(own_bundle: Path, tuesday: Path, tmp_path: Path) -> None:
    before = Bundle.open(own_bundle).calibration
    expected = scores_of(own_bundle, tuesday, tmp_path / "out")
    ended = command(cli, own_bundle, "--good", tuesday)
    assert ended.code == 0, ended.err
    assert "6 good parts added to the session tuesday." in ended.err
    after = Bundle.open(own_bundle)
    assert [(s.name, s.samples) for s in after.calibration.sessions] == [("training", before.samples), ("tuesday", 6)]
    assert after.calibration.by_session[1].scores == tuple(expected)
    assert after.calibration.false_reject_rate == before.false_reject_rate
    assert after.certified_calibration == before
    assert "session tuesday" in ended.out
    assert "all held-out good samples are of the training data" not in ended.err
    again = command(cli, own_bundle, "--good", tuesday, "--good", tuesday / "rgb")
    assert again.code == 0 and again.err.count("all 6 good parts are recorded already") == 2
    assert Bundle.open(own_bundle).calibration == after.calibration
    reset = command(cli, own_bundle, "--reset")
    assert reset.code == 0 and Bundle.open(own_bundle).calibration == before


def test_training_and_validation_data_are_recognised(own_bundle: Path, data: Path) -> None:
    """Their scores would be too low, and would hide that there is no other session."""
    before = manifest(own_bundle)
    good = [data / "gear" / split / "good" for split in ("train", "validation")]
    ended = command(cli, own_bundle, "--good", good[0], "--good", good[1])
    assert ended.code == 0, ended.err
    assert "all 6 good parts are recorded already" in ended.err and "all 3 good parts" in ended.err
    assert "all held-out good samples are of the training data" in ended.err
    assert manifest(own_bundle) == before


def test_rate_and_session_in_one_command(own_bundle: Path, tuesday: Path) -> None:
    before = Bundle.open(own_bundle).calibration
    assert command(cli, own_bundle, "--good", tuesday, "--false-reject-rate", 0.3).code == 0
    calibration = Bundle.open(own_bundle).calibration
    assert (calibration.false_reject_rate, calibration.samples) == (0.3, before.samples + 6)


def test_parts_that_cannot_be_inspected_are_listed_and_left_out(own_bundle: Path, tuesday: Path) -> None:
    broken = truncate(sorted((tuesday / "rgb").iterdir())[0])
    ended = command(cli, own_bundle, "--good", tuesday)
    assert ended.code == 3, ended.err
    assert "1 of 6 good parts are left out, because they are NG at every threshold (unreadable 1):" in ended.err
    assert f"  unreadable: {broken}" in ended.err
    assert Bundle.open(own_bundle).calibration.sessions[1].samples == 5


def test_too_few_parts_change_nothing(own_bundle: Path, tuesday: Path) -> None:
    before = manifest(own_bundle)
    for path in sorted((tuesday / "rgb").iterdir())[:2]:
        path.unlink()
    assert_refused(command(cli, own_bundle, "--good", tuesday), 3, tuesday, "4 new good parts", "at least 5")
    assert manifest(own_bundle) == before


def test_copies_in_a_folder_count_once(own_bundle: Path, tuesday: Path) -> None:
    for i, path in enumerate(sorted((tuesday / "rgb").iterdir())[:3]):
        shutil.copy(path, path.with_name(f"copy{i}.png"))
    ended = command(cli, own_bundle, "--good", tuesday)
    assert "3 of 9 good parts are copies of others in the folder and do not count again." in ended.err
    assert Bundle.open(own_bundle).calibration.sessions[1].samples == 6


@pytest.mark.parametrize("option", ["--good", "--bad"])
def test_folder_of_good_and_bad_parts_is_refused(own_bundle: Path, data: Path, option: str) -> None:
    before = manifest(own_bundle)
    folder = data / "gear" / "test"
    words = ("contamination", "good parts alone") if option == "--good" else ("may be good", "bad parts alone")
    assert_refused(command(cli, own_bundle, option, folder), 3, folder, *words)
    assert manifest(own_bundle) == before


@pytest.mark.parametrize(("option", "name"), [("--good", "NG_7.png"), ("--bad", "7 ok.png")])
def test_file_that_is_named_as_the_other_kind_is_refused(
    own_bundle: Path, tuesday: Path, option: str, name: str
) -> None:
    path = sorted((tuesday / "rgb").iterdir())[0]
    path.rename(path.with_name(name))
    folder = tuesday / "rgb"
    assert_refused(command(cli, own_bundle, option, folder), 3, folder, name)


@pytest.mark.parametrize(("option", "place", "other"), [("--good", "NOK", "bad"), ("--bad", "i.O.", "good")])
def test_folder_that_is_named_as_the_other_kind_is_refused(
    own_bundle: Path, tuesday: Path, option: str, place: str, other: str
) -> None:
    before = manifest(own_bundle)
    folder = tuesday.rename(tuesday.with_name(place))
    ended = command(cli, own_bundle, option, folder)
    assert_refused(ended, 3, folder, f"a folder of {other} parts, by its name or place")
    assert manifest(own_bundle) == before


@pytest.mark.parametrize("option", ["--good", "--bad"])
def test_folder_without_parts_is_refused(own_bundle: Path, tmp_path: Path, option: str) -> None:
    assert_refused(command(cli, own_bundle, option, tmp_path / "no"), 3, tmp_path / "no", "no such folder")
    assert_refused(command(cli, own_bundle, option, tmp_path), 3, tmp_path, "no rgb file")


def test_bundle_that_was_replaced_meanwhile_is_refused(
    own_bundle: Path, tuesday: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmdiad_runtime.cli import threshold_parts

    original = threshold_parts.inspect_parts

    def inspect(*arguments: Any) -> threshold_parts.Parts:
        parts = original(*arguments)
        return threshold_parts.Parts("0" * 64, parts.good, parts.bad)

    monkeypatch.setattr(threshold_parts, "inspect_parts", inspect)
    before = manifest(own_bundle)
    assert_refused(command(cli, own_bundle, "--good", tuesday), 4, own_bundle, "another graph")
    assert manifest(own_bundle) == before


# --- bad parts ----------------------------------------------------------------------------------------------------


def test_bad_parts_are_shown_and_set_nothing(own_bundle: Path, data: Path, tmp_path: Path) -> None:
    before, plot = manifest(own_bundle), tmp_path / "plot.svg"
    ended = command(cli, own_bundle, *bad_folders(data), "--plot", plot)
    assert ended.code == 0, ended.err
    assert manifest(own_bundle) == before
    rows = ended.out.split("\n\n")[1].splitlines()
    assert rows[0].split() == ["threshold", "good", "rejected", "bad", "missed"]
    assert all(f" of {Bundle.open(own_bundle).calibration.samples} (" in row for row in rows[1:-1])
    assert sum(row.endswith("<- in use") for row in rows) == 1
    assert rows[-1] == f"plot: {plot}"
    assert plot.read_text(encoding="utf-8").startswith("<svg")


def test_least_expected_cost_is_set_when_asked_for(own_bundle: Path, data: Path) -> None:
    ended = command(cli, own_bundle, *bad_folders(data), "--cost-miss", 1000, "--cost-reject", 1, "--bad-share", 0.3)
    assert ended.code == 0, ended.err
    dear = Bundle.open(own_bundle).calibration
    assert dear.method == "least expected cost"
    assert "expected cost: " in ended.out and "0.3 of them bad" in ended.out
    assert command(cli, own_bundle, *bad_folders(data), "--cost-miss", 1, "--cost-reject", 1000).code == 0
    assert Bundle.open(own_bundle).calibration.score_threshold >= dear.score_threshold
    kept = command(cli, own_bundle, "--good", data / "gear" / "test" / "good")
    assert_refused(kept, 3, "2 new good parts")


def test_costs_at_which_every_bad_part_passes_change_nothing(own_bundle: Path, data: Path) -> None:
    calibration = replace(calibrate([1e6] * 40, [1e6] * 40, 0.05), verdict="map")
    rewrite_manifest(own_bundle, lambda manifest: manifest.update(calibration=calibration.to_json()))
    before = (own_bundle / "manifest.json").read_bytes()
    for cost, problem in ((1, "bad parts pass"), (1e6, "good parts are rejected")):
        ended = command(cli, own_bundle, *bad_folders(data), "--cost-miss", cost, "--cost-reject", 1)
        assert_refused(ended, 3, "--cost-miss", problem, "choose a threshold from the table with --threshold")
        assert "bad missed" in ended.out
        assert (own_bundle / "manifest.json").read_bytes() == before
    ended = command(cli, own_bundle, *bad_folders(data), "--threshold", 1e6)
    assert ended.code == 0, ended.err
    assert "warning: at the threshold in use all" in ended.err


def test_bad_parts_that_were_used_as_good_ones_are_named(own_bundle: Path, data: Path, tmp_path: Path) -> None:
    good = sample_files(data, "train", "good", "rgb")[0]
    folder = tmp_path / "scratches"
    folder.mkdir()
    shutil.copy(good, folder / "7.png")
    ended = command(cli, own_bundle, "--bad", folder)
    assert ended.code == 0, ended.err
    assert f"warning: 1 bad parts were used as good ones: {folder / '7.png'}" in ended.err


def test_bad_parts_that_cannot_be_scored_are_refused(own_bundle: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    truncate(Path(shutil.copy(sample_files(data, "test", "hole", "rgb")[0], folder)))
    assert_refused(command(cli, own_bundle, "--bad", folder), 3, folder, "no bad part whose verdict")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--cost-miss", 1, "--cost-reject", 1), "need bad parts"),
        (("--plot", "a.svg"), "need bad parts"),
        (("--bad", ".", "--cost-miss", 1), "both --cost-miss and --cost-reject"),
        (("--bad", ".", "--bad-share", 0.1), "--bad-share concerns"),
        (("--bad", ".", "--cost-miss", 1, "--cost-reject", 1, "--threshold", 3), "pass one of"),
        (("--reset", "--good", "."), "leave --ignore-check and --good out"),
    ],
)
def test_wrong_command_line(own_bundle: Path, options: tuple[object, ...], words: str) -> None:
    ended = command(cli, own_bundle, *options)
    assert ended.code == 2
    assert words in " ".join(ended.err.replace("│", "").split())


def test_plot_of_another_format_is_refused_before_the_work(own_bundle: Path, data: Path, tmp_path: Path) -> None:
    ended = command(cli, own_bundle, *bad_folders(data), "--plot", tmp_path / "plot.pdf")
    assert_refused(ended, 6, tmp_path / "plot.pdf", ".svg or .png")
    assert "inspect" not in ended.err
