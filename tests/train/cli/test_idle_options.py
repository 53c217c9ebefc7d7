"""Every option of a family is used, refused, or named in a warning: it changes nothing in this detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from cmdiad_runtime.errors import CmdiadError
from cmdiad_train.cli.idle_options import idle_options, warnings
from cmdiad_train.cli.train import cli, recipes_of
from cmdiad_train.detectors.registry import family_names, family_of, family_options
from cmdiad_train.recipe import Recipe
from helpers import command

IMAGES = {"extractor", "rgb_backbone", "rgb_weights"}
POINTS = {
    f"xyz_{name}" for name in ["groups", "group_size", "width", "depth", "heads", "grid", "normalisation", "weights"]
}
SURFACE = {f"surface_{name}" for name in ["backbone", "stages", "layers", "grid", "weights"]}
NETWORK = {"epochs", "batch", "learning_rate", "patience"}
OF_F2F = {"alignment", "hallucination_targets", "hallucination_coordinates", "hallucination_context"}
HALLUCINATION = {*NETWORK, *OF_F2F, "loss", "f2f_output", "distil_validation", "distil_on"}

IDLE: dict[tuple[str, ...], set[str]] = {
    ("bank", "rgb"): {*HALLUCINATION, *POINTS, *SURFACE, "xyz_kind"} - {"surface_weights"},  # They may set the size.
    ("bank", "rgb", "--hallucination", "f2f"): set(),
    ("bank", "rgb", "--hallucination", "f2f", "--partner", "infrared"): {*POINTS, *SURFACE, "xyz_kind"}
    - {"surface_weights"},
    ("bank", "rgb", "--hallucination", "f2i"): {"f2f_output"},
    ("bank", "xyz"): HALLUCINATION,
    ("bank", "xyz", "--xyz", "point_mae"): {*HALLUCINATION, "rgb_backbone", "rgb_stages", "rgb_layers", "rgb_grid"},
    ("bank", "both"): HALLUCINATION,
    ("patchcore", "rgb"): {*HALLUCINATION, *POINTS, *SURFACE, "xyz_kind"} - {"surface_weights"},
    ("trd", "rgb"): {"geometry"},
    ("trd", "rgb", "--variant", "mtfi-rd"): set(),
    ("trd", "xyz"): set(),
    ("trd", "both"): set(),
    ("ast", "rgb"): {"geometry"},
    ("ast", "xyz"): IMAGES,
    ("ast", "both"): set(),
    ("cfm", "both"): set(),
    ("m3dm", "rgb"): set(),
    ("m3dm", "xyz"): set(),
    ("m3dm", "both"): set(),
    ("m3dm", "both", "--feature-fusion", "none"): {*NETWORK, "pairing", "temperature"},
    ("m3dm", "both", "--mode", "faithful"): {"series"},
    ("shape-guided", "xyz"): IMAGES,
    ("shape-guided", "both"): set(),
    ("dsr3d", "rgb"): {"geometry"},
    ("dsr3d", "xyz"): set(),
    ("dsr3d", "both"): set(),
}
"""Options that change nothing, by family, modality and further options of the command line."""

VALUES = {
    "extractor": ("small", "standard"),
    "rgb_backbone": ("resnet18",),
    "surface_backbone": ("resnet18",),
    "rgb_weights": ("seeded",),
    "surface_weights": ("seeded",),
    "xyz_weights": ("seeded", "no.pth"),
    "rgb_stages": ("2",),
    "rgb_layers": ("2",),
    "surface_stages": ("2",),
    "surface_layers": ("2",),
    "distil_on": ("nut",),
    "distil_validation": ("0.3",),
    "coreset": ("0.37",),
    "hallucination_context": ("3",),
    "alignment": ("0.1",),
    "partner": ("infrared",),
    "registered": ("",),  # A flag has no value.
}
"""Values for options without a list of choices or a range of numbers. The preset `standard` is not on this machine, so
it is refused where an image network is made."""


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the weights that are stored on this machine."""
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path))


def arguments_of(case: Sequence[str]) -> list[str]:
    family, modality, *given = case
    return ["DATA", "--family", family, "--modality", modality, *given]


def recipe(case: Sequence[str]) -> Recipe:
    return recipes_of(cli.make_context("cmdiad-train", arguments_of(case)))[case[0]]


def values_of(option: click.Option) -> tuple[str, ...]:
    if isinstance(option.type, click.Choice):
        return tuple(map(str, option.type.choices)) if option.name not in VALUES else VALUES[option.name]
    if isinstance(option.type, click.types.IntRange):
        return ("17", "16", "48")
    if isinstance(option.type, click.types.FloatRange):
        return ("0.37",)
    return VALUES[str(option.name)]


def answer(case: Sequence[str], option: click.Option, value: str, without: Recipe) -> str:
    try:
        context = cli.make_context(
            "cmdiad-train", [*arguments_of(case), option.opts[0], *([] if option.is_flag else [value])]
        )
        (found,) = recipes_of(context).values()
    except (click.UsageError, CmdiadError):
        return "refused"
    if idle_options(context, [found]):
        return "idle"
    return "ignored" if found == without else "used"


def test_every_family_is_in_the_table() -> None:
    assert {case[0] for case in IDLE} == {*family_names()}


@pytest.mark.parametrize("case", IDLE, ids=" ".join)
def test_an_option_is_used_refused_or_named(case: tuple[str, ...]) -> None:
    without = recipe(case)
    assert set(family_of(case[0]).idle(without)) == IDLE[case]
    for option in family_options(case[0]):
        if option.opts[0] in case or option.name == "paper":  # A row of the paper is another modality.
            continue
        answers = {answer(case, option, value, without) for value in values_of(option)}
        if option.name in IDLE[case]:
            # The recipe itself refuses a few of them, with another reason.
            assert answers <= {"idle", "refused"}, (option.name, answers)
        else:
            assert answers & {"used", "refused"} and "idle" not in answers, (option.name, answers)


def test_the_warning_is_one_line() -> None:
    given = ("DATA", "--family", "shape-guided", "--modality", "xyz", "--rgb-backbone", "resnet18")
    context = cli.make_context("cmdiad-train", list(given))
    expected = "warning: --rgb-backbone changes nothing: with --modality xyz no image is read"
    assert warnings(context, recipes_of(context).values()) == [expected]


def test_an_option_of_another_family_is_refused(data: Path) -> None:
    ended = command(cli, data, "--family", "shape-guided", "--modality", "both", "--rgb-grid", 8)
    assert ended.code == 2
    assert "--rgb-grid is an option of the family bank, not of shape-guided." in " ".join(ended.err.split())


def test_an_option_that_one_of_several_detectors_uses_has_no_warning() -> None:
    context = cli.make_context("cmdiad-train", ["DATA", "--family", "auto", "--epochs", "3"])
    recipes = recipes_of(context)
    assert set(recipes) == {"bank", "trd"}
    assert warnings(context, recipes.values()) == []
    assert len(warnings(context, [recipes["bank"]])) == 1


@pytest.mark.parametrize("modality", ["rgb", "any"])
def test_training_prints_the_warning(data: Path, tmp_path: Path, modality: str) -> None:
    given = ("--modality", modality, "--hallucination", "none", "--loss", "l2", "--view", "sensor")
    # The run folder is a file, so the training ends after the warnings.
    (tmp_path / "run").write_text("")
    ended = command(cli, data, *given, "--out", tmp_path / "run")
    assert ended.code != 0
    assert "warning: --loss changes nothing: without --hallucination" in ended.err
