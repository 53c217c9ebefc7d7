"""Acceptance of a candidate, which becomes a recipe only after certificate, self-test and replay."""

from __future__ import annotations

from pathlib import Path

from cmdiad_line.recipes.proving import prove_bundle
from cmdiad_line.recipes.recipe import Recipe
from cmdiad_line.recipes.store import KEEP_ALL, ImportOptions, RecipeError, RecipeStore
from cmdiad_line.records.audit import note_change
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.review.candidate import read_candidate
from cmdiad_line.review.lineage import judged_defects
from cmdiad_line.review.places import BUNDLE, candidate_folder
from cmdiad_line.review.replay import Replay, read_replay
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.manifest import manifest_hash


def accept_candidate(
    state: Path, records: RecordReader, name: str, user: str, *, accept_unchecked: bool = False
) -> tuple[Recipe, str]:
    """Make a recipe of a candidate. The recipe is not active yet.

    Args:
        state: State folder of the station, which may be running.
        records: Records of the station.
        name: Name of the candidate.
        user: Account, for the audit log.
        accept_unchecked: True to accept judged defects that could not be replayed because no picture is left.

    Returns:
        The recipe, and one line about the self-test.

    Raises:
        BundleError: The bundle is damaged, or not signed although the recipe that it replaces requires a signature.
        EngineError: The self-test failed.
        RecipeError: The candidate was not replayed as it is, or judged defects would become OK.
        RecordsError: The audit log cannot be written.
    """
    candidate = read_candidate(state, name)
    store = RecipeStore(state)
    base = store.recipe(candidate.base_recipe)
    path = candidate_folder(state, name) / BUNDLE
    bundle = Bundle.open(path, require_signature=base.public_key or None)
    replay = read_replay(state, name)
    defects = {part.acquisition_id for part in judged_defects(state, records, base)}
    _require_valid(replay, manifest_hash(bundle.manifest), defects, name, accept_unchecked=accept_unchecked)
    proof = prove_bundle(path, base.engine, base.public_key or None)
    details = {
        "bundle_digest": replay.bundle_digest,
        "replaces": base.recipe_id,
        "threshold": bundle.calibration.score_threshold,
        "changed": len(replay.changed),
        "still_missed": [part.acquisition_id for part in replay.still_missed],
        "unchecked": [part.acquisition_id for part in replay.not_replayed],
    }
    note_change(state, user, "candidate-accepted", name, details)
    options = ImportOptions(
        recipe_id=name,
        product_id=base.product_id,
        engine=base.engine,
        public_key=Path(base.public_key) if base.public_key else None,
        keep=KEEP_ALL,
    )
    return store.import_bundle(path, options), proof


def _require_valid(replay: Replay, digest: str, defects: set[int], name: str, *, accept_unchecked: bool) -> None:
    """Raise RecipeError unless the replay shows that no judged defect becomes OK."""
    again = f"run: cmdiad-line candidate replay STATE {name}"
    if replay.bundle_digest != digest:
        raise RecipeError(
            name, found="a bundle that was changed after its replay", expected="a replay of this bundle", action=again
        )
    missing = sorted(defects - {part.acquisition_id for part in replay.parts if part.judgement == "defect"})
    if missing:
        raise RecipeError(
            name,
            found=f"parts that were judged defective after the replay ({', '.join(map(str, missing[:10]))})",
            expected="a replay of all judged defects",
            action=again,
        )
    if replay.newly_missed:
        ids = ", ".join(f"part {part.acquisition_id}" for part in replay.newly_missed[:10])
        raise RecipeError(
            name,
            found=f"judged defects that would become OK ({ids})",
            expected="a candidate that rejects every defect that is rejected now",
            action="make a candidate with a lower threshold, or train again with the judged parts",
        )
    if replay.not_replayed and not accept_unchecked:
        raise RecipeError(
            name,
            found=f"judged defects without a picture, which nobody can check: {len(replay.not_replayed)}",
            expected="pictures of all judged defects",
            action="accept the candidate with --accept-unchecked if these parts do not matter",
        )
