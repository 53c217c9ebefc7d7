"""Small weights that ship with the package, trained on procedurally generated images (docs/extractors.md)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

SHIPPED = {"shipped-rgb": "rgb.safetensors", "shipped-normals": "normals.safetensors"}
"""File of each name that a recipe may use as weights: `resnet10t`, stages 1 and 2, Apache-2.0."""


def weights_file(weights: str) -> Path | None:
    """Return the file that weights are read from, or None for "seeded" and "timm", which have none.

    Args:
        weights: Weights as a recipe names them: "seeded", "timm", a key of SHIPPED, or a file.
    """
    if weights in ("seeded", "timm"):
        return None
    return (
        Path(str(files("cmdiad_train.extractors"))) / "weights" / SHIPPED[weights]
        if weights in SHIPPED
        else Path(weights)
    )
