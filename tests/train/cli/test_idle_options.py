"""No family accepts an option that changes nothing: options of a modality that is not read are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from cmdiad_runtime.errors import CmdiadError
from cmdiad_train.cli.idle_options import IdleOptionError
from cmdiad_train.cli.train import cli, recipes_of
from cmdiad_train.detectors.registry import family_names, family_of, family_options
from cmdiad_train.recipe import Recipe
from helpers import command

IMAGES = {"extractor", "rgb_backbone", "rgb_weights"}
POINTS = {
    f"xyz_{name}" for name in ["groups", "group_size", "width", "depth", "heads", "grid", "normalisation", "weights"]
}
SURFACE = {f"surface_{name}" for name in ["backbone", "stages", "grid", "weights"]}
NETWORK = {"epochs", "batch", "learning_rate", "patience"}
HALLUCINATION = {*NETWORK, "loss", "f2f_output", "distil_validation", "distil_on", "hallucination_context"}

IDLE: dict[tuple[str, ...], set[str]] = {
    ("bank", "rgb"): {*HALLUCINATION, *POINTS, *SURFACE, "xyz_kind"},
    ("bank", "rgb", "--hallucination", "f2f"): set(),
    ("bank", "rgb", "--hallucination", "f2i"): {"f2f_output"},
    ("bank", "xyz"): HALLUCINATION,
    ("bank", "xyz", "--xyz", "point_mae"): {*HALLUCINATION, "rgb_backbone", "rgb_stages", "rgb_grid"},
    ("bank", "both"): HALLUCINATION,
    ("patchcore", "rgb"): {*HALLUCINATION, *POINTS, *SURFACE, "xyz_kind"},
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
    "surface_stages": ("2",),
    "distil_on": ("nut",),
    "distil_validation": ("0.3",),
    "coreset": ("0.37",),
    "hallucination_context": ("3",),
}
"""Values for options without a list of choices or a range of numbers. The preset `standard` is not on this machine, so
it is refused where an image network is made."""


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the weights that are stored on this machine."""
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path))


def recipe(case: Sequence[str], *options: str) -> Recipe:
    family, modality, *given = case
    arguments = ["DATA", "--family", family, "--modality", modality, *given, *options]
    return recipes_of(cli.make_context("cmdiad-train", arguments))[family]


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
        return "ignored" if recipe(case, option.opts[0], value) == without else "used"
    except IdleOptionError as error:
        assert error.option == option.opts[0].removeprefix("--")
        return "idle"
    except (click.UsageError, CmdiadError):
        return "refused"


def test_every_family_is_in_the_table() -> None:
    assert {case[0] for case in IDLE} == {*family_names()}


@pytest.mark.parametrize("case", IDLE, ids=" ".join)
def test_an_option_is_used_or_refused(case: tuple[str, ...]) -> None:
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


def test_the_refusal_is_one_line(data: Path, tmp_path: Path) -> None:
    given = ("--family", "shape-guided", "--modality", "xyz", "--rgb-backbone", "resnet18", "--out", tmp_path / "run")
    ended = command(cli, data, *given)
    assert ended.code == 2 and not (tmp_path / "run").exists()
    assert ended.err.splitlines()[-1] == (
        "Error: --rgb-backbone changes nothing here: with --modality xyz no image is read. Leave out --rgb-backbone."
    )
    ended = command(cli, data, "--family", "shape-guided", "--modality", "both", "--rgb-grid", 8)
    assert ended.code == 2
    assert "--rgb-grid is an option of the family bank, not of shape-guided." in " ".join(ended.err.split())


def test_an_option_that_one_of_several_detectors_uses_is_accepted(data: Path) -> None:
    both = recipes_of(cli.make_context("cmdiad-train", [str(data), "--family", "auto", "--epochs", "3"]))
    assert set(both) == {"bank", "trd"}


def test_detectors_for_any_sensor_share_their_options(data: Path, tmp_path: Path) -> None:
    given = ("--modality", "any", "--hallucination", "none", "--loss", "l2", "--out", tmp_path / "runs")
    ended = command(cli, data, *given)
    assert ended.code == 2 and "--loss changes nothing here: without --hallucination" in " ".join(ended.err.split())
