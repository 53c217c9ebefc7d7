"""`cmdiad-run`: inspect samples with one modality and a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmdiad_runtime.cli.threshold import POSITIVE, RATE, finite
from cmdiad_runtime.engines import ENGINE_NAMES
from cmdiad_runtime.support.command_line import run_command

if TYPE_CHECKING:
    from cmdiad_runtime.engines import EngineName
    from cmdiad_runtime.inspection.inspector import Inspector
    from cmdiad_runtime.inspection.pipeline import Outcome
    from cmdiad_runtime.inspection.results import Results
    from cmdiad_runtime.sample import Sensors

SOME_FAILED = 3

HELP = """Inspect INPUT files (or folders of them) with a bundle and print a verdict for each.

The first path is the bundle if it is one; otherwise the newest bundle under ./bundles is taken, and named.
Without any INPUT the golden samples kept in the bundle are inspected: a self-test of this machine. With --self-test
the result is also written beside the bundle's engines (in the cache folder where the bundle is read-only); an engine
other than `cpu` gives verdicts only on a kind of device where it has passed that.

\b
--engine cpu, cuda, ort-tensorrt, ort-rtx   the graph in ONNX Runtime, with that provider and no other
--engine tensorrt, rtx                      an engine that TensorRT or TensorRT-RTX built (cmdiad-build)
--engine auto                               the fastest of them that fits and has passed its self-test, else cpu

