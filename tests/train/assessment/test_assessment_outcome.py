"""Figures, intervals and advice of an assessment follow from the scores."""

from __future__ import annotations

import numpy as np
import pytest

from cmdiad_train.assessment.advice import advise
from cmdiad_train.assessment.defects import DEFECTS
from cmdiad_train.assessment.folds import GOOD, Scores
from cmdiad_train.assessment.outcome import Outcome, merged
from cmdiad_train.evaluation.metrics import auroc

PARTS = 30


def scores(**detected: dict[str, float]) -> Scores:
    """Scores of detectors that detect a share of the copies with each kind of defect, 0 unless named."""
    return {
        f"{part:02d}": {
            GOOD: dict.fromkeys(detected, 0.5 + 0.01 * part),
            **{
                kind: {name: 2.0 if part < PARTS * shares.get(kind, 0) else 0.6 for name, shares in detected.items()}
                for kind in DEFECTS
            },
        }
        for part in range(PARTS)
    }


def test_shares_ranking_and_rejects_are_counted() -> None:
    values = scores(camera={"stain": 1.0, "hole": 0.5}, both={})
    values["00"][GOOD]["camera"] = 1.5
    values["01"]["hole"]["both"] = None
    outcome = Outcome(values)
    camera, both = outcome.rows
    assert camera.detected["stain"] == 1 and camera.detected["hole"] == 0.5 and camera.detected["dent"] == 0
    assert camera.share == pytest.approx(1.5 / len(DEFECTS))
    assert camera.share_interval[0] < camera.share < camera.share_interval[1]
    assert camera.rejected == 1 and both.rejected == 0
    assert both.detected["hole"] == pytest.approx(1 / PARTS)  # a refused copy is a reject
    good = [copies[GOOD]["camera"] for copies in values.values()]
    changed = [copies[kind]["camera"] for copies in values.values() for kind in DEFECTS]
    labels = np.repeat([0, 1], [len(good), len(changed)])
    assert camera.auroc == pytest.approx(auroc(labels, np.array([*good, *changed], dtype=float)))


def test_a_part_without_defects_counts_as_good_only() -> None:
    values = scores(camera=dict.fromkeys(DEFECTS, 1.0), both={"stain": 1.0})
    for kind in DEFECTS:
        del values["29"][kind]
    values["29"][GOOD]["camera"] = 9.0
    outcome = Outcome(values)
    assert outcome.rows[0].auroc == 1 and outcome.rows[0].rejected == 1
    assert outcome.tampered == PARTS - 1 and outcome.good == PARTS
    assert outcome.rows[0].detected["stain"] == 1


def test_advice_names_what_the_other_sensor_adds() -> None:
    camera = {"stain": 1.0, "scratch": 1.0}
    outcome = Outcome(scores(camera=camera, **{"3D": {"dent": 0.5}}, both={**camera, "dent": 0.8}))
    advice = advise(outcome, false_reject_rate=0.05)
    assert "a 3D sensor adds to camera, above all dent (0.0 % to 80.0 %)" in advice.sentence
    assert "not distinguishable" not in advice.certainty[0]


def test_advice_does_not_call_a_small_difference_a_gain() -> None:
    same = {"stain": 0.5, "dent": 0.5}
    outcome = Outcome(scores(camera=same, **{"3D": {}}, both={**same, "dent": 0.5 + 1 / PARTS}))
    advice = advise(outcome, false_reject_rate=0.05)
    assert "not distinguishable: these samples give no reason for a second sensor" in advice.sentence
    assert advice.certainty[0].endswith("not distinguishable.")


def test_advice_reports_detectors_that_reject_too_many_good_samples() -> None:
    values = scores(camera={"stain": 1.0}, **{"3D": {}}, both={"stain": 1.0})
    for part in list(values)[:10]:
        values[part][GOOD]["3D"] = 1.2
    lines = advise(Outcome(values), false_reject_rate=0.05).certainty
    assert [line for line in lines if "10 of 30 good samples are rejected" in line and line.startswith("3D")]


def test_a_detector_that_rejects_good_samples_gives_no_advice() -> None:
    """A detector that rejects everything detects everything."""
    values = scores(camera={"stain": 1.0}, **{"3D": {}}, both={"stain": 1.0})
    for copies in values.values():
        for detectors in copies.values():
            detectors["3D"] = None
    assert advise(Outcome(values), false_reject_rate=0.05).sentence == (
        "3D alone detects 100.0 % of the tampered samples, both sensors 16.7 %. "
        "No advice: too many good samples are rejected with 3D."
    )


def test_folds_are_merged_in_the_order_of_the_samples() -> None:
    whole = scores(camera={"stain": 1.0})
    first, second = ({name: whole[name] for name in list(whole)[fold::2]} for fold in (0, 1))
    assert list(merged([second, first])) == list(whole)
