"""Published figures of the families on MVTec 3D-AD, as numbers with their source and with what differs here."""

from __future__ import annotations

from dataclasses import dataclass

from cmdiad_bench.paper.published import CLASSES
from cmdiad_bench.paper.published import PUBLISHED as CMDIAD
from cmdiad_bench.paper.published import SOURCE as CMDIAD_SOURCE

MEAN = "mean"
"""Name of the mean over the ten classes among the figures."""


@dataclass(frozen=True)
class Published:
    """Published figures of one method.

    Attributes:
        source: Where the figures are published.
        differs: What differs in the detector of cmdiad with default settings.
        image_auroc: Image AUROC by class, and as `MEAN`.
        pixel_auroc: Pixel AUROC likewise; empty if none was available.
        aupro_30: Area under the per-region overlap curve up to 30 % likewise.
    """

    source: str
    differs: str
    image_auroc: dict[str, float]
    pixel_auroc: dict[str, float]
    aupro_30: dict[str, float]


def _percent(text: str) -> dict[str, float]:
    """Return shares by class from percentages in the order of `CLASSES`, with the mean at the end."""
    return {name: round(float(value) / 100, 3) for name, value in zip((*CLASSES, MEAN), text.split(), strict=True)}


def _mean(value: float | None) -> dict[str, float]:
    return {} if value is None else {MEAN: value}


_TRD_TABLE = "table in the repository hito2448/TRD (arXiv 2412.08949)"
_SINGLE_TABLE = "table of Shape-Guided (Chu et al., ICML 2023), as its repository shows it"
_SETTINGS = "smaller networks and other weights, the view of the part, fewer epochs"

PUBLISHED: dict[str, Published] = {
    "bank-rgb": Published(
        CMDIAD_SOURCE, "smaller networks, no hallucination", _mean(CMDIAD["rgb"].image_auroc), {}, {}
    ),
    "bank-xyz": Published(
        CMDIAD_SOURCE,
        "clouds as images of normals instead of Point-MAE, no hallucination",
        _mean(CMDIAD["xyz"].image_auroc),
        {},
        _mean(CMDIAD["xyz"].aupro_30),
    ),
    "trd-both": Published(
        f"{_TRD_TABLE}, with normals",
        f"{_SETTINGS}, a separate student for each sensor",
        _percent("98.9 99.5 99.7 97.0 100 98.8 99.6 98.3 100 91.7 98.4"),
        _percent("99.3 99.6 99.8 99.2 99.7 99.8 99.8 99.8 99.7 99.7 99.6"),
        _percent("97.5 98.0 98.2 97.1 98.1 98.2 98.2 98.3 97.8 97.9 97.9"),
    ),
    "patchcore-rgb": Published(
        _SINGLE_TABLE,
        "smaller networks and other weights, the view of the part",
        _percent("91.2 90.2 88.5 70.9 95.2 73.3 72.7 56.2 96.2 76.8 81.1"),
        {},
        _mean(0.910),
    ),
    "cfm-both": Published(
        f"Costanzino et al., CVPR 2024, as printed in the {_TRD_TABLE}",
        "small CNNs instead of DINO ViT-B/8 and Point-MAE, fewer epochs",
        _percent("98.8 87.5 98.4 99.2 99.7 92.4 96.4 94.9 97.9 95.0 96.0"),
        _percent("99.7 99.2 99.9 97.2 98.7 99.3 99.8 99.9 99.8 99.8 99.3"),
        _percent("98.0 96.6 98.2 94.7 95.9 96.7 98.2 98.3 97.6 98.2 97.2"),
    ),
    "m3dm-both": Published(
        f"Wang et al., CVPR 2023, as printed in the {_TRD_TABLE}",
        "small CNNs instead of DINO ViT-B/8 and Point-MAE, the view of the part, aligned pairs, banks of own size",
        _percent("99.4 90.9 97.2 97.6 96.0 94.2 97.3 89.9 97.2 85.0 94.5"),
        _percent("99.5 99.3 99.7 98.5 98.5 98.4 99.6 99.4 99.7 99.6 99.2"),
        _percent("97.0 97.1 97.9 95.0 94.1 93.2 97.7 97.1 97.1 97.5 96.4"),
    ),
    "ast-both": Published(
        f"Rudolph et al., WACV 2023, as printed in the {_TRD_TABLE}",
        _SETTINGS,
        _percent("98.3 87.3 97.6 97.1 93.2 88.5 97.4 98.1 100 79.7 93.7"),
        _mean(0.976),
        _percent("97.0 94.7 98.1 93.9 91.3 90.6 97.9 98.2 88.9 94.0 94.4"),
    ),
    "ast-rgb": Published(
        f"Rudolph et al., WACV 2023, as printed in the {_SINGLE_TABLE}",
        _SETTINGS,
        _percent("94.7 92.8 85.1 82.5 98.1 95.1 89.5 61.3 99.2 82.1 88.0"),
        {},
        {},
    ),
    "ast-xyz": Published(
        f"Rudolph et al., WACV 2023, as printed in the {_SINGLE_TABLE}",
        _SETTINGS,
        _percent("88.1 57.6 96.5 95.7 67.9 79.7 99.0 91.5 95.6 61.1 83.3"),
        {},
        {},
    ),
    "shape-guided-xyz": Published(
        f"Chu et al., ICML 2023, {_SINGLE_TABLE}; pixel AUROC from its page of results",
        "a smaller decoder, fewer and smaller patches, the view of the part, trained on one class, fewer epochs",
        _percent("98.3 68.2 97.8 99.8 96.0 73.7 99.3 97.9 96.6 87.1 91.6"),
        _mean(0.978),
        _percent("97.4 87.1 98.1 92.4 89.8 77.3 97.8 98.3 95.5 96.9 93.1"),
    ),
    "shape-guided-both": Published(
        f"Chu et al., ICML 2023, {_SINGLE_TABLE}; pixel AUROC from its page of results",
        "as for clouds alone; a smaller image network, images of 112 pixels in the view of the part",
        _percent("98.6 89.4 98.3 99.1 97.6 85.7 99.0 96.5 96.0 86.9 94.7"),
        _mean(0.996),
        _percent("98.1 97.3 98.2 97.1 96.2 97.8 98.1 98.3 97.4 97.5 97.6"),
    ),
}
"""Published figures by method, `FAMILY-MODALITY`."""

_HALF = "one half of the fusion network, a variant of cmdiad that is not published"
_OTHER_SENSOR = "the method is published for images alone"
NOT_PUBLISHED: dict[str, str] = {
    "m3dm-rgb": _HALF,
    "m3dm-xyz": _HALF,
    "dsr3d-rgb": "a recipe of cmdiad that is not published",
    "patchcore-xyz": _OTHER_SENSOR,
    "patchcore-both": _OTHER_SENSOR,
}
"""Notes about methods that no publication has."""
