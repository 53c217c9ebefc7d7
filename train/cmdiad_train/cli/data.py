"""The command `cmdiad-data`: render, check and prepare data sets."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import click

from cmdiad_runtime.cli.each import ALL
from cmdiad_runtime.cli.threshold_text import in_shell
from cmdiad_runtime.support.command_line import CommandGroup, option_group, run_command
from cmdiad_runtime.support.progress import TerminalReporter
from cmdiad_train.cli.photometric import photometric

SOME_FAILED = 3
_MOST_WORKERS = 8
_SAMPLES_FAILED = {SOME_FAILED: "some samples cannot be used", 7: "no usable data set is recognised"}
_OUTPUT_FAILED = {6: "output cannot be written"}


@click.group(
    cls=CommandGroup,
    examples=(
        "cmdiad-data synthesize DIR",
        "cmdiad-data check DIR --category gear",
        "cmdiad-data prepare RAW OUT",
        "cmdiad-data photometric LIT OUT",
    ),
    exit_codes={**_SAMPLES_FAILED, **_OUTPUT_FAILED},
)
def cli() -> None:
    """Render, check and prepare data sets of RGB images, organised point clouds, or both."""


cli.add_command(photometric)


@cli.command(
    examples=(
        "cmdiad-data synthesize parts",
        "cmdiad-data synthesize parts --category gear --category biscuit --train 16 --size 224",
    ),
    exit_codes=_OUTPUT_FAILED,
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@option_group(
    "Content",
    click.option(
        "--category",
        "categories",
        metavar="NAME",
        multiple=True,
        help="Object kind: gear, connector or biscuit; may be repeated.  [default: all]",
    ),
    click.option("--train", default=32, help="Good training samples per kind."),
    click.option("--validation", default=12, help="Good validation samples per kind."),
)
@option_group(
    "Rendering",
    click.option("--size", default=320, help="Pixels along each side of the images."),
    click.option("--seed", default=0, help="Seed of all random values; the same seed gives the same bytes."),
)
def synthesize(directory: Path, categories: tuple[str, ...], train: int, validation: int, size: int, seed: int) -> None:
    """Write a synthetic data set in MVTec 3D-AD layout to the new folder DIR.

    Each object kind gets 41 test samples: 16 good samples and 25 samples with a defect that is visible in colour, in
    shape or in both. Every test sample has a mask. A folder that has the same data set already is kept.
    """
    from cmdiad_train import synthesis  # NumPy and SciPy would slow --help down.

    _check_options(categories, synthesis.CATEGORIES, {"train": train, "validation": validation, "seed": seed})
    spec = synthesis.DatasetSpec(
        categories=categories or synthesis.CATEGORIES, train=train, validation=validation, size=size, seed=seed
    )
    with closing(TerminalReporter()) as reporter:
        written = synthesis.synthesize(directory, spec, workers=min(_usable_cores(), _MOST_WORKERS), reporter=reporter)
    click.echo(f"{'wrote' if written else 'kept, already complete:'} {directory}", err=True)


@cli.command(
    examples=(
        "cmdiad-data check photos",
        "cmdiad-data check mvtec_3d --category cable_gland --json findings.json",
    ),
    exit_codes=_SAMPLES_FAILED,
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@option_group(
    "Selection", click.option("--category", metavar="NAME", help="Category to check, or `all`.  [default: all]")
)
@option_group(
    "Output",
    click.option(
        "--json",
        "json_file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="File for the findings as JSON.  [default: none]",
    ),
)
def check(directory: Path, category: str | None, json_file: Path | None) -> int:
    """Read every sample of the data set DIR, then print the number of samples and all problems.

    DIR is in the layout of MVTec 3D-AD, MVTec-AD or VisA, or your own folder of good samples (docs/data.md). Counts,
    notes and problems are printed to standard output, one problem per line.
    """
    from cmdiad_runtime.support.files import write_json
    from cmdiad_train.datasets import list_categories
    from cmdiad_train.datasets.check import check as check_data

    if category == ALL and ALL not in list_categories(directory):
        category = None
    with closing(TerminalReporter()) as reporter:
        categories = check_data(directory, category, reporter)
    for findings in categories:
        click.echo("\n".join(findings.lines()))
    if len({findings.category.name for findings in categories}) > 1:
        click.echo(f"next: cmdiad-train {in_shell(directory)} --category all")
    if json_file is not None:
        write_json(json_file, {"root": str(directory), "categories": [c.to_json() for c in categories]})
    problems = sum(len(findings.problems) for findings in categories)
    click.echo(f"{problems or 'no'} problem{'' if problems == 1 else 's'}", err=True)
    return SOME_FAILED if problems else 0


@cli.command(
    examples=(
        "cmdiad-data prepare Eyecandies eyecandies_prepared",
        "cmdiad-data prepare mvtec_3d mvtec_3d_prepared --category cable_gland --jobs 4",
    ),
    exit_codes={**_SAMPLES_FAILED, **_OUTPUT_FAILED},
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@option_group(
    "Selection",
    click.option(
        "--category",
        "categories",
        metavar="NAME",
        multiple=True,
        help="Category to prepare; may be repeated.  [default: all]",
    ),
)
@option_group(
    "Machine",
    click.option(
        "--jobs",
        metavar="N",
        type=click.IntRange(min=1),
        help="Number of processes.  [default: one per core, at most 8]",
    ),
)
def prepare(directory: Path, out: Path, categories: tuple[str, ...], jobs: int | None) -> int:
    """Write a preprocessed copy of the raw data set DIR to the folder OUT. DIR is never changed.

    MVTec 3D-AD: the support plane and stray clusters are removed, and all files are padded to squares. Eyecandies:
    depth images become clouds in MVTec 3D-AD layout. The same command resumes an interrupted preparation.
    """
    from cmdiad_train.datasets.prepare import prepare as prepare_data

    workers = jobs or min(_usable_cores(), _MOST_WORKERS)
    with closing(TerminalReporter()) as reporter:
        result = prepare_data(directory, out, categories, workers, reporter)
    for error in result.failed:
        click.echo(f"error: {error}", err=True)
    click.echo(f"{result.written} samples prepared, {result.kept} kept, {len(result.failed)} left out: {out}", err=True)
    return SOME_FAILED if result.failed else 0


def _check_options(categories: tuple[str, ...], known: tuple[str, ...], counts: dict[str, int]) -> None:
    for name in categories:
        if name not in known:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(known)}.", param_hint="--category")
    for option, count in counts.items():
        if count < 0:
            raise click.BadParameter(f"{count} is less than 0.", param_hint=f"--{option}")


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def main() -> None:
    """Run `cmdiad-data`."""
    run_command(cli, "cmdiad-data")


if __name__ == "__main__":
    main()
