"""`cmdiad-export`: export a run to a certified bundle."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from cmdiad_export.options import LONGEST_CONTACT
from cmdiad_export.search.modes import SEARCH_MODES
from cmdiad_runtime.cli.build import cli as build
from cmdiad_runtime.cli.each import ALL, KEPT, for_each
from cmdiad_runtime.cli.options import finite
from cmdiad_runtime.cli.threshold_text import in_shell, report_threshold
from cmdiad_runtime.engines import PRECISIONS
from cmdiad_runtime.engines.batch import MOST_SAMPLES
from cmdiad_runtime.printable import cause_of, printable
from cmdiad_runtime.support.command_line import GroupedCommand, option_group, run_command
from cmdiad_runtime.support.pattern_folder import is_pattern_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cmdiad_export.options import ExportOptions, Target
    from cmdiad_export.planning.plan import Budget
    from cmdiad_export.search.modes import SearchMode
    from cmdiad_runtime.engines import Precision
    from cmdiad_runtime.errors import RunError
    from cmdiad_train.runs.record import RunRecord

HELP = """Export a trained RUN to a bundle. Without RUN, the newest run under ./runs is exported.

A bundle contains one ONNX graph with the memory bank inside, a golden set, and a certificate: the measured differences
of scores, maps and verdicts from the trained detector. If a graph of reduced precision exceeds the tolerance, layers
are moved back to fp32 step by step. If the last step still fails, no bundle is written.

`cmdiad-export build BUNDLE` is the same as `cmdiad-build BUNDLE`. (Export a run named `build` as ./build.)
"""

EXAMPLES = (
    "# the newest run in fp16, with an engine for RTX cards if the package is installed",
    "cmdiad-export --precision fp16 --target auto",
    "# the newest run of each category; repeat the command to continue",
    "cmdiad-export --category all --precision fp16",
    "# measure alternatives, then write the most accurate bundle within 40 ms on this machine",
    "cmdiad-export runs/cable-rgb-f2f --plan",
    "cmdiad-export runs/cable-rgb-f2f --budget-ms 40",
)

EXIT_CODES = {
    5: "engine cannot be built, or options do not fit the run",
    6: "output not writable",
    7: "run unusable",
    8: "certificate refused",
}


def _contact(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuse a contact that does not fit into one line of the README."""
    if len(value) > LONGEST_CONTACT or not all(map(str.isprintable, value)) or (value and not value.strip()):
        problem = f"{value!r:.60} is not one line of 1 to {LONGEST_CONTACT} printable characters."
        raise click.BadParameter(problem, context, parameter)
    return value


