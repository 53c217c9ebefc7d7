"""Render the page of a report from its record and pictures with `report.html.jinja`; the page is self-contained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cmdiad_bench.detector import settings_as_text
from cmdiad_bench.report.figures import Scores, pro_figure, roc_figure, score_figure
from cmdiad_bench.report.pictures import Pictures, draw_legend
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
class Row:
    """One sample of a gallery.

    Attributes:
        name: Split, defect and number of the sample.
        good: True for a good part.
        rejected: True for the verdict NG.
        score: Image score.
        pictures: Pictures of the sample.
    """

    name: str
    good: bool
    rejected: bool
    score: float
    pictures: Pictures

    @property
    def outcome(self) -> str:
        """Verdict compared with the label: "passed", "false reject", "found" or "missed"."""
        if self.good:
            return "false reject" if self.rejected else "passed"
        return "found" if self.rejected else "missed"


@dataclass(frozen=True)
class Gallery:
    """Samples under a title, with a caption that states how many there are."""

    title: str
    caption: str
    rows: list[Row]


@dataclass(frozen=True)
class Section:
    """One class: its part of `report.json` and its galleries."""

    record: dict[str, Any]
    galleries: list[Gallery]


def render(record: dict[str, Any], sections: Sequence[Section]) -> str:
    """Return the page as HTML text without scripts or external files. All data is escaped.

    Args:
        record: Contents of `report.json`.
        sections: Sections of the page, in order.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "interval": _interval}
    return environment.get_template("report.html.jinja").render(
        report=record,
        classes=[_view(section) for section in sections],
        columns=COLUMNS,
        legend=draw_legend(),
    )


def _view(section: Section) -> dict[str, Any]:
    """Return the values that the template shows for one class."""
    record = section.record
    sensor = SENSORS[record["modality"]]
    return {
        "record": record,
        "sensor": sensor,
        "defects": record["samples"] - record["good"],
        "charts": _charts(record),
        "facts": _facts(record, sensor),
        "not_inspected": [sample for sample in record["per_sample"] if sample["score"] is None],
        "reasons": list({**record["reasons"]["defects"], **record["reasons"]["good"]}),
        "samples": sorted(record["per_sample"], key=_rank, reverse=True),
        "galleries": section.galleries,
    }


def _rank(sample: dict[str, Any]) -> float:
    """Return the score of a sample; samples without a score come first."""
    return float("inf") if sample["score"] is None else float(sample["score"])


def _charts(record: dict[str, Any]) -> list[tuple[str, Markup]]:
    """Return titles and drawings. The drawings contain no text from the data."""
    by_kind: dict[bool, list[float]] = {True: [], False: []}
    for sample in record["per_sample"]:
        if sample["score"] is not None:
            by_kind[sample["defect"] == "good"].append(sample["score"])
    rows = [Scores("Good", "good", by_kind[True], True), Scores("Defects", "defect", by_kind[False], False)]
    if record["held_out_scores"]:
        rows.insert(0, Scores("Held out, good", "held", record["held_out_scores"], True))
    roc, pro = record["curves"]["roc"], record["curves"]["pro"]
    good = record["good"]
    defects = record["samples"] - good
    operating_point = (record["false_rejects"] / good, 1 - record["missed_defects"] / defects)
    charts = [
        ("Scores", score_figure(rows, record["threshold"])),
        ("Parts: ROC curve", roc_figure(roc["fpr"], roc["tpr"], operating_point)),
    ]
    if pro is not None:
        charts.append(("Pixels: PRO curve", pro_figure(pro["fpr"], pro["pro"], tuple(PRO_LIMITS.values()))))
    return [(title, Markup(drawing)) for title, drawing in charts]  # noqa: S704  (numbers and text of this package)


def _facts(record: dict[str, Any], sensor: str) -> list[tuple[str, str]]:
    """Return the facts behind the figures as pairs of a name and a value."""
    calibration = record["calibration"]
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
        *([("Not inspected (mask)", f"{record['ignored_share']:.1%}")] if record["ignored_share"] else []),
        *([("Warning", record["warning"])] if record["warning"] else []),
        ("Precision, engine", f"{record['precision']}, {record['engine']}"),
        ("Detector family", record["family"] or "not recorded"),
        *([("Settings of the family", settings)] if settings else []),
        *extractors,
        *([("Memory banks", banks)] if banks else []),
        (
            "Threshold",
            f"{calibration['score_threshold']:.5g}: {calibration['method']} of {calibration['samples']} held-out good "
            f"samples for at most {calibration['false_reject_rate']:.3g} of good parts rejected",
        ),
        ("Exported", record["created"] or "not recorded"),
        ("Machine", f"{record['machine']['processor']}, {record['machine']['cores']} cores"),
        ("SHA-256 of manifest.json", record["bundle_sha256"]),
    ]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(ends: list[float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.3f}–{ends[1]:.3f}"
