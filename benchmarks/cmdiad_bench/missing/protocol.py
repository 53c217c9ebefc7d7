"""Choose the samples that lack a modality, by rate, kind and seed. The choice is the same on every machine."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, get_args

from cmdiad_runtime.names import Sensors

Kind = Literal["rgb", "xyz", "either"]
"""Modality that is missing: the image, the cloud, or the image of one half and the cloud of the other."""
KINDS: tuple[Kind, ...] = get_args(Kind)
KIND_TEXTS: dict[Kind, str] = {"rgb": "image missing", "xyz": "cloud missing", "either": "image or cloud missing"}
RATES = (0, 25, 50, 75, 100)
"""Default percentages of samples that lack a modality."""
MASKS = 5
"""Number of masks by rate and kind."""
_LEFT: dict[str, Sensors] = {"rgb": "xyz", "xyz": "rgb"}
"""Pattern that is left, by the modality that is missing."""


def patterns_of_mask(names: Sequence[str], defects: Sequence[str], kind: Kind, rate: int, seed: int) -> list[Sensors]:
    """Return the modalities that each sample has under one mask.

    The share holds within each kind of defect and within the good samples, to the nearest whole sample. The order of
    the samples is that of hashes of seed and name, so that no score and no position in the list decides. A higher rate
    with the same seed removes a modality from the same samples and from further ones. With the kind "either", every
    second one of these samples lacks the image, the others lack the cloud.

    Args:
        names: Names of the samples, each once.
        defects: Name of the defect of each sample, or "good".
        kind: Modality that is missing.
        rate: Percentage of samples that lack a modality, 0 to 100.
        seed: Number of the mask.
    """
    strata: dict[str, list[int]] = defaultdict(list)
    for i, defect in enumerate(defects):
        strata[defect].append(i)
    patterns: list[Sensors] = ["both"] * len(names)
    for members in strata.values():
        shuffled = sorted(members, key=lambda i: hashlib.sha256(f"{seed}:{names[i]}".encode()).digest())
        for rank, i in enumerate(shuffled[: (rate * len(members) + 50) // 100]):
            missing = ("rgb", "xyz")[(rank + seed) % 2] if kind == "either" else kind
            patterns[i] = _LEFT[missing]
    return patterns
