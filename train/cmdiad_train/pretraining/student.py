"""Distillation of extractors: a small student learns the patch features of a large teacher and replaces it.

The teacher's patch features of every image, and of augmented copies of it, are computed once. The student learns to
predict them through one linear layer, which is dropped afterwards: a memory bank stores the student's own features. A
bank uses only distances between features, so the student also learns the distances between the teacher's patches
(Park et al. 2019).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.extractors.weights_file import image_metadata, weights_digest
from cmdiad_train.pretraining.batch_norm import settle_statistics
from cmdiad_train.pretraining.feature_cache import FeatureCache
from cmdiad_train.pretraining.job import ExtractorTask, Job
from cmdiad_train.pretraining.samples import ImageKind, Inputs, InputShape
from cmdiad_train.pretraining.student_network import COMPARED_PATCHES, Student, evenly_spaced_rows
from cmdiad_train.pretraining.student_report import StudentReport, agreement, describe, processor, stored_report
from cmdiad_train.pretraining.teacher_features import TeacherFeatures
from cmdiad_train.recipe import RgbExtractor

HELD_OUT_SHARE = 5
"""Every fifth image is held out from training; the agreement is measured on these."""


@dataclass(frozen=True)
class Lesson:
    """Teacher, student and images of one distillation.

    Attributes:
        teacher: Large extractor.
        student: Small extractor; a CNN without a grid takes the teacher's.
        kind: Kind of the images.
        size: Side of the images in pixels.
        copies: Augmented copies of each image that are trained on in addition to the image itself.
    """

    teacher: RgbExtractor
    student: RgbExtractor
    kind: ImageKind = "rgb"
    size: int = 224
    copies: int = 7


def distil_student(job: Job, lesson: Lesson, reporter: Reporter) -> dict[str, Any]:
    """Train a student, write its weights, and next to them a JSON report of cost and agreement.

    Args:
        job: Samples, output and schedule.
        lesson: Teacher, student and images.
        reporter: Receiver of the progress.

    Returns:
        The content of the report.

    Raises:
        RunError: Data, teacher or student cannot be used.
        OutputError: `job.out` is another file.
    """
    seed, device = job.schedule.seed, job.machine.torch_device()
    teacher = TimmBackbone(lesson.teacher, size=lesson.size, seed=seed)
    if lesson.student.stages and not lesson.student.grid:
        lesson = replace(lesson, student=replace(lesson.student, grid=teacher.grid))
    inputs = job.inputs(InputShape(lesson.kind, lesson.size))
    identity = _identity(job, inputs, lesson)
    if job.is_done(identity):
        return stored_report(job.out.with_suffix(".json"))
    inputs.prepare_all(reporter)
    training, held_out = _split(len(inputs))
    cache = FeatureCache(job.work / f"teacher-{identity[:16]}", budget=job.machine.cache_bytes)
    teacher.to(device)
    features = TeacherFeatures(inputs, teacher, kind=lesson.kind, copies=lesson.copies, cache=cache, seed=seed)
    features.compute_all(training, held_out, reporter)
    extractor = TimmBackbone(lesson.student, size=lesson.size, seed=seed).requires_grad_(True)
    student = Student(extractor, teacher.grid, *features.statistics(training), seed=seed)
    job.train(_task(job, student, features, held_out), training, "distil", identity, reporter)
    settle_statistics(extractor, inputs, training)
    student.eval().requires_grad_(False)
    report = _report(job, lesson, teacher.cpu(), student, features, held_out)
    write_json(job.out.with_suffix(".json"), report)
    use = image_metadata(lesson.student, lesson.size, *extractor.channel_statistics)
    job.save(
        extractor.model.state_dict(), use, f"distilled from {teacher.provenance} on {job.source.description}", identity
    )
    return report


def _report(
    job: Job, lesson: Lesson, teacher: TimmBackbone, student: Student, features: TeacherFeatures, held_out: list[int]
) -> dict[str, Any]:
    training = len(features.inputs) - len(held_out)
    report = StudentReport(
        teacher=describe(teacher, lesson.teacher, lesson.size),
        student=describe(student.extractor, lesson.student, lesson.size),
        agreement=agreement(student, features, held_out),
        samples={"source": job.source.description, "training": training, "held_out": len(held_out)},
        machine={"processor": processor(), "threads": torch.get_num_threads()},
    )
    return asdict(report)


def _identity(job: Job, inputs: Inputs, lesson: Lesson) -> str:
    content = {
        "teacher": asdict(replace(lesson.teacher, weights=weights_digest(lesson.teacher.weights))),
        "student": asdict(replace(lesson.student, weights=weights_digest(lesson.student.weights))),
        "view": lesson.kind,
        "size": lesson.size,
        "copies": lesson.copies,
    }
    return job.identity(inputs, {"lesson": content})


def _task(job: Job, student: Student, features: TeacherFeatures, held_out: list[int]) -> ExtractorTask:
    """Return the training task: copies of images drawn at random, and the held-out images for validation."""
    device = job.machine.torch_device()

    def mean_loss(chosen: list[int], generator: torch.Generator) -> Tensor:
        copies = torch.randint(features.copies + 1, (len(chosen),), generator=generator).tolist()
        images, teacher = features.batch(list(zip(chosen, copies, strict=True)))
        rows = torch.randperm(teacher.shape[0] * teacher.shape[1], generator=generator)[:COMPARED_PATCHES]
        return student.loss(images.to(device), teacher.to(device), rows.to(device))

    @torch.no_grad()
    def validation() -> float:
        student.eval()
        rows = evenly_spaced_rows(student.grid**2).to(device)
        batches = [features.batch([(i, 0)]) for i in held_out]
        losses = [student.loss(images.to(device), teacher.to(device), rows) for images, teacher in batches]
        return sum(map(float, losses)) / len(losses)

    return ExtractorTask(student, mean_loss, job, validation)


def _split(count: int) -> tuple[list[int], list[int]]:
    """Return the indices of training and of held-out samples, spread evenly over all kinds of samples."""
    if count < HELD_OUT_SHARE:
        raise RunError(
            "samples",
            found=str(count),
            expected=f"at least {HELD_OUT_SHARE}, since every fifth is held out",
            action="add samples, or pass --generate 64",
        )
    held_out = list(range(HELD_OUT_SHARE - 1, count, HELD_OUT_SHARE))
    return [i for i in range(count) if i % HELD_OUT_SHARE != HELD_OUT_SHARE - 1], held_out
