"""`cmdiad-threshold`: show the threshold of a bundle, or adjust it for good."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmdiad_runtime.support.command_line import run_command

if TYPE_CHECKING:
    from cmdiad_runtime.bundle.manifest import Bundle, Calibration

HELP = """Show the threshold of BUNDLE, or adjust it there: no export, no torch, and no score changes by it.

A false-reject rate is turned into thresholds of score and map by the held-out scores that the bundle carries. The
exported calibration is kept; --reset brings it back.

\b
Exit codes: 0 done, 2 wrong command line, 4 bundle unusable, 6 bundle not writable.
"""


def finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuse the numbers that no range does: NaN and infinity."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.", context, parameter)
    return value


POSITIVE = click.FloatRange(min=0, min_open=True)
RATE = click.FloatRange(min=0, max=1, min_open=True, max_open=True)


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--false-reject-rate", "rate", type=RATE, callback=finite, help="Share of good parts to reject at most.")
@click.option("--score", type=POSITIVE, callback=finite, help="A raw score: samples above it are NG.")
@click.option("--map-threshold", type=POSITIVE, callback=finite, help="A raw map value: drawn as anomalous above it.")
@click.option("--reset", is_flag=True, help="Back to the exported calibration.")
def cli(path: Path, rate: float | None, score: float | None, map_threshold: float | None, reset: bool) -> None:
    """See HELP."""
    by_hand = score is not None or map_threshold is not None
    if by_hand + (rate is not None) + reset > 1:
        raise click.UsageError("give one of --false-reject-rate, --reset, or --score with --map-threshold")
    from cmdiad_runtime.bundle.manifest import Bundle, write_calibration
    from cmdiad_runtime.bundle.threshold import adjusted

    bundle = Bundle.open(path)
    if reset or by_hand or rate is not None:
        wanted = adjusted(bundle, score=score, map_threshold=map_threshold, false_reject_rate=rate).calibration
        write_calibration(bundle, bundle.certified_calibration if reset else wanted)
        bundle = Bundle.open(path)
        _warn_of_signature(path)
    _show(bundle)


def main() -> None:
    """Entry point."""
    run_command(cli, "cmdiad-threshold")


def _warn_of_signature(path: Path) -> None:
    from cmdiad_runtime.bundle.signature import SIGNATURE

    if (path / SIGNATURE).exists():
        message = f"warning: {path / SIGNATURE} does not fit the changed manifest; run cmdiad-sign again"
        click.echo(message, err=True)


def _show(bundle: Bundle) -> None:
    calibration, exported = bundle.calibration, bundle.certified_calibration
    lines = _lines(calibration)
    if calibration != exported:
        lines["exported with"] = f"score {exported.score_threshold:.6g}, map {exported.map_threshold:.6g}"
    for name, value in lines.items():
        click.echo(f"{name:<17} {value}")
    if calibration.warning:
        click.echo(f"warning: {calibration.warning}", err=True)


def _lines(calibration: Calibration) -> dict[str, str]:
    held_out = calibration.held_out_scores
    low, high = calibration.interval
    return {
        "score threshold": f"{calibration.score_threshold:.6g}",
        "map threshold": f"{calibration.map_threshold:.6g}",
        "method": calibration.method,
        "false rejects": f"{calibration.false_reject_rate:.2%}; 95 % interval {low:.2%} to {high:.2%} of good parts",
        "held-out samples": f"{len(held_out)}, scores {min(held_out):.6g} to {max(held_out):.6g}"
        if held_out
        else f"{calibration.samples}, scores not in the bundle",
    }
