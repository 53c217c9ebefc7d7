"""Training of a crossmodal mapping detector, in steps that leave whole files, so that it can resume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.detectors.cfm.features import Extractors
from cmdiad_train.detectors.cfm.fitting.features import TrainingFeatures
from cmdiad_train.detectors.cfm.fitting.training import train_mappings
from cmdiad_train.detectors.cfm.run_files import (
    CHECKPOINT,
    EXTRACTORS,
    MAPPINGS,
    load,
    load_extractors,
    new_mappings,
    save_extractors,
)
from cmdiad_train.detectors.family import FitContext, Fitted
from cmdiad_train.extractors.shipped import weights_file
from cmdiad_train.features import FeatureStore
from cmdiad_train.recipe import cfm_part

LEAST_PEAK = 1e-6
"""Good samples whose maps stay below this are mapped without any error, up to rounding: nothing was compared."""


def fit(context: FitContext) -> Fitted:
    """Fit a crossmodal mapping detector. Each step loads what an earlier attempt has finished."""
    run, recipe = context.run, context.recipe
    if not (run / EXTRACTORS).exists():
        save_extractors(run, Extractors(recipe))
    if not (run / MAPPINGS).exists():
        extractors = load_extractors(run, recipe)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            mappings = new_mappings(extractors, recipe)
        with FeatureStore(context.features, budget=context.cache_bytes, reporter=context.reporter) as store:
            train_mappings(context, mappings, TrainingFeatures(context, store, extractors))
    (run / CHECKPOINT).unlink(missing_ok=True)  # left by an attempt that was killed right before the end
    detector = load(run, recipe)
    scores, peaks = context.score_held_out(detector)
    require_error(peaks)
    return Fitted(detector, scores, peaks, _provenance(context, detector.extractors))


def require_error(peaks: Sequence[float]) -> None:
    """Raise RunError if the maps of all good samples are 0 up to rounding, because every part would then pass.

    Args:
        peaks: Largest map value of each held-out good sample.
    """
    if not max(peaks) > LEAST_PEAK:
        raise RunError(
            "crossmodal mappings",
            found=f"maps of good samples with values of at most {max(peaks):.3g}",
            expected="features that differ from place to place",
            action="Choose another --extractor, or check its weights",
        )


def _provenance(context: FitContext, extractors: Extractors) -> dict[str, Any]:
    part = cfm_part(context.recipe)
    provenance: dict[str, Any] = {}
    for modality, backbone, spec in (("xyz", extractors.xyz, part.normals), ("rgb", extractors.rgb, part.rgb)):
        file = weights_file(spec.weights)
        provenance[modality] = {"extractor": backbone.provenance}
        provenance[modality] |= {} if file is None else {"weights_sha256": sha256_of(file)}
    return provenance
