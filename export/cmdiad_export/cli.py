"""`cmdiad-export`: from a run to a certified bundle."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from cmdiad_runtime.cli.build import cli as build
from cmdiad_runtime.support.command_line import run_command

if TYPE_CHECKING:
    from cmdiad_export.search.choice import SearchMode
    from cmdiad_runtime.engines import Precision

HELP = """Export a trained RUN (the newest under ./runs if none is named) to a bundle.

The bundle holds one ONNX graph with the memory bank inside, a golden set, and a certificate: how far the graph's
scores, maps and verdicts lie from the trained detector's. What is beyond tolerance in fp16, int8 or fp8 gets more
parts in fp32, step by step; what stays beyond is not written. int8 and fp8 are calibrated on training samples.

\b
--target onnx      the graph alone (runs in ONNX Runtime, on any box)
--target rtx       also a TensorRT-RTX engine for SM 75 (where the graph allows it), 86, 89, 120, no GPU needed
--target tensorrt  refused: its engines are built on their device, by the command below
--target auto      rtx where its package is installed, else onnx

\b
cmdiad-export build BUNDLE is the same as cmdiad-build BUNDLE: build an engine on the device. (Export a run named
`build` as ./build.)

\b
Exit codes: 0 done, 2 wrong command line, 5 engine cannot be built, 6 output not writable, 7 run unusable,
8 certificate refused, 130 interrupted.
"""


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--engine",
    "precision",
    type=click.Choice(["fp32", "fp16", "int8", "int8-cpu", "fp8"]),
    default="fp32",
    show_default=True,
    help="Precision; int8-cpu is for ONNX Runtime on a processor, fp8 for GPUs from compute capability 8.9.",
)
@click.option(
    "--search",
    type=click.Choice(["exact", "proven", "fast"]),
    default="exact",
    show_default=True,
    help="proven: as exact, by fewer products, for ONNX Runtime on a processor, in fp32. fast: over principal "
    "components of the bank, where that keeps scores and verdicts of held-out samples.",
)
@click.option(
    "--search-mb",
    type=click.FloatRange(min=0, min_open=True),
    help="Scratch memory that the search may take, in MB; beyond it the bank is searched in a loop.  [default: 512]",
)
@click.option(
    "--plan",
    is_flag=True,
    help="Write no bundle; measure banks, searches and precisions into plan.json and plan.png, in RUN or --out.",
)
@click.option(
    "--budget-ms",
    type=click.FloatRange(min=0, min_open=True),
    help="Plan, and write the best bundle whose graph runs in so many milliseconds here.",
)
@click.option(
    "--budget-mb",
    type=click.FloatRange(min=0, min_open=True),
    help="Plan, and write the best bundle whose graph runs in so much memory (10⁶ bytes).",
)
@click.option("--target", type=click.Choice(["onnx", "rtx", "tensorrt", "auto"]), default="onnx", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Bundle folder.  [default: bundles/RUN-PRECISION.cmdiad]")
@click.pass_context
def cli(
    context: click.Context,
    run: Path | None,
    precision: Precision,
    search: SearchMode,
    search_mb: float | None,
    plan: bool,
    budget_ms: float | None,
    budget_mb: float | None,
    target: str,
    out: Path | None,
) -> None:
    """See HELP."""
    from cmdiad_runtime.support.newest import BUNDLES, newest_run

    budgeted = budget_ms is not None or budget_mb is not None
    _check_plan_options(context, plan, budgeted)
    rtx = _wants_rtx(target, precision)
    if search == "proven":
        _check_proven(precision, rtx)
    if run is None:
        run = newest_run()
        _say(f"run: {run} (the newest)")
    if plan:
        _plan(run, out or run, search_mb)
        return
    if out is None:
        out = BUNDLES / f"{run.resolve().name}-{'budget' if budgeted else precision}.cmdiad"
        out.parent.mkdir(exist_ok=True)
    if budgeted:
        _export_within(run, out, budget_ms, budget_mb, rtx, search_mb)
    else:
        _export(run, out, precision, search, rtx, search_mb)
    click.echo(f"bundle: {out}")


def _export(run: Path, out: Path, precision: Precision, search: SearchMode, rtx: bool, search_mb: float | None) -> None:
    from cmdiad_export.bundle_writer import write_bundle
    from cmdiad_export.search.choice import choose_candidates
    from cmdiad_train.runs.run_directory import load_run

    loaded = load_run(run)
    choice = choose_candidates(loaded, search, _say)
    write_bundle(loaded, out, precision=precision, rtx=rtx, say=_say, search=choice, search_megabytes=search_mb)


def _plan(run: Path, folder: Path, search_mb: float | None) -> None:
    from cmdiad_export.planning.planner import make_plan
    from cmdiad_export.planning.report import table, write_plan
    from cmdiad_runtime.errors import OutputError
    from cmdiad_train.runs.run_directory import load_run

    loaded = load_run(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = str(error.strerror)
        raise OutputError(folder, found=found, expected="a writable folder", action="choose another --out") from error
    made = make_plan(loaded, _say, search_megabytes=search_mb).plan
    write_plan(folder, made)
    click.echo(table(made))
    click.echo(f"\nplan: {folder / 'plan.json'}, {folder / 'plan.png'}")


def _export_within(
    run: Path, out: Path, milliseconds: float | None, megabytes: float | None, rtx: bool, search_mb: float | None
) -> None:
    from cmdiad_export.planning.plan import Budget
    from cmdiad_export.planning.planner import make_plan, write_within
    from cmdiad_export.planning.report import table
    from cmdiad_train.runs.run_directory import load_run

    planned = make_plan(load_run(run), _say, search_megabytes=search_mb)
    _say(table(planned.plan))
    budget = Budget(milliseconds, megabytes)
    write_within(planned, budget, out, rtx=rtx, say=_say, search_megabytes=search_mb)


def _check_plan_options(context: click.Context, plan: bool, budgeted: bool) -> None:
    if plan and budgeted:
        raise click.UsageError("a budget makes its own plan: give --plan or --budget-ms and --budget-mb")
    fixed = {"precision": "--engine", "search": "--search"} | ({"target": "--target"} if plan else {})
    given = [name for key, name in fixed.items() if context.get_parameter_source(key) is ParameterSource.COMMANDLINE]
    if given and (plan or budgeted):
        raise click.UsageError(f"{' and '.join(given)}: a plan tries them all")


def _check_proven(precision: str, rtx: bool) -> None:
    from cmdiad_runtime.errors import EngineError

    if precision == "fp32" and not rtx:
        return
    raise EngineError(
        "--search proven",
        found="a TensorRT-RTX engine, which cannot loop as long as needed" if rtx else f"--engine {precision}",
        expected="--engine fp32 and --target onnx",
        action="take --search exact or --search fast",
    )


def main() -> None:
    """Run the command, or `cmdiad-build` if the first argument is `build`."""
    if sys.argv[1:2] == ["build"]:
        run_command(build, "cmdiad-export build", sys.argv[2:])
    run_command(cli, "cmdiad-export")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _wants_rtx(target: str, precision: str) -> bool:
    from cmdiad_runtime.errors import EngineError

    if precision == "int8-cpu":
        if target in ("onnx", "auto"):
            return False
        raise EngineError(
            f"--target {target}",
            found="--engine int8-cpu, whose integer products ONNX Runtime alone computes",
            expected="--target onnx",
            action="export with --engine int8 for a GPU",
        )
    if target == "tensorrt":
        raise EngineError(
            "--target tensorrt",
            found="a target whose engines are built on their device",
            expected="onnx or rtx",
            action="export with --target onnx, and run cmdiad-build BUNDLE on the device",
        )
    return target == "rtx" or (target == "auto" and importlib.util.find_spec("tensorrt_rtx") is not None)
