"""`cmdiad-export build`: an engine for the device at hand, from a bundle, without torch and onnx."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cmdiad_runtime.bundle.built_engines import BuiltEngine
    from cmdiad_runtime.engines.fingerprint import EngineLibrary

HELP = """Build an engine from BUNDLE's graph, for the device at hand and with the library that is installed here.

Needs the runtime and TensorRT (or TensorRT-RTX), and neither torch nor onnx: on a Jetson or an offline box. The
engine is written into the bundle's engines/ or, where that is read-only, below the cache folder (CMDIAD_CACHE), with a
label that says what it was built from, with and for. It gives verdicts once it has passed
`cmdiad-run --self-test BUNDLE --engine tensorrt` (or rtx).

\b
--target tensorrt  for this device; needs the device
--target rtx       for this device; without one for SM 75 (where the graph allows it), 86, 89 and 120
--target auto      tensorrt where its package is installed, else rtx

\b
Exit codes: 0 done, 2 wrong command line, 4 bundle unusable, 5 engine cannot be built, 6 output not writable,
130 interrupted (nothing was written).
"""


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--engine",
    "precision",
    type=click.Choice(["fp32", "fp16", "int8", "fp8"]),
    help="Precision, which must be the graph's.  [default: the graph's]",
)
@click.option("--target", type=click.Choice(["tensorrt", "rtx", "auto"]), default="auto", show_default=True)
def build(bundle: Path, precision: str | None, target: str) -> None:
    """See HELP."""
    from cmdiad_runtime.bundle.built_engines import build_for_bundle, estimate
    from cmdiad_runtime.bundle.manifest import Bundle
    from cmdiad_runtime.support.progress import Progress

    opened = Bundle.open(bundle)
    _check_precision(bundle, opened.precision, precision)
    library = _library(target)
    click.echo(estimate(opened, library), err=True)
    progress = Progress()
    try:
        built = build_for_bundle(opened, library, progress)
    finally:
        progress.close()
    _tell(built, bundle, library)


def _check_precision(bundle: Path, found: str, wanted: str | None) -> None:
    from cmdiad_runtime.errors import EngineError

    if wanted not in (None, found):
        raise EngineError(
            bundle,
            found=f"an {found} graph",
            expected=f"an {wanted} one, since the graph decides the types of an engine",
            action=f"export the run with --engine {wanted}, or build with --engine {found}",
        )


def _library(target: str) -> EngineLibrary:
    if target == "rtx" or (target == "auto" and importlib.util.find_spec("tensorrt") is None):
        return "tensorrt_rtx"
    return "tensorrt"


def _tell(built: BuiltEngine, bundle: Path, library: EngineLibrary) -> None:
    from cmdiad_runtime.bundle.built_engines import TARGETS
    from cmdiad_runtime.engines.fingerprint import capability_words

    label = built.fingerprint
    if label.note:
        click.echo(label.note, err=True)
    scratch = "" if label.scratch_bytes is None else f", {label.scratch_bytes / 1e6:.1f} MB of scratch memory"
    targets = ", ".join(map(capability_words, label.compute_capabilities))
    click.echo(
        f"{library} {label.library_version}, compute capability {targets}: {label.size_bytes / 1e6:.1f} MB{scratch}, "
        f"built in {built.seconds:.0f} s; {label.certification}",
        err=True,
    )
    click.echo(f"next: cmdiad-run --self-test {bundle} --engine {TARGETS[library]}", err=True)
    click.echo(f"engine: {built.path}")
