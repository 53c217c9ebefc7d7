"""`cmdiad-line recipe`: add, list, activate and roll back recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from cmdiad_line.cli.state_argument import STATE, is_running, present_user, state_of, stopped_station
from cmdiad_runtime.cli.options import false_reject_rate, new_threshold, refuse_both_thresholds
from cmdiad_runtime.engines import ENGINE_NAMES, EngineName
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.command_line import CommandGroup, option_group

if TYPE_CHECKING:
    from cmdiad_line.recipes.store import ImportOptions, RecipeStore

HELP = """Recipes of the station STATE: bundles by digest, each for one product.

Adding a recipe works at any time. Activation and rollback need a stopped station; a running one is switched on
the engineer page, by the PLC, OPC UA, REST or cmdiad-fleet pull. Every change is written to the audit log.
"""
EXAMPLES = (
    "cmdiad-line recipe add station.toml gear.cmdiad --id gear-2 --product A-17",
    "cmdiad-line recipe list station.toml",
    "cmdiad-line recipe activate station.toml gear-2",
    "cmdiad-line recipe rollback station.toml",
)
EXIT_CODES = {
    1: "no such recipe, or the id stands for another bundle",
    4: "bundle damaged, replaced, or not signed as required",
    5: "engine unusable, or the self-test failed",
    6: "the station is running, or the state folder cannot be used",
}


def add_recipe(
    state: Path, bundle: Path, options: ImportOptions, details: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Add a bundle to a station, running or not, as a recipe that is not active yet. Note that in the audit log.

    Args:
        state: State folder of the station.
        bundle: Folder of the bundle.
        options: Choices for the recipe. A running station removes old recipes itself.
        details: Further facts for the audit log as JSON values.

    Raises:
        BundleError: The bundle is damaged, or not signed as required.
        RecipeError: The id stands for another bundle.
        OutputError: The state folder cannot be used.
    """
    from cmdiad_line.recipes.store import KEEP_ALL, RecipeStore
    from cmdiad_line.records.audit import note_change
    from cmdiad_line.review.lineage import recipes_to_replace

    store = RecipeStore(state)
    if is_running(state):
        options = replace(options, keep=KEEP_ALL)
    else:
        options = replace(options, needed=recipes_to_replace(state, [recipe.recipe_id for recipe in store.list()]))
    added = store.import_bundle(bundle, options)
    noted = {"bundle_digest": added.bundle_digest, **details}
    note_change(state, present_user(), "recipe-added", added.recipe_id, noted)
    click.echo(f"{added.recipe_id}: {printable(added.bundle_name)}, {added.modality}, digest {added.bundle_digest}")
    for doubt in _doubts(store, added.recipe_id):
        click.echo(f"warning: {doubt}", err=True)


def _doubts(store: RecipeStore, recipe_id: str) -> list[str]:
    """Return the reasons why a recipe may let defects pass: doubts about its threshold, and those of the training."""
    from cmdiad_runtime.bundle.threshold import adjusted
    from cmdiad_runtime.cli.threshold_text import doubts_about

    bundle = adjusted(store.verify(recipe_id), score=store.recipe(recipe_id).threshold)
    return [*doubts_about(bundle.calibration), *map(printable, bundle.training_doubts)]


def activate_recipe(state: Path, recipe_id: str, place: Path | None = None) -> None:
    """Make a recipe the active one of a stopped station, after verification and self-test.

    Args:
        state: State folder of the station.
        recipe_id: Id of the recipe.
        place: Station file with the sensors, or another path for the copy of the last run.

    Raises:
        OutputError: The station is running, or the state folder cannot be used.
        BundleError: The bundle is damaged, or not signed as required.
        EngineError: The self-test failed.
        RecipeError: There is no such recipe, or the station has no sensor for it.
    """
    from cmdiad_line.recipes.proving import prove, require_sensors
    from cmdiad_line.recipes.store import RecipeStore
    from cmdiad_line.records.audit import note_change

    with stopped_station(state):
        store = RecipeStore(state)
        require_sensors(store.recipe(recipe_id), _station_file(state, place))
        click.echo(prove(store, recipe_id))
        note_change(state, present_user(), "activate", recipe_id, {})
        store.activate(recipe_id)
    click.echo(f"{recipe_id} is the active recipe.")


def _station_file(state: Path, place: Path | None) -> Path:
    """Return the station file if it was named, otherwise the copy of the last run, which may be missing."""
    return place if place is not None and place.is_file() else state / "run" / "station.toml"


