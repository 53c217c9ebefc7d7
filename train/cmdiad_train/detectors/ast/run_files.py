"""Files of an AST detector in a run directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cmdiad_train.detectors.ast.detector import AsymmetricStudentTeacher
from cmdiad_train.detectors.ast.networks.cells import Cells, Standardisation
from cmdiad_train.detectors.ast.networks.extractor import CellFeatures
from cmdiad_train.detectors.ast.networks.flow import Flow
from cmdiad_train.detectors.ast.networks.student import Student
from cmdiad_train.recipe import Recipe, ast_part
from cmdiad_train.runs.mask import load_kept
from cmdiad_train.runs.tensors import damaged, load_metadata, load_state, load_tensors, save_tensors

EXTRACTOR = "extractor.safetensors"
STANDARDISATION = "standardisation.safetensors"
FLOW = "flow.safetensors"
STUDENT = "student.safetensors"


def load(run: Path, recipe: Recipe) -> AsymmetricStudentTeacher:
    """Load the detector of a finished run.

    Raises:
        RunError: A file is missing or damaged.
    """
    cells = load_cells(run, recipe)
    flow, student = new_flow(recipe, cells), new_student(recipe, cells)
    load_state(flow, load_tensors(run / FLOW), run / FLOW)
    load_state(student, load_tensors(run / STUDENT), run / STUDENT)
    standardise = load_standardisation(run, cells.channels)
    return AsymmetricStudentTeacher(recipe, cells, standardise, flow, student, load_kept(run, recipe))


def new_extractor(recipe: Recipe, *, weights: str | None = None) -> CellFeatures | None:
    """Return the network for images, or None for a recipe without images.

    Args:
        recipe: Recipe of the detector.
        weights: Weights instead of those of the recipe.
    """
    if recipe.modality == "xyz":
        return None
    part = ast_part(recipe)
    spec = part.extractor if weights is None else replace(part.extractor, weights=weights)
    grid, published = recipe.size // part.cell, part.mode == "faithful"
    return CellFeatures(spec, size=recipe.size, grid=grid, seed=recipe.seed, published=published)


def new_flow(recipe: Recipe, cells: Cells) -> Flow:
    """Return an untrained, seeded flow."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return Flow(cells.channels, cells.grid)


def new_student(recipe: Recipe, cells: Cells) -> Student:
    """Return an untrained, seeded student."""
    part = ast_part(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return Student(cells.channels, cells.grid, width=part.student_width, units=part.student_units)


def save_extractor(run: Path, extractor: CellFeatures) -> None:
    """Write the run's copy of the weights of the network for images, with their provenance."""
    save_tensors(run / EXTRACTOR, extractor.state_dict(), {"provenance": extractor.backbone.provenance})


def load_cells(run: Path, recipe: Recipe) -> Cells:
    """Return the features of the cells with the run's copy of the weights. The file of the recipe is not needed."""
    extractor = new_extractor(recipe, weights="seeded")
    if extractor is not None:
        load_state(extractor, load_tensors(run / EXTRACTOR), run / EXTRACTOR)
        provenance = load_metadata(run / EXTRACTOR).get("provenance", extractor.backbone.provenance)
        extractor.backbone.provenance = provenance
    return Cells(recipe, extractor)


def save_standardisation(run: Path, mean: Tensor, deviation: Tensor) -> None:
    """Write mean and deviation float32 `[C, 1, 1]` of the features of good samples."""
    save_tensors(run / STANDARDISATION, {"mean": mean, "deviation": deviation})


def load_standardisation(run: Path, channels: int) -> Standardisation:
    """Return the standardisation that `save_standardisation` wrote.

    Raises:
        RunError: The file is missing or damaged.
    """
    standardise, file = Standardisation(channels), run / STANDARDISATION
    load_state(standardise, load_tensors(file), file)
    mean, deviation = standardise.mean, standardise.deviation
    if not (torch.isfinite(mean).all() and torch.isfinite(deviation).all() and (deviation > 0).all()):
        raise damaged(file, ValueError("a standardisation that is not finite and positive"))
    return standardise
