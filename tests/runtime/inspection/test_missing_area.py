"""A bundle that lacks the limits of the inspected area states what it does not check."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.cli import info, run
from cmdiad_runtime.cli.notes import notes_about
from cmdiad_runtime.preprocess.inspected_area.missing import OUTSIDE_CHECKS, PART_CHECKS, missing_checks
from cmdiad_runtime.preprocess.inspected_area.records import WHOLE_PICTURE
from cmdiad_runtime.preprocess.settings import Preprocessing
from helpers import command, rewrite_manifest, sample_files

Exported = Callable[..., Path]
AREA_CHECKS = (*PART_CHECKS, *OUTSIDE_CHECKS)


def test_a_cut_out_part_without_limits_is_reported(exported: Exported, data: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(exported("xyz"), tmp_path / "own.cmdiad")
    whole = Bundle.open(bundle)
    assert whole.preprocessing.needs_cloud and whole.preprocessing.foreground
    assert whole.skipped_checks == () and list(notes_about(whole)) == []
    cloud = sample_files(data, "train", "good", "xyz")[0]

    def forget(manifest: dict[str, Any]) -> None:
        del manifest["inspected_area"]

    def loosen(manifest: dict[str, Any]) -> None:
        manifest["inspected_area"]["stray"] = None

    rewrite_manifest(bundle, loosen)
    assert Bundle.open(bundle).skipped_checks == OUTSIDE_CHECKS
    rewrite_manifest(bundle, forget)
    assert Bundle.open(bundle).skipped_checks == AREA_CHECKS
    ended = command(run.cli, bundle, cloud)
    assert "note: the bundle has no limits for part-count, part-area, part-position, outside, so an absent" in ended.err
    assert "checks switched off" not in ended.err
    shown = command(info.cli, bundle)
    assert "not checked" in shown.out and "part-count" in shown.out


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (Preprocessing("rgb", size=8), ()),
        (Preprocessing("xyz", size=8), AREA_CHECKS),
        (Preprocessing("xyz", size=8, foreground=False), ()),
    ],
)
def test_limits_are_needed_where_the_picture_is_cut(settings: Preprocessing, missing: tuple[str, ...]) -> None:
    assert missing_checks(None, settings) == missing_checks(WHOLE_PICTURE, settings) == missing
