"""Parity of preprocessing, networks, losses and scores with the published code, on arrays in the repository."""

from __future__ import annotations

import numpy as np
import torch

import golden
import published_ast as published
from cmdiad_train.detectors.ast.losses import imitation_loss, likelihood_loss


@torch.no_grad()
def test_a_detector_of_clouds() -> None:
    arrays, module = golden.small("ast"), published.detector("depth")
    part = np.unpackbits(arrays["fg"]).reshape(2, 1, published.DEPTH, published.DEPTH)
    features, weights = module.cells(published.inputs(part))
    assert np.array_equal(weights, arrays["fg_down"])
    z, log_determinant = module.flow(features)
    published.close(likelihood_loss(z, log_determinant, weights), arrays["nf_loss_pixel"], 5e-5)
    published.close(imitation_loss(z, module.student(features), weights), arrays["st_pixel_before_mask"])
    first = published.inputs(part, slice(0, 1))["surface"]
    mean, anomaly_map = module(first)
    published.close(mean, arrays["st_mean_score"][:1])
    published.close(anomaly_map.amax().reshape(1), arrays["st_max_score_eval"][:1])
    most, _ = published.with_maximum(module, "depth")(first)
    published.close(most, arrays["st_max_score_eval"][:1])
