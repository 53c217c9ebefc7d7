"""The rows of the paper's tables as values of one option, and what a faithful recipe lacks of the paper's protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import click

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.names import Sensors
from cmdiad_train.extractors.store import stored_file
from cmdiad_train.recipe import PUBLISHED_RECIPE, PUBLISHED_RGB, Hallucination, Recipe, bank_part

_FREE = {"paper", "rgb_weights", "xyz_weights"}
"""Options of the family that a row leaves open: the files of the published weights."""
_NOT_COMMON = {"detector", "seed", "false_reject_rate", "mask"}
"""Fields of a recipe that a row leaves open, or that belong to the family."""
_IMPORT_POINTS = "cmdiad-extractor import pointmae_pretrain.pth"
_IMPORT_IMAGES = f"cmdiad-extractor import FILE --kind dino --backbone {PUBLISHED_RGB.backbone}"
"""Command for a file that does not name its release; a file name alone does not prove one."""


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's tables.

    Attributes:
        modality: Modality that inspection measures.
        hallucination: Replacement of the missing modality.
    """

    modality: Sensors
    hallucination: Hallucination = "none"

    @property
    def sees_images(self) -> bool:
        """Return True if images are measured or trained on."""
        return self.modality != "xyz" or self.hallucination != "none"

    @property
    def sees_points(self) -> bool:
        """Return True if clouds are measured or trained on."""
        return self.modality != "rgb" or self.hallucination != "none"

    def options(self) -> dict[str, Any]:
        """Return the values of the options of `cmdiad-train` that the row sets, by parameter name.

        Source: the published code, docs/method.md sections 1, 2, 5, 6 and 9.
        """
        common = {f.name: getattr(PUBLISHED_RECIPE, f.name) for f in fields(Recipe) if f.name not in _NOT_COMMON}
        return {
            **common,
            "mode": "faithful",
            "modality": self.modality,
            "hallucination": self.hallucination,
            "distil_on": None if self.hallucination == "none" else "all",
            "rgb_mask": "cloud" if self.sees_images else "none",
        }


def row_of(name: str) -> PaperRow:
    """Return the row that a value of `--paper` names, for example "xyz-f2f"."""
    modality, _, hallucination = name.partition("-")
    return PaperRow(modality, hallucination or "none")  # type: ignore[arg-type]


def check_row(options: Mapping[str, Any], family_options: tuple[click.Option, ...]) -> None:
    """Raise click.UsageError if an option contradicts the row that `--paper` names.

    Args:
        options: Values of all options by parameter name.
        family_options: Options of the family; those that a row does not set must not be used.
    """
    name = options.get("paper")
    if name is None:
        return
    values = row_of(name).options()
    own = {str(option.name) for option in family_options} - _FREE
    for option in sorted(own | set(values)):
        if option in options and options[option] != values.get(option):
            passed = "modality" if option == "image_modality" else option  # --modality sets both
            text, value = passed.replace("_", "-").removesuffix("-kind"), values.get(passed)
            expected = f"leaves --{text} unset" if value is None else f"sets --{text} {value}"
            raise click.UsageError(f"--paper {name} {expected}, as in the paper. Leave out --{text} or --paper.")


def check_weights_of_row(recipe: Recipe) -> None:
    """Raise RunError if a recipe with a row of the paper has other weights than published ones."""
    part = bank_part(recipe)
    if part.paper is None:
        return
    row = row_of(part.paper)
    if row.sees_points and (part.points is None or part.points.weights == "seeded"):
        raise RunError(
            f"--paper {part.paper}",
            found="no weights of Point-MAE on this machine",
            action=f"run: {_IMPORT_POINTS}, or pass --xyz-weights FILE (cmdiad-bench paper: --set xyz-weights=FILE)",
        )
    if row.sees_images and (part.rgb.backbone != PUBLISHED_RGB.backbone or part.rgb.weights == "seeded"):
        raise RunError(
            f"--paper {part.paper}",
            found=f"weights {part.rgb.weights} of {part.rgb.backbone}",
            expected=f"weights of {PUBLISHED_RGB.backbone}",
            action=f"run: cmdiad-extractor fetch {PUBLISHED_RGB.backbone}, or for a file of these weights: "
            f"{_IMPORT_IMAGES}; leave out --rgb-weights",
        )


def stored_weights(name: str) -> str | None:
    """Return the stored file of published weights, or None if they were neither fetched nor imported."""
    file = stored_file(name)
    return None if file is None else str(file)


def missing_of_protocol(recipe: Recipe) -> list[str]:
    """Return one line for each part of the paper's protocol that a faithful recipe lacks.

    Results of such a recipe must not be compared with published figures.
    """
    part = bank_part(recipe)
    row = PaperRow(recipe.modality, part.hallucination)
    missing = []
    if row.sees_images and recipe.rgb_mask == "none":
        missing.append("images are blacked out outside the part: add --rgb-mask cloud")
    if part.hallucination != "none" and not part.distillation.categories:
        missing.append("the network is trained on all categories: add --distil-on all")
    if row.sees_points and (part.points is None or part.points.network != "point_mae"):
        missing.append("clouds are seen by Point-MAE: leave out --xyz, or add --xyz point_mae")
    elif part.points is not None and row.sees_points and part.points.weights == "seeded":
        missing.append(f"the point extractor has trained weights: run {_IMPORT_POINTS}, or add --xyz-weights FILE")
    if row.sees_images and part.rgb.backbone != PUBLISHED_RGB.backbone:
        missing.append(f"images are seen by {PUBLISHED_RGB.backbone}: leave out --extractor, --rgb-backbone and files")
    elif row.sees_images and part.rgb.weights == "seeded":
        missing.append("the image extractor has trained weights: leave out --rgb-weights seeded")
    if row.sees_images and part.rgb.layers:
        missing.append("features are those of the last block, normalised: leave out --rgb-layers")
    return [f"The paper's protocol differs from this training: {line}." for line in missing]
