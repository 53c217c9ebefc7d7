"""The store of recipes keeps copies of bundles by digest, the active recipe and the way back."""

from __future__ import annotations

import json
import shutil

import pytest

from cmdiad_line.recipes.store import ImportOptions, RecipeError, RecipeStore
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.change import sign_bundle
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.bundle.signature import new_key
from cmdiad_runtime.bundle.threshold import calibrate, calibrate_threshold
from cmdiad_runtime.errors import BundleError, OutputError
from graphs import tiny_bundle

HELD_OUT = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 4.75, 5.0]


@pytest.fixture
def state(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def bundle(tmp_path):
    calibration = calibrate(HELD_OUT, HELD_OUT, 0.1).to_json()
    return tiny_bundle(tmp_path / "tiny.cmdiad", calibration=calibration)


@pytest.fixture
def store(state):
    return RecipeStore(state)


def named(bundle, name):
    """Return another bundle: one with another name."""
    return tiny_bundle(bundle.with_name(f"{name}.cmdiad"), name=name)


def add(store, bundle, recipe_id, **changes):
    return store.import_bundle(bundle, ImportOptions(recipe_id=recipe_id, **changes))


def folders(state):
    return {path.name for path in (state / "bundles").iterdir() if path.is_dir()}


def test_recipe_is_a_verified_copy_by_digest(state, store, bundle):
    recipe = add(store, bundle, "gear", product_id="A-17")
    assert recipe.bundle_digest == manifest_hash(Bundle.open(bundle).manifest)
    assert store.path_of(recipe) == state / "bundles" / recipe.bundle_digest
    shutil.rmtree(bundle)
    assert store.verify("gear").name == "tiny"
    assert (recipe.product_id, recipe.modality, recipe.threshold) == ("A-17", "xyz", None)
    assert store.list() == (recipe,)
    assert RecipeStore(state).recipe("gear") == recipe
    assert store.active() is None


def test_rate_becomes_the_threshold_of_the_recipe(store, bundle):
    recipe = add(store, bundle, "gear", false_reject_rate=0.3)
    assert recipe.threshold == pytest.approx(calibrate_threshold(HELD_OUT, 0.3).value)


def test_same_import_again_is_one_recipe_and_keeps_the_changed_threshold(store, bundle):
    add(store, bundle, "gear", threshold=5.0)
    changed = store.set_threshold("gear", 6.0)
    assert add(store, bundle, "gear", threshold=5.0) == changed
    assert len(store.list()) == 1


def test_threshold_that_is_changed_during_the_same_import_again_is_kept(store, bundle, monkeypatch):
    add(store, bundle, "gear", threshold=5.0)
    copy = store._copy

    def copy_while_an_engineer_lowers_the_threshold(*arguments):
        copy(*arguments)
        store.set_threshold("gear", 4.0)

    monkeypatch.setattr(store, "_copy", copy_while_an_engineer_lowers_the_threshold)
    assert add(store, bundle, "gear", threshold=5.0).threshold == 4.0
    assert store.recipe("gear").threshold == 4.0


def test_id_stands_for_one_bundle_for_ever(store, bundle):
    add(store, bundle, "gear-2")
    with pytest.raises(RecipeError, match="gear-3"):
        add(store, named(bundle, "other"), "gear-2")


@pytest.mark.parametrize("recipe_id", ["", "../gear", "a b", "x" * 65, ".gear"])
def test_impossible_id_is_refused(state, store, bundle, recipe_id):
    with pytest.raises(RecipeError):
        add(store, bundle, recipe_id)
    assert folders(state) == set()


def test_rollback_goes_one_activation_back(state, store, bundle):
    for name in ("one", "two", "three"):
        add(store, named(bundle, name), name)
        store.activate(name)
    assert store.active().recipe_id == "three"
    assert store.previous().recipe_id == "two"
    assert store.rollback().recipe_id == "two"
    assert RecipeStore(state).active().recipe_id == "two"
    assert store.rollback().recipe_id == "one"
    with pytest.raises(RecipeError, match="before the present one"):
        store.rollback()
    assert store.active().recipe_id == "one"


def test_activation_of_the_active_recipe_is_no_step(store, bundle):
    add(store, bundle, "one")
    add(store, named(bundle, "two"), "two")
    for name in ("one", "two", "two"):
        store.activate(name)
    assert store.rollback().recipe_id == "one"


def test_unknown_recipe_is_refused_with_the_known_ones(store, bundle):
    add(store, bundle, "gear")
    with pytest.raises(RecipeError, match="gear"):
        store.activate("bolt")
    with pytest.raises(RecipeError):
        store.set_threshold("bolt", 1.0)


@pytest.mark.parametrize("score", [0.0, -1.0, float("nan"), 1e13])
def test_impossible_threshold_is_refused(store, bundle, score):
    before = add(store, bundle, "gear")
    with pytest.raises(RecipeError, match="positive score"):
        store.set_threshold("gear", score)
    assert store.recipe("gear") == before


def test_last_added_and_last_activated_recipes_stay(state, store, bundle):
    for number in range(6):
        add(store, named(bundle, f"r{number}"), f"r{number}", keep=9)
    for name in ("r2", "r3", "r1", "r3", "r0"):
        store.activate(name)
    add(store, named(bundle, "r6"), "r6", keep=2, needed=("r4",))
    assert [recipe.recipe_id for recipe in store.list()] == ["r0", "r3", "r4", "r5", "r6"]
    assert folders(state) == {recipe.bundle_digest for recipe in store.list()}
    assert store.rollback().recipe_id == "r3"
    assert store.keep_last(2, frozenset({"r4"})) == ("r0",), "it was rolled back, so it counts as never activated"
    assert store.keep_last(2, frozenset()) == ("r4",)


def test_last_recipe_of_each_product_stays(store, bundle):
    for number, product in enumerate(("A", "A", "B", "", "", "")):
        add(store, named(bundle, f"r{number}"), f"r{number}", product_id=product, keep=9)
    assert store.keep_last(2, frozenset()) == ("r0", "r3")
    assert [recipe.recipe_id for recipe in store.list()] == ["r1", "r2", "r4", "r5"]


def test_bundle_that_another_process_removes_during_an_import_is_copied_again(store, bundle, monkeypatch):
    """The import of the bundle of an old recipe finds the bundle there, and then the old recipe leaves."""
    add(store, bundle, "old")
    for name in ("b", "c"):
        add(store, named(bundle, name), name, keep=9)
    copy = RecipeStore._copy

    def copy_then_remove(self, *arguments):
        copy(self, *arguments)
        monkeypatch.setattr(RecipeStore, "_copy", copy)
        assert store.keep_last(2, frozenset()) == ("old",)

    monkeypatch.setattr(RecipeStore, "_copy", copy_then_remove)
    add(store, bundle, "new", keep=9)
    assert store.verify("new").name == "tiny"


def test_bundle_of_two_recipes_stays_until_both_have_left(state, store, bundle):
    add(store, bundle, "a")
    shared = add(store, bundle, "b", threshold=4.0).bundle_digest
    add(store, named(bundle, "c"), "c", keep=2)
    assert [recipe.recipe_id for recipe in store.list()] == ["b", "c"]
    assert shared in folders(state)


def test_replaced_bundle_is_noticed_and_mended_by_another_import(store, bundle):
    recipe = add(store, bundle, "gear")
    shutil.rmtree(store.path_of(recipe))
    shutil.copytree(named(bundle, "other"), store.path_of(recipe))
    with pytest.raises(BundleError, match="was replaced"):
        store.verify("gear")
    add(store, bundle, "gear")
    assert store.verify("gear").name == "tiny"


def test_damaged_bundle_is_refused_and_leaves_nothing(state, store, bundle):
    (bundle / "graph.onnx").write_bytes(b"nothing")
    with pytest.raises(BundleError):
        add(store, bundle, "gear")
    assert folders(state) == set()
    assert store.list() == ()


def test_required_signature_is_verified_at_import_and_later(tmp_path, store, bundle):
    pytest.importorskip("cryptography")
    public = new_key(tmp_path / "key")
    with pytest.raises(BundleError, match="signature"):
        add(store, bundle, "gear", public_key=public)
    sign_bundle(bundle, tmp_path / "key")
    recipe = add(store, bundle, "gear", public_key=public)
    store.verify("gear")
    (store.path_of(recipe) / "manifest.sig").unlink()
    with pytest.raises(BundleError, match="signature"):
        store.verify("gear")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"version": 2, "recipes": [], "history": []}',
        '{"version": 1, "recipes": [], "history": ["gear"]}',
        '{"version": 1, "recipes": [{}], "history": []}',
    ],
)
def test_damaged_list_is_refused(state, store, content):
    (state / "recipes.json").write_text(content)
    with pytest.raises(OutputError, match="recipes.json"):
        store.list()


def test_list_on_the_disk_has_no_traces_of_a_change(state, store, bundle):
    add(store, bundle, "gear")
    store.activate("gear")
    content = json.loads((state / "recipes.json").read_text())
    assert content["history"] == ["gear"]
    assert sorted(path.name for path in state.iterdir()) == ["bundles", "recipes.json"]
