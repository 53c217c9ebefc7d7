"""A candidate: a bundle that judged parts have changed, and that is not a recipe yet."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmdiad_line.recipes.recipe import Recipe
from cmdiad_line.recipes.store import RecipeError, RecipeStore
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.records.stored import Selection
from cmdiad_line.review.evidence import Evidence, collect_evidence, peak_of
from cmdiad_line.review.lineage import judged_defects
from cmdiad_line.review.places import BUNDLE, PARTS, RECORD, candidate_folder, candidates_folder
from cmdiad_line.review.samples import BAD, GOOD, copy_sample
from cmdiad_line.station_file.recipe import RECIPE_ID
from cmdiad_runtime.bundle.add_sessions import GoodParts, with_sessions
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.change import change_bundle
from cmdiad_runtime.bundle.copied import copy_files
from cmdiad_runtime.bundle.integrity import MANIFEST, SIGNATURE
from cmdiad_runtime.bundle.threshold import adjusted
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.names import Verdict as VerdictKind
from cmdiad_runtime.support.files import atomic_directory, write_json
from cmdiad_runtime.support.records import fields_from_json
from cmdiad_runtime.support.regular_file import read_regular

_LIMIT = 1 << 20  # bytes
_DIGITS = 16
"""Hexadecimal digits that stand for a part in the calibration of a bundle."""


@dataclass(frozen=True, kw_only=True)
class MakeOptions:
    """Choices for a new candidate.

    Attributes:
        name: Name of the candidate, and id of the recipe that it becomes.
        recipe_id: Recipe that it replaces; "" for the active one.
        user: Account, for the record.
        since: Earliest time of the parts, ISO 8601 in UTC, or None.
        until: Parts before this time, ISO 8601 in UTC, or None.
        threshold: Raw score threshold, or None.
        false_reject_rate: Rate in (0, 1) to compute the thresholds for, or None for that of the bundle.
        retrained: Bundle that was trained again on the workstation; None changes the thresholds of the present bundle.
    """

    name: str
    recipe_id: str = ""
    user: str = ""
    since: str | None = None
    until: str | None = None
    threshold: float | None = None
    false_reject_rate: float | None = None
    retrained: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Record of a candidate, in `candidate.json`.

    Attributes:
        name: Name, and id of the recipe that it becomes.
        base_recipe: Recipe that it replaces.
        base_digest: SHA-256 of the manifest of that recipe's bundle.
        created: Time, ISO 8601 in UTC.
        user: Account that made it.
        same_graph: True if only the calibration differs, so that stored scores hold for the candidate, too.
        threshold_before: Score threshold of the recipe that it replaces.
        threshold: Score threshold of the candidate.
        good_parts: Number of good parts whose scores were added.
        judged_good: Ids of the parts that were judged good.
        judged_defects: Ids of the parts that were judged defective at that time.
        without_pictures: Ids of judged parts whose pictures are no longer there, so that training cannot use them.
        lines: Lines for people about the evidence.
    """

    name: str
    base_recipe: str
    base_digest: str
    created: str
    user: str
    same_graph: bool
    threshold_before: float
    threshold: float
    good_parts: int
    judged_good: tuple[int, ...]
    judged_defects: tuple[int, ...]
    without_pictures: tuple[int, ...]
    lines: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        return asdict(self)


