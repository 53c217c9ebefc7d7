"""The recipes that the inspection process holds, and the change from one to another between two parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cmdiad_line.recipes.recipe import Recipe
from cmdiad_line.supervisor.background import Background
from cmdiad_line.supervisor.readiness import LoadedRecipe, Readiness
from cmdiad_line.transport.messages import Load, Loaded, Message, NotLoaded, Unload

LARGEST_HELD = 3
"""Recipes in memory: the active one, the one before, and one that is prepared. Also the largest number that are being
loaded at the same time; each of them stays in memory until it has its answer."""
LOAD_LIMIT_NS = 300 * 10**9
"""Time after which an inspection process that loads a recipe is taken for hung."""

Then = Callable[[str], None]
"""Called at the end of a change with "", or with the reason why it failed."""


class Store(Protocol):
    """The part of `cmdiad_line.recipes.store.RecipeStore` that a change needs."""

    def active(self) -> Recipe | None:
        """Return the active recipe."""

    def recipe(self, recipe_id: str) -> Recipe:
        """Return a recipe by its id."""

    def previous(self) -> Recipe | None:
        """Return the recipe that was active before."""

    def path_of(self, recipe: Recipe) -> Path:
        """Return the folder of a recipe's bundle."""

    def activate(self, recipe_id: str) -> Recipe:
        """Make a recipe the active one."""

    def rollback(self) -> Recipe:
        """Activate the recipe that was active before."""

    def set_threshold(self, recipe_id: str, score: float | None) -> Recipe:
        """Change the threshold of a recipe."""


