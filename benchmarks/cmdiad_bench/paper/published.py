"""Published figures of CMDIAD, as numbers with their source. A figure that was not available is None."""

from __future__ import annotations

from dataclasses import dataclass

CLASSES = ("bagel", "cable_gland", "carrot", "cookie", "dowel", "foam", "peach", "potato", "rope", "tire")
"""Classes of MVTec 3D-AD, over which the published means are taken."""
SOURCE = (
    "Sui et al., Information Fusion 126, 2026, 103572 (arXiv 2405.13571), means over the ten classes of MVTec 3D-AD, "
    "read from a summary of the paper"
)


@dataclass(frozen=True)
class PublishedRow:
    """A row of the paper's tables.

    Attributes:
        title: Description of the row.
        image_auroc: Mean image AUROC.
        pixel_auroc: Mean pixel AUROC.
        aupro_30: Mean area under the per-region overlap curve up to a false positive rate of 30 %.
    """

    title: str
    image_auroc: float | None = None
    pixel_auroc: float | None = None
    aupro_30: float | None = None


PUBLISHED = {
    "xyz": PublishedRow("3D alone, bank of the main modality", 0.860, None, 0.911),
    "xyz-f2f": PublishedRow("3D alone, F2F", 0.938, None, 0.934),
    "xyz-f2i": PublishedRow("3D alone, F2I", 0.863, None, 0.912),
    "xyz-i2f": PublishedRow("3D alone, I2F", 0.820, None, 0.942),
    "rgb": PublishedRow("RGB alone, bank of the main modality", 0.851),
    "rgb-f2f": PublishedRow("RGB alone, F2F", 0.856),
    "rgb-f2i": PublishedRow("RGB alone, F2I"),
    "rgb-i2f": PublishedRow("RGB alone, I2F"),
}
"""Rows by the value of `cmdiad-train --paper`."""
