"""A bundle for whichever sensors arrive contains exactly the three bundles that were exported together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from cmdiad_bench.cli import cli as bench
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.change import change_bundle, sign_pattern_bundle
from cmdiad_runtime.bundle.pattern_bundle import open_pattern_bundle
from cmdiad_runtime.bundle.signature import new_key
from cmdiad_runtime.bundle.threshold import adjusted
from cmdiad_runtime.cli.build import cli as build
from cmdiad_runtime.cli.info import cli as info
from cmdiad_runtime.cli.run import cli as run
from cmdiad_runtime.cli.threshold import cli as threshold
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.inspection.pattern_inspector import PatternInspector
from cmdiad_runtime.names import SENSORS
from helpers import assert_refused, command, flip_byte


@pytest.fixture
def own(exported_for_any: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_for_any, tmp_path / "own.cmdiad"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "patterns.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace_by_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere.weights")
    path.symlink_to(path.parent.parent / "elsewhere.weights")


def test_every_pattern_has_its_bundle(own: Path) -> None:
    opened = open_pattern_bundle(own)
    assert {pattern: bundle.preprocessing.modality for pattern, bundle in opened.bundles.items()} == {
        pattern: pattern for pattern in SENSORS
    }


@pytest.mark.parametrize(("cli", "words"), [(threshold, []), (build, []), (bench, ["latency"])])
def test_other_commands_name_the_bundles_inside(own: Path, cli: click.Command, words: list[str]) -> None:
    ended = command(cli, *words, own)
    assert_refused(ended, 4, "for whichever sensors arrive", own / "gear-rgb.cmdiad")


def test_reader_of_ordinary_bundles_refuses(own: Path) -> None:
    with pytest.raises(BundleError, match="for whichever sensors arrive"):
        Bundle.open(own)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda own: shutil.rmtree(own / "gear-xyz.cmdiad"), "no manifest.json"),
        (lambda own: (own / "gear-xyz.cmdiad" / "golden.npz").write_bytes(b""), "0 bytes"),
        (lambda own: (own / "notes.txt").write_text("hello"), "does not list"),
        (lambda own: (own / "patterns.json").write_text("{"), "no readable JSON"),
        (lambda own: rewrite(own, lambda c: c.update(format="cmdiad-bundle")), "another kind of file"),
        (lambda own: rewrite(own, lambda c: c.update(format_version=2)), "newer cmdiad"),
        (lambda own: rewrite(own, lambda c: c.update(further=1)), "newer cmdiad"),
        (lambda own: rewrite(own, lambda c: c.update(weights="graph.weights")), "64 lower-case"),
        (lambda own: rewrite(own, lambda c: c.update(weights="0" * 64)), "weights whose hash is not that of patterns"),
        (lambda own: rewrite(own, lambda c: c.pop("weights")), "graph.weights: found a file that patterns.json does"),
        (lambda own: (own / "graph.weights").unlink(), "graph.weights: found no such file"),
        (lambda own: flip_byte(own / "graph.weights"), "graph.weights: found contents whose hash"),
        (lambda own: (own / "graph.weights").write_bytes(b"short"), "graph.weights: found 5 bytes"),
        (lambda own: replace_by_link(own / "graph.weights"), "graph.weights: found a link"),
        (lambda own: (own / "gear-xyz.cmdiad" / "graph.weights").write_bytes(b"own"), "graph.weights: found 3 bytes"),
        (lambda own: rewrite(own, lambda c: c.update(format_version=True)), "format version"),
        (lambda own: rewrite(own, lambda c: c.update(patterns=[])), "expected an object"),
        (lambda own: rewrite(own, lambda c: c["patterns"].pop("rgb")), "one bundle for each"),
        (lambda own: rewrite(own, lambda c: c["patterns"]["rgb"].update(folder="../gear")), "name of a folder"),
        (lambda own: rewrite(own, lambda c: c["patterns"]["rgb"].update(folder="gear-xyz.cmdiad")), "for each pattern"),
        (lambda own: rewrite(own, lambda c: c["patterns"]["rgb"].update(sha256="0" * 64)), "not exported with"),
    ],
)
def test_damage_is_reported(own: Path, change: Callable[[Path], object], problem: str) -> None:
    change(own)
    with pytest.raises(BundleError, match=problem):
        open_pattern_bundle(own)


def test_bundle_of_another_pattern_is_refused(own: Path) -> None:
    from cmdiad_export.pattern_bundle_writer import bind_patterns, bundle_name

    for pattern in SENSORS:  # no longer shared
        shutil.copyfile(own / "graph.weights", own / bundle_name("gear", pattern) / "graph.weights")
    for name in ("patterns.json", "graph.weights"):
        (own / name).unlink()
    shutil.rmtree(own / "gear-rgb.cmdiad")
    shutil.copytree(own / "gear-xyz.cmdiad", own / "gear-rgb.cmdiad")
    with pytest.raises(BundleError, match="a bundle for xyz as rgb"):
        bind_patterns(own, "gear", {pattern: bundle_name("gear", pattern) for pattern in SENSORS})


def test_link_to_a_bundle_is_refused(own: Path, tmp_path: Path) -> None:
    (own / "gear-rgb.cmdiad").rename(tmp_path / "moved.cmdiad")
    (own / "gear-rgb.cmdiad").symlink_to(tmp_path / "moved.cmdiad")
    with pytest.raises(BundleError, match="a link"):
        open_pattern_bundle(own)


def test_threshold_of_one_pattern_can_be_moved(own: Path) -> None:
    inside = own / "gear-rgb.cmdiad"
    score = 2 * Bundle.open(inside).calibration.score_threshold
    change_bundle(inside, lambda bundle: adjusted(bundle, score=score).calibration)
    assert open_pattern_bundle(own).bundles["rgb"].calibration.score_threshold == score


def test_check_of_one_pattern_can_be_switched_off(own: Path) -> None:
    change_bundle(own / "gear-rgb.cmdiad", lambda bundle: bundle.calibration, lambda bundle: ["exposure"])
    assert "exposure" in open_pattern_bundle(own).bundles["rgb"].ignored_checks


def test_signature_covers_all_patterns(own: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    public, other = new_key(tmp_path / "line.key"), new_key(tmp_path / "other.key")
    options = OpenOptions(require_signature=public)
    with pytest.raises(BundleError, match="no signature"):
        PatternInspector.open(own, options)
    assert len(sign_pattern_bundle(own, tmp_path / "line.key")) == 4
    PatternInspector.open(own, options).close()
    with pytest.raises(BundleError, match="signature"):
        PatternInspector.open(own, OpenOptions(require_signature=other))
    (own / "manifest.sig").unlink()
    with pytest.raises(BundleError, match="no signature"):
        PatternInspector.open(own, options)


def test_info_shows_every_pattern(own: Path) -> None:
    ended = command(info, own)
    assert ended.code == 0, ended.err
    assert ended.out.count("\nthreshold ") == 3
    summary = json.loads(command(info, own, "--json").out)
    assert set(summary["patterns"]) == set(SENSORS)


def test_newest_bundle_may_be_one_for_any(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundles").mkdir()
    own.rename(tmp_path / "bundles" / "own.cmdiad")
    monkeypatch.chdir(tmp_path)
    ended = command(run)
    assert ended.code == 0, ended.err
    assert ended.out.count("self-test passed") == 3
