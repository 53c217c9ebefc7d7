"""Run research programs that compare, measure and explain: `python -m studies`. Not part of the wheel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cmdiad_runtime.support.command_line import CommandGroup, run_command
from cmdiad_runtime.support.progress import TerminalReporter

if TYPE_CHECKING:
    from cmdiad_runtime.sample import Sample
    from cmdiad_train.datasets import Split
    from studies.comparison.parts import Form, Setup

MOST_GOOD = 100
"""Training samples whose features fill the banks of `compare`: enough for a full-class bank of image features."""
JSON = click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the figures as JSON.")


@click.group(
    cls=CommandGroup,
    examples=("python -m studies compare DATA --category cable_gland --out compare", "python -m studies geometry"),
)
def cli() -> None:
    """Run a research program."""


@cli.command()
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for tables, pictures, figures.")
@click.option("--category", help="Category of DATA; required if DATA has several.")
@click.option(
    "--main", "mains", type=click.Choice(["rgb", "xyz"]), multiple=True, default=["rgb", "xyz"], help="Main modality."
)
@click.option("--anomalib", is_flag=True, help="Also compare rgb alone with anomalib's PatchCore (extra `compare`).")
@click.option("--runs", type=click.IntRange(min=1), default=9, help="Interleaved rounds.")
@click.option("--samples", type=click.IntRange(min=1), default=12, help="Test samples, taken in turn.")
@click.option("--rgb-bank", type=click.IntRange(min=3), default=19129, help="Rows of the bank of image features.")
@click.option("--xyz-bank", type=click.IntRange(min=3), default=76518, help="Rows of the banks of other features.")
@click.option(
    "--fast",
    multiple=True,
    default=["64:16"],
    metavar="WIDTH:CANDIDATES",
    help="Add a form: int8-cpu with a search over principal components.",
)
@click.option(
    "--proven",
    multiple=True,
    default=["256:16"],
    metavar="WIDTH:CANDIDATES",
    help="Add a form: fp32 with a proven search over principal components.",
)
@click.option("--chunk", type=click.IntRange(min=1), default=2048, help="Bank rows that cmdiad searches at a time.")
@click.option("--memory/--no-memory", default=True, help="Measure peak memory in separate processes.")
@click.option("--small", is_flag=True, help="Use tiny random networks to try the command.")
def compare(  # noqa: PLR0913 - one parameter for each option
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
    """Compare the published inference in plain torch with cmdiad in each mode, interleaved in one run.

    Networks have random weights, and the banks contain features of DATA's training samples (of synthetic samples
    without DATA). The figures are valid for time and memory, not for accuracy.
    """
    import tempfile

    from studies.comparison.compare import CompareOptions, Samples
    from studies.comparison.compare import compare as compare_all

    _use_all_cores()
    with tempfile.TemporaryDirectory() as folder:
        source = data or _synthetic_inputs(Path(folder)).parents[1]
        measured = _paired_samples(source, category, "test", samples)
        good = _paired_samples(source, category, "train", MOST_GOOD)
    compare_all(
        _setups(mains, anomalib, rgb_bank, xyz_bank, small),
        Samples(measured, good),
        _forms(fast, proven, chunk),
        out,
        CompareOptions(runs=runs, memory=memory),
        TerminalReporter(),
    )
    click.echo((out / "compare.md").read_text(encoding="utf-8"))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("category")
@click.option("--divisions", type=click.IntRange(min=1), default=20, help="Divisions of the good samples.")
@click.option("--training", type=click.IntRange(min=2), required=True, help="Good samples in each bank.")
@click.option("--held-out", type=click.IntRange(min=0), default=6, help="Good samples that only set the threshold.")
def divisions(run: Path, data: Path, category: str, divisions: int, training: int, held_out: int) -> None:
    """Compare plain and relative distances over many divisions of the good samples.

    RUN is a finished memory bank of one sensor, or one with a bank for each of both sensors, without hallucination,
    trained on CATEGORY of DATA. Nothing is trained again. The good samples that are left over test.
    """
    from cmdiad_train.runs.run import load_run
    from studies import divisions as study

    loaded = load_run(run)
    measured = study.measure(loaded, data, category, TerminalReporter())
    click.echo(study.markdown(study.evaluate(measured, divisions, training, held_out)))


@cli.command()
@click.option("--runs", type=click.IntRange(min=1), default=9, help="Runs of each saving.")
@JSON
def savings(runs: int, json_file: Path | None) -> None:
    """Measure the gain of each exact saving at full size and the largest change that it causes."""
    from cmdiad_bench.machine import describe_machine
    from studies.savings import Sizes, measure_savings, savings_table

    machine = describe_machine()
    _use_all_cores()
    rows = measure_savings(Sizes(), runs=runs, reporter=TerminalReporter())
    click.echo(savings_table(rows))
    _write(json_file, {"machine": machine, "runs": runs, "savings": rows})


@cli.command()
@click.option("--points", type=click.IntRange(min=1024, max=50176), default=25000, help="Approximate number of points.")
@click.option("--runs", type=click.IntRange(min=1), default=20, help="Interleaved rounds.")
@JSON
def geometry(points: int, runs: int, json_file: Path | None) -> None:
    """Measure point geometry of a synthetic cloud: published in plain torch, and in cmdiad."""
    from cmdiad_bench.machine import describe_machine
    from studies.geometry import geometry_table, measure_geometry, wavy_sheet

    machine = describe_machine()
    _use_all_cores()
    result = measure_geometry(wavy_sheet(points), runs=runs)
    click.echo(geometry_table(result))
    _write(json_file, {"machine": machine, **result})


@cli.command()
@click.option("--rows", type=click.IntRange(min=100), default=223 * 3136, help="Number of patch features.")
@click.option("--half", is_flag=True, help="Select with the published float16 distances.")
@click.option("--plain", is_flag=True, help="Also run the plain greedy selection (slow) and compare.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Device of the selection.")
@JSON
def coreset(rows: int, half: bool, plain: bool, device: str, json_file: Path | None) -> None:
    """Time the selection of a memory bank on synthetic features."""
    from studies.coreset import CoresetOptions, measure_coreset

    reporter = TerminalReporter()
    result = measure_coreset(CoresetOptions(rows=rows, half=half, plain=plain, device=device), reporter)
    reporter.close()
    for key, value in result.items():
        click.echo(f"{key:<30} {value}")
    _write(json_file, result)


@cli.command(examples=("python -m studies modes DATA cable_gland WEIGHTS/resnetv2_50.safetensors --json modes.json",))
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("category")
@click.argument("rgb_weights")
@click.option(
    "--json", "json_file", required=True, type=click.Path(path_type=Path), help="File for the figures as JSON."
)
@click.option("--seed", type=int, default=0, help="Seed of projections and random weights.")
def modes(data: Path, category: str, rgb_weights: str, json_file: Path, seed: int) -> None:
    """Measure each difference between the two modes alone on CATEGORY of DATA.

    RGB_WEIGHTS are ImageNet weights of resnetv2_50.
    """
    from studies.modes import measure_modes, modes_table

    click.echo(modes_table(measure_modes(data, category, rgb_weights, seed, json_file)))


@cli.command(
    examples=(
        "python -m studies extractors DATA cable_gland --large LARGE --small SMALL --out DIR",
        "python -m studies extractors DATA cable_gland --large LARGE --small SMALL --out DIR --only xyz-normals-f2f",
    )
)
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("category")
@click.option("--large", required=True, type=click.Path(path_type=Path), help="ImageNet weights of resnetv2_50.")
@click.option("--small", required=True, type=click.Path(path_type=Path), help="ImageNet weights of mobilenetv2_100.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for runs, bundles and the table.")
@click.option("--seed", "seeds", type=int, multiple=True, default=[0, 1, 2], help="Seed of the training; repeatable.")
@click.option("--only", multiple=True, metavar="NAME", help="Name of a detector to measure; repeatable. Default: all.")
@click.option("--latency-seconds", type=float, default=8.0, help="Time limit of each latency measurement; 0 skips all.")
def extractors(  # noqa: PLR0913 - one parameter for each option
    data: Path,
    category: str,
    large: Path,
    small: Path,
    out: Path,
    seeds: tuple[int, ...],
    only: tuple[str, ...],
    latency_seconds: float,
) -> None:
    """Compare extractors, hallucination and seeds on CATEGORY of DATA, with the latency of each detector.

    Results in the folder --out are reused, so the command can be stopped at any time and started again.
    """
    from studies.extractors import Bench, Weights, markdown, select

    weights = Weights(large, small, out / "student.safetensors", out / "points.safetensors")
    try:
        chosen = select(weights, only)
    except ValueError as error:
        raise click.UsageError(f"--only {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    reporter = TerminalReporter()
    bench = Bench(data, category, out, latency_seconds)
    bench.train_extractors(chosen, weights, reporter)
    click.echo(markdown(bench.measure(chosen, seeds, reporter)))


@cli.command(
    examples=(
        "python -m studies families DATA cable_gland --teacher resnet18=WEIGHTS/resnet18.safetensors --out DIR",
        "python -m studies families DATA cable_gland --teacher resnet18=FILE --device cuda --jobs 8 --out DIR",
    )
)
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("category")
@click.option("--teacher", "teachers", multiple=True, required=True, metavar="NAME=FILE", help="Backbone and weights.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for runs, bundles and the table.")
@click.option("--seed", "seeds", type=int, multiple=True, default=[0, 1, 2], help="Seed of the training; repeatable.")
@click.option("--only", multiple=True, metavar="TEXT", help="Beginning of the names to measure; repeatable.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Device of the training.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Trainings at the same time.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of reverse distillation.  [default: of the family]")
@click.option("--latency-seconds", type=float, default=0.0, help="Time limit of each latency measurement; 0 skips all.")
@click.option("--precision", "precisions", multiple=True, default=["fp32", "int8-cpu"], help="Precisions to time.")
def families(  # noqa: PLR0913 - one parameter for each option
    data: Path,
    category: str,
    teachers: tuple[str, ...],
    out: Path,
    seeds: tuple[int, ...],
    only: tuple[str, ...],
    device: str,
    jobs: int,
    epochs: int | None,
    latency_seconds: float,
    precisions: tuple[str, ...],
) -> None:
    """Compare reverse distillation with memory banks on CATEGORY of DATA: variants, teachers, seeds, latency.

    Results in the folder --out are reused, so the command can be stopped at any time and started again.
    """
    from studies.families import Study, detectors

    try:
        weights = dict(teacher.split("=", 1) for teacher in teachers)
    except ValueError as error:
        raise click.UsageError("--teacher takes NAME=FILE, for example resnet18=resnet18.safetensors") from error
    table = [d for d in detectors(weights, seeds) if not only or d.name.startswith(only)]
    out.mkdir(parents=True, exist_ok=True)
    study = Study(data, category, out, device, () if epochs is None else ("--epochs", str(epochs)))
    reporter = TerminalReporter()
    study.measure(table, jobs, reporter)
    if latency_seconds:
        study.time(table, precisions, latency_seconds, reporter)
    reporter.close()
    click.echo((out / "families.md").read_text(encoding="utf-8"))


@cli.command(
    examples=(
        "python -m studies recipes DATA cable_gland rows.toml --out DIR",
        "python -m studies recipes DATA cable_gland rows.toml --device cuda --jobs 12 --out DIR",
    )
)
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("category")
@click.argument("rows", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for runs, figures and the table.")
@click.option("--seed", "seeds", type=int, multiple=True, default=[0, 1, 2], help="Seed of the training; repeatable.")
@click.option("--only", multiple=True, metavar="TEXT", help="Beginning of the rows to measure; repeatable.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Device of the training.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Trainings at the same time.")
def recipes(  # noqa: PLR0913 - one parameter for each option
    data: Path,
    category: str,
    rows: Path,
    out: Path,
    seeds: tuple[int, ...],
    only: tuple[str, ...],
    device: str,
    jobs: int,
) -> None:
    """Train the recipes in ROWS on CATEGORY of DATA with several seeds, and tabulate figures of the test split.

    Results in the folder --out are reused, so the command can be stopped at any time and started again.
    """
    from studies.recipes import RecipeStudy, read_recipes

    try:
        chosen = read_recipes(rows, seeds, only)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    reporter = TerminalReporter()
    RecipeStudy(data, category, out, device, jobs).measure(chosen, reporter)
    reporter.close()
    click.echo((out / "recipes.md").read_text(encoding="utf-8"))


@cli.command("trd", examples=("python -m studies trd DATA cable_gland --out DIR",))
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("category")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for graphs and figures.")
@click.option("--size", type=click.Choice(["resnet18", "wide_resnet50_2"]), default="resnet18", help="Teacher.")
@click.option("--precision", "precisions", multiple=True, default=["fp32", "int8-cpu"], help="Precisions of the graph.")
@click.option("--runs", type=click.IntRange(min=1), default=30, help="Interleaved rounds.")
def trd_speed(data: Path, category: str, out: Path, size: str, precisions: tuple[str, ...], runs: int) -> None:
    """Compare the published TRD of both sensors in plain torch with the graph of the same size.

    Networks have random weights: the figures are valid for time and memory only.
    """
    from cmdiad_bench.machine import describe_machine
    from studies.trd_speed import compare_speed, speed_table

    machine = describe_machine()
    _use_all_cores()
    figures = compare_speed(size, precisions, _paired_samples(data, category, "test", 12), runs, out)
    _write(out / "trd-speed.json", {"machine": machine, "size": size, "runs": runs, "contenders": figures})
    click.echo(speed_table(figures))


def main() -> None:
    """Run the command; entry point of `python -m studies`."""
    run_command(cli, "python -m studies")


def _synthetic_inputs(folder: Path) -> Path:
    from cmdiad_train.synthesis import CATEGORIES, DatasetSpec, synthesize

    data = folder / "data"
    spec = DatasetSpec(categories=CATEGORIES[:1], train=1, validation=1, test={"good": 4, "dent": 4}, size=400)
    synthesize(data, spec)
    return data / CATEGORIES[0] / "test"


def _use_all_cores() -> None:
    """Give torch as many threads as ONNX Runtime has, regardless of OMP_NUM_THREADS."""
    import os

    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))


def _paired_samples(data: Path, category: str | None, split: Split, count: int) -> list[Sample]:
    from cmdiad_runtime.names import MODALITIES
    from cmdiad_train.datasets import open_category

    chosen = open_category(data, category).split(split, MODALITIES)
    return [files.read("rgb") for files in chosen[:: max(1, len(chosen) // count)][:count]]


def _setups(mains: tuple[str, ...], anomalib: bool, rgb_bank: int, xyz_bank: int, small: bool) -> list[Setup]:
    from cmdiad_train.recipe import RgbExtractor, XyzExtractor
    from studies.comparison.parts import Setup

    kinds = [(main, "f2f") for main in mains] + ([("rgb", "none")] if anomalib else [])
    if not small:
        return [Setup(main, kind, rgb_bank=rgb_bank, xyz_bank=xyz_bank) for main, kind in kinds]  # type: ignore[arg-type]
    rgb = RgbExtractor("test_vit", (), None, "seeded")
    xyz = XyzExtractor("point_mae", 64, 16, 24, 2, 3, (0, 1), "batch", "seeded", 20)
    return [Setup(main, kind, rgb, xyz, 160, rgb_bank, xyz_bank) for main, kind in kinds]  # type: ignore[arg-type]


def _forms(fast: tuple[str, ...], proven: tuple[str, ...], chunk: int) -> list[Form]:
    from cmdiad_train.detectors.bank.search.exact import SearchSettings
    from studies.comparison.parts import Form

    exact = SearchSettings(chunk=chunk)
    forms = [Form("faithful", "fp32", exact), Form("default", "fp32", exact)]
    forms += [Form("default", "fp32", SearchSettings(k, w, chunk, proven=True)) for w, k in _pairs("--proven", proven)]
    return forms + [Form("default", "int8-cpu", SearchSettings(k, w, chunk)) for w, k in _pairs("--fast", fast)]


def _pairs(option: str, texts: tuple[str, ...]) -> list[tuple[int, int]]:
    try:
        return [(int(width), int(candidates)) for width, candidates in (text.split(":") for text in texts)]
    except ValueError as error:
        raise click.UsageError(f"{option} takes WIDTH:CANDIDATES, for example 64:32") from error


def _write(path: Path | None, result: dict[str, Any]) -> None:
    from cmdiad_runtime.support.files import write_json

    if path is not None:
        write_json(path, result)


if __name__ == "__main__":
    main()
