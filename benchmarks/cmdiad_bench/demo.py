"""Run the whole workflow on synthetic parts through the same commands that a user types.

All results go into one folder; results that exist already are reused.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from cmdiad_runtime.names import MODALITIES
from cmdiad_runtime.support.files import write_json

CATEGORY = "gear"
HALLUCINATIONS = ("none", "f2f")
LATENCY_SECONDS = "6"
PARTS: tuple[str, ...] = ()
"""Options of the data set; none for the default size."""
# The demo must finish within minutes: it uses half as many patches as usual and keeps a tenth of them in its banks.
SMALL = ("--extractor", "small", "--size", "224", "--rgb-grid", "28", "--coreset", "0.1")
EXTRACTOR_NOTE = (
    "The demo's extractors are small networks that ship with the package, trained on procedurally generated images: "
    "nothing is downloaded. They show the whole workflow; for real parts use a backbone trained on photographs."
)


def main() -> None:
    """Run the demo; entry point of scripts/demo (`python -m cmdiad_bench.demo FOLDER`)."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    data = folder / "data"
    _run("cmdiad-data", "synthesize", data, "--category", CATEGORY, *PARTS)
    rows = [_one_detector(folder, data, m, h) for m in MODALITIES for h in HALLUCINATIONS]
    overlays = {modality: str(_inspect(folder, data, modality)) for modality in MODALITIES}
    seconds = time.monotonic() - start
    summary = {"note": EXTRACTOR_NOTE, "seconds": round(seconds, 1), "rows": rows, "overlays": overlays}
    write_json(folder / "summary.json", summary)
    _print_summary(summary, folder)


def _one_detector(folder: Path, data: Path, modality: str, hallucination: str) -> dict[str, Any]:
    """Train, export and measure one detector. Return one row of the table."""
    name = f"{CATEGORY}-{modality}-{hallucination}"
    run, bundle = folder / "runs" / name, folder / "bundles" / f"{name}.cmdiad"
    accuracy, latency = folder / f"accuracy-{name}.json", folder / f"latency-{name}.json"
    options = ("--category", CATEGORY, "--modality", modality, "--hallucination", hallucination)
    _run("cmdiad-train", data, *options, *SMALL, "--out", run)
    if not bundle.exists():
        bundle.parent.mkdir(exist_ok=True)
        _run("cmdiad-export", run, "--precision", "fp16", "--out", bundle)
    if not accuracy.exists():
        _run("cmdiad-bench", "accuracy", bundle, data, "--category", CATEGORY, "--json", accuracy)
    if not latency.exists():
        inputs = data / CATEGORY / "test"
        _run("cmdiad-bench", "latency", bundle, inputs, "--seconds", LATENCY_SECONDS, "--json", latency)
    return _row(modality, hallucination, _read(run / "run.json"), _read(accuracy), _read(latency))


def _inspect(folder: Path, data: Path, modality: str) -> Path:
    """Inspect the test samples with the hallucinating detector of one modality. Return the folder of overlays."""
    out = folder / f"inspected-{modality}"
    if not out.exists():
        unfinished = out.with_name(f"{out.name}.unfinished")  # What an interrupted demo has left, or nothing.
        shutil.rmtree(unfinished, ignore_errors=True)
        bundle = folder / "bundles" / f"{CATEGORY}-{modality}-f2f.cmdiad"
        inputs = data / CATEGORY / "test"
        _run("cmdiad-run", bundle, inputs, "--modality", modality, "--output", unfinished, quiet=True)
        unfinished.rename(out)
    return out / "overlays"


def _run(*command: str | Path, quiet: bool = False) -> None:
    words = [str(word) for word in command]
    click.secho(f"$ {shlex.join(words)}", bold=True, err=True)
    program = Path(sys.executable).with_name(words[0])
    result = subprocess.run(  # noqa: S603  (our own commands, no shell)
        [str(program), *words[1:]], check=False, stdout=subprocess.DEVNULL if quiet else sys.stderr
    )
    if result.returncode:
        sys.exit(result.returncode)


def _row(
    modality: str, hallucination: str, run: dict[str, Any], accuracy: dict[str, Any], latency: dict[str, Any]
) -> dict[str, Any]:
    return {
        "modality": modality,
        "hallucination": hallucination,
        "precision": accuracy["precision"],
        "engine": accuracy["engine"],
        "image_auroc": accuracy["image_auroc"],
        "pixel_auroc": accuracy["pixel_auroc"],
        "aupro_30": accuracy["aupro_30"],
        "image_auroc_by_defect": accuracy["image_auroc_by_defect"],
        "false_rejects": accuracy["false_rejects"],
        "missed_defects": accuracy["missed_defects"],
        "latency_ms_p50": latency["total_ms"]["p50"],
        "latency_ms_p95": latency["total_ms"]["p95"],
        "latency_runs": latency["runs"],
        "extractors": {name: value["extractor"] for name, value in run["provenance"].items()},
        "seed": run["seed"],
    }


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
    rows = summary["rows"]
    click.echo(f"\n{CATEGORY}, synthetic, inspected with one sensor ({rows[0]['precision']}, {rows[0]['engine']})\n")
    click.echo(
        f"{'sensor':<8}{'hallucinates':<14}{'image AUROC':>12}{'pixel AUROC':>12}{'AUPRO@30%':>11}"
        f"{'p50 ms':>9}{'p95 ms':>9}"
    )
    for row in rows:
        other = {"rgb": "xyz", "xyz": "rgb"}[row["modality"]] if row["hallucination"] != "none" else "–"
        click.echo(
            f"{row['modality']:<8}{other:<14}{row['image_auroc']:>12.3f}{row['pixel_auroc']:>12.3f}"
            f"{row['aupro_30']:>11.3f}{row['latency_ms_p50']:>9.1f}{row['latency_ms_p95']:>9.1f}"
        )
    click.echo(f"\n{summary['note']}")
    for modality, overlays in summary["overlays"].items():
        click.echo(f"heatmaps, {modality} alone: {overlays}")
    click.echo(f"figures: {folder / 'summary.json'}   ({summary['seconds']:.0f} s)")


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


if __name__ == "__main__":
    main()
