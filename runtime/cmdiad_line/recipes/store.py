"""The store of recipes in the state folder: bundles by digest, and the file `recipes.json`.

Changes are atomic and flushed to the disk. One process at a time makes a change, which takes milliseconds. The store is
independent of the parts in work, so the supervisor activates a recipe between two parts.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cmdiad_line.recipes.listing import Listing
from cmdiad_line.recipes.recipe import Recipe
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.copied import copy_files
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.bundle.threshold import adjusted
from cmdiad_runtime.colour import GreyRange
from cmdiad_runtime.engines import EngineName
from cmdiad_runtime.errors import BundleError, CmdiadError, OutputError
from cmdiad_runtime.support.files import atomic_directory, remove_leftovers, write_json
from cmdiad_runtime.support.lock import lock_folder
from cmdiad_runtime.support.records import RecordError
from cmdiad_runtime.support.regular_file import read_regular

KEEP = 5
"""Number of recipes that stay on the disk, see `Listing.with_last`."""
KEEP_ALL = 1_000_000
"""Value of `ImportOptions.keep` that removes no recipe. A running station removes old ones itself, because only the
station knows which of them are prepared."""
_FILE = "recipes.json"
_LIMIT = 4 << 20  # bytes
_WAIT_S = 10.0


class RecipeError(CmdiadError):
    """A recipe is missing, or cannot be used as requested."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Choices for a new recipe.

    Attributes:
        recipe_id: Id of the recipe.
        product_id: Id of the product from the plant, or "".
        engine: Name of the engine.
        public_key: Public key file that must verify the bundle's signature, or None.
        threshold: Raw score threshold instead of the bundle's, or None.
        false_reject_rate: Rate in (0, 1) to compute the score threshold for from the bundle's held-out scores, or None.
        keep: Number of recipes that stay on the disk, see `RecipeStore.keep_last`.
        needed: Ids of recipes that stay in any case.
    """

    recipe_id: str
    product_id: str = ""
    engine: EngineName = "cpu"
    public_key: Path | None = None
    threshold: float | None = None
    false_reject_rate: float | None = None
    keep: int = KEEP
    needed: Collection[str] = ()


class RecipeStore:
    """Recipes of a station.

    Args:
        state: State folder of the station, which must exist.
    """

    def __init__(self, state: Path) -> None:
        self._file = state / _FILE
        self._bundles = state / "bundles"
        self._bundles.mkdir(exist_ok=True)

    def list(self) -> tuple[Recipe, ...]:
        """Return all recipes, in the order of their import."""
        return self._read().recipes

    def active(self) -> Recipe | None:
        """Return the active recipe, or None if no recipe was activated yet."""
        listing = self._read()
        return listing.of(listing.active_id)

    def recipe(self, recipe_id: str) -> Recipe:
        """Return a recipe by its id.

        Raises:
            RecipeError: There is no such recipe.
        """
        return _required(self._read(), recipe_id)

    def path_of(self, recipe: Recipe) -> Path:
        """Return the folder of a recipe's bundle."""
        return self._bundles / recipe.bundle_digest

    def import_bundle(self, path: Path, options: ImportOptions) -> Recipe:
        """Copy a bundle into the store as a new recipe, which is not active yet.

        The import of the same bundle under the same id and with the same choices again returns the stored recipe.

        Args:
            path: Folder of the bundle.
            options: Choices for the recipe.

        Raises:
            BundleError: The bundle is damaged, not signed as required, or has no held-out scores for a rate.
            RecipeError: The id stands for another bundle.
            OutputError: The bundle cannot be copied.
        """
        bundle = Bundle.open(path, require_signature=options.public_key)
        recipe = _new_recipe(bundle, options)
        recipe = _as_stored(self._read(), recipe)
        self._copy(bundle, recipe, options.public_key)
        with self._change() as change:
            recipe = _as_stored(change.listing, recipe)  # Another process may have changed the listing meanwhile.
            if not self.path_of(recipe).exists():  # It may have removed another recipe with this bundle.
                self._copy(bundle, recipe, options.public_key)
            listing = change.listing.with_recipe(recipe)
            change.listing = listing.with_last(options.keep, frozenset({*options.needed, recipe.recipe_id}))
        return recipe

    def keep_last(self, keep: int, needed: frozenset[str]) -> tuple[str, ...]:
        """Remove old recipes, and the bundles that no recipe uses any more; see `Listing.with_last`.

        Args:
            keep: Number of recipes that were added last, and of those that were activated last, that stay; at least 2.
            needed: Ids of further recipes that stay: those that are prepared, and those that candidates are to replace.

        Returns:
            Ids of the removed recipes.

        Raises:
            OutputError: The listing cannot be read or written. Nothing was removed.
        """
        with self._change() as change:
            before, change.listing = change.listing, change.listing.with_last(keep, needed)
        return tuple(known.recipe_id for known in before.recipes if change.listing.of(known.recipe_id) is None)

    def verify(self, recipe_id: str) -> Bundle:
        """Verify the bundle of a recipe: digest, the hash of every file, and the signature if one is required.

        Raises:
            BundleError: The bundle is missing, damaged, replaced, or not signed as required.
            RecipeError: There is no such recipe.
        """
        recipe = self.recipe(recipe_id)
        bundle = Bundle.open(self.path_of(recipe), require_signature=recipe.public_key or None)
        digest = manifest_hash(bundle.manifest)
        if digest != recipe.bundle_digest:
            raise BundleError(
                self.path_of(recipe),
                found=f"a bundle with the digest {digest}",
                expected=f"the bundle of the recipe {recipe_id}",
                action="add the recipe again under another id; the bundle in the store was replaced",
            )
        return bundle

    def activate(self, recipe_id: str) -> Recipe:
        """Make a recipe the active one, and return it.

        The caller verifies the bundle and runs its self-test first.

        Raises:
            RecipeError: There is no such recipe.
        """
        with self._change() as change:
            recipe = _required(change.listing, recipe_id)
            change.listing = change.listing.with_active(recipe_id)
        return recipe

    def previous(self) -> Recipe | None:
        """Return the recipe that `rollback` would activate, or None if there is none."""
        listing = self._read()
        return listing.of(listing.history[-2]) if len(listing.history) > 1 else None

    def rollback(self) -> Recipe:
        """Activate the recipe that was active before, and return it. Each call goes one activation further back.

        Raises:
            RecipeError: No recipe was active before.
        """
        with self._change() as change:
            if len(change.listing.history) < 2:
                raise RecipeError(
                    "",
                    found="no recipe was active before the present one",
                    action="activate a recipe by its id",
                )
            change.listing = replace(change.listing, history=change.listing.history[:-1])
            return _required(change.listing, change.listing.active_id)

    def set_threshold(self, recipe_id: str, score: float | None) -> Recipe:
        """Change the score threshold of a recipe, and return the changed recipe.

        Args:
            recipe_id: Id of the recipe.
            score: Raw score, or None for the threshold of the bundle.

        Raises:
            RecipeError: There is no such recipe, or the score is not a positive number.
        """
        with self._change() as change:
            try:
                recipe = replace(_required(change.listing, recipe_id), threshold=score)
            except RecordError as error:
                raise RecipeError(
                    "threshold", found=f"{score!r:.40}", expected="a positive score", action="pass another score"
                ) from error
            change.listing = change.listing.with_recipe(recipe)
        return recipe

    def _read(self) -> Listing:
        try:
            return Listing.from_json(json.loads(read_regular(self._file, _LIMIT)))
        except FileNotFoundError:
            return Listing()
        except (OSError, ValueError, RecursionError) as error:
            raise OutputError(
                self._file,
                found=f"a file that cannot be used ({error})",
                expected="the recipes of the station",
                action="restore the file from a copy, or remove it and add the recipes again",
            ) from error

    @contextmanager
    def _change(self) -> Iterator[_Change]:
        """Yield the listing for a change; write the changed one, and remove bundles that no recipe uses any more."""
        with lock_folder(self._bundles, wait_s=_WAIT_S):
            change = _Change(self._read())
            before = change.listing
            yield change
            if change.listing != before or not self._file.exists():
                remove_leftovers(self._file)
                write_json(self._file, change.listing.to_json())
            used = {recipe.bundle_digest for recipe in change.listing.recipes}
            gone = {recipe.bundle_digest for recipe in before.recipes} - used
            for digest in gone:
                shutil.rmtree(self._bundles / digest, ignore_errors=True)

    def _copy(self, bundle: Bundle, recipe: Recipe, public_key: Path | None) -> None:
        """Copy the files that the manifest lists, and verify the copy before it has its name."""
        target = self.path_of(recipe)
        if _is_bundle(target, recipe.bundle_digest, public_key):
            return
        shutil.rmtree(target, ignore_errors=True)  # A damaged copy is replaced.
        with atomic_directory(target) as folder:
            copy_files(bundle, folder)
            copied = manifest_hash(Bundle.open(folder, require_signature=public_key).manifest)
            if copied != recipe.bundle_digest:
                raise BundleError(
                    bundle.path,
                    found="a bundle that was changed while it was copied",
                    expected="a bundle that nobody changes",
                    action="repeat the import",
                )


