"""`cmdiad-info`: what a bundle or a run directory is, how good, and what it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cmdiad_runtime.cli.each import FIGURE_NAMES
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.modalities import trained_with_text
from cmdiad_runtime.names import PATTERN_TEXTS
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import GroupedCommand, option_group, run_command
from cmdiad_runtime.support.pattern_folder import is_pattern_bundle, is_pattern_run

HELP = """Show what BUNDLE or RUN is: data, figures, threshold, certificate, engines and versions.

The files of a bundle are verified first. Engines and self-tests are those of this machine. Needs no torch, also for a
run directory.
"""

EXAMPLES = ("cmdiad-info cable.cmdiad", "cmdiad-info runs/cable-rgb-f2f", "cmdiad-info cable.cmdiad --json")

EXIT_CODES = {4: "bundle damaged, or neither a bundle nor a run", 7: "run damaged"}


@click.command("cmdiad-info", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
@click.argument("path", metavar="BUNDLE|RUN", type=click.Path(path_type=Path))
@option_group("Output", click.option("--json", "as_json", is_flag=True, help="Print one JSON object."))
def cli(path: Path, as_json: bool) -> None:
    """See HELP."""
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.cli.summaries import (
        summary_of_bundle,
        summary_of_pattern_bundle,
        summary_of_pattern_runs,
        summary_of_run,
    )

    if is_pattern_bundle(path):
        summary = summary_of_pattern_bundle(path)
    elif is_pattern_run(path):
        summary = summary_of_pattern_runs(path)
    elif (path / "run.json").exists() and not (path / "manifest.json").exists():
        summary = summary_of_run(path)
    elif path.suffix == ".cmdiad" or (path / "manifest.json").exists():
        summary = summary_of_bundle(Bundle.open(path))
    else:
        problem = "neither manifest.json nor run.json" if path.is_dir() else "no folder"
        expected = "the folder of a bundle or of a run"
        raise BundleError(path, found=problem, expected=expected, action="check the path")
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    for name, text in _lines(summary):
        click.echo(f"{name:<17} {printable(text)}".rstrip())  # A bundle may come from a stranger.


def main() -> None:
    """Run the command and end the process."""
    run_command(cli, "cmdiad-info")


def _lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the summary as names and texts, in the order of a reader's questions."""
    lines = [(summary["kind"], summary["path"])]
    if "patterns" in summary:
        for pattern, inside in summary["patterns"].items():
            lines += [("", ""), ("samples with", PATTERN_TEXTS[pattern]), *_lines(inside)]
        return lines
    if summary["kind"] == "bundle":
        lines.append(("exported", summary["created"] or "at an unknown time"))
    else:
        unfinished = "" if summary["finished"] else "; unfinished: run the same cmdiad-train command again"
        lines.append(("written", f"{summary['written']}{unfinished}"))
    lines.append(("trained on", _data(summary["data"])))
    lines.append(("test split", _figures(summary["figures"])))
    lines += _detector_lines(summary["detector"], summary["inspects"])
    lines += _threshold_lines(summary)
    lines.append(("envelope", _envelope(summary["envelope"])))
    if summary["kind"] == "bundle":
        lines += _bundle_lines(summary)
    lines.append(("versions", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())))
    return lines


def _detector_lines(detector: dict[str, Any], inspects: dict[str, Any]) -> list[tuple[str, str]]:
    choices = [detector[name] for name in ("family", "mode", "variant", "hallucination") if name in detector]
    parts = "" if detector["parts"] == 1 else f", {detector['parts']} parts"
    return [
        ("detector", ", ".join([detector["modality"], *choices])),
        *[
            ("trained with", trained_with_text(text, detector["modality"]))
            for text in (detector.get("partner"),)
            if text
        ],
        *[(f"{name} extractor", text) for name, text in detector["extractors"].items()],
        ("view", f"{detector['view']}, {detector['size']}×{detector['size']} pixels{parts}"),
        ("inspects", inspects["area"] or "unknown: made by an earlier version"),
        *[("not inspected", text) for text in (inspects["mask"],) if text],
        *[("not checked", text) for text in (inspects["note"],) if text],
        *[("warning", text) for text in (inspects["warning"],) if text],
    ]


