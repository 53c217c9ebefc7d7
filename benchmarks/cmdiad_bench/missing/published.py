"""Published image AUROC at missing rates, for orientation."""

from __future__ import annotations

from cmdiad_bench.missing.protocol import Kind

PUBLISHED: dict[tuple[Kind, int], float] = {
    ("rgb", 30): 0.7880,
    ("rgb", 50): 0.7386,
    ("rgb", 70): 0.6875,
    ("xyz", 30): 0.8197,
    ("xyz", 50): 0.8174,
    ("xyz", 70): 0.8182,
    ("either", 30): 0.7771,
    ("either", 50): 0.7695,
    ("either", 70): 0.7383,
}
"""Image AUROC of MISDD-MM, mean of the ten classes of MVTec 3D-AD, by kind and percentage."""
SOURCE = (
    "MISDD-MM (arXiv 2509.02962), mean of the ten classes of MVTec 3D-AD, from the picture comp_all.png of "
    "github.com/SvyJ/MISDD-MM"
)
DIFFERENCES = (
    "The published figures are no comparison on equal terms: that training lacks the same share of modalities as the "
    "test, a missing input is zeros, and the network is another one. Here training has both modalities of every sample."
)
