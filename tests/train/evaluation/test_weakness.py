"""The rule that calls a detector weak."""

from __future__ import annotations

import numpy as np
import pytest

from cmdiad_train.datasets import LeftOut, SampleFiles
from cmdiad_train.evaluation.evaluate import ScoredSplit
from cmdiad_train.evaluation.weakness import verdicts_text, weakness


@pytest.mark.parametrize(
    ("missed", "interval", "reasons"),
    [
        (8, [0.6, 0.9], []),
        (9, [0.6, 0.9], ["9 of 16 defects are missed"]),
        (2, [0.5, 0.9], ["image AUROC may be that of a guess (95 % interval 0.500 to 0.900)"]),
        (16, None, ["16 of 16 defects are missed"]),
        (16, [0.1, 0.4], ["16 of 16 defects are missed", "that of a guess"]),
    ],
)
def test_most_missed_or_an_auroc_like_a_guess(missed: int, interval: list[float] | None, reasons: list[str]) -> None:
    figures = {"samples": 28, "good": 12, "missed_defects": missed, "intervals": {"image_auroc": interval}}
    text = weakness(figures)
    assert bool(text) == bool(reasons)
    assert all(reason in text for reason in reasons)
    if reasons:
        assert all(step in text for step in ("cmdiad-extractor fetch standard", "--size", "cmdiad-threshold"))
        assert "if these are the shipped ones" in text  # The detector may use standard already.


def test_no_defects_are_not_weak() -> None:
    assert weakness({"samples": 3, "good": 3, "missed_defects": 0, "intervals": {"image_auroc": None}}) == ""


def test_verdicts_at_a_threshold() -> None:
    """A score at the threshold is OK; a sample without a score is NG."""
    defects = ["good", "good", "hole", "hole", "hole"]
    split = ScoredSplit(
        files=tuple(SampleFiles(f"test/{defect}/{i}", defect, None, None, None) for i, defect in enumerate(defects)),
        scores=np.array([1.0, 2.5, 2.0, 1.0, 3.0]),
        masks=np.zeros((5, 2, 2), dtype=np.bool_),
        maps=np.zeros((5, 2, 2), dtype=np.float32),
        known=np.ones(5, dtype=np.bool_),
        left_out=tuple(LeftOut(f"test/{defect}/9", "test", "unreadable", "damaged") for defect in ("good", "hole")),
    )
    figures = {**split.summary(), **split.verdicts(2.0)}
    assert verdicts_text(figures) == "at the threshold 2 of 3 good rejected, 2 of 4 defects missed"
