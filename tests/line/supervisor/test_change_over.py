"""Preparation and change of recipes with doubles of the store and the inspection process."""

from __future__ import annotations

from pathlib import Path

import pytest

from background_double import Now
from cmdiad_line.recipes.recipe import Recipe
from cmdiad_line.supervisor.change_over import LARGEST_HELD, LOAD_LIMIT_NS, ChangeOver
from cmdiad_line.supervisor.readiness import Readiness
from cmdiad_line.transport.messages import Load, Loaded, Message, NotLoaded, Unload


def make_recipe(recipe_id: str, threshold: float | None = None) -> Recipe:
    return Recipe(
        recipe_id=recipe_id,
        product_id="",
        bundle_digest="0" * 64,
        bundle_name=recipe_id,
        modality="rgb",
        engine="cpu",
        threshold=threshold,
        public_key="",
        imported="2026-11-26T12:00:00+00:00",
    )


class Store:
    def __init__(self) -> None:
        self.recipes = {name: make_recipe(name) for name in "abcd"}
        self.history = ["a"]

    def active(self) -> Recipe | None:
        return self.recipes[self.history[-1]]

    def recipe(self, recipe_id: str) -> Recipe:
        return self.recipes[recipe_id]

    def previous(self) -> Recipe | None:
        return self.recipes[self.history[-2]] if len(self.history) > 1 else None

    def path_of(self, recipe: Recipe) -> Path:
        return Path("/bundles") / recipe.recipe_id

    def activate(self, recipe_id: str) -> Recipe:
        self.history.append(recipe_id)
        return self.recipes[recipe_id]

    def rollback(self) -> Recipe:
        self.history.pop()
        return self.recipes[self.history[-1]]

    def set_threshold(self, recipe_id: str, score: float | None) -> Recipe:
        self.recipes[recipe_id] = make_recipe(recipe_id, score)
        return self.recipes[recipe_id]


class Bench:
    def __init__(self) -> None:
        self.store, self.readiness = Store(), Readiness()
        self.sent: list[Message] = []
        self.problems: list[str] = []
        self.background = Now()
        self.change = ChangeOver(self.store, self.readiness, self.background, self.sent.append)
        self.change.begin(self.store.recipes["a"])
        self.change.inspection_up(0)
        self.answer()

    def answer(self, *, good: bool = True) -> None:
        """Answer all orders to load."""
        orders = [message for message in self.sent if isinstance(message, Load)]
        self.sent[:] = [message for message in self.sent if not isinstance(message, Load)]
        for order in orders:
            if good:
                threshold = order.threshold or 1.0
                self.change.loaded(
                    Loaded(recipe_id=order.recipe_id, modality="rgb", engine="", threshold=threshold, milliseconds=1.0)
                )
            else:
                self.change.not_loaded(NotLoaded(recipe_id=order.recipe_id, message="failed"))


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.background.close()


def test_active_recipe_is_loaded_at_the_start(bench):
    assert bench.readiness.active is not None
    assert bench.readiness.active.recipe_id == "a"


def test_recipe_is_active_only_after_its_self_test(bench):
    bench.change.activate("b", 0, bench.problems.append)
    assert bench.readiness.active_id == "a"
    assert bench.problems == []
    bench.answer()
    assert (bench.readiness.active_id, bench.problems, bench.store.history) == ("b", [""], ["a", "b"])


def test_prepared_recipe_is_activated_without_loading(bench):
    bench.change.prepare("b", 0, bench.problems.append)
    bench.answer()
    loaded = bench.readiness.loaded["b"]
    bench.change.activate("b", 0, bench.problems.append)
    assert bench.sent == []
    assert bench.readiness.active is loaded


def test_recipe_without_its_sensor_is_refused(bench):
    bench.readiness.delivered = frozenset({"xyz"})
    bench.change.activate("b", 0, bench.problems.append)
    bench.answer()
    assert bench.readiness.active_id == "a"
    assert bench.store.history == ["a"]
    assert bench.problems == ["The recipe 'b' needs rgb, which no sensor of the station file delivers."]


def test_failed_self_test_leaves_the_active_recipe(bench):
    bench.change.activate("b", 0, bench.problems.append)
    bench.answer(good=False)
    assert (bench.readiness.active_id, bench.problems, bench.store.history) == ("a", ["failed"], ["a"])
    assert bench.readiness.refusal() is not None  # Only because no process runs here.
    assert bench.readiness.fault is None


