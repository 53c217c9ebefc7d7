"""Score a manifest into a folder, and continue where an earlier run was interrupted.

A shard of the manifest is finished when its file exists. A file appears complete or not at all, so a run that is killed
loses the shards in work and nothing else, and no row is stored twice.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cmdiad_fleet.manifest.check import CheckedManifest, check_manifest
from cmdiad_fleet.manifest.reading import refused_manifest
from cmdiad_fleet.scoring.drive import Drive
from cmdiad_fleet.scoring.record import CHECK, RECORD, ScoreRecord, keep_record, require_own
from cmdiad_fleet.scoring.scorer import make_folders
from cmdiad_fleet.scoring.settings import ScoreSettings
from cmdiad_fleet.scoring.shards import DEFAULT_ROWS, MARKS, MOST_SHARDS, PICTURES, RESULTS, Shard, cut
from cmdiad_fleet.scoring.table import read_tally, require_parquet
from cmdiad_fleet.scoring.tally import Tally
from cmdiad_fleet.scoring.workers import Workers
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.engine_selection import require_batch
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.inspection.inspector import open_bundle
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.files import (
    is_temporary_name,
    make_folder,
    remove_leftovers,
    require_outside_bundles,
    write_errors,
    write_json,
)
from cmdiad_runtime.support.in_place import FileInPlace
from cmdiad_runtime.support.lock import LOCK_NAME, lock_folder
from cmdiad_runtime.support.reporter import Reporter

SUMMARY = "summary.json"
"""File with the counts, written when all rows have a result."""

MakeWorkers = Callable[[ScoreSettings], Workers]
"""Function that makes the workers of a run."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Choices of a run, in addition to bundle and manifest.

    Attributes:
        opening: Choices made when the bundle is opened.
        shard_rows: Number of rows of a shard.
        pictures: Largest number of pictures of a shard; None for no limit, 0 for none.
        input_timeout_s: Seconds for the files of one sample; 0 for no limit.
        workers: Largest number of workers; None for one on each core.
        batch: True to run several samples at once, by the graph of the bundle for that.
    """

    opening: OpenOptions
    shard_rows: int = DEFAULT_ROWS
    pictures: int | None = 0
    input_timeout_s: float = 60.0
    workers: int | None = None
    batch: bool = False


@dataclass(frozen=True)
class Scored:
    """Result of a run.

    Attributes:
        tally: Counts of all rows, those of earlier runs included.
        scored: Number of rows that this run scored.
        seconds: Duration of scoring in this run.
        lost_workers: Number of workers that died.
    """

    tally: Tally
    scored: int
    seconds: float
    lost_workers: int

    @property
    def rate(self) -> float:
        """Return the number of samples per second of this run."""
        return self.scored / self.seconds if self.scored else 0.0


def score_manifest(
    bundle: Path, manifest: str, folder: Path, options: ScoreOptions, make: MakeWorkers, reporter: Reporter
) -> Scored:
    """Score all rows of a manifest that have no result in a folder yet.

    Args:
        bundle: Folder of the bundle.
        manifest: Path or URL of the manifest, see `read_rows`.
        folder: Folder of results, which is created if missing.
        options: Choices.
        make: Function that makes the workers; they are ended before this function returns.
        reporter: Receiver of progress.

    Raises:
        BundleError: The bundle cannot be opened.
        EngineError: The engine or the cluster cannot be used, or worker after worker dies.
        InputError: The manifest cannot be used, or was changed during the run.
        ModuleNotFoundError: The package that writes results is missing; the folder is not created.
        OutputError: The folder is in use, belongs to another run, or cannot be written to.
    """
    require_parquet()
    require_outside_bundles(folder, option="--out")
    opened = open_bundle(bundle, options.opening)
    batch = require_batch(opened, options.opening.engine).size if options.batch else 1
    new = not os.path.lexists(folder)
    make_folder(folder, expected="a folder to write results to", action="choose another --out")
    with ExitStack() as stack:
        stack.enter_context(write_errors(folder, folder))
        lock = stack.enter_context(lock_folder(folder))
        require_own(folder)
        _remove_leftovers(folder)
        stack.enter_context(_removed_without_results(folder, lock, new=new))
        reporter.say("check the manifest")
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=CHECK, dir=folder)))
        checked = check_manifest(manifest, tuple(opened.preprocessing.sensor_names.values()), scratch)
        if checked.duplicates:
            reporter.say(f"{checked.duplicates} of {checked.rows} rows have an id that is not unique, and are NG")
        _require_few_shards(checked, options.shard_rows)
        record = _record_of(opened, checked, options, batch)
        keep_record(folder, record)
        make_folders(folder)
        workers = stack.enter_context(closing(make(_settings_of(bundle, folder, record, options))))
        scored = _Run(checked, record, folder.absolute(), lock, reporter).score(workers, options.workers)
        shutil.rmtree(folder / MARKS)
        return scored


@dataclass(frozen=True)
class _Run:
    """A folder that this process owns, and the manifest to score into it."""

    manifest: CheckedManifest
    record: ScoreRecord
    folder: Path
    lock: FileInPlace
    reporter: Reporter

    def score(self, workers: Workers, count: int | None) -> Scored:
        """Score the unfinished shards and write the summary. An earlier one may be about rows that are now replaced."""
        (self.folder / SUMMARY).unlink(missing_ok=True)
        tally, began, total = Tally(), time.monotonic(), self.manifest.rows
        most = min(count or workers.cores, math.ceil(total / self.record.shard_rows))

        def progress(rows: int) -> None:
            self.lock.require()
            rate = rows / max(time.monotonic() - began, 1e-9)
            self.reporter.step(f"score ({rate:.1f} samples/s)", tally.rows + rows, total)

        drive = Drive(workers, most, self.folder, progress)
        drive.run(self._unfinished(tally))
        seconds = time.monotonic() - began
        tally.add(drive.tally)
        self._finish(tally)
        return Scored(tally, drive.tally.rows, seconds, drive.lost_workers)

    def _unfinished(self, tally: Tally) -> Iterator[Shard]:
        """Yield the shards without results, and add the counts of the others to a tally."""
        for shard in cut(self.manifest.read_rows(), self.record.shard_rows):
            path = shard.results(self.folder)
            if not path.exists():
                yield shard
            elif (finished := read_tally(path, self.record.digest, shard)) is not None:
                tally.add(finished)
            else:
                self.reporter.say(f"{printable(path)} is damaged or belongs to other rows, and is written again")
                yield shard

    def _finish(self, tally: Tally) -> None:
        """Write the summary if every row of the manifest has exactly one result."""
        self.manifest.require_unchanged()
        self.lock.require()
        if tally.rows != self.manifest.rows:
            raise OutputError(
                self.folder,
                found=f"{tally.rows} results of {self.manifest.rows} rows",
                expected="one result for each row",
                action="check who else writes to the folder, then run the same command again",
            )
        write_json(self.folder / SUMMARY, {"run": self.record.digest, **tally.to_dict()})


@contextmanager
def _removed_without_results(folder: Path, lock: FileInPlace, *, new: bool) -> Iterator[None]:
    """Remove what a run made in a folder, if the run ends before it has a result. Another run may then use the folder.

    Args:
        folder: Folder of results that this process owns. If it has a record, an earlier run began there: all stays.
        lock: Lock file of the folder. If it is no longer in place, the folder is somebody else's: all stays.
        new: True if this process has created the folder, which is then removed too.
    """
    begun = (folder / RECORD).exists()
    try:
        yield
    finally:
        if not begun and _in_place(lock) and not any(folder.glob(f"{RESULTS}/*")):
            for name in (RESULTS, MARKS, PICTURES):
                shutil.rmtree(folder / name, ignore_errors=True)
            with suppress(OSError):  # Somebody has removed the folder, or has put a file there.
                (folder / RECORD).unlink(missing_ok=True)
                (folder / LOCK_NAME).unlink()
                if new:
                    folder.rmdir()


def _in_place(lock: FileInPlace) -> bool:
    try:
        lock.require()
    except OutputError:
        return False
    return True


def _require_few_shards(manifest: CheckedManifest, shard_rows: int) -> None:
    shards = math.ceil(manifest.rows / shard_rows)
    if shards > MOST_SHARDS:
        raise refused_manifest(
            manifest.place,
            f"{manifest.rows} rows, which are {shards} files of results",
            expected=f"at most {MOST_SHARDS} files",
            action=f"pass --shard-rows {math.ceil(manifest.rows / MOST_SHARDS)} or more, or cut the manifest",
        )


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left: unfinished files and the files of a check."""
    remove_leftovers(folder / RECORD)
    for path in folder.glob(f"{CHECK}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in (folder / RESULTS).glob(".*.parquet"):
        if is_temporary_name(path.name, f"{path.name.split('.')[1]}.parquet"):
            path.unlink(missing_ok=True)


def _record_of(bundle: Bundle, manifest: CheckedManifest, options: ScoreOptions, batch: int) -> ScoreRecord:
    calibration = bundle.calibration
    return ScoreRecord(
        manifest_sha256=manifest.sha256,
        rows=manifest.rows,
        bundle=bundle.name,
        bundle_sha256=manifest_hash(bundle.manifest),
        device=options.opening.engine,
        threshold=calibration.score_threshold,
        map_threshold=calibration.map_threshold,
        ignored_checks=tuple(sorted(bundle.ignored_checks)),
        frozen_after=options.opening.frozen_after,
        shard_rows=options.shard_rows,
        pictures=options.pictures,
        batch=batch,
    )


def _settings_of(bundle: Path, folder: Path, record: ScoreRecord, options: ScoreOptions) -> ScoreSettings:
    return ScoreSettings(
        bundle=bundle.absolute(),
        bundle_sha256=record.bundle_sha256,
        options=options.opening,
        folder=folder.absolute(),
        run=record.digest,
        pictures=options.pictures,
        input_timeout_s=options.input_timeout_s,
        batch=options.batch,
    )
