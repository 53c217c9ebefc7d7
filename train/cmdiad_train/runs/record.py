"""The record of a run, `run.json`: recipe, data, preprocessing, versions and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cmdiad_runtime.bundle.manifest_records import stored_preprocessing
from cmdiad_runtime.envelope.record import Envelope
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.names import EARLIER_VIEWS
from cmdiad_runtime.preprocess.inspected_area.records import InspectedArea
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.support.files import is_sha256, write_json
from cmdiad_runtime.support.records import (
    NewerRecordError,
    RecordError,
    fields_from_json,
    make_tuple,
    require,
    require_instance,
    require_integer,
    require_object,
    require_text,
)
from cmdiad_train.datasets import LeftOut
from cmdiad_train.datasets.series import Series
from cmdiad_train.recipe import MOST_SEED, VIEWS, Recipe, read_recipe
from cmdiad_train.runs.tensors import damaged, read_json

FILE = "run.json"
FORMAT = "cmdiad-run"
FORMAT_VERSION = 3
"""1 kept principal components in the banks; 2 had flat recipes without a family; 3 names the family."""
READ_VERSIONS = (2, 3)
STATUSES = ("fitting", "complete")
_LONGEST_PATH = 10_000


@dataclass(frozen=True)
class TrainedOn:
    """The samples of a training.

    Attributes:
        folder: Folder of the category.
        category: Name of the category.
        train: Names of the training samples.
        held_out: Names of the samples that set the thresholds.
        sessions: Folders of other sessions, whose samples are among `held_out`. The field is in the file only if there
            are any.

    Raises:
        RecordError: A value has the wrong kind.
    """

    folder: str
    category: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    sessions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_text(self, "folder", longest=_LONGEST_PATH)
        require_text(self, "category")
        for name in ("train", "held_out", "sessions"):
            make_tuple(self, name)
            samples = getattr(self, name)
            require(all(isinstance(sample, str) and sample for sample in samples), self, name, "names of samples")

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-ready values."""
        content = asdict(self)
        if not self.sessions:
            del content["sessions"]
        return content

    @staticmethod
    def from_json(value: object) -> TrainedOn:
        """Return the record that `to_json` wrote; raises RecordError."""
        return TrainedOn(**fields_from_json(TrainedOn, value))