class ChangeOver:
    """Loads recipes and changes the active one.

    Args:
        store: Recipes on the disk.
        readiness: Facts of the station.
        background: Thread for the store.
        send: Sends a message to the inspection process.
    """

    def __init__(
        self, store: Store, readiness: Readiness, background: Background, send: Callable[[Message], None]
    ) -> None:
        self._store, self._readiness, self._background, self._send = store, readiness, background, send
        self._up = False  # True while the inspection process takes orders.
        self._before = ""  # Recipe that was active before: parts in work may have it.
        self._held: dict[str, Recipe] = {}  # Recipes to load into every new process, in the order of their last use.
        self._ordered: dict[str, deque[tuple[Load, int]]] = {}
        self._waiting: dict[str, list[Then]] = {}
        self._replaced: set[str] = set()
        self._asked: list[str] = []  # Recipes that the store is looking up.
        self._next: list[str] = []  # Recipes that the store is making active.

    @property
    def needed(self) -> frozenset[str]:
        """Return the ids of the recipes that must stay on the disk: in memory, or about to be there."""
        return frozenset({*self._held, *self._asked, *self._next})

    def begin(self, recipe: Recipe) -> None:
        """Hold the recipe that was active when the station started."""
        self._held[recipe.recipe_id] = recipe
        self._readiness.active_id = recipe.recipe_id

    def inspection_up(self, now_ns: int) -> None:
        """Load all held recipes into a new inspection process, the active one first."""
        self._up = True
        for recipe in sorted(self._held.values(), key=lambda recipe: recipe.recipe_id != self._readiness.active_id):
            self._order(recipe, now_ns)

    def inspection_down(self) -> None:
        """Forget what the process had loaded, and give up the recipes that it was loading, except the active one.

        A recipe whose loading ends the process would otherwise end every new one, too, until the station gives up.
        """
        self._up = False
        self._readiness.loaded.clear()
        loading, self._ordered = [*self._ordered], {}
        for recipe_id in loading:
            if not self._is_in_use(recipe_id):
                self._held.pop(recipe_id, None)
                self._finish(recipe_id, f"The inspection process ended while it loaded the recipe {recipe_id}.")

    def overdue(self, now_ns: int) -> bool:
        """Return True if a recipe has been loading for too long."""
        return any(now_ns - orders[0][1] > LOAD_LIMIT_NS for orders in self._ordered.values())

    def loaded(self, message: Loaded) -> None:
        """Note a recipe that has passed its self-test."""
        load = self._answered(message.recipe_id)
        if load is None:
            return
        self._readiness.loaded[message.recipe_id] = LoadedRecipe(
            recipe_id=message.recipe_id,
            bundle_digest=load.bundle_digest,
            modality=message.modality,
            engine=message.engine,
            threshold=message.threshold,
        )
        if message.recipe_id == self._readiness.active_id:
            self._readiness.fault = None
        self._finish(message.recipe_id, "")
        self._unload_surplus()

    def not_loaded(self, message: NotLoaded) -> None:
        """Note a recipe that cannot be used. Without the active recipe the station needs a person."""
        if self._answered(message.recipe_id) is None:
            return
        if message.recipe_id == self._readiness.active_id:
            self._readiness.loaded.pop(message.recipe_id, None)
            self._readiness.fault = "self-test", message.message
        else:
            self._held.pop(message.recipe_id, None)
        self._finish(message.recipe_id, message.message)

    def prepare(self, recipe_id: str, now_ns: int, then: Then) -> None:
        """Load a recipe next to the active one. The recipe that was used longest ago makes room for it."""

        def hold(recipe: Recipe, error: Exception | None) -> None:
            self._asked.remove(recipe_id)
            if error is not None:
                then(str(error))
            elif recipe_id not in self._loading and len(self._loading) >= LARGEST_HELD:
                then("Other recipes are being loaded. Try again later.")
            else:
                self._hold(recipe, now_ns, then)

        self._asked.append(recipe_id)
        self._background.submit(lambda: self._store.recipe(recipe_id), hold)

    def unprepare(self, recipe_id: str, then: Then) -> None:
        """Unload a recipe that is neither active nor about to become active."""
        if self._is_in_use(recipe_id):
            then(f"The recipe {recipe_id} is active.")
        elif recipe_id in self._loading:
            then(f"The recipe {recipe_id} is being loaded. Try again later.")
        elif recipe_id not in self._held:
            then(f"The recipe {recipe_id:.60} is not prepared.")
        else:
            self._unload(recipe_id)
            then("")

    def activate(self, recipe_id: str, now_ns: int, then: Then) -> None:
        """Load a recipe if needed, then use it from the next part on."""
        self.prepare(recipe_id, now_ns, lambda problem: self._switch(recipe_id, problem, now_ns, then))

    def rollback(self, now_ns: int, then: Then) -> None:
        """Use the recipe that was active before, from the next part on."""

        def hold(recipe: Recipe | None, error: Exception | None) -> None:
            if recipe is None:
                then(str(error or "No recipe was active before the present one."))
                return
            self._hold(recipe, now_ns, lambda problem: self._switch(recipe.recipe_id, problem, now_ns, then, back=True))

        self._background.submit(self._store.previous, hold)

    def threshold(self, recipe_id: str, score: float | None, now_ns: int, then: Then) -> None:
        """Change the threshold of a recipe on the disk and, if it is loaded, in the engine between two parts."""

        def reload(recipe: Recipe, error: Exception | None) -> None:
            if error is not None or recipe_id not in self._held:
                then("" if error is None else str(error))
                return
            self._held[recipe_id] = recipe
            self._waiting.setdefault(recipe_id, []).append(then)
            self._replaced.add(recipe_id)

        self._background.submit(lambda: self._store.set_threshold(recipe_id, score), reload)

    def between_parts(self, now_ns: int) -> None:
        """Replace the recipes whose threshold was changed. Call only while no part is in work."""
        for recipe_id in self._replaced & set(self._held):
            self._readiness.loaded.pop(recipe_id, None)
            self._order(self._held[recipe_id], now_ns)
        self._replaced.clear()

    def _hold(self, recipe: Recipe, now_ns: int, then: Then) -> None:
        held = self._held.pop(recipe.recipe_id, None)
        self._held[recipe.recipe_id] = recipe
        if held == recipe and recipe.recipe_id in self._readiness.loaded:
            then("")
            return
        self._waiting.setdefault(recipe.recipe_id, []).append(then)
        if held != recipe or recipe.recipe_id not in self._ordered:
            self._unload_surplus()
            self._order(recipe, now_ns)

    def _switch(self, recipe_id: str, problem: str, now_ns: int, then: Then, *, back: bool = False) -> None:
        loaded = self._readiness.loaded.get(recipe_id)
        problem = problem or (self._readiness.lack(loaded) if loaded else "")
        if problem:
            then(problem)
            return

        def use(recipe: Recipe, error: Exception | None) -> None:
            self._next.remove(recipe_id)
            if error is not None:
                then(str(error))
                return
            if recipe.recipe_id != self._readiness.active_id:
                self._before, self._readiness.active_id = self._readiness.active_id, recipe.recipe_id
            self._readiness.fault = None
            then("")
            # After two rollbacks at the same time, or a restart of the process, the recipe may not be loaded.
            self._hold(recipe, now_ns, lambda problem: None)
            self._unload_surplus()

        self._next.append(recipe_id)
        self._background.submit(lambda: self._store.rollback() if back else self._store.activate(recipe_id), use)

    def _is_in_use(self, recipe_id: str) -> bool:
        """Return True for the active recipe and for one that is about to become active."""
        return recipe_id == self._readiness.active_id or recipe_id in self._next

    @property
    def _loading(self) -> set[str]:
        """Return the recipes that the process loads, or that wait for a process."""
        return {*self._ordered, *self._waiting}

    def _unload_surplus(self) -> None:
        """Unload the recipes that were used longest ago, except those that are in use or being loaded."""
        surplus = len(self._held) - LARGEST_HELD
        busy = {self._before, *self._loading, *self._replaced}
        idle = [recipe_id for recipe_id in self._held if recipe_id not in busy and not self._is_in_use(recipe_id)]
        for recipe_id in idle[: max(surplus, 0)]:
            self._unload(recipe_id)

    def _unload(self, recipe_id: str) -> None:
        del self._held[recipe_id]
        self._readiness.loaded.pop(recipe_id, None)
        self._send(Unload(recipe_id=recipe_id))

    def _order(self, recipe: Recipe, now_ns: int) -> None:
        """Have the process load a recipe. Without a process, `inspection_up` orders all held recipes later."""
        if not self._up:
            return
        load = Load(
            recipe_id=recipe.recipe_id,
            path=str(self._store.path_of(recipe)),
            bundle_digest=recipe.bundle_digest,
            engine=recipe.engine,
            threshold=recipe.threshold,
            public_key=recipe.public_key,
        )
        self._ordered.setdefault(recipe.recipe_id, deque()).append((load, now_ns))
        self._send(load)

    def _answered(self, recipe_id: str) -> Load | None:
        """Return the order that an answer belongs to, or None if a newer order for the same recipe waits.

        Orders are answered one after another. The answer to an earlier order must not be taken for that to the last
        one: digest and threshold would be those of another order.
        """
        orders = self._ordered.pop(recipe_id, deque())
        if len(orders) == 1:
            return orders[0][0]
        if orders:
            orders.popleft()
            self._ordered[recipe_id] = orders
        return None

    def _finish(self, recipe_id: str, problem: str) -> None:
        for then in self._waiting.pop(recipe_id, []):
            then(problem)
