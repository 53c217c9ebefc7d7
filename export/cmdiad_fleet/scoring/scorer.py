"""`Scorer` opens a bundle and scores shards. Each worker has one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from PIL import Image

from cmdiad_fleet.manifest.fetching import local_files
from cmdiad_fleet.manifest.places import place_for_people
from cmdiad_fleet.manifest.rows import MANIFEST_REASONS, ManifestRow
from cmdiad_fleet.scoring.mark import open_mark
from cmdiad_fleet.scoring.settings import ScoreSettings
from cmdiad_fleet.scoring.shards import MARKS, RESULTS, Shard
from cmdiad_fleet.scoring.table import write_table
from cmdiad_fleet.scoring.tally import Tally
from cmdiad_runtime.bundle.engine_selection import open_batch_engine
from cmdiad_runtime.engines.batch import BatchEngine
from cmdiad_runtime.errors import BundleError, InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.inspector import Inspector, open_bundle
from cmdiad_runtime.inspection.part_ids import PartIds
from cmdiad_runtime.inspection.ready import Ready, make_ready
from cmdiad_runtime.inspection.result_line import Stored, result_line, station_of
from cmdiad_runtime.inspection.run_ahead import Computed, run_ahead
from cmdiad_runtime.names import Modality
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.readers.reading import read_files
from cmdiad_runtime.readers.worker import TimedReader
from cmdiad_runtime.reasons import Reason
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.files import atomic_write, write_errors


@dataclass(frozen=True)
class Ending:
    """Cause of the end of a worker.

    Attributes:
        reason: Reason of the verdict for the row in work, if that row ends a worker again.
        problem: Description of the cause.
    """

    reason: Reason
    problem: str


Endings = Mapping[int, Ending]
"""Cause by position of each row of a shard that ended two workers. These rows are not scored."""


class Scorer:
    """An open bundle with a reader of files.

    Args:
        settings: Choices of the run.

    Raises:
        BundleError: The bundle is damaged, or another one than at the start of the run.
        EngineError: The engine cannot be opened.
    """

    def __init__(self, settings: ScoreSettings) -> None:
        self._settings = settings
        with ExitStack() as opened:
            limit = settings.input_timeout_s
            self._read = opened.enter_context(TimedReader(limit)).read_files if limit else read_files
            self._inspector = opened.enter_context(_open(settings))
            self._station = station_of(self._inspector)
            if self._station.bundle_sha256 != settings.bundle_sha256:
                raise BundleError(
                    settings.bundle,
                    found="another bundle than at the start of the run",
                    expected="a bundle that nobody replaces during a run",
                    action="restore the bundle, or score into another folder",
                )
            self._opened = opened.pop_all()

    def score(self, shard: Shard, endings: Endings) -> Tally:
        """Score a shard, write the results, and return the counts.

        The result depends on the shard alone: identical frames in a row are counted from its first row.

        Args:
            shard: Rows to score.
            endings: Rows that are not scored, because they ended a worker twice.

        Raises:
            EngineError: The engine failed.
            OutputError: The results cannot be written.
        """
        folder = self._settings.folder
        frames = self._settings.options.frozen_after
        inspector = Inspector(self._inspector.bundle, self._inspector.engine, frozen_after=frames)
        shutil.rmtree(shard.pictures(folder), ignore_errors=True)  # Pictures without rows, of a worker that died.
        pictures = _Pictures(shard.pictures(folder), folder, self._settings.pictures)
        lines = []
        with write_errors(folder, folder), open_mark(shard.mark(folder)) as mark:
            for positions in _batches(len(shard.rows), 1 if shard.one_by_one else self._at_once):
                examined = []
                for position in positions:
                    mark(position)
                    examined.append(self._examine(inspector, shard.rows[position], endings.get(position)))
                for sample, inspection in zip(examined, _inspect_each(inspector, examined), strict=True):
                    overlay, problem = pictures.add(sample.row, inspection)
                    stored = Stored(
                        part_id=sample.row.part_id, read_ms=sample.read_ms, overlay=overlay, overlay_error=problem
                    )
                    lines.append(result_line(inspection, stored, self._station))
            mark(len(shard.rows))
            write_table(shard.results(folder), lines, self._settings.run, shard)
        return Tally.of((line["reason"] for line in lines), (line["inspected"] for line in lines))

    def close(self) -> None:
        """End the reader and release the engine. Idempotent."""
        self._opened.close()

    @property
    def _at_once(self) -> int:
        """Return the number of rows whose samples run together."""
        engine = self._inspector.engine
        return engine.size if isinstance(engine, BatchEngine) else 1

    def _examine(self, inspector: Inspector, row: ManifestRow, ending: Ending | None) -> _Examined:
        """Read and prepare the sample of a row."""
        name = _name(row, inspector)
        refusal = _refusal(row) if ending is None else _ended(name, ending)
        if refusal is not None:
            return _Examined(row, name, refusal, refusal)
        began = time.perf_counter()
        sample = guarded(name, partial(self._sample, inspector, row, name))
        read = time.perf_counter()
        ready = sample if isinstance(sample, InputError) else make_ready(sample, inspector.bundle)
        return _Examined(row, name, sample, ready, (read - began) * 1e3, (time.perf_counter() - read) * 1e3)

    def _sample(self, inspector: Inspector, row: ManifestRow, name: str) -> Sample:
        settings = inspector.bundle.preprocessing
        missing = [name for name in settings.sensor_names.values() if name not in row.places]
        if missing:
            raise InputError(
                f"row {row.number + 1} of the manifest",
                found=f"no place in the column {missing[0]!r}",
                expected="the path or URL of a file, because the detector needs this modality",
                action="add the file to the manifest",
                reason="missing-modality",
            )
        needed: dict[Modality, str] = {kind: row.places[name] for kind, name in settings.sensor_names.items()}
        with local_files(needed, self._settings.input_timeout_s or None) as paths:
            try:
                return self._read(name, paths.get("rgb"), paths.get("xyz"), colour=settings.colour)
            except InputError as error:
                raise _about_the_place(error, paths, needed) from error


@dataclass(frozen=True)
class _Examined:
    """A row with its sample and network inputs, each replaced by an error if there is none.

    Attributes:
        row: The row.
        name: Name of the sample in its line.
        sample: Sample, or the error that says why there is none.
        ready: Network inputs, or the error that says why there are none.
        read_ms: Milliseconds of reading the files.
        preprocess_ms: Milliseconds of preparing the network inputs.
    """

    row: ManifestRow
    name: str
    sample: Sample | InputError
    ready: Ready | InputError
    read_ms: float = 0.0
    preprocess_ms: float = 0.0


class _Pictures:
    """Pictures of the NG samples of a shard.

    Args:
        place: Folder of the pictures of the shard.
        folder: Folder of the results, which the paths in the rows refer to.
        most: Largest number of pictures; None for no limit.
    """

    def __init__(self, place: Path, folder: Path, most: int | None) -> None:
        self._place = place
        self._folder = folder
        self._most = most
        self._count = 0
        self._names = PartIds()

    def add(self, row: ManifestRow, inspection: Inspection) -> tuple[str | None, str]:
        """Write the picture of an NG sample that could be read. Return the path or None, and the problem or ""."""
        full = self._most is not None and self._count >= self._most
        if inspection.verdict == "OK" or inspection.sample is None or full:
            return None, ""
        self._count += 1
        path = self._place / f"{self._names.next(Path(row.part_id or str(row.number)))}.png"
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                Image.fromarray(inspection.overlay()).save(temporary, format="png", compress_level=1)
        except Exception as error:  # A picture is for people: no fault of one may cost a verdict.
            return None, cause_of(error)
        return path.relative_to(self._folder).as_posix(), ""


def make_folders(folder: Path) -> None:
    """Create the folders in which workers write."""
    for name in (RESULTS, MARKS):
        (folder / name).mkdir(exist_ok=True)


def _open(settings: ScoreSettings) -> Inspector:
    """Open the bundle with the engine for one sample or for several."""
    if not settings.batch:
        return Inspector.open(settings.bundle, settings.options)
    bundle = open_bundle(settings.bundle, settings.options)
    return Inspector(bundle, open_batch_engine(bundle, settings.options.engine).engine)


def _batches(count: int, size: int) -> Iterator[range]:
    """Yield the positions of the rows that run together, in order."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def _inspect_each(inspector: Inspector, samples: Sequence[_Examined]) -> list[Inspection]:
    """Return the inspection of each sample, in order. A sample that cannot be used changes no other result."""
    engine = inspector.engine
    ahead: Sequence[Computed | None] = [None] * len(samples)
    if isinstance(engine, BatchEngine):
        ahead = run_ahead(engine, [sample.ready for sample in samples])
    return [
        inspector.not_inspected(sample.name, sample.sample)
        if isinstance(sample.sample, InputError)
        else inspector.judge(sample.sample, sample.ready, preprocess_ms=sample.preprocess_ms, computed=computed)
        for sample, computed in zip(samples, ahead, strict=True)
    ]


