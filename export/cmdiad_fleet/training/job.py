"""Job that trains one detector, or one trial of a sweep, and its outcome in `detector.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmdiad_fleet.training.fleet_file.fleet import Detector, Fleet
from cmdiad_fleet.training.fleet_file.options import EXPORT, TRAIN, arguments_of
from cmdiad_fleet.training.fleet_file.sections import RecipeSection
from cmdiad_fleet.training.resolve import Resolved, resolve
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.records import (
    LARGEST_NUMBER,
    RecordError,
    fields_from_json,
    make_tuple,
    require,
    require_integer,
    require_number,
    require_text,
)

RECORD = "detector.json"
LOG = "log.txt"
EVIDENCE = "evidence.json"
STATES = ("started", "trained", "failed", "skipped")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One detector, or one trial of a sweep, with everything that a machine needs to train it.

    Attributes:
        detector: Detector with its data set.
        folder: Folder of the run, the bundle, the log and the record.
        resolved: Options of the training.
        export: Arguments of `cmdiad-export` after the run; None to write no bundle.
        resources: Cores, memory, GPUs and retries.
        cache: Folder of the feature store; None for the cache folder of the user.
        cache_gb: Disk space for cached features in gigabytes (1e9 bytes).
        trial: True for a trial of a sweep: the test split is not read, and the criterion is computed.
        not_after: Time after which the job does not start any more, as `time.time` returns it; None for no limit.
    """

    detector: Detector
    folder: Path
    resolved: Resolved
    export: tuple[str, ...] | None
    resources: RecipeSection
    cache: Path | None
    cache_gb: float
    trial: bool = False
    not_after: float | None = None

    @property
    def run(self) -> Path:
        """Return the run directory."""
        return self.folder / "run"

    @property
    def bundle(self) -> Path:
        """Return the folder of the bundle."""
        return self.folder / f"{self.detector.name}.cmdiad"

    @property
    def results(self) -> tuple[Path, ...]:
        """Return the files and folders that a finished job has."""
        further = [self.folder / EVIDENCE] if self.trial else []
        return (self.run / "run.json", *further, *([] if self.export is None else [self.bundle / "manifest.json"]))

    def steps(self) -> list[tuple[str, list[str]]]:
        """Return the commands of the job with their arguments. A bundle that is there is whole, and is kept."""
        detector = self.detector
        train = [str(detector.data), "--category", detector.category, *self.resolved.arguments, "--out", str(self.run)]
        train += ["--cache-gb", f"{self.cache_gb:g}"]
        train += [] if self.cache is None else ["--cache-dir", str(self.cache)]
        train += ["--no-test"] if self.trial else []
        steps = [(TRAIN, train)]
        if self.export is not None and not self.bundle.exists():
            steps.append((EXPORT, [str(self.run), *self.export, "--out", str(self.bundle)]))
        return steps


def job_of(fleet: Fleet, detector: Detector, chosen: Mapping[str, Any]) -> Job:
    """Return the job of a detector.

    Args:
        fleet: The fleet.
        detector: One of its detectors.
        chosen: Options that a sweep chose.
    """
    from cmdiad_export.cli import cli

    recipe = fleet.recipes[detector.recipe]
    return Job(
        detector=detector,
        folder=fleet.general.out / detector.name,
        resolved=resolve(detector.data, {**recipe.train, **chosen}),
        export=None if fleet.export is None else tuple(arguments_of(fleet.export, cli)),
        resources=recipe,
        cache=fleet.general.cache,
        cache_gb=fleet.general.cache_gb,
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """State of a job and reason of a failure, stored in `detector.json`.

    Attributes:
        name: Name of the detector.
        state: "started", "trained", "failed", or "skipped" after the time limit of a sweep.
        digest: Digest of data, recipe and version; "" if the data cannot be read.
        export: Arguments of `cmdiad-export` for the bundle in the folder; None without a bundle.
        reason: Reason of a failure as one line, or "".
        seconds: Wall time of the training and the export.
        attempts: Number of processes that were started.
        kept: True if an earlier command has trained the detector. Not stored.
    """

    name: str
    state: str
    digest: str = ""
    export: tuple[str, ...] | None = None
    reason: str = ""
    seconds: float = 0.0
    attempts: int = 0
    kept: bool = False

    def __post_init__(self) -> None:
        require_text(self, "name")
        require(self.state in STATES, self, "state", f"one of {', '.join(STATES)}")
        for name in ("digest", "reason"):
            require_text(self, name, longest=100_000)
        if self.export is not None:
            make_tuple(self, "export")
        require_number(self, "seconds", 0, LARGEST_NUMBER)
        require_integer(self, "attempts", 0, 1000)

    def write(self, folder: Path) -> None:
        """Write the record of the job into its folder."""
        write_json(folder / RECORD, {name: value for name, value in asdict(self).items() if name != "kept"})


def read_outcome(folder: Path) -> Outcome | None:
    """Return the record of an earlier attempt in the folder of a job, or None if there is none.

    Raises:
        OutputError: The record is damaged.
    """
    import json

    file = folder / RECORD
    if not file.exists():
        return None
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        return Outcome(**fields_from_json(Outcome, content))
    except (OSError, ValueError, RecordError) as error:
        raise OutputError(
            file,
            found=f"no record of a detector ({error})",
            expected="the record of an earlier command",
            action="remove the folder of this detector, so that it is trained again",
        ) from error
