"""Which run or bundle is taken when none is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cmdiad_runtime.errors import BundleError, RunError
from cmdiad_runtime.support.newest import newest_bundle, newest_run


def bundle(folder: Path, name: str, modality: str, stamp: int) -> Path:
    return _marked(folder / name / "manifest.json", {"preprocessing": {"modality": modality}}, stamp)


def run(folder: Path, name: str, status: str, stamp: int) -> Path:
    return _marked(folder / name / "run.json", {"status": status}, stamp)


def _marked(path: Path, content: object, stamp: int) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    os.utime(path, (stamp, stamp))
    return path.parent


def test_newest_bundle_by_its_manifest(tmp_path: Path) -> None:
    newest = bundle(tmp_path, "a", "rgb", 300)
    bundle(tmp_path, "b", "rgb", 200)
    (tmp_path / "c").mkdir()
    assert newest_bundle(tmp_path) == newest


def test_newest_bundle_of_a_modality(tmp_path: Path) -> None:
    bundle(tmp_path, "a", "xyz", 300)
    rgb = bundle(tmp_path, "b", "rgb", 200)
    assert newest_bundle(tmp_path, "rgb") == rgb


def test_same_age_is_settled_by_name(tmp_path: Path) -> None:
    bundle(tmp_path, "a", "rgb", 300)
    last = bundle(tmp_path, "b", "rgb", 300)
    assert newest_bundle(tmp_path) == last


def test_damaged_manifest_is_no_bundle_of_a_modality(tmp_path: Path) -> None:
    rgb = bundle(tmp_path, "a", "rgb", 200)
    for number, text in enumerate(("{", "[]", "\xff")):
        path = bundle(tmp_path, f"b{number}", "rgb", 300) / "manifest.json"
        path.write_text(text, encoding="latin-1")
    assert newest_bundle(tmp_path, "rgb") == rgb


def test_newest_run_is_a_finished_one(tmp_path: Path) -> None:
    finished = run(tmp_path, "a", "complete", 200)
    run(tmp_path, "b", "complete", 100)
    run(tmp_path, "c", "fitting", 300)
    assert newest_run(tmp_path) == finished


def test_runs_of_all_patterns_are_as_new_as_the_last_of_them(tmp_path: Path) -> None:
    single = run(tmp_path, "single", "complete", 250)
    patterns = tmp_path / "patterns"
    for name, time in (("both", 200), ("rgb", 240), ("xyz", 300)):
        run(patterns, name, "complete", time)
    (patterns / "pattern-runs.json").touch()
    os.utime(patterns / "pattern-runs.json", (100, 100))  # written before the first training
    assert newest_run(tmp_path) == patterns
    (patterns / "rgb" / "run.json").write_text(json.dumps({"status": "fitting"}))
    assert newest_run(tmp_path) == single
    assert newest_run(patterns) == patterns / "xyz"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No bundle for --modality rgb found in .*bundles. Pass the path of a bundle"):
        newest_bundle(tmp_path / "bundles", "rgb")
    run(tmp_path, "c", "fitting", 300)
    with pytest.raises(RunError, match="No finished run found in .* Pass the path of a run, or create one"):
        newest_run(tmp_path)


@pytest.mark.parametrize("modality", [None, "rgb"])
def test_exports_that_run_or_were_killed_are_no_bundles(tmp_path: Path, modality: str | None) -> None:
    rgb = bundle(tmp_path, "a", "rgb", 200)
    bundle(tmp_path, ".b.0123abcd.cmdiad", "rgb", 300)
    assert newest_bundle(tmp_path, modality) == rgb
    finished = run(tmp_path, "run", "complete", 200)
    run(tmp_path, ".run.0123abcd", "complete", 300)
    assert newest_run(tmp_path) == finished


def test_pipe_in_place_of_a_manifest_is_not_waited_for(tmp_path: Path) -> None:
    rgb = bundle(tmp_path, "a", "rgb", 200)
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "manifest.json")
    assert newest_bundle(tmp_path, "rgb") == rgb
