"""An attempt that failed before its first result does not block the corrected command; one with results does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cmdiad_runtime.errors import OutputError
from cmdiad_train.fit.fit import CACHE, fit
from cmdiad_train.fit.run_folder import is_without_results
from helpers import tiny_recipe


def test_only_an_attempt_without_results_is_replaced(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(data, None, tiny_recipe("rgb"), run)
    other = replace(tiny_recipe("rgb"), seed=7)
    assert not is_without_results(run)
    with pytest.raises(OutputError, match="another recipe or other data"):
        fit(data, None, other, run)
    for path in run.iterdir():
        if path.name != "run.json":
            path.unlink()
    (run / CACHE).mkdir()
    assert fit(data, None, other, run).seed == 7