\b
Exit codes: 0 all samples inspected (whatever the verdicts), 2 wrong command line, 3 some samples could not be
inspected, 4 bundle unusable, 5 engine unusable, 6 output not writable, 8 self-test failed, 130 interrupted.
"""


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, metavar="[BUNDLE] [INPUT]...", type=click.Path(path_type=Path))
@click.option("--modality", type=click.Choice(["rgb", "xyz", "both"]), help="The sensors at hand.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for results.jsonl and overlays/.")
@click.option(
    "--engine", type=click.Choice(ENGINE_NAMES), default="cpu", show_default=True, help="What runs the graph."
)
@click.option("--threshold", type=POSITIVE, callback=finite, help="A raw score; samples above it are NG in this run.")
@click.option(
    "--false-reject-rate", type=RATE, callback=finite, help="Thresholds for it, from the bundle's held-out scores."
)
@click.option("--self-test", is_flag=True, help="Repeat the certificate on this device and keep the result.")
@click.option("--rebuild", is_flag=True, help="Build a tensorrt or rtx engine again where none fits this device.")
@click.option(
    "--require-signature",
    metavar="KEY",
    type=click.Path(path_type=Path),
    help="Public key; a bundle that its owner has not signed (cmdiad-sign) is refused.",
)
@click.option("--overlays/--no-overlays", default=True, show_default=True, help="Write heatmap pictures.")
def cli(
    paths: tuple[Path, ...],
    modality: Sensors | None,
    output: Path | None,
    engine: EngineName,
    threshold: float | None,
    false_reject_rate: float | None,
    self_test: bool,
    rebuild: bool,
    require_signature: Path | None,
    overlays: bool,
) -> int:
    """See HELP."""
    bundle, inputs = _bundle_and_inputs(paths, modality, named=require_signature is not None)
    if self_test and inputs:
        raise click.UsageError("--self-test inspects the bundle's own golden samples: leave INPUT out")
    if threshold is not None and false_reject_rate is not None:
        raise click.UsageError("give --threshold or --false-reject-rate, not both")
    if not inputs and (threshold or false_reject_rate):
        raise click.UsageError("a threshold decides about INPUT; the self-test keeps that of the certificate")
    if not inputs:
        _self_test(bundle, modality, engine, output, require_signature, rebuild=rebuild, keep=self_test)
        return 0
    failed = _inspect_all(
        bundle, inputs, modality, engine, rebuild, output, overlays, threshold, false_reject_rate, require_signature
    )
    return SOME_FAILED if failed else 0


def main() -> None:
    """Entry point."""
    run_command(cli, "cmdiad-run")


def _bundle_and_inputs(
    paths: tuple[Path, ...], modality: Sensors | None, *, named: bool
) -> tuple[Path, tuple[Path, ...]]:
    if paths and ((paths[0] / "manifest.json").exists() or paths[0].suffix == ".cmdiad"):
        return paths[0], paths[1:]
    if named:  # choosing the newest would read manifests whose signatures nobody has checked
        raise click.UsageError("name the BUNDLE: --require-signature does not choose one")
    from cmdiad_runtime.support.newest import BUNDLES, newest_bundle

    bundle = newest_bundle(BUNDLES, modality)
    click.echo(f"bundle: {bundle} (the newest)", err=True)
    return bundle, paths


def _inspect_all(
    bundle: Path,
    inputs: tuple[Path, ...],
    modality: Sensors | None,
    engine: EngineName,
    rebuild: bool,
    output: Path | None,
    overlays: bool,
    threshold: float | None,
    false_reject_rate: float | None,
    require_signature: Path | None,
) -> int:
    """Inspect the inputs in order; return how many could not be."""
    from contextlib import closing, nullcontext

    from cmdiad_runtime.inspection.inputs import list_inputs, output_names
    from cmdiad_runtime.inspection.inspector import Inspector
    from cmdiad_runtime.inspection.pipeline import inspect_stream
    from cmdiad_runtime.inspection.results import open_results

    failed = 0
    # Earlier results are replaced only once bundle and inputs have turned out to be there.
    with Inspector.open(
        bundle,
        modality=modality,
        engine=engine,
        rebuild=rebuild,
        threshold=threshold,
        false_reject_rate=false_reject_rate,
        require_signature=require_signature,
    ) as inspector:
        files = list_inputs(inputs, inspector.bundle.preprocessing.modality)
        with (
            open_results(output) if output else nullcontext() as results,
            closing(inspect_stream(inspector, files)) as outcomes,
        ):
            for outcome, file, name in zip(outcomes, files, output_names(files), strict=True):
                failed += not _report(inspector, outcome, file, name, results, overlays)
    summary = f"{len(files) - failed} of {len(files)} samples inspected"
    click.echo(summary + (f", results in {output}" if output else ""), err=True)
    return failed


def _report(
    inspector: Inspector, outcome: Outcome, file: Path, name: str, results: Results | None, overlays: bool
) -> bool:
    from cmdiad_runtime.errors import InputError
    from cmdiad_runtime.inspection.results import draw_overlay

    if isinstance(outcome.result, InputError):
        click.echo(f"error: {outcome.result}", err=True)
        if results is not None:
            results.add_error(str(file), outcome.result)
        return False
    sample, inspection = outcome.result
    click.echo(f"{inspection.verdict}\t{inspection.score:.6g}\t{file}")
    if results is not None:
        overlay = None
        if overlays:
            picture = draw_overlay(sample, inspection, inspector.bundle.calibration.map_threshold)
            overlay = results.save_overlay(name, picture)
        results.add(inspection, read_ms=outcome.read_ms, overlay=overlay)
    return True


def _self_test(
    path: Path,
    modality: Sensors | None,
    engine: EngineName,
    output: Path | None,
    require_signature: Path | None,
    *,
    rebuild: bool,
    keep: bool,
) -> None:
    """Run the golden set through the engine on this machine and compare with the certificate's reference."""
    from cmdiad_runtime.bundle.engine_selection import choose_engine
    from cmdiad_runtime.bundle.self_test import run_self_test, write_self_test
    from cmdiad_runtime.errors import CertificateError
    from cmdiad_runtime.inspection.inspector import open_bundle
    from cmdiad_runtime.support.files import write_json
    from cmdiad_runtime.support.progress import Progress

    bundle = open_bundle(path, modality, require_signature)
    chosen = choose_engine(bundle, engine, rebuild=rebuild, untested=True, reporter=Progress())
    try:
        test = run_self_test(bundle, chosen.engine, chosen.name, chosen.file_sha256)
    finally:
        chosen.engine.close()
    comparison = test.comparison
    click.echo(
        f"self-test {'passed' if comparison.passed else 'FAILED'}: {test.samples} golden samples on "
        f"{comparison.engine}; score within {comparison.score_max_share:.2%} and map within "
        f"{comparison.map_max_share:.2%} of the threshold, {comparison.label_flips} label flips"
    )
    if keep:
        click.echo(f"result: {write_self_test(bundle, test)}", err=True)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "self-test.json", comparison.to_json())
    if not comparison.passed:
        raise CertificateError(
            path,
            found=f"results off by {comparison.score_max_share:.2%} of the threshold on this machine",
            expected="those of the certificate",
            action="export the bundle with --engine fp32, or update the engine's libraries",
        )
