"""What several test files build on: the tiny recipe and data set, running commands, damaging files."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import tifffile
from PIL import Image

SIZE = 112
SMALL = 56


class RecordingReporter:
    """A reporter that keeps everything.

    Attributes:
        steps: Name, done and total of every progress report.
        lines: Every line of text.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.lines: list[str] = []

    def step(self, name: str, done: int, total: int) -> None:
        self.steps.append((name, done, total))

    def say(self, line: str) -> None:
        self.lines.append(line)


def tiny_recipe(modality: str = "rgb", hallucination: str = "none", **changes: Any) -> Any:
    """A recipe that trains in a second. F2I and I2F have wide convolutions, so their images are small."""
    from cmdiad_train.recipe import Distillation, RgbExtractor, XyzExtractor

    recipe = bank_recipe(
        modality=modality,
        hallucination=hallucination,
        rgb=RgbExtractor(backbone="resnet10t", stages=(0, 1), grid=14),
        xyz=XyzExtractor(groups=64, group_size=16, width=24, heads=3, depth=2, taps=(0, 1), grid=14),
        distillation=Distillation(epochs=2, batch=2, warmup=1, validation=0.0),
        size=SMALL if hallucination in ("f2i", "i2f") else SIZE,
        view="sensor",
        coreset=0.2,
        components=None,
        image_score="reweighted",
    )
    return changed(recipe, **changes)


def tiny_trd_recipe(variant: str, modality: str, **changes: Any) -> Any:
    """A recipe of reverse distillation that trains in seconds."""
    from cmdiad_train.recipe import Recipe, RgbExtractor, TrdRecipe

    teacher = RgbExtractor("test_resnet", (0, 1, 2), None)
    part = TrdRecipe(
        variant=variant,  # type: ignore[arg-type]
        teacher=teacher,
        epochs=2,
        batch=3,
        fine_tune_epochs=2,
        distil_epochs=2,
    )
    return Recipe(replace(part, **changes), modality=modality, size=64, view="sensor")  # type: ignore[arg-type]


def tiny_ast_recipe(modality: str, **changes: Any) -> Any:
    """A recipe of AST that trains in seconds."""
    from cmdiad_train.recipe import AstRecipe, Recipe, RgbExtractor

    extractor = RgbExtractor("test_resnet", (0, 1), None)
    part = AstRecipe(extractor=extractor, cell=8, student_width=16, student_units=1, epochs=2, batch=3)
    size = changes.pop("size", 64)
    return Recipe(replace(part, **changes), modality=modality, size=size, view="sensor")  # type: ignore[arg-type]


def tiny_shape_guided_recipe(modality: str = "xyz", **changes: Any) -> Any:
    """A recipe of Shape-Guided detectors that trains in seconds."""
    from cmdiad_train.recipe import Recipe, RgbExtractor, ShapeGuidedRecipe

    rgb = RgbExtractor("test_resnet", (0, 1), None) if modality == "both" else None
    part = ShapeGuidedRecipe(patches=96, patch_points=32, coverage=4, decoder_width=16, epochs=2, rgb=rgb)
    return Recipe(replace(part, **changes), modality=modality, size=64, view="sensor")  # type: ignore[arg-type]


def tiny_dsr3d_recipe(modality: str, **changes: Any) -> Any:
    """A recipe of 3DSR that trains in seconds."""
    from cmdiad_train.recipe import Dsr3dRecipe, Recipe

    part = Dsr3dRecipe(width=16, codes=32, autoencoder_steps=2, epochs=2, batch=3)
    size = changes.pop("size", 64)
    return Recipe(replace(part, **changes), modality=modality, size=size, view="sensor")  # type: ignore[arg-type]


def bank_recipe(**fields: Any) -> Any:
    """A recipe of the bank family with these fields, common ones and those of the family."""
    from cmdiad_train.recipe import DEFAULT_RECIPE

    return changed(DEFAULT_RECIPE, **fields)


