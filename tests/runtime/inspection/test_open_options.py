"""Options for opening a bundle are checked when they are constructed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cmdiad_runtime import OpenOptions


def test_defaults() -> None:
    options = OpenOptions()
    assert (options.modality, options.engine, options.rebuild) == (None, "cpu", False)
    assert (options.threshold, options.false_reject_rate, options.require_signature) == (None, None, None)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"modality": "banana"}, "modality"),
        ({"engine": "gpu"}, "engine"),
        ({"rebuild": "yes"}, "rebuild"),
        ({"threshold": 0}, "a positive number"),
        ({"threshold": math.nan}, "a positive number"),
        ({"threshold": 1e300}, "a positive number"),
        ({"threshold": True}, "a positive number"),
        ({"false_reject_rate": 0}, "between 0 and 1"),
        ({"false_reject_rate": 1.0}, "between 0 and 1"),
        ({"false_reject_rate": "0.1"}, "between 0 and 1"),
        ({"threshold": 1.0, "false_reject_rate": 0.1}, "not both"),
    ],
)
def test_wrong_values(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        OpenOptions(**options)
