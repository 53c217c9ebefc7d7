"""Results of trainings that are kept with a digest of recipe, weights and data, so that no training is repeated."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any

import cmdiad_bench
import cmdiad_export
import cmdiad_runtime
import cmdiad_train
from cmdiad_runtime.errors import CmdiadError, OutputError, RunError
from cmdiad_runtime.preprocess.prepare import needed_modalities
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.files import sha256_of, write_json
from cmdiad_train.datasets import GOOD, Category, open_category
from cmdiad_train.fit.other_training import free_folder, named_differences, other_options
from cmdiad_train.recipe import Recipe

DIGITS = 12
"""Digits of a digest in the name of a run."""
_SPLITS = ("train", "validation", "test")
_PACKAGES = (cmdiad_runtime, cmdiad_train, cmdiad_export)
_MEASURING = ("accuracy.py", "latency.py", "memory.py", "peak.py", "methods/measure.py", "paper/rows.py")
"""Modules of `cmdiad_bench` that results depend on; the others only write tables."""


def training_digest(recipe: Recipe, category: Category, joint: Sequence[str]) -> str:
    """Return a digest of program, recipe, weights, and names, sizes and times of the files of all samples.

    Args:
        recipe: Recipe of the training.
        category: Category that is trained on.
        joint: Further categories that are trained on.
    """
    content = {
        "program": program_digest(),
        "recipe": recipe.to_json(),
        "weights": {path: sha256_of(path) for path in sorted(set(_paths(recipe.to_json())))},
        "data": [
            _listing(open_category(category.root, name)) for name in dict.fromkeys((category.name, *sorted(joint)))
        ],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def program_digest() -> str:
    """Return a digest of the sources and shipped weights that train, export, inspect and measure a detector.

    The digest is the same for every installation of one wheel, and changes with a checkout. A release that changes only
    other packages, such as the station, keeps it.
    """
    places = [(package.__name__, Path(package.__path__[0])) for package in _PACKAGES]
    files = {f"{name}/{path.relative_to(root).as_posix()}": path for name, root in places for path in _sources(root)}
    files |= {f"cmdiad_bench/{name}": Path(cmdiad_bench.__path__[0]) / name for name in _MEASURING}
    content = {name: sha256_of(path) for name, path in files.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sources(root: Path) -> Iterator[Path]:
    """Yield the files of a package, without compiled ones."""
    return (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _listing(category: Category) -> list[tuple[str, int, int]]:
    files = set()
    for split in _SPLITS:
        for sample in category.listing(split, category.modalities).samples:  # type: ignore[arg-type]
            files |= {path.resolve() for path in (sample.rgb, sample.xyz, sample.ground_truth) if path is not None}
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]


def _paths(value: object) -> Iterator[str]:
    """Yield the files that a recipe names as weights."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key == "weights" and isinstance(part, str) and Path(part).is_file():
                yield part
            else:
                yield from _paths(part)


def settings_file(out: Path, stem: str) -> Path:
    """Return the file with the recipe and the data of the kept results of one row, which are made by the same call."""
    return out / "results" / f"{stem}.settings.json"


@contextmanager
def kept_settings(file: Path, recipe: Recipe, category: Category) -> Iterator[None]:
    """Keep the recipe and the folder of the data of a row while the row is trained, and after the training.

    A training that fails keeps no settings, so that others can be tried. An interrupted one keeps them.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"data": _place(category), "recipe": recipe.to_json()})
    try:
        yield
    except CmdiadError:
        file.unlink(missing_ok=True)
        raise


def require_kept_settings(out: Path, file: Path, title: str, recipe: Recipe, category: Category) -> None:
    """Raise OutputError if the results of a row have another recipe or data set: they would be replaced.

    Args:
        out: Folder of the table, for the message.
        file: Result of `settings_file`; an absent one means that there are no results.
        title: Name of the row, for the message.
        recipe: Recipe that is requested.
        category: Category that is requested.
    """
    if not file.exists():
        return
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
        differences = list(other_options(Recipe.from_json(earlier["recipe"]), recipe))
        if earlier["data"] != _place(category):
            differences.append(f"the data set {printable(_place(category))}")
        if not differences:
            return
    except (OSError, ValueError, TypeError, KeyError, RunError):
        differences = ["their record cannot be read"]
    raise OutputError(
        out,
        found=f"results of {title} with another recipe or other data ({named_differences(differences)})",
        expected="the settings and data of the earlier call, or a new folder",
        action=free_folder(out),
    )


def _place(category: Category) -> str:
    return str(category.folder.resolve())


def require_defects(category: Category, recipe: Recipe) -> None:
    """Raise RunError if the data lack a modality or defects for a recipe: known before a training, not after it."""
    needed = needed_modalities(recipe.modality, recipe.rgb_mask)
    category.usable("train", needed)  # Without clouds, no test sample is complete: the missing modality is the cause.
    samples = category.usable("test", needed).samples
    if all(sample.defect == GOOD for sample in samples):
        raise without_figures(category)


def without_figures(category: Category) -> RunError:
    """Return the error of a category on which a trained detector has no figures."""
    return RunError(
        category.folder / "test",
        found="no good or no defective test samples",
        expected="test/good and at least one folder of defects",
        action="Add test samples, or leave out the category",
    )


def stored_result(file: Path, digest: str) -> dict[str, Any] | None:
    """Return the stored result of this digest, or None."""
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("digest") == digest else None


def outdated_text(file: Path, digest: str) -> str:
    """Return the end of a line that says why a kept result is not used; "" if it can be used or there is none."""
    if stored_result(file, digest) is not None or not file.exists():
        return ""
    return "; the kept result is of another recipe, other data or another version of cmdiad"


def remove_outdated(run: Path, prefix: str, suffix: str = "") -> None:
    """Remove the runs next to a run that were made with another recipe, other data or another program.

    Args:
        run: Folder of the run, or of its bundle, whose name is the prefix, the first digits of a digest and the suffix.
        prefix: Beginning of the names of all runs of the same kind.
        suffix: End of their names.
    """
    for folder in run.parent.glob(f"{escape(prefix)}{'?' * DIGITS}{escape(suffix)}"):
        if folder != run:
            shutil.rmtree(folder)
