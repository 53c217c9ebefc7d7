"""Presets of image extractors for real parts, and the choice of the best one whose weights are on this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cmdiad_runtime.errors import RunError
from cmdiad_train.extractors.names import AUTO, PRESET_NAMES
from cmdiad_train.extractors.store import stored_file, stored_images
from cmdiad_train.recipe import SMALL_RGB, Recipe, RgbExtractor


@dataclass(frozen=True)
class Preset:
    """A backbone with stages, grid and size that suit images and clouds (as images of normals) alike.

    Attributes:
        name: Value of `--extractor`.
        extractor: Backbone, stages and grid. The weights are a shipped name, or "timm" for weights to fetch.
        size: Side of the view in pixels.
        licence: Licence of the weights.
        megabytes: Size of the download, 0 for shipped weights.
        is_measured: True if docs/extractors.md has figures of these weights on real parts.
    """

    name: str
    extractor: RgbExtractor
    size: int
    licence: str
    megabytes: int = 0
    is_measured: bool = True

    @property
    def architecture(self) -> str:
        """Return the timm model name without the tag of the weights."""
        return self.extractor.backbone.partition(".")[0]

    @property
    def is_shipped(self) -> bool:
        """Return True if the weights come with the package."""
        return self.extractor.weights != "timm"

    def installed(self) -> Path | None:
        """Return the file of weights on this machine: that of timm's name, else any of the same architecture."""
        exact = stored_file(self.extractor.backbone)
        return exact or next(iter(stored_images(self.architecture)), None)


_SMALL, _STANDARD, _LARGE = PRESET_NAMES
PRESETS = (
    Preset(_SMALL, SMALL_RGB, Recipe.size, "Apache-2.0"),
    Preset(_STANDARD, RgbExtractor("resnet18.tv_in1k", (1, 2), 40, "timm"), Recipe.size, "BSD-3-Clause", 47),
    Preset(
        _LARGE, RgbExtractor("wide_resnet50_2.tv_in1k", (1, 2), 40, "timm"), Recipe.size, "BSD-3-Clause", 276, False
    ),
)
"""All presets, the largest one last."""


@dataclass(frozen=True)
class ChosenPreset:
    """A preset with weights that are on this machine.

    Attributes:
        preset: The preset.
        extractor: Extractor of the preset; its weights are a shipped name or a file.
    """

    preset: Preset
    extractor: RgbExtractor

    def reason(self) -> str:
        """Return one line that explains why `--extractor auto` chose the preset, and how to get a better one."""
        better = PRESETS[PRESETS.index(self.preset) + 1 :]
        source = "shipped with cmdiad" if self.preset.is_shipped else Path(self.extractor.weights).name
        line = f"Extractor: {self.preset.name} ({self.extractor.backbone}, {source}), "
        if not better:
            return f"{line}the largest preset."
        line += f"because no weights of the preset {better[0].name} are on this machine. "
        purpose = (
            "For real parts" if better[0].is_measured else "To try the larger network, which was not measured here,"
        )
        return f"{line}{purpose} run: cmdiad-extractor fetch {better[0].name}"


def choose_preset(name: str) -> ChosenPreset:
    """Return a preset by its name, or for "auto" the best one whose weights are on this machine.

    Raises:
        RunError: The weights of the preset are not on this machine.
    """
    for preset in reversed(PRESETS):
        if name not in (AUTO, preset.name):
            continue
        if preset.is_shipped:
            return ChosenPreset(preset, preset.extractor)
        file = preset.installed()
        if file is not None:
            return ChosenPreset(preset, _with_weights(preset, file))
        if name == preset.name:
            raise RunError(
                f"--extractor {name}",
                found=f"no weights of {preset.architecture} on this machine",
                action=f"run: cmdiad-extractor fetch {name} ({preset.megabytes} MB), or without internet access: "
                "cmdiad-extractor import FILE",
            )
    raise AssertionError(f"no preset {name}")


def preset_of(name: str) -> Preset | None:
    """Return the preset of this name, or None."""
    return next((preset for preset in PRESETS if preset.name == name), None)


def _with_weights(preset: Preset, file: Path) -> RgbExtractor:
    exact = file.stem == preset.extractor.backbone
    backbone = preset.extractor.backbone if exact else preset.architecture
    return replace(preset.extractor, backbone=backbone, weights=str(file))
