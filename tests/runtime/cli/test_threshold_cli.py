"""Another threshold on a bundle: for one run, through the API, or for good with `cmdiad-threshold`."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.calibration import Calibration, SessionScores
from cmdiad_runtime.bundle.session import TRAINING, Session
from cmdiad_runtime.bundle.threshold import calibrate, calibrate_sessions
from cmdiad_runtime.cli import run as run_cli
from cmdiad_runtime.cli.info import cli as info_cli
from cmdiad_runtime.cli.threshold import cli
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.open_options import OpenOptions
from helpers import Ended, assert_refused, command, flip_byte, python, rewrite_manifest, sample_files

SCORES = [float(s) for s in np.random.default_rng(0).normal(10, 1, 40)]
PEAKS = [float(s) for s in np.random.default_rng(1).normal(20, 2, 40)]
NEW_FIELDS = ("interval", "held_out_scores", "held_out_peaks", "sessions")


@pytest.fixture
def bundle(own_bundle: Path) -> Path:
    """A bundle calibrated on 40 known held-out scores."""
    rewrite_manifest(own_bundle, lambda m: m.update(calibration=calibrated(0.05).to_json()))
    return own_bundle


def calibrated(rate: float) -> Calibration:
    """The calibration of the bundle; the map decides, with a map threshold of its own for drawing."""
    return replace(calibrate(SCORES, PEAKS, rate), verdict="map")


@pytest.fixture
def old_bundle(own_bundle: Path) -> Path:
    """A bundle exported before calibrations carried held-out scores."""

    def forget(manifest: dict[str, Any]) -> None:
        for name in NEW_FIELDS:
            manifest["calibration"].pop(name, None)

    rewrite_manifest(own_bundle, forget)
    return own_bundle


def manifest_of(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))


def other_days(bundle: Path) -> str:
    """The warning that all held-out samples are of the training data."""
    return (
        "warning: all held-out good samples are of the training data. Good parts of another day may score higher. "
        f"To add good parts of another day: cmdiad-threshold {bundle} --good DIR\n"
    )


def adjust(bundle: Path, *options: object) -> Ended:
    ended = command(cli, bundle, *options)
    assert ended.code == 0, ended.err
    return ended


# --- for good ----------------------------------------------------------------------------------------------------


def test_showing_changes_nothing(bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    ended = adjust(bundle)
    assert (bundle / "manifest.json").read_bytes() == before
    expected = calibrate(SCORES, PEAKS, 0.05)
    low, high = expected.interval
    shown = dict(re.split("  +", line, maxsplit=1) for line in ended.out.splitlines())
    assert shown["score threshold"] == f"{expected.score_threshold:.6g}"
    assert shown["false rejects"] == f"5.00%; 95 % interval {low:.2%} to {high:.2%} of good parts"
    assert "exported with" not in shown
    assert ended.err == other_days(bundle)


def test_rate_is_recomputed_from_the_held_out_scores(bundle: Path) -> None:
    before = manifest_of(bundle)
    ended = adjust(bundle, "--false-reject-rate", 0.2)
    assert Bundle.open(bundle).calibration == calibrated(0.2)
    after = manifest_of(bundle)
    assert after["calibration_original"] == before["calibration"]
    assert {k for k in after if after[k] != before.get(k)} == {"calibration", "calibration_original", "manifest_sha256"}
    assert f"exported with     score {before['calibration']['score_threshold']:.6g}" in ended.out


def test_every_command_repeats_the_warnings_of_the_training(bundle: Path, tmp_path: Path) -> None:
    """Once good parts of a second session set the threshold, the warning about near copies is no longer printed."""
    series, weak = "20 good samples make up 5 series", "Only 1 of 8 held-out samples exceed the threshold"
    rewrite_manifest(bundle, lambda m: m["provenance"]["data"].update(series=series, not_separated=weak))
    for commanded in ((cli, bundle), (run_cli.cli, bundle, tmp_path)):
        assert f"warning: {series}\nwarning: {weak}\n" in command(*commanded).err
    doubts = json.loads(command(info_cli, bundle, "--json").out)["threshold"]["doubts"]
    assert doubts[-2:] == [series, weak]
    days = [
        SessionScores(Session(name, 40, tuple(f"{seed:08x}{i:08x}" for i in range(40))), tuple(SCORES), tuple(PEAKS))
        for seed, name in enumerate((TRAINING, "tuesday"))
    ]
    calibration = replace(calibrate_sessions(days, 0.05), verdict="map")
    rewrite_manifest(bundle, lambda m: m.update(calibration=calibration.to_json()))
    err = command(cli, bundle).err
    assert series not in err and f"warning: {weak}\n" in err


def test_rate_that_the_samples_do_not_support_is_set_with_a_warning(bundle: Path) -> None:
    ended = adjust(bundle, "--false-reject-rate", 0.001)
    few = "warning: 40 held-out good samples; 999 are needed to support a false-reject rate of 0.001. "
    few += "Until then about 2.4% of good parts are rejected\n"
    assert ended.err == few + other_days(bundle)
    assert Bundle.open(bundle).calibration.method == "interpolated order statistic"


def test_raw_score_leaves_the_map_threshold(bundle: Path) -> None:
    before = Bundle.open(bundle).calibration
    adjust(bundle, "--threshold", 11)
    after = Bundle.open(bundle).calibration
    assert (after.score_threshold, after.map_threshold, after.method) == (11.0, before.map_threshold, "set by hand")
    assert after.false_reject_rate == np.mean(np.array(SCORES) > 11)
    assert after.held_out_scores == tuple(SCORES)
    adjust(bundle, "--map-threshold", 25)
    assert Bundle.open(bundle).calibration.map_threshold == 25
    assert Bundle.open(bundle).calibration.score_threshold == 11


def test_reset_brings_every_byte_back(bundle: Path) -> None:
    adjust(bundle, "--false-reject-rate", 0.05)  # as exported: also settles how the file is laid out
    before = (bundle / "manifest.json").read_bytes()
    adjust(bundle, "--score", 12)
    adjust(bundle, "--score", 13, "--map-threshold", 3)
    assert Bundle.open(bundle).certified_calibration == calibrated(0.05)
    ended = adjust(bundle, "--reset")
    assert (bundle / "manifest.json").read_bytes() == before
    assert "exported with" not in ended.out


def test_signature_that_no_longer_fits_is_named(bundle: Path) -> None:
    (bundle / "manifest.sig").write_bytes(b"signed")
    assert adjust(bundle).err == other_days(bundle)
    ended = adjust(bundle, "--score", 12)
    unsigned = f"warning: {bundle / 'manifest.sig'} does not match the changed manifest. Run cmdiad-sign again.\n"
    assert ended.err == unsigned + other_days(bundle)


def test_old_bundle_takes_a_score_and_refuses_a_rate(old_bundle: Path) -> None:
    before = (old_bundle / "manifest.json").read_bytes()
    assert "scores not in the bundle" in adjust(old_bundle).out
    refused = command(cli, old_bundle, "--false-reject-rate", 0.1)
    assert_refused(refused, 4, old_bundle, "no held-out scores", "as a raw score")
    assert (old_bundle / "manifest.json").read_bytes() == before
    ended = adjust(old_bundle, "--score", 3.5)
    unknown = "warning: without held-out scores the share of rejected good parts is unknown\n"
    assert ended.err == unknown + other_days(old_bundle)
    original = manifest_of(old_bundle)["calibration_original"]
    assert not set(NEW_FIELDS) & set(original)
    adjust(old_bundle, "--reset")
    assert manifest_of(old_bundle)["calibration"] == original


def test_unwritable_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (bundle / "manifest.json").read_bytes()
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)  # root may write anywhere
    assert_refused(command(cli, bundle, "--score", 12), 6, bundle, "read-only for this account")
    assert (bundle / "manifest.json").read_bytes() == before
    assert command(cli, bundle).code == 0


@pytest.mark.parametrize("name", ["manifest.json", "graph.onnx"])
def test_damaged_bundle_is_not_touched(bundle: Path, name: str) -> None:
    flip_byte(bundle / name, -20)
    before = (bundle / "manifest.json").read_bytes()
    assert_refused(command(cli, bundle, "--score", 12), 4, bundle / name)
    assert (bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        ("--score", 1, "--reset"),
        ("--score", 1, "--false-reject-rate", 0.1),
        ("--map-threshold", 1, "--false-reject-rate", 0.1),
        ("--reset", "--false-reject-rate", 0.1),
        ("--score", 0),
        ("--score", -1),
        ("--score", "nan"),
        ("--score", "inf"),
        ("--false-reject-rate", 0),
        ("--false-reject-rate", 1),
        ("--false-reject-rate", "nan"),
    ],
)
def test_wrong_command_line(bundle: Path, options: tuple[object, ...]) -> None:
    before = (bundle / "manifest.json").read_bytes()
    ended = command(cli, bundle, *options)
    assert ended.code == 2
    assert "Usage:" in ended.err
    assert (bundle / "manifest.json").read_bytes() == before


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['cmdiad-threshold', '--help']\n"
        "from cmdiad_runtime.cli.threshold import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "print([m for m in ('numpy', 'scipy', 'onnxruntime') if m in sys.modules])"
    )
    printed = python(code).splitlines()
    assert printed[0].startswith("Usage: cmdiad-threshold")
    assert printed[-1] == "[]"


# --- for one run -------------------------------------------------------------------------------------------------


def inspect(bundle: Path, data: Path, out: Path, *options: object) -> list[dict[str, Any]]:
    path = sample_files(data, "test", "good", "rgb")[0]
    ended = command(run_cli.cli, bundle, path, "--output", out, *options)
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def test_run_keeps_the_raw_score_whatever_the_threshold(data: Path, bundle: Path, tmp_path: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    (usual,) = inspect(bundle, data, tmp_path / "usual")
    score = usual["score"]
    assert usual["threshold"] == calibrate(SCORES, PEAKS, 0.05).score_threshold
    (below,) = inspect(bundle, data, tmp_path / "below", "--threshold", score * 0.99)
    (above,) = inspect(bundle, data, tmp_path / "above", "--threshold", score * 1.01)
    assert [line["verdict"] for line in (below, above)] == ["NG", "OK"]
    assert below["score"] == above["score"] == score
    assert (below["threshold"], above["threshold"]) == (score * 0.99, score * 1.01)
    (rated,) = inspect(bundle, data, tmp_path / "rated", "--false-reject-rate", 0.3)
    assert rated["threshold"] == calibrate(SCORES, PEAKS, 0.3).score_threshold
    assert (bundle / "manifest.json").read_bytes() == before


def test_adjusted_bundle_is_what_runs(data: Path, bundle: Path, tmp_path: Path) -> None:
    adjust(bundle, "--score", 0.5)
    (line,) = inspect(bundle, data, tmp_path / "out")
    assert (line["threshold"], line["verdict"]) == (0.5, "NG")


def test_inspector_takes_a_threshold_or_a_rate(bundle: Path) -> None:
    with Inspector.open(bundle, OpenOptions(threshold=7.5)) as inspector:
        calibration = inspector.bundle.calibration
        assert calibration.score_threshold == 7.5
        assert calibration.map_threshold == inspector.bundle.certified_calibration.map_threshold
    with Inspector.open(bundle, OpenOptions(false_reject_rate=0.2)) as inspector:
        assert inspector.bundle.calibration == calibrated(0.2)
    with pytest.raises(ValueError, match="not both"):
        Inspector.open(bundle, OpenOptions(threshold=7.5, false_reject_rate=0.2))
    with pytest.raises(ValueError, match="a positive number"):
        Inspector.open(bundle, OpenOptions(threshold=-1))


def test_rate_on_an_old_bundle(data: Path, old_bundle: Path) -> None:
    path = sample_files(data, "test", "good", "rgb")[0]
    assert_refused(command(run_cli.cli, old_bundle, path, "--false-reject-rate", 0.1), 4, old_bundle, "no held-out")
    with pytest.raises(BundleError, match="found no held-out scores"):
        Inspector.open(old_bundle, OpenOptions(false_reject_rate=0.1))


def test_rate_needs_scores_and_peaks(bundle: Path) -> None:
    rewrite_manifest(bundle, lambda m: m["calibration"].update(held_out_peaks=[], sessions=[]))
    with pytest.raises(BundleError, match="held_out_peaks has 0 values"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    "options", [("--threshold", 1, "--false-reject-rate", 0.1), ("--threshold", 0), ("--false-reject-rate", 1.5)]
)
def test_wrong_options_of_a_run(data: Path, bundle: Path, options: tuple[object, ...]) -> None:
    path = sample_files(data, "test", "good", "rgb")[0]
    assert command(run_cli.cli, bundle, path, *options).code == 2


def test_self_test_keeps_the_threshold_of_the_certificate(bundle: Path) -> None:
    ended = command(run_cli.cli, bundle, "--threshold", 3)
    assert ended.code == 2
    assert "the self-test keeps that of the certificate" in " ".join(ended.err.split())


@pytest.mark.parametrize(
    "option", [("--ignore-check", "exposure"), ("--output", "out", "--csv"), ("--output", "out", "--append")]
)
def test_self_test_refuses_options_that_concern_inputs(bundle: Path, option: tuple[str, ...]) -> None:
    ended = command(run_cli.cli, bundle, *option)
    assert ended.code == 2
    assert "the self-test does not use them" in " ".join(ended.err.split())