@click.group("recipe", cls=CommandGroup, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
def recipe() -> None:
    """See HELP."""


@recipe.command(
    "add",
    help="Copy BUNDLE into the state folder of STATE as a new recipe. The recipe is not active yet.",
    examples=(
        EXAMPLES[0],
        "cmdiad-line recipe add station.toml gear.cmdiad --id gear-3 --public-key line.pub",
    ),
    exit_codes=EXIT_CODES,
)
@STATE
@click.argument("bundle", type=click.Path(path_type=Path))
@option_group(
    "Recipe",
    click.option("--id", "recipe_id", required=True, metavar="ID", help="Id of the recipe."),
    click.option("--product", "product_id", default="", metavar="ID", help="Id of the product from the plant."),
    click.option("--engine", type=click.Choice(ENGINE_NAMES), default="cpu", help="Engine, as in cmdiad-run."),
    new_threshold("Raw score above which a part is NG."),
    false_reject_rate("Rate to compute the threshold for, from the held-out scores of the bundle."),
    click.option(
        "--public-key",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Public key that must verify the signature of the bundle, now and at each start.",
    ),
)
@option_group(
    "Disk",
    click.option(
        "--keep",
        type=click.IntRange(2, 1000),
        default=5,
        help="Number of recipes that stay on the disk: those that were added last, those that were activated last, and "
        "the last one of each product. A running station uses keep in [recipe].",
    ),
)
def add(  # noqa: PLR0913 - one parameter for each option
    place: Path,
    bundle: Path,
    recipe_id: str,
    product_id: str,
    engine: EngineName,
    threshold: float | None,
    false_reject_rate: float | None,
    public_key: Path | None,
    keep: int,
) -> None:
    """See the help text."""
    refuse_both_thresholds(threshold, false_reject_rate)
    from cmdiad_line.recipes.store import ImportOptions

    options = ImportOptions(
        recipe_id=recipe_id,
        product_id=product_id,
        engine=engine,
        public_key=public_key,
        threshold=threshold,
        false_reject_rate=false_reject_rate,
        keep=keep,
    )
    add_recipe(state_of(place), bundle, options)


@recipe.command(
    "list",
    help="List the recipes of STATE, oldest first. An asterisk marks the active one.",
    examples=("cmdiad-line recipe list station.toml", "cmdiad-line recipe list /var/lib/cmdiad"),
)
@STATE
def list_recipes(place: Path) -> None:
    """See the help text."""
    from cmdiad_line.recipes.store import RecipeStore

    store = RecipeStore(state_of(place))
    active = store.active()
    for entry in store.list():
        mark = "*" if active is not None and entry.recipe_id == active.recipe_id else " "
        threshold = "threshold of the bundle" if entry.threshold is None else f"threshold {entry.threshold:.6g}"
        product = f", product {printable(entry.product_id)}" if entry.product_id else ""
        click.echo(
            f"{mark} {entry.recipe_id}  {printable(entry.bundle_name)}, {entry.modality}, {threshold}{product}, "
            f"digest {entry.bundle_digest[:16]}, added {entry.imported}"
        )


@recipe.command(
    "activate",
    help="Make the recipe ID the active one of the stopped station STATE, after verification and self-test.",
    examples=("cmdiad-line recipe activate station.toml gear-2", "cmdiad-line recipe activate /var/lib/cmdiad gear-2"),
    exit_codes=EXIT_CODES,
)
@STATE
@click.argument("recipe_id", metavar="ID")
def activate(place: Path, recipe_id: str) -> None:
    """See the help text."""
    activate_recipe(state_of(place), recipe_id, place)


@recipe.command(
    "rollback",
    help="Activate the recipe that was active before in the stopped station STATE, after verification and self-test.",
    examples=("cmdiad-line recipe rollback station.toml", "cmdiad-line recipe rollback /var/lib/cmdiad"),
    exit_codes=EXIT_CODES,
)
@STATE
def rollback(place: Path) -> None:
    """See the help text."""
    from cmdiad_line.recipes.proving import prove, require_sensors
    from cmdiad_line.recipes.store import RecipeStore
    from cmdiad_line.records.audit import note_change

    state = state_of(place)
    with stopped_station(state):
        store = RecipeStore(state)
        before = store.previous()
        if before is not None:
            require_sensors(before, _station_file(state, place))
            click.echo(prove(store, before.recipe_id))
            note_change(state, present_user(), "rollback", before.recipe_id, {})
        active = store.rollback()
    click.echo(f"{active.recipe_id} is the active recipe.")