@click.command("cmdiad-export", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("run", required=False, type=click.Path(path_type=Path))
@option_group(
    "Run",
    click.option(
        "--category",
        help="Export the newest run of this category in ./runs, or `all` for the newest run of each category, with "
        "one table at the end. RUN is then the folder of the runs, and bundles that are newer than their run are kept.",
    ),
)
@option_group(
    "Graph",
    click.option(
        "--precision",
        "--engine",
        "precision",
        type=click.Choice(PRECISIONS),
        default="fp32",
        help="Precision of the graph. int8-cpu: for ONNX Runtime on the CPU. fp8: for GPUs of compute capability 8.9 "
        "and later. int8 and fp8 are calibrated on training samples.",
    ),
    click.option(
        "--target",
        type=click.Choice(["onnx", "rtx", "tensorrt", "auto"]),
        default="onnx",
        help="onnx: the graph alone, for ONNX Runtime and cmdiad-build. rtx: also a TensorRT-RTX engine for compute "
        "capability 7.5 (if the graph allows), 8.6, 8.9 and 12.0; needs no GPU. auto: rtx if installed, else onnx. "
        "tensorrt is refused: run cmdiad-build on the device.",
    ),
)
@option_group(
    "Several samples at once",
    click.option(
        "--batch",
        metavar="N",
        type=click.IntRange(2, MOST_SAMPLES),
        help="Add a certified graph that runs N samples at once, for cmdiad-fleet score --batch with a GPU. The graph "
        "of the line does not change. For fp32 and fp16.  [default: no such graph]",
    ),
)
@option_group(
    "Search of the memory bank",
    click.option(
        "--search",
        type=click.Choice(SEARCH_MODES),
        default="exact",
        help="exact: product over all channels. proven: same results with fewer products, for ONNX Runtime on the CPU "
        "in fp32. fast: product over principal components, if scores and verdicts of held-out samples stay the same.",
    ),
    click.option(
        "--search-mb",
        "scratch_megabytes",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        help="Scratch memory of the search in MB. A larger search runs in a loop over the bank.  [default: 512]",
    ),
)
@option_group(
    "Budget",
    click.option(
        "--plan",
        is_flag=True,
        help="Measure bank sizes, searches and precisions. Write plan.json and plan.png into RUN or --out, no bundle.",
    ),
    click.option(
        "--budget-ms",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        help="Latency budget in milliseconds on this machine: measure the alternatives and write the most accurate "
        "bundle within the budget.  [default: no budget]",
    ),
    click.option(
        "--budget-mb",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        help="The same for memory in MB (10⁶ bytes).  [default: no budget]",
    ),
)
@option_group(
    "Output",
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Bundle folder; with --category all the folder of the bundles.  [default: bundles/RUN-PRECISION.cmdiad]",
    ),
    click.option(
        "--contact",
        metavar="TEXT",
        default="",
        show_default=False,
        callback=_contact,
        help='Person or department for the README of the bundle, for example "Vision team, line 4".  [default: none]',
    ),
)
@click.pass_context
def cli(  # noqa: PLR0913 - one parameter for each option
    context: click.Context,
    run: Path | None,
    category: str | None,
    precision: Precision,
    target: str,
    batch: int | None,
    search: SearchMode,
    scratch_megabytes: float | None,
    plan: bool,
    budget_ms: float | None,
    budget_mb: float | None,
    out: Path | None,
    contact: str,
) -> int:
    """See HELP."""
    from cmdiad_export.options import ExportOptions
    from cmdiad_export.planning.plan import Budget
    from cmdiad_runtime.support.newest import BUNDLES, RUNS, newest_run, newest_runs

    budget = None if budget_ms is None and budget_mb is None else Budget(budget_ms, budget_mb)
    _check_plan_options(context, plan=plan, budgeted=budget is not None)
    if plan and contact:
        raise click.UsageError("--plan writes no bundle: leave --contact out")
    if batch is not None and (plan or budget is not None):
        raise click.UsageError("plans and budgets concern the graph for one sample: leave --batch out")
    options = ExportOptions(precision, search, scratch_megabytes, _target(target, precision), contact, batch)
    suffix = f"{precision if budget is None else 'budget'}.cmdiad"

    def export(run: Path, bundle: Path) -> None:
        _make_folder(bundle.parent, bundle)
        if is_pattern_run(run):
            if budget is not None:
                raise _of_one_pattern(run, "a budget")
            _export_patterns(run, bundle, options)
            return
        if budget is None:
            _export(run, bundle, options)
        else:
            _export_within(run, bundle, options, budget)
        click.echo(f"bundle: {bundle}")
        _report_threshold(run, bundle)

    if category is not None:
        runs = newest_runs(run or RUNS)
        if category == ALL and category not in runs:
            if plan:
                raise click.UsageError("--plan concerns one run: leave --category all out")
            return _export_all(runs, out or BUNDLES, suffix, export)
        run = _run_of(category, runs)
    if run is None:
        run = newest_run()
        _say(f"run: {run} (the newest)")
    if plan:
        if is_pattern_run(run):
            raise _of_one_pattern(run, "--plan")
        _plan(run, out or run, options)
    else:
        export(run, out or BUNDLES / f"{run.resolve().name}-{suffix}")
    return 0


def _run_of(category: str, runs: dict[str, Path]) -> Path:
    from cmdiad_runtime.errors import RunError

    if category not in runs:
        raise RunError(
            f"--category {category}",
            found=f"runs of {', '.join(runs)}",
            expected="a finished run of this category",
            action="choose one of these, or train this category",
        )
    _say(f"run: {runs[category]}")
    return runs[category]


def _export_all(runs: dict[str, Path], folder: Path, suffix: str, export: Callable[[Path, Path], None]) -> int:
    """Export the run of each category, except where a bundle that is newer than the run is there already."""

    def work(category: str) -> dict[str, str]:
        run = runs[category]
        bundle = folder / f"{run.name}-{suffix}"
        manifest = bundle / "manifest.json"
        finished = manifest.exists() and manifest.stat().st_mtime_ns >= (run / "run.json").stat().st_mtime_ns
        if not finished:
            export(run, bundle)
        return {"run": str(run), "bundle": str(bundle), "result": KEPT if finished else "exported"}

    return for_each(list(runs), work, following=_report_of_all(list(runs.values()), folder))


