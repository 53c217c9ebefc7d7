"""The record of a run, `run.json`: recipe, data, preprocessing, versions and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.records import NewerRecordError, RecordError, fields_from_json, require
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.tensors import damaged, read_json

FILE = "run.json"
FORMAT = "cmdiad-run"
FORMAT_VERSION = 3
"""1 kept principal components in the banks; 2 had flat recipes without a family; 3 names the family."""
READ_VERSIONS = (2, 3)
STATUSES = ("fitting", "complete")


@dataclass(frozen=True)
class TrainedOn:
    """The samples of a training.

    Attributes:
        folder: Folder of the category.
        category: Name of the category.
        train: Names of the training samples.
        held_out: Names of the samples that set the thresholds.
    """

    folder: str
    category: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]

    @staticmethod
    def from_json(value: object) -> TrainedOn:
        """Return the record that `asdict` wrote; raises RecordError."""
        content = fields_from_json(TrainedOn, value)
        return TrainedOn(**{**content, "train": tuple(content["train"]), "held_out": tuple(content["held_out"])})


@dataclass(frozen=True)
class ViewChoice:
    """The view that was asked for.

    Attributes:
        asked: View in the recipe on the command line; the recipe of the run names the view that was chosen.
        because: Reason if "auto" chose the view of the sensor, or "".
    """

    asked: str
    because: str = ""

    @staticmethod
    def from_json(value: object) -> ViewChoice:
        """Return the record that `asdict` wrote; raises RecordError."""
        content = fields_from_json(ViewChoice, value)
        return ViewChoice(**{**content, "asked": {"plan": "top"}.get(content["asked"], content["asked"])})


@dataclass(frozen=True)
class RunRecord:
    """The record of a finished or unfinished run.

    Attributes:
        recipe: Recipe with the chosen view.
        data: Samples of the training.
        view: View that was asked for.
        preprocessing: Preprocessing of inspection.
        seed: Seed of everything random.
        versions: Versions of packages, by name.
        python: Version of Python.
        status: "fitting" or "complete".
        network_from: SHA-256 of the network that `--network-from` took over, or None.
        provenance: Origin of the networks, by modality.
        metrics: Figures on the test split, or None if it cannot show any.
    """

    recipe: Recipe
    data: TrainedOn
    view: ViewChoice
    preprocessing: Preprocessing
    seed: int
    versions: dict[str, str]
    python: str
    status: str = "fitting"
    network_from: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        require(self.status in STATUSES, self, "status", " or ".join(STATUSES))
        require(isinstance(self.versions, dict), self, "versions", "an object")
        require(isinstance(self.provenance, dict), self, "provenance", "an object")
        require(self.metrics is None or isinstance(self.metrics, dict), self, "metrics", "an object or null")

    @property
    def asked(self) -> Recipe:
        """Return the recipe of the command line, before a view was chosen."""
        return replace(self.recipe, view=self.view.asked)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-ready values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **plain,
            "recipe": self.recipe.to_json(),
            "data": asdict(self.data),
            "view": asdict(self.view),
            "preprocessing": self.preprocessing.to_json(),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> RunRecord:
        """Return the record that `to_json` wrote, in this version or version 2.

        Raises:
            NewerRecordError: A newer cmdiad wrote the record.
            RecordError: A value is missing or impossible.
            RunError: The recipe is unusable.
        """
        content = {name: part for name, part in value.items() if name not in ("format", "format_version")}
        content = fields_from_json(RunRecord, content)
        return RunRecord(
            **{
                **content,
                "recipe": Recipe.from_json(content["recipe"]),
                "data": TrainedOn.from_json(content["data"]),
                "view": ViewChoice.from_json(content["view"]),
                "preprocessing": Preprocessing.from_json(content["preprocessing"]),
            }
        )


def read_record(run: Path) -> RunRecord:
    """Read the record of a finished or unfinished run.

    Raises:
        RunError: The record is missing or damaged, or another version of cmdiad wrote it.
    """
    file = run / FILE
    value = read_json(file)
    kind, version = value.get("format"), value.get("format_version")
    if kind != FORMAT or version not in READ_VERSIONS:
        newer = kind == FORMAT and isinstance(version, int) and version > FORMAT_VERSION
        raise RunError(
            file,
            found=f"{kind} {version}" + (", made by a newer cmdiad" if newer else ""),
            expected=f"{FORMAT} {READ_VERSIONS[0]} to {READ_VERSIONS[-1]}",
            action="Update cmdiad" if newer else "Check the path, or train again",
        )
    try:
        return RunRecord.from_json(value)
    except NewerRecordError as error:
        raise RunError(file, found=f"{error}: made by a newer cmdiad", action="Update cmdiad") from error
    except (RecordError, TypeError, KeyError) as error:
        raise damaged(file, error) from error


def write_record(run: Path, record: RunRecord) -> None:
    """Write the record of a run."""
    write_json(run / FILE, record.to_json())
