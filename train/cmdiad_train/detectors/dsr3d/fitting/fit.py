"""Training of a 3DSR detector, in steps that leave whole files, so that it can resume."""

from __future__ import annotations

from typing import Any

from cmdiad_train.detectors.dsr3d.fitting.autoencoder_task import AutoencoderTask, autoencoder_length
from cmdiad_train.detectors.dsr3d.fitting.object_task import DRAWS, ObjectTask
from cmdiad_train.detectors.dsr3d.networks.autoencoder import Autoencoder
from cmdiad_train.detectors.dsr3d.run_files import (
    AUTOENCODER,
    NETWORKS,
    load,
    new_autoencoder,
    new_networks,
)
from cmdiad_train.detectors.family import FitContext, Fitted
from cmdiad_train.detectors.network_training import Schedule, trained_network
from cmdiad_train.recipe import Recipe, dsr3d_part


def fit(context: FitContext) -> Fitted:
    """Fit a 3DSR detector. Each step loads what an earlier attempt has finished."""
    autoencoder, length = new_autoencoder(context.recipe), _autoencoder_schedule(context)
    is_new = not length.file.exists()
    trained_network(context, autoencoder, length, lambda stopping: AutoencoderTask(context, autoencoder, length))
    if is_new:
        context.reporter.say(_codes_in_use(autoencoder))
    networks, schedule = new_networks(context.recipe), _schedule(context)
    trained_network(
        context,
        networks,
        schedule,
        lambda stopping: ObjectTask(context, networks, schedule, stopping, autoencoder),
    )
    detector = load(context.run, context.recipe)
    scores, peaks = context.score_held_out(detector)
    return Fitted(detector, scores, peaks, _provenance(context.recipe))


def _autoencoder_schedule(context: FitContext) -> Schedule:
    epochs, pictures, batch = autoencoder_length(dsr3d_part(context.recipe))
    return Schedule(
        "train autoencoder",
        context.run / AUTOENCODER,
        range(pictures),
        epochs,
        batch,
        batches="full",
        patience=0,
        following=1,
    )


def _schedule(context: FitContext) -> Schedule:
    part = dsr3d_part(context.recipe)
    faithful = part.mode == "faithful"
    return Schedule(
        "train networks",
        context.run / NETWORKS,
        range(DRAWS if faithful else len(context.train)),
        part.epochs,
        part.batch,
        batches="only_full" if faithful else "even",
        patience=part.patience,
    )


def _codes_in_use(autoencoder: Autoencoder) -> str:
    coarse, fine = autoencoder.coarse, autoencoder.fine
    return (
        f"Codes in use (perplexity): {coarse.in_use():.0f} of {len(coarse.codes)} coarse, "
        f"{fine.in_use():.0f} of {len(fine.codes)} fine."
    )


def _provenance(recipe: Recipe) -> dict[str, Any]:
    """Return the origin of the features of each modality."""
    depth = dsr3d_part(recipe).geometry == "depth"
    trained_on = {
        "rgb": "procedurally generated images",
        "xyz": "simulated depth" if depth else "procedurally generated surface normals",
    }
    return {main: {"extractor": f"discrete autoencoder, trained on {trained_on[main]}"} for main in recipe.mains}
