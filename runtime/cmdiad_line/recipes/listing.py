"""The content of `recipes.json`: the recipes on the disk, and the history of activations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cmdiad_line.recipes.recipe import Recipe
from cmdiad_runtime.support.records import RecordError, fields_from_json, make_tuple, require, require_integer

FORMAT_VERSION = 1
LONGEST_HISTORY = 100


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All recipes of a station.

    Attributes:
        version: Version of the format.
        recipes: Recipes, in the order of their import.
        history: Ids of the recipes that were activated one after the other. The last one is active; `rollback` removes
            it.

    Raises:
        RecordError: A value has the wrong kind, or ids do not fit together.
    """

    version: int = FORMAT_VERSION
    recipes: tuple[Recipe, ...] = ()
    history: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_integer(self, "version", 1, FORMAT_VERSION)
        make_tuple(self, "recipes")
        make_tuple(self, "history")
        ids = [recipe.recipe_id for recipe in self.recipes]
        require(len(ids) == len({*ids}), self, "recipes", "recipes with different ids")
        require(all(entry in ids for entry in self.history), self, "history", "ids of recipes on the disk")

    @staticmethod
    def from_json(value: object) -> Listing:
        """Read the listing from parsed JSON; RecordError if a value is missing or wrong."""
        content = fields_from_json(Listing, value)
        if not isinstance(content.get("recipes"), list):
            raise RecordError("Listing.recipes is no list")
        return Listing(**{**content, "recipes": tuple(map(Recipe.from_json, content["recipes"]))})

    def to_json(self) -> dict[str, Any]:
        """Return the listing as a JSON object."""
        recipes = [recipe.to_json() for recipe in self.recipes]
        return {"version": self.version, "recipes": recipes, "history": list(self.history)}

    @property
    def active_id(self) -> str:
        """Return the id of the active recipe, or "" without one."""
        return self.history[-1] if self.history else ""

    def of(self, recipe_id: str) -> Recipe | None:
        """Return a recipe by its id, or None."""
        return next((recipe for recipe in self.recipes if recipe.recipe_id == recipe_id), None)

    def with_active(self, recipe_id: str) -> Listing:
        """Return the listing with another active recipe. Activating the active recipe changes nothing."""
        if recipe_id == self.active_id:
            return self
        return replace(self, history=(*self.history, recipe_id)[-LONGEST_HISTORY:])

    def with_recipe(self, recipe: Recipe) -> Listing:
        """Return the listing with a recipe added, or replaced if its id is known."""
        if self.of(recipe.recipe_id) is None:
            return replace(self, recipes=(*self.recipes, recipe))
        replaced = (recipe if recipe.recipe_id == known.recipe_id else known for known in self.recipes)
        return replace(self, recipes=tuple(replaced))

    def with_last(self, keep: int, needed: frozenset[str]) -> Listing:
        """Return the listing without old recipes.

        The recipes that stay are the last ones that were added, the last ones that were activated, and the last one of
        each product. So a line that changes between many products keeps them all.

        Args:
            keep: Number of recipes that were added last, and of those that were activated last, at least 2. So the
                active recipe and the one before stay.
            needed: Ids of further recipes that stay.
        """
        ids = [recipe.recipe_id for recipe in self.recipes]
        activated = [*dict.fromkeys(reversed(self.history))]
        products = {recipe.product_id: recipe.recipe_id for recipe in self.recipes if recipe.product_id}
        stay = {*needed, *ids[-keep:], *activated[:keep], *products.values()}
        history = [entry for entry in self.history if entry in stay]
        # Without the recipes in between, one recipe may follow itself.
        history = [entry for i, entry in enumerate(history) if i == 0 or entry != history[i - 1]]
        recipes = tuple(recipe for recipe in self.recipes if recipe.recipe_id in stay)
        return replace(self, recipes=recipes, history=tuple(history))
