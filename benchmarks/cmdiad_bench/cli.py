"""`cmdiad-bench`: latency, memory and accuracy of a bundle, and the evaluation report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cmdiad_bench.methods.command import methods
from cmdiad_bench.missing.command import missing
from cmdiad_bench.settings import parse_settings
from cmdiad_runtime.cli.each import ALL
from cmdiad_runtime.cli.options import finite
from cmdiad_runtime.engines import ENGINE_NAMES
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.command_line import CommandGroup, option_group, run_command
from cmdiad_runtime.support.progress import TerminalReporter
from cmdiad_train.training.machine import DEVICES

if TYPE_CHECKING:
    from cmdiad_runtime.engines import EngineName

TAKT_MISSED = 9
BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
INPUTS = click.argument("inputs", nargs=-1, metavar="[INPUT]...", type=click.Path(path_type=Path))
CATEGORY = click.option(
    "--category",
    help="Category of DATA; required if DATA has several. `all`: each category with the newest bundle of that category "
    "in the folder BUNDLE, and one table at the end. Categories that are in the JSON file already are kept.",
)
JSON = click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the figures as JSON.")
ENGINE = click.option("--engine", type=click.Choice(ENGINE_NAMES), default="cpu", help="Engine that runs the graph.")


@click.group(
    cls=CommandGroup,
    examples=(
        "cmdiad-bench latency parts.cmdiad photos/ --takt-ms 100",
        "cmdiad-bench report DATA parts.cmdiad --out report",
        "cmdiad-bench paper mvtec3d --out paper",
        "cmdiad-bench methods parts --out methods",
    ),
    exit_codes={
        3: "a sample cannot be used",
        4: "bundle",
        5: "engine or package",
        6: "output",
        7: "data set, or a row of a table failed",
        TAKT_MISSED: "takt time missed",
    },
)
def cli() -> None:
    """Measure a bundle under the conditions of the line."""


@cli.command(
    examples=(
        "cmdiad-bench latency parts.cmdiad photos/ --runs 200",
        "# exit code 9 unless 99 of 100 parts stay within 100 ms:",
        "cmdiad-bench latency parts.cmdiad photos/ --takt-ms 100 --pipeline",
    )
)
@BUNDLE
@INPUTS
@option_group(
    "Measurement",
    click.option("--runs", type=click.IntRange(min=1), default=1000, help="Number of samples to measure."),
    click.option(
        "--seconds",
        type=float,
        default=60.0,
        callback=finite,
        help="Time limit; fewer samples are measured if reached.",
    ),
    click.option("--pipeline", is_flag=True, help="Prepare the next samples while the engine works."),
    click.option(
        "--takt-ms",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        help="Time the line allows for each part.",
    ),
    ENGINE,
)
@option_group("Output", JSON)
def latency(  # noqa: PLR0913 - one parameter for each option
    bundle: Path,
    inputs: tuple[Path, ...],
    runs: int,
    seconds: float,
    pipeline: bool,
    takt_ms: float | None,
    engine: EngineName,
    json_file: Path | None,
) -> int:
    """Measure the time from file to verdict on INPUT files or folders.

    Without INPUT, synthetic samples are generated in a temporary folder first: useful for the speed of the machine,
    not for accuracy.

    With --takt-ms the exit code is 9 unless 99 of 100 parts stay within that time: from file to verdict, or with
    --pipeline from one verdict to the next.
    """
    import tempfile

    from cmdiad_bench.latency import LatencyOptions, measure_latency
    from cmdiad_runtime.envelope.names import CHECKS
    from cmdiad_runtime.inspection.inputs import list_inputs
    from cmdiad_runtime.inspection.inspector import Inspector
    from cmdiad_runtime.inspection.open_options import OpenOptions

    # The same files are inspected again and again, and generated samples are not like those of the training.
    open_options = OpenOptions(engine=engine, frozen_after=0, ignore_checks=() if inputs else tuple(CHECKS))
    with tempfile.TemporaryDirectory() as folder, Inspector.open(bundle, open_options) as inspector:
        paths = inputs or (_synthetic_inputs(Path(folder)),)
        settings = inspector.bundle.preprocessing
        files = list_inputs(paths, settings.modality, settings.image_modality)
        reporter = TerminalReporter()
        options = LatencyOptions(runs=runs, seconds=seconds, pipeline=pipeline, takt_ms=takt_ms)
        result = measure_latency(inspector, files, options, reporter)
        reporter.close()
    _print_latency(result)
    _write(json_file, result)
    return 0 if result["takt"] is None or result["takt"]["passed"] else TAKT_MISSED


@cli.command(
    examples=(
        "cmdiad-bench memory parts.cmdiad",
        "cmdiad-bench memory parts.cmdiad photos/ --engine cuda --json memory.json",
    )
)
@BUNDLE
@INPUTS
@option_group("Measurement", ENGINE)
@option_group("Output", JSON)
def memory(bundle: Path, inputs: tuple[Path, ...], engine: EngineName, json_file: Path | None) -> None:
    """Measure the peak memory of a process that opens BUNDLE and inspects three INPUTs.

    Without INPUT, synthetic samples are generated. Resident memory is counted by the kernel (Linux); GPU memory is the
    memory in use according to nvidia-smi beyond what was in use before.
    """
    import tempfile

    from cmdiad_bench.memory import measure_memory
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.inspection.inputs import list_inputs

    settings = Bundle.open(bundle).preprocessing
    with tempfile.TemporaryDirectory() as folder:
        files = list_inputs(inputs or (_synthetic_inputs(Path(folder)),), settings.modality, settings.image_modality)
        result = measure_memory(bundle, files, engine=engine)
    device = result["peak_device_mb"]
    click.echo(
        f"{result['engine']}, {result['precision']}: {result['opened_mb']:.0f} MB resident once open, at most "
        f"{result['peak_resident_mb']:.0f} MB; " + ("no GPU seen" if device is None else f"{device:.0f} MB on the GPU")
    )
    _write(json_file, result)


@cli.command(
    examples=(
        "cmdiad-bench accuracy parts.cmdiad DATA --category cable_gland",
        "cmdiad-bench accuracy parts.cmdiad DATA --json accuracy.json",
        "# the newest bundle of each category in a folder; repeat the command to continue:",
        "cmdiad-bench accuracy bundles DATA --category all --json accuracy.json",
    )
)
@BUNDLE
@click.argument("data", type=click.Path(path_type=Path))
@option_group("Measurement", CATEGORY, ENGINE)
@option_group("Output", JSON)
def accuracy(bundle: Path, data: Path, category: str | None, engine: EngineName, json_file: Path | None) -> int:
    """Measure the accuracy of BUNDLE on the labelled test split of the data set DATA."""
    if category == ALL:
        from cmdiad_bench.all_categories import measure_all

        reporter = TerminalReporter()
        return measure_all(data, bundle, engine, json_file, reporter)
    from cmdiad_bench.accuracy import measure_accuracy
    from cmdiad_bench.weak import warn_if_weak
    from cmdiad_runtime.inspection.inspector import Inspector
    from cmdiad_runtime.inspection.open_options import OpenOptions

    with Inspector.open(bundle, OpenOptions(engine=engine, frozen_after=0)) as inspector:
        reporter = TerminalReporter()
        result = measure_accuracy(inspector, data, category, reporter)
        reporter.close()
    _print_accuracy(result)
    for defect, value in result["image_auroc_by_defect"].items():
        click.echo(f"  {defect:<16} image AUROC {value:.3f}")
    warn_if_weak(result)
    _write(json_file, result)
    return 0


@cli.command(
    examples=(
        "cmdiad-bench report DATA parts.cmdiad --out report",
        "# two detectors of one category on one page:",
        "cmdiad-bench report DATA rgb.cmdiad xyz.cmdiad --out report",
        "# a report of each category; repeat the command to continue:",
        "cmdiad-bench report DATA bundles --category all --out reports",
    )
)
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=click.Path(path_type=Path))
@option_group(
    "Measurement",
    click.option(
        "--category",
        help="Category of DATA to use instead of the one that BUNDLE was trained on. `all`: a report of each "
        "category, with the newest bundle of that category in the folder BUNDLE, and one table at the end. Reports "
        "that are there already are kept.",
    ),
    ENGINE,
)
@option_group(
    "Output",
    click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for report.html, report.json."),
)
def report(data: Path, bundles: tuple[Path, ...], out: Path, category: str | None, engine: EngineName) -> int:
    """Write one page about one or more BUNDLEs on the labelled test split of DATA.

    Each BUNDLE inspects the category of the training. report.html needs no other file and no network;
    report.json holds the same figures.
    """
    import shlex
    import sys

    from cmdiad_bench.report.report import ReportOptions, write_report
    from cmdiad_bench.weak import warn_if_weak

    if category is not None and len(bundles) > 1:
        raise click.UsageError("--category needs exactly one BUNDLE; several bundles name their own categories.")
    reporter = TerminalReporter()
    options = ReportOptions(category=category, engine=engine, command=shlex.join(["cmdiad-bench", *sys.argv[1:]]))
    if category == ALL:
        from cmdiad_bench.all_categories import report_all

        return report_all(data, bundles[0], out, options, reporter)
    record = write_report(data, bundles, out, options, reporter)
    reporter.close()
    names = [result["name"] if len(bundles) > 1 else "" for result in record["classes"]]
    for result, name in zip(record["classes"], names, strict=True):
        _print_accuracy(result, bundle=name)
    click.echo(f"report: {out / 'report.html'}")
    for result, name in zip(record["classes"], names, strict=True):
        warn_if_weak(result, bundle=name)
    return 0


@cli.command(
    examples=(
        "cmdiad-extractor fetch vit_base_patch8_224.dino",
        "cmdiad-extractor import pointmae_pretrain.pth",
        "cmdiad-bench paper mvtec3d --out paper",
        "# one row of one category, with a shorter training that the table names:",
        "cmdiad-bench paper mvtec3d --row xyz-f2f --category bagel --set epochs=10 --out paper",
    )
)
@click.argument("data", type=click.Path(path_type=Path))
@option_group(
    "Table",
    click.option("--row", "rows", multiple=True, help="Row as in cmdiad-train --paper; repeatable.  [default: all]"),
    click.option(
        "--category", "categories", multiple=True, help="Category to evaluate; repeatable.  [default: all of DATA]"
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Option of cmdiad-train for all rows, such as xyz-weights=FILE; repeatable. The table names every "
        "departure from the paper.",
    ),
    click.option("--device", type=click.Choice(DEVICES), default="auto", help="Device of the trainings."),
)
@option_group(
    "Output",
    click.option(
        "--out", required=True, type=click.Path(path_type=Path), help="Folder for paper.md, paper.json and the runs."
    ),
)
def paper(
    data: Path, rows: tuple[str, ...], categories: tuple[str, ...], settings: tuple[str, ...], device: str, out: Path
) -> int:
    """Train the rows of the paper's tables on DATA and print the published figures next to the measured ones.

    Repeat the command to resume: rows that are finished with the same recipe, data and version of cmdiad are not
    trained again. Other settings need another --out. The table is written after each training, and names the rows that
    are missing. A row that fails is named too, and the exit code is 7. The traceback of an unforeseen error is in a
    file that the row names.
    """
    from cmdiad_bench.paper.published import PUBLISHED
    from cmdiad_bench.paper.rows import PaperOptions, Results, measure_rows
    from cmdiad_bench.paper.table import as_markdown, as_text, make_table
    from cmdiad_runtime.support.files import atomic_write, make_folder
    from cmdiad_train.datasets import find_categories
    from cmdiad_train.training.machine import Machine

    for row in rows:
        if row not in PUBLISHED:
            raise click.UsageError(f"--row {row!r} is not one of {', '.join(PUBLISHED)}.")
    chosen = {"rows": rows} if rows else {}
    machine = Machine(device)
    options = PaperOptions(**chosen, categories=categories, settings=parse_settings(settings), machine=machine)
    for one in find_categories(data):
        one.require_outside(out, "a folder outside of the samples")
    machine.torch_device()  # A device that does not exist is one error, not a failure of every row.
    make_folder(out, expected="a writable folder for the table", action="choose another --out")

    def write(results: Results) -> dict[str, Any]:
        table = make_table(results, options.departures)
        _write(out / "paper.json", table)
        with atomic_write(out / "paper.md") as temporary:
            temporary.write_text(as_markdown(table), encoding="utf-8")
        return table

    reporter = TerminalReporter()
    table = measure_rows(data, out, options, reporter, write)
    reporter.close()
    click.echo(as_text(table))
    failed = any("failed" in result for row in table["rows"] for result in row["categories"].values())
    return RunError.exit_code if failed else 0


cli.add_command(methods)
cli.add_command(missing)


def main() -> None:
    """Run the command; entry point of `cmdiad-bench`."""
    run_command(cli, "cmdiad-bench")


def _synthetic_inputs(folder: Path) -> Path:
    from cmdiad_train.synthesis import CATEGORIES, DatasetSpec, synthesize

    data = folder / "data"
    spec = DatasetSpec(categories=CATEGORIES[:1], train=1, validation=1, test={"good": 4, "dent": 4}, size=400)
    synthesize(data, spec)
    return data / CATEGORIES[0] / "test"


def _print_accuracy(result: dict[str, Any], *, bundle: str = "") -> None:
    """Print the figures of a category, with the name of the bundle if there are several."""
    from cmdiad_bench.weak import subject_of
    from cmdiad_train.evaluation.weakness import verdicts_text

    pixels = ""
    if result["pixel_auroc"] is not None:
        pixels = f", pixel AUROC {result['pixel_auroc']:.3f}, AUPRO@30% {result['aupro_30']:.3f}"
    images = "no image AUROC" if result["image_auroc"] is None else f"image AUROC {result['image_auroc']:.3f}"
    click.echo(f"{subject_of(result, bundle)}, {result['samples']} samples: {images}{pixels}; {verdicts_text(result)}")
    unseen = result["not_inspected"]
    if unseen["reasons"]:
        click.echo(
            f"{unseen['good'] + unseen['defects']} of {result['samples']} test samples could not be inspected: NG in "
            f"the verdicts, left out of AUROC and AUPRO ({_listed(unseen['reasons'])})"
        )
    for kind in ("good", "defects"):
        if result["reasons"][kind]:
            click.echo(f"  NG of {kind:<9} {_listed(result['reasons'][kind])}")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items())


def _print_latency(result: dict[str, Any]) -> None:
    kind = "pipelined" if result["pipeline"] else "one at a time"
    click.echo(f"{result['engine']}, {result['precision']}, {result['runs']} runs, {kind}, ms per sample")
    columns = ("mean", "p50", "p90", "p95", "p99", "max")
    click.echo(f"{'':<12}" + "".join(f"{c:>9}" for c in columns))
    intervals = {"interval": result["interval_ms"]} if result["pipeline"] else {}
    for name, row in {"total": result["total_ms"], **result["stages_ms"], **intervals}.items():
        click.echo(f"{name:<12}" + "".join(f"{row[c]:9.2f}" for c in columns))
    waiting = " and the wait for the engine" if result["pipeline"] else ""
    click.echo(f"total = decode + preprocess + engine + map{waiting}: the time until the verdict")
    click.echo(f"{result['per_second']:.2f} samples per second")
    takt = result["takt"]
    if takt is not None:
        verdict = "kept" if takt["passed"] else "MISSED"
        click.echo(
            f"takt of {takt['takt_ms']:g} ms {verdict}: p99 {takt['p99_ms']:.2f} ms, {takt['late']} of "
            f"{result['runs']} late"
        )


def _write(path: Path | None, result: dict[str, Any]) -> None:
    from cmdiad_runtime.support.files import write_json

    if path is not None:
        write_json(path, result)
