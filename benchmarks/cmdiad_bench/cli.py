"""`cmdiad-bench`: latency, memory and accuracy of a bundle, and the evaluation report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cmdiad_runtime.support.command_line import run_command
from cmdiad_runtime.support.progress import Progress

if TYPE_CHECKING:
    from cmdiad_runtime.engines import EngineName

TAKT_MISSED = 9
ENGINES = ["auto", "cpu", "cuda", "ort-tensorrt", "ort-rtx", "tensorrt", "rtx"]
CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}
JSON = click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the figures there.")
ENGINE = click.option("--engine", type=click.Choice(ENGINES), default="cpu", help="What runs the graph.")


@click.group(context_settings=CONTEXT)
def cli() -> None:
    """Measure a bundle as it runs on the line.

    \b
    Exit codes: 0 done, 2 wrong command line, 3 to 8 as cmdiad-run, 9 takt time missed, 130 interrupted.
    """


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, metavar="[INPUT]...", type=click.Path(path_type=Path))
@click.option("--runs", type=click.IntRange(min=1), default=1000, help="Samples to measure.")
@click.option("--seconds", type=float, default=60.0, help="Stop earlier after this time.")
@click.option("--pipeline", is_flag=True, help="Prepare the next samples beside the engine's work.")
@click.option("--takt-ms", type=click.FloatRange(min=0, min_open=True), help="Time the line gives each part.")
@ENGINE
@JSON
def latency(
    bundle: Path,
    inputs: tuple[Path, ...],
    runs: int,
    seconds: float,
    pipeline: bool,
    takt_ms: float | None,
    engine: EngineName,
    json_file: Path | None,
) -> int:
    """Time from file to verdict on INPUT files or folders.

    Without INPUT synthetic samples are drawn and written to a temporary folder first: good for the machine's speed,
    not for accuracy.

    With --takt-ms the exit code is 9 unless 99 of 100 parts keep within it: from file to verdict, or with
    --pipeline from one verdict to the next.
    """
    import tempfile

    from cmdiad_bench.latency import measure_latency
    from cmdiad_runtime.inspection.inputs import list_inputs
    from cmdiad_runtime.inspection.inspector import Inspector

    with tempfile.TemporaryDirectory() as folder, Inspector.open(bundle, engine=engine) as inspector:
        paths = inputs or (_synthetic_inputs(Path(folder)),)
        files = list_inputs(paths, inspector.bundle.preprocessing.modality)
        progress = Progress()
        result = measure_latency(
            inspector, files, runs=runs, seconds=seconds, progress=progress, pipeline=pipeline, takt_ms=takt_ms
        )
        progress.close()
    _print_latency(result)
    _write(json_file, result)
    return 0 if result["takt"] is None or result["takt"]["passed"] else TAKT_MISSED


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, metavar="[INPUT]...", type=click.Path(path_type=Path))
@ENGINE
@JSON
def memory(bundle: Path, inputs: tuple[Path, ...], engine: EngineName, json_file: Path | None) -> None:
    """Peak memory of a process that opens BUNDLE and inspects three INPUTs, or synthetic ones of its own.

    Resident memory as the kernel counts it (Linux); on the GPU what nvidia-smi says is in use beyond what was before.
    """
    import tempfile

    from cmdiad_bench.memory import measure_memory
    from cmdiad_runtime.bundle.manifest import Bundle
    from cmdiad_runtime.inspection.inputs import list_inputs

    modality = Bundle.open(bundle).preprocessing.modality
    with tempfile.TemporaryDirectory() as folder:
        files = list_inputs(inputs or (_synthetic_inputs(Path(folder)),), modality)
        result = measure_memory(bundle, files, engine=engine)
    device = result["peak_device_mb"]
    click.echo(
        f"{result['engine']}, {result['precision']}: {result['opened_mb']:.0f} MB resident once open, at most "
        f"{result['peak_resident_mb']:.0f} MB; " + ("no GPU seen" if device is None else f"{device:.0f} MB on the GPU")
    )
    _write(json_file, result)


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--category", help="Which category of DATA; may be left out where there is one.")
@ENGINE
@JSON
def accuracy(bundle: Path, data: Path, category: str | None, engine: EngineName, json_file: Path | None) -> None:
    """Accuracy on the labelled test split of DATA (MVTec 3D-AD layout)."""
    from cmdiad_bench.accuracy import measure_accuracy
    from cmdiad_runtime.inspection.inspector import Inspector

    with Inspector.open(bundle, engine=engine) as inspector:
        progress = Progress()
        result = measure_accuracy(inspector, data, category, progress)
        progress.close()
    _print_accuracy(result)
    for defect, value in result["image_auroc_by_defect"].items():
        click.echo(f"  {defect:<16} image AUROC {value:.3f}")
    _write(json_file, result)


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for report.html and report.json.")
@click.option("--category", help="Which category of DATA, in place of the one that the one BUNDLE was trained on.")
@ENGINE
def report(data: Path, bundles: tuple[Path, ...], out: Path, category: str | None, engine: EngineName) -> None:
    """One page on the labelled test split of DATA, for one or more bundles.

    Each BUNDLE is inspected on the category that it was trained on. report.html needs no other file and no
    network; report.json holds the same figures.
    """
    import shlex
    import sys

    from cmdiad_bench.report.report import write_report

    if category is not None and len(bundles) > 1:
        raise click.UsageError("--category goes with one BUNDLE; several name their own.")
    progress = Progress()
    record = write_report(
        data,
        bundles,
        out,
        category=category,
        engine=engine,
        command=shlex.join(["cmdiad-bench", *sys.argv[1:]]),
        progress=progress,
    )
    progress.close()
    for result in record["classes"]:
        _print_accuracy(result)
    click.echo(f"report: {out / 'report.html'}")


def main() -> None:
    """Entry point."""
    run_command(cli, "cmdiad-bench")


def _synthetic_inputs(folder: Path) -> Path:
    from cmdiad_train.synthesis import CATEGORIES, synthesize

    data = folder / "data"
    synthesize(data, categories=CATEGORIES[:1], train=1, validation=1, test={"good": 4, "dent": 4}, size=400)
    return data / CATEGORIES[0] / "test"


def _print_accuracy(result: dict[str, Any]) -> None:
    pixels = ""
    if result["pixel_auroc"] is not None:
        pixels = f", pixel AUROC {result['pixel_auroc']:.3f}, AUPRO@30% {result['aupro_30']:.3f}"
    click.echo(
        f"{result['category']}, {result['samples']} samples: image AUROC {result['image_auroc']:.3f}{pixels}; "
        f"at the threshold {result['false_rejects']} of {result['good']} good rejected, "
        f"{result['missed_defects']} of {result['samples'] - result['good']} defects missed"
    )


def _print_latency(result: dict[str, Any]) -> None:
    kind = "pipelined" if result["pipeline"] else "one at a time"
    click.echo(f"{result['engine']}, {result['precision']}, {result['runs']} runs, {kind}, ms per sample")
    columns = ("mean", "p50", "p90", "p95", "p99", "max")
    click.echo(f"{'':<12}" + "".join(f"{c:>9}" for c in columns))
    intervals = {"interval": result["interval_ms"]} if result["pipeline"] else {}
    for name, row in {"total": result["total_ms"], **result["stages_ms"], **intervals}.items():
        click.echo(f"{name:<12}" + "".join(f"{row[c]:9.2f}" for c in columns))
    waiting = " and the wait for the engine" if result["pipeline"] else ""
    click.echo(f"total = decode + preprocess + engine{waiting}, what the verdict waits for")
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
