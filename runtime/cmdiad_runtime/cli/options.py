"""Options that several commands have in common, and the kinds of their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cmdiad_runtime.bundle.calibration import SCORE_LIMIT
from cmdiad_runtime.envelope.names import CHECKS, FROZEN_AFTER

POSITIVE = click.FloatRange(min=0, min_open=True)
RATE = click.FloatRange(min=0, max=1, min_open=True, max_open=True)

_Decorator = Callable[[Any], Any]


def finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuse NaN, infinity and numbers that no score reaches, which a range of click accepts."""
    if value is not None and not (math.isfinite(value) and abs(value) <= SCORE_LIMIT):
        raise click.BadParameter(f"{value} is not a finite number up to {SCORE_LIMIT:g}.", context, parameter)
    return value


def ignore_check(text: str) -> _Decorator:
    """Return the option `--ignore-check NAME`, whose values become the parameter `ignore_checks`.

    Args:
        text: Help text of the option.
    """
    return click.option(
        "--ignore-check", "ignore_checks", metavar="NAME", type=click.Choice(CHECKS), multiple=True, help=text
    )


def frozen_after(text: str) -> _Decorator:
    """Return the option `--frozen-after N`.

    Args:
        text: Help text of the option.
    """
    return click.option("--frozen-after", metavar="N", type=click.IntRange(min=2), default=FROZEN_AFTER, help=text)


def input_timeout(text: str) -> _Decorator:
    """Return the option `--input-timeout SECONDS`; 0 stands for no limit.

    Args:
        text: Help text of the option.
    """
    return click.option(
        "--input-timeout", type=click.FloatRange(min=0), callback=finite, default=60.0, metavar="SECONDS", help=text
    )


def require_signature(bundles: str = "the bundle") -> _Decorator:
    """Return the option `--require-signature KEY`.

    Args:
        bundles: Bundles that must be signed, as the help text names them.
    """
    return click.option(
        "--require-signature",
        metavar="KEY",
        type=click.Path(path_type=Path),
        help=f"Public key whose owner must have signed {bundles} (cmdiad-sign).  [default: no signature required]",
    )


def new_threshold(text: str) -> _Decorator:
    """Return the option `--threshold`.

    Args:
        text: Help text of the option.
    """
    return click.option("--threshold", type=POSITIVE, callback=finite, help=text)


def false_reject_rate(text: str) -> _Decorator:
    """Return the option `--false-reject-rate`.

    Args:
        text: Help text of the option.
    """
    return click.option("--false-reject-rate", type=RATE, callback=finite, help=text)


def refuse_both_thresholds(threshold: float | None, rate: float | None) -> None:
    """Raise click.UsageError if the command line sets both a threshold and a false-reject rate."""
    if threshold is not None and rate is not None:
        raise click.UsageError("pass --threshold or --false-reject-rate, not both")