@dataclass
class _Change:
    listing: Listing


def _is_bundle(path: Path, digest: str, public_key: Path | None) -> bool:
    """Return True if there is an intact bundle with this digest."""
    try:
        return path.exists() and manifest_hash(Bundle.open(path, require_signature=public_key).manifest) == digest
    except BundleError:
        return False


def _new_recipe(bundle: Bundle, options: ImportOptions) -> Recipe:
    if isinstance(bundle.preprocessing.colour, GreyRange):  # Arrays of sources have levels of another range.
        raise RecipeError(
            bundle.name,
            found="a bundle for grey images of 16 bits",
            expected="a bundle for images of 8 bits, which the sources of a station deliver",
            action="train on images of 8 bits, or inspect files with cmdiad-run",
        )
    threshold = options.threshold
    if options.false_reject_rate is not None:
        threshold = adjusted(bundle, false_reject_rate=options.false_reject_rate).calibration.score_threshold
    try:
        return Recipe(
            recipe_id=options.recipe_id,
            product_id=options.product_id,
            bundle_digest=manifest_hash(bundle.manifest),
            bundle_name=bundle.name,
            modality=bundle.preprocessing.modality,
            engine=options.engine,
            threshold=threshold,
            public_key="" if options.public_key is None else str(options.public_key.resolve()),
            imported=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )
    except RecordError as error:
        raise RecipeError("", found=str(error), action="change the value") from error


