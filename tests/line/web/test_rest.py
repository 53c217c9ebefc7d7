"""REST: one result for each trigger, tokens, health, results and pictures."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cmdiad_line.transport.messages import Command
from cmdiad_line.web.history import LARGEST_PREVIEW
from web_doubles import READY, WebStation, form_token, make_result, png


@pytest.fixture
def station(tmp_path: Path) -> WebStation:
    return WebStation(tmp_path)


PART = b'--x\r\nContent-Disposition: form-data; name="part_id"\r\n\r\nA-17\r\n'
PICTURE = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\npart.png'


def test_a_trigger_is_answered_with_its_one_result(station: WebStation) -> None:
    answer = station.client(role="operator").post("/inspect", data={"part_id": "A-17"})
    assert answer.status_code == 200
    assert (answer.json()["acquisition_id"], answer.json()["verdict"], answer.json()["part_id"]) == (1, "OK", "A-17")
    second = station.client(role="operator").post("/inspect")
    assert second.json()["acquisition_id"] == 2


def test_no_result_is_no_ok(station: WebStation) -> None:
    station.supervisor.verdict = lambda number: None
    station.supervisor.desk._patience_s = 0.01
    answer = station.client(role="operator").post("/inspect")
    assert answer.status_code == 504
    assert answer.json()["detail"].startswith("NG.")
    assert '"OK"' not in answer.text


def test_a_supervisor_that_does_not_read_gives_no_ok(station: WebStation) -> None:
    station.supervisor.full = True
    answer = station.client(role="operator").post("/inspect")
    assert (answer.status_code, answer.json()["detail"][:3]) == (504, "NG.")


def test_the_result_of_another_part_is_never_the_answer(station: WebStation) -> None:
    def answer_with_another(number: int) -> None:
        station.supervisor.desk.receive(make_result(number + 100))

    station.supervisor.verdict = answer_with_another
    station.supervisor.desk._patience_s = 0.01
    assert station.client(role="operator").post("/inspect").status_code == 504


@pytest.mark.parametrize("path", ["/results", "/results/1", "/results/1/picture", "/metrics"])
def test_reading_needs_a_token_or_a_session(station: WebStation, path: str) -> None:
    station.records.add(make_result(1))
    station.records.keep_picture(1, png())
    assert station.client().get(path).status_code == 401
    assert station.client().get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert station.client(role="operator").get(path).status_code == 200
    assert station.signed_in("operator").get(path).status_code == 200


def test_an_open_view_can_be_read_and_not_written(tmp_path: Path) -> None:
    station = WebStation(tmp_path, open_view=True)
    assert station.client().get("/results").status_code == 200
    assert station.client().get("/").status_code == 200
    assert station.client().post("/inspect").status_code == 401
    assert station.client().post("/station/stop").status_code == 303
    assert not station.supervisor.sent


def test_a_session_cannot_trigger_so_that_no_foreign_form_can(station: WebStation) -> None:
    client = station.signed_in("admin")
    token = form_token(client.get("/").text)
    assert client.post("/inspect", data={"form_token": token}).status_code == 401
    assert not station.supervisor.sent


def test_health_and_readiness_need_no_token(station: WebStation) -> None:
    client = station.client()
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    station.supervisor.desk.receive(READY)
    assert client.get("/readyz").status_code == 200
    station.supervisor.desk.receive(replace(READY, phase="not-ready", reason="camera-gone", message="Camera gone."))
    assert (client.get("/readyz").status_code, client.get("/readyz").json()["reason"]) == (503, "camera-gone")


def test_results_are_listed_in_pages(station: WebStation) -> None:
    for number in range(1, 6):
        station.records.add(make_result(number, "NG" if number % 2 else "OK"))
    client = station.client(role="operator")
    ids = [row["acquisition_id"] for row in client.get("/results?limit=2").json()]
    assert ids == [5, 4]
    assert [row["acquisition_id"] for row in client.get("/results?limit=2&before=4").json()] == [3, 2]
    assert {row["verdict"] for row in client.get("/results?verdict=NG").json()} == {"NG"}
    assert client.get("/results?limit=1001").status_code == 422


@pytest.mark.parametrize(
    "number", ["..%2f..%2faccounts.sqlite", "../accounts.sqlite", "0", "-1", "1e3", "2147483648", "%00"]
)
def test_pictures_are_found_by_number_only(station: WebStation, number: str) -> None:
    answer = station.client(role="admin").get(f"/results/{number}/picture")
    assert answer.status_code in (404, 422)
    assert b"SQLite" not in answer.content


def test_a_picture_is_sent_as_png(station: WebStation) -> None:
    station.records.add(make_result(3))
    station.records.keep_picture(3, png())
    client = station.client(role="operator")
    answer = client.get("/results/3/picture")
    assert (answer.headers["content-type"], answer.content) == ("image/png", png())
    preview = client.get("/results/3/picture?side=16")
    assert preview.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(preview.content)) as picture:
        assert picture.size == (16, 12)
    assert client.get("/results/4/picture").status_code == 404
    assert client.get("/results/3/picture?kind=../../x").status_code == 422


def test_foreign_host_names_and_large_bodies_are_refused(station: WebStation) -> None:
    client = station.client(role="operator")
    assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/healthz", headers={"Host": "localhost.evil.example:80"}).status_code == 421
    assert client.get("/healthz", headers={"Host": "127.0.0.1:8480"}).status_code == 200
    refusal = client.post("/inspect", data={"part_id": "x" * 70_000})
    assert (refusal.status_code, refusal.json()["detail"][:24]) == (413, "The request is too large")
    assert not station.supervisor.sent


def test_the_addresses_of_the_station_are_known_host_names(tmp_path: Path) -> None:
    client = WebStation(tmp_path, address="fd00::5", hosts=("fd00::6", "[fd00::7]")).client()
    for host in ("[fd00::5]:8480", "[fd00::6]:8480", "[fd00::7]", "[::1]:8480"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200, host
    assert client.get("/healthz", headers={"Host": "[fd00::8]:8480"}).status_code == 421


def test_a_part_id_with_control_characters_is_refused(station: WebStation) -> None:
    assert station.client(role="operator").post("/inspect", data={"part_id": "a\nb"}).status_code == 422
    assert not station.supervisor.sent


@pytest.mark.parametrize(
    "request_parts",
    [
        {"content": png(), "headers": {"Content-Type": "image/png"}},
        {"content": png()},
        {"json": {"part_id": "A"}},
        {"files": {"file": ("part.png", png())}},
        {"files": {"image": ("", png())}},
        {"data": {"image": "part.png"}},
        {"data": {"image": ""}},
        {"files": [("image", ("a.png", png())), ("image", ("b.png", png()))]},
        {"data": {"part_id": ["A", "B"]}},
        {"content": b"--x\r\nfoo", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"content": PART + PICTURE, "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    ],
)
def test_a_picture_that_would_be_ignored_triggers_nothing(station: WebStation, request_parts: dict[str, Any]) -> None:
    """Otherwise the sender would take the verdict on the part in front of the camera for that on the picture."""
    answer = station.client(role="operator").post("/inspect", **request_parts)
    assert answer.status_code in (415, 422)
    assert not station.supervisor.sent


def test_uploads_without_a_source_that_takes_them_are_refused(station: WebStation) -> None:
    answer = station.client(role="operator").post("/inspect", files={"image": ("part.png", png())})
    assert answer.status_code == 409
    assert not station.supervisor.sent


@pytest.mark.failure_mode("An OK that reaches REST after the deadline of its part")
def test_an_ok_after_its_deadline_is_answered_as_ng(station: WebStation) -> None:
    station.supervisor.verdict = lambda number: make_result(number, deadline_ns=1)
    answer = station.client(role="operator").post("/inspect").json()
    assert (answer["verdict"], answer["reason"]) == ("NG", "deadline")
    notes = [message for message in station.supervisor.sent if isinstance(message, Command)]
    assert [note.arguments["action"] for note in notes] == ["late OK"]


def test_answers_have_documented_fields_only(station: WebStation) -> None:
    client = station.client(role="operator")
    published = client.post("/inspect").json()
    station.records.add(make_result(2))
    recorded = client.get("/results/2").json()
    assert client.get("/results").json() == [recorded]
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert set(published) == set(schemas["PublishedResult"]["properties"])
    assert set(recorded) == set(schemas["RecordedResult"]["properties"])
    assert not {"replayed", "deadline_ns", "triggered_ns"} & {*published, *recorded}
    for field in schemas["RecordedResult"]["properties"].values():
        assert field["description"].endswith(".")


def test_the_description_names_the_token_and_the_refusals(station: WebStation) -> None:
    description = station.client().get("/openapi.json").json()
    assert description["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    calls = {path: next(iter(methods.values())) for path, methods in description["paths"].items()}
    assert {path for path, call in calls.items() if "security" not in call} == {"/healthz", "/readyz"}
    assert {"401", "403", "409", "413", "415", "422", "503", "504"} <= set(calls["/inspect"]["responses"])
    for path in ("/results", "/results/{acquisition_id}", "/results/{acquisition_id}/picture"):
        assert {"401", "403", "422", "503"} <= set(calls[path]["responses"]), path
    assert {"200", "503"} <= set(calls["/readyz"]["responses"])
    assert "HTTPValidationError" not in description["components"]["schemas"]


def test_the_description_covers_every_call_of_rest(station: WebStation) -> None:
    description = station.client(role="operator").get("/openapi.json").json()
    paths = {f"{method.upper()} {path}" for path, methods in description["paths"].items() for method in methods}
    assert paths == {
        "POST /inspect",
        "GET /results",
        "GET /results/{acquisition_id}",
        "GET /results/{acquisition_id}/picture",
        "GET /recipes",
        "POST /recipes/{recipe_id}/{order}",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
    }


def test_metrics_count_results_by_reason_and_time_their_stages(station: WebStation) -> None:
    station.supervisor.desk.receive(READY)
    for number, reason in ((1, ""), (2, "score"), (3, "deadline"), (4, "score")):
        station.supervisor.desk.receive(make_result(number, "NG" if reason else "OK", reason))
    station.supervisor.desk.receive(make_result(4, "NG", "score", replayed=True))
    text = station.client(role="operator").get("/metrics").text
    assert 'cmdiad_results_total{reason="score",recipe="gear",verdict="NG"} 2.0' in text
    assert 'cmdiad_results_total{reason="",recipe="gear",verdict="OK"} 1.0' in text
    assert 'cmdiad_stage_seconds_count{stage="published"} 4.0' in text
    assert "cmdiad_missed_total 1.0" in text
    assert 'cmdiad_phase{phase="ready"} 1.0' in text
    assert f'digest="{READY.bundle_digest}"' in text
    assert "cmdiad_disk_free_bytes" in text


def test_pages_have_a_strict_policy_and_are_not_stored(station: WebStation) -> None:
    headers = station.signed_in("operator").get("/").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert headers["x-frame-options"] == "DENY"


def test_a_damaged_picture_is_no_picture(station: WebStation) -> None:
    station.records.add(make_result(3))
    folder = station.records.keep_picture(3, png()[:40])
    client = station.client(role="operator")
    assert client.get("/results/3/picture?side=100").status_code == 404
    (folder / "rgb.png").unlink()
    (folder / "xyz.npz").write_bytes(b"PK damaged")
    assert client.get("/results/3/picture?kind=image").status_code == 404


def test_a_noisy_preview_stays_small(station: WebStation) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG", compress_level=1)
    station.records.add(make_result(3))
    station.records.keep_picture(3, content.getvalue())
    answer = station.client(role="operator").get("/results/3/picture?side=960")
    assert len(answer.content) <= LARGEST_PREVIEW
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.size == (960, 720)


def test_a_cloud_without_an_image_becomes_a_grey_picture(station: WebStation) -> None:
    station.records.add(make_result(3))
    folder = station.records.keep_picture(3, png())
    (folder / "rgb.png").unlink()
    rows, columns = np.mgrid[0:24, 0:32].astype(np.float32) / 100
    np.savez(folder / "xyz.npz", xyz=np.stack([columns, rows, np.full_like(rows, 0.5)], axis=-1))
    answer = station.client(role="operator").get("/results/3/picture?kind=image")
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert (picture.format, picture.size) == ("PNG", (32, 24))


def test_style_sheet_and_script_may_be_kept_and_pages_not(station: WebStation) -> None:
    page = station.signed_in("operator").get("/")
    address = re.findall(r'href="(/static/station.css\?v=[0-9a-f]{16})"', page.text)[0]
    assert "immutable" in station.client().get(address).headers["cache-control"]
    for name in ("..%2fpages.py", "../pages.py", "pages.py", "station.css%00"):
        assert station.client().get(f"/static/{name}").status_code in (404, 422)
