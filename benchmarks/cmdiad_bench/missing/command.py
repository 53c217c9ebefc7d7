"""`cmdiad-bench missing`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmdiad_bench.missing.protocol import RATES
from cmdiad_runtime.engines import ENGINE_NAMES
from cmdiad_runtime.support.command_line import GroupedCommand, option_group
from cmdiad_runtime.support.progress import TerminalReporter

if TYPE_CHECKING:
    from cmdiad_runtime.engines import EngineName


@click.command(
    cls=GroupedCommand,
    examples=(
        "cmdiad-bench missing parts-any.cmdiad DATA --category cable_gland --markdown missing.md",
        "# the rates of the published table",
        "cmdiad-bench missing parts-any.cmdiad DATA --rate 30 --rate 50 --rate 70",
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@option_group(
    "Measurement",
    click.option("--category", help="Category of DATA; required if DATA has several."),
    click.option(
        "--rate",
        "rates",
        type=click.IntRange(0, 100),
        multiple=True,
        default=RATES,
        help="Percentage of samples that lack a modality; may be repeated.",
    ),
    click.option("--engine", type=click.Choice(ENGINE_NAMES), default="cpu", help="Engine that runs the graphs."),
)
@option_group(
    "Output",
    click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the figures as JSON."),
    click.option("--markdown", type=click.Path(path_type=Path), help="File for the table as Markdown."),
)
def missing(  # noqa: PLR0913 - one parameter for each option
    bundle: Path,
    data: Path,
    category: str | None,
    rates: tuple[int, ...],
    engine: EngineName,
    json_file: Path | None,
    markdown: Path | None,
) -> None:
    """Measure accuracy and verdicts when image or cloud is missing in a share of the samples.

    BUNDLE is one for whichever sensors arrive (cmdiad-train --modality any), DATA a data set whose test samples have
    image and cloud. Every sample is inspected once with each pattern; seeded masks then choose the pattern that counts.
    """
    from cmdiad_bench.missing.measure import measure_missing
    from cmdiad_bench.missing.table import as_markdown, as_text
    from cmdiad_runtime.errors import BundleError
    from cmdiad_runtime.inspection.open_options import OpenOptions
    from cmdiad_runtime.inspection.pattern_inspector import PatternInspector
    from cmdiad_runtime.support.files import atomic_write, write_json
    from cmdiad_runtime.support.pattern_folder import is_pattern_bundle

    if not is_pattern_bundle(bundle):
        raise BundleError(
            bundle,
            found="no bundle for whichever sensors arrive",
            expected="a bundle of cmdiad-train --modality any",
            action="train with --modality any and export, or use cmdiad-bench accuracy",
        )
    reporter = TerminalReporter()
    with PatternInspector.open(bundle, OpenOptions(engine=engine, frozen_after=0)) as inspector:
        result = measure_missing(inspector, data, category, sorted(set(rates)), reporter)
    reporter.close()
    click.echo(as_text(result))
    if json_file is not None:
        write_json(json_file, result)
    if markdown is not None:
        with atomic_write(markdown) as temporary:
            temporary.write_text(as_markdown(result), encoding="utf-8")
