"""`cmdiad-line candidate`: learn from judged parts."""

from __future__ import annotations

from pathlib import Path

import click

from cmdiad_line.cli.state_argument import STATE, present_user, state_of
from cmdiad_line.cli.times import utc_time
from cmdiad_runtime.cli.options import false_reject_rate, new_threshold, refuse_both_thresholds
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import CommandGroup, option_group

HELP = """Candidates of the station STATE: bundles that learn from judged parts.

`make` computes new thresholds from the parts that were accepted or judged good, without torch. `replay` shows which
recorded parts would have another verdict. `accept` makes a recipe of the candidate if no judged defect becomes OK and
the self-test passes. The station may be running, and keeps the present recipe.
"""
EXAMPLES = (
    "cmdiad-line candidate make station.toml gear-2 --since 2026-11-01",
    "cmdiad-line candidate replay station.toml gear-2",
    "cmdiad-line candidate accept station.toml gear-2",
    "# the same with a bundle that was trained again with the judged parts",
    "cmdiad-line candidate make station.toml gear-3 --bundle retrained.cmdiad",
)
EXIT_CODES = {
    1: "no such candidate or recipe, or the candidate is refused",
    3: "too few good parts",
    4: "bundle damaged, not signed as required, or without held-out scores",
    5: "engine unusable, or the self-test failed",
    6: "records not readable, or the candidate cannot be written",
}
_NAME = click.argument("name", metavar="NAME")


@click.group("candidate", cls=CommandGroup, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
def candidate() -> None:
    """See HELP."""


@candidate.command(
    "make",
    help="Make the candidate NAME from the judged parts of a recipe.",
    examples=(EXAMPLES[0], EXAMPLES[4]),
    exit_codes=EXIT_CODES,
)
@STATE
@_NAME
@option_group(
    "Parts",
    click.option("--recipe", "recipe_id", default="", metavar="ID", help="Recipe.  [default: the active one]"),
    click.option("--since", callback=utc_time, metavar="TIME", help="Earliest time of the parts."),
    click.option("--until", callback=utc_time, metavar="TIME", help="Only parts before this time."),
)
@option_group(
    "Bundle",
    new_threshold("Raw score above which a part is NG."),
    false_reject_rate("Rate to compute the thresholds for.  [default: as now]"),
    click.option(
        "--bundle",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Bundle that was trained again with the judged parts. Without one, only the thresholds change.",
    ),
)
def make(  # noqa: PLR0913 - one parameter for each option
    place: Path,
    name: str,
    recipe_id: str,
    since: str | None,
    until: str | None,
    threshold: float | None,
    false_reject_rate: float | None,
    bundle: Path | None,
) -> None:
    """See the help text."""
    refuse_both_thresholds(threshold, false_reject_rate)
    from cmdiad_line.records.reading import RecordReader
    from cmdiad_line.review.candidate import MakeOptions, make_candidate
    from cmdiad_line.review.places import PARTS, candidate_folder

    state = state_of(place)
    options = MakeOptions(
        name=name,
        recipe_id=recipe_id,
        user=present_user(),
        since=since,
        until=until,
        threshold=threshold,
        false_reject_rate=false_reject_rate,
        retrained=bundle,
    )
    with RecordReader(state) as records:
        made = make_candidate(state, records, options)
    for line in made.lines:
        click.echo(printable(line))
    click.echo(f"threshold {made.threshold_before:.6g} of {made.base_recipe} becomes {made.threshold:.6g}")
    click.echo(f"judged parts for training: {printable(candidate_folder(state, name) / PARTS)}")
    if made.without_pictures:
        click.echo(f"{len(made.without_pictures)} judged parts have no picture any more.")


@candidate.command(
    "replay",
    help="Replay recorded parts through the candidate NAME, and list those whose verdict would change.",
    examples=(EXAMPLES[1], "cmdiad-line candidate replay station.toml gear-2 --parts 10000"),
    exit_codes=EXIT_CODES,
)
@STATE
@_NAME
@option_group(
    "Parts",
    click.option(
        "--parts",
        type=click.IntRange(min=1),
        default=2000,
        help="Number of the newest parts to replay. Judged defects are always replayed.",
    ),
)
def replay(place: Path, name: str, parts: int) -> None:
    """See the help text."""
    from cmdiad_line.records.reading import RecordReader
    from cmdiad_line.review.places import candidate_folder
    from cmdiad_line.review.replay import TABLE, replay_candidate
    from cmdiad_runtime.support.progress import TerminalReporter

    state, reporter = state_of(place), TerminalReporter()
    with RecordReader(state) as records:
        replayed = replay_candidate(state, records, name, reporter, parts=parts)
    reporter.close()
    if replayed.changed:
        click.echo(f"{'part':>10}  {'before':>17}  {'after':>17}  judgement")
    for part in replayed.changed:
        before = f"{part.verdict_before} {_number(part.score_before)}/{_number(part.threshold_before)}"
        after = f"{part.verdict_after} {_number(part.score_after)}/{_number(part.threshold_after)}"
        click.echo(f"{part.acquisition_id:>10}  {before:>17}  {after:>17}  {part.judgement or ''}")
    for line in replayed.lines():
        click.echo(line)
    click.echo(f"table: {printable(candidate_folder(state, name) / TABLE)}")


@candidate.command(
    "accept",
    help="Make a recipe of the candidate NAME. The recipe is not active yet.",
    examples=(EXAMPLES[2], "cmdiad-line candidate accept station.toml gear-2 --accept-unchecked"),
    exit_codes=EXIT_CODES,
)
@STATE
@_NAME
@option_group(
    "Check set",
    click.option(
        "--accept-unchecked", is_flag=True, help="Accept judged defects that have no picture and cannot be replayed."
    ),
)
def accept(place: Path, name: str, accept_unchecked: bool) -> None:
    """See the help text."""
    from cmdiad_line.records.reading import RecordReader
    from cmdiad_line.review.accept import accept_candidate

    state = state_of(place)
    with RecordReader(state) as records:
        recipe, proof = accept_candidate(state, records, name, present_user(), accept_unchecked=accept_unchecked)
    click.echo(proof)
    click.echo(f"{recipe.recipe_id} is a recipe now; activate it on the engineer page or with cmdiad-line recipe.")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