def _data(data: dict[str, Any]) -> str:
    counts = [
        f"{data[name]} {text}"
        for name, text in (("train_samples", "training samples"), ("held_out_samples", "held-out samples"))
        if name in data
    ]
    return ", ".join([str(data.get("category") or "unnamed data"), *counts])


def _figures(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "no figures; run cmdiad-bench accuracy on a test split"
    values = [f"{text} {figures[name]:.3f}" for name, text in FIGURE_NAMES.items() if figures.get(name) is not None]
    return ", ".join([*values, f"{figures['samples']} samples, {figures['good']} of them good"])


def _threshold_lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    threshold = summary["threshold"]
    if threshold is None:
        return []
    low, high = threshold["interval"]
    lines = [
        ("deciding score", {"map": "largest value of the map", "image": "image score"}[threshold["verdict"]]),
        ("threshold", f"score {threshold['score_threshold']:.6g}, map {threshold['map_threshold']:.6g}"),
        ("false rejects", f"{_rate(threshold)}; 95 % interval {low:.2%} to {high:.2%} of good parts"),
        ("rests on", f"{threshold['samples']} held-out good samples, {threshold['method']}"),
    ]
    if len(threshold["sessions"]) > 1:
        lines.append(("sessions", ", ".join(f"{part['name']} {part['samples']}" for part in threshold["sessions"])))
    lines += [("warning", doubt) for doubt in threshold["doubts"]]
    exported = summary.get("exported_threshold")
    if exported is not None:
        lines.append(("exported with", f"score {exported['score_threshold']:.6g}, map {exported['map_threshold']:.6g}"))
    return lines


def _rate(threshold: dict[str, Any]) -> str:
    """Return the requested false-reject rate, or what is known of the rate of a threshold that was set otherwise."""
    from cmdiad_runtime.bundle.threshold import is_rate_method

    rate = f"{threshold['false_reject_rate']:.2%}"
    if is_rate_method(threshold["method"]):
        return f"{rate} asked for"
    return f"{rate} of the held-out samples" if threshold["samples"] else "unknown share"


def _envelope(envelope: dict[str, Any] | None) -> str:
    if envelope is None:
        return "none: recording conditions are not checked"
    off = f"; switched off: {', '.join(envelope['off'])}" if envelope["off"] else ""
    return f"{envelope['samples']} samples, stated false-alarm rate {envelope['false_alarm_rate']:.2%}{off}"


def _bundle_lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    certificate, graph = summary["certificate"], summary["graph"]
    banks = "".join(f", bank {rows}×{channels}" for rows, channels in graph["banks"])
    lines = [
        ("graph", f"{graph['precision']}{banks}, {summary['bytes'] / 1e6:.1f} MB in all"),
        ("signature", "present" if summary["signed"] else "none"),
        ("sha256", summary["sha256"]),
    ]
    for compared in certificate["comparisons"]:
        lines.append(
            (
                "certificate",
                f"{compared['precision']} on {compared['engine']}: score within {compared['score_max_share']:.2%} and "
                f"map within {compared['map_max_share']:.2%} of the threshold, {compared['label_flips']} label flips, "
                f"{certificate['samples']} golden samples",
            )
        )
    return lines + [
        ("engine", f"{engine['engine']} ({engine['origin']}): {_tested(engine)}") for engine in summary["engines"]
    ]


def _tested(engine: dict[str, Any]) -> str:
    if engine["self_test"] is not None:
        result = "passed" if engine["self_test"] else "FAILED"
        return f"self-test {result} {engine['self_test_created']} on {engine['self_test_on']}"
    if engine.get("tested_at_each_opening", False):
        return "tested with the golden samples at each opening, because this processor may add int8 products inexactly"
    if engine["certified"]:
        return "certified for processors of this architecture"
    return f"not tested on this machine; run cmdiad-run BUNDLE --self-test --engine {engine['engine']}"
