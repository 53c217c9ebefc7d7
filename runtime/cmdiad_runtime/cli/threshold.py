"""`cmdiad-threshold`: show the threshold of a bundle, or change it in the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmdiad_runtime.cli.options import POSITIVE, RATE, finite, ignore_check
from cmdiad_runtime.support.command_line import GroupedCommand, option_group, run_command

if TYPE_CHECKING:
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.bundle.calibration import Calibration

HELP = """Show threshold and checks of BUNDLE, or change them in the bundle without an export and without torch.

A false-reject rate is turned into thresholds of score and map by means of the held-out scores in the bundle. Scores
of samples do not change. The exported calibration is kept; --reset restores the exported thresholds.
"""

EXAMPLES = (
    "# show the thresholds and the interval of the false-reject rate",
    "cmdiad-threshold cable.cmdiad",
    "cmdiad-threshold cable.cmdiad --false-reject-rate 0.01",
    "cmdiad-threshold cable.cmdiad --threshold 21.5 --map-threshold 30",
)

EXIT_CODES = {4: "bundle unusable", 6: "bundle not writable"}


@click.command("cmdiad-threshold", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@option_group(
    "New threshold",
    click.option(
        "--false-reject-rate",
        "rate",
        type=RATE,
        callback=finite,
        help="Recompute both thresholds for this false-reject rate from the held-out scores stored in the bundle.",
    ),
    click.option(
        "--threshold",
        "--score",
        "threshold",
        type=POSITIVE,
        callback=finite,
        help="Raw score above which a sample is NG. --score is the earlier name.",
    ),
    click.option(
        "--map-threshold",
        type=POSITIVE,
        callback=finite,
        help="Raw map value above which a pixel is drawn as anomalous.",
    ),
    click.option("--reset", is_flag=True, help="Restore the exported calibration and the exported checks."),
)
@option_group(
    "Recording conditions",
    ignore_check(
        "Switch a check of the recording conditions off in the bundle, for example exposure; may be repeated. "
        "--reset restores the exported checks."
    ),
)
def cli(
    path: Path,
    rate: float | None,
    threshold: float | None,
    map_threshold: float | None,
    reset: bool,
    ignore_checks: tuple[str, ...],
) -> None:
    """See HELP."""
    by_hand = threshold is not None or map_threshold is not None
    if by_hand + (rate is not None) + reset > 1:
        raise click.UsageError("pass one of --false-reject-rate, --reset, or --threshold with --map-threshold")
    if reset and ignore_checks:
        raise click.UsageError("--reset restores all checks: leave --ignore-check out")
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.bundle.change import change_bundle
    from cmdiad_runtime.bundle.threshold import adjusted

    def change_threshold(bundle: Bundle) -> Calibration:
        if reset:
            return bundle.certified_calibration
        return adjusted(bundle, score=threshold, map_threshold=map_threshold, false_reject_rate=rate).calibration

    def change_checks(bundle: Bundle) -> tuple[str, ...]:
        return bundle.exported_off if reset else (*bundle.ignored_checks, *ignore_checks)

    if not (reset or by_hand or rate is not None or ignore_checks):
        _show(Bundle.open(path))
        return
    changed = change_bundle(path, change_threshold, change_checks if reset or ignore_checks else None)
    _warn_of_signature(path)
    _show(changed)


def main() -> None:
    """Run the command and end the process."""
    run_command(cli, "cmdiad-threshold")


def _warn_of_signature(path: Path) -> None:
    from cmdiad_runtime.bundle.integrity import SIGNATURE

    if (path / SIGNATURE).exists():
        message = f"warning: {path / SIGNATURE} does not match the changed manifest. Run cmdiad-sign again."
        click.echo(message, err=True)


def _show(bundle: Bundle) -> None:
    calibration, exported = bundle.calibration, bundle.certified_calibration
    lines = _lines(calibration)
    if calibration != exported:
        lines["exported with"] = f"score {exported.score_threshold:.6g}, map {exported.map_threshold:.6g}"
    lines |= _check_lines(bundle)
    for name, value in lines.items():
        click.echo(f"{name:<17} {value}")
    if calibration.warning:
        click.echo(f"warning: {calibration.warning}", err=True)


def _check_lines(bundle: Bundle) -> dict[str, str]:
    envelope = bundle.record.envelope
    if envelope is None:
        return {"envelope": "none: recording conditions are not checked; train and export again"}
    checked = f"{envelope.samples} training samples, stated false-alarm rate {envelope.false_alarm_rate:.2%}"
    lines = {"envelope": checked, "switched off": ", ".join(envelope.off) or "no check"}
    if bundle.record.envelope_off_original is not None:
        lines["checks exported"] = ", ".join(bundle.record.envelope_off_original) or "none switched off"
    return lines


def _lines(calibration: Calibration) -> dict[str, str]:
    held_out = calibration.held_out_scores
    low, high = calibration.interval
    return {
        "deciding score": {"map": "largest value of the map", "image": "image score"}[calibration.verdict],
        "score threshold": f"{calibration.score_threshold:.6g}",
        "map threshold": f"{calibration.map_threshold:.6g}",
        "method": calibration.method,
        "false rejects": f"{calibration.false_reject_rate:.2%}; 95 % interval {low:.2%} to {high:.2%} of good parts",
        "held-out samples": f"{len(held_out)}, scores {min(held_out):.6g} to {max(held_out):.6g}"
        if held_out
        else f"{calibration.samples}, scores not in the bundle",
    }
