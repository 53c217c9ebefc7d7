"""The engineer page: figures, charts, recipes, threshold and audit log."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from cmdiad_line.recipes.listing import Listing
from cmdiad_line.recipes.recipe import Recipe
from cmdiad_line.records.statistics import Chart, HourlyRate
from cmdiad_line.records.stored import ScoreSeries
from cmdiad_line.station_file.records import Records
from cmdiad_line.web.charts import rate_chart, score_chart
from cmdiad_line.web.figures import gather, present_drift
from station_messages import DIGEST
from web_doubles import READY, WebStation, form_token, make_result

NOW = datetime(2026, 11, 26, 12, 30, tzinfo=timezone.utc)


def make_recipe(name: str, digest: str, threshold: float | None = None) -> Recipe:
    return Recipe(
        recipe_id=name,
        product_id="4711",
        bundle_digest=digest,
        bundle_name=f"detector <{name}>",
        modality="rgb",
        engine="cpu",
        threshold=threshold,
        public_key="",
        imported="2026-11-25T10:00:00+00:00",
    )


@pytest.fixture
def station(tmp_path: Path) -> WebStation:
    station = WebStation(tmp_path)
    recipes = (make_recipe("gear-old", "cd" * 32), make_recipe("gear", DIGEST, 1.0))
    listing = Listing(recipes=recipes, history=("gear-old", "gear"))
    (tmp_path / "recipes.json").write_text(json.dumps(listing.to_json()), encoding="utf-8")
    station.supervisor.desk.receive(READY)
    return station


def inspect(station: WebStation, count: int, score: float, first: int = 1) -> None:
    """Record OK parts, one a minute before NOW, whose scores alternate around a mean."""
    for k in range(count):
        moment = NOW - timedelta(minutes=count - k)
        number = first + k
        station.records.add(
            make_result(number, score=score + 0.01 * (-1) ** k, time=moment.isoformat(timespec="milliseconds"))
        )


def test_drift_compares_with_the_first_accepted_parts_of_the_bundle(station: WebStation) -> None:
    settings = Records(drift_parts=20)
    services = station.services
    inspect(station, 20, 0.5)
    assert present_drift(services.history, services.recipes, settings).message.startswith("No accepted part")
    inspect(station, 5, 0.5, first=21)
    assert not present_drift(services.history, services.recipes, settings).alarm
    inspect(station, 30, 0.7, first=26)
    drift = present_drift(services.history, services.recipes, settings)
    assert drift.alarm
    assert "higher" in drift.message
    assert drift.chart is not None
    assert len(drift.chart.averages) == 35


def test_parts_of_another_bundle_do_not_count(station: WebStation) -> None:
    for number in range(1, 41):
        station.records.add(make_result(number, score=0.9, bundle_digest="cd" * 32))
    drift = present_drift(station.services.history, station.services.recipes, Records(drift_parts=20))
    assert (drift.alarm, drift.chart) == (False, None)


def test_the_figures_of_a_day(station: WebStation) -> None:
    inspect(station, 30, 0.5)
    for number, reason in ((31, "score"), (32, "deadline"), (33, "score")):
        station.records.add(
            make_result(number, "NG", reason, time=(NOW - timedelta(minutes=5)).isoformat(timespec="milliseconds"))
        )
    station.records.add(make_result(34, "NG", "score", time=(NOW - timedelta(hours=25)).isoformat()))
    services = station.services
    figures = gather(services.history, services.recipes, Records(), NOW)
    assert (figures.day.ng, figures.day.reasons) == (3, {"score": 2, "deadline": 1})
    assert [(hour.parts, hour.rejected) for hour in figures.hours] == [(0, 0)] * 11 + [(33, 3)]
    assert figures.latencies["total"].parts == 34
    assert figures.active is not None
    assert (figures.active.recipe_id, figures.previous and figures.previous.recipe_id) == ("gear", "gear-old")


def test_the_page_shows_everything_escaped(station: WebStation) -> None:
    inspect(station, 5, 0.5)
    station.records.add(make_result(6, "NG", "score", part_id="<script>alert(1)</script>"))
    station.records.audit("eve", "<b>threshold</b>", "gear", {"note": "<img src=x>"})
    page = station.signed_in("engineer").get("/engineer").text
    assert "<svg" in page
    assert "detector &lt;gear&gt;" in page
    assert "&lt;b&gt;threshold" in page
    assert "&lt;img src=x&gt;" in page
    assert "Roll back to gear-old" in page
    part = station.signed_in("operator").get("/parts/6").text
    assert "<script>alert" not in part
    assert "&lt;script&gt;" in part


def test_a_station_without_parts_and_recipes_has_a_page(tmp_path: Path) -> None:
    page = WebStation(tmp_path).signed_in("engineer").get("/engineer")
    assert page.status_code == 200
    assert "No inspected part yet" in page.text


@pytest.mark.parametrize(
    ("path", "form", "name", "arguments"),
    [
        ("/engineer/recipe/prepare", {"recipe_id": "gear-old"}, "prepare", {"recipe_id": "gear-old"}),
        ("/engineer/recipe/activate", {"recipe_id": "gear-old"}, "activate", {"recipe_id": "gear-old"}),
        ("/engineer/station/rollback", {}, "rollback", {}),
        ("/engineer/station/reset", {}, "reset", {}),
        (
            "/engineer/threshold",
            {"recipe_id": "gear", "score": "1,25", "note": "new lamp"},
            "threshold",
            {"recipe_id": "gear", "score": 1.25, "note": "new lamp"},
        ),
        (
            "/engineer/threshold",
            {"recipe_id": "gear", "score": " ", "note": "new lamp"},
            "threshold",
            {"recipe_id": "gear", "score": None, "note": "new lamp"},
        ),
    ],
)
def test_forms_become_commands_of_engineers_only(
    station: WebStation, path: str, form: dict[str, str], name: str, arguments: dict[str, object]
) -> None:
    operator = station.signed_in("operator")
    token = form_token(operator.get("/").text)
    assert operator.post(path, data={**form, "form_token": token}).status_code == 403
    assert not station.supervisor.commands
    engineer = station.signed_in("engineer")
    assert engineer.post(path, data=form).status_code == 403
    assert not station.supervisor.commands
    token = form_token(engineer.get("/engineer").text)
    assert engineer.post(path, data={**form, "form_token": token}).status_code == 303
    command = station.supervisor.commands[0]
    assert (command.name, command.user, command.arguments) == (name, "engineer", arguments)


@pytest.mark.parametrize("score", ["0", "-1", "nan", "inf", "1e13", "abc", "1;2"])
def test_a_threshold_is_a_positive_number(station: WebStation, score: str) -> None:
    engineer = station.signed_in("engineer")
    token = form_token(engineer.get("/engineer").text)
    form = {"recipe_id": "gear", "score": score, "note": "a reason", "form_token": token}
    assert engineer.post("/engineer/threshold", data=form).status_code == 422
    assert engineer.post("/engineer/threshold", data={**form, "score": "1", "note": ""}).status_code == 422
    assert not station.supervisor.commands


def test_a_refused_command_shows_the_reason(station: WebStation) -> None:
    station.supervisor.refusal = "The self-test of gear-old failed."
    engineer = station.signed_in("engineer")
    form = {"recipe_id": "gear-old", "form_token": form_token(engineer.get("/engineer").text)}
    answer = engineer.post("/engineer/recipe/activate", data=form)
    assert (answer.status_code, "self-test of gear-old failed" in answer.text) == (409, True)


def test_the_score_chart_places_every_part(station: WebStation) -> None:
    scores = np.array([0.5, 0.8, 1.2, 9.0, 0.6])
    series = ScoreSeries(
        ids=np.arange(5),
        times=np.arange(5) + NOW.timestamp(),
        scores=scores,
        thresholds=np.ones(5),
        accepted=scores <= 1,
    )
    chart = Chart(averages=np.array([0.55, 0.6]), lower=np.array([0.4, 0.4]), upper=np.array([0.7, 0.7]))
    text = str(score_chart(series, chart))
    accepted, rejected = (re.search(rf'class="{kind}" d="([^"]*)"', text) for kind in ("dot", "dot ng"))
    assert accepted and rejected
    assert accepted[1].count("M") == 3
    places = re.findall(r"M([\d.]+) ([\d.]+)h0", rejected[1])
    assert [float(y) for _, y in places] == [pytest.approx(270 - 258 * 1.2 / 1.5, abs=0.1), 12.0]
    average = re.search(r'class="average" points="([^"]*)"', text)
    assert average and len(average[1].split()) == 2
    assert average[1].split()[-1].startswith("988.0,")


def test_an_unusual_hour_is_marked() -> None:
    hours = [HourlyRate(NOW.timestamp(), 100, 5, 1, 9), HourlyRate(NOW.timestamp() + 3600, 100, 20, 1, 9)]
    text = str(rate_chart([*hours, HourlyRate(NOW.timestamp() + 7200, 0, 0, 0, 0)]))
    assert text.count('class="bar"') == 1
    assert text.count('class="bar unusual"') == 1
    assert "20 of 100 parts NG" in text


def test_the_drift_is_a_metric(station: WebStation) -> None:
    station.services.records = Records(drift_parts=20)
    inspect(station, 20, 0.5)
    inspect(station, 30, 0.7, first=21)
    text = station.client(role="operator").get("/metrics").text
    assert "cmdiad_drift_alarm 1.0" in text
    assert "cmdiad_score_average 0." in text


def test_a_failed_station_shows_its_state(station: WebStation) -> None:
    station.supervisor.desk.receive(replace(READY, phase="failed", message="Gave up after five restarts."))
    assert "Gave up after five restarts." in station.signed_in("engineer").get("/engineer").text
