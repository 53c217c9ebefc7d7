"""Preprocessed copies of raw data sets, as the published code has them (REFERENCE §2 and §3).

::

    OUT/prepare.json                                              how it was prepared, and which categories are complete
    OUT/CATEGORY/{train,validation}/good/{rgb,xyz}/NNN.{png,tiff}
    OUT/CATEGORY/test/<good or defect>/{rgb,xyz,gt}/NNN.{png,tiff,png}

Raw files are only read. Each file appears under its name when it is whole, so a preparation that was interrupted
goes on where it stopped.
"""

from __future__ import annotations

import io
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from cmdiad_runtime.errors import CmdiadError, InputError, OutputError, RunError
from cmdiad_runtime.preprocess.cloud.clustering import largest_cluster
from cmdiad_runtime.preprocess.cloud.foreground import PLANE_CLEARANCE
from cmdiad_runtime.preprocess.cloud.support_plane import fit_support_plane
from cmdiad_runtime.preprocess.cloud.valid import valid_mask
from cmdiad_runtime.preprocess.image.padding import PAD_MULTIPLE, pad_to_square
from cmdiad_runtime.readers import image_colour, read_rgb
from cmdiad_runtime.readers.image import Colour
from cmdiad_runtime.sample import RgbImage, XyzImage
from cmdiad_runtime.support.files import atomic_write, write_json
from cmdiad_train.datasets import (
    COMPLETE,
    GOOD,
    PREPARED,
    UNFINISHED,
    Category,
    SampleFiles,
    Split,
    eyecandies,
    find_category,
    list_categories,
    read_prepared,
)
from cmdiad_train.datasets.eyecandies import RawSample
from cmdiad_train.datasets.sample_files import read_grey

Report = Callable[[str, int, int], None]
"""Called as `report(step, done, total)`."""

SEED = 0
"""Of the search for the support plane."""
_FORMAT_VERSION = 1
_MVTEC_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_PAPERS = ("license.txt", "readme.txt")
"""What goes along with copies of MVTec 3D-AD."""


