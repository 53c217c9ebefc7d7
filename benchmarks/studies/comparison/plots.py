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
    told = {name: each["stages_ms"] for name, each in contenders.items() if each["stages_ms"]}
    figure, axes = _axes(len(told))
    left = dict.fromkeys(told, 0.0)
    for number, stage in enumerate(STAGES):
        widths = [stages.get(stage, {"median": 0.0})["median"] for stages in told.values()]
        axes.barh(list(told), widths, left=list(left.values()), label=stage, color=f"C{number}")
        left = {name: left[name] + width for name, width in zip(told, widths, strict=True)}
    axes.set(xlabel="ms, median of each stage", title=title)
    axes.invert_yaxis()
    axes.legend(ncols=3, fontsize="small")
    _write(path, figure)


def plot_ends(path: Path, title: str, contenders: dict[str, dict[str, Any]]) -> None:
    """Write a PNG with a bar of end-to-end milliseconds and their quartiles for each contender."""
    figure, axes = _axes(len(contenders))
    medians = [each["total_ms"]["median"] for each in contenders.values()]
    low = [m - each["total_ms"]["low"] for m, each in zip(medians, contenders.values(), strict=True)]
    high = [each["total_ms"]["high"] - m for m, each in zip(medians, contenders.values(), strict=True)]
    bars = axes.barh(list(contenders), medians, xerr=[low, high])
    axes.bar_label(bars, labels=[_bar_label(each) for each in contenders.values()], padding=6, fontsize="small")
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