def test_answer_to_an_earlier_order_is_not_taken_for_the_last_one(bench):
    bench.change.inspection_down()
    bench.change.inspection_up(0)
    bench.change.threshold("a", 2.5, 0, bench.problems.append)
    bench.change.between_parts(0)
    first, second = bench.sent
    bench.sent[:] = [first]
    bench.answer()
    assert bench.readiness.active is None
    assert bench.problems == []
    bench.sent[:] = [second]
    bench.answer()
    assert bench.readiness.active is not None
    assert (bench.readiness.active.threshold, bench.problems) == (2.5, [""])


def test_failed_self_test_of_the_active_recipe_needs_a_person(bench):
    bench.change.inspection_down()
    bench.change.inspection_up(0)
    bench.answer(good=False)
    assert bench.readiness.fault == ("self-test", "failed")
    assert bench.readiness.active is None


def test_rollback_activates_the_recipe_before(bench):
    bench.change.rollback(0, bench.problems.append)
    assert bench.problems == ["No recipe was active before the present one."]
    bench.change.activate("b", 0, bench.problems.append)
    bench.answer()
    bench.change.rollback(0, bench.problems.append)
    assert (bench.readiness.active_id, bench.problems[1:], bench.store.history) == ("a", ["", ""], ["a"])


def test_changed_threshold_is_another_self_test(bench):
    before = bench.readiness.active
    bench.change.threshold("a", 2.0, 0, bench.problems.append)
    assert bench.readiness.active is before, "a part may be in work"
    bench.change.between_parts(0)
    assert bench.readiness.active is None
    bench.answer()
    after = bench.readiness.active
    assert after is not None
    assert after is not before
    assert after.threshold == 2.0
    assert bench.problems == [""]


def test_surplus_recipes_are_unloaded_but_never_the_active_one(bench):
    for name in "bcd":
        bench.change.activate(name, 0, bench.problems.append)
        bench.answer()
    assert [message for message in bench.sent if isinstance(message, Unload)] == [Unload(recipe_id="a")]
    assert bench.readiness.active_id == "d"
    assert "d" in bench.readiness.loaded


def test_the_recipe_of_the_parts_in_work_is_not_unloaded_by_the_change(bench):
    """It was active since the start of the station, so it is the one that was prepared longest ago."""
    for name in "bcd":
        bench.change.prepare(name, 0, bench.problems.append)
        bench.answer()
    bench.change.activate("d", 0, bench.problems.append)
    assert bench.sent == [Unload(recipe_id="b")]
    assert set(bench.readiness.loaded) == {"a", "c", "d"}


def test_prepared_recipe_is_unloaded_on_request(bench):
    bench.change.prepare("b", 0, bench.problems.append)
    bench.change.unprepare("b", bench.problems.append)
    bench.answer()
    bench.change.unprepare("b", bench.problems.append)
    bench.change.unprepare("b", bench.problems.append)
    bench.change.unprepare("a", bench.problems.append)
    assert bench.problems == [
        "The recipe b is being loaded. Try again later.",
        "",
        "",
        "The recipe b is not prepared.",
        "The recipe a is active.",
    ]
    assert bench.sent == [Unload(recipe_id="b")]
    assert set(bench.readiness.loaded) == {"a"}


def test_recipe_about_to_become_active_is_not_unloaded(bench):
    bench.change.prepare("b", 0, bench.problems.append)
    bench.answer()
    late = bench.background.late = []
    bench.change.activate("b", 0, bench.problems.append)
    bench.background.do(*late.pop())
    bench.change.unprepare("b", bench.problems.append)
    bench.background.do(*late.pop())
    assert bench.problems == ["", "The recipe b is active.", ""]
    assert bench.readiness.active is not None
    assert bench.readiness.active.recipe_id == "b"


def test_unknown_recipe_is_refused(bench):
    bench.change.activate("z", 0, bench.problems.append)
    assert bench.problems == ["'z'"]
    assert bench.readiness.active_id == "a"


def test_load_that_takes_too_long_is_noticed(bench):
    bench.change.prepare("b", 5, bench.problems.append)
    assert not bench.change.overdue(LOAD_LIMIT_NS)
    assert bench.change.overdue(LOAD_LIMIT_NS + 6)


