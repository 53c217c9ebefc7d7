"""`cmdiad-run`: inspect samples with one modality and a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmdiad_runtime.cli.threshold import POSITIVE, RATE, finite
from cmdiad_runtime.engines import ENGINE_NAMES
from cmdiad_runtime.envelope.names import CHECKS, FROZEN_AFTER
from cmdiad_runtime.names import SENSORS
from cmdiad_runtime.support.command_line import GroupedCommand, option_group, run_command

if TYPE_CHECKING:
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.bundle.self_test import SelfTest
    from cmdiad_runtime.engines import EngineName
    from cmdiad_runtime.inspection.open_options import OpenOptions
    from cmdiad_runtime.inspection.pipeline import InspectedSource
    from cmdiad_runtime.inspection.results import Results
    from cmdiad_runtime.names import Sensors

SOME_FAILED = 3

HELP = """Inspect INPUT files (or folders of them) with a bundle and print verdict, score and file for each.

If the first path is no bundle, the newest one in ./bundles is used, and the name of that bundle is printed. Without
INPUT the golden samples in the bundle are inspected, which tests this machine. With --self-test the result is also
written next to the bundle's engines, or into the cache folder if the bundle is read-only. An engine other than cpu
gives verdicts only on a kind of device on which the engine has passed the self-test.
"""

EXAMPLES = (
    "cmdiad-run cable.cmdiad photos/ --output results/",
    "# stricter for this run, with an engine that was built on this device",
    "cmdiad-run cable.cmdiad photos/ --false-reject-rate 0.1 --engine tensorrt",
    "# test this machine and keep the result",
    "cmdiad-run cable.cmdiad --self-test --engine tensorrt",
)

EXIT_CODES = {
    0: "all samples inspected, whatever the verdicts",
    3: "some samples could not be inspected",
    4: "bundle unusable",
    5: "engine unusable",
    6: "output not writable",
    8: "self-test failed",
}


@click.command("cmdiad-run", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("paths", nargs=-1, metavar="[BUNDLE] [INPUT]...", type=click.Path(path_type=Path))
@option_group(
    "Bundle",
    click.option(
        "--modality",
        type=click.Choice(SENSORS),
        help="Required modality; a bundle for another one is refused.  [default: modality of the bundle]",
    ),
    click.option(
        "--require-signature",
        metavar="KEY",
        type=click.Path(path_type=Path),
        help="Public key whose owner must have signed the bundle (cmdiad-sign).  [default: no signature required]",
    ),
)
@option_group(
    "Engine",
    click.option(
        "--engine",
        type=click.Choice(ENGINE_NAMES),
        default="cpu",
        help="Engine that runs the graph. cpu, cuda, ort-tensorrt, ort-rtx: ONNX Runtime with exactly this provider. "
        "tensorrt, rtx: an engine built with cmdiad-build. auto: the fastest engine that fits and has passed the "
        "self-test, else cpu.",
    ),
    click.option("--rebuild", is_flag=True, help="Build a tensorrt or rtx engine if none fits this device."),
    click.option("--self-test", is_flag=True, help="Repeat the certificate on this device and keep the result."),
)
@option_group(
    "Decision",
    click.option(
        "--threshold",
        type=POSITIVE,
        callback=finite,
        help="Raw score above which a sample is NG in this run.  [default: threshold of the bundle]",
    ),
    click.option(
        "--false-reject-rate",
        type=RATE,
        callback=finite,
        help="Recompute both thresholds for this false-reject rate from the held-out scores stored in the bundle, for "
        "this run.",
    ),
)
@option_group(
    "Recording conditions",
    click.option(
        "--ignore-check",
        "ignore_checks",
        metavar="NAME",
        type=click.Choice(CHECKS),
        multiple=True,
        help="Switch a check of the recording conditions off for this run, by the reason in the results, for example "
        "exposure; may be repeated.  [default: all checks of the bundle]",
    ),
    click.option(
        "--frozen-after",
        metavar="N",
        type=click.IntRange(min=2),
        default=FROZEN_AFTER,
        help="Number of identical frames in a row that makes a sample NG.",
    ),
)
@option_group(
    "Output",
    click.option(
        "--output",
        type=click.Path(path_type=Path),
        help="Folder for results.jsonl and overlays/.  [default: nothing is written]",
    ),
    click.option("--overlays/--no-overlays", default=True, help="Write heatmap pictures into the output folder."),
)
def cli(  # noqa: PLR0913 - one parameter for each option
    paths: tuple[Path, ...],
    modality: Sensors | None,
    require_signature: Path | None,
    engine: EngineName,
    rebuild: bool,
    self_test: bool,
    threshold: float | None,
    false_reject_rate: float | None,
    ignore_checks: tuple[str, ...],
    frozen_after: int,
    output: Path | None,
    overlays: bool,
) -> int:
    """See HELP."""
    bundle, inputs = _bundle_and_inputs(paths, modality, named=require_signature is not None)
    if self_test and inputs:
        raise click.UsageError("--self-test inspects the bundle's own golden samples: leave INPUT out")
    if threshold is not None and false_reject_rate is not None:
        raise click.UsageError("pass --threshold or --false-reject-rate, not both")
    if not inputs and (threshold or false_reject_rate):
        raise click.UsageError("a threshold decides about INPUT; the self-test keeps that of the certificate")
    from cmdiad_runtime.inspection.open_options import OpenOptions

    options = OpenOptions(
        modality=modality,
        engine=engine,
        rebuild=rebuild,
        threshold=threshold,
        false_reject_rate=false_reject_rate,
        ignore_checks=ignore_checks,
        frozen_after=frozen_after,
        require_signature=require_signature,
    )
    if not inputs:
        _self_test(bundle, options, output, keep=self_test)
        return 0
    return SOME_FAILED if _inspect_all(bundle, inputs, options, output, overlays) else 0


def main() -> None:
    """Run the command and end the process."""
    run_command(cli, "cmdiad-run")


def _bundle_and_inputs(
    paths: tuple[Path, ...], modality: Sensors | None, *, named: bool
) -> tuple[Path, tuple[Path, ...]]:
    if paths and ((paths[0] / "manifest.json").exists() or paths[0].suffix == ".cmdiad"):
        return paths[0], paths[1:]
    if named:  # the search for the newest bundle reads manifests whose signatures have not been verified
        raise click.UsageError("name the BUNDLE: --require-signature does not choose one")
    from cmdiad_runtime.support.newest import BUNDLES, newest_bundle

    bundle = newest_bundle(BUNDLES, modality)
    click.echo(f"bundle: {bundle} (the newest)", err=True)
    return bundle, paths


def _inspect_all(
    bundle: Path, inputs: tuple[Path, ...], options: OpenOptions, output: Path | None, overlays: bool
) -> int:
    """Inspect the inputs in order and return the number of inputs that could not be inspected."""
    from contextlib import closing, nullcontext

    from cmdiad_runtime.inspection.inputs import list_inputs, output_names
    from cmdiad_runtime.inspection.inspector import Inspector
    from cmdiad_runtime.inspection.pipeline import inspect_stream
    from cmdiad_runtime.inspection.results import open_results

    failed = 0
    # Earlier results are replaced only after the bundle and the inputs have been found.
    with Inspector.open(bundle, options) as inspector:
        _report_checks(inspector.bundle)
        files = list_inputs(inputs, inspector.bundle.preprocessing.modality)
        with (
            open_results(output) if output else nullcontext() as results,
            closing(inspect_stream(inspector, files)) as stream,
        ):
            for inspected, name in zip(stream, output_names(files), strict=True):
                failed += not _report(inspected, results, name if overlays else None)
    summary = f"{len(files) - failed} of {len(files)} samples inspected"
    click.echo(summary + (f", results in {output}" if output else ""), err=True)
    return failed


def _report_checks(bundle: Bundle) -> None:
    """Print which checks of the recording conditions are not made."""
    if bundle.record.envelope is None:
        click.echo(
            "note: the bundle has no envelope, so pictures unlike the training samples are scored without a word. "
            "Train and export again with this version.",
            err=True,
        )
    elif bundle.skipped_checks:
        click.echo(f"checks switched off: {', '.join(bundle.skipped_checks)}", err=True)


def _report(inspected: InspectedSource, results: Results | None, overlay: str | None) -> bool:
    """Print and store one result; return False if the sample could not be inspected.

    Args:
        inspected: File with its result.
        results: Results folder, or None.
        overlay: Name of the heatmap picture without suffix, or None for no picture.
    """
    inspection = inspected.inspection
    if results is not None:
        path = None if overlay is None else results.save_overlay(overlay, inspection.overlay())
        results.add(inspection, read_ms=inspected.read_ms, overlay=path)
    score = f"{inspection.score:.6g}" if inspection.inspected else "-"
    click.echo(f"{inspection.verdict}\t{score}\t{inspected.source}")
    if inspection.reason not in (None, "score"):
        click.echo(f"{inspection.reason}: {inspection.message}", err=True)
    return inspection.inspected


def _self_test(path: Path, options: OpenOptions, output: Path | None, *, keep: bool) -> None:
    """Run the golden set through the engine on this machine and compare with the certificate's reference."""
    from cmdiad_runtime.bundle.engine_selection import choose_engine
    from cmdiad_runtime.bundle.self_test import run_self_test, write_self_test
    from cmdiad_runtime.inspection.inspector import open_bundle
    from cmdiad_runtime.support.files import write_json
    from cmdiad_runtime.support.progress import TerminalReporter

    bundle = open_bundle(path, options)
    chosen = choose_engine(bundle, options.engine, rebuild=options.rebuild, untested=True, reporter=TerminalReporter())
    try:
        test = run_self_test(bundle, chosen.engine, chosen.name, chosen.file_sha256)
    finally:
        chosen.engine.close()
    _print_self_test(test)
    if keep:
        click.echo(f"result: {write_self_test(bundle, test)}", err=True)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "self-test.json", test.comparison.to_json())
    _require_passed(path, test)


def _print_self_test(test: SelfTest) -> None:
    comparison = test.comparison
    click.echo(
        f"self-test {'passed' if comparison.passed else 'FAILED'}: {test.samples} golden samples on "
        f"{comparison.engine}; score within {comparison.score_max_share:.2%} and map within "
        f"{comparison.map_max_share:.2%} of the threshold, {comparison.label_flips} label flips"
    )


def _require_passed(path: Path, test: SelfTest) -> None:
    from cmdiad_runtime.errors import CertificateError

    if not test.comparison.passed:
        raise CertificateError(
            path,
            found=f"results that differ by {test.comparison.score_max_share:.2%} of the threshold on this machine",
            expected="those of the certificate",
            action="export the bundle with --engine fp32, or update the engine's libraries",
        )