def _report_of_all(runs: Sequence[Path], bundles: Path) -> str:
    """Return the command for a report of each category; "" if no data set has all categories under their names."""
    from cmdiad_train.runs.record import read_record

    trained = [read_record(run).data for run in runs]
    roots = {Path(data.folder).parent for data in trained}
    reports, names = Path("reports"), {data.category for data in trained}
    if (
        len(roots) != 1
        or any(Path(data.folder).name != data.category for data in trained)
        or not _is_data_set(root := roots.pop(), names, reports)
    ):
        return ""
    return f"cmdiad-bench report {in_shell(root)} {in_shell(bundles)} --category all --out {reports}"


def _is_data_set(root: Path, names: set[str], out: Path) -> bool:
    """Return True if a folder has these categories and an output folder is outside of their samples.

    The folder around a folder with OK and NOK directly in it is rarely a data set.
    """
    from cmdiad_runtime.errors import CmdiadError
    from cmdiad_train.datasets import find_categories

    try:
        categories = find_categories(root)
        for category in categories:
            category.require_outside(out, "a folder outside of the samples")
    except CmdiadError:
        return False
    return names <= {printable(category.name) for category in categories}


def _export(run: Path, out: Path, options: ExportOptions) -> None:
    from cmdiad_export.bundle_writer import write_bundle
    from cmdiad_runtime.support.progress import TerminalReporter
    from cmdiad_train.runs.run import load_run

    write_bundle(load_run(run), out, options, TerminalReporter())


def _export_patterns(runs: Path, out: Path, options: ExportOptions) -> None:
    from cmdiad_export.pattern_bundle_writer import bundle_name, write_pattern_bundle
    from cmdiad_runtime.names import PATTERN_TEXTS, SENSORS
    from cmdiad_runtime.support.progress import TerminalReporter

    write_pattern_bundle(runs, out, options, TerminalReporter())
    click.echo(f"bundle: {out}")
    for pattern in SENSORS:
        inside = out / bundle_name(out.name.removesuffix(".cmdiad"), pattern)
        _say(f"samples with {PATTERN_TEXTS[pattern]}: {inside}")
        _report_bundle(inside)
    _say(f"next: cmdiad-run {in_shell(out)} PARTS  # for PARTS put a folder of new pictures and clouds")


def _of_one_pattern(runs: Path, plan: str) -> RunError:
    from cmdiad_runtime.errors import RunError
    from cmdiad_runtime.names import SENSORS

    return RunError(
        runs,
        found=f"the runs of cmdiad-train --modality any, and {plan}",
        expected="the run of one pattern, because latency and memory differ from pattern to pattern",
        action=f"pass one of {', '.join(str(runs / pattern) for pattern in SENSORS)}",
    )


def _report_threshold(run: Path, out: Path) -> None:
    """Print what a bundle does not inspect, the threshold with what it rests on, and the next commands."""
    from cmdiad_train.runs.record import read_record

    record = read_record(run)
    samples = _samples_of(record)
    inspect = f"cmdiad-run {in_shell(out)}"
    _report_bundle(
        out,
        f"{inspect} PICTURES  # for PICTURES put a folder of new pictures"
        if samples is None
        else f"{inspect} {in_shell(samples)} --output {in_shell(_free(Path('inspected')))}",
        _report_of(record, out),
    )


def _report_of(record: RunRecord, out: Path) -> str:
    """Return the command for a report.

    The record has the real folder of the category. If the category was a link of another name, the folder has another
    category than the bundle.
    """
    folder = Path(record.data.folder)
    category = "" if folder.name == record.data.category else f" --category {in_shell(folder.name)}"
    return f"cmdiad-bench report {in_shell(folder)} {in_shell(out)}{category} --out report"


def _report_bundle(out: Path, *following: str) -> None:
    """Print what a bundle does not inspect, the threshold with what it rests on, and the next commands."""
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.cli.notes import notes_about

    bundle = Bundle.open(out)
    for note in notes_about(bundle):
        _say(note)
    remedy = f"cmdiad-threshold {in_shell(out)} --good DIR"
    report_threshold(bundle.calibration, remedy, *following, further=bundle.training_doubts)


