"""The page of a part shows facts as titles and texts with units, and no internal name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cmdiad_line.records.picture_places import OVERLAY
from cmdiad_line.web.facts import TIMES, facts_of
from web_doubles import WebStation, make_result, png

SENSORS = {"camera 1.temperature": "25.0", "camera 1.serial": "A4", "camera 1.frame": "7", "top.lens{0}": "{1}"}


def test_facts_have_titles_and_units(tmp_path: Path) -> None:
    station = WebStation(tmp_path)
    station.records.add(make_result(3, channel="opcua"))
    result = station.services.history.result(3)
    assert result is not None
    facts = dict(facts_of(replace(result, sensors=SENSORS)))
    assert facts["Triggered by"] == "OPC UA"
    assert facts["Sensor camera 1"] == "serial number A4, frame 7, 25.0 °C"
    assert facts["Sensor top"] == "lens{0} {1}"
    assert (facts["Picture after"], facts["Verdict after"]) == ("5.0 ms", "14.0 ms")
    assert "Measurement" not in facts


def test_the_page_shows_no_internal_names(tmp_path: Path) -> None:
    station = WebStation(tmp_path)
    station.records.add(make_result(3))
    page = station.signed_in("operator").get("/parts/3").text
    for name in (*TIMES, "timings_ms", "plc"):
        assert f"<dt>{name}</dt>" not in page
    assert "<dd>PLC</dd>" in page


def test_the_page_shows_the_kept_pictures_only(tmp_path: Path) -> None:
    station = WebStation(tmp_path)
    station.records.add(make_result(3))
    client = station.signed_in("operator")
    page = client.get("/parts/3").text
    assert "<img" not in page
    assert "No picture of this part was kept." in page
    (station.records.keep_picture(3, png()) / OVERLAY).unlink()
    page = client.get("/parts/3").text
    assert (page.count("<img"), page.count("of this part was kept")) == (1, 1)
    assert "kind=image" in page