@dataclass(frozen=True)
class Task:
    """One sample to prepare.

    Attributes:
        source: the raw sample.
        folder: where the prepared category goes.
    """

    source: SampleFiles | RawSample
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a task; errors are taken apart, since they do not pass between processes whole.

    Attributes:
        name: of the sample, with its category.
        written: False where everything was there already, or nothing could be written.
        error: the four parts of an error, None where there was none.
        fatal: the error is about writing, and would be that of all samples.
    """

    name: str
    written: bool
    error: tuple[str, str, str, str] | None = None
    fatal: bool = False


@dataclass
class Prepared:
    """What a preparation did.

    Attributes:
        written: number of samples.
        kept: number of samples that were there already.
        failed: one error for each sample that cannot be used.
    """

    written: int
    kept: int
    failed: list[CmdiadError]


def prepare(source: Path, out: Path, categories: Sequence[str], jobs: int, report: Report) -> Prepared:
    """Write a preprocessed copy of a raw MVTec 3D-AD or Eyecandies data set, or go on writing it.

    A sample that cannot be used is left out and told; the others are prepared.

    Args:
        source: the raw data set, which is only read.
        out: folder of the copy: new, empty, or that of an earlier preparation of the same data.
        categories: which ones; all where there are none.
        jobs: processes. More than one are started afresh (`spawn`), so a script that asks for them must keep
            its own start behind `if __name__ == "__main__":`.
        report: told of the progress.

    Raises:
        RunError: the data set is not recognised, is prepared already, or needs no preparation.
        OutputError: `out` overlaps with `source`, holds something else, or cannot be written.
    """
    chosen = [find_category(source, name) for name in categories or list_categories(source)]
    _refuse_overlap(source, out)
    for category in chosen:
        _refuse_overlap(category.folder, out / category.name)  # which may be a link
    kind = _check_raw(source, chosen)
    settings = _settings(kind, source)
    states = _resume(out, settings)
    result = Prepared(0, 0, [])
    tasks = [task for category in chosen for task in _tasks(category, out / category.name, result.failed)]
    _write_note(out, settings, states | {category.name: UNFINISHED for category in chosen})
    for category in chosen:
        _copy_papers(category, out / category.name)
    with closing(_outcomes(tasks, jobs, out)) as outcomes:
        for i, outcome in enumerate(outcomes):
            _count(outcome, result)
            report("prepare", i + 1, len(tasks))
    _write_note(out, settings, states | {category.name: COMPLETE for category in chosen})
    return result


def remove_background(
    xyz: XyzImage, rgb: RgbImage | None, *, name: str, seed: int = SEED
) -> tuple[XyzImage, RgbImage | None]:
    """Cut and pad one raw sample (REFERENCE §2.1-2.5).

    As published, a pixel of the image turns black where its point lies on the support plane or outside the
    largest cluster; a pixel without a point keeps its colour.

    Args:
        xyz: float32 `[h, w, 3]`, metres, zeros where the sensor saw nothing.
        rgb: uint8 `[h, w, 3]`, 0-255, or None.
        name: of the sample, for messages.
        seed: of the plane search.

    Returns:
        Both as squares `[side, side, 3]`, `side` a multiple of 100.

    Raises:
        InputError: nothing of the cloud remains.
    """
    plane = fit_support_plane(xyz, seed=seed)
    valid = valid_mask(xyz)
    removed = np.zeros(xyz.shape[:2], dtype=np.bool_)
    if plane is not None:
        removed = plane.distance(xyz) < PLANE_CLEARANCE
    part = valid & ~removed
    part[part] = largest_cluster(xyz[part])
    if not part.any():
        raise InputError(
            name,
            found="only background in the cloud",
            expected="a part standing at least 5 mm off its support",
            action="check that a part is in view and that the unit is metres, or leave the sample out",
        )
    removed |= valid & ~part
    cut = (None if image is None else np.where(removed[..., None], image.dtype.type(0), image) for image in (xyz, rgb))
    square_xyz, square_rgb = (None if image is None else pad_to_square(image) for image in cut)
    assert square_xyz is not None
    return square_xyz, square_rgb


def _refuse_overlap(source: Path, out: Path) -> None:
    raw, copy = source.resolve(), out.resolve()
    if raw == copy or raw in copy.parents or copy in raw.parents:
        raise OutputError(
            out,
            found=f"a folder that overlaps with the raw data in {source}",
            expected="a folder beside them",
            action="choose another OUT; raw data are never changed",
        )


def _check_raw(source: Path, categories: Sequence[Category]) -> str:
    """The layout of raw data that can be prepared."""
    kinds = sorted({category.layout for category in categories})
    if read_prepared(source) is not None or any(category.prepared for category in categories):
        raise RunError(
            source,
            found="a data set that is prepared already",
            expected="a raw one",
            action="train on it, with --no-foreground",
        )
    if kinds not in (["mvtec3d"], ["eyecandies"]):
        raise RunError(
            source,
            found=f"a data set in {' and '.join(kinds)} layout",
            expected="raw MVTec 3D-AD or Eyecandies",
            action="train on it as it is: what it needs is done while it is read",
        )
    for category in categories:
        if kinds == ["mvtec3d"] and "xyz" not in category.modalities:
            raise RunError(
                category.folder,
                found="no clouds",
                expected="train/good/xyz, by which the background is found",
                action="train on the images as they are",
            )
    return kinds[0]


def _settings(kind: str, source: Path) -> dict[str, Any]:
    """All that the copies depend on."""
    if kind == "eyecandies":
        steps: dict[str, Any] = {
            "focal_length_pixels": eyecandies.FOCAL_LENGTH,
            "ground_clearance": eyecandies.GROUND_CLEARANCE,
            "farthest_depth": eyecandies.FARTHEST_DEPTH,
            "farthest_side": eyecandies.FARTHEST_SIDE,
            "scale_x_z_y": list(eyecandies.SCALE),
        }
    else:
        steps = {"plane_clearance_metres": PLANE_CLEARANCE, "pad_multiple": PAD_MULTIPLE, "seed": SEED}
    return {"format_version": _FORMAT_VERSION, "source": str(source.resolve()), "layout": kind, **steps}


def _resume(out: Path, settings: dict[str, Any]) -> dict[str, str]:
    """State of the categories that are there already; makes the folder where it is not there.

    Raises:
        OutputError: the folder holds something else.
    """
    if not out.parent.is_dir() or (out.exists() and not out.is_dir()):
        found = "a file" if out.exists() else f"no folder {out.parent}"
        raise OutputError(out, found=found, expected="a folder in an existing one", action="choose another OUT")
    out.mkdir(exist_ok=True)
    note = read_prepared(out)
    if note is None and any(out.iterdir()):
        raise OutputError(
            out,
            found="a folder that is not empty",
            expected=f"a new or empty folder, or one with {PREPARED} to go on with",
            action="choose another OUT",
        )
    if note is not None and note["settings"] != settings:
        differing = sorted(k for k in {*note["settings"], *settings} if note["settings"].get(k) != settings.get(k))
        raise OutputError(
            out / PREPARED,
            found=f"a preparation with another {', '.join(differing)}",
            expected="the same one to go on with",
            action="choose another OUT, or remove this one",
        )
    return {} if note is None else note["categories"]


def _write_note(out: Path, settings: dict[str, Any], categories: dict[str, str]) -> None:
    made_by = "cmdiad-data prepare: the background is removed from the clouds already, train with --no-foreground"
    note = {"made_by": made_by, "settings": settings, "categories": dict(sorted(categories.items()))}
    write_json(out / PREPARED, note)


def _tasks(category: Category, folder: Path, failed: list[CmdiadError]) -> list[Task]:
    """The samples of a category; what is wrong with those that are not whole is added to `failed`."""
    if category.layout == "eyecandies":
        splits = [eyecandies.raw_samples(category.folder, split) for split in eyecandies.SPLITS]
        return [Task(raw, folder) for samples in splits for raw in samples]
    listings = [category.listing(split, category.modalities) for split in _MVTEC_SPLITS]
    failed += [error for listing in listings for error in listing.problems]
    return [Task(files, folder) for listing in listings for files in listing.samples]


def _copy_papers(category: Category, folder: Path) -> None:
    """Licence and description stay with the data."""
    folder.mkdir(exist_ok=True)
    for name in _PAPERS:
        source = category.folder / name
        if not source.is_file():
            source = category.folder.parent / name
        if source.is_file():
            with atomic_write(folder / name) as temporary:
                temporary.write_bytes(source.read_bytes())


def _count(outcome: Outcome, result: Prepared) -> None:
    if outcome.error is None:
        result.written += outcome.written
        result.kept += not outcome.written
        return
    subject, found, expected, action = outcome.error
    if outcome.fatal:
        raise OutputError(subject, found=found, expected=expected, action=action)
    result.failed.append(InputError(subject, found=found, expected=expected, action=action))


def _outcomes(tasks: list[Task], jobs: int, out: Path) -> Generator[Outcome, None, None]:
    """Work off all tasks, in any order; closing it ends the workers."""
    if jobs <= 1:
        yield from map(attempt, tasks)
        return
    pool = ProcessPoolExecutor(jobs, get_context("spawn"))
    try:
        with _interruption_left_to_parent():
            pending = [pool.submit(attempt, task) for task in tasks]
        yield from (future.result() for future in as_completed(pending))
    except BrokenProcessPool as error:
        raise OutputError(
            out,
            found="a worker process that ended by itself",
            expected="it to write its samples",
            action="check the memory, or ask for --jobs 1; what was written is kept",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interruption_left_to_parent() -> Iterator[None]:
    """Processes started here inherit that SIGINT is held back, from their first instruction on; none is lost here."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def attempt(task: Task) -> Outcome:
    """Prepare one sample; runs in a worker process."""
    name = f"{task.folder.name}/{task.source.name}"
    try:
        if isinstance(task.source, RawSample):
            return Outcome(name, _prepare_rendered(task.source, task.folder))
        return Outcome(name, _prepare_scanned(task.source, task.folder))
    except (InputError, OutputError) as error:
        parts = (error.subject, error.found, error.expected, error.action)
        return Outcome(name, False, parts, fatal=isinstance(error, OutputError))


