"""Options that the subcommands of `cmdiad-extractor` share, and their translation into a `Job`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cmdiad_runtime.cli.options import finite
from cmdiad_runtime.support.command_line import option_group
from cmdiad_train.training.machine import CACHE_GB, DEVICES

if TYPE_CHECKING:
    from cmdiad_train.pretraining.job import Job

_Command = TypeVar("_Command", bound=Callable[..., Any])
_UNRECORDED = {"out", "device", "cache_gb"}
"""Parameters that do not change the result."""


def combine(*decorators: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    """Return several decorators as one; the first one comes first in the help text."""

    def decorate(command: _Command) -> _Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


out_option = option_group(
    "Output",
    click.option(
        "--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="Safetensors file to write."
    ),
)

stored_option = option_group(
    "Output",
    click.option(
        "--out",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Safetensors file to write.  [default: stored on this machine under the name of the weights]",
    ),
    click.option("--licence", help="Licence of the weights.  [default: stated by file, release or timm's record]"),
)

use_options = option_group(
    "Use",
    click.option(
        "--size",
        type=click.IntRange(min=32),
        help="Side of the images in pixels.  [default: 224 for a ViT, 320 for a CNN]",
    ),
    click.option("--stages", help="CNN stages, such as 1,2; '' for a ViT.  [default: 1,2 for a CNN]"),
    click.option("--grid", type=click.IntRange(min=2), help="Side of the grid of CNN features.  [default: --size / 8]"),
)

sample_options = combine(
    click.argument("data", nargs=-1, type=click.Path(path_type=Path)),
    option_group(
        "Samples",
        click.option("--category", "categories", multiple=True, help="Category of DATA; repeatable.  [default: all]"),
        click.option(
            "--generate",
            type=click.IntRange(min=0),
            default=0,
            help="Number of synthetic good samples, in addition to DATA or alone.",
        ),
    ),
)

draw_option = option_group(
    "Samples",
    click.option(
        "--draw",
        type=click.IntRange(min=0),
        default=0,
        help="Number of procedurally generated images (textured, shaded shapes), instead of DATA and --generate.",
    ),
)

machine_options = combine(
    option_group(
        "Training",
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            help="Random seed. On a CPU the same seed and number of threads give the same bytes.",
        ),
    ),
    option_group(
        "Machine",
        click.option(
            "--device",
            type=click.Choice(DEVICES),
            default="auto",
            help="Device for training. auto: CUDA if available, else the CPU.",
        ),
        click.option(
            "--cache-gb", type=float, default=CACHE_GB, help="Largest disk space for prepared samples, in gigabytes."
        ),
    ),
    option_group(
        "Output",
        click.option(
            "--licence",
            help="Licence of the new weights, for the record.  [default: derived from samples and starting weights]",
        ),
    ),
)


def size_option(default: int, text: str = "Side of the images in pixels.") -> Callable[[_Command], _Command]:
    """Return the option for the size of the samples, with this default and help text."""
    return option_group("Samples", click.option("--size", type=click.IntRange(min=32), default=default, help=text))


def schedule_options(epochs: int, batch: int, rate: float) -> Callable[[_Command], _Command]:
    """Return the options for the length and learning rate of a training, with these defaults."""
    return option_group(
        "Training",
        click.option("--epochs", type=click.IntRange(min=1), default=epochs, help="Passes over the samples."),
        click.option("--batch", type=click.IntRange(min=2), default=batch, help="Largest number of samples per step."),
        click.option(
            "--learning-rate",
            type=float,
            default=rate,
            callback=finite,
            help="Learning rate at the end of the warm-up.",
        ),
    )


def parse_stages(text: str | None) -> tuple[int, ...] | None:
    """Return the CNN stages of an option such as "1,2", or None if the option was not used.

    Raises:
        click.BadParameter: The text is not a list of whole numbers.
    """
    from cmdiad_train.detectors.extractor_options import parse_numbers

    return None if text is None else parse_numbers(text, "stages", "stages such as 1,2")


def make_job(data: tuple[Path, ...], out: Path, options: dict[str, Any], weights: list[str]) -> Job:
    """Return the training that the options of the current subcommand describe.

    Args:
        data: Data sets.
        out: Safetensors file to write.
        options: Values of `sample_options`, `draw_option`, `schedule_options` and `machine_options`.
        weights: Weights that the training reads, as a recipe names them.

    Raises:
        click.UsageError: The options do not fit together.
        OutputError: There is no folder for the output.
    """
    from cmdiad_train.pretraining.job import Job, Schedule, derived_licence
    from cmdiad_train.pretraining.samples import Source
    from cmdiad_train.training.machine import Machine

    draw = options.get("draw", 0)
    if not data and not options["generate"] and not draw:
        raise click.UsageError("No samples to train on. Pass DATA, --generate N, or both.")
    if draw and (data or options["generate"]):
        raise click.UsageError("--draw cannot be combined with DATA or --generate.")
    check_out(out)
    source = Source(data, options["categories"], options["generate"], options["seed"], draw)
    return Job(
        source=source,
        out=out,
        schedule=Schedule(options["epochs"], options["batch"], options["learning_rate"], seed=options["seed"]),
        command=recorded_command(click.get_current_context()),
        licence=options["licence"] or derived_licence(source, weights),
        machine=Machine(options["device"], options["cache_gb"]),
    )


def check_out(out: Path) -> None:
    """Raise click.BadParameter or OutputError if an output has another suffix, or no folder."""
    from cmdiad_runtime.errors import OutputError

    if out.suffix != ".safetensors":
        raise click.BadParameter(f"{str(out)!r} does not end in .safetensors", param_hint="--out")
    folder = out.resolve().parent
    if not folder.is_dir():
        raise OutputError(out, found=f"no folder {folder}", expected="an existing folder", action="create the folder")


def recorded_command(context: click.Context) -> str:
    """Return the command line for the record.

    Options that do not change the result (output, device, disk space) and defaults are left out; paths are reduced to
    their names.
    """
    names: list[str] = []
    current: click.Context | None = context
    while current is not None and current.parent is not None:
        names.insert(0, str(current.info_name))
        current = current.parent
    arguments: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if parameter.name in _UNRECORDED or value in (None, (), parameter.default):
            continue
        for item in value if isinstance(value, tuple) else (value,):
            option = [] if isinstance(parameter, click.Argument) else [parameter.opts[0]]
            arguments += [*option, Path(item).name if isinstance(item, Path) else str(item)]
    return shlex.join(["cmdiad-extractor", *names, *arguments])
