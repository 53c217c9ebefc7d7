"""`cmdiad-export`: from a run to a certified bundle."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from cmdiad_runtime.command_line import run_command

HELP = """Export a trained RUN (the newest under ./runs if none is named) to a bundle.

The bundle holds one ONNX graph with the memory bank inside, a golden set, and a certificate: how far the graph's
scores, maps and verdicts lie from the trained detector's. Beyond tolerance nothing is written.

\b
--target onnx      the graph alone (runs in ONNX Runtime, on any box)
--target rtx       also a TensorRT-RTX engine for SM 86, 89, 120, built ahead of time, no GPU needed
--target tensorrt  not part of this version; refused
--target auto      rtx where its package is installed, else onnx

\b
Exit codes: 0 done, 2 wrong command line, 5 engine cannot be built, 6 output not writable, 7 run unusable,
8 certificate refused, 130 interrupted.
"""


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--engine", "precision", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True, help="Precision."
)
@click.option("--target", type=click.Choice(["onnx", "rtx", "tensorrt", "auto"]), default="onnx", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Bundle folder.  [default: bundles/RUN-PRECISION.cmdiad]")
def cli(run: Path | None, precision: str, target: str, out: Path | None) -> None:
    """See HELP."""
    from cmdiad_runtime.newest import newest_run

    rtx = _wants_rtx(target)
    if run is None:
        run = newest_run(Path("runs"))
        _say(f"run: {run} (the newest)")
    if out is None:
        out = Path("bundles") / f"{run.resolve().name}-{precision}.cmdiad"
        out.parent.mkdir(exist_ok=True)

    from cmdiad_export.bundle_writer import write_bundle
    from cmdiad_train.run_directory import load_run

    write_bundle(load_run(run), out, precision=precision, rtx=rtx, say=_say)
    click.echo(f"bundle: {out}")


def main() -> None:
    """Entry point."""
    run_command(cli, "cmdiad-export")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _wants_rtx(target: str) -> bool:
    from cmdiad_runtime.errors import EngineError

    if target == "tensorrt":
        raise EngineError(
            "--target tensorrt",
            found="no builder for it in this version",
            expected="onnx or rtx",
            action="export with --target onnx; graph.onnx in the bundle is strongly typed for TensorRT 10 and 11",
        )
    return target == "rtx" or (target == "auto" and importlib.util.find_spec("tensorrt_rtx") is not None)
