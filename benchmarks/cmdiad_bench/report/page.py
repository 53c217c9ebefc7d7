"""The page of a report: its record and pictures through `report.html.jinja`, one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

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
OTHER_SENSOR = {"rgb": "3D sensor", "xyz": "camera"}


@dataclass(frozen=True)
class Row:
    """One sample of a gallery.

    Attributes:
        name: split, defect and number.
        good: whether it is a good part.
        rejected: verdict NG.
        score: image score.
        pictures: of it.
    """

    name: str
    good: bool
    rejected: bool
    score: float
    pictures: Pictures

    @property
    def outcome(self) -> str:
        """The verdict in the light of the label."""
        if self.good:
            return "false reject" if self.rejected else "passed"
        return "found" if self.rejected else "missed"


@dataclass(frozen=True)
class Gallery:
    """Some samples under a title, and a sentence about how many there are."""

    title: str
    said: str
    rows: list[Row]


@dataclass(frozen=True)
class Section:
    """One class: its part of `report.json`, and its galleries."""

    record: dict[str, Any]
    galleries: list[Gallery]


def render(record: dict[str, Any], sections: Sequence[Section]) -> str:
    """The page as HTML text: no script, nothing fetched. Every word of data is escaped.

    Args:
        record: what `report.json` holds.
        sections: of the page, in order.
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
    """What the template shows of one class."""
    record = section.record
    sensor = SENSORS[record["modality"]]
    if record["hallucination"] != "none" and record["modality"] in OTHER_SENSOR:
        sensor += f", hallucinating the {OTHER_SENSOR[record['modality']]} ({record['hallucination']})"
    return {
        "record": record,
        "sensor": sensor,
        "defects": record["samples"] - record["good"],
        "charts": _charts(record),
        "facts": _facts(record, sensor),
        "galleries": section.galleries,
    }


def _charts(record: dict[str, Any]) -> list[tuple[str, Markup]]:
    """Titles and drawings. The drawings hold no text of the data."""
    by_kind: dict[bool, list[float]] = {True: [], False: []}
    for sample in record["per_sample"]:
        by_kind[sample["defect"] == "good"].append(sample["score"])
    rows = [Scores("Good", "good", by_kind[True], True), Scores("Defects", "defect", by_kind[False], False)]
    if record["held_out_scores"]:
        rows.insert(0, Scores("Held out, good", "held", record["held_out_scores"], True))
    roc, pro = record["curves"]["roc"], record["curves"]["pro"]
    good = record["good"]
    defects = record["samples"] - good
    stands = (record["false_rejects"] / good, 1 - record["missed_defects"] / defects)
    charts = [
        ("Scores", score_figure(rows, record["threshold"])),
        ("Parts: ROC curve", roc_figure(roc["fpr"], roc["tpr"], stands)),
    ]
    if pro is not None:
        charts.append(("Pixels: PRO curve", pro_figure(pro["fpr"], pro["pro"], tuple(PRO_LIMITS.values()))))
    return [(title, Markup(drawing)) for title, drawing in charts]  # noqa: S704  (numbers and our own words)


def _facts(record: dict[str, Any], sensor: str) -> list[tuple[str, str]]:
    """What the figures belong to, as pairs of a name and a value."""
    calibration = record["calibration"]
    extractors = [
        (f"Extractor, {modality}", entry["extractor"])
        for modality, entry in record["provenance"].items()
        if isinstance(entry, dict) and "extractor" in entry
    ]
    return [
        ("Bundle", record["bundle"]),
        ("Inspects with", sensor),
        ("Precision, engine", f"{record['precision']}, {record['engine']}"),
        ("Mode", record["mode"]),
        *extractors,
        ("Memory banks", ", ".join(f"{rows} × {width}" for rows, width in record["banks"])),
        (
            "Threshold",
            f"{calibration['score_threshold']:.5g}: {calibration['method']} of {calibration['samples']} held-out good "
            f"samples for at most {calibration['false_reject_rate']:.3g} of good parts rejected",
        ),
        ("Exported", record["created"]),
        ("Machine", f"{record['machine']['processor']}, {record['machine']['cores']} cores"),
        ("SHA-256 of manifest.json", record["bundle_sha256"]),
    ]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(ends: list[float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.3f}–{ends[1]:.3f}"
