"""Options that several commands have in common, and the kinds of their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

from cmdiad_runtime.bundle.calibration import SCORE_LIMIT
from cmdiad_runtime.envelope.names import CHECKS

POSITIVE = click.FloatRange(min=0, min_open=True)
RATE = click.FloatRange(min=0, max=1, min_open=True, max_open=True)


def finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuse NaN, infinity and numbers that no score reaches, which a range of click accepts."""
    if value is not None and not (math.isfinite(value) and abs(value) <= SCORE_LIMIT):
        raise click.BadParameter(f"{value} is not a finite number up to {SCORE_LIMIT:g}.", context, parameter)
    return value


def ignore_check(text: str) -> Callable[[Any], Any]:
    """Return the option `--ignore-check NAME`, whose values become the parameter `ignore_checks`.

    Args:
        text: Help text of the option.
    """
    return click.option(
        "--ignore-check", "ignore_checks", metavar="NAME", type=click.Choice(CHECKS), multiple=True, help=text
    )
