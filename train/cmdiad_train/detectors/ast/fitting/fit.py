"""Training of an AST detector, in steps that leave whole files, so that it can resume."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.detectors.ast.fitting.features import CellBatches, channel_statistics, training_features
from cmdiad_train.detectors.ast.fitting.tasks import FlowTask, StudentTask
from cmdiad_train.detectors.ast.networks.cells import Cells, Standardisation
from cmdiad_train.detectors.ast.run_files import (
    EXTRACTOR,
    FLOW,
    STANDARDISATION,
    STUDENT,
    load,
    load_cells,
    load_standardisation,
    new_extractor,
    new_flow,
    new_student,
    save_extractor,
    save_standardisation,
)
from cmdiad_train.detectors.family import FitContext, Fitted
from cmdiad_train.detectors.network_training import Schedule, stop_split, trained_network
from cmdiad_train.detectors.training_features import Features
from cmdiad_train.extractors.shipped import weights_file
from cmdiad_train.features import FeatureStore
from cmdiad_train.recipe import ast_part


def fit(context: FitContext) -> Fitted:
    """Fit an AST detector. Each step loads what an earlier attempt has finished."""
    run, recipe = context.run, context.recipe
    extractor = None if (run / EXTRACTOR).exists() else new_extractor(recipe)
    if extractor is not None:
        save_extractor(run, extractor)
    if not all((run / file).exists() for file in (STANDARDISATION, FLOW, STUDENT)):
        with FeatureStore(context.features, budget=context.cache_bytes, reporter=context.reporter) as store:
            cells = load_cells(run, recipe)
            _train(context, cells, training_features(context, store, cells))
    detector = load(run, recipe)
    scores, peaks = context.score_held_out(detector)
    return Fitted(detector, scores, peaks, _provenance(context, detector.cells))


def _train(context: FitContext, cells: Cells, features: Features) -> None:
    """Write standardisation, flow and student, each unless its file exists."""
    run, recipe = context.run, context.recipe
    if not (run / STANDARDISATION).exists():
        _standardise(context, cells, features)
    batches = CellBatches(features, load_standardisation(run, cells.channels).to(context.device))
    flow, student = new_flow(recipe, cells), new_student(recipe, cells)
    flow_length = replace(_schedule(context, "train flow", FLOW), following=1)
    trained_network(
        context, flow, flow_length, lambda stopping: FlowTask(context, flow, batches, flow_length, stopping)
    )
    student_length = _schedule(context, "train student", STUDENT)
    trained_network(
        context,
        student,
        student_length,
        lambda stopping: StudentTask(context, student, batches, student_length, stopping, flow),
    )


def _standardise(context: FitContext, cells: Cells, features: Features) -> None:
    """Write the standardisation of the samples that are trained on; a faithful recipe leaves features unchanged."""
    part, unchanged = ast_part(context.recipe), Standardisation(cells.channels)
    if part.mode == "faithful":
        save_standardisation(context.run, unchanged.mean, unchanged.deviation)
        return
    training, _ = stop_split(context, range(len(context.train)), part.patience)
    save_standardisation(context.run, *channel_statistics(features, training))


def _schedule(context: FitContext, name: str, file: str) -> Schedule:
    part = ast_part(context.recipe)
    return Schedule(
        name,
        context.run / file,
        range(len(context.train)),
        part.epochs,
        part.batch,
        batches="only_full" if part.mode == "faithful" else "even",
        patience=part.patience,
    )


def _provenance(context: FitContext, cells: Cells) -> dict[str, Any]:
    """Return the origin of the features of each modality."""
    surface = f"pixels of the image of {ast_part(context.recipe).geometry}"
    origin: dict[str, Any] = {} if context.recipe.modality == "rgb" else {"xyz": {"extractor": surface}}
    if cells.extractor is not None:
        weights = weights_file(ast_part(context.recipe).extractor.weights)
        digest = {} if weights is None else {"weights_sha256": sha256_of(weights)}
        origin["rgb"] = {"extractor": cells.extractor.backbone.provenance, **digest}
    return origin
