"""`cmdiad-fleet train`: train a detector for each category and recipe of a fleet file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import GroupedCommand, option_group
from cmdiad_runtime.support.output import say
from cmdiad_runtime.support.progress import TerminalReporter

if TYPE_CHECKING:
    from cmdiad_fleet.training.engines import Engine

HELP = """Train a detector for each category and recipe of FLEET, and write a table and a page of all detectors.

FLEET is a TOML file with data sets and recipes (docs/fleet-training.md). Each detector is trained and exported in a
separate process, whose log is in the detector's folder. If one fails, the others continue. To resume an interrupted
command, run the same command again: detectors are kept as long as data, recipe and version are the same.
"""
EXAMPLES = (
    "cmdiad-fleet train fleet.toml --check",
    "cmdiad-fleet train fleet.toml",
    "# without Ray, two detectors at the same time",
    "cmdiad-fleet train fleet.toml --engine local --jobs 2",
    "# on the machines of a Ray cluster",
    "cmdiad-fleet train fleet.toml --address auto",
)
EXIT_CODES = {
    1: "at least one detector failed",
    5: "no Ray cluster, or a package is missing",
    6: "output not writable",
    10: "the fleet file has mistakes",
}


@click.command("train", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("fleet", type=click.Path(path_type=Path))
@option_group(
    "Engine",
    click.option(
        "--engine",
        type=click.Choice(["ray", "local"]),
        default="ray",
        help="ray: one task for each detector, placed by the cores, memory and GPUs of the recipe. local: processes on "
        "this machine, without Ray.",
    ),
    click.option(
        "--address",
        default="",
        envvar="RAY_ADDRESS",
        help="Address of a Ray cluster, or `auto` for the cluster of this machine.  [default: start a cluster on this "
        "machine]",
        show_default=False,
    ),
    click.option(
        "--jobs",
        type=click.IntRange(min=1),
        help="Number of detectors that --engine local trains at the same time.  [default: 1]",
    ),
)
@option_group(
    "Check",
    click.option("--check", is_flag=True, help="Explain every mistake in FLEET, or list the detectors; train nothing."),
)
def train(fleet: Path, engine: str, address: str, jobs: int | None, check: bool) -> int:
    """See HELP."""
    from cmdiad_fleet.training.fleet_file.mistakes import FleetFileError
    from cmdiad_fleet.training.fleet_file.read import read_fleet
    from cmdiad_fleet.training.tables import terminal_table
    from cmdiad_fleet.training.train_fleet import train_fleet

    _require_training()
    if engine == "ray" and jobs is not None:
        raise click.UsageError("--jobs belongs to --engine local: Ray counts the cores of the recipes")
    try:
        content = read_fleet(fleet)
    except FleetFileError as error:
        for mistake in error.mistakes:
            click.echo(printable(str(mistake)), err=True)
        return error.exit_code
    if check:
        for detector in content.detectors:
            click.echo(printable(detector.name))
        return 0
    try:
        with _engine(engine, address, jobs or 1) as running:
            rows = train_fleet(content, running, TerminalReporter())
    except KeyboardInterrupt:
        say("To continue, run the same command again.")
        raise
    click.echo(terminal_table(rows))
    click.echo(f"\npage: {printable(content.general.out / 'fleet.html')}")
    return int(any(row.state not in ("trained", "kept") for row in rows))


def _require_training() -> None:
    """Raise EngineError if the packages for training or export are not installed."""
    for package in ("torch", "onnx"):
        if find_spec(package) is None:
            raise EngineError(
                "",
                found=f"cmdiad-fleet train needs the package {package!r}, which is not installed",
                action='run: pip install "cmdiad[export,fleet]"',
            )


@contextmanager
def _engine(name: str, address: str, jobs: int) -> Iterator[Engine]:
    from cmdiad_fleet.training.engines import local_engine, ray_engine

    if name == "local":
        yield local_engine(jobs)
        return
    from cmdiad_fleet.cluster import ray_cluster

    with ray_cluster(address) as ray:
        yield ray_engine(ray)
