"""`cmdiad-build`: build an engine on the device from a bundle, without torch and onnx."""

from __future__ import annotations

import importlib.util
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from cmdiad_runtime.engines import ENGINE_PRECISIONS, LIBRARIES, BuiltName
from cmdiad_runtime.support.command_line import GroupedCommand, option_group, run_command

if TYPE_CHECKING:
    from cmdiad_runtime.bundle.built_engines import BuiltEngine
    from cmdiad_runtime.engines import EngineLibrary

HELP = """Build an engine from the graph of BUNDLE, for this device and with the TensorRT version installed here.

Requires only the runtime and TensorRT or TensorRT-RTX, so the command works on a Jetson or an offline box. The engine
is written to the cache folder (CMDIAD_CACHE) of this account; the bundle stays unchanged. The file next to the
engine records the graph, library and device.

An engine gives verdicts only after the self-test has passed on this device: cmdiad-run BUNDLE --self-test
"""

EXAMPLES = (
    "# on a Jetson: build, then test",
    "cmdiad-build cable.cmdiad --target tensorrt",
    "cmdiad-run cable.cmdiad --self-test --engine tensorrt",
    "# on a PC with an RTX card, or ahead of time without one",
    "cmdiad-build cable.cmdiad --target rtx",
)

EXIT_CODES = {
    4: "bundle unusable",
    5: "engine cannot be built",
    6: "output not writable",
    130: "interrupted; nothing was written",
}


@click.command("cmdiad-build", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("bundle", type=click.Path(path_type=Path))
@option_group(
    "Engine",
    click.option(
        "--target",
        type=click.Choice([*get_args(BuiltName), "auto"]),
        default="auto",
        help="Library. tensorrt: for this device only. rtx: for this device or, without a device, for compute "
        "capability 7.5 (if the graph allows), 8.6, 8.9 and 12.0. auto: tensorrt if installed, else rtx.",
    ),
    click.option(
        "--engine",
        "--precision",
        "precision",
        type=click.Choice(ENGINE_PRECISIONS),
        help="Required precision; any other graph is refused.  [default: the precision of the graph]",
    ),
)
def cli(bundle: Path, target: str, precision: str | None) -> None:
    """See HELP."""
    from cmdiad_runtime.bundle.built_engines import build_for_bundle, estimate
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.engines._library import load_library
    from cmdiad_runtime.support.progress import TerminalReporter

    opened = Bundle.open(bundle)
    _check_precision(bundle, opened.precision, precision)
    library = _library(target)
    load_library(library)  # A missing library must end the command before anything is announced.
    click.echo(estimate(opened, library), err=True)
    with closing(TerminalReporter()) as reporter:
        built = build_for_bundle(opened, library, reporter)
    _print(built, bundle, library)


def main() -> None:
    """Run the command."""
    run_command(cli, "cmdiad-build")


def _check_precision(bundle: Path, precision: str, required: str | None) -> None:
    from cmdiad_runtime.errors import EngineError

    if required not in (None, precision):
        raise EngineError(
            bundle,
            found=f"an {precision} graph",
            expected=f"an {required} graph, because the graph decides the types of an engine",
            action=f"export the run with --engine {required}, or build with --engine {precision}",
        )


def _library(target: str) -> EngineLibrary:
    if target == "auto":
        target = "tensorrt" if importlib.util.find_spec("tensorrt") is not None else "rtx"
    return LIBRARIES["rtx" if target == "rtx" else "tensorrt"]


def _print(built: BuiltEngine, bundle: Path, library: EngineLibrary) -> None:
    from cmdiad_runtime.engines import BUILT_NAMES
    from cmdiad_runtime.engines.fingerprint import capability_text

    fingerprint = built.fingerprint
    if fingerprint.note:
        click.echo(fingerprint.note, err=True)
    scratch = fingerprint.scratch_bytes
    memory = "" if scratch is None else f", {scratch / 1e6:.1f} MB of scratch memory"
    targets = ", ".join(map(capability_text, fingerprint.compute_capabilities))
    click.echo(
        f"{library} {fingerprint.library_version}, compute capability {targets}: "
        f"{fingerprint.size_bytes / 1e6:.1f} MB{memory}, built in {built.seconds:.0f} s; {fingerprint.certification}",
        err=True,
    )
    click.echo(f"next: cmdiad-run --self-test {bundle} --engine {BUILT_NAMES[library]}", err=True)
    click.echo(f"engine: {built.path}")