def _as_stored(listing: Listing, recipe: Recipe) -> Recipe:
    """Return the stored recipe of the same id, which keeps its time and a threshold that was changed since.

    Without one, return the new recipe.

    Raises:
        RecipeError: The stored recipe has another bundle or other choices.
    """
    known = listing.of(recipe.recipe_id)
    if known is None:
        return recipe
    if replace(recipe, imported=known.imported, threshold=known.threshold) == known:
        return known
    raise RecipeError(
        known.recipe_id,
        found="a recipe of this id with another bundle or other choices",
        expected="an id that stands for one bundle for ever",
        action=f"choose another id, for example {_next_id(known.recipe_id)}",
    )


def _next_id(recipe_id: str) -> str:
    """Return an id with the next number at its end: gear becomes gear-2, gear-2 becomes gear-3."""
    stem, _, number = recipe_id.rpartition("-")
    return f"{stem}-{int(number) + 1}" if stem and number.isdecimal() else f"{recipe_id}-2"


def _required(listing: Listing, recipe_id: str) -> Recipe:
    recipe = listing.of(recipe_id)
    if recipe is None:
        known = ", ".join(entry.recipe_id for entry in listing.recipes) or "none yet"
        raise RecipeError(
            "",
            found=f"there is no recipe {recipe_id!r:.80}",
            expected=f"one of the recipes of this station: {known}",
            action="add it with cmdiad-line recipe add",
        )
    return recipe
