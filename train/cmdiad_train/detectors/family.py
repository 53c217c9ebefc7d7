"""The seam between detector families and everything else: training, runs, export, certificates and the runtime.

A family turns samples into a `TrainedDetector`. The rest of the project sees named inputs, an image score and an
anomaly map. To add a family, write its recipe part and its `Family` value, and register it (`detectors.registry`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import click
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.names import Sensors, Verdict, ViewName
from cmdiad_runtime.preprocess.prepare import Prepared
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.recipe import Recipe


@dataclass(frozen=True)
class PrecisionParts:
    """Parts of a detector whose precision export may reduce.

    Attributes:
        networks: Names of submodules that compute in fp16 in a reduced graph. The code around them casts.
        always_single: Names of submodules that stay fp32 in every graph.
        steps: Named groups of submodules that export moves back to fp32, smallest first, until the certificate
            passes. Export finds attention and softmax by itself.
        convolutions: Names of networks whose convolutions an int8-cpu graph computes in int8, with static scales and
            the tolerance of int8. Other convolutions stay fp32 in such a graph.
    """

    networks: tuple[str, ...] = ()
    always_single: tuple[str, ...] = ()
    steps: tuple[tuple[str, tuple[str, ...]], ...] = ()
    convolutions: tuple[str, ...] = ()


class TrainedDetector(nn.Module):
    """Base class of the module of every family: the network inputs of one sample to image score and anomaly map.

    Attributes:
        input_names: Names of the inputs, in the order of `forward`; see `Prepared.inputs`.
        searched_grids: Names of optional inputs of `forward`, after those of `input_names`. Each lists the cells of an
            image to search; the value is the side of the grid of cells. See `cmdiad_runtime.engines.searched_cells`.
        published_blur: True if the map ends in the published 8-bit blur, which widens the certificate's tolerance.
        verdict: Score that decides, of the recipe; `load_run` sets the attribute. If the map decides, the graph returns
            no image score.
    """

    input_names: list[str]
    searched_grids: Mapping[str, int] = MappingProxyType({})
    published_blur: bool = False
    verdict: Verdict = "image"

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score float32 `[1]` and the map float32 `[size, size]`, or `[maps, size, size]` that add up."""
        raise NotImplementedError

    def forward_each(self, samples: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Return score and map of each of several samples, see `forward`.

        The default computes one sample after the other. A family whose networks accept several samples at once runs
        them once; every result must still depend on its own sample alone.

        Args:
            samples: Arguments of `forward` for each sample.
        """
        return [self(*inputs) for inputs in samples]

    def precision_parts(self) -> PrecisionParts:
        """Return the parts that compute in reduced precision. The default reduces nothing."""
        return PrecisionParts()

    def halve_stored_data(self, *, products: bool) -> None:
        """Convert stored data, such as memory banks, to fp16 in place. The default does nothing.

        Args:
            products: True if products with the stored data also compute in fp16.
        """


@runtime_checkable
class SearchableDetector(Protocol):
    """A detector that searches memory banks, so that `--search` and `--plan` apply to it.

    Attributes:
        input_names: Names of the inputs, in the order of `forward`.
        score_weights: Weights float32 `[banks]` of the linear fusion of image scores.
        map_weights: Weights float32 `[banks]` of the linear fusion of maps.
    """

    input_names: list[str]
    score_weights: Tensor
    map_weights: Tensor

    @property
    def searches(self) -> list[Any]:
        """Return the exact search of each bank, main bank first."""

    def set_search(self, settings: Any) -> None:
        """Search every bank with these `SearchSettings`, in place."""

    def against(self, banks: list[Any]) -> Any:
        """Return this detector with other banks and unit fusion weights. Networks are shared."""

    def patches(self, *inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return rows and cells of the patch features of each bank."""

    def score_each(self, patches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return the unfused scores `[banks]` and maps `[banks, size, size]`."""

    def fuse(self, scores: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused score `[]` and the fused map."""


class SampleSource(Protocol):
    """Source of prepared samples that reads and prepares each sample once per training."""

    def prepared(self, files: SampleFiles) -> Prepared:
        """Return the network inputs of a sample and the position of its part in the image of the sensor.

        Training samples have the inputs of `Family.trained_modality`, others those of inspection.
        """

    def preprocessing(self, files: SampleFiles) -> Preprocessing:
        """Return the settings with which `prepared` prepares this sample."""


@dataclass(frozen=True)
class FitContext:
    """Everything that a family needs to fit one detector.

    Attributes:
        run: Run directory. A family writes whole files here and skips steps whose files exist, so that an interrupted
            training resumes.
        recipe: Recipe with a decided view.
        preprocessing: Preprocessing of inspection.
        train: Good training samples; with several parts per sample (`preprocessing.parts`) one entry for each part.
        held_out: Good samples that set the thresholds, likewise.
        joint: Good training samples of further categories, by category, likewise.
        samples: Source of prepared samples.
        device: Device of feature extraction and training.
        features: Folder of the feature store, which trainings may share.
        cache_bytes: Disk space that cached features may take.
        taken_over: True if the run starts with the networks of another run (`--network-from`).
        reporter: Receiver of progress.
        partner: The same training as a second image sensor sees it: samples with the images of the training parts, and
            their preprocessing; None without such a sensor (`Family.partner`).
        poses: Sample of inspection that each training image is cut out like, in the training of a second sensor; empty
            if the images show the part by themselves.
    """

    run: Path
    recipe: Recipe
    preprocessing: Preprocessing
    train: Sequence[SampleFiles]
    held_out: Sequence[SampleFiles]
    joint: Mapping[str, Sequence[SampleFiles]]
    samples: SampleSource
    device: torch.device
    features: Path
    cache_bytes: int
    taken_over: bool
    reporter: Reporter
    partner: FitContext | None = None
    poses: Mapping[SampleFiles, SampleFiles] = field(default_factory=dict)

    @property
    def kept(self) -> Tensor | None:
        """Return the inspected pixels of each view, bool `[views, size, size]`; None without an inspection mask.

        A family builds them into its module, so that score and map depend on no other pixel. Each modality has its own
        view only in the view `each`: first the cloud, then the image. `runs.mask.load_kept` returns the same for a
        finished run.
        """
        ignored = self.preprocessing.ignored
        return None if ignored is None else torch.from_numpy(~ignored.array)

    def score_held_out(self, detector: TrainedDetector) -> tuple[list[float], list[float]]:
        """Return image scores and map maxima of the held-out samples, see `score`.

        A family whose scores need no further calibration returns them as `Fitted.scores` and `Fitted.peaks`.
        """
        return self.score(detector, self.held_out, "calibrate threshold")

    @torch.no_grad()
    def score(
        self, detector: TrainedDetector, chosen: Sequence[SampleFiles], step: str
    ) -> tuple[list[float], list[float]]:
        """Return image scores, and map maxima over the image of the sensor, of samples.

        Args:
            detector: Detector in fp32 on the CPU.
            chosen: Files of the samples.
            step: Name of this work in progress reports.
        """
        scores, peaks = [], []
        for i, files in enumerate(chosen):
            prepared = self.samples.prepared(files)
            inputs = as_tensors(prepared.inputs)
            score, anomaly_map = detector(*(inputs[name] for name in detector.input_names))
            scores.append(float(score))
            peaks.append(float(prepared.to_sensor(anomaly_map.numpy()).max()))
            self.reporter.step(step, i + 1, len(chosen))
        return scores, peaks


@dataclass(frozen=True)
class Fitted:
    """A fitted detector with the scores that calibrate its thresholds.

    Attributes:
        detector: Detector in fp32 on the CPU.
        scores: Image scores of good samples that the detector was not fitted on: first all held-out samples in their
            order, then any training samples; with several parts per sample one score for each part, those of one
            sample next to each other.
        peaks: Largest values of their anomaly maps over the image of the sensor, which decide with the verdict "map".
        provenance: JSON-ready origin of the networks, by modality.
        counted_as: Number of the series of each training sample, then of each held-out sample, one for each part.
            Every sample was scored by a detector without the samples of its number. Empty if none was left out.
    """

    detector: TrainedDetector
    scores: Sequence[float]
    peaks: Sequence[float]
    provenance: dict[str, Any] = field(default_factory=dict)
    counted_as: Sequence[int] = ()


def worst_of_parts(values: Sequence[float], parts: int) -> list[float]:
    """Return the largest value of each sample, which decides over the sample.

    The threshold is computed from these values, so the false-reject rate holds for whole samples, whatever the number
    of parts.

    Args:
        values: One value for each part, those of one sample next to each other.
        parts: Number of parts per sample.
    """
    assert len(values) % parts == 0
    return [max(values[start : start + parts]) for start in range(0, len(values), parts)]


def _sensor_view(recipe: Recipe) -> tuple[ViewName, str]:
    return "sensor", f"the family {recipe.family} has no other view"


def _modality(recipe: Recipe) -> Sensors:
    return recipe.modality


def _no_partner(recipe: Recipe) -> str | None:
    return None


def _not_registered(recipe: Recipe) -> bool:
    return False


def _no_categories(recipe: Recipe) -> tuple[str, ...]:
    return ()


def _held_out_alone(recipe: Recipe) -> bool:
    return False


def _no_idle_options(recipe: Recipe) -> Mapping[str, str]:
    return {}


def _no_remarks(options: Mapping[str, Any], recipe: Recipe) -> list[str]:
    return []


def _family_name(recipe: Recipe) -> str:
    return recipe.family


@dataclass(frozen=True)
class Family:
    """One detector family.

    Attributes:
        name: Name in recipes and of `cmdiad-train --family`.
        part: Class of the family's part of the recipe, see `cmdiad_train.recipe.FamilyPart`.
        recipe: Builds the recipe from the values of all options of `cmdiad-train` by parameter name (None for an
            option that is not given) and a function that lists the categories of the data set.
        preprocessing: Builds the preprocessing of a modality in the view of the sensor.
        fit: Fits a detector and writes its files into the run directory.
        load: Loads the detector from the files in a run directory.
        options: Options that the family adds to `cmdiad-train`.
        remarks: Returns lines for the user about the recipe that the values of the options gave.
        idle: Returns the options of the family, by parameter name, that change nothing in a detector of this recipe,
            with the reason, for example that no image is read. `cmdiad-train` warns of them.
        preferred_view: Returns the view that suits a recipe with `view="auto"` best if every part can be found, and
            the reason if that is the view of the sensor.
        trained_modality: Returns the modality whose inputs the family needs of training samples.
        partner: Returns the name of a second image that training samples are paired with, or None.
        registered: Returns True if a place of the part lies at the same place of both images of a pair.
        joint_categories: Returns further categories of the data set whose good samples are trained on too.
        run_name: Returns the last part of the default name of a run, `CATEGORY-MODALITY-NAME`.
        network_file: Returns the file with the network of a finished run that `--network-from` can take over, or
            raises RunError; None if the family has no such networks.
        take_over: Copies the networks of the finished run in the first folder into the second.
        scores_training: Returns True if the training samples set the thresholds too, each of them scored by a detector
            that was not fitted on it.
        check: Returns the size of the networks of a recipe in bytes, and raises RunError if weights are missing or do
            not fit; None if there is nothing to check before the training.
    """

    name: str
    part: type
    recipe: Callable[[Mapping[str, Any], Callable[[], Sequence[str]]], Recipe]
    preprocessing: Callable[[Recipe, Colour, Sensors], Preprocessing]
    fit: Callable[[FitContext], Fitted]
    load: Callable[[Path, Recipe], TrainedDetector]
    options: tuple[click.Option, ...] = ()
    remarks: Callable[[Mapping[str, Any], Recipe], list[str]] = _no_remarks
    idle: Callable[[Recipe], Mapping[str, str]] = _no_idle_options
    preferred_view: Callable[[Recipe], tuple[ViewName, str]] = _sensor_view
    trained_modality: Callable[[Recipe], Sensors] = _modality
    partner: Callable[[Recipe], str | None] = _no_partner
    registered: Callable[[Recipe], bool] = _not_registered
    joint_categories: Callable[[Recipe], tuple[str, ...]] = _no_categories
    run_name: Callable[[Recipe], str] = _family_name
    network_file: Callable[[Path], Path] | None = None
    take_over: Callable[[Path, Path, Recipe], None] | None = None
    scores_training: Callable[[Recipe], bool] = _held_out_alone
    check: Callable[[Recipe], int] | None = None


def as_tensors(inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    """Return network inputs as tensors that own their memory."""
    return {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
