"""A picture of how a training went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from cmdiad_runtime.support.files import atomic_write


def plot_losses(path: Path, training: Sequence[float], validation: Sequence[float]) -> None:
    """Write a PNG of the losses over the epochs; NaN values are left out. The best validation epoch is marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no pyplot: it would look for a display
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    epochs = range(1, len(training) + 1)
    axes.plot(epochs, training, label="training")
    checked = [(epoch, loss) for epoch, loss in zip(epochs, validation, strict=True) if not math.isnan(loss)]
    if checked:
        axes.plot(*zip(*checked, strict=True), label="validation")
        epoch, loss = min(checked, key=lambda point: point[1])
        axes.plot(epoch, loss, "o", color="black", label=f"best: epoch {epoch}, {loss:.4g}")
    axes.set(xlabel="epoch", ylabel="loss per row", yscale="log" if min(training) > 0 else "linear")
    axes.legend()
    with atomic_write(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
