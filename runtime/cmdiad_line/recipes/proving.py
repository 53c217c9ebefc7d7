"""Verify that a recipe works on this machine: files of the bundle, self-test, and sensors of the station."""

from __future__ import annotations

from pathlib import Path

from cmdiad_line.recipes.recipe import Recipe
from cmdiad_line.recipes.store import RecipeError, RecipeStore
from cmdiad_line.station_file.mistakes import StationFileError
from cmdiad_line.station_file.read import read_station
from cmdiad_line.station_file.source import modalities_of
from cmdiad_runtime.bundle.certificate import compare
from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_runtime.engines import EngineName
from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.open_options import OpenOptions


def prove(store: RecipeStore, recipe_id: str) -> str:
    """Verify a recipe's bundle and run its golden samples, and return one line about it.

    Raises:
        BundleError: The bundle is missing, damaged, replaced, or not signed as required.
        EngineError: The engine is missing, or differs from the certificate by more than the tolerance.
        RecipeError: There is no such recipe.
    """
    store.verify(recipe_id)
    recipe = store.recipe(recipe_id)
    return prove_bundle(store.path_of(recipe), recipe.engine, recipe.public_key or None)


def prove_bundle(path: Path, engine: EngineName, public_key: str | None = None) -> str:
    """Verify a bundle and run its golden samples, and return one line about it. Raises as `prove`."""
    with Inspector.open(path, OpenOptions(engine=engine, require_signature=public_key)) as inspector:
        bundle = inspector.bundle
        golden = read_golden(bundle.golden)
        compared = compare(inspector.engine, bundle.precision, golden, bundle.certified_calibration, bundle.tolerance)
        identity = inspector.engine.identity
    if not compared.passed:
        raise EngineError(
            path,
            found=f"a self-test that failed: score within {compared.score_max_share:.2%} of the threshold",
            expected=f"at most {bundle.tolerance.score:.2%}, and the same verdicts",
            action="run cmdiad-run --self-test on this device, or use another engine",
        )
    return f"Self-test passed on {identity}: {len(golden)} golden samples, {compared.score_max_share:.2%} difference."


def require_sensors(recipe: Recipe, file: Path) -> None:
    """Raise RecipeError if a station has no sensor that a recipe needs.

    Args:
        recipe: The recipe.
        file: Station file. Without a file, or with one of an earlier version, the station decides at its start.
    """
    try:
        station = read_station(file, running=True)
    except StationFileError:
        return
    delivered = {name for source in station.sources for name in modalities_of(source.delivers)}
    for modality in modalities_of(recipe.modality):
        if modality not in delivered:
            raise RecipeError(
                f"recipe {recipe.recipe_id}",
                found=f"a bundle that inspects {modality}",
                expected=f"a source in {file} that delivers {modality}",
                action="add the source to the station file, or activate another recipe",
            )
