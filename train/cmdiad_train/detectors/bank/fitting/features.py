"""Patch features of training samples: extractors, principal components, and features kept in the feature store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from cmdiad_runtime.names import Modality
from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.detectors.bank.features.patches import (
    Extractor,
    PatchFeatures,
    image_name,
    input_names,
    shows_part_alone,
)
from cmdiad_train.detectors.bank.features.projection import (
    principal_directions,
    stage_components,
    stage_directions,
)
from cmdiad_train.detectors.bank.fitting.banks import bank_rows
from cmdiad_train.detectors.bank.preprocessing import shown_modality
from cmdiad_train.detectors.bank.run_files import (
    basis_file,
    build_extractor,
    extractor_file,
    load_basis,
    load_extractor,
    save_basis,
    save_extractor,
)
from cmdiad_train.detectors.family import FitContext, as_tensors
from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.extractors.shipped import weights_file
from cmdiad_train.features import FileHashes, extractor_digest, feature_key, modality_settings, needed_files
from cmdiad_train.features.store import FeatureStore, Stored
from cmdiad_train.recipe import PARTNER, Source, bank_part

CALIBRATION_CLOUDS = 16


class TrainingFeatures:
    """Patch features of the training samples of one training.

    Args:
        context: The training.
        store: Store of features, shared with other trainings.

    Attributes:
        provenance: Origin of each extractor that was used, by modality or `partner`.
    """

    def __init__(self, context: FitContext, store: FeatureStore) -> None:
        self.context, self.store = context, store
        self.recipe, self.part = context.recipe, bank_part(context.recipe)
        self.provenance: dict[str, Any] = {}
        self._hashes = FileHashes()

    def context_of(self, source: Source) -> FitContext:
        """Return the training as the sensor of the features sees it: its samples and how they are prepared."""
        if source != PARTNER:
            return self.context
        assert self.context.partner is not None
        return self.context.partner

    def patch_features(self, source: Source) -> PatchFeatures:
        """Return the patch features of a modality, or of the partner, on principal components if the recipe says so."""
        run = self.context.run
        extractor, cut_out = self._extractor(source), shows_part_alone(self.recipe, source)
        components, by_stage = self.part.components, self._by_stage(source)
        if not by_stage and (components is None or components >= extractor.width):
            return PatchFeatures(extractor, cut_out=cut_out)
        if not (run / basis_file(source)).exists():
            rows = self._rows(PatchFeatures(extractor, cut_out=cut_out), source)
            if by_stage:
                basis = stage_directions(rows, _stage_widths(extractor), components)
            else:
                assert components is not None
                basis = principal_directions(rows, components)
            save_basis(run, basis, source)
        return PatchFeatures(extractor, cut_out=cut_out, basis=load_basis(run, source))

    def target_heads(self, other: PatchFeatures) -> tuple[int, ...]:
        """Return the channels of each stage of the features to hallucinate; empty if the stages are joined."""
        if not self._by_stage(self.part.target(self.recipe)):
            return ()
        return stage_components(_stage_widths(other.extractor), self.part.components)

    def _by_stage(self, source: Source) -> bool:
        """Return True if features are hallucinated stage by stage."""
        is_target = self.part.hallucination != "none" and source == self.part.target(self.recipe)
        return is_target and self.part.distillation.targets == "stages"

    def of_training(self, features: PatchFeatures, source: Source, category: str = "") -> list[Stored]:
        """Return the tensors of every training sample: `rows` and `cells`, and `image` if a network sees images.

        Projected features are made from features with all channels. Only if another run's extractors were taken over
        are they extracted directly, because that run has already found the basis.

        Args:
            features: Patch features of the source.
            source: Source of the features.
            category: Further category that trains the distillation network, or "" for the main one.
        """
        if isinstance(features.projection, nn.Identity) or self.context.taken_over:
            return _Extraction(self, features, source, category).all()
        raw = _Extraction(self, PatchFeatures(features.extractor, cut_out=features.cut_out), source, category, "-raw")
        stored = _Extraction(self, features, source, category, raw=raw).all()
        self.store.release(raw.kind)
        return stored

    def _rows(self, features: PatchFeatures, source: Source) -> Iterator[Tensor]:
        """Return the rows `[R, C]` of each training sample, with those of all joint categories."""
        categories = ["", *self.context.joint] if self.part.hallucination != "none" else [""]
        samples = [s for category in categories for s in _Extraction(self, features, source, category, "-raw").all()]
        return (bank_rows([(s["rows"], s["cells"])], self.recipe) for s in samples)

    def _extractor(self, source: Source) -> Extractor:
        run = self.context.run
        if (run / extractor_file(source)).exists():
            extractor = load_extractor(run, self.recipe, source)
        else:
            extractor = build_extractor(self.recipe, source)
            if isinstance(extractor, PointMae) and extractor.spec.normalisation == "frozen":
                self._calibrate(extractor)
            save_extractor(run, extractor, source)
        self.provenance[source] = {"extractor": extractor.provenance}
        weights = weights_file(self.part.weights(source))
        if weights is not None:
            self.provenance[source]["weights_sha256"] = sha256_of(weights)
        return extractor

    def _calibrate(self, extractor: PointMae) -> None:
        context = self.context
        samples = [files for split in (context.train, *context.joint.values()) for files in split]
        chosen = samples[:: max(1, len(samples) // CALIBRATION_CLOUDS)][:CALIBRATION_CLOUDS]
        clouds = []
        for i, files in enumerate(chosen):
            clouds.append(as_tensors(context.samples.prepared(files).inputs)["groups"][0])
            context.reporter.step("calibrate point encoder", i + 1, len(chosen))
        extractor.calibrate(clouds)

    def file_hashes(self, files: SampleFiles, settings: Any) -> dict[str, str]:
        """Return the SHA-256 digests of the files that the inputs of a modality depend on."""
        return {name: self._hashes.of(path) for name, path in needed_files(files, settings).items()}


class _Extraction:
    """Extraction of the features of all training samples of one category, from one modality or from the partner.

    Args:
        training: The training.
        features: Patch features that extract.
        source: Source of the features.
        category: Further category, or "" for the main one.
        suffix: Ending of the name under which the store holds these features.
        raw: Features with all channels that are projected, or None to extract.
    """

    def __init__(
        self,
        training: TrainingFeatures,
        features: PatchFeatures,
        source: Source,
        category: str,
        suffix: str = "",
        raw: _Extraction | None = None,
    ) -> None:
        self.training, self.features, self.source = training, features, source
        self.modality: Modality = "rgb" if source == PARTNER else source
        self.context = training.context_of(source)
        self.kind = f"{category}/{source}{suffix}" if category else f"{source}{suffix}"
        self.samples: Sequence[SampleFiles] = self.context.joint[category] if category else self.context.train
        self.raw = raw
        spec = training.part.xyz if source == "xyz" else training.part.rgb
        self._digest = extractor_digest(features, {"spec": _without_origin(asdict(spec)), "cut_out": features.cut_out})
        self._shows_image = shown_modality(training.recipe) == source
        self._image_alone = (
            self._shows_image
            and training.part.hallucination == "f2i"
            and training.part.mode == "default"
            and suffix == ""
        )

    def all(self) -> list[Stored]:
        """Return the tensors of every sample."""
        self.features.to(self.context.device)
        stored = []
        for i, files in enumerate(self.samples):
            stored.append(self.one(files))
            named = self.training.recipe.image_modality if self.source == "rgb" else self.source
            self.context.reporter.step(f"extract {named} features", i + 1, len(self.samples))
        self.features.cpu()
        return stored

    def one(self, files: SampleFiles) -> Stored:
        """Return the tensors of a sample."""

        def make() -> Stored:
            return self._extract(files) if self.raw is None else self._project(self.raw.one(files))

        return self.training.store.get(self.kind, self.key(files), len(self.samples), make)

    def key(self, files: SampleFiles) -> str:
        """Return the key of a sample's tensors in the store."""
        whole = self.context.samples.preprocessing(files)
        settings = replace(whole, modality=self.modality, xyz_image=whole.xyz_image and self.modality == "xyz")
        tensors = f"image {self._shows_image} rows {not self._image_alone} projected {self.raw is not None}"
        hashes = self.training.file_hashes(files, settings if whole.parts == 1 else whole)
        if whole.parts > 1:  # the number of a part depends on the files that it was found in
            tensors += f" part {files.part} as found in {whole.modality}"
        if (posed := self.context.poses.get(files)) is not None:  # the part is found in the image of inspection
            main = self.training.context.samples.preprocessing(posed)
            hashes["main"] = self.training.file_hashes(posed, main)["rgb"]
            tensors += f" in the pose of {modality_settings(main)}"
        return feature_key(self._digest, modality_settings(settings), hashes, f"{tensors} {self.context.device}")

    @torch.no_grad()
    def _extract(self, files: SampleFiles) -> Stored:
        inputs = as_tensors(self.context.samples.prepared(files).inputs)
        recipe, device, stored = self.training.recipe, self.context.device, {}
        self.features.to(device)
        if self._shows_image:
            stored["image"] = self.features.image(inputs[image_name(recipe, self.modality)].to(device))
        if not self._image_alone:
            stored["rows"], stored["cells"] = self.features(
                *(inputs[name].to(device) for name in input_names(recipe, self.source))
            )
        return stored

    @torch.no_grad()
    def _project(self, raw: Stored) -> Stored:
        if self._image_alone:
            return {"image": raw["image"]}
        return {**raw, "rows": self.features.project(raw["rows"].to(self.context.device))}


def _stage_widths(extractor: Extractor) -> tuple[int, ...]:
    assert isinstance(extractor, TimmBackbone), "the recipe allows stages of image networks only"
    return extractor.stage_widths


def _without_origin(spec: dict[str, Any]) -> dict[str, Any]:
    """Return an extractor's spec without the origin of the weights, whose values are digested."""
    return {
        name: _without_origin(value) if isinstance(value, dict) else value
        for name, value in spec.items()
        if name != "weights"
    }
