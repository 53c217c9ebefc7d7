"""`cmdiad-bench methods`: all detector families on the same parts, in one resumable run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cmdiad_bench.settings import parse_settings
from cmdiad_runtime.cli.each import ALL
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.names import SENSORS, Sensors
from cmdiad_runtime.support.command_line import GroupedCommand, option_group
from cmdiad_runtime.support.progress import TerminalReporter
from cmdiad_train.detectors.registry import family_names
from cmdiad_train.training.machine import DEVICES

EXAMPLES = (
    "cmdiad-bench methods parts --out methods",
    "# two families with the camera, and shorter trainings; repeat the command to continue",
    "cmdiad-bench methods mvtec3d --category all --family patchcore --family trd --modality rgb --set epochs=20 "
    "--out methods-mvtec3d",
    "# three trainings of each method: means with range, so that luck is seen",
    "cmdiad-bench methods parts --seed 0 --seed 1 --seed 2 --out methods",
    "# a setting of one family alone",
    "cmdiad-bench methods parts --set extractor=standard --set patchcore.coreset=0.01 --out methods-standard",
)


@click.command(cls=GroupedCommand, examples=EXAMPLES)
@click.argument("data", type=click.Path(path_type=Path))
@option_group(
    "Comparison",
    click.option("--category", help="Category of DATA, or `all`.  [default: the only one]"),
    click.option("--family", "families", multiple=True, help="Detector family; repeatable.  [default: all]"),
    click.option(
        "--modality",
        "modalities",
        multiple=True,
        type=click.Choice(SENSORS),
        help="Modality that inspection measures; repeatable.  [default: all that a family can inspect]",
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="[FAMILY.]NAME=VALUE",
        help="Option of cmdiad-train for each family that has the option, or for one FAMILY; repeatable.",
    ),
    click.option(
        "--seed",
        "seeds",
        multiple=True,
        type=click.IntRange(min=0),
        help="Seed of a training; repeatable. Each method is trained once for each seed, and the tables have means "
        "with range.  [default: one training, with the seed 0 or that of --set]",
    ),
    click.option("--device", type=click.Choice(DEVICES), default="auto", help="Device of the trainings."),
    click.option(
        "--runs", type=click.IntRange(min=1), default=50, help="Samples that are inspected to measure the latency."
    ),
)
@option_group(
    "Output",
    click.option(
        "--out",
        required=True,
        type=click.Path(path_type=Path),
        help="Folder for methods.md, methods.html, methods.json, runs and bundles.",
    ),
)
def methods(  # noqa: PLR0913 - one parameter for each option
    data: Path,
    category: str | None,
    families: tuple[str, ...],
    modalities: tuple[Sensors, ...],
    settings: tuple[str, ...],
    seeds: tuple[int, ...],
    device: str,
    runs: int,
    out: Path,
) -> int:
    """Train, export and measure every detector family on DATA, and print them next to their published figures.

    The tables have accuracy with intervals, verdicts at the threshold, latency, memory, size and training time on this
    machine, and the sensors that inspection needs. Repeat the command to resume: methods that are finished with the
    same recipe, seed, data and version of cmdiad are not measured again. Other settings need another --out. The tables
    are written after each training, and name what is missing. A method that fails is named too, and the exit code is 7.
    The traceback of an unforeseen error is in a file that the row names.
    """
    from cmdiad_bench.methods.measure import MeasureOptions, Results, measure_methods
    from cmdiad_bench.methods.method import Choice, methods_of
    from cmdiad_bench.methods.page import render
    from cmdiad_bench.methods.table import as_markdown, as_text, comparison
    from cmdiad_runtime.support.files import atomic_write, make_folder, write_json
    from cmdiad_train.datasets import list_categories, open_category
    from cmdiad_train.training.machine import Machine

    for family in families:
        if family not in family_names():
            raise click.UsageError(f"--family {family!r} is not one of {', '.join(family_names())}.")
    names = list_categories(data) if category == ALL else [category]
    categories = [open_category(data, name) for name in names]
    choice = Choice(families, modalities, parse_settings(settings), seeds)
    chosen = methods_of(data, choice)
    for one in categories:
        one.require_outside(out, "a folder outside of the samples")
    machine = Machine(device)
    machine.torch_device()  # A device that does not exist is one error, not a failure of every method.
    make_folder(out, expected="a writable folder for the tables", action="choose another --out")

    def write(results: Results) -> dict[str, Any]:
        record = comparison(chosen, results, choice.settings)
        write_json(out / "methods.json", record)
        for name, text in (("methods.md", as_markdown(record)), ("methods.html", render(record))):
            with atomic_write(out / name) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")
        return record

    reporter = TerminalReporter()
    record = measure_methods(chosen, categories, out, MeasureOptions(machine, runs), reporter, write)
    reporter.close()
    click.echo(as_text(record))
    failed = any("failed" in result for one in record["methods"] for result in one["categories"].values())
    return RunError.exit_code if failed else 0