def _name(row: ManifestRow, inspector: Inspector) -> str:
    """Return the name of a sample in its line: the place of the image, or of the cloud if there is no image."""
    names = inspector.bundle.preprocessing.sensor_names.values()
    places = (row.places[name] for name in names if name in row.places)
    return place_for_people(next(places, f"row {row.number + 1} of the manifest"))


def _refusal(row: ManifestRow) -> InputError | None:
    """Return the error of a row that cannot be scored whatever its files are."""
    if row.reason is None:
        return None
    return InputError(
        f"row {row.number + 1} of the manifest",
        found=MANIFEST_REASONS[row.reason],
        expected="an identifier that no other row has",
        action="correct these rows, and score them with another manifest",
        reason=cast(Reason, row.reason),  # A manifest adds its reasons to the closed list of the runtime.
    )


def _ended(name: str, ending: Ending) -> InputError:
    """Return the error of a row that ended two workers."""
    return InputError(
        name,
        found=f"a sample that ended two worker processes ({ending.problem})",
        expected="a sample that can be inspected within the memory of this machine",
        action="inspect the sample alone with cmdiad-run, and report this",
        reason=ending.reason,
    )


def _about_the_place(error: InputError, paths: Mapping[Modality, Path], places: Mapping[Modality, str]) -> InputError:
    """Return an error about a temporary copy as an error about the URL, so that every run has the same message."""
    for modality, path in paths.items():
        shown = place_for_people(places[modality])
        if error.subject == str(path) and shown != str(path):
            problem = error.found.replace(str(path), shown)
            return InputError(shown, found=problem, expected=error.expected, action=error.action, reason=error.reason)
    return error