def test_recipes_that_are_only_prepared_do_not_pile_up(bench):
    for name in "bcdbcd":
        bench.change.prepare(name, 0, bench.problems.append)
        assert len(bench.readiness.loaded) < LARGEST_HELD
        bench.answer()
        assert len(bench.readiness.loaded) <= LARGEST_HELD
        assert {"a", name} <= set(bench.readiness.loaded)
    assert bench.problems == [""] * 6


def test_only_some_recipes_are_loaded_at_the_same_time(bench):
    bench.store.recipes["e"] = make_recipe("e")
    for name in "bcdeb":
        bench.change.prepare(name, 0, bench.problems.append)
    assert bench.problems == ["Other recipes are being loaded. Try again later."]
    assert len([message for message in bench.sent if isinstance(message, Load)]) == 3, "b is ordered once"
    bench.answer()
    assert bench.problems[1:] == ["", "", "", ""]
    assert len(bench.readiness.loaded) == LARGEST_HELD


def test_recipe_before_stays_while_others_are_prepared(bench):
    """Parts in work may have it."""
    bench.change.activate("b", 0, bench.problems.append)
    bench.answer()
    for name in "cd":
        bench.change.prepare(name, 0, bench.problems.append)
        bench.answer()
    assert set(bench.readiness.loaded) == {"a", "b", "d"}


def test_order_without_a_process_waits_for_the_next_one(bench):
    """An order that no process received has no answer. It must not be counted as one that is open."""
    bench.change.threshold("a", 2.0, 0, bench.problems.append)
    bench.change.inspection_down()
    bench.change.between_parts(0)
    bench.change.prepare("b", 0, bench.problems.append)
    assert bench.sent == []
    bench.change.inspection_up(0)
    bench.answer()
    assert bench.readiness.active is not None
    assert bench.readiness.active.threshold == 2.0
    assert bench.problems == ["", ""]
    assert not bench.change.overdue(LOAD_LIMIT_NS + 1)


def test_recipe_whose_loading_ends_the_process_is_given_up(bench):
    bench.change.activate("b", 0, bench.problems.append)
    bench.change.inspection_down()
    assert bench.problems == ["The inspection process ended while it loaded the recipe b."]
    bench.change.inspection_up(0)
    assert [message.recipe_id for message in bench.sent[1:]] == ["a"]
    bench.answer()
    assert bench.readiness.active is not None
    assert bench.readiness.active.recipe_id == "a"


def test_active_recipe_is_loaded_again_however_often_the_process_ends(bench):
    for _ in range(3):
        bench.change.inspection_down()
        bench.change.inspection_up(0)
    bench.sent[:] = bench.sent[-1:]
    bench.answer()
    assert bench.readiness.active is not None


def test_two_rollbacks_at_the_same_time_end_with_a_loaded_recipe(bench):
    for name in "bcd":
        bench.change.activate(name, 0, bench.problems.append)
        bench.answer()
    late = bench.background.late = []
    bench.change.rollback(0, bench.problems.append)
    bench.change.rollback(0, bench.problems.append)
    while late:  # Both read the same recipe before, then each goes one activation back.
        bench.background.do(*late.pop(0))
    assert bench.store.history == ["a", "b"]
    assert bench.readiness.active_id == "b"
    bench.answer()
    assert bench.readiness.active is not None
    assert bench.readiness.active.recipe_id == "b"


def test_recipe_that_became_active_while_the_process_ended_is_loaded(bench):
    bench.change.prepare("b", 0, bench.problems.append)
    bench.answer()
    late = bench.background.late = []
    bench.change.activate("b", 0, bench.problems.append)
    bench.background.do(*late.pop())
    for _ in range(2):  # The second process ends while it loads the recipe.
        bench.change.inspection_down()
        bench.change.inspection_up(0)
    bench.change.not_loaded(NotLoaded(recipe_id="b", message="failed"))
    bench.sent.clear()
    bench.background.do(*late.pop())
    bench.answer()
    assert bench.readiness.active is not None
    assert bench.readiness.active.recipe_id == "b"


def test_needed_recipes_are_those_in_memory(bench):
    late = bench.background.late = []
    bench.change.prepare("b", 0, bench.problems.append)
    assert bench.change.needed == {"a", "b"}, "the store looks it up"
    work, then = late.pop()
    then(work(), None)
    assert bench.change.needed == {"a", "b"}
