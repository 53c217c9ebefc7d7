"""The table of detector families. Importing this module loads no torch, so that `--help` is fast."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cmdiad_runtime.errors import RunError

if TYPE_CHECKING:
    import click

    from cmdiad_train.detectors.family import Family

DEFAULT = "bank"
_BUILT_IN = {
    "bank": ("cmdiad_train.detectors.bank.family:BANK", "cmdiad_train.detectors.bank.options:OPTIONS"),
    "trd": ("cmdiad_train.detectors.trd.family:TRD", "cmdiad_train.detectors.trd.options:OPTIONS"),
    "ast": ("cmdiad_train.detectors.ast.family:AST", "cmdiad_train.detectors.ast.options:OPTIONS"),
    "patchcore": (
        "cmdiad_train.detectors.bank.patchcore:PATCHCORE",
        "cmdiad_train.detectors.bank.options:PATCHCORE_OPTIONS",
    ),
    "cfm": ("cmdiad_train.detectors.cfm.family:CFM", "cmdiad_train.detectors.cfm.options:OPTIONS"),
    "m3dm": ("cmdiad_train.detectors.m3dm.family:M3DM", "cmdiad_train.detectors.m3dm.options:OPTIONS"),
    "shape-guided": (
        "cmdiad_train.detectors.shape_guided.family:SHAPE_GUIDED",
        "cmdiad_train.detectors.shape_guided.options:OPTIONS",
    ),
    "dsr3d": ("cmdiad_train.detectors.dsr3d.family:DSR3D", "cmdiad_train.detectors.dsr3d.options:OPTIONS"),
}
"""Where the families of this package and their command-line options are, by name. To add a family, add a line."""
AUTO = "auto"
"""Value of `cmdiad-train --family` that lets the good samples choose among `CHOSEN_FROM`."""
CHOSEN_FROM = ("bank", "trd")
"""Families that `--family auto` trains. The others are comparators, or need both sensors."""
_REGISTERED: dict[str, Family] = {}


def register(family: Family) -> None:
    """Add a detector family at run time, so that recipes, runs, export and `cmdiad-train --family NAME` accept it.

    Registering a family of the same name again replaces the earlier one.
    """
    from cmdiad_train.recipe import register_part

    register_part(family.part)
    _REGISTERED[family.name] = family


def unregister(name: str) -> None:
    """Remove a family that was registered at run time, with its recipe part."""
    from cmdiad_train.recipe import unregister_part

    unregister_part(name)
    _REGISTERED.pop(name, None)


def family_of(name: str) -> Family:
    """Return the family with this name.

    Raises:
        RunError: There is no such family.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in _BUILT_IN:
        raise RunError(
            "recipe family",
            found=name,
            expected=f"one of {', '.join(family_names())}",
            action="Update cmdiad, or install the package that adds the family",
        )
    family: Family = _load(_BUILT_IN[name][0])
    return family


def family_names() -> tuple[str, ...]:
    """Return the names of all families, the default family first."""
    return tuple(dict.fromkeys([*_BUILT_IN, *_REGISTERED]))


def family_options(name: str) -> tuple[click.Option, ...]:
    """Return the options that a family adds to `cmdiad-train`."""
    if name in _REGISTERED:
        return _REGISTERED[name].options
    options: tuple[click.Option, ...] = _load(_BUILT_IN[name][1])
    return options


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
