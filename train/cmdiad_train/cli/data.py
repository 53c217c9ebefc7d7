"""The command `cmdiad-data`: make, check and prepare data to train detectors with."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import click

from cmdiad_runtime.support.command_line import run_command
from cmdiad_runtime.support.progress import Progress

SOME_FAILED = 3
_MOST_WORKERS = 8


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Make, check and prepare data sets of RGB images, organised point clouds, or both.

    \b
    Exit codes: 0 done, 2 wrong command line, 3 some samples cannot be used, 6 output not writable,
    7 nothing that can be used is recognised, 130 interrupted.
    """


@cli.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--category",
    "categories",
    metavar="NAME",
    multiple=True,
    help="Object kind: gear, connector or biscuit; may be repeated.  [default: all]",
)
@click.option("--train", default=32, show_default=True, help="Good samples to train on, per kind.")
@click.option("--validation", default=12, show_default=True, help="Good samples to validate with, per kind.")
@click.option("--size", default=320, show_default=True, help="Pixels along each side of the images.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same bytes.")
def synthesize(directory: Path, categories: tuple[str, ...], train: int, validation: int, size: int, seed: int) -> None:
    """Write a synthetic data set in MVTec 3D-AD layout to the new folder DIR.

    Each object kind gets 41 test samples: 16 good, 25 with a defect that shows in the colour, in the
    shape or in both, and a mask for each. A folder that holds the same data set already is kept as it is.
    """
    from cmdiad_train import synthesis  # numpy and scipy would slow --help down

    _check_options(categories, synthesis.CATEGORIES, {"train": train, "validation": validation, "seed": seed})
    with closing(Progress()) as progress:
        written = synthesis.synthesize(
            directory,
            categories=categories or None,
            train=train,
            validation=validation,
            size=size,
            seed=seed,
            workers=min(_usable_cores(), _MOST_WORKERS),
            progress=lambda done, total: progress("render samples", done, total),
        )
    click.echo(f"{'wrote' if written else 'kept, already complete:'} {directory}", err=True)


@cli.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--category", metavar="NAME", help="Check this category alone.  [default: all]")
@click.option(
    "--json", "json_file", metavar="FILE", type=click.Path(path_type=Path), help="Write the findings there too."
)
def check(directory: Path, category: str | None, json_file: Path | None) -> int:
    """Read every sample of the data set DIR, say what is there and list what is wrong with it.

    DIR is in the layout of MVTec 3D-AD, MVTec-AD or VisA, or a folder of good samples of your own (docs/data.md).
    Counts, notes and problems go to standard output, one problem a line.
    """
    from cmdiad_runtime.support.files import write_json
    from cmdiad_train.datasets.check import check as check_data

    with closing(Progress()) as progress:
        findings = check_data(directory, category, progress)
    for found in findings:
        click.echo("\n".join(found.lines()))
    if json_file is not None:
        write_json(json_file, {"root": str(directory), "categories": [found.to_json() for found in findings]})
    problems = sum(len(found.problems) for found in findings)
    click.echo(f"{problems} problems" if problems else "no problems", err=True)
    return SOME_FAILED if problems else 0


@cli.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--category", "categories", metavar="NAME", multiple=True, help="May be repeated.  [default: all]")
@click.option("--jobs", metavar="N", type=click.IntRange(min=1), help="Processes.  [default: one per core, at most 8]")
def prepare(directory: Path, out: Path, categories: tuple[str, ...], jobs: int | None) -> int:
    """Write a preprocessed copy of the raw data set DIR to the folder OUT; DIR is never changed.

    MVTec 3D-AD: support plane and stray clusters are removed, all is padded to squares. Eyecandies: depth images
    become clouds in MVTec 3D-AD layout. An interrupted preparation goes on when the same command is given again.
    """
    from cmdiad_train.datasets.prepare import prepare as prepare_data

    workers = jobs or min(_usable_cores(), _MOST_WORKERS)
    with closing(Progress()) as progress:
        done = prepare_data(directory, out, categories, workers, progress)
    for error in done.failed:
        click.echo(f"error: {error}", err=True)
    click.echo(f"{done.written} samples prepared, {done.kept} kept, {len(done.failed)} left out: {out}", err=True)
    return SOME_FAILED if done.failed else 0


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
    """Entry point of `cmdiad-data`."""
    run_command(cli, "cmdiad-data")


if __name__ == "__main__":
    main()
