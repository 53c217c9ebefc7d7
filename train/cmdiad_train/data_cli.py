"""The command `cmdiad-data`: data to train and try detectors with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from cmdiad_runtime.command_line import run_command

_MOST_WORKERS = 8
_LOG_LINES = 10


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Make data sets of paired RGB images and organised point clouds."""


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
    with _progress() as report:
        written = synthesis.synthesize(
            directory,
            categories=categories or None,
            train=train,
            validation=validation,
            size=size,
            seed=seed,
            workers=min(_usable_cores(), _MOST_WORKERS),
            progress=report,
        )
    click.echo(f"{'wrote' if written else 'kept, already complete:'} {directory}", err=True)


def _check_options(categories: tuple[str, ...], known: tuple[str, ...], counts: dict[str, int]) -> None:
    for name in categories:
        if name not in known:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(known)}.", param_hint="--category")
    for option, count in counts.items():
        if count < 0:
            raise click.BadParameter(f"{count} is less than 0.", param_hint=f"--{option}")


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, ten plain lines in a log; on stderr either way."""
    if not sys.stderr.isatty():
        yield _log
        return
    with click.progressbar(length=1, label="rendering", file=sys.stderr) as bar:

        def advance(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield advance


def _log(done: int, total: int) -> None:
    if done * _LOG_LINES // total > (done - 1) * _LOG_LINES // total:
        click.echo(f"rendered {done} of {total} samples", err=True)


def main() -> None:
    """Entry point of `cmdiad-data`."""
    run_command(cli, "cmdiad-data")


if __name__ == "__main__":
    main()