def make_candidate(state: Path, records: RecordReader, options: MakeOptions) -> Candidate:
    """Make a candidate from the judged parts of a recipe, in the folder `candidates/NAME`.

    Args:
        state: State folder of the station, which may be running.
        records: Records of the station.
        options: Choices.

    Raises:
        BundleError: A bundle is damaged, or has no held-out scores.
        InputError: There are too few good parts.
        OutputError: The name is taken, the record of an earlier candidate is damaged, or the folder cannot be written.
        RecipeError: There is no such recipe, or the name is impossible.
    """
    store = RecipeStore(state)
    base = _base(store, options)
    bundle = store.verify(base.recipe_id)
    candidates_folder(state).mkdir(exist_ok=True)
    selection = Selection(since=options.since, until=options.until, bundle_digest=base.bundle_digest)
    evidence = collect_evidence(records, selection, bundle.calibration.verdict)
    defects = judged_defects(state, records, base)
    with atomic_directory(candidate_folder(state, options.name)) as folder:
        copy = folder / BUNDLE
        copy_files(bundle if options.retrained is None else Bundle.open(options.retrained), copy)
        changed, lines = _changed(copy, bundle, evidence, options)
        missing = [part for part in evidence.judged_good if not copy_sample(state, part, folder / PARTS, GOOD)]
        missing += [part for part in defects if not copy_sample(state, part, folder / PARTS, BAD)]
        candidate = Candidate(
            name=options.name,
            base_recipe=base.recipe_id,
            base_digest=base.bundle_digest,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            user=options.user,
            same_graph=changed.record.graph.sha256 == bundle.record.graph.sha256,
            threshold_before=bundle.calibration.score_threshold if base.threshold is None else base.threshold,
            threshold=changed.calibration.score_threshold,
            good_parts=0 if options.retrained is not None else len(evidence.good),
            judged_good=tuple(part.acquisition_id for part in evidence.judged_good),
            judged_defects=tuple(part.acquisition_id for part in defects),
            without_pictures=tuple(part.acquisition_id for part in missing),
            lines=tuple(lines),
        )
        write_json(folder / RECORD, candidate.to_json())
    return candidate


def read_candidate(state: Path, name: str) -> Candidate:
    """Return a candidate.

    Raises:
        RecipeError: There is no such candidate.
        OutputError: Its record is damaged.
    """
    path = candidate_folder(state, name) / RECORD
    try:
        content = fields_from_json(Candidate, json.loads(read_regular(path, _LIMIT)))
    except FileNotFoundError as error:
        known = ", ".join(list_candidates(state)) or "none yet"
        raise RecipeError(
            "",
            found=f"there is no candidate {name!r:.80}",
            expected=f"one of the candidates of this station: {known}",
            action="make it with cmdiad-line candidate make",
        ) from error
    except (OSError, ValueError) as error:
        raise OutputError(
            path, found=f"a damaged record ({error})", expected="a candidate", action="make the candidate again"
        ) from error
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
    return Candidate(**values)


def list_candidates(state: Path) -> list[str]:
    """Return the names of all candidates, in alphabetical order."""
    return sorted(path.parent.name for path in candidates_folder(state).glob(f"*/{RECORD}"))


def _base(store: RecipeStore, options: MakeOptions) -> Recipe:
    if not RECIPE_ID.fullmatch(options.name):
        raise RecipeError(
            options.name,
            found="an impossible name",
            expected="1 to 64 letters, digits, hyphens, dots and underscores",
            action="choose another name",
        )
    if options.recipe_id:
        return store.recipe(options.recipe_id)
    active = store.active()
    if active is None:
        raise RecipeError("", found="no recipe is active", action="name the recipe that the candidate is to replace")
    return active


def _changed(copy: Path, base: Bundle, evidence: Evidence, options: MakeOptions) -> tuple[Bundle, list[str]]:
    """Change the thresholds in the copy of a bundle, and return it with lines about the change."""
    lines: list[str] = []
    parts = GoodParts(Path(options.name), _scores(evidence, base.calibration.verdict))

    def calibration(bundle: Bundle) -> Calibration:
        if options.retrained is None:
            bundle, added = with_sessions(bundle, [parts])
            lines[:] = [*evidence.lines(), *added]
        if options.threshold is not None or options.false_reject_rate is not None:
            bundle = adjusted(bundle, score=options.threshold, false_reject_rate=options.false_reject_rate)
        return bundle.calibration

    before = (copy / MANIFEST).read_bytes()
    changed = change_bundle(copy, calibration)
    if (copy / MANIFEST).read_bytes() != before and (copy / SIGNATURE).exists():
        (copy / SIGNATURE).unlink()  # It signs the manifest before the change.
        lines.append(f"The signature no longer fits. Sign the candidate: cmdiad-sign {BUNDLE} --key KEY")
    return changed, lines


def _scores(evidence: Evidence, verdict: VerdictKind) -> dict[str, tuple[float, float]]:
    """Return score and largest map value of the good parts, by the beginning of the hash of their rows."""
    scores = {}
    for part in evidence.good:
        peak = peak_of(part, verdict)
        assert part.score is not None and peak is not None
        scores[part.hash[:_DIGITS]] = part.score, peak
    return scores