def _prepare_scanned(files: SampleFiles, folder: Path) -> bool:
    """One sample of MVTec 3D-AD; returns False where it is there already."""
    assert files.xyz is not None
    split, defect, stem = files.name.split("/")
    target = folder / split / defect
    mask = files.ground_truth or _good_mask(files.xyz)
    rgb_out = None if files.rgb is None else target / "rgb" / f"{stem}.png"
    mask_out = None if mask is None else target / "gt" / f"{stem}.png"
    xyz_out = target / "xyz" / f"{stem}.tiff"
    if all(path.exists() for path in (rgb_out, mask_out, xyz_out) if path is not None):
        return False
    colour: Colour = "rgb" if files.rgb is None else image_colour(files.rgb)
    sample = files.read(colour)
    assert sample.xyz is not None
    xyz, rgb = remove_background(sample.xyz, sample.rgb, name=str(files.xyz))
    if mask is not None and mask_out is not None:
        _write_png(mask_out, pad_to_square(_read_mask(mask, sample.xyz)))
    if rgb is not None and rgb_out is not None:
        _write_png(rgb_out, rgb if colour == "rgb" else rgb[..., 0])
    _write_tiff(xyz_out, xyz)
    return True


def _good_mask(xyz: Path) -> Path | None:
    """The empty mask that the data set has for a good test sample."""
    mask = xyz.parent.parent / "gt" / f"{xyz.stem}.png"
    return mask if mask.is_file() else None


