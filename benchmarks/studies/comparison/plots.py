"""Draw a comparison: time by stage, and end-to-end time against peak memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmdiad_runtime.support.files import atomic_write
from studies.comparison.stage_times import STAGES

BAR = 0.45  # inches
INCHES = 9


def plot_stages(path: Path, title: str, contenders: dict[str, dict[str, Any]]) -> None:
    """Write a PNG with one stacked bar of median milliseconds by stage for each contender that reports stages."""
    stages_ms = {name: figures["stages_ms"] for name, figures in contenders.items() if figures["stages_ms"]}
    figure, axes = _axes(len(stages_ms))
    left = dict.fromkeys(stages_ms, 0.0)
    for number, stage in enumerate(STAGES):
        widths = [stages.get(stage, {"median": 0.0})["median"] for stages in stages_ms.values()]
        axes.barh(list(stages_ms), widths, left=list(left.values()), label=stage, color=f"C{number}")
        left = {name: left[name] + width for name, width in zip(stages_ms, widths, strict=True)}
    axes.set(xlabel="ms, median of each stage", title=title)
    axes.invert_yaxis()
    axes.legend(ncols=3, fontsize="small")
    _write(path, figure)


def plot_ends(path: Path, title: str, contenders: dict[str, dict[str, Any]]) -> None:
    """Write a PNG with a bar of end-to-end milliseconds and their quartiles for each contender."""
    figure, axes = _axes(len(contenders))
    medians = [figures["total_ms"]["median"] for figures in contenders.values()]
    low = [m - figures["total_ms"]["low"] for m, figures in zip(medians, contenders.values(), strict=True)]
    high = [figures["total_ms"]["high"] - m for m, figures in zip(medians, contenders.values(), strict=True)]
    bars = axes.barh(list(contenders), medians, xerr=[low, high])
    axes.bar_label(bars, labels=[_bar_label(figures) for figures in contenders.values()], padding=6, fontsize="small")
    axes.set(xlabel="ms end to end, median and quartiles", title=title, xlim=(0, 1.35 * max(medians)))
    axes.invert_yaxis()
    _write(path, figure)


def _bar_label(contender: dict[str, Any]) -> str:
    memory = contender["memory"]
    label = f"{contender['total_ms']['median']:.0f} ms"
    return label if memory is None else f"{label}, {memory['peak_resident_mb']:.0f} MB"


def _axes(rows: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: it would look for a display

    figure = Figure(figsize=(INCHES, 1.5 + BAR * rows), layout="constrained")
    return figure, figure.add_subplot()


def _write(path: Path, figure: Any) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with atomic_write(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