@dataclass(frozen=True)
class ViewChoice:
    """The view that was asked for.

    Attributes:
        asked: View in the recipe on the command line; the recipe of the run names the view that was chosen.
        because: Reason if "auto" chose the view of the sensor, or "".
        whole_cloud: True if "auto" keeps the background of clouds, although the recipe on the command line removes it.

    Raises:
        RecordError: A value has the wrong kind, or there is no such view.
    """

    asked: str
    because: str = ""
    whole_cloud: bool = False

    def __post_init__(self) -> None:
        require(isinstance(self.asked, str) and self.asked in VIEWS, self, "asked", f"one of {', '.join(VIEWS)}")
        require_text(self, "because", longest=_LONGEST_PATH)
        require(isinstance(self.whole_cloud, bool), self, "whole_cloud", "true or false")

    @staticmethod
    def from_json(value: object) -> ViewChoice:
        """Return the record that `asdict` wrote, also with the earlier name of the top view; raises RecordError."""
        content = fields_from_json(ViewChoice, value)
        asked = content["asked"]
        return ViewChoice(**{**content, "asked": EARLIER_VIEWS.get(asked, asked) if isinstance(asked, str) else asked})


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
        envelope: Recording conditions of the good samples, or None in runs of earlier versions, and before they are
            measured. The field is in the file only with a value.
        left_out: Samples that could not be used. The field is in the file only if there are any.
        inspected_area: Area that is inspected, with its limits; None in runs of earlier versions.
        series: Series of near copies among the good samples, or None. The field is in the file only with a value.
        partner: Preprocessing of the images of a second sensor, which only training reads, or None. The field is in the
            file only with a value.
        not_separated: Warning that the detector does not detect obvious artificial defects, or "". The field is in the
            file only with a value.

    Raises:
        RecordError: A value has the wrong kind, or contradicts the recipe.
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
    envelope: Envelope | None = None
    left_out: tuple[LeftOut, ...] = ()
    inspected_area: InspectedArea | None = None
    series: Series | None = None
    partner: Preprocessing | None = None
    not_separated: str = ""

    def __post_init__(self) -> None:
        for name, kind in _PARTS.items():
            require_instance(self, name, kind)
        require_integer(self, "seed", 0, MOST_SEED)
        require_object(self, "versions")
        require(all(isinstance(v, str) for v in self.versions.values()), self, "versions", "versions as text")
        require_text(self, "python")
        require(self.status in STATUSES, self, "status", " or ".join(STATUSES))
        digest = self.network_from is None or is_sha256(self.network_from)
        require(digest, self, "network_from", "64 lower-case hexadecimal digits or null")
        require_object(self, "provenance")
        require(all(isinstance(p, dict) for p in self.provenance.values()), self, "provenance", "objects by modality")
        if self.metrics is not None:
            require_object(self, "metrics")
        if self.envelope is not None:
            require_instance(self, "envelope", Envelope)
        make_tuple(self, "left_out")
        require(all(isinstance(s, LeftOut) for s in self.left_out), self, "left_out", "samples with a reason")
        if self.inspected_area is not None:
            require_instance(self, "inspected_area", InspectedArea)
        if self.series is not None:
            require_instance(self, "series", Series)
        if self.partner is not None:
            require_instance(self, "partner", Preprocessing)
        require(isinstance(self.not_separated, str), self, "not_separated", "a warning as text")
        self._check_agreement()

    def _check_agreement(self) -> None:
        """Raise RecordError if view, seed or preprocessing contradicts the recipe."""
        recipe, settings = self.recipe, self.preprocessing
        require(self.view.asked in ("auto", recipe.view), self, "view", f"auto or {recipe.view}, as in the recipe")
        require(self.seed == recipe.seed, self, "seed", f"{recipe.seed}, as in the recipe")
        masked = (self.recipe.mask is None) == (settings.ignored is None)
        require(masked, self, "preprocessing", "an ignored region if the recipe has a mask, else none")
        self._check_partner()
        for name in ("modality", "size", "view", "parts"):
            value, expected = getattr(settings, name), getattr(recipe, name)
            if value != expected:
                raise RecordError(f"Preprocessing.{name} is {value!r}, but Recipe.{name} is {expected!r}")

    def _check_partner(self) -> None:
        """Raise RecordError unless the second image is that of the recipe, in the kind of view of inspection."""
        named, partner = getattr(self.recipe.detector, "partner", None), self.partner
        if partner is None:
            require(named is None, self, "partner", f"the preprocessing of {named} images, as in the recipe")
            return
        own = (partner.image_modality, partner.view, partner.size)
        expected = (named, self.recipe.view, self.recipe.size)
        require(own == expected, self, "partner", "image, view and size of the recipe")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return the warnings of the training, each without the word "warning" and a full stop."""
        series = "" if self.series is None else self.series.warning
        return tuple(text for text in (series, self.not_separated) if text)

    @property
    def asked(self) -> Recipe:
        """Return the recipe of the command line, before a view was chosen."""
        foreground = self.recipe.foreground or self.view.whole_cloud
        return replace(self.recipe, view=self.view.asked, foreground=foreground)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-ready values."""
        optional = ("envelope", "left_out", "inspected_area", "series", "partner", "not_separated")
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in optional}
        left_out = [sample.to_json() for sample in self.left_out]
        area = {} if self.inspected_area is None else {"inspected_area": self.inspected_area.to_json()}
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **plain,
            "recipe": self.recipe.to_json(),
            "data": self.data.to_json(),
            "view": asdict(self.view),
            "preprocessing": self.preprocessing.to_json(),
            **({} if self.envelope is None else {"envelope": self.envelope.to_json()}),
            **({"left_out": left_out} if left_out else {}),
            **area,
            **({} if self.series is None else {"series": self.series.to_json()}),
            **({} if self.partner is None else {"partner": self.partner.to_json()}),
            **({"not_separated": self.not_separated} if self.not_separated else {}),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> RunRecord:
        """Return the record that `to_json` wrote, in this version or version 2.

        Raises:
            NewerRecordError: A newer cmdiad wrote the record.
            RecordError: A value is missing or impossible.
        """
        content = {name: part for name, part in value.items() if name not in ("format", "format_version")}
        content = fields_from_json(RunRecord, content)
        if content.get("inspected_area") is not None:
            content["inspected_area"] = InspectedArea.from_json(content["inspected_area"])
        if content.get("series") is not None:
            content["series"] = Series.from_json(content["series"])
        if content.get("partner") is not None:
            content["partner"] = stored_preprocessing(content["partner"])
        return RunRecord(
            **{
                **content,
                "recipe": read_recipe(content["recipe"]),
                "data": TrainedOn.from_json(content["data"]),
                "view": ViewChoice.from_json(content["view"]),
                "preprocessing": stored_preprocessing(content["preprocessing"]),
                "envelope": Envelope.from_json(content["envelope"]) if "envelope" in content else None,
                "left_out": _left_out(content.get("left_out", [])),
            }
        )


def _left_out(value: object) -> tuple[LeftOut, ...]:
    if not isinstance(value, list):
        raise RecordError(f"RunRecord.left_out is {value!r:.60}, expected a list")
    return tuple(map(LeftOut.from_json, value))


_PARTS = {"recipe": Recipe, "data": TrainedOn, "view": ViewChoice, "preprocessing": Preprocessing}


def read_record(run: Path) -> RunRecord:
    """Read the record of a finished or unfinished run.

    Raises:
        RunError: The record is missing or damaged, or another version of cmdiad wrote it.
    """
    file = run / FILE
    value = read_json(file)
    kind, version = value.get("format"), value.get("format_version")
    if kind != FORMAT or type(version) is not int:  # `type`, because True is an int too
        raise damaged(file, RecordError(f"format {kind!r:.60} {version!r:.60}, not {FORMAT} {FORMAT_VERSION}"))
    if version not in READ_VERSIONS:
        newer = version > FORMAT_VERSION
        raise RunError(
            file,
            found=f"{FORMAT} {version!s:.60}" + (", made by a newer cmdiad" if newer else ""),
            expected=f"{FORMAT} {READ_VERSIONS[0]} to {READ_VERSIONS[-1]}",
            action="Update cmdiad" if newer else "Train again",
        )
    try:
        return RunRecord.from_json(value)
    except NewerRecordError as error:
        raise RunError(file, found=f"{error}: made by a newer cmdiad", action="Update cmdiad") from error
    except RecordError as error:
        raise damaged(file, error) from error


def write_record(run: Path, record: RunRecord) -> None:
    """Write the record of a run."""
    write_json(run / FILE, record.to_json())
