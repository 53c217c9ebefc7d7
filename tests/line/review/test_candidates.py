"""Candidates on a trained bundle, from judged parts over the replay to a recipe, with each refusal on the way."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cmdiad_line.cli.line import cli
from cmdiad_line.recipes.store import ImportOptions, RecipeError, RecipeStore
from cmdiad_line.records.database import Database
from cmdiad_line.records.picture_places import part_folder
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.review.accept import accept_candidate
from cmdiad_line.review.candidate import MakeOptions, list_candidates, make_candidate, read_candidate
from cmdiad_line.review.lineage import judged_defects
from cmdiad_line.review.places import BUNDLE, candidate_folder
from cmdiad_line.review.replay import Replay, Replayed, read_replay, replay_candidate, write_replay
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.change import change_bundle, sign_bundle
from cmdiad_runtime.bundle.signature import new_key
from cmdiad_runtime.bundle.threshold import adjusted, calibrate_threshold
from cmdiad_runtime.errors import BundleError, InputError, OutputError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import SILENT
from helpers import read_image, sample_files
from record_rows import a_record, a_rejected
from station_messages import TIME

ACCEPTED = 30
GOOD, DEFECT, MISSED = 31, 32, 33
"""Parts with pictures: rejected and judged good; rejected and judged defective; accepted and judged defective."""


@pytest.fixture(scope="module")
def parts(exported, data):
    """Bundle, the pictures of a good part and of a defect, and their scores."""
    bundle = exported("rgb")
    pictures = [read_image(sample_files(data, "test", kind, "rgb")[0]) for kind in ("good", "contamination")]
    with Inspector.open(bundle) as inspector:
        scores = [inspector.inspect(Sample("part", rgb=picture)).score for picture in pictures]
    assert scores[0] < scores[1]
    return bundle, pictures, scores


@pytest.fixture
def state(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def station(state, parts):
    """A station with a threshold that is too low, its records and pictures."""
    bundle, (good, defect), (good_score, defect_score) = parts
    store = RecipeStore(state)
    low = good_score * 0.9
    recipe = store.import_bundle(bundle, ImportOptions(recipe_id="gear", product_id="A", threshold=low))
    store.activate("gear")
    common = {"bundle_digest": recipe.bundle_digest, "threshold": low, "map_max": 1.0}
    scores = np.linspace(low * 0.5, low, ACCEPTED)
    database = Database(state)
    with database.transaction() as rows:
        for number, score in enumerate(scores, 1):
            rows.record(a_record(number, **{**common, "score": float(score), "map_max": float(score)}))
        rows.record(a_rejected(GOOD, **{**common, "score": good_score, "map_max": good_score}))
        rows.record(a_rejected(DEFECT, **{**common, "score": defect_score}))
        rows.record(a_record(MISSED, **{**common, "score": low * 0.7}))
        for number, judgement in ((GOOD, "good"), (DEFECT, "defect"), (MISSED, "defect")):
            rows.judge(number, "eve", judgement, "")
    for number, picture in ((GOOD, good), (DEFECT, defect), (MISSED, good)):
        keep(state, number, picture)
    yield database
    database.close()


def keep(state, number, picture):
    folder = part_folder(state, number, TIME)
    folder.mkdir(parents=True)
    Image.fromarray(picture).save(folder / "rgb.png")


@pytest.fixture
def records(state, station):
    with RecordReader(state) as reader:
        yield reader


def make(state, records, **options):
    return make_candidate(state, records, MakeOptions(name="gear-2", user="eve", **options))


def replay(state, records):
    return replay_candidate(state, records, "gear-2", SILENT)


def accept(state, records, **options):
    return accept_candidate(state, records, "gear-2", "eve", **options)


def test_threshold_keeps_the_rate_in_training_and_in_production(state, records, parts):
    bundle, _, _ = parts
    made = make(state, records)
    calibration = Bundle.open(candidate_folder(state, "gear-2") / BUNDLE).calibration
    before = Bundle.open(bundle).calibration
    production = [records.by_id(number).score for number in range(1, GOOD + 1)]
    rate = before.false_reject_rate
    expected = max(calibrate_threshold(before.held_out_scores, rate).value, calibrate_threshold(production, rate).value)
    assert calibration.score_threshold == pytest.approx(expected)
    assert (made.threshold, made.good_parts, made.judged_good) == (calibration.score_threshold, GOOD, (GOOD,))
    assert sorted(calibration.by_session[-1].scores) == pytest.approx(sorted(production))
    assert calibration.by_session[-1].session.name == "gear-2"
    assert made.judged_defects == (DEFECT, MISSED)
    assert made.same_graph
    assert read_candidate(state, "gear-2") == made
    assert list_candidates(state) == ["gear-2"]


def test_base_recipe_is_not_changed(state, records):
    before = RecipeStore(state).verify("gear").manifest
    make(state, records)
    assert RecipeStore(state).verify("gear").manifest == before
    assert [recipe.recipe_id for recipe in RecipeStore(state).list()] == ["gear"]


def test_judged_parts_are_a_data_set_for_training(state, records, parts):
    from cmdiad_train.datasets import open_category

    _, (good, _), _ = parts
    make(state, records)
    folder = candidate_folder(state, "gear-2") / "parts"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png")) == [
        f"bad/rgb/{DEFECT:010d}.png",
        f"bad/rgb/{MISSED:010d}.png",
        f"good/rgb/{GOOD:010d}.png",
    ]
    np.testing.assert_array_equal(read_image(folder / "good" / "rgb" / f"{GOOD:010d}.png"), good)
    assert open_category(folder, None) is not None


def test_replay_shows_what_would_have_changed(state, records, parts):
    _, _, (good_score, defect_score) = parts
    make(state, records)
    replayed = replay(state, records)
    by_id = {part.acquisition_id: part for part in replayed.parts}
    assert list(by_id) == list(range(1, MISSED + 1))
    assert (by_id[GOOD].change, by_id[GOOD].source) == ("NG to OK", "picture")
    assert by_id[GOOD].score_after == pytest.approx(good_score)
    assert (by_id[DEFECT].verdict_after, by_id[DEFECT].score_after) == ("NG", pytest.approx(defect_score))
    assert (by_id[1].source, by_id[1].verdict_after, by_id[1].score_after) == ("score", "OK", by_id[1].score_before)
    assert [part.acquisition_id for part in replayed.changed] == [GOOD]
    assert [part.acquisition_id for part in replayed.still_missed] == [MISSED]
    assert read_replay(state, "gear-2") == replayed
    with (candidate_folder(state, "gear-2") / "replay.csv").open(newline="") as file:
        assert [int(row["acquisition_id"]) for row in csv.DictReader(file)] == list(by_id)


def test_table_of_a_replay_holds_no_formula(tmp_path):
    numbers = dict.fromkeys(("score_before", "threshold_before", "score_after", "threshold_after"), 1.0)
    verdicts = {"verdict_before": "NG", "reason_before": "score", "verdict_after": "OK", "reason_after": ""}
    described = {"time": "2026-11-26T10:00:00+00:00", "part_id": "=1+1", "judgement": "good", "source": "picture"}
    part = Replayed(acquisition_id=1, **described, **verdicts, **numbers)
    write_replay(tmp_path, Replay(bundle_digest="digest", created="2026-11-26T10:00:00+00:00", parts=(part,)))
    with (tmp_path / "replay.csv").open(newline="") as file:
        assert [row["part_id"] for row in csv.DictReader(file)] == ["'=1+1"]


def test_candidate_becomes_a_recipe_after_its_replay(state, records, station):
    made = make(state, records)
    with pytest.raises(RecipeError, match="no replay"):
        accept(state, records)
    replay(state, records)
    recipe, proof = accept(state, records)
    assert (recipe.recipe_id, recipe.product_id, recipe.threshold) == ("gear-2", "A", None)
    assert "Self-test passed" in proof
    store = RecipeStore(state)
    assert store.active().recipe_id == "gear"
    assert store.verify("gear-2").calibration.score_threshold == made.threshold
    entry = records.audit(limit=1)[0]
    assert (entry.action, entry.subject, entry.user) == ("candidate-accepted", "gear-2", "eve")
    assert entry.details["still_missed"] == [MISSED]


def test_defect_that_would_become_ok_is_refused(state, records, parts):
    _, _, (_, defect_score) = parts
    make(state, records, threshold=defect_score * 1.1)
    assert [part.acquisition_id for part in replay(state, records).newly_missed] == [DEFECT]
    with pytest.raises(RecipeError, match="would become OK"):
        accept(state, records)
    assert [recipe.recipe_id for recipe in RecipeStore(state).list()] == ["gear"]


def test_bundle_that_was_changed_after_the_replay_is_refused(state, records, parts):
    _, _, (_, defect_score) = parts
    make(state, records)
    replay(state, records)
    change_bundle(
        candidate_folder(state, "gear-2") / BUNDLE, lambda bundle: adjusted(bundle, score=2 * defect_score).calibration
    )
    with pytest.raises(RecipeError, match="changed after its replay"):
        accept(state, records)


def test_defect_that_was_judged_after_the_replay_is_refused(state, records, station):
    make(state, records)
    replay(state, records)
    with station.transaction() as rows:
        rows.judge(5, "eve", "defect", "")
    with pytest.raises(RecipeError, match="after the replay"):
        accept(state, records)


def test_defect_without_picture_is_checked_by_its_score(state, records):
    shutil.rmtree(part_folder(state, DEFECT, TIME))
    made = make(state, records)
    assert made.without_pictures == (DEFECT,)
    replay(state, records)
    accept(state, records)


def test_retrained_bundle_is_replayed_by_pictures_only(state, records, exported):
    retrained = exported("rgb", coreset=0.3)
    made = make(state, records, retrained=retrained)
    assert (made.same_graph, made.good_parts) == (False, 0)
    replayed = replay(state, records)
    assert {part.acquisition_id for part in replayed.parts if part.source == "picture"} == {GOOD, DEFECT, MISSED}
    assert not any(part.source == "score" for part in replayed.parts)
    shutil.rmtree(part_folder(state, DEFECT, TIME))
    shutil.rmtree(candidate_folder(state, "gear-2") / "parts")
    assert [part.acquisition_id for part in replay(state, records).not_replayed] == [DEFECT]
    with pytest.raises(RecipeError, match="without a picture"):
        accept(state, records)
    accept(state, records, accept_unchecked=True)


def test_pictures_that_the_ring_removed_are_taken_from_the_candidate(state, records):
    make(state, records)
    shutil.rmtree(part_folder(state, DEFECT, TIME))
    by_id = {part.acquisition_id: part for part in replay(state, records).parts}
    assert by_id[DEFECT].source == "picture"


def test_check_set_outlives_the_recipe(state, records, station, parts):
    _, _, (_, defect_score) = parts
    make(state, records)
    replay(state, records)
    recipe, _ = accept(state, records)
    RecipeStore(state).activate("gear-2")
    with station.transaction() as rows:
        for number in range(40, 50):
            changes = {"recipe_id": "gear-2", "bundle_digest": recipe.bundle_digest, "map_max": 0.1}
            rows.record(a_record(number, score=0.1 + number / 1000, **changes))
    options = MakeOptions(name="gear-3", threshold=defect_score * 1.1)
    assert make_candidate(state, records, options).judged_defects == (DEFECT, MISSED)
    replayed = replay_candidate(state, records, "gear-3", SILENT)
    assert [part.acquisition_id for part in replayed.newly_missed] == [DEFECT]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"base_recipe": 7}'])
def test_damaged_record_of_an_earlier_candidate_does_not_shrink_the_check_set(state, records, content):
    make(state, records)
    replay(state, records)
    accept(state, records)
    (candidate_folder(state, "gear-2") / "candidate.json").write_text(content)
    with pytest.raises(OutputError, match="damaged record"):
        judged_defects(state, records, RecipeStore(state).recipe("gear-2"))


def test_signature_is_required_of_the_candidate_too(tmp_path, state, records, parts):
    pytest.importorskip("cryptography")
    public = new_key(tmp_path / "key")
    signed = shutil.copytree(parts[0], tmp_path / "signed.cmdiad")
    sign_bundle(signed, tmp_path / "key")
    store = RecipeStore(state)
    store.import_bundle(signed, ImportOptions(recipe_id="signed", public_key=public))
    made = make(state, records, recipe_id="signed", retrained=signed, threshold=1.0)
    assert any("Sign the candidate" in line for line in made.lines)
    replay(state, records)
    with pytest.raises(BundleError, match="signature"):
        accept(state, records)
    sign_bundle(candidate_folder(state, "gear-2") / BUNDLE, tmp_path / "key")


def test_too_few_good_parts_are_refused_and_leave_nothing(state, records):
    with pytest.raises(InputError, match="at least 5 good parts"):
        make(state, records, since="2027-01-01")
    assert list_candidates(state) == []


@pytest.mark.parametrize("name", ["../gear", "", "a b"])
def test_impossible_name_is_refused(state, records, name):
    with pytest.raises(RecipeError):
        make_candidate(state, records, MakeOptions(name=name))


def test_name_that_is_taken_is_refused(state, records):
    make(state, records)
    with pytest.raises(OutputError, match="choose another name"):
        make(state, records)


@pytest.mark.parametrize("content", ["", "{}", '{"bundle_digest": "a", "created": "b", "parts": [{}]}'])
def test_damaged_replay_is_refused(state, records, content):
    make(state, records)
    (candidate_folder(state, "gear-2") / "replay.json").write_text(content)
    with pytest.raises(OutputError, match="replay"):
        accept(state, records)


def test_commands_make_replay_and_accept(state, records):
    outputs = []
    for arguments in (["make"], ["replay", "--parts", "5"], ["accept"]):
        words = ["candidate", arguments[0], str(state), "gear-2", *arguments[1:]]
        result = CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)
        outputs.append(result.output)
    assert "threshold" in outputs[0]
    assert "NG to OK: 1 (judged good: 1, judged defective: 0)." in outputs[1]
    assert "gear-2 is a recipe now" in outputs[2]
    assert len(json.loads((candidate_folder(state, "gear-2") / "replay.json").read_text())["parts"]) == 5