def _read_mask(path: Path, beside: XyzImage | RgbImage) -> npt.NDArray[np.uint8]:
    """A mask as grey values, as they are in the file; InputError where it is of another size than its sample."""
    mask = read_grey(path)
    _check_size(path, mask, beside)
    return mask


def _check_size(path: Path, array: npt.NDArray[Any], beside: npt.NDArray[Any]) -> None:
    if array.shape[:2] != beside.shape[:2]:
        raise InputError(
            path,
            found=f"{array.shape[:2]} pixels beside {beside.shape[:2]}",
            expected="all files of a sample of one size",
            action="check that it belongs to the sample",
        )


def _prepare_rendered(raw: RawSample, folder: Path) -> bool:
    """One sample of Eyecandies; returns False where it is there already."""
    mask = None if raw.mask is None else read_grey(raw.mask)
    place = folder / "train" / GOOD if mask is None else folder / "test" / ("bad" if mask.any() else GOOD)
    rgb_out, xyz_out, mask_out = (
        place / "rgb" / f"{raw.number}.png",
        place / "xyz" / f"{raw.number}.tiff",
        place / "gt" / f"{raw.number}.png",
    )
    if all(path.exists() for path in (rgb_out, xyz_out, *([] if mask is None else [mask_out]))):
        return False
    image = read_rgb(raw.image)
    cloud = eyecandies.read_cloud(raw).astype(np.float32)
    _check_size(raw.depth, cloud, image)
    if mask is not None and raw.mask is not None:
        _check_size(raw.mask, mask, image)
        _write_png(mask_out, mask)
    _write_bytes(rgb_out, raw.image.read_bytes())
    _write_tiff(xyz_out, cloud)
    return True


def _write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=4)
    _write_bytes(path, buffer.getvalue())


def _write_tiff(path: Path, xyz: XyzImage) -> None:
    """Uncompressed, three channels last; no time stamp and no software version, so that bytes repeat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        tifffile.imwrite(temporary, xyz, photometric="rgb", metadata=None, software=False)


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
