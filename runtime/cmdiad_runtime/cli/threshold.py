"""`cmdiad-threshold`: show the threshold of a bundle, or change it in the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from cmdiad_runtime.cli.options import POSITIVE, RATE, finite, ignore_check
from cmdiad_runtime.cli.threshold_text import in_shell, session_lines, warnings_about
from cmdiad_runtime.engines import ENGINE_NAMES
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import GroupedCommand, option_group, run_command
from cmdiad_runtime.support.drawing import check_format
from cmdiad_runtime.support.output import say

if TYPE_CHECKING:
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.bundle.calibration import Calibration
    from cmdiad_runtime.engines import EngineName

HELP = """Show threshold and checks of BUNDLE, or change them in the bundle without an export and without torch.

A false-reject rate is turned into thresholds of score and map by means of the held-out scores in the bundle. --good
inspects good parts of another session, for example of another day, and adds their scores; the rate then holds in every
session. --bad inspects bad parts and prints missed against rejected parts for every threshold; bad parts change the
threshold only with --cost-miss and --cost-reject. --reset restores the exported calibration.
"""

EXAMPLES = (
    "# show the thresholds and the interval of the false-reject rate",
    "cmdiad-threshold cable.cmdiad",
    "cmdiad-threshold cable.cmdiad --false-reject-rate 0.01",
    "cmdiad-threshold cable.cmdiad --threshold 21.5 --map-threshold 30",
    "# good parts of two other days",
    "cmdiad-threshold cable.cmdiad --good tuesday/good --good friday/good",
    "# missed against rejected parts, as a table and a plot; then the threshold of the least expected cost",
    "cmdiad-threshold cable.cmdiad --bad scratches --bad dents --plot tradeoff.svg",
    "cmdiad-threshold cable.cmdiad --bad scratches --cost-miss 200 --cost-reject 5 --bad-share 0.02",
)

EXIT_CODES = {
    3: "a folder of parts cannot be used, some parts could not be inspected, or the costs allow no useful threshold",
    4: "bundle unusable",
    5: "engine unusable",
    6: "bundle or plot not writable",
}

SOME_FAILED = 3
BAD_SHARE = 0.01
"""Assumed share of bad parts in production."""

_FOLDER = click.Path(path_type=Path)


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
    "Good and bad parts",
    click.option(
        "--good",
        metavar="DIR",
        type=_FOLDER,
        multiple=True,
        help="Folder of good parts of another session, whose scores are added to the calibration; may be repeated.",
    ),
    click.option(
        "--bad",
        metavar="DIR",
        type=_FOLDER,
        multiple=True,
        help="Folder of bad parts, or of one sub-folder for each defect, for the table of missed and rejected parts; "
        "may be repeated.",
    ),
    click.option("--plot", metavar="FILE", type=_FOLDER, help="Also draw the table of --bad, as .svg or .png."),
    click.option(
        "--cost-miss",
        type=POSITIVE,
        callback=finite,
        help="Cost of a bad part that passes. With --cost-reject: set the threshold of the least expected cost.",
    ),
    click.option(
        "--cost-reject", type=POSITIVE, callback=finite, help="Cost of a rejected good part, in the same unit."
    ),
    click.option(
        "--bad-share",
        type=RATE,
        callback=finite,
        default=BAD_SHARE,
        help="Share of bad parts in production, for the expected cost.",
    ),
    click.option(
        "--engine",
        type=click.Choice(ENGINE_NAMES),
        default="cpu",
        help="Engine that inspects the parts, as in cmdiad-run.",
    ),
)
@option_group(
    "Recording conditions",
    ignore_check(
        "Switch a check of the recording conditions off in the bundle, for example exposure; may be repeated. "
        "--reset restores the exported checks."
    ),
)
@click.pass_context
def cli(  # noqa: PLR0913 - one parameter for each option
    context: click.Context,
    path: Path,
    rate: float | None,
    threshold: float | None,
    map_threshold: float | None,
    reset: bool,
    good: tuple[Path, ...],
    bad: tuple[Path, ...],
    plot: Path | None,
    cost_miss: float | None,
    cost_reject: float | None,
    bad_share: float,
    engine: EngineName,
    ignore_checks: tuple[str, ...],
) -> int:
    """See HELP."""
    by_hand, priced = threshold is not None or map_threshold is not None, cost_miss is not None
    if by_hand + (rate is not None) + reset + priced > 1:
        raise click.UsageError(
            "pass one of --false-reject-rate, --reset, --cost-miss with --cost-reject, or --threshold with "
            "--map-threshold"
        )
    _check_parts(context, bad, priced=priced)
    if reset and (ignore_checks or good):
        raise click.UsageError("--reset restores the exported checks and scores: leave --ignore-check and --good out")
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.bundle.change import change_bundle
    from cmdiad_runtime.bundle.threshold import adjusted, is_rate_based
    from cmdiad_runtime.bundle.tradeoff import Costs
    from cmdiad_runtime.cli.threshold_parts import inspect_parts, show_tradeoff, with_good_parts, with_least_cost

    costs = Costs(cost_miss, cost_reject, bad_share) if cost_miss is not None and cost_reject is not None else None
    if plot is not None:
        check_format(plot)
    parts = inspect_parts(path, good, bad, ignore_checks, engine) if good or bad else None
    lines: list[str] = []

    def change_threshold(bundle: Bundle) -> Calibration:
        if reset:
            return bundle.certified_calibration
        lines.clear()
        if parts is not None:
            bundle, further = with_good_parts(bundle, parts)
            lines.extend(further)
            if good and not (by_hand or priced or rate is not None or is_rate_based(bundle.calibration)):
                lines.append(f"The threshold stays: {bundle.calibration.method}. Pass a rate or costs to change it.")
            if costs is not None:
                return with_least_cost(bundle, parts, costs).calibration
        return adjusted(bundle, score=threshold, map_threshold=map_threshold, false_reject_rate=rate).calibration

    def change_checks(bundle: Bundle) -> tuple[str, ...]:
        return bundle.exported_off if reset else (*bundle.ignored_checks, *ignore_checks)

    bundle = Bundle.open(path)
    changes = reset or by_hand or rate is not None or bool(ignore_checks) or priced
    if changes or change_threshold(bundle) != bundle.calibration:
        bundle = change_bundle(path, change_threshold, change_checks if reset or ignore_checks else None)
        _warn_of_signature(path)
    for line in lines:
        say(line)
    _show(bundle)
    if bad and parts is not None:
        show_tradeoff(bundle, parts, costs, plot)
    return SOME_FAILED if parts is not None and parts.incomplete else 0


def _check_parts(context: click.Context, bad: tuple[Path, ...], *, priced: bool) -> None:
    """Raise click.UsageError for options about parts that have no effect."""
    both = context.params["cost_miss"], context.params["cost_reject"]
    if (both[0] is None) != (both[1] is None):
        raise click.UsageError("the least expected cost needs both --cost-miss and --cost-reject")
    if not bad and (priced or context.params["plot"] is not None):
        raise click.UsageError("--cost-miss, --cost-reject and --plot need bad parts: add --bad DIR")
    if not priced and context.get_parameter_source("bad_share") is not ParameterSource.DEFAULT:
        raise click.UsageError("--bad-share concerns the expected cost: add --cost-miss and --cost-reject")


def main() -> None:
    """Run the command and end the process."""
    run_command(cli, "cmdiad-threshold")


def _warn_of_signature(path: Path) -> None:
    from cmdiad_runtime.bundle.integrity import SIGNATURE

    if (path / SIGNATURE).exists():
        message = f"warning: {path / SIGNATURE} does not match the changed manifest. Run cmdiad-sign again."
        say(message)


def _show(bundle: Bundle) -> None:
    from cmdiad_runtime.preprocess.inspected_area.records import doubt

    calibration, exported = bundle.calibration, bundle.certified_calibration
    lines = _lines(calibration)
    if calibration != exported:
        lines["exported with"] = f"score {exported.score_threshold:.6g}, map {exported.map_threshold:.6g}"
    area = bundle.record.inspected_area
    lines |= session_lines(calibration) | _check_lines(bundle)
    width = max(map(len, lines))
    for name, value in lines.items():
        click.echo(f"{name:<{width}}  {value}")
    remedy = f"cmdiad-threshold {in_shell(bundle.path)} --good DIR"
    for warning in (*warnings_about(calibration, remedy), *map(printable, bundle.training_doubts)):
        say(f"warning: {warning}")
    if area is not None and area.counter_evidence:
        say(f"warning: {printable(doubt(area))}")


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
        "method": printable(calibration.method),
        "false rejects": f"{calibration.false_reject_rate:.2%}; 95 % interval {low:.2%} to {high:.2%} of good parts",
        "held-out samples": f"{len(held_out)}, scores {min(held_out):.6g} to {max(held_out):.6g}"
        if held_out
        else f"{calibration.samples}, scores not in the bundle",
    }
