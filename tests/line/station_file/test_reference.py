"""docs/station.md: the reference of the station file and the table of reasons are up to date."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from cmdiad_line.reasons import STATION_REASONS
from cmdiad_line.station_file.read import read_station

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "station.md").read_text(encoding="utf-8")
BUNDLE = ROOT / "tests" / "fixtures" / "format1" / "both-each.cmdiad"


def test_reference_of_the_station_file_is_up_to_date():
    with_reference = runpy.run_path(str(ROOT / "scripts" / "station_reference.py"))["with_reference"]
    assert with_reference(PAGE) == PAGE, "run: python scripts/station_reference.py"


def test_reasons_are_listed_with_their_meaning():
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([A-Z][^|]*\.) \| [^|]+ \|$", PAGE, re.MULTILINE))
    assert rows == STATION_REASONS


def test_example_is_a_station_file(tmp_path):
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    (tmp_path / "gear.cmdiad").symlink_to(BUNDLE)
    (tmp_path / "parts" / "gear" / "test").mkdir(parents=True)
    file = tmp_path / "station.toml"
    file.write_text(example[1].replace('"simulated" ', '"simulated"\ndelivers = "both" '))
    station = read_station(file)
    assert (station.deadline_ms, [name for name, _ in station.outside]) == (500, ["modbus", "web"])
