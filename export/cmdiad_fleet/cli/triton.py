"""`cmdiad-fleet triton`: write the graphs of bundles as models for a Triton server."""

from __future__ import annotations

from pathlib import Path

import click

from cmdiad_runtime.cli.options import require_signature
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import GroupedCommand, option_group
from cmdiad_runtime.support.output import say

HELP = """Write the graph of each BUNDLE as a model into the repository of a Triton server.

The name of a model contains the first digits of the graph's hash, so several versions of a part type exist side by
side. A line runs the bundle as before, with --engine triton: files are read and prepared at the line, and the
self-test runs through the server before the first verdict. All bundles are checked before the first model is written,
and a model that exists is never replaced.

Prints the names of the models, and on stderr the command that starts the server for this machine only. Triton has no
users: read docs/triton.md before the server is opened for lines on other machines.
"""
EXAMPLES = (
    "cmdiad-fleet triton cable.cmdiad gear.cmdiad --repository /srv/models --instances 2 --device gpu",
    "# signed bundles only, on a server without a GPU",
    "cmdiad-fleet triton cable.cmdiad --repository /srv/models --device cpu --require-signature plant.pem",
)
EXIT_CODES = {4: "bundle unusable", 5: "a package or a TensorRT engine is missing", 6: "repository not writable"}


@click.command("triton", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=click.Path(path_type=Path))
@option_group(
    "Repository",
    click.option(
        "--repository",
        required=True,
        metavar="DIR",
        type=click.Path(path_type=Path, file_okay=False),
        help="Model repository of the server; created if missing.",
    ),
    click.option(
        "--plan",
        is_flag=True,
        help="Write the bundle's TensorRT engine, which fits one kind of GPU and one version of TensorRT, instead of "
        "the graph.",
    ),
    require_signature("the bundles"),
)
@option_group(
    "Instances",
    click.option("--instances", type=click.IntRange(1, 64), default=1, help="Instances of each model."),
    click.option(
        "--device",
        type=click.Choice(("auto", "gpu", "cpu")),
        default="auto",
        help="Device of the instances. auto: a GPU if the server has one.",
    ),
    click.option(
        "--priority",
        metavar="N",
        type=click.IntRange(1, 1000),
        help="Rank of the models in the server's rate limiter, 1 is the highest.  [default: no rank]",
    ),
)
def triton(  # noqa: PLR0913 - one parameter for each option
    bundles: tuple[Path, ...],
    repository: Path,
    plan: bool,
    require_signature: Path | None,
    instances: int,
    device: str,
    priority: int | None,
) -> int:
    """See HELP."""
    if plan and device == "cpu":
        raise click.UsageError("--plan needs a GPU: leave --device cpu out")
    import shlex
    from typing import cast

    from cmdiad_fleet.serving.model_config import Device, Placement
    from cmdiad_fleet.serving.model_repository import check_model, launch_command, write_model
    from cmdiad_runtime.bundle.bundle import Bundle

    placement = Placement(instances=instances, device=cast("Device", device), priority=priority, plan=plan)
    opened = [Bundle.open(path, require_signature=require_signature) for path in bundles]
    for bundle in opened:  # A bundle that cannot be served must not leave some models behind.
        check_model(bundle, repository, placement)
    names: dict[str, None] = {}  # Bundles with the same graph have the same model.
    for bundle in opened:
        model = write_model(bundle, repository, placement)
        click.echo(model.path.name)
        say(f"{printable(model.path)}: {'written' if model.written else 'the same model was there already'}")
        names[model.path.name] = None
    command = shlex.join(launch_command(repository, list(names), placement))
    say(f"start the server, for this machine only: {printable(command)}")
    return 0
