"""From training to the verdict: absent, cracked and half-seen parts are never OK."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.options import ExportOptions
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.cli.run import cli as run
from cmdiad_runtime.cli.threshold import cli as threshold
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.preprocess.inspected_area.records import doubt
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.fit.fit import fit
from cmdiad_train.runs.record import read_record
from cmdiad_train.runs.run import load_run
from helpers import RecordingReporter, bank_recipe, command
from lanes import long
from pictures import plate, plug, write_category


def detector(tmp_path: Path, draw: Callable[..., Any], view: str) -> tuple[Path, list[str]]:
    """A bundle that is trained on pictures of ten good parts, and the lines that training prints."""
    data = write_category(tmp_path / "data" / "kind", [draw(seed) for seed in range(10)], {})
    reporter = RecordingReporter()
    fit(data, None, bank_recipe(size=128, view=view), tmp_path / "see", reporter)
    write_bundle(load_run(tmp_path / "see"), tmp_path / "b.cmdiad", ExportOptions("fp32"), SILENT)
    return tmp_path / "b.cmdiad", reporter.lines


@pytest.mark.parametrize(("draw", "defects"), [(plate, ("absent", "cracked")), long(plug, ("hole",))])
@pytest.mark.failure_mode("A part next to something brighter")
def test_default_view_finds_what_the_part_view_passes_over(
    tmp_path: Path, draw: Callable[..., Any], defects: tuple[str, ...]
) -> None:
    bundle, lines = detector(tmp_path, draw, "auto")
    assert any("--view sensor" in line and "leaves out other content" in line for line in lines)
    (line,) = [line for line in lines if line.startswith("Inspected area: the whole picture. ")]
    assert line.endswith(f", outlined in {tmp_path / 'see' / 'parts.png'}.")
    assert (tmp_path / "see" / "parts.png").is_file()
    with Inspector.open(bundle) as inspector:
        good = [inspector.inspect(Sample("good", rgb=draw(seed))).score for seed in (50, 51, 52)]
        for defect in defects:
            for seed in (60, 61):
                inspection = inspector.inspect(Sample(defect, rgb=draw(seed, defect)))
                assert inspection.score > max(good)
                assert inspection.verdict == "NG"


@pytest.mark.failure_mode("The same with a forced `--view part`")
def test_forced_part_view_objects_to_what_it_does_not_inspect(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle, lines = detector(tmp_path, plate, "part")
    warning = next(line for line in lines if line.startswith("Warning: "))
    assert "leaves out other content" in warning
    area = Bundle.open(bundle).record.inspected_area
    assert area is not None
    assert area == read_record(tmp_path / "see").inspected_area
    assert warning == f"Warning: {doubt(area)}."
    photo = tmp_path / "good.png"
    Image.fromarray(plate(50)).save(photo)
    for shown in (command(run, bundle, photo), command(run, bundle), command(threshold, bundle)):
        assert [line for line in shown.err.splitlines() if line.startswith("warning: ") and doubt(area) in line]
    caplog.clear()
    with caplog.at_level("WARNING", logger="cmdiad.inspection"), Inspector.open(bundle) as inspector:
        (message,) = [r.getMessage() for r in caplog.records if r.name == "cmdiad.inspection"]
        assert message == f"{bundle}: {doubt(area)}"
        absent = inspector.inspect(Sample("absent", rgb=plate(60, "absent")))
        assert (absent.verdict, absent.inspected) == ("NG", True)
        assert absent.reason in ("part-count", "score")
        cracked = inspector.inspect(Sample("cracked", rgb=plate(61, "cracked")))
        assert cracked.verdict == "NG"
        assert cracked.reason in ("outside", "score")