def _free(folder: Path) -> Path:
    """Return the folder if there is none of this name, else one with a number."""
    from cmdiad_runtime.support.files import free_name

    return free_name(folder) if folder.exists() else folder


def _samples_of(record: RunRecord) -> Path | None:
    """Return a folder of samples of the data set that can be inspected, test samples first; None if there is none."""
    from dataclasses import replace

    from cmdiad_runtime.errors import RunError
    from cmdiad_runtime.modalities import folders_of
    from cmdiad_runtime.names import MODALITIES
    from cmdiad_train.datasets import GOOD, category_at

    folder = Path(record.data.folder)
    if (folder / "test").is_dir():
        return folder / "test"
    try:
        category = replace(category_at(folder), image=record.preprocessing.image_modality)
        splits = [category.listing(split, record.preprocessing.modalities) for split in ("test", "train")]
    except RunError:
        return None
    defects = [files for listing in splits for files in listing.samples if files.defect != GOOD]
    first = next(iter((*defects, *splits[1].samples)), None)
    if first is None:
        return None
    place = Path(first.rgb or first.xyz or folder).parent
    inside = [name for kind in MODALITIES for name in folders_of(kind, category.image)]
    return place.parent if place.name.lower() in inside else place


def _make_folder(folder: Path, out: Path) -> None:
    from cmdiad_runtime.errors import OutputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = cause_of(error)
        raise OutputError(out, found=reason, expected="a writable folder", action="choose another --out") from error


def _plan(run: Path, out: Path, options: ExportOptions) -> None:
    from cmdiad_export.planning.planner import make_plan
    from cmdiad_export.planning.report import table, write_plan
    from cmdiad_runtime.support.progress import TerminalReporter
    from cmdiad_runtime.support.scratch import scratch_folder
    from cmdiad_train.runs.run import load_run

    loaded = load_run(run)
    _make_folder(out, out)
    with scratch_folder("plan") as folder:
        planned = make_plan(loaded, folder, TerminalReporter(), scratch_megabytes=options.scratch_megabytes)
    write_plan(out, planned.plan)
    click.echo(table(planned.plan))
    click.echo(f"\nplan: {out / 'plan.json'}, {out / 'plan.png'}")


def _export_within(run: Path, out: Path, options: ExportOptions, budget: Budget) -> None:
    from cmdiad_export.planning.planner import make_plan, write_within
    from cmdiad_export.planning.report import table
    from cmdiad_runtime.support.progress import TerminalReporter
    from cmdiad_runtime.support.scratch import scratch_folder
    from cmdiad_train.runs.run import load_run

    reporter = TerminalReporter()
    with scratch_folder("plan") as folder:
        planned = make_plan(load_run(run), folder, reporter, scratch_megabytes=options.scratch_megabytes)
        reporter.say(table(planned.plan))
        write_within(planned, budget, out, options, reporter)


def _check_plan_options(context: click.Context, *, plan: bool, budgeted: bool) -> None:
    if plan and budgeted:
        raise click.UsageError("a budget makes its own plan: use either --plan, or --budget-ms and --budget-mb")
    fixed = {"precision": "--precision", "search": "--search"} | ({"target": "--target"} if plan else {})
    stated = [name for key, name in fixed.items() if context.get_parameter_source(key) is ParameterSource.COMMANDLINE]
    if stated and (plan or budgeted):
        raise click.UsageError(f"a plan tries all values of {' and '.join(stated)}: leave the option out")


def _target(target: str, precision: Precision) -> Target:
    """Return the target of the options; `auto` depends on the precision and the installed packages."""
    from cmdiad_runtime.errors import EngineError

    if target == "tensorrt":
        raise EngineError(
            "--target tensorrt",
            found="a target whose engines are built on their device",
            expected="onnx or rtx",
            action="export with --target onnx, and run cmdiad-build BUNDLE on the device",
        )
    if target == "auto":
        installed = importlib.util.find_spec("tensorrt_rtx") is not None
        return "rtx" if installed and precision != "int8-cpu" else "onnx"
    return "rtx" if target == "rtx" else "onnx"


def main() -> None:
    """Run the command, or `cmdiad-build` if the first argument is `build`."""
    if sys.argv[1:2] == ["build"]:
        run_command(build, "cmdiad-export build", sys.argv[2:])
    run_command(cli, "cmdiad-export")


def _say(line: str) -> None:
    click.echo(line, err=True)
