"""`cmdiad-bench`: latency, memory and accuracy of a bundle, comparisons, and the evaluation report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cmdiad_runtime.support.command_line import run_command
from cmdiad_runtime.support.progress import Progress

if TYPE_CHECKING:
    from cmdiad_runtime.engines import EngineName
    from cmdiad_runtime.sample import Sample
    from cmdiad_train.datasets import Split
    from studies.contenders import Form, Setup

TAKT_MISSED = 9
MOST_GOOD = 100
"""Samples that the banks of `compare` are made of: as many as a full-class bank of image features takes, and more."""
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
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for tables, pictures, figures.")
@click.option("--category", help="Which category of DATA; may be left out where there is one.")
@click.option("--main", "mains", type=click.Choice(["rgb", "xyz"]), multiple=True, default=["rgb", "xyz"])
@click.option("--anomalib", is_flag=True, help="Also rgb alone against anomalib's PatchCore (extra `compare`).")
@click.option("--runs", type=click.IntRange(min=1), default=9, help="Interleaved rounds.")
@click.option("--samples", type=click.IntRange(min=1), default=12, help="Of the test split: rounds take them in turn.")
@click.option("--rgb-bank", type=click.IntRange(min=3), default=19129, help="Rows of the bank of image features.")
@click.option("--xyz-bank", type=click.IntRange(min=3), default=76518, help="Rows of the banks of other features.")
@click.option(
    "--fast",
    multiple=True,
    default=["64:16"],
    metavar="WIDTH:CANDIDATES",
    help="Also int8-cpu with a search over principal components.",
)
@click.option(
    "--proven",
    multiple=True,
    default=["256:16"],
    metavar="WIDTH:CANDIDATES",
    help="Also fp32 with a search over principal components, and in full where that proves nothing.",
)
@click.option("--chunk", type=click.IntRange(min=1), default=2048, help="Bank rows that ours search at a time.")
@click.option("--memory/--no-memory", default=True, help="Peak memory, each in a process of its own.")
@click.option("--small", is_flag=True, help="Tiny random networks, to try the command out.")
def compare(
    data: Path | None,
    out: Path,
    category: str | None,
    mains: tuple[str, ...],
    anomalib: bool,
    runs: int,
    samples: int,
    rgb_bank: int,
    xyz_bank: int,
    fast: tuple[str, ...],
    proven: tuple[str, ...],
    chunk: int,
    memory: bool,
    small: bool,
) -> None:
    """The published inference in plain torch and ours in each mode, side by side and interleaved, in one run.

    Networks have random weights and banks are features of DATA's training samples (without DATA, of synthetic ones):
    good for time and memory, not for accuracy.
    """
    import tempfile

    from studies.compare import compare as compare_all

    _use_all_cores()
    with tempfile.TemporaryDirectory() as folder:
        source = data or _synthetic_inputs(Path(folder)).parents[1]
        taken = _paired_samples(source, category, "test", samples)
        good = _paired_samples(source, category, "train", MOST_GOOD)
    compare_all(
        _setups(mains, anomalib, rgb_bank, xyz_bank, small),
        taken,
        good,
        _forms(fast, proven, chunk),
        out,
        runs=runs,
        memory=memory,
        say=lambda line: click.echo(line, err=True),
    )
    click.echo((out / "compare.md").read_text(encoding="utf-8"))


@cli.command()
@click.option("--runs", type=click.IntRange(min=1), default=9, help="Of each, interleaved with what it saves.")
@JSON
def savings(runs: int, json_file: Path | None) -> None:
    """What each exact saving gains at full size, and how little it changes."""
    from cmdiad_bench.machine import describe_machine
    from studies.savings import Sizes, measure_savings, savings_table

    machine = describe_machine()
    _use_all_cores()
    rows = measure_savings(Sizes(), runs=runs, say=lambda line: click.echo(line, err=True))
    click.echo(savings_table(rows))
    _write(json_file, {"machine": machine, "runs": runs, "savings": rows})


@cli.command()
@click.option("--points", type=click.IntRange(min=1024, max=50176), default=25000, help="Points of the part, about.")
@click.option("--runs", type=click.IntRange(min=1), default=20, help="Interleaved rounds.")
@JSON
def geometry(points: int, runs: int, json_file: Path | None) -> None:
    """Sampling, grouping, interpolation and pooling of a synthetic cloud: published in plain torch, and ours."""
    from cmdiad_bench.machine import describe_machine
    from studies.geometry import geometry_table, measure_geometry, wavy_sheet

    machine = describe_machine()
    _use_all_cores()
    result = measure_geometry(wavy_sheet(points), runs=runs)
    click.echo(geometry_table(result))
    _write(json_file, {"machine": machine, **result})


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


@cli.command()
@click.option("--rows", type=click.IntRange(min=100), default=223 * 3136, help="Patch features to select from.")
@click.option("--half", is_flag=True, help="The published float16 form.")
@click.option("--plain", is_flag=True, help="Also run the plain greedy (slow), and compare.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@JSON
def coreset(rows: int, half: bool, plain: bool, device: str, json_file: Path | None) -> None:
    """Time the selection of a memory bank on synthetic features."""
    from studies.coreset import measure_coreset

    progress = Progress()
    result = measure_coreset(rows=rows, half=half, plain=plain, device=device, progress=progress)
    progress.close()
    for key, value in result.items():
        click.echo(f"{key:<30} {value}")
    _write(json_file, result)


def main() -> None:
    """Entry point."""
    run_command(cli, "cmdiad-bench")


def _synthetic_inputs(folder: Path) -> Path:
    from cmdiad_train.synthesis import CATEGORIES, synthesize

    data = folder / "data"
    synthesize(data, categories=CATEGORIES[:1], train=1, validation=1, test={"good": 4, "dent": 4}, size=400)
    return data / CATEGORIES[0] / "test"


def _use_all_cores() -> None:
    """Give torch the threads that ONNX Runtime has, whatever OMP_NUM_THREADS says."""
    import os

    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))


def _paired_samples(data: Path, category: str | None, split: Split, count: int) -> list[Sample]:
    from cmdiad_train.datasets import open_category

    chosen = open_category(data, category).split(split, ("rgb", "xyz"))
    return [files.read("rgb") for files in chosen[:: max(1, len(chosen) // count)][:count]]


def _setups(mains: tuple[str, ...], anomalib: bool, rgb_bank: int, xyz_bank: int, small: bool) -> list[Setup]:
    from cmdiad_train.recipe import RgbExtractor, XyzExtractor
    from studies.contenders import Setup

    kinds = [(main, "f2f") for main in mains] + ([("rgb", "none")] if anomalib else [])
    if not small:
        return [Setup(main, kind, rgb_bank=rgb_bank, xyz_bank=xyz_bank) for main, kind in kinds]  # type: ignore[arg-type]  # click checked
    rgb = RgbExtractor("test_vit", (), None, "seeded")
    xyz = XyzExtractor("point_mae", 64, 16, 24, 2, 3, (0, 1), "batch", "seeded", 20)
    return [Setup(main, kind, rgb, xyz, 160, rgb_bank, xyz_bank) for main, kind in kinds]  # type: ignore[arg-type]


def _forms(fast: tuple[str, ...], proven: tuple[str, ...], chunk: int) -> list[Form]:
    from cmdiad_train.detectors.bank.search.exact import SearchPlan
    from studies.contenders import Form

    exact = SearchPlan(chunk=chunk)
    forms = [Form("faithful", "fp32", exact), Form("default", "fp32", exact)]
    forms += [Form("default", "fp32", SearchPlan(k, w, chunk, proven=True)) for w, k in _pairs("--proven", proven)]
    return forms + [Form("default", "int8-cpu", SearchPlan(k, w, chunk)) for w, k in _pairs("--fast", fast)]


def _pairs(option: str, texts: tuple[str, ...]) -> list[tuple[int, int]]:
    try:
        return [(int(width), int(candidates)) for width, candidates in (text.split(":") for text in texts)]
    except ValueError as error:
        raise click.UsageError(f"{option} takes WIDTH:CANDIDATES, for example 64:32") from error


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
