"""Replay of recorded parts through a candidate, which shows the verdicts that it would have changed."""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path

from cmdiad_line.recipes.recipe import Recipe
from cmdiad_line.recipes.store import RecipeError, RecipeStore
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.records.stored import Selection, StoredResult
from cmdiad_line.review.candidate import Candidate, read_candidate
from cmdiad_line.review.evidence import newest, was_judged_by_detector
from cmdiad_line.review.lineage import judged_defects
from cmdiad_line.review.places import BUNDLE, REPLAY, candidate_folder
from cmdiad_line.review.samples import recorded_sample
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.inspection.result_line import csv_cell
from cmdiad_runtime.support.files import atomic_write, write_json
from cmdiad_runtime.support.records import fields_from_json
from cmdiad_runtime.support.regular_file import read_regular
from cmdiad_runtime.support.reporter import Reporter

NEWEST_PARTS = 2000
"""Number of the newest parts that are replayed, in addition to all judged defects."""
_LIMIT = 64 << 20  # bytes
TABLE = "replay.csv"


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One recorded part with its published verdict and that of the candidate.

    Attributes:
        acquisition_id: Id of the part.
        time: Time of the trigger.
        part_id: Id of the part from the plant, or "".
        judgement: Last judgement of a person, or None.
        source: "picture" if the part was inspected again, "score" if its stored score was compared with the new
            threshold, or "" if neither is possible.
        verdict_before: Published verdict.
        reason_before: Code of the reason, or "".
        score_before: Score at that time, or None.
        threshold_before: Threshold at that time, or None.
        verdict_after: Verdict of the candidate, or "" if the part could not be replayed.
        reason_after: Code of the reason, or "".
        score_after: Score of the candidate, or None.
        threshold_after: Threshold of the candidate.
    """

    acquisition_id: int
    time: str
    part_id: str
    judgement: str | None
    source: str
    verdict_before: str
    reason_before: str
    score_before: float | None
    threshold_before: float | None
    verdict_after: str
    reason_after: str
    score_after: float | None
    threshold_after: float

    @property
    def change(self) -> str:
        """Return "", or the change as text such as "OK to NG"."""
        changed = self.source and self.verdict_before != self.verdict_after
        return f"{self.verdict_before} to {self.verdict_after}" if changed else ""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Replay of a candidate.

    Attributes:
        bundle_digest: SHA-256 of the manifest of the candidate's bundle. A later change makes the replay invalid.
        created: Time, ISO 8601 in UTC.
        parts: Replayed parts, oldest first.
    """

    bundle_digest: str
    created: str
    parts: tuple[Replayed, ...]

    @property
    def changed(self) -> tuple[Replayed, ...]:
        """Return the parts whose verdict would have been another one."""
        return tuple(part for part in self.parts if part.change)

    @property
    def newly_missed(self) -> tuple[Replayed, ...]:
        """Return the judged defects that were NG and would be OK."""
        return tuple(part for part in self._defects if part.change == "NG to OK")

    @property
    def still_missed(self) -> tuple[Replayed, ...]:
        """Return the judged defects that were OK and would be OK again."""
        return tuple(part for part in self._defects if part.verdict_before == part.verdict_after == "OK")

    @property
    def not_replayed(self) -> tuple[Replayed, ...]:
        """Return the judged defects that could not be replayed, because no picture is left."""
        return tuple(part for part in self._defects if not part.source)

    @property
    def _defects(self) -> tuple[Replayed, ...]:
        return tuple(part for part in self.parts if part.judgement == "defect")

    def lines(self) -> Iterator[str]:
        """Yield the summary as lines for people."""
        sources = [part.source for part in self.parts]
        yield (
            f"Parts: {len(self.parts)}. Inspected again: {sources.count('picture')}, by their stored score: "
            f"{sources.count('score')}, not replayed because there is no picture: {sources.count('')}."
        )
        for change in ("NG to OK", "OK to NG"):
            parts = [part for part in self.changed if part.change == change]
            good = sum(part.judgement == "good" for part in parts)
            defects = sum(part.judgement == "defect" for part in parts)
            yield f"{change}: {len(parts)} (judged good: {good}, judged defective: {defects})."
        for title, concerned in (
            ("stay OK", self.still_missed),
            ("would become OK", self.newly_missed),
            ("have no picture", self.not_replayed),
        ):
            if concerned:
                yield f"Judged defects that {title}: {_ids(concerned)}."


