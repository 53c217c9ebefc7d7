"""Write the evaluation report: one page for people and one JSON file with the same figures."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cmdiad_bench.accuracy import Inspected, figures, inspect_test_split
from cmdiad_bench.report.comparison import name_bundles
from cmdiad_bench.report.galleries import choose_galleries, draw_rows
from cmdiad_bench.report.page import Section, render
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.integrity import MANIFEST
from cmdiad_runtime.cli.threshold_text import in_shell, warnings_about
from cmdiad_runtime.engines import EngineName
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.preprocess.inspected_area.records import doubt
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.files import atomic_write, make_folder, sha256_of, write_json
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import GOOD, open_category
from cmdiad_train.evaluation.bootstrap import LEVEL, RESAMPLES
from cmdiad_train.evaluation.evaluate import PRO_LIMITS, mean_over_classes
from cmdiad_train.evaluation.metrics import pro_curve, roc_curve
from cmdiad_train.evaluation.weakness import weakness

FORMAT = "cmdiad-report"
FORMAT_VERSION = 1
_CURVE_POINTS = 200


@dataclass(frozen=True)
class ReportOptions:
    """Settings of a report.

    Attributes:
        category: Category to inspect instead of the one that the bundle names; None takes the bundle's.
        engine: Engine that runs the bundles.
        command: Command line, for the record.
    """

    category: str | None = None
    engine: EngineName = "cpu"
    command: str = ""


def write_report(
    data: Path, bundles: Sequence[Path], out: Path, options: ReportOptions, reporter: Reporter
) -> dict[str, Any]:
    """Inspect the test split of each bundle's category and write `out/report.json` and `out/report.html`.

    Both files are complete before either is written; existing files are replaced.

    Args:
        data: Data set in one of the layouts of `cmdiad_train.datasets`.
        bundles: One or more bundles; each names its category.
        out: Output folder; created if absent.
        options: Category, engine and command line.
        reporter: Receiver of the progress of each bundle.

    Returns:
        Contents of `report.json`.

    Raises:
        BundleError: A bundle is damaged.
        RunError: No sample of one kind can be scored although there are samples of this kind.
        OutputError: `out` lies among the samples or cannot be written.
    """
    categories = _check_inputs(data, bundles, options.category, out)
    make_folder(out, expected="a writable folder for the report", action="choose another --out")
    sections = [
        _inspect(data, bundle, options, reporter, compared=categories.count(category) > 1)
        for bundle, category in zip(bundles, categories, strict=True)
    ]
    names = name_bundles([section.record for section in sections], bundles)
    for section, name in zip(sections, names, strict=True):
        section.record["name"] = name
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": options.command,
        "data": printable(data),
        "versions": {package: version(package) for package in ("cmdiad", "numpy", "scipy", "pillow")},
        "intervals": {"level": LEVEL, "resamples": RESAMPLES, "method": "percentile bootstrap over samples"},
        "mean": _mean([section.record for section in sections]),
        "classes": [section.record for section in sections],
    }
    page = render(record, sections)
    write_json(out / "report.json", record)
    with atomic_write(out / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    return record


def _check_inputs(data: Path, bundles: Sequence[Path], category: str | None, out: Path) -> list[str]:
    """Open every bundle and find its data before the first bundle runs. Return the name of each bundle's category."""
    opened = [open_category(data, _category_of(Bundle.open(path), category)) for path in bundles]
    for one in opened:
        one.require_outside(out, "a folder outside of the samples")
    return [one.name for one in opened]


def _category_of(bundle: Bundle, category: str | None) -> str | None:
    return category or bundle.record.provenance.category


def _inspect(data: Path, path: Path, options: ReportOptions, reporter: Reporter, *, compared: bool) -> Section:
    """Inspect the test split with one bundle. The maps stay in memory only for a comparison with other bundles."""
    with Inspector.open(path, OpenOptions(engine=options.engine, frozen_after=0)) as inspector:
        category = _category_of(inspector.bundle, options.category)
        inspected = inspect_test_split(inspector, data, category, reporter)
        for line in inspected.outcomes.lines():
            reporter.say(line)
        measured = figures(inspector, inspected)
    bundle = inspector.bundle
    return Section(
        record=_record(bundle, inspected, measured),
        galleries=choose_galleries(bundle, inspected),
        draw=partial(draw_rows, bundle, inspected) if compared else None,
    )


