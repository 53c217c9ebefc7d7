"""Warn of a detector whose figures are weak, as `cmdiad-bench accuracy` and `report` do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.output import say
from cmdiad_train.evaluation.weakness import weakness


def subject_of(result: Mapping[str, Any], bundle: str = "") -> str:
    """Return what the figures of a category are of, for messages: the category, and the bundle if it has a name."""
    return printable(f"{result['category']}, {bundle}" if bundle else result["category"])


def warn_if_weak(result: Mapping[str, Any], *, bundle: str = "") -> None:
    """Print a warning to stderr if the figures of a category show that the detector is weak.

    Args:
        result: Figures of the category.
        bundle: Name of the bundle if there are several, else "".
    """
    if weak := weakness(result):
        say(f"warning: {subject_of(result, bundle)}: {weak}")
