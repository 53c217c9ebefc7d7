"""Parity of AU-PRO with the published code, on arrays inside the repository."""

from __future__ import annotations

import numpy as np

import golden
from cmdiad_train.evaluation.metrics import au_pro, pro_curve


def test_published_curve_and_areas() -> None:
    data = golden.small("aupro")
    maps = data["below"].astype(np.float64)
    masks = np.unpackbits(data["masks"])[: maps.size].reshape(maps.shape)
    fpr, pro = pro_curve(masks, maps, mode="published")
    np.testing.assert_array_equal(fpr, data["fpr"])
    np.testing.assert_array_equal(pro, data["pro"])
    assert au_pro(masks, maps, 0.3, mode="published") == data["area_30"]
    assert au_pro(masks, maps, 0.01, mode="published") == data["area_1"]
