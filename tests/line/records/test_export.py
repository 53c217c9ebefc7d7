"""Exported tables and pictures have the content of the records."""

from __future__ import annotations

import csv
import json

import pytest

from cmdiad_line.records.database import Database
from cmdiad_line.records.export import COLUMNS, export_csv, export_parquet, export_pictures
from cmdiad_line.records.picture_places import part_folder
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.records.stored import Selection
from cmdiad_runtime.errors import EngineError, OutputError
from record_rows import a_record, a_rejected
from station_messages import TIME


@pytest.fixture
def records(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    database = Database(state)
    with database.transaction() as rows:
        rows.record(a_record(1, score=0.1 + 0.2, part_id="=1+1", time="2026-11-25T12:00:00.000+00:00"))
        rows.record(a_rejected(2, map_max=1.75))
        rows.record(a_rejected(3, "deadline", score=None, threshold=None))
        rows.judge(2, "eve", "defect", "")
    with RecordReader(state) as reader:
        yield reader
    database.close()


def test_csv_has_every_value(tmp_path, records):
    assert export_csv(records, Selection(), tmp_path / "all.csv") == 3
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert float(rows[0]["score"]) == 0.1 + 0.2
    assert rows[0]["part_id"] == "'=1+1"
    assert json.loads(rows[1]["sensors"]) == {"camera": "serial 7"}
    assert (rows[1]["judgement"], rows[1]["ms_inspected"], rows[2]["score"]) == ("defect", "9.5", "")


def test_range_of_time(tmp_path, records):
    assert export_csv(records, Selection(since="2026-11-26"), tmp_path / "day.csv") == 2


def test_parquet_has_types_and_values(tmp_path, records):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert export_parquet(records, Selection(), tmp_path / "all.parquet") == 3
    table = parquet.read_table(tmp_path / "all.parquet")
    assert table.column("acquisition_id").to_pylist() == [1, 2, 3]
    assert table.column("score").to_pylist() == [0.1 + 0.2, 1.5, None]
    assert table.column("map_max").to_pylist() == [None, 1.75, None]
    assert table.column("part_id").to_pylist()[0] == "=1+1"
    assert str(table.schema.field("ms_engine").type) == "double"


def test_parquet_without_results_is_a_table(tmp_path, records):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert export_parquet(records, Selection(recipe_id="none"), tmp_path / "none.parquet") == 0
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0


def test_missing_pyarrow_is_explained(tmp_path, records, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(EngineError, match=r"cmdiad\[parquet\]"):
        export_parquet(records, Selection(), tmp_path / "all.parquet")


def test_pictures_with_results(tmp_path, records):
    folder = part_folder(tmp_path / "state", 2, TIME)
    folder.mkdir(parents=True)
    (folder / "rgb.png").write_bytes(b"picture")
    assert export_pictures(records, Selection(), tmp_path / "out") == (3, 1)
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["pictures"] for line in lines] == [None, "0000000002", None]
    assert lines[1]["timings_ms"]["acquired"] == 2.0
    assert (tmp_path / "out" / "0000000002" / "rgb.png").read_bytes() == b"picture"
    with pytest.raises(OutputError):
        export_pictures(records, Selection(), tmp_path / "out")
