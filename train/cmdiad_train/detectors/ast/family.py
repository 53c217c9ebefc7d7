"""The family of AST: places where a student cannot follow a normalising flow are anomalies."""

from __future__ import annotations

import torch
from torch import nn

from cmdiad_train.detectors.ast.fitting.fit import fit
from cmdiad_train.detectors.ast.networks.cells import Cells
from cmdiad_train.detectors.ast.options import OPTIONS
from cmdiad_train.detectors.ast.preprocessing import make_preprocessing, preferred_view
from cmdiad_train.detectors.ast.recipe_options import recipe_from, remarks
from cmdiad_train.detectors.ast.run_files import load, new_extractor, new_flow, new_student
from cmdiad_train.detectors.family import Family
from cmdiad_train.recipe import AstRecipe, Recipe

_CHECKPOINTS = 8
"""A checkpoint holds a network four times: weights, best weights and two moments of Adam. A new one replaces the old.
"""


def check_weights(recipe: Recipe) -> int:
    """Build the image network once, so that missing weights are reported early; return the size of all networks.

    The size in bytes includes the largest checkpoint while it is replaced.
    """
    cells = Cells(recipe, new_extractor(recipe))
    with torch.device("meta"):
        student = new_student(recipe, cells)
    return _bytes(cells) + _bytes(new_flow(recipe, cells)) + (1 + _CHECKPOINTS) * _bytes(student)


def _bytes(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in network.state_dict().values())


AST = Family(
    name=AstRecipe.family,
    part=AstRecipe,
    options=OPTIONS,
    recipe=recipe_from,
    remarks=remarks,
    preprocessing=make_preprocessing,
    fit=fit,
    load=load,
    preferred_view=preferred_view,
    check=check_weights,
)
