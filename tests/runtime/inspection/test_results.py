"""A folder of results: lines, pictures, the table, continuing after a kill, one owner at a time."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.inspection import results as module
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.pipeline import InspectedSource
from cmdiad_runtime.inspection.result_line import CSV_COLUMNS, SCHEMA, Station
from cmdiad_runtime.inspection.results import DEFAULT_RESULTS, Results, ResultsOptions, open_results
from cmdiad_runtime.preprocess.views.place import PaddedSquare
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.lock import LOCK_NAME, lock_folder

STATION = Station("gear", "0" * 64, "onnxruntime 1.0, CPU")
APPEND = ResultsOptions(append=True)
TABLE = ResultsOptions(table=True)


def inspected(name: str = "photos/part.png", score: float = 0.5, **changes: Any) -> InspectedSource:
    fields: dict[str, Any] = {
        "name": name,
        "reason": None if score <= 1 else "score",
        "message": "" if score <= 1 else "score too high",
        "score": score,
        "threshold": 1.0,
        "map_threshold": 1.0,
        "map": np.full((4, 4), score, np.float32),
        "view": PaddedSquare(8, 8, 0, 0, 8),
        "timings_ms": {"preprocess": 2.0, "engine": 3.0, "map": 4.0},
        "sample": Sample(name, rgb=np.full((8, 8, 3), 99, np.uint8)),
    }
    return InspectedSource(Path(name), Inspection(**{**fields, **changes}), read_ms=1.23456, latency_ms=7.0)


def not_inspected(name: str = "photos/bad.png", message: str = "bad") -> InspectedSource:
    nothing = {"map": None, "view": None, "sample": None, "timings_ms": {}}
    return inspected(name, math.nan, reason="unreadable", message=message, **nothing)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="ascii").splitlines()]


def overlays(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "overlays").iterdir())


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def store(folder: Path, *sources: InspectedSource, options: ResultsOptions = DEFAULT_RESULTS) -> None:
    with open_results(folder, STATION, options) as results:
        for source in sources:
            results.add(source)


def test_fields_of_a_line(tmp_path: Path) -> None:
    before = datetime.now(timezone.utc)
    store(tmp_path, inspected(score=1.5), not_inspected())
    scored, refused = lines(tmp_path)
    time = datetime.fromisoformat(scored.pop("time"))
    assert time.utcoffset() is not None and abs((time - before).total_seconds()) < 60
    assert scored == {
        "schema": SCHEMA,
        "id": "photos-part",
        "input": "photos/part.png",
        "input_hex": None,
        "verdict": "NG",
        "reason": "score",
        "message": "score too high",
        "inspected": True,
        "score": 1.5,
        "threshold": 1.0,
        "map_max": 1.5,
        "skipped_checks": [],
        "bundle": "gear",
        "bundle_sha256": "0" * 64,
        "engine": "onnxruntime 1.0, CPU",
        "timings_ms": {"read": 1.235, "preprocess": 2.0, "engine": 3.0, "map": 4.0},
        "overlay": "overlays/photos-part.png",
        "overlay_error": None,
    }
    assert set(refused) == {*scored, "time"}
    assert (refused["verdict"], refused["inspected"], refused["reason"]) == ("NG", False, "unreadable")
    assert refused["score"] is refused["map_max"] is None
    assert overlays(tmp_path) == ["photos-bad.png", "photos-part.png"]


def test_line_is_stored_under_its_final_name_before_add_returns(tmp_path: Path) -> None:
    with open_results(tmp_path, STATION) as results:
        assert not lines(tmp_path)
        results.add(inspected())
        assert len(lines(tmp_path)) == 1
        assert overlays(tmp_path) == ["photos-part.png"]


@pytest.mark.parametrize("name", ["a\nOK\t0\tb.png", "a\r\x1b[2Kb.png", os.fsdecode(b"teil_\xfc.png"), "a\u2028b.png"])
def test_names_cannot_forge_a_line(tmp_path: Path, name: str) -> None:
    store(tmp_path, inspected(name), not_inspected(name, message=f"bad {name}"), options=TABLE)
    first, second = lines(tmp_path)
    assert first["input"].isprintable() and second["message"].isprintable()
    assert os.fsdecode(bytes.fromhex(first["input_hex"])) == name
    assert [row["input"] for row in rows(tmp_path)] == [first["input"]] * 2
    assert len((tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()) == 3


def test_values_without_a_json_form_become_null(tmp_path: Path) -> None:
    strange = inspected(score=0.5, threshold=math.inf, timings_ms={"engine": math.nan})
    store(tmp_path, strange)
    (line,) = lines(tmp_path)
    assert line["threshold"] is None
    assert line["timings_ms"]["engine"] is None


# --- the table ---------------------------------------------------------------------------------------------------


def test_table_has_a_row_for_each_line(tmp_path: Path) -> None:
    store(tmp_path, inspected(), not_inspected(message='bad, "very" bad'), options=TABLE)
    first, second = rows(tmp_path)
    assert tuple(first) == CSV_COLUMNS
    assert (first["verdict"], first["inspected"], first["score"]) == ("OK", "true", "0.5")
    assert (first["preprocess_ms"], first["engine_ms"], first["map_ms"]) == ("2.0", "3.0", "4.0")
    assert (second["verdict"], second["inspected"], second["score"]) == ("NG", "false", "")
    assert second["message"] == 'bad, "very" bad'


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0.png", "+1.png", "-1.png", "@SUM(A1).png", "＝1.png"])
def test_table_contains_no_formulas(tmp_path: Path, name: str) -> None:
    store(tmp_path, inspected(name), options=TABLE)
    (row,) = rows(tmp_path)
    assert row["input"] == f"'{name}"
    assert row["score"] == "0.5"


def test_table_is_completed_from_the_lines(tmp_path: Path) -> None:
    store(tmp_path, inspected("a.png"))
    store(tmp_path, inspected("b.png"), options=ResultsOptions(append=True, table=True))
    with (tmp_path / "results.csv").open("a") as file:
        file.write("torn,row")
    store(tmp_path, inspected("c.png"), options=APPEND)  # a table that exists is continued
    assert [row["input"] for row in rows(tmp_path)] == ["a.png", "b.png", "c.png"]


# --- a second run ------------------------------------------------------------------------------------------------


def test_second_run_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    store(tmp_path, inspected("a.png"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=r"results of an earlier run.*--append"):
        store(tmp_path, inspected("b.png"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_overlays_alone_are_results_of_an_earlier_run(tmp_path: Path) -> None:
    store(tmp_path, inspected("a.png"))
    (tmp_path / "results.jsonl").unlink()
    with pytest.raises(OutputError, match="earlier run"):
        store(tmp_path, inspected("b.png"))
    store(tmp_path, inspected("a.png"), options=APPEND)
    assert [line["overlay"] for line in lines(tmp_path)] == ["overlays/a-2.png"]  # the older picture stays


def test_run_without_results_can_be_repeated(tmp_path: Path) -> None:
    store(tmp_path)
    store(tmp_path, inspected("a.png"))
    assert len(lines(tmp_path)) == 1


def test_foreign_table_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("mine")
    with pytest.raises(OutputError, match="earlier run"):
        store(tmp_path, inspected(), options=TABLE)
    store(tmp_path, inspected())
    assert (tmp_path / "results.csv").read_text() == "mine"


def test_appending_continues_and_keeps_ids_apart(tmp_path: Path) -> None:
    store(tmp_path, inspected("a.png", score=0.25))
    store(tmp_path, inspected("a.png", score=0.75), options=APPEND)
    assert [(line["id"], line["score"]) for line in lines(tmp_path)] == [("a", 0.25), ("a-2", 0.75)]
    assert overlays(tmp_path) == ["a-2.png", "a.png"]


def test_appending_to_nothing_starts(tmp_path: Path) -> None:
    store(tmp_path / "new", inspected("a.png"), options=APPEND)
    assert len(lines(tmp_path / "new")) == 1


def test_lines_of_an_earlier_version_are_continued(tmp_path: Path) -> None:
    (tmp_path / "overlays").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "overlays" / "a.png")
    old = [
        {"input": "a.png", "verdict": "OK", "score": 0.1, "overlay": "overlays/a.png"},
        {"input": "b.png", "error": {"kind": "InputError", "message": "bad"}},
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    store(tmp_path, inspected("a.png"), options=ResultsOptions(append=True, table=True))
    assert [line.get("id") for line in lines(tmp_path)] == [None, None, "a-2"]
    assert [row["input"] for row in rows(tmp_path)] == ["a.png", "b.png", "a.png"]


def test_second_owner_is_refused(tmp_path: Path) -> None:
    with open_results(tmp_path, STATION) as results:
        results.add(inspected())
        with pytest.raises(OutputError, match="in use by another process"):
            store(tmp_path, inspected(), options=APPEND)
    store(tmp_path, inspected(), options=APPEND)
    assert len(lines(tmp_path)) == 2


def test_lock_is_released_after_a_refusal(tmp_path: Path) -> None:
    store(tmp_path, inspected())
    with pytest.raises(OutputError):
        store(tmp_path)
    with lock_folder(tmp_path):
        pass


# --- after a kill ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 20, 300])
def test_torn_last_line_is_removed(tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    store(tmp_path, inspected("a.png"), inspected("b.png"))
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    os.truncate(path, len(whole) - cut)
    store(tmp_path, inspected("c.png"), options=APPEND)
    expected = ["a.png", "b.png", "c.png"] if cut == 1 else ["a.png", "c.png"]  # only the line end was missing
    assert [line["input"] for line in lines(tmp_path)] == expected
    assert ("removed an unfinished last line" in caplog.text) == (cut > 1)


def test_only_line_that_is_torn_is_removed(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"schema": 1, "ti')
    store(tmp_path, inspected("a.png"), options=APPEND)
    assert [line["input"] for line in lines(tmp_path)] == ["a.png"]


def test_zeros_after_a_power_failure_are_removed(tmp_path: Path) -> None:
    store(tmp_path, inspected("a.png"))
    with (tmp_path / "results.jsonl").open("ab") as file:
        file.write(bytes(5000) + b"\n")
    store(tmp_path, inspected("b.png"), options=APPEND)
    assert [line["input"] for line in lines(tmp_path)] == ["a.png", "b.png"]


def test_long_unfinished_line_is_removed_whole(tmp_path: Path) -> None:
    store(tmp_path, inspected("a.png"))
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"verdict": "' + "x" * 200_000)
    store(tmp_path, inspected("b.png"), options=APPEND)
    assert [line["input"] for line in lines(tmp_path)] == ["a.png", "b.png"]


def test_damaged_line_in_the_middle_is_refused(tmp_path: Path) -> None:
    store(tmp_path, inspected("a.png"), inspected("b.png"))
    path = tmp_path / "results.jsonl"
    content = "no result\n" + path.read_text()
    path.write_text(content)
    with pytest.raises(OutputError, match=r"results\.jsonl: found line 1 that is no result"):
        store(tmp_path, options=APPEND)
    assert path.read_text() == content


def test_picture_of_a_stored_line_gets_its_name(tmp_path: Path) -> None:
    """The run was killed between storing the line and renaming the picture."""
    store(tmp_path, inspected("a.png"), inspected("b.png"))
    (tmp_path / "overlays" / "b.png").rename(tmp_path / "overlays" / ".b.png.part")
    store(tmp_path, options=APPEND)
    assert overlays(tmp_path) == ["a.png", "b.png"]


def test_picture_without_a_line_is_removed(tmp_path: Path) -> None:
    """The run was killed before storing the line."""
    store(tmp_path, inspected("a.png"))
    (tmp_path / "overlays" / ".b.png.part").write_bytes(b"half a picture")
    store(tmp_path, options=APPEND)
    assert overlays(tmp_path) == ["a.png"]
    (tmp_path / "new" / "overlays").mkdir(parents=True)
    (tmp_path / "new" / "overlays" / ".b.png.part").write_bytes(b"half a picture")
    store(tmp_path / "new", inspected("a.png"))
    assert overlays(tmp_path / "new") == ["a.png"]


@pytest.mark.parametrize("place", ["_draw", "append", "_settle"])
def test_interruption_leaves_whole_lines_and_no_temporary_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def interrupt(*arguments: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    def run() -> Iterator[None]:
        with open_results(tmp_path, STATION) as results:
            results.add(inspected("a.png"))
            yield
            results.add(inspected("b.png"))

    running = run()
    next(running)
    if place == "_draw":
        monkeypatch.setattr(Inspection, "overlay", interrupt)
    else:
        monkeypatch.setattr(Results if place == "_settle" else module.LineFile, place, interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(running)
    stored = [line["input"] for line in lines(tmp_path)]
    assert stored == (["a.png", "b.png"] if place == "_settle" else ["a.png"])
    assert overlays(tmp_path) == stored


# --- faults of the disk ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), MemoryError(), ValueError("odd")])
def test_picture_that_cannot_be_drawn_costs_the_picture_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(self: Inspection) -> None:
        raise error

    with open_results(tmp_path, STATION) as results:
        with monkeypatch.context() as patch:
            patch.setattr(Inspection, "overlay", fail)
            line = results.add(inspected("a.png"))
        results.add(inspected("b.png"))
    assert results.lost_overlays == 1
    assert (line["verdict"], line["overlay"]) == ("OK", None)
    assert line["overlay_error"]
    assert lines(tmp_path)[0]["overlay_error"] == line["overlay_error"]
    assert overlays(tmp_path) == ["b.png"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_line_that_cannot_be_written_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(file: int, content: bytes) -> int:
        raise OSError(code, os.strerror(code))

    with open_results(tmp_path, STATION) as results:
        results.add(inspected("a.png"))
        with monkeypatch.context() as patch, pytest.raises(OutputError, match=os.strerror(code).lower()):
            patch.setattr(os, "write", fail)
            results.add(inspected("b.png"))
    assert [line["input"] for line in lines(tmp_path)] == ["a.png"]
    assert overlays(tmp_path) == ["a.png"]


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def replace(folder: Path, name: str) -> None:
    (folder / name).rename(folder / "aside")
    (folder / name).write_bytes((folder / "aside").read_bytes())


@pytest.mark.parametrize("name", ["results.jsonl", "results.csv", LOCK_NAME])
@pytest.mark.parametrize("change", [remove, replace])
@pytest.mark.failure_mode("A folder of results that is removed, moved or replaced during a run")
def test_no_verdict_without_its_line_in_the_folder(
    tmp_path: Path, name: str, change: Callable[[Path, str], None]
) -> None:
    """Every verdict was printed, and the lines went into a file without a name."""
    with pytest.raises(OutputError, match=re.escape(name)), open_results(tmp_path, STATION, TABLE) as results:
        results.add(inspected("a.png"))
        change(tmp_path, name)
        results.add(inspected("b.png"))
    assert overlays(tmp_path) == ["a.png"]


@pytest.mark.parametrize("away", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("elsewhere"))])
def test_folder_that_goes_away_ends_the_run(tmp_path: Path, away: Callable[[Path], None]) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="removed or moved"), open_results(out, STATION) as results:
        results.add(inspected("a.png"))
        away(out)
        results.add(inspected("b.png"))
    assert not out.exists()


def test_folder_that_goes_away_after_the_last_sample_is_reported(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="removed or moved"), open_results(tmp_path / "out", STATION) as results:
        results.add(inspected("a.png"))
        shutil.rmtree(tmp_path / "out")


def test_file_system_without_lasting_numbers_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network drive may report another number for a name than for the open file. Then only the name counts."""
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    store(tmp_path, inspected(), options=TABLE)
    assert len(lines(tmp_path)) == 1
    with pytest.raises(OutputError, match="removed or moved"), open_results(tmp_path, STATION, APPEND) as results:
        remove(tmp_path, "results.jsonl")
        results.add(inspected())


