"""Show a plan as a table, a file and a picture."""

from __future__ import annotations

from pathlib import Path

from cmdiad_export.planning.plan import GraphForm, Plan, Point, pareto
from cmdiad_runtime.support.files import atomic_write, remove_leftovers, write_json
from cmdiad_runtime.support.folder_owner import take_folder

MARKERS = {"fp32": "o", "fp16": "s", "int8": "^", "int8-cpu": "D"}


def table(plan: Plan) -> str:
    """Return the plan as a Markdown table, sorted by latency."""
    best = pareto(plan.points)
    lines = [
        f"{plan.engine}; {plan.good} held-out samples and {plan.tampered} tampered copies; changes are from the "
        "detector as trained; **bold**: no other is better in latency, memory and AUROC",
        "",
        "| bank | rows | search | precision | p50 ms | memory MB | graph MB | AUROC | Δ AUROC | Δ score | flips |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for point in sorted(plan.points, key=lambda point: point.latency_ms):
        lines.append(_row(point, bold=point in best))
    lines += [f"| {_cells(form)} | refused: {reason} | | | | | | |" for form, reason in plan.refused]
    return "\n".join(lines)


def _cells(form: GraphForm) -> str:
    kind = "proven" if form.proven else "fast"
    search = "exact" if form.width is None else f"{kind} {form.width}:{form.candidates}"
    return f"{form.bank:.0%} | {' + '.join(map(str, form.rows))} | {search} | {form.precision}"


def _row(point: Point, *, bold: bool) -> str:
    change, mark = point.change, "**" if bold else ""
    return (
        f"| {_cells(point.form)} | {mark}{point.latency_ms:.1f}{mark} | {mark}{point.memory_mb:.0f}{mark} "
        f"| {point.graph_mb:.1f} | {mark}{change.auroc:.4f}{mark} | {change.auroc_change:+.4f} "
        f"| {change.score_max_share:.2%} | {change.label_flips} |"
    )


def write_plan(folder: Path, plan: Plan) -> None:
    """Write `plan.json` and `plan.png` into a folder, and remove what killed processes left of them.

    Raises:
        OutputError: A file cannot be written.
    """
    release = take_folder(folder, wait_s=10.0)
    try:
        if release is not None:
            remove_leftovers(folder / "plan.json")
            remove_leftovers(folder / "plan.png")
        write_json(folder / "plan.json", plan.to_json())
        plot(folder / "plan.png", plan)
    finally:
        if release is not None:
            release()


def plot(path: Path, plan: Plan) -> None:
    """Write a PNG with two plots over latency: AUROC on the left, the change of scores on the right.

    The area of a point shows its memory. Crosses joined by a line mark the Pareto-best points.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # Not pyplot, which needs a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    ranking, drift = figure.subplots(1, 2)
    best = pareto(plan.points)
    largest = max(point.memory_mb for point in plan.points)
    banks = sorted({point.form.bank for point in plan.points}, reverse=True)
    for point in plan.points:
        style = {
            "marker": MARKERS[point.form.precision],
            "s": 30 + 220 * point.memory_mb / largest,
            "facecolor": f"C{banks.index(point.form.bank)}" if point.form.width is None else "none",
            "edgecolor": f"C{banks.index(point.form.bank)}",
            "alpha": 0.8,
        }
        ranking.scatter(point.latency_ms, point.change.auroc, **style)
        drift.scatter(point.latency_ms, 100 * point.change.score_max_share, **style)
    for axes, height in ((ranking, lambda p: p.change.auroc), (drift, lambda p: 100 * p.change.score_max_share)):
        front = sorted(best, key=lambda point: point.latency_ms)
        axes.plot([p.latency_ms for p in front], [height(p) for p in front], "x", color="black", label="Pareto-best")
        for bank in banks:
            axes.plot([], [], "o", color=f"C{banks.index(bank)}", label=f"{bank:.0%} bank")
        axes.set(xlabel="ms, median of the engine")
    ranking.set(ylabel=f"AUROC, {plan.good} good and {plan.tampered} tampered samples")
    drift.set(ylabel="largest change of a score, % of the threshold")
    ranking.legend(
        fontsize="small",
        title="filled: exact search, hollow: fast\no fp32  □ fp16  △ int8  ◇ int8-cpu",
        title_fontsize=7,
    )
    with atomic_write(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
