"""Test the warning before a training that too few held-out samples support the false-reject rate."""

from __future__ import annotations

import re

import pytest

from cmdiad_train.datasets import SampleFiles
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.fit.before import few_held_out
from cmdiad_train.fit.splits import Splits
from cmdiad_train.recipe import Recipe
from helpers import tiny_recipe, tiny_trd_recipe


def warning(recipe: Recipe, **held_out: int) -> str:
    """Return the warning for numbers of held-out samples by session, `training` for those of the data set itself."""
    sessions = {name.replace("training", ""): count for name, count in held_out.items()}
    samples = [
        SampleFiles(f"{name}{i}", "good", None, None, None, session=name)
        for name, count in sessions.items()
        for i in range(count)
    ]
    return few_held_out(Splits([], samples, [], {}), recipe, family_of(recipe.family))


def test_a_family_that_scores_no_training_sample_names_the_number_of_samples_that_is_needed() -> None:
    text = warning(tiny_trd_recipe("rd", "rgb"), training=6)
    assert text.startswith("The threshold of the family trd rests on held-out samples alone: 6 held-out good samples;")
    needed = re.search(r"; (\d+) are needed to support a false-reject rate of 0\.05", text)
    assert needed is not None
    assert "--calibration DIR" in text
    assert warning(tiny_trd_recipe("rd", "rgb"), training=int(needed[1])) == ""
    assert warning(tiny_trd_recipe("rd", "rgb"), training=int(needed[1]) - 1) != ""


@pytest.mark.parametrize("recipe", [tiny_recipe("rgb"), tiny_trd_recipe("rd", "rgb", folds=2)], ids=["bank", "folds"])
def test_scores_of_training_samples_need_no_warning_before_the_training(recipe: Recipe) -> None:
    assert warning(recipe, training=6) == ""


def test_one_session_with_enough_samples_is_enough() -> None:
    recipe = tiny_trd_recipe("rd", "rgb")
    assert warning(recipe, training=6, tuesday=18).startswith("The threshold")
    assert warning(recipe, training=6, tuesday=19) == ""
