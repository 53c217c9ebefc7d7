"""Write a preprocessed copy of a whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.errors import CmdiadError, InputError, OutputError, RunError
from cmdiad_runtime.support.files import atomic_write
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets.category import Category, Split
from cmdiad_train.datasets.layouts import eyecandies
from cmdiad_train.datasets.prepare.note import settings_of, start_or_resume, write_note
from cmdiad_train.datasets.prepare.tasks import Task, TaskResult, run_tasks
from cmdiad_train.datasets.prepared_note import COMPLETE, UNFINISHED, read_prepared
from cmdiad_train.datasets.registry import find_category, list_categories

_MVTEC_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_LICENCE_FILES = ("license.txt", "readme.txt")
"""Files that must accompany copies of MVTec 3D-AD."""


@dataclass
class PreparationResult:
    """Numbers of prepared samples, and the errors of the others.

    Attributes:
        written: Number of samples that were written.
        kept: Number of samples that existed already.
        failed: One error for each sample that cannot be used.
    """

    written: int
    kept: int
    failed: list[CmdiadError]


def prepare(source: Path, out: Path, categories: Sequence[str], jobs: int, reporter: Reporter) -> PreparationResult:
    """Write a preprocessed copy of a raw MVTec 3D-AD or Eyecandies data set, or resume an interrupted one.

    A sample that cannot be used is left out and reported; the others are prepared.

    Args:
        source: Folder of the raw data set, which is only read.
        out: Folder of the copy: new, empty, or from an earlier preparation of the same data.
        categories: Names of the categories to prepare; empty for all.
        jobs: Number of processes. More than one are started with `spawn`, so a script that requests them must
            protect its entry point with `if __name__ == "__main__":`.
        reporter: Receiver of the progress.

    Raises:
        RunError: The data set is not recognised, is prepared already, or needs no preparation.
        OutputError: `out` overlaps with `source`, has other content, or cannot be written.
    """
    chosen = [find_category(source, name) for name in categories or list_categories(source)]
    refuse_overlap(source, out)
    for category in chosen:
        refuse_overlap(category.folder, out / category.name)  # a category may be a symbolic link
    settings = settings_of(_raw_layout(source, chosen), source)
    states = start_or_resume(out, settings)
    result = PreparationResult(0, 0, [])
    tasks = [task for category in chosen for task in _tasks(category, out / category.name, result.failed)]
    write_note(out, settings, states | {category.name: UNFINISHED for category in chosen})
    for category in chosen:
        _copy_licence(category, out / category.name)
    with closing(run_tasks(tasks, jobs, out)) as task_results:
        for i, task_result in enumerate(task_results):
            _count(task_result, result)
            reporter.step("prepare", i + 1, len(tasks))
    write_note(out, settings, states | {category.name: COMPLETE for category in chosen})
    return result


def refuse_overlap(source: Path, out: Path) -> None:
    """Raise OutputError if one of two folders is in the other one."""
    raw, copy = source.resolve(), out.resolve()
    if raw == copy or raw in copy.parents or copy in raw.parents:
        raise OutputError(
            out,
            found=f"a folder that overlaps with the raw data in {source}",
            expected="a folder outside the raw data",
            action="Choose another OUT; raw data are never changed",
        )


def _raw_layout(source: Path, categories: Sequence[Category]) -> str:
    """Return the layout of raw data that can be prepared.

    Raises:
        RunError: The data are prepared already, or need no preparation.
    """
    layouts = sorted({category.layout for category in categories})
    if read_prepared(source) is not None or any(category.prepared for category in categories):
        raise RunError(
            source,
            found="a data set that is prepared already",
            expected="a raw one",
            action="Train on this data set with --no-foreground",
        )
    if layouts not in (["mvtec3d"], ["eyecandies"]):
        raise RunError(
            source,
            found=f"a data set in {' and '.join(layouts)} layout",
            expected="raw MVTec 3D-AD or Eyecandies",
            action="Train on the data set as it is: no preparation is needed",
        )
    for category in categories:
        if layouts == ["mvtec3d"] and "xyz" not in category.modalities:
            raise RunError(
                category.folder,
                found="no clouds",
                expected="train/good/xyz, because the background is found in the clouds",
                action="Train on the images as they are",
            )
    return layouts[0]


def _tasks(category: Category, folder: Path, failed: list[CmdiadError]) -> list[Task]:
    """Return one task for each complete sample of a category; add the problems of the others to `failed`."""
    if category.layout == "eyecandies":
        splits = [eyecandies.raw_samples(category.folder, split) for split in eyecandies.SPLITS]
        return [Task(raw, folder) for samples in splits for raw in samples]
    listings = [category.listing(split, category.modalities) for split in _MVTEC_SPLITS]
    failed += [error for listing in listings for error in listing.errors]
    return [
        Task(files, folder)
        for listing in listings
        for files in listing.samples
        if files.name not in listing.mask_problems
    ]


def _copy_licence(category: Category, folder: Path) -> None:
    """Create the folder of a prepared category, with licence and description of the data."""
    folder.mkdir(exist_ok=True)
    for name in _LICENCE_FILES:
        source = category.folder / name
        if not source.is_file():
            source = category.folder.parent / name
        if source.is_file():
            with atomic_write(folder / name) as temporary:
                temporary.write_bytes(source.read_bytes())


def _count(task_result: TaskResult, result: PreparationResult) -> None:
    """Add the result of one task to the result of the preparation.

    Raises:
        OutputError: The sample could not be written, so the others cannot either.
    """
    if task_result.error is None:
        result.written += task_result.written
        result.kept += not task_result.written
        return
    subject, problem, expected, action = task_result.error
    if task_result.fatal:
        raise OutputError(subject, found=problem, expected=expected, action=action)
    result.failed.append(InputError(subject, found=problem, expected=expected, action=action))