@pytest.mark.parametrize("place", [".", "results", "results/today"])
def test_folder_in_a_bundle_is_refused(tmp_path: Path, place: str) -> None:
    """A file that the manifest does not list makes a bundle unusable."""
    for name in ("manifest.json", "graph.onnx"):
        (tmp_path / name).touch()
    with pytest.raises(OutputError, match="Expected a place outside of bundles"):
        store(tmp_path / place, inspected())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.onnx", "manifest.json"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="Choose another --output"):
            store(folder)


def test_overlays_can_be_left_out(tmp_path: Path) -> None:
    store(tmp_path, inspected(), options=ResultsOptions(overlays=False))
    (line,) = lines(tmp_path)
    assert line["overlay"] is line["overlay_error"] is None
    assert overlays(tmp_path) == []


def test_results_behind_a_link_are_not_continued(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("{}\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.jsonl").symlink_to(other)
    with (
        pytest.raises(OutputError, match="found a link to .*other.jsonl"),
        open_results(out, STATION, ResultsOptions(append=True)),
    ):
        pass
    assert other.read_text() == "{}\n"


@pytest.mark.parametrize("text", ["notes of a shift", "notes\n", "id;verdict\n1;OK\n"])
def test_text_of_another_program_is_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.jsonl").write_text(text)
    with (
        pytest.raises(OutputError, match="line 1 that is no result"),
        open_results(tmp_path, STATION, ResultsOptions(append=True)),
    ):
        pass
    assert (tmp_path / "results.jsonl").read_text() == text
