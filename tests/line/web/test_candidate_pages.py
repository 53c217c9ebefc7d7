"""Pages about candidates: evidence, replay, and who may see them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cmdiad_line.review.candidate import Candidate
from cmdiad_line.review.places import RECORD, REPLAY, candidate_folder
from cmdiad_line.review.replay import Replay, Replayed
from cmdiad_runtime.support.files import write_json
from web_doubles import READY, WebStation

CANDIDATE = Candidate(
    name="gear-2",
    base_recipe="gear",
    base_digest="ab" * 32,
    created="2026-11-26T10:00:00+00:00",
    user="<b>eve</b>",
    same_graph=True,
    threshold_before=1.25,
    threshold=1.5,
    good_parts=31,
    judged_good=(31,),
    judged_defects=(32,),
    without_pictures=(),
    lines=("30 accepted parts, <1> judged good.",),
)
PART = Replayed(
    acquisition_id=31,
    time="2026-11-26T10:00:00+00:00",
    part_id="P31",
    judgement="good",
    source="picture",
    verdict_before="NG",
    reason_before="score",
    score_before=1.375,
    threshold_before=1.25,
    verdict_after="OK",
    reason_after="",
    score_after=1.375,
    threshold_after=1.5,
)
UNCHANGED = replace(PART, acquisition_id=30, verdict_before="OK", reason_before="")
DEFECT = replace(PART, acquisition_id=32, judgement="defect")


@pytest.fixture
def station(tmp_path: Path) -> WebStation:
    station = WebStation(tmp_path)
    station.supervisor.desk.receive(READY)
    return station


def store(state: Path, *parts: Replayed, name: str = "gear-2") -> None:
    folder = candidate_folder(state, name)
    folder.mkdir(parents=True)
    write_json(folder / RECORD, replace(CANDIDATE, name=name).to_json())
    if parts:
        write_json(folder / REPLAY, asdict(Replay(bundle_digest="ab", created=CANDIDATE.created, parts=parts)))


def page(station: WebStation, path: str = "", role: str = "engineer") -> tuple[int, str]:
    answer = station.signed_in(role).get(f"/engineer/candidates{path}")
    return answer.status_code, answer.text


def test_list_says_how_to_make_the_first(station: WebStation) -> None:
    code, text = page(station)
    assert code == 200
    assert "cmdiad-line candidate make" in text


def test_list_has_all_candidates(station: WebStation, tmp_path: Path) -> None:
    store(tmp_path, PART, UNCHANGED)
    store(tmp_path, name="gear-3")
    code, text = page(station)
    assert code == 200
    assert "/engineer/candidates/gear-2" in text
    assert "not replayed" in text


def test_table_has_the_parts_whose_verdict_would_change(station: WebStation, tmp_path: Path) -> None:
    store(tmp_path, PART, UNCHANGED)
    code, text = page(station, "/gear-2")
    assert code == 200
    assert "/parts/31" in text
    assert "/parts/30" not in text
    assert "1.375 / 1.25" in text
    assert "1.375 / 1.5" in text
    assert "&lt;1&gt; judged good" in text
    assert "Refused" not in text


def test_candidate_that_misses_a_defect_is_marked(station: WebStation, tmp_path: Path) -> None:
    store(tmp_path, PART, DEFECT)
    assert "cannot be accepted" in page(station, "/gear-2")[1]


def test_candidate_without_replay_names_the_command(station: WebStation, tmp_path: Path) -> None:
    store(tmp_path)
    assert "cmdiad-line candidate replay STATE gear-2" in page(station, "/gear-2")[1]


@pytest.mark.parametrize(("path", "code"), [("/none", 404), ("/..%2Fbundles", 404), ("/a%20b", 422)])
def test_other_names_are_refused(station: WebStation, path: str, code: int) -> None:
    assert page(station, path)[0] == code


def test_operators_and_strangers_see_nothing(station: WebStation, tmp_path: Path) -> None:
    store(tmp_path, PART)
    assert page(station, "/gear-2", role="operator")[0] == 403
    answer = station.client().get("/engineer/candidates")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/engineer/candidates")
