"""Write the result of an assessment as a table, a plot and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cmdiad_runtime.support.files import atomic_write
from cmdiad_train.assessment.advice import Advice
from cmdiad_train.assessment.defects import DEFECTS
from cmdiad_train.assessment.outcome import Outcome
from cmdiad_train.evaluation.bootstrap import Interval


def table_rows(outcome: Outcome) -> list[dict[str, str]]:
    """Return the cells of the table by column, one row for each detector."""
    return [
        {
            "inspected with": row.name,
            **{kind: f"{100 * share:.0f} %" for kind, share in row.detected.items()},
            "all": f"{100 * row.share:.0f} % {_percent(row.share_interval)}",
            "image AUROC": f"{row.auroc:.3f} ({row.auroc_interval[0]:.3f}-{row.auroc_interval[1]:.3f})",
            "rejected good": f"{row.rejected} of {outcome.good}",
        }
        for row in outcome.rows
    ]


def as_json(outcome: Outcome, advice: Advice) -> dict[str, Any]:
    """Return figures and advice as JSON-ready values."""
    return {
        "good": outcome.good,
        "tampered": outcome.tampered,
        "defects": {
            kind: {"sensors": defect.sensors, "radius": defect.radius, "height": defect.height}
            for kind, defect in DEFECTS.items()
        },
        "detectors": [asdict(row) for row in outcome.rows],
        "advice": asdict(advice),
    }


def write_plot(path: Path, outcome: Outcome) -> None:
    """Write a PNG with the detected share of each kind of defect, and of all kinds with its interval.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no pyplot: it would look for a display
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    groups, width = (*DEFECTS, "all kinds"), 0.8 / len(outcome.rows)
    for number, row in enumerate(outcome.rows):
        places = [group + (number - (len(outcome.rows) - 1) / 2) * width for group in range(len(groups))]
        shares = [*row.detected.values(), row.share]
        axes.bar(places, shares, 0.9 * width, label=f"{row.name} (AUROC {row.auroc:.3f})", color=f"C{number}")
        axes.errorbar(places[-1], row.share, _errors(row.share, row.share_interval), color="black", capsize=3)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(ylabel="detected share", ylim=(0, 1.02))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, fontsize="small")
    with atomic_write(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def _errors(value: float, interval: Interval) -> Sequence[Sequence[float]]:
    return [[max(value - interval[0], 0)], [max(interval[1] - value, 0)]]


def _percent(interval: Interval) -> str:
    return f"({100 * interval[0]:.0f}-{100 * interval[1]:.0f})"