def changed(recipe: Any, **changes: Any) -> Any:
    """A recipe with other fields, common ones and those of the family; faithful banks have plain distances."""
    own = {name: changes.pop(name) for name in list(changes) if hasattr(recipe.detector, name) and name != "family"}
    if own.get("mode") == "faithful" and hasattr(recipe.detector, "distances"):
        own["distances"] = "plain"
    return replace(recipe, detector=replace(recipe.detector, **own), **changes)


def make_data(folder: Path, **changes: Any) -> Path:
    """A tiny synthetic data set."""
    from cmdiad_train.synthesis import DatasetSpec, synthesize

    options: dict[str, Any] = {
        "categories": ["gear"],
        "train": 6,
        "validation": 3,
        "test": {"good": 2, "hole": 1, "contamination": 2},
        "size": SIZE,
    }
    synthesize(folder, DatasetSpec(**{**options, **changes}))
    return folder


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int | str | None
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong; fails the test unless it is one."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err + self.out
        return lines[0]


def command(cli: click.Command, *arguments: object) -> Ended:
    """Run a command as its entry point does, in this process."""
    from cmdiad_runtime.support.command_line import run_command

    out, err = io.StringIO(), io.StringIO()
    code: int | str | None = None
    with (
        mock.patch.object(sys, "argv", ["tool", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run_command(cli, "tool")
        except SystemExit as ended:
            code = ended.code
    return Ended(code, out.getvalue(), err.getvalue())


def assert_refused(ended: Ended, code: int, *words: object) -> None:
    """Check the exit code and that the one error line names these, in full sentences."""
    assert ended.code == code, ended.err
    line = ended.error
    assert line.endswith("."), line
    assert line.count(". ") >= 1, line  # the problem, then what to do
    for word in words:
        assert str(word).lower() in line.lower(), (word, line)  # a sentence may start with it


def python(code: str, *arguments: object) -> str:
    """Standard output of a fresh interpreter that must succeed."""
    command_line = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    ended = subprocess.run(command_line, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def sample_files(data: Path, split: str, defect: str, modality: str) -> list[Path]:
    """The files of one kind of sample, sorted."""
    return sorted((data / "gear" / split / defect / modality).iterdir())


def read_image(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def write_image(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def write_cloud(path: Path, points: np.ndarray) -> Path:
    options = {"photometric": "rgb"} if points.ndim == 3 and points.shape[2] == 3 else {"photometric": "minisblack"}
    tifffile.imwrite(path, points, **options)
    return path


def truncate(path: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def flip_byte(path: Path, position: int | None = None) -> Path:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1
    path.write_bytes(content)
    return path


def threshold_report(bundle: Path) -> str:
    """The lines on stderr with which `cmdiad-run` begins."""
    from cmdiad_runtime.bundle.bundle import Bundle
    from cmdiad_runtime.cli.threshold_text import in_shell, threshold_line, warnings_about

    calibration = Bundle.open(bundle).calibration
    warnings = warnings_about(calibration, f"cmdiad-threshold {in_shell(bundle)} --good DIR")
    return "".join(f"{line}\n" for line in (threshold_line(calibration), *(f"warning: {w}" for w in warnings)))


def set_threshold(bundle: Path, score: float) -> None:
    """Set the threshold of a bundle, as `cmdiad-threshold --threshold` does."""
    from cmdiad_runtime.bundle.change import change_bundle
    from cmdiad_runtime.bundle.threshold import adjusted

    change_bundle(bundle, lambda opened: adjusted(opened, score=score).calibration)


def rewrite_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest and give it a right hash again, as somebody with bad intentions would."""
    from cmdiad_runtime.bundle.manifest import manifest_hash

    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["manifest_sha256"]
    change(manifest)
    path.write_text(json.dumps({**manifest, "manifest_sha256": manifest_hash(manifest)}), encoding="utf-8")
