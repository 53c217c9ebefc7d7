"""Pull a bundle and add it to a station as a recipe, by the function of `cmdiad-line recipe add`.

A stopped station is activated by the function of `cmdiad-line recipe activate`, a running one activates itself.
"""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

from cmdiad_fleet.artefact.proof import Proof
from cmdiad_fleet.artefact.pull import Pulled, Source, pull
from cmdiad_fleet.artefact.running_station import RunningStation, station_token
from cmdiad_line.cli.recipe import activate_recipe, add_recipe
from cmdiad_line.cli.state_argument import is_running, state_of
from cmdiad_line.recipes.store import ImportOptions, RecipeStore
from cmdiad_line.records.database import database_path
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.lock import lock_folder
from cmdiad_runtime.support.reporter import Reporter

FOLDER = "pulls"
"""Folder in the state folder of a station where pulled bundles lie until they are recipes."""


@dataclass(frozen=True, kw_only=True)
class HandOver:
    """Station that receives a bundle, and choices for the new recipe.

    Attributes:
        state: State folder of the station.
        recipe_id: Id of the new recipe.
        product_id: Id of the product from the plant, or "".
        activate: True to make the recipe the active one.
        token_file: File with the token for a running station, or None for the environment variable.
    """

    state: Path
    recipe_id: str
    product_id: str = ""
    activate: bool = False
    token_file: Path | None = None


def station_state(place: Path) -> Path:
    """Return the state folder of a station that exists.

    Args:
        place: State folder with the records of a station, or station file.

    Raises:
        OutputError: There is no such folder or file, or the folder is no state folder.
        StationFileError: The station file has mistakes.
    """
    records = database_path(place)
    if place.is_dir() and not records.is_file():
        raise OutputError(
            place,
            found=f"a folder without {records.name}",
            expected="the state folder of a station",
            action="pass its station file, or start the station once",
        )
    return state_of(place)


def pull_to_station(source: Source, station: HandOver, proof: Proof, reporter: Reporter) -> Pulled:
    """Receive a bundle and add it to a station as a recipe. A killed call leaves the recipes as they were, or complete.

    Args:
        source: Artefact and places.
        station: Station and choices for the recipe.
        proof: Requirements for the bundle. The key becomes the recipe's, for each start of the station.
        reporter: Receiver of progress.

    Raises:
        RecipeError: The id stands for another bundle.
        StationError: The running station cannot be reached or is not ready; nothing was received. Or the station
            refuses the recipe, which stays in the store and is not active.
        CmdiadError: See `pull`, `add_recipe` and `activate_recipe`.
    """
    if station.activate and is_running(station.state):
        with _interface(station) as interface:
            interface.require_ready()
    folder = station.state / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / "bundle.cmdiad"
    with lock_folder(folder):
        try:
            pulled = pull(source, target, proof, reporter, replace_target=True)
            options = ImportOptions(
                recipe_id=station.recipe_id,
                product_id=station.product_id,
                engine=proof.engine,
                public_key=proof.public_key,
            )
            add_recipe(station.state, target, options, {"artefact": str(pulled.address), "name": str(source.reference)})
        finally:
            shutil.rmtree(target, ignore_errors=True)
        if station.activate:
            _activate(station, reporter)
    return pulled


def _activate(station: HandOver, reporter: Reporter) -> None:
    """Make the new recipe the active one. The station may have been started or stopped during the transfer."""
    if not is_running(station.state):
        activate_recipe(station.state, station.recipe_id)
        return
    digest = RecipeStore(station.state).recipe(station.recipe_id).bundle_digest
    with _interface(station) as interface:
        interface.require_ready()
        interface.activate(station.recipe_id, digest, reporter)
    reporter.say(f"the running station is ready with {station.recipe_id}, bundle {digest}")


def _interface(station: HandOver) -> AbstractContextManager[RunningStation]:
    return closing(RunningStation(station.state, station_token(station.token_file)))
