"""`--no-test`: a training, and the criterion of a sweep, do not read the test split."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cmdiad_train.fit.best_family import evidence_of, held_out_samples
from cmdiad_train.fit.fit import FitOptions, fit
from cmdiad_train.runs.record import read_record
from cmdiad_train.runs.run import load_run
from conftest import Trained
from helpers import tiny_recipe
from runs import hashes


@pytest.mark.parametrize("test_split", ["damaged", "removed"])
def test_the_test_split_is_not_read(trained: Trained, own_data: Path, tmp_path: Path, test_split: str) -> None:
    usual, folder = trained("rgb"), own_data / "gear/test"
    if test_split == "removed":
        shutil.rmtree(folder)
    for file in folder.rglob("*.*"):
        file.write_bytes(b"no picture")
    run = tmp_path / "run"
    record = fit(own_data, None, tiny_recipe("rgb"), run, options=FitOptions(test=False))
    assert record.metrics is None
    assert record.left_out == ()
    assert read_record(usual).metrics is not None
    assert hashes(run) == hashes(usual)
    evidence = evidence_of(load_run(run), held_out_samples(own_data, None, tiny_recipe("rgb")))
    assert evidence.samples == 9
    assert 0 <= evidence.rejected <= 1
