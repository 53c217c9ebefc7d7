"""The family of AST: places where a student cannot follow a normalising flow are anomalies."""

from __future__ import annotations

import torch

from cmdiad_train.detectors.ast.fitting.fit import fit
from cmdiad_train.detectors.ast.networks.cells import Cells
from cmdiad_train.detectors.ast.options import OPTIONS
from cmdiad_train.detectors.ast.preprocessing import make_preprocessing, preferred_view
from cmdiad_train.detectors.ast.recipe_options import idle_options, recipe_from, remarks
from cmdiad_train.detectors.ast.run_files import load, new_extractor, new_flow, new_student
from cmdiad_train.detectors.family import Family
from cmdiad_train.detectors.network_size import CHECKPOINT_COPIES, network_bytes
from cmdiad_train.recipe import AstRecipe, Recipe


def check_weights(recipe: Recipe) -> int:
    """Build the image network once, so that missing weights are reported early; return the size of all networks.

    The size in bytes includes the largest checkpoint while it is replaced.
    """
    cells = Cells(recipe, new_extractor(recipe))
    with torch.device("meta"):
        student = new_student(recipe, cells)
    return network_bytes(cells, new_flow(recipe, cells)) + (1 + CHECKPOINT_COPIES) * network_bytes(student)


AST = Family(
    name=AstRecipe.family,
    part=AstRecipe,
    options=OPTIONS,
    recipe=recipe_from,
    remarks=remarks,
    idle=idle_options,
    preprocessing=make_preprocessing,
    fit=fit,
    load=load,
    preferred_view=preferred_view,
    check=check_weights,
)
