"""Files of a crossmodal mapping detector in a run directory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from cmdiad_runtime.names import MODALITIES
from cmdiad_train.detectors.cfm.detector import CrossmodalMapping
from cmdiad_train.detectors.cfm.features import Extractors
from cmdiad_train.detectors.cfm.mappings import Mappings
from cmdiad_train.recipe import Recipe, cfm_part
from cmdiad_train.runs.mask import load_kept
from cmdiad_train.runs.tensors import damaged, load_metadata, load_state, load_tensors, save_tensors

EXTRACTORS = "extractors.safetensors"
MAPPINGS = "mappings.safetensors"
CHECKPOINT = "mappings.checkpoint.safetensors"


def load(run: Path, recipe: Recipe) -> CrossmodalMapping:
    """Load the detector of a finished run.

    Raises:
        RunError: A file is missing or damaged.
    """
    extractors = load_extractors(run, recipe)
    mappings = new_mappings(extractors, recipe)
    load_state(mappings, load_tensors(run / MAPPINGS), run / MAPPINGS)
    return CrossmodalMapping(recipe, extractors, mappings, load_kept(run, recipe))


def new_mappings(extractors: Extractors, recipe: Recipe) -> Mappings:
    """Return untrained mappings between the features of two extractors."""
    return Mappings(extractors.xyz.width, extractors.rgb.width, cfm_part(recipe).expansion)


def save_extractors(run: Path, extractors: Extractors) -> None:
    """Write the run's copy of the weights of both extractors, with their provenance."""
    provenance = {modality: getattr(extractors, modality).provenance for modality in MODALITIES}
    metadata = {"provenance": json.dumps(provenance)}  # safetensors writes several entries in an arbitrary order
    save_tensors(run / EXTRACTORS, extractors.state_dict(), metadata)


def load_extractors(run: Path, recipe: Recipe) -> Extractors:
    """Return the extractors with the run's copy of the weights. The files that the recipe names are not needed."""
    part = cfm_part(recipe)
    rgb, normals = (replace(spec, weights="seeded") for spec in (part.rgb, part.normals))
    extractors = Extractors(replace(recipe, detector=replace(part, rgb=rgb, normals=normals)))
    load_state(extractors, load_tensors(run / EXTRACTORS), run / EXTRACTORS)
    stored = _provenance(run / EXTRACTORS)
    for modality in MODALITIES:
        getattr(extractors, modality).provenance = stored[modality]
    return extractors


def _provenance(file: Path) -> dict[str, str]:
    """Return the origin of the weights by modality; RunError if the file does not have them."""
    try:
        provenance = json.loads(load_metadata(file)["provenance"])
        return {modality: str(provenance[modality]) for modality in MODALITIES}
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(file, ValueError(f"no origin of the weights ({error})")) from error