def _record(bundle: Bundle, inspected: Inspected, measured: dict[str, Any]) -> dict[str, Any]:
    """Return the record of one class: the figures of `cmdiad-bench accuracy` and the data behind them."""
    record, calibration, ignored = bundle.record, bundle.calibration, bundle.preprocessing.ignored
    remedy = f"cmdiad-threshold {in_shell(bundle.path)} --good DIR"
    return {
        **measured,
        "parts": bundle.preprocessing.parts,
        "ignored_share": 0.0 if ignored is None else ignored.share,
        "warning": "" if record.inspected_area is None else doubt(record.inspected_area),
        "weakness": weakness(measured),
        "bundle_sha256": sha256_of(bundle.path / MANIFEST),
        "created": record.created,
        "recipe": record.recipe,
        "provenance": record.provenance.to_json(),
        "calibration": calibration.to_json(),
        "threshold_warnings": [*warnings_about(calibration, remedy), *bundle.training_doubts],
        "sessions": _sessions(calibration),
        "versions": record.versions,
        "defects": _by_defect(inspected, measured["image_auroc_by_defect"]),
        "held_out_scores": list(calibration.held_out_scores) or None,
        "per_sample": _per_sample(inspected),
        "curves": _curves(inspected),
    }


def _sessions(calibration: Calibration) -> list[dict[str, Any]]:
    """Return number and range of the held-out scores of each session, and the number above the threshold."""
    return [
        {
            "name": part.session.name,
            "samples": len(part.scores),
            "lowest": min(part.scores),
            "highest": max(part.scores),
            "above": sum(score > calibration.score_threshold for score in part.scores),
        }
        for part in calibration.by_session
    ]


def _by_defect(inspected: Inspected, aurocs: dict[str, float]) -> list[dict[str, Any]]:
    defects, known = inspected.outcomes.defects, inspected.outcomes.known
    verdicts = [verdict for verdict in inspected.verdicts if verdict.defect != GOOD]
    return [
        {
            "defect": defect,
            "samples": sum(verdict.defect == defect for verdict in verdicts),
            "without_mask": int((~known & (defects == defect)).sum()),
            "missed": sum(verdict.defect == defect and not verdict.rejected for verdict in verdicts),
            "image_auroc": aurocs.get(defect),
        }
        for defect in sorted({verdict.defect for verdict in verdicts})
    ]


def _per_sample(inspected: Inspected) -> list[dict[str, Any]]:
    """Return one entry for each sample of the split; score and map of a sample that cannot be scored are None."""
    outcomes = inspected.outcomes
    scored = {printable(files.name): i for i, files in enumerate(outcomes.files)}
    return [
        {
            "name": verdict.name,
            "defect": verdict.defect,
            "score": None if i is None else float(outcomes.scores[i]),
            "verdict": "NG" if verdict.rejected else "OK",
            "reason": verdict.reason,
            "message": verdict.message,
            "inspected": verdict.inspected,
            "correct": verdict.rejected == (verdict.defect != GOOD),
            "map_max": None if i is None else float(outcomes.maps[i].max()),
            "has_mask": i is not None and bool(outcomes.known[i]) and verdict.defect != GOOD,
        }
        for verdict in inspected.verdicts
        for i in [scored.get(verdict.name)]
    ]


def _curves(inspected: Inspected) -> dict[str, Any]:
    """Return the ROC curve of the images, and the PRO curve up to its largest limit at 200 rates, denser near 0."""
    outcomes = inspected.outcomes
    curves: dict[str, Any] = {"roc": None, "pro": None}
    if outcomes.shows_figures:
        fpr, tpr = roc_curve(*outcomes.labelled_scores)
        curves["roc"] = {"fpr": fpr.tolist(), "tpr": tpr.tolist()}
    masks = outcomes.masks[outcomes.known]
    if masks.any() and not masks.all():
        rates = max(PRO_LIMITS.values()) * np.linspace(0, 1, _CURVE_POINTS) ** 2
        overlap = np.interp(rates, *pro_curve(masks, outcomes.maps[outcomes.known]))
        curves["pro"] = {"fpr": rates.tolist(), "pro": overlap.tolist()}
    return curves


def _mean(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the mean over classes, or None if one class occurs twice, as in a comparison of detectors."""
    if len({record["category"] for record in records}) < len(records):
        return None
    return mean_over_classes(records)
