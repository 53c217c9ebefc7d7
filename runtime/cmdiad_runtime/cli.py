"""`cmdiad-run`: inspect samples with one modality and a bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmdiad_runtime.command_line import run_command

if TYPE_CHECKING:
    from cmdiad_runtime.inspector import Inspector
    from cmdiad_runtime.results import Results
    from cmdiad_runtime.sample import Modality

SOME_FAILED = 3

HELP = """Inspect INPUT files (or folders of them) with a bundle and print a verdict for each.

The first path is the bundle if it is one; otherwise the newest bundle under ./bundles is taken, and named.
Without any INPUT the golden samples kept in the bundle are inspected: a self-test of this machine.

\b
Exit codes: 0 all samples inspected (whatever the verdicts), 2 wrong command line, 3 some samples could not be
inspected, 4 bundle unusable, 5 engine unusable, 6 output not writable, 8 self-test failed, 130 interrupted.
"""


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, metavar="[BUNDLE] [INPUT]...", type=click.Path(path_type=Path))
@click.option("--modality", type=click.Choice(["rgb", "xyz"]), help="The sensor at hand.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for results.jsonl and overlays/.")
@click.option("--engine", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--overlays/--no-overlays", default=True, show_default=True, help="Write heatmap pictures.")
def cli(paths: tuple[Path, ...], modality: Modality | None, output: Path | None, engine: str, overlays: bool) -> int:
    """See HELP."""
    bundle, inputs = _bundle_and_inputs(paths, modality)
    if not inputs:
        _self_test(bundle, modality, engine, output)
        return 0
    failed = _inspect_all(bundle, inputs, modality, engine, output, overlays)
    return SOME_FAILED if failed else 0


def main() -> None:
    """Entry point."""
    run_command(cli, "cmdiad-run")


def _bundle_and_inputs(paths: tuple[Path, ...], modality: Modality | None) -> tuple[Path, tuple[Path, ...]]:
    if paths and ((paths[0] / "manifest.json").exists() or paths[0].suffix == ".cmdiad"):
        return paths[0], paths[1:]
    from cmdiad_runtime.newest import newest_bundle

    bundle = newest_bundle(Path("bundles"), modality)
    click.echo(f"bundle: {bundle} (the newest)", err=True)
    return bundle, paths


def _inspect_all(
    bundle: Path,
    inputs: tuple[Path, ...],
    modality: Modality | None,
    engine: str,
    output: Path | None,
    overlays: bool,
) -> int:
    """Inspect the inputs one after another; return how many could not be."""
    from contextlib import nullcontext

    from cmdiad_runtime.inputs import list_inputs, output_names
    from cmdiad_runtime.inspector import Inspector
    from cmdiad_runtime.results import open_results

    failed = 0
    # Earlier results are replaced only once bundle and inputs have turned out to be there.
    with Inspector.open(bundle, modality=modality, engine=engine) as inspector:  # type: ignore[arg-type]  # click checked it
        files = list_inputs(inputs, inspector.bundle.preprocessing.modality)
        with open_results(output) if output else nullcontext() as results:
            for file, name in zip(files, output_names(files), strict=True):
                failed += not _inspect_one(inspector, file, name, results, overlays)
    summary = f"{len(files) - failed} of {len(files)} samples inspected"
    click.echo(summary + (f", results in {output}" if output else ""), err=True)
    return failed


def _inspect_one(inspector: Inspector, file: Path, name: str, results: Results | None, overlays: bool) -> bool:
    from cmdiad_runtime.errors import InputError
    from cmdiad_runtime.inputs import read_sample
    from cmdiad_runtime.results import draw_overlay

    start = time.perf_counter()
    try:
        sample = read_sample(file, inspector.bundle.preprocessing)
        read_ms = (time.perf_counter() - start) * 1e3
        inspection = inspector.inspect(sample)
    except InputError as error:
        click.echo(f"error: {error}", err=True)
        if results is not None:
            results.add_error(str(file), error)
        return False
    click.echo(f"{inspection.verdict}\t{inspection.score:.6g}\t{file}")
    if results is not None:
        overlay = None
        if overlays:
            picture = draw_overlay(sample, inspection, inspector.bundle.calibration.map_threshold)
            overlay = results.save_overlay(name, picture)
        results.add(inspection, read_ms=read_ms, overlay=overlay)
    return True


def _self_test(bundle: Path, modality: Modality | None, engine: str, output: Path | None) -> None:
    """Run the golden set through the engine on this machine and compare with the certificate's reference."""
    from cmdiad_runtime.certificate import compare, read_golden
    from cmdiad_runtime.errors import CertificateError
    from cmdiad_runtime.files import write_json
    from cmdiad_runtime.inspector import Inspector

    with Inspector.open(bundle, modality=modality, engine=engine) as inspector:  # type: ignore[arg-type]  # click checked it
        tested = inspector.bundle
        golden = read_golden(tested.golden)
        comparison = compare(inspector.engine, tested.precision, golden, tested.calibration, tested.tolerance)
    click.echo(
        f"self-test {'passed' if comparison.passed else 'FAILED'}: {len(golden)} golden samples on "
        f"{comparison.engine}; score within {comparison.score_max_share:.2%} and map within "
        f"{comparison.map_max_share:.2%} of the threshold, {comparison.label_flips} label flips"
    )
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "self-test.json", comparison.to_json())
    if not comparison.passed:
        raise CertificateError(
            bundle,
            found=f"results off by {comparison.score_max_share:.2%} of the threshold on this machine",
            expected="those of the certificate",
            action="export the bundle with --engine fp32, or update the engine's libraries",
        )