def replay_candidate(
    state: Path, records: RecordReader, name: str, reporter: Reporter, *, parts: int = NEWEST_PARTS
) -> Replay:
    """Replay recorded parts through a candidate, and store the table in its folder as JSON and CSV.

    Args:
        state: State folder of the station, which may be running.
        records: Records of the station.
        name: Name of the candidate.
        reporter: Receiver of progress.
        parts: Number of the newest parts of the recipe that the candidate replaces.

    Raises:
        BundleError: The bundle of the candidate is damaged.
        EngineError: The engine of the recipe cannot be used.
        OutputError: The table cannot be written.
        RecipeError: There is no such candidate or recipe.
    """
    candidate = read_candidate(state, name)
    base = RecipeStore(state).recipe(candidate.base_recipe)
    recorded = _parts_to_replay(state, records, base, parts)
    folder = candidate_folder(state, name)
    options = OpenOptions(engine=base.engine, frozen_after=0)
    with Inspector.open(folder / BUNDLE, options) as inspector:
        replayed = []
        for number, result in enumerate(recorded, 1):
            reporter.step("replay", number, len(recorded))
            replayed.append(_replayed(state, inspector, candidate, result))
        digest = manifest_hash(inspector.bundle.manifest)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    replay = Replay(bundle_digest=digest, created=now, parts=tuple(replayed))
    write_replay(folder, replay)
    return replay


def read_replay(state: Path, name: str) -> Replay:
    """Return the stored replay of a candidate.

    Raises:
        RecipeError: The candidate was not replayed.
        OutputError: The file is damaged.
    """
    path = candidate_folder(state, name) / REPLAY
    try:
        content = fields_from_json(Replay, json.loads(read_regular(path, _LIMIT)))
        parts = tuple(Replayed(**fields_from_json(Replayed, part)) for part in content["parts"])
    except FileNotFoundError as error:
        raise RecipeError(
            name, found="no replay", expected="a replay of recorded parts", action="run: cmdiad-line candidate replay"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(
            path, found=f"a damaged table ({error})", expected="a replay", action="replay the candidate again"
        ) from error
    return Replay(**{**content, "parts": parts})


def _parts_to_replay(state: Path, records: RecordReader, base: Recipe, count: int) -> list[StoredResult]:
    """Return the newest parts about which the detector decided, and all judged defects, oldest first."""
    selection = Selection(recipe_id=base.recipe_id, bundle_digest=base.bundle_digest)
    decided = (part for part in newest(records, selection) if was_judged_by_detector(part))
    chosen = {part.acquisition_id: part for part in islice(decided, count)}
    chosen |= {part.acquisition_id: part for part in judged_defects(state, records, base)}
    return [chosen[number] for number in sorted(chosen)]


def _replayed(state: Path, inspector: Inspector, candidate: Candidate, result: StoredResult) -> Replayed:
    threshold = inspector.thresholds[0]
    sample = recorded_sample(state, result, inspector.bundle.preprocessing.modality)
    verdict, reason, score, source = "", "", None, ""
    if sample is not None:
        inspection = inspector.inspect(sample)
        verdict, reason, source = inspection.verdict, inspection.reason or "", "picture"
        score = float(inspection.score) if inspection.inspected else None
    elif candidate.same_graph and result.bundle_digest == candidate.base_digest and result.score is not None:
        score, source = result.score, "score"
        # A check of the recording conditions refuses the part again; the candidate has the same checks.
        refused = "" if result.reason == "score" else result.reason
        reason = "score" if score > threshold else refused
        verdict = "NG" if reason else "OK"
    return Replayed(
        acquisition_id=result.acquisition_id,
        time=result.time,
        part_id=result.part_id,
        judgement=result.judgement,
        source=source,
        verdict_before=result.verdict,
        reason_before=result.reason,
        score_before=result.score,
        threshold_before=result.threshold,
        verdict_after=verdict,
        reason_after=reason,
        score_after=score,
        threshold_after=threshold,
    )


def write_replay(folder: Path, replay: Replay) -> None:
    """Write the table and the record of a replay to a folder."""
    with atomic_write(folder / TABLE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [entry.name for entry in fields(Replayed)])
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in asdict(part).items()} for part in replay.parts)
    write_json(folder / REPLAY, asdict(replay))


def _ids(parts: Sequence[Replayed]) -> str:
    shown = ", ".join(f"part {part.acquisition_id}" for part in parts[:10])
    return f"{shown} and {len(parts) - 10} more" if len(parts) > 10 else shown
