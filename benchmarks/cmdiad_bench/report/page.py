"""Render the page of a report from its record and pictures with `report.html.jinja`; the page is self-contained."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cmdiad_bench.detector import settings_as_text
from cmdiad_bench.report.comparison import Comparison, compare, scores_of
from cmdiad_bench.report.figures import Scores, pro_figure, roc_figure, score_figure
from cmdiad_bench.report.galleries import OPEN, Gallery, Row
from cmdiad_bench.report.pictures import draw_legend
from cmdiad_bench.templates import templates_in
from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.threshold import is_rate_based
from cmdiad_runtime.modalities import sensor_text
from cmdiad_runtime.support.score_text import score_texts
from cmdiad_runtime.support.share_text import share_text
from cmdiad_train.evaluation.evaluate import PRO_LIMITS

COLUMNS = (
    ("image_auroc", "Image AUROC"),
    ("pixel_auroc", "Pixel AUROC"),
    ("aupro_30", "AUPRO 30 %"),
    ("aupro_10", "AUPRO 10 %"),
    ("aupro_5", "AUPRO 5 %"),
    ("aupro_1", "AUPRO 1 %"),
)
SENSORS = {"rgb": "camera alone", "xyz": "3D sensor alone", "both": "camera and 3D sensor"}


@dataclass(frozen=True)
class Section:
    """One bundle on one class.

    Attributes:
        record: Entry of `classes` in `report.json`.
        galleries: Samples with pictures.
        draw: Function that draws samples by name; None if no other bundle has the same class.
    """

    record: dict[str, Any]
    galleries: list[Gallery]
    draw: Callable[[Sequence[str]], list[Row | None]] | None = None


def render(record: dict[str, Any], sections: Sequence[Section]) -> str:
    """Return the page as HTML text without scripts or external files. All data is escaped.

    Args:
        record: Contents of `report.json`.
        sections: Sections of the page, in order.
    """
    environment = templates_in(Path(__file__).parent)
    environment.filters |= {"figure": _figure, "interval": _interval}
    comparisons = compare([section.record for section in sections])
    compared = {comparison.category for comparison in comparisons}
    return environment.get_template("report.html.jinja").render(
        report=record,
        classes=[_view(section, compared) for section in sections],
        comparisons=[_view_comparison(comparison, sections) for comparison in comparisons],
        columns=[
            (key, title) for key, title in COLUMNS if any(section.record[key] is not None for section in sections)
        ],
        shows_good=any(section.record["good"] for section in sections),
        legend=draw_legend(),
        opened=OPEN,
    )


def _view_comparison(comparison: Comparison, sections: Sequence[Section]) -> dict[str, Any]:
    """Return the values that the template shows for the bundles of one class next to each other."""
    drawn = [
        section.draw(comparison.pictured)
        for section in sections
        if section.draw is not None and section.record["category"] == comparison.category
    ]
    return {
        "category": comparison.category,
        "names": comparison.names,
        "samples": comparison.samples,
        "misjudged": comparison.misjudged,
        "chart": Markup(comparison.chart),  # noqa: S704  (numbers, and names that are escaped there)
        "pictured": [
            (name, list(zip(comparison.names, rows, strict=True)))
            for name, rows in zip(comparison.pictured, zip(*drawn, strict=True), strict=True)
        ],
    }


def _view(section: Section, compared: Container[str]) -> dict[str, Any]:
    """Return the values that the template shows for one bundle on one class."""
    record = section.record
    sensor = SENSORS.get(record["modality"]) or f"{sensor_text(record['modality'])} alone"
    category = record["category"]
    return {
        "record": record,
        "title": f"{category}: {record['name']}" if category in compared else category,
        "compared": category in compared,
        "sensor": sensor,
        "defects": record["samples"] - record["good"],
        "ranked": any(row["image_auroc"] is not None for row in record["defects"]),
        "charts": _charts(record),
        "threshold": _threshold(record["calibration"]),
        "sessions": _sessions(record),
        "facts": _facts(record, sensor),
        "not_inspected": [sample for sample in record["per_sample"] if sample["score"] is None],
        "reasons": list({**record["reasons"]["defects"], **record["reasons"]["good"]}),
        "samples": [
            (sample, "none" if sample["score"] is None else score_texts(sample["score"], record["threshold"])[0])
            for sample in sorted(record["per_sample"], key=_rank, reverse=True)
        ],
        "galleries": section.galleries,
    }


def _rank(sample: dict[str, Any]) -> float:
    """Return the score of a sample; samples without a score come first."""
    return float("inf") if sample["score"] is None else float(sample["score"])


def _charts(record: dict[str, Any]) -> list[tuple[str, Markup]]:
    """Return titles and drawings. The drawings contain no text from the data."""
    held_out = record["held_out_scores"] or []
    kinds = [
        Scores("Held out, good", "held", held_out, True),
        Scores("Good", "good", scores_of(record, good=True), True),
        Scores("Defects", "defect", scores_of(record, good=False), False),
    ]
    rows = [row for row in kinds if row.values]
    roc, pro = record["curves"]["roc"], record["curves"]["pro"]
    charts = [("Scores", score_figure(rows, record["threshold"]))] if rows else []
    if roc is not None:
        charts.append(("Parts: ROC curve", roc_figure(roc["fpr"], roc["tpr"], _operating_point(record, held_out))))
    if pro is not None:
        charts.append(("Pixels: PRO curve", pro_figure(pro["fpr"], pro["pro"], tuple(PRO_LIMITS.values()))))
    return [(title, Markup(drawing)) for title, drawing in charts]  # noqa: S704  (numbers and text of this package)


def _operating_point(record: dict[str, Any], held_out: Sequence[float]) -> tuple[float, float]:
    """Return the shares of rejected good parts, of held-out ones without good test samples, and of found defects."""
    good, defects = record["good"], record["samples"] - record["good"]
    above = sum(score > record["threshold"] for score in held_out)
    rejected = record["false_rejects"] / good if good else above / max(len(held_out), 1)
    return rejected, 1 - record["missed_defects"] / defects


def _facts(record: dict[str, Any], sensor: str) -> list[tuple[str, str]]:
    """Return the facts behind the figures as pairs of a name and a value."""
    banks = ", ".join(f"{rows} × {width}" for rows, width in record["banks"])
    settings = settings_as_text(record["recipe"])
    extractors = [
        (f"Extractor, {modality}", entry["extractor"])
        for modality, entry in record["provenance"].items()
        if isinstance(entry, dict) and "extractor" in entry
    ]
    return [
        ("Bundle", record["bundle"]),
        ("Inspects with", sensor),
        *([("Parts in a picture", str(record["parts"]))] if record["parts"] > 1 else []),
        *([("Not inspected (mask)", share_text(record["ignored_share"]))] if record["ignored_share"] else []),
        ("Precision, engine", f"{record['precision']}, {record['engine']}"),
        ("Detector family", record["family"] or "not recorded"),
        *([("Settings of the family", settings)] if settings else []),
        *extractors,
        *([("Memory banks", banks)] if banks else []),
        ("Threshold", _threshold(record["calibration"])),
        ("Map threshold", f"{record['calibration']['map_threshold']:.4g}"),
        ("Exported", record["created"] or "not recorded"),
        ("Machine", f"{record['machine']['processor']}, {record['machine']['cores']} cores"),
        ("SHA-256 of manifest.json", record["bundle_sha256"]),
    ]


def _threshold(record: dict[str, Any]) -> str:
    """Return the threshold, the method behind it and the interval of the share of good parts above it, as text."""
    calibration = Calibration.from_json(record)
    value = score_texts(calibration.score_threshold, calibration.score_threshold)[1]
    rate, samples = _percent(calibration.false_reject_rate), f"{calibration.samples} held-out good samples"
    low, high = map(_percent, calibration.interval)
    if is_rate_based(calibration):
        basis = f"set so that on average at most {rate} of good parts are rejected ({calibration.method}, {samples})"
    else:
        basis = f"{calibration.method}; {rate} of {samples} are above" if calibration.samples else calibration.method
    return f"{value}, {basis}. The true share of good parts above may lie between {low} and {high} (95 % interval)"


def _sessions(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the sessions with their scores as text; empty if there is only the training data."""
    sessions = record["sessions"] if len(record["sessions"]) > 1 else []
    texts = [
        [score_texts(session[end], record["threshold"])[0] for end in ("lowest", "highest")] for session in sessions
    ]
    return [{**session, "range": "–".join(text)} for session, text in zip(sessions, texts, strict=True)]


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(ends: list[float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.3f}–{ends[1]:.3f}"
